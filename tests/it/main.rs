//! The integration tests: one binary, a module for each promise. `support` has what they stand on.

mod connecting;
mod support;
mod support_selftest;
