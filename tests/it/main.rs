//! The integration tests: one binary, a module for each promise. `support` has what they stand on.

mod cloning;
mod connecting;
mod pg_receivewal;
mod refusals;
mod support;
mod support_selftest;
mod whole_or_nothing;
