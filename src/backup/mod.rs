//! Base backups: what BASE_BACKUP sends becomes a directory, checked against its manifest as it arrives.
//!
//! ```text
//! CopyData ─▶ ArchiveStream ─▶ BackupWriter ─┬─▶ TarStream ─▶ ConfinedDirectory ─▶ files ─▶ Syncer
//!             archives, data                 └─▶ ManifestParser ─▶ Ledger: received = listed?
//! ```
//!
//! What decides (the archive stream, tar, names, the manifest, `backup_label`) touches no file and no clock.

mod archive_output;
pub mod archive_stream;
pub mod backup_label;
mod bulk;
pub mod checksum;
pub mod combine;
pub mod confined;
mod error;
mod extraction;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod included_wal;
mod inspector;
mod kept_members;
pub mod manifest;
mod open_file;
pub mod path;
pub mod standby_files;
pub mod syncer;
pub mod tablespace_map;
mod tar_backup;
pub mod tar_header;
pub mod tar_rewriter;
pub mod tar_stream;
mod target;
#[cfg(test)]
mod testing;
mod tree;
pub mod verify;
mod wal_archive;
mod writer;

pub use archive_stream::{
    ArchiveContent, ArchiveEvent, ArchiveName, ArchiveStream, ArchiveStreamError, ManifestRequest,
};
pub use backup_label::{BackupLabel, BackupSource};
pub use checksum::ChecksumAlgorithm;
pub use error::{BackupError, MemberRule};
pub use extraction::Extraction;
pub use included_wal::{IncludedWal, IncludedWalError};
pub use inspector::{BackupInspector, InspectedBackup};
pub use kept_members::{Announced, AnnouncedTablespace};
pub use manifest::{FileProblem, ManifestMismatch, ManifestSummary, WalRange};
pub use tar_backup::{MAX_INJECTED_MANIFEST_LEN, TarBackupWriter, TarPlace, TarTarget, WholeTarBackup};
pub use tar_stream::ArchiveEnd;
pub use target::{
    BackupTarget, DirectoryModes, FileOwner, HeldPlaces, ManifestPolicy, MemberModes, StandbyFiles,
    SyncMethod, TablespacePlace, TablespaceTarget, WalMembers,
};
use tree::OTHER_TEMPORARY_NAME;
pub use tree::{MANIFEST_NAME, MANIFEST_TEMPORARY_NAME, MAX_UNANNOUNCED_LINKS, UnannouncedTablespace};
pub use wal_archive::{WAL_ARCHIVE_NAME, WAL_ARRIVAL_NAME, WalArchive, WalArchiveOptions};
pub use writer::{BackupWriter, FinishedBackup, WholeBackup};
