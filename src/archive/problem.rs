//! What can be wrong with a directory of WAL.

use crate::pg::{Lsn, TimelineHistoryError, TimelineId, WalError};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{kind}", .file.as_ref().map_or_else(String::new, |file| format!("{file}: ")))]
pub struct Problem {
    /// The timeline that it concerns.
    pub timeline: TimelineId,
    /// Where, for problems that are somewhere.
    pub lsn: Lsn,
    /// The file, for problems of one.
    pub file: Option<String>,
    /// What.
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// The WAL in it is not what a server wrote.
    #[error(transparent)]
    InvalidWal(WalError),
    /// A finished segment that is not one segment long, or an unfinished one that is longer.
    #[error("it has {len} bytes, where a segment has {segment_len}")]
    WrongLength {
        /// Its length, decompressed.
        len: u64,
        /// The length of a segment.
        segment_len: u64,
    },
    /// It cannot be decompressed.
    #[error("it cannot be decompressed: {reason}")]
    Compression {
        /// The decompressor's words.
        reason: String,
    },
    /// No file has the WAL from here to there.
    #[error("WAL of timeline {timeline} from {start_lsn} to {end_lsn} is missing")]
    Gap {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        start_lsn: Lsn,
        /// The first one that is there again.
        end_lsn: Lsn,
    },
    /// An unfinished segment with later ones of the same timeline behind it.
    #[error("it is unfinished, but later segments of its timeline are there")]
    UnfinishedInside,
    /// An unfinished segment that a later timeline goes on behind.
    #[error("it is unfinished, but timeline {0} goes on behind it")]
    UnfinishedBefore(TimelineId),
    /// Two files have different bytes for the same position of the same timeline.
    #[error("it differs at {lsn} from {other}, which has the same WAL")]
    CopiesDiffer {
        /// The first difference.
        lsn: Lsn,
        /// The other file.
        other: String,
    },
    /// WAL of a timeline other than the first, without the file that says where it came from.
    #[error("WAL of timeline {0} is there, but not its history file")]
    HistoryMissing(TimelineId),
    /// The history file cannot be understood.
    #[error(transparent)]
    History(TimelineHistoryError),
    /// Two history files tell different pasts.
    #[error("it tells another past of timeline {ancestor} than that one's history file")]
    HistoriesDiffer {
        /// The timeline with two pasts.
        ancestor: TimelineId,
    },
}
