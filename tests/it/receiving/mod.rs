//! `pgwake receive` on real servers: what it promises, what it refuses, what it survives.

mod archiving;
mod bytes;
mod crashing;
mod enduring;
mod failing_over;
mod harness;
mod refusing;
mod resuming;
mod service;
mod slots;
mod suffering;
mod timelines;
mod trusting;
mod witnessing;
