//! Why something could not be measured.

use std::io;
use std::path::PathBuf;

use crate::ErrorClass;
use crate::backup::ArchiveStreamError;
use crate::backup::tar_stream::TarError;
use crate::client::ClientError;
use crate::inspect::InspectError;
use crate::pg::{Lsn, SlotName, TimelineHistoryError, TimelineId, WalError};

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A command failed, or the connection did.
    #[error("could not {during}")]
    Client {
        /// What was being done.
        during: &'static str,
        /// Why it failed.
        source: ClientError,
    },
    /// A signal came while the server had not begun yet.
    #[error("interrupted by {0} before anything was measured")]
    Interrupted(&'static str),
    /// The server does not answer.
    #[error("could not {during}: server was silent for {} s", .after.as_secs_f32())]
    Silent {
        /// What was being done.
        during: &'static str,
        /// The bound.
        after: std::time::Duration,
    },
    /// A question in SQL was not answered.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// There is no slot of this name.
    #[error("replication slot \"{0}\" does not exist")]
    NoSlot(SlotName),
    /// It holds no WAL.
    #[error("replication slot \"{0}\" holds no WAL to begin with: it was invalidated, or never used")]
    SlotEmpty(SlotName),
    /// A server before 15 tells only in SQL what a slot holds.
    #[error("cannot ask what replication slot \"{0}\" holds without an ordinary connection to this server")]
    SlotUnknown(SlotName),
    /// The WAL is still to be written.
    #[error("start position {start_lsn} is beyond the end of the server's WAL, {flush_lsn}")]
    StartBeyondServer {
        /// Where it was to begin.
        start_lsn: Lsn,
        /// Where the server's WAL ends.
        flush_lsn: Lsn,
    },
    /// The WAL is gone.
    #[error("there is no WAL to read at {lsn} on timeline {timeline}: the server has removed it")]
    WalRemoved {
        /// Where it was to begin.
        lsn: Lsn,
        /// On which timeline.
        timeline: TimelineId,
        /// The server's own words.
        source: ClientError,
    },
    /// A history file cannot be read.
    #[error("invalid history of timeline {timeline}")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong with it.
        source: TimelineHistoryError,
    },
    /// The server ended a timeline, and named none that comes later.
    #[error("server ended timeline {0} and named no later one to go on with")]
    NoNextTimeline(TimelineId),
    /// The bytes belong elsewhere than where the last ones ended.
    #[error("server sent WAL for {found}, but {expected} comes next")]
    UnexpectedPosition {
        /// The next byte's place.
        expected: Lsn,
        /// The place that the server named.
        found: Lsn,
    },
    /// WAL that does not check.
    #[error("server sent invalid WAL")]
    InvalidWal(#[from] WalError),
    /// The stream of archives is not one.
    #[error("server sent an invalid base backup")]
    Archives(#[from] ArchiveStreamError),
    /// An archive is not one.
    #[error("server sent an invalid archive")]
    Tar(#[from] TarError),
}

impl MeasureError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            MeasureError::Client { source, .. } => source.class(),
            MeasureError::Silent { .. } => ErrorClass::Transient,
            MeasureError::Inspect(error) => error.class(),
            MeasureError::Interrupted(_)
            | MeasureError::NoSlot(_)
            | MeasureError::SlotEmpty(_)
            | MeasureError::SlotUnknown(_)
            | MeasureError::StartBeyondServer { .. }
            | MeasureError::WalRemoved { .. } => ErrorClass::Operator,
            MeasureError::History { .. }
            | MeasureError::NoNextTimeline(_)
            | MeasureError::UnexpectedPosition { .. }
            | MeasureError::InvalidWal(_)
            | MeasureError::Archives(_)
            | MeasureError::Tar(_) => ErrorClass::Integrity,
        }
    }
}

/// Why a disk could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} \"{}\"", .path.display())]
pub struct DiskError {
    /// What failed.
    pub operation: DiskOperation,
    /// With what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What is done with a disk to measure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOperation {
    /// Makes a directory for the files.
    CreateDirectory,
    /// Makes a file.
    Create,
    /// Writes to it.
    Write,
    /// Makes it durable.
    Sync,
    /// Empties it.
    Truncate,
}

impl std::fmt::Display for DiskOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DiskOperation::CreateDirectory => "create directory",
            DiskOperation::Create => "create file",
            DiskOperation::Write => "write file",
            DiskOperation::Sync => "fsync file",
            DiskOperation::Truncate => "truncate file",
        })
    }
}
