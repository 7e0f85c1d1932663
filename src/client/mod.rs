//! One connection: how it is opened, and the commands that it takes.

mod base_backup;
pub mod connect;
mod connection;
pub mod conninfo;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod identify_system;
mod open;
mod query;
mod slots;
pub mod sql;
mod timeline_history;
pub mod tls;
mod upload_manifest;
mod wal_stream;

pub use base_backup::{
    BackupEnd, BackupOpening, BackupStage, BackupStart, BackupStep, BaseBackupStream, Tablespace,
};
pub use connect::{Backend, Carrier, ConnectError, Connected, Protection, Purpose, Stream, connect};
pub use connection::{Connection, NoticeHandler, Transport};
pub use conninfo::{ConnInfo, Settings, SystemEnvironment};
pub use error::ClientError;
pub use identify_system::SystemIdentity;
pub use open::{OpenError, open, open_sql};
pub use query::ResultSet;
pub use slots::SlotState;
pub use sql::{Row, Sql};
pub use timeline_history::TimelineHistoryFile;
pub use upload_manifest::UploadManifestError;
pub use wal_stream::{NextTimeline, ReplicationStart, StreamEnd, WalStream};
