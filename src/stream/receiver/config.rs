//! What goes into a receiver, and what comes out of it: its words, without its state.

use std::time::Duration;

use bytes::Bytes;

use super::super::written_reports::WrittenReports;
use crate::pg::{Lsn, TimelineId, WalSegmentSize};
use crate::wire::replication::{PgTimestamp, StandbyStatusUpdate};

/// A point in time: for measuring, and for telling the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since some fixed point; never goes back.
    pub elapsed: Duration,
    /// The wall clock, which may jump.
    pub wall_clock: PgTimestamp,
}

/// When WAL is made durable while a stream goes on, and what of it the server hears. Finished segments, the end of
/// the stream and a server that asks always bring a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushPolicy {
    /// As soon as it has come, and reported.
    #[default]
    Prompt,
    /// Besides the above every few seconds, and reported.
    Lazy,
    /// As lazily, and never reported: the server does not count on us.
    Unreported,
}

/// What the server is told to be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushMeaning {
    /// What is durable here.
    #[default]
    Durable,
    /// What is in the archive, too. The server waits for that when it shuts down, for a minute at the most.
    Archived,
}

/// What a receiver needs to know at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// The timeline asked for.
    pub timeline: TimelineId,
    /// The first byte asked for.
    pub start_lsn: Lsn,
    /// How the log is cut.
    pub segment_size: WalSegmentSize,
    /// What was acknowledged as durable before, in this life or an earlier one: below this no flush position is
    /// reported, because the server would move the slot back to it.
    pub flush_floor: Lsn,
    /// The longest silence of ours; zero: only answers and progress are sent.
    pub status_interval: Duration,
    /// The longest silence of the server's, which is asked for a sign of life after half of it; zero: any.
    pub receive_timeout: Duration,
    /// When to flush.
    pub flush_policy: FlushPolicy,
    /// What to report as flushed.
    pub flush_meaning: FlushMeaning,
    /// When to report what is only written.
    pub written_reports: WrittenReports,
}

/// What the driver has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write bytes, which never cross a segment's end.
    Write {
        /// Where the first of them belongs.
        lsn: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// Complete the segment that the last write filled.
    Seal,
    /// Make durable what was written.
    Flush,
    /// Send a status update.
    SendStatus(StandbyStatusUpdate),
    /// Send CopyDone and read to the end of the stream. It is the last action.
    SendCopyDone,
}
