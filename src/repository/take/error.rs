//! Why no backup was taken.

use std::time::Duration;

use super::super::error::RepositoryError;
use super::super::name::BackupName;
use crate::ErrorClass;
use crate::archive::ArchiveError;
use crate::backup::{ArchiveStreamError, BackupError};
use crate::client::{ClientError, UploadManifestError};
use crate::pg::{Lsn, ServerVersion, SystemIdentifier, TimelineId};

/// What a run of `backup` failed at. What it put up is listed nowhere, and removed by `prune`.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Older than anything that is supported.
    #[error("server version {0} is older than PostgreSQL 13, the oldest that can be backed up")]
    TooOld(ServerVersion),
    /// A question was not answered.
    #[error("could not ask the server for {what}")]
    Query {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// The archive could not be used, or something not put there.
    #[error("could not put the backup into the archive")]
    Repository(#[from] RepositoryError),
    /// There is no incremental backup in this version.
    #[error("server version {0} has no incremental backups: they came with PostgreSQL 17")]
    NoIncremental(ServerVersion),
    /// The server does not remember what changed.
    #[error("the server keeps no WAL summaries, and an incremental backup needs them")]
    NoSummaries,
    /// Nothing to be incremental to.
    #[error("there is no backup in the archive for an incremental one to build upon")]
    NothingToBuildUpon,
    /// The server did not take the manifest of the backup before.
    #[error("could not hand the manifest of backup {parent} to the server")]
    UploadManifest {
        /// The backup before.
        parent: BackupName,
        /// Why not.
        #[source]
        source: UploadManifestError,
    },
    /// The backup did not begin.
    #[error("could not begin a base backup")]
    Begin(#[source] ClientError),
    /// The backup broke off.
    #[error("could not receive the base backup")]
    Receive(#[source] ClientError),
    /// The stream of archives makes no sense.
    #[error("could not read the base backup")]
    Stream(#[from] ArchiveStreamError),
    /// What came is not what the manifest says.
    #[error("what came is no base backup as it must be")]
    Backup(#[from] BackupError),
    /// Manifest or label are another cluster's, or of another backup.
    #[error("the backup manifest is of system {found}, but the server is system {expected}")]
    OtherSystem {
        /// What the manifest says.
        found: SystemIdentifier,
        /// What the server said.
        expected: SystemIdentifier,
    },
    /// The manifest tells of other WAL than the server.
    #[error("the backup manifest does not cover the WAL from {start_lsn} to {end_lsn}")]
    ManifestRange {
        /// The backup's start.
        start_lsn: Lsn,
        /// The backup's end.
        end_lsn: Lsn,
    },
    /// Nobody archives, or not fast enough.
    #[error(
        "the archive has the backup's WAL on timeline {timeline} only up to {archived_lsn}, not to {needed_lsn}, and got \
         no more of it within {} s", .waited.as_secs()
    )]
    WalNotArchived {
        /// The timeline.
        timeline: TimelineId,
        /// What there is.
        archived_lsn: Lsn,
        /// What there must be.
        needed_lsn: Lsn,
        /// How long nothing came.
        waited: Duration,
    },
    /// Somebody pruned meanwhile.
    #[error(
        "WAL of timeline {timeline} from {archived_lsn} on, which the backup needs, has been removed from the archive meanwhile"
    )]
    WalGone {
        /// The timeline.
        timeline: TimelineId,
        /// What is missing first.
        archived_lsn: Lsn,
    },
    /// Somebody pruned meanwhile.
    #[error("backup {0}, which this one builds upon, has been removed from the archive meanwhile")]
    ParentGone(BackupName),
    /// Somebody pruned meanwhile, and took this backup for broken off.
    #[error("object \"{0}\" of this backup has been removed from the archive meanwhile")]
    ObjectGone(String),
    /// A signal came.
    #[error("interrupted by {0}; no backup was made")]
    Interrupted(&'static str),
}

impl From<ArchiveError> for TakeError {
    fn from(error: ArchiveError) -> Self {
        TakeError::Repository(error.into())
    }
}

impl TakeError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            TakeError::Query { source, .. } | TakeError::Begin(source) | TakeError::Receive(source) => {
                source.class()
            }
            TakeError::Repository(error) => error.class(),
            TakeError::Stream(_) | TakeError::OtherSystem { .. } | TakeError::ManifestRange { .. } => {
                ErrorClass::Integrity
            }
            TakeError::Backup(error) if error.is_integrity() => ErrorClass::Integrity,
            TakeError::UploadManifest { source: UploadManifestError::Client(error), .. } => error.class(),
            TakeError::WalNotArchived { .. } => ErrorClass::Transient,
            _ => ErrorClass::Operator,
        }
    }
}
