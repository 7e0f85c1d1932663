//! Backups combined: a full backup and the incremental ones built upon it become one full backup.
//!
//! ```text
//! Chain: do they belong together? ─▶ tablespaces ─▶ directories ─▶ Walk ─▶ jobs ─▶ workers ─┬▶ files ─▶ Syncer
//!                                                                                           └▶ manifest, in order
//! ```
//!
//! Answers to PostgreSQL's `pg_combinebackup`, with the same result, file for file. What decides (headers of incremental
//! files, the plan of a file, labels) touches no file. Departures, each for something that it gets wrong or leaves out:
//! * Nothing outside of the backups is read through a symbolic link, but for tablespaces.
//! * An incremental file whose header makes no sense, or that is not as long as its header says, is an error.
//! * An output directory within an input is an error, not a recursion without end.
//! * Whatever ends a run takes its directories away; after kill -9 neither `pg_control` nor a manifest is there.
//!
//! Not a departure: directories above an output that were made for it stay, for others may have found them by then. The
//! output and the tablespaces are opened once; what is written and taken away is reached from there, whatever their names
//! lead to. The way to them, before that, is the caller's.

mod chain;
mod crew;
mod error;
pub mod incremental_file;
mod input;
pub(super) mod label;
mod listing;
mod manifest_index;
mod outputs;
pub mod plan;
mod reconstruct;
mod report;
mod request;
mod run;
mod tablespaces;
mod target;
mod tree_copy;
mod unit;
mod walk;
mod worker;

pub use error::{CombineError, LabelProblem};
pub use incremental_file::IncrementalHeaderError;
pub use outputs::{OutputDirectories, Removal};
pub use report::{CombineObserver, CombineWarning, Step, StepKind};
pub use request::{CombineRequest, CopyMethod, ManifestRequest, RunMode, TablespaceMapping};
pub use run::combine;
