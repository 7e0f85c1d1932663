//! Why no standby was made.

use std::path::PathBuf;

use super::configuration::ConfigurationError;
use super::preflight::PreflightError;
use super::programs::ProgramsError;
use super::space::SpaceError;
use super::start::StartError;
use super::workspace::WorkspaceError;
use crate::ErrorClass;
use crate::backup::{ArchiveStreamError, BackupError};
use crate::client::{ClientError, OpenError};
use crate::pg::control_file::ControlFileError;
use crate::pg::{SlotName, SystemIdentifier};
use crate::stream::ReceiveError;

/// What a run of `standby create` failed at.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A connection could not be made.
    #[error("could not connect to the server")]
    Connect(#[from] OpenError),
    /// The server is not fit.
    #[error("this server cannot be copied into a standby now")]
    Preflight(#[from] PreflightError),
    /// The place is not fit.
    #[error("could not use the data directory")]
    Workspace(#[from] WorkspaceError),
    /// There are no programs to start the standby with.
    #[error("could not start the standby later on, so it was not made")]
    Programs(#[from] ProgramsError),
    /// A tablespace has no place here.
    #[error("could not use a directory for tablespace \"{location}\"")]
    Tablespace {
        /// Where it is on the primary.
        location: String,
        /// Why its place here is not fit.
        #[source]
        source: WorkspaceError,
    },
    /// A tablespace's directory on the primary cannot be a directory here.
    #[error("tablespace \"{location}\" needs a directory of its own here")]
    TablespacePlace {
        /// Where it is on the primary.
        location: String,
    },
    /// A location that no PostgreSQL server would have.
    #[error("the server announces a tablespace in \"{0}\", which is not a plain path")]
    TablespaceLocation(String),
    /// Two directories of the copy lie in one another.
    #[error("directory \"{}\" is within another one of this standby's, or around it", .0.display())]
    Overlap(PathBuf),
    /// The WAL directory is not fit.
    #[error("could not use the WAL directory")]
    WalDirectory(#[source] WorkspaceError),
    /// The passfile's path cannot stand in a connection string.
    #[error("the path of the data directory is not valid UTF-8, and the standby needs a password file in it")]
    UnprintablePath,
    /// The data directory is in its place, but what comes after failed.
    #[error("the standby in \"{}\" is complete, but may not survive a power failure yet", .directory.display())]
    Committed {
        /// Its data directory.
        directory: PathBuf,
        /// What failed.
        #[source]
        source: WorkspaceError,
    },
    /// A mapping for a tablespace that is not there.
    #[error("there is no tablespace in \"{}\" on the server", .0.display())]
    UnusedMapping(PathBuf),
    /// There is no room.
    #[error("the copy would not fit")]
    Space(#[from] SpaceError),
    /// The slot was not made.
    #[error("could not create replication slot \"{slot}\"")]
    CreateSlot {
        /// Its name.
        slot: SlotName,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// The slot is there already.
    #[error("replication slot \"{0}\" already exists on the server")]
    SlotExists(SlotName),
    /// The server did not say who it is.
    #[error("could not identify the server")]
    Identify {
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// The backup did not begin.
    #[error("could not begin a base backup")]
    BeginBackup(#[source] ClientError),
    /// The backup broke off.
    #[error("could not receive the base backup")]
    ReceiveBackup(#[source] ClientError),
    /// The stream of archives makes no sense.
    #[error("could not read the base backup")]
    Archive(#[from] ArchiveStreamError),
    /// The backup was not written, or is not what the manifest says.
    #[error("could not write the base backup")]
    Backup(#[from] BackupError),
    /// The WAL stream failed.
    #[error("could not receive the WAL of the base backup")]
    Wal(#[from] ReceiveError),
    /// The control file cannot be read back.
    #[error("could not read \"{}\"", .path.display())]
    ReadControlFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The control file makes no sense.
    #[error("the copy's control file is damaged")]
    ControlFile(#[from] ControlFileError),
    /// Manifest, control file or WAL are another cluster's.
    #[error("{what} is of system {found}, but the server is system {expected}")]
    OtherSystem {
        /// What contradicts.
        what: &'static str,
        /// What it says.
        found: SystemIdentifier,
        /// What the server said.
        expected: SystemIdentifier,
    },
    /// The manifest tells of other WAL than the server.
    #[error("the backup manifest does not cover the WAL from {start_lsn} to {end_lsn}")]
    ManifestRange {
        /// The backup's start.
        start_lsn: crate::pg::Lsn,
        /// The backup's end.
        end_lsn: crate::pg::Lsn,
    },
    /// The standby's configuration was not written.
    #[error("could not write the standby's configuration")]
    Configuration(#[from] ConfigurationError),
    /// The server did not start.
    #[error("the standby was made, but could not be started")]
    Start(#[from] StartError),
    /// Nobody could be asked whether it streams.
    #[error("the standby was made and started, but the primary could not be asked whether it streams")]
    AskWhetherStreaming(#[source] ClientError),
    /// The primary does not see it.
    #[error("the standby in \"{}\" was started, but the primary did not show it streaming within {seconds} s", .directory.display())]
    NotStreaming {
        /// Its data directory.
        directory: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A signal came.
    #[error("interrupted by {0}; everything that this run made has been removed")]
    Interrupted(&'static str),
    /// A signal came after the standby was whole.
    #[error("interrupted by {signal}; the standby in \"{}\" is complete, and may be running", .directory.display())]
    InterruptedAtStart {
        /// The signal.
        signal: &'static str,
        /// Its data directory.
        directory: PathBuf,
    },
    /// A slot was not dropped.
    #[error("could not drop replication slot \"{slot}\"")]
    DropSlot {
        /// Its name.
        slot: SlotName,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// A slot was not dropped in time.
    #[error("could not drop replication slot \"{slot}\" in time")]
    DropSlotTimeout {
        /// Its name.
        slot: SlotName,
    },
    /// The run failed, and its slot is still there.
    #[error("the run failed, and replication slot \"{slot}\" is still on the server ({cause})")]
    SlotLeft {
        /// Its name.
        slot: SlotName,
        /// The target of the run.
        directory: PathBuf,
        /// Why it could not be dropped.
        cause: Box<CreateError>,
        /// Why the run failed.
        source: Box<CreateError>,
    },
    /// The run failed, and some of its files are still there.
    #[error("the run failed, and some of its files are left ({cause})")]
    FilesLeft {
        /// The target of the run.
        directory: PathBuf,
        /// Why they could not be removed.
        cause: WorkspaceError,
        /// Why the run failed.
        source: Box<CreateError>,
    },
    /// A thread of this program died.
    #[error("a part of this program failed unexpectedly")]
    Panicked(#[source] tokio::task::JoinError),
}

impl CreateError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Preflight(PreflightError::Query { source, .. })
            | Self::CreateSlot { source, .. }
            | Self::Identify { source }
            | Self::BeginBackup(source)
            | Self::ReceiveBackup(source)
            | Self::DropSlot { source, .. }
            | Self::AskWhetherStreaming(source) => source.class(),
            Self::Archive(_)
            | Self::TablespaceLocation(_)
            | Self::ControlFile(_)
            | Self::OtherSystem { .. }
            | Self::ManifestRange { .. } => ErrorClass::Integrity,
            Self::Backup(source) if source.is_integrity() => ErrorClass::Integrity,
            Self::Wal(source) => source.class(),
            Self::SlotLeft { source, .. } | Self::FilesLeft { source, .. } => source.class(),
            Self::Panicked(_) => ErrorClass::Bug,
            _ => ErrorClass::Operator,
        }
    }
}
