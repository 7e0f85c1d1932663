//! Why nothing was restored.

use std::path::PathBuf;

use super::super::error::RepositoryError;
use super::super::name::BackupName;
use crate::ErrorClass;
use crate::archive::ArchiveError;
use crate::backup::combine::CombineError;
use crate::backup::standby_files::SettingError;
use crate::backup::{BackupError, confined::FileError};
use crate::client::conninfo::PrimaryConninfoError;
use crate::pg::{Lsn, TimelineId, Timestamp};
use crate::standby::configuration::ConfigurationError;
use crate::standby::error::CreateError;
use crate::standby::programs::ProgramsError;
use crate::standby::start::StartError;
use crate::standby::workspace::WorkspaceError;

/// What is wanted cannot be had from this archive.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No backup at all.
    #[error("there is no backup in the archive")]
    NoBackups,
    /// Not this one.
    #[error("there is no backup {0} in the archive")]
    NoBackup(BackupName),
    /// No such timeline.
    #[error("the archive has no history of timeline {0}")]
    UnknownTimeline(TimelineId),
    /// The backup that was named is on another branch.
    #[error("backup {name} ends on timeline {timeline}, from where nothing leads to timeline {wanted}")]
    NotOnTimeline {
        /// The backup.
        name: BackupName,
        /// Its timeline.
        timeline: TimelineId,
        /// What is wanted.
        wanted: TimelineId,
    },
    /// All backups are on other branches.
    #[error("no backup in the archive leads to timeline {0}")]
    NoneOnTimeline(TimelineId),
    /// The WAL that makes a backup consistent is not there.
    #[error("backup {name} cannot be restored: the archive lacks its WAL from {from_lsn} to {to_lsn}")]
    WalMissing {
        /// The backup.
        name: BackupName,
        /// What is missing first.
        from_lsn: Lsn,
        /// Where it would be consistent.
        to_lsn: Lsn,
    },
    /// Too early.
    #[error(
        "position {target} is before {first_lsn}, where backup {name} is consistent, the first that could serve"
    )]
    LsnBeforeBackups {
        /// What is wanted.
        target: Lsn,
        /// The backup.
        name: BackupName,
        /// Where it is consistent.
        first_lsn: Lsn,
    },
    /// Too late.
    #[error(
        "position {target} is not in the archive, whose WAL for this backup and timeline ends at {reached_lsn}"
    )]
    LsnAfterEnd {
        /// What is wanted.
        target: Lsn,
        /// The first byte that is missing.
        reached_lsn: Lsn,
    },
    /// Too early.
    #[error("{target} is before {first_time}, when backup {name} is consistent, the first that could serve")]
    TimeBeforeBackups {
        /// What is wanted.
        target: Timestamp,
        /// The backup.
        name: BackupName,
        /// When it is consistent.
        first_time: Timestamp,
    },
    /// Too late: recovery would not end there, but fail.
    #[error(
        "nothing was committed after {target}: the archive's WAL for this backup and timeline ends at {reached_lsn}{}",
        .last_commit.map_or_else(String::new, |at| format!(", with the last commit at {at}"))
    )]
    TimeAfterEnd {
        /// What is wanted.
        target: Timestamp,
        /// The first byte that is missing.
        reached_lsn: Lsn,
        /// The last commit that there is behind the backup.
        last_commit: Option<Timestamp>,
    },
    /// No such restore point.
    #[error("there is no restore point \"{}\" in the archive behind a backup", .0.escape_debug())]
    NoRestorePoint(String),
    /// There is more behind what is missing.
    #[error("recovery would end in a gap")]
    Gap(#[source] ArchiveError),
    /// The archive could not be read.
    #[error("could not read the archive")]
    Repository(#[from] RepositoryError),
}

impl TargetError {
    pub(super) fn of_gap(error: ArchiveError) -> Self {
        match error {
            ArchiveError::EndsInGap { .. } | ArchiveError::EndsEarly { .. } => TargetError::Gap(error),
            error => error.into(),
        }
    }
}

impl From<ArchiveError> for TargetError {
    fn from(error: ArchiveError) -> Self {
        TargetError::Repository(error.into())
    }
}

/// What a run of `restore` failed at.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What is wanted cannot be had.
    #[error("cannot restore that")]
    Target(#[from] TargetError),
    /// An object could not be read, or is damaged.
    #[error("could not get the backup out of the archive")]
    Repository(#[from] RepositoryError),
    /// A directory, a tablespace or the space for them is not fit.
    #[error("could not use the places for it")]
    Place(#[source] Box<CreateError>),
    /// The place is not fit.
    #[error("could not use the data directory")]
    Workspace(#[from] WorkspaceError),
    /// An interrupted `standby create` has left a slot on its primary.
    #[error("an interrupted run of \"standby create\" on \"{}\" has left replication slot \"{slot}\" on its primary", .directory.display())]
    LeftoverSlot {
        /// Where.
        directory: PathBuf,
        /// The slot.
        slot: String,
    },
    /// Recovery would remove a tablespace that is there.
    #[error(
        "tablespace {oid} was created while the backup was taken, and recovery would replace what is in \"{}\"",
        .location.display()
    )]
    TablespaceInUse {
        /// Its OID.
        oid: u32,
        /// Where it was on the server, and is here.
        location: PathBuf,
    },
    /// Files could not be written, or are not what the manifest says.
    #[error("could not write backup {name}")]
    Backup {
        /// The backup.
        name: BackupName,
        /// What failed.
        source: Box<BackupError>,
    },
    /// The chain could not be combined.
    #[error("could not combine the chain of backups")]
    Combine(#[from] Box<CombineError>),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration could not be written.
    #[error("could not write the configuration")]
    Configuration(#[from] ConfigurationError),
    /// There are no programs to start the server with.
    #[error("could not start the server later on, so nothing was restored")]
    Programs(#[from] ProgramsError),
    /// The path of this program or of the data directory cannot stand in a configuration file.
    #[error("\"{}\" cannot stand in a configuration file", .0.display())]
    UnprintablePath(PathBuf),
    /// This program does not know where it is.
    #[error("could not find out where this program is, for restore_command")]
    Program(#[source] std::io::Error),
    /// The server did not start.
    #[error("the data directory is restored, but its server could not be started")]
    Start(#[from] StartError),
    /// It started, and gave up on the way.
    #[error("the server on \"{}\" ended before its recovery did", .directory.display())]
    Ended {
        /// Its data directory.
        directory: PathBuf,
    },
    /// It did not get there in time.
    #[error("the server on \"{}\" was started, and is still in recovery after {seconds} s", .directory.display())]
    StillInRecovery {
        /// Its data directory.
        directory: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The data directory is in its place, but what comes after failed.
    #[error("the data directory \"{}\" is complete, but may not survive a power failure yet", .directory.display())]
    Committed {
        /// The data directory.
        directory: PathBuf,
        /// What failed.
        #[source]
        source: WorkspaceError,
    },
    /// The run failed, and some of its files are still there.
    #[error("the run failed, and some of its files are left ({cause})")]
    FilesLeft {
        /// Why they could not be removed.
        cause: WorkspaceError,
        /// Why the run failed.
        source: Box<RestoreError>,
    },
    /// A signal came.
    #[error("interrupted by {0}; everything that this run made has been removed")]
    Interrupted(&'static str),
    /// A signal came after the data directory was whole.
    #[error("interrupted by {signal}; the data directory \"{}\" is complete, and its server may be running", .directory.display())]
    InterruptedAtStart {
        /// The signal.
        signal: &'static str,
        /// The data directory.
        directory: PathBuf,
    },
    /// A thread of this program died.
    #[error("a part of this program failed unexpectedly")]
    Panicked(#[source] tokio::task::JoinError),
}

impl From<CreateError> for RestoreError {
    fn from(error: CreateError) -> Self {
        RestoreError::Place(Box::new(error))
    }
}

impl From<ArchiveError> for RestoreError {
    fn from(error: ArchiveError) -> Self {
        RestoreError::Repository(error.into())
    }
}

impl From<SettingError> for RestoreError {
    fn from(error: SettingError) -> Self {
        RestoreError::Configuration(error.into())
    }
}

impl From<PrimaryConninfoError> for RestoreError {
    fn from(error: PrimaryConninfoError) -> Self {
        RestoreError::Configuration(error.into())
    }
}

impl RestoreError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            RestoreError::Target(TargetError::Repository(error)) | RestoreError::Repository(error) => {
                error.class()
            }
            RestoreError::Target(TargetError::Gap(error)) => error.class(),
            RestoreError::Place(error) => error.class(),
            RestoreError::Backup { source, .. } if source.is_integrity() => ErrorClass::Integrity,
            RestoreError::Combine(_) => ErrorClass::Integrity,
            RestoreError::FilesLeft { source, .. } => source.class(),
            RestoreError::Panicked(_) => ErrorClass::Bug,
            _ => ErrorClass::Operator,
        }
    }
}
