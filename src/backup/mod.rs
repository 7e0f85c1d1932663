//! Base backups: what BASE_BACKUP sends becomes a directory, checked against its manifest as it arrives.
//!
//! ```text
//! CopyData ─▶ ArchiveStream ─▶ BackupWriter ─┬─▶ TarStream ─▶ ConfinedDirectory ─▶ files ─▶ Syncer
//!             archives, data                 └─▶ ManifestParser ─▶ Ledger: received = listed?
//! ```
//!
//! What decides (the archive stream, tar, names, the manifest, `backup_label`) touches no file and no clock.

pub mod archive_stream;
pub mod backup_label;
pub mod checksum;
pub mod confined;
pub mod manifest;
pub mod path;
pub mod syncer;
pub mod tar_header;
pub mod tar_stream;
