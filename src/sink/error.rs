//! What can go wrong on the way to the disk.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::ErrorClass;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalError};

/// The step that failed, as the words after "could not".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Open or create a file.
    Open,
    /// Ask for a file's length.
    Stat,
    /// Change a file's length.
    SetLen,
    /// Read from a file.
    Read,
    /// Write to a file.
    Write,
    /// `fdatasync` a file.
    Sync,
    /// Rename a file.
    Rename,
    /// `fsync` a directory.
    SyncDirectory,
    /// Read a directory.
    List,
    /// Remove a file.
    Remove,
    /// Take the lock on a directory.
    Lock,
    /// Start the thread that writes.
    StartThread,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open file",
            Operation::Stat => "stat file",
            Operation::SetLen => "set length of file",
            Operation::Read => "read file",
            Operation::Write => "write file",
            Operation::Sync => "fsync file",
            Operation::Rename => "rename file",
            Operation::SyncDirectory => "fsync directory",
            Operation::List => "read directory",
            Operation::Remove => "remove file",
            Operation::Lock => "lock file",
            Operation::StartThread => "start thread for directory",
        })
    }
}

/// Why WAL could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The operating system refused a step.
    #[error("could not {operation} \"{}\"", path.display())]
    Io {
        /// The step.
        operation: Operation,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("directory is in use by another receiver: \"{}\" is locked", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The WAL in the directory is another cluster's.
    #[error("directory holds WAL of system {found}, but the server is system {expected}")]
    OtherSystem {
        /// The server's.
        expected: SystemIdentifier,
        /// The directory's.
        found: SystemIdentifier,
    },
    /// The WAL in the directory is cut differently.
    #[error("directory holds WAL segments of {found} bytes, but the server's have {expected}")]
    OtherSegmentSize {
        /// The server's.
        expected: u64,
        /// The directory's.
        found: u64,
    },
    /// The stamp cannot be read as one.
    #[error("file \"{}\" is damaged", path.display())]
    DamagedStamp {
        /// The stamp.
        path: PathBuf,
    },
    /// The stream has other bytes than an earlier one had at the same place of the same timeline.
    #[error("WAL from the server differs from what is in \"{}\" at {lsn}", path.display())]
    Diverged {
        /// The file.
        path: PathBuf,
        /// The first byte that differs.
        lsn: Lsn,
    },
    /// The stream is not what a server can have written.
    #[error("the server sent WAL that is not valid")]
    InvalidWal(#[source] WalError),
    /// The stream does not go on where the directory ends: a record there names another one before it.
    #[error("the server's WAL does not continue file \"{}\"", path.display())]
    NoContinuation {
        /// The finished segment before the stream.
        path: PathBuf,
        /// What shows it.
        source: WalError,
    },
    /// The finished segment before the stream is damaged: going on would let the server remove what it may still have.
    #[error("finished segment \"{}\" is not valid WAL", path.display())]
    DamagedSegment {
        /// The segment.
        path: PathBuf,
        /// What shows it.
        source: WalError,
    },
    /// A file has a length that it can never have here: a finished segment that is not one segment long, or an
    /// unfinished one that is longer.
    #[error("file \"{}\" has {len} bytes, where a segment has {segment_len}", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The length of a segment.
        segment_len: u64,
    },
    /// What was compressed cannot be read back as it was: the segment does not get its final name.
    #[error("compressed segment \"{}\" cannot be read back", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
    },
    /// Two servers tell different histories of one timeline.
    #[error("history of timeline {timeline} from the server differs from \"{}\"", path.display())]
    HistoryDiffers {
        /// The timeline.
        timeline: TimelineId,
        /// The file.
        path: PathBuf,
    },
    /// What stands behind the directory ended for good.
    #[error("could not archive what was received")]
    Archive {
        /// What to do about it.
        class: ErrorClass,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier step failed, so nothing that came after it can be acknowledged.
    #[error("an earlier error made the directory unusable until the next start")]
    Poisoned,
    /// The thread that writes is gone.
    #[error("the thread that writes WAL has ended")]
    ThreadEnded,
    /// Bytes for another place than the next one.
    #[error("WAL for {found} was to be written where {expected} comes next")]
    NotContiguous {
        /// The next byte's place.
        expected: Lsn,
        /// The place given.
        found: Lsn,
    },
    /// Steps in an order that they do not have.
    #[error("cannot write WAL at {lsn}: {reason}")]
    OutOfOrder {
        /// Where.
        lsn: Lsn,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl SinkError {
    /// Whether what had to be stored did not fit. Not where an fsync says so: what that leaves on the disk nobody knows,
    /// and no room makes up for it.
    pub fn is_out_of_room(&self) -> bool {
        let SinkError::Io { operation, source, .. } = self else { return false };
        let synced = matches!(operation, Operation::Sync | Operation::SyncDirectory);
        !synced && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            SinkError::Io { .. } | SinkError::Locked { .. } | SinkError::Poisoned => ErrorClass::Operator,
            SinkError::OtherSystem { .. }
            | SinkError::OtherSegmentSize { .. }
            | SinkError::DamagedStamp { .. }
            | SinkError::Diverged { .. }
            | SinkError::InvalidWal(_)
            | SinkError::NoContinuation { .. }
            | SinkError::DamagedSegment { .. }
            | SinkError::WrongLength { .. }
            | SinkError::Compression { .. }
            | SinkError::HistoryDiffers { .. } => ErrorClass::Integrity,
            SinkError::Archive { class, .. } => *class,
            SinkError::ThreadEnded | SinkError::NotContiguous { .. } | SinkError::OutOfOrder { .. } => {
                ErrorClass::Bug
            }
        }
    }
}
