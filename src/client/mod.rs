//! One connection: how it is opened, and the commands that it takes.

mod base_backup;
mod connection;
mod error;
mod identify_system;
mod query;
mod slots;
mod timeline_history;
mod upload_manifest;
mod wal_stream;

pub use base_backup::{BackupEnd, BackupStart, BackupStep, BaseBackupStream, Tablespace};
pub use connection::{Connection, NoticeHandler, Transport};
pub use error::ClientError;
pub use identify_system::SystemIdentity;
pub use query::ResultSet;
pub use slots::SlotState;
pub use timeline_history::TimelineHistoryFile;
pub use upload_manifest::UploadManifestError;
pub use wal_stream::{NextTimeline, ReplicationStart, StreamEnd, WalStream};
