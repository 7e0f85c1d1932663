//! Standbys: made from a running primary, and started.
//!
//! [`create`] puts the verbs of the other modules in order; [`workspace`] sees to it that nothing half-made ever passes
//! for a data directory, and that nothing is left behind.

mod account;
mod alter_system;
pub mod configuration;
pub(crate) mod copy;
pub mod create;
mod directories;
pub mod error;
pub mod follow;
pub mod follow_error;
pub mod fork;
pub mod journal;
mod needed_wal;
pub mod outlook;
pub(crate) mod places;
pub mod postmaster;
pub mod preflight;
pub mod programs;
pub mod promote;
mod slot;
pub mod space;
pub mod start;
pub mod state;
pub mod streaming;
pub mod upstream;
pub mod wait;
pub mod wal_end;
pub mod workspace;
