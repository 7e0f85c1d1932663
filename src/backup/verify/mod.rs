//! Whether a backup is what its manifest says: plain or tar, with the WAL that it needs.
//!
//! Answers to PostgreSQL's `pg_verifybackup.c`, whose order this keeps: the manifest; every file's presence and size;
//! what is missing; checksums; WAL. Departures:
//! * Checksums and WAL are read on several threads, large files in pieces.
//! * WAL is read by [`WalChecker`](crate::pg::WalChecker), not by another program of the right version, and belongs to
//!   the cluster of the manifest or the control file.
//! * No symbolic link is followed but those of tablespaces (see [`tree`]).
//! * Control files of every supported version are read.
//!
//! Nothing is written, and what a file says bounds no memory but that of the [`listing`].

mod archives;
mod checksums;
mod compressed;
mod control;
mod error;
mod findings;
mod ignored;
mod listing;
mod manifest;
mod plain;
mod problem;
mod tar_index;
mod tree;
mod verifier;
mod wal;
mod wal_place;
mod wal_stream;

pub use error::VerifyError;
pub use findings::{Progress, Stage, VerifyObserver};
pub use listing::MAX_LISTED_LEN;
pub(crate) use problem::Shown;
pub use problem::{ArchiveFault, ControlFileFault, Place, Problem, WalFault};
pub use tar_index::MAX_ARCHIVED_SEGMENTS;
pub(super) use tar_index::index_with as index_archive_with;
pub use verifier::{
    AfterProblem, BackupFormat, ChecksumCheck, VerifyReport, VerifyRequest, WalCheck, verify,
};
