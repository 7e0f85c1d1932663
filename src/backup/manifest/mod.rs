//! The backup manifest: read as it arrives, compared with what was received, written, never held as a whole.
//!
//! The manifest comes last, after all files, so what was received is remembered in a [`Ledger`] until then. The
//! server lists files in the order in which it sent them, so the comparison is a merge of two sequences: the ledger
//! may lie on disk, and memory is bounded by what disagrees, not by the size of the cluster.

mod field;
pub mod json;
mod ledger;
mod parser;
mod self_checksum;
mod writer;

pub use ledger::{
    Comparison, FileProblem, Ledger, LedgerError, MAX_PENDING, MAX_REPORTED_PROBLEMS, MEMORY_LEN,
    ManifestMismatch,
};
pub use parser::{
    MAX_MANIFEST_PATH_LEN, MAX_WAL_RANGES, ManifestError, ManifestFile, ManifestParser, ManifestSummary,
    WalRange,
};
pub use self_checksum::{SelfChecksum, SelfChecksumError};
pub use writer::{LsnStyle, ManifestEntry, ManifestWriter};
