//! A directory of received WAL as a whole: what is in it, and whether a server could recover from it.
//!
//! [`verify`] reads every file once, and changes none. What it finds wrong is a [`Problem`] each, in the order of
//! timelines and positions; only what the operating system refuses is an error.

mod check;
mod file;
mod problem;
mod timelines;
mod verify;

pub use file::{ArchivedFile, OpenFileError};
pub use problem::{Problem, ProblemKind};
pub use verify::{TimelineReport, VerifyError, VerifyReport, WalRange, verify};
