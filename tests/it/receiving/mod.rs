//! `pgwake receive` on real servers: what it promises, what it refuses, what it survives.

mod archive_options;
mod archiving;
mod budget;
mod bytes;
mod crashing;
mod drill;
mod enduring;
mod failing_over;
mod harness;
mod holes;
mod refusing;
mod resuming;
mod service;
mod slots;
mod store_faults;
mod stores;
mod suffering;
mod timelines;
mod trusting;
mod witnessing;
