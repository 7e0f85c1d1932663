//! What somebody who watches a receiver hears.

use std::time::Duration;

use super::error::ReceiveError;
use super::resume::Stray;
use crate::pg::{Lsn, TimelineId};
use crate::wire::replication::PgTimestamp;

/// Hears what an operator would put on a timeline, as it happens.
pub trait Observer: Send + Sync {
    /// A file in the directory is none that the stream can go on with; it stays as it is.
    fn stray_found(&mut self, stray: &Stray);
    /// WAL from `start_lsn` to `end_lsn` is missing between segments of the directory, and about to be fetched.
    fn wal_missing(&mut self, timeline: TimelineId, start_lsn: Lsn, end_lsn: Lsn);
    /// The directory was received into before, has no WAL any more, and no slot says where that ended.
    fn beginning_anew(&mut self, timeline: TimelineId, start_lsn: Lsn);
    /// The server is about to be asked for a timeline from `start_lsn` on.
    fn stream_starting(&mut self, timeline: TimelineId, start_lsn: Lsn);
    /// The segment that ends at `end_lsn` is complete and durable.
    fn segment_finished(&mut self, timeline: TimelineId, end_lsn: Lsn);
    /// The server went over to `timeline` at `switch_lsn`.
    fn timeline_switched(&mut self, timeline: TimelineId, switch_lsn: Lsn);
    /// The connection was lost, or could not be had; the next attempt comes after `wait`.
    fn disconnected(&mut self, error: &ReceiveError, wait: Duration);
    /// The server has taken the question of [`Self::stream_starting`], and streams from now on, or when it has something.
    fn stream_started(&mut self) {}
    /// Messages came, and are on their way to the disk. On the path of every byte: no system call, no lock.
    fn batch_received(&mut self, _: &BatchReceived) {}
    /// The operating system has all before `lsn`. On the same path.
    fn written(&mut self, _lsn: Lsn) {}
    /// All before `lsn` is durable. On the same path.
    fn flushed(&mut self, _lsn: Lsn) {}
}

/// Messages that were taken together, and how far the stream is with them.
#[derive(Debug, Clone, Copy)]
pub struct BatchReceived {
    /// How many.
    pub message_count: u64,
    /// The WAL in them, in bytes.
    pub wal_len: u64,
    /// How long ago the first of them was taken from the socket.
    pub age: Duration,
    /// What has arrived by now.
    pub received_lsn: Lsn,
    /// The furthest position that the server has spoken of.
    pub server_wal_end_lsn: Lsn,
    /// When the server sent the last of them, by its own clock.
    pub server_sent_at: Option<PgTimestamp>,
}

/// Writes it to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn stray_found(&mut self, stray: &Stray) {
        tracing::warn!(file = stray.name, reason = ?stray.reason, "file is not part of the server's history");
    }

    fn wal_missing(&mut self, timeline: TimelineId, start_lsn: Lsn, end_lsn: Lsn) {
        let told = "WAL is missing between segments of the directory; fetching it";
        tracing::warn!(%start_lsn, %end_lsn, %timeline, "{told}");
    }

    fn beginning_anew(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        let told =
            "directory was received into before, but holds no WAL: what came until here may be nowhere";
        tracing::warn!(%start_lsn, %timeline, "{told}");
    }

    fn stream_starting(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        tracing::info!(%start_lsn, %timeline, "streaming started");
    }

    fn segment_finished(&mut self, timeline: TimelineId, end_lsn: Lsn) {
        tracing::debug!(%end_lsn, %timeline, "segment finished");
    }

    fn timeline_switched(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        tracing::info!(to = %timeline, at = %switch_lsn, "timeline switched");
    }

    fn disconnected(&mut self, error: &ReceiveError, wait: Duration) {
        tracing::warn!(error = %Chain(error), ?wait, "disconnected; trying again");
    }
}

/// An error with all its causes, on one line of the log.
struct Chain<'a>(&'a ReceiveError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
