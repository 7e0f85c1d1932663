//! Base backups in an archive: taken straight into it, listed, restored, verified, pruned.
//!
//! ```text
//! BASE_BACKUP ─▶ BackupInspector ─▶ PieceWriter ─▶ objects of at most 16 MiB of tar, compressed
//!                  as its manifest has it?            │
//!                                    SHA256SUMS ◀─────┴──▶ <name>.json, the last object: now it is a backup
//! ```
//!
//! A backup is as many objects as it needs ([`keys`]), each created once; its [`BackupRecord`] is created when everything
//! else is there, so that what was broken off is never listed. `docs/archive-format.md` is the format's documentation.

mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod keys;
mod listing;
mod name;
mod piece_reader;
mod piece_writer;
pub mod prune;
mod reach;
mod record;
pub mod restore;
mod retention;
mod start;
mod sums;
mod take;
pub mod verify;
mod wal_presence;

pub use error::RepositoryError;
pub use listing::{BackupListing, UnfinishedBackup};
pub use name::{BackupName, ParseBackupNameError};
pub use prune::PruneError;
pub use reach::{RecoveryWindow, WalMap, windows};
pub use record::{BackupPoint, BackupRecord, StreamContent, StreamRecord, WalPlace};
pub use restore::{RestoreError, TargetError};
pub use take::{BackupKind, TakeError, TakeRequest, Taken, WalChoice, take};
