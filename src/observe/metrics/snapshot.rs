//! A receiver at one moment.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use super::histogram::HistogramSnapshot;
use super::{ArchiveReading, ERROR_CLASSES, Health, Phase, ReceiverMetrics, SlotReading, health};
use crate::pg::Lsn;

/// What the text and the judgement are made of. Spans of time are up to now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Snapshot {
    pub(super) phase: Phase,
    pub(super) healthy: bool,
    pub(super) started_at_seconds: f64,
    /// How long no server has been streaming.
    pub(super) away: Option<Duration>,
    /// How long nothing has come from the server.
    pub(super) silent: Option<Duration>,
    /// How long the oldest WAL that is not durable has been here.
    pub(super) unflushed: Option<Duration>,
    /// How long the server has been known to have WAL that is not durable here.
    pub(super) behind: Option<Duration>,
    pub(super) timeline: Option<u32>,
    pub(super) received_lsn: Option<Lsn>,
    pub(super) written_lsn: Option<Lsn>,
    pub(super) flushed_lsn: Option<Lsn>,
    pub(super) server_lsn: Option<Lsn>,
    pub(super) receive_lag: Option<u64>,
    pub(super) flush_lag: Option<u64>,
    pub(super) transit_seconds: Option<f64>,
    pub(super) wal_len: u64,
    pub(super) message_count: u64,
    pub(super) segment_count: u64,
    pub(super) stream_count: u64,
    pub(super) disconnect_count: u64,
    pub(super) switch_count: u64,
    pub(super) error_counts: [u64; ERROR_CLASSES.len()],
    pub(super) last_error_at_seconds: Option<f64>,
    pub(super) acknowledgement: HistogramSnapshot,
    pub(super) data_syncs: HistogramSnapshot,
    pub(super) directory_syncs: HistogramSnapshot,
    pub(super) slot: Option<SlotReading>,
    pub(super) archive_slot: Option<SlotReading>,
    pub(super) archive: Option<ArchiveReading>,
}

impl ReceiverMetrics {
    pub(super) fn snapshot(&self) -> Snapshot {
        let known = |lsn: u64| Some(Lsn::new(lsn)).filter(|lsn| lsn.is_valid());
        // in this order none of them is ahead of what it cannot be ahead of
        let flushed_lsn = known(self.flushed_lsn.load(Relaxed));
        let written_lsn = known(self.written_lsn.load(Relaxed));
        let received_lsn = known(self.received_lsn.load(Relaxed));
        let server_lsn = known(self.server_lsn.load(Relaxed));
        let from_lsn = known(self.from_lsn.load(Relaxed));
        let lag = |lsn: Option<Lsn>| server_lsn.zip(lsn).map(|(server, lsn)| server.saturating_since(lsn));
        // times first, or one that is set meanwhile would lie in the future
        let times = [&self.away_since, &self.heard_at, &self.unflushed_since, &self.behind_since];
        let times = times.map(super::AtomicTime::get);
        let now = self.now();
        let [away, silent, unflushed, behind] = times.map(|time| time.map(|since| now.saturating_sub(since)));
        let transit = self.transit_micros.load(Relaxed);
        let last_error_at = self.last_error_at.load(Relaxed);
        let mut snapshot = Snapshot {
            phase: self.phase(),
            healthy: true,
            started_at_seconds: self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            away,
            silent,
            unflushed,
            behind,
            timeline: Some(self.timeline.load(Relaxed)).filter(|timeline| *timeline != 0),
            received_lsn,
            written_lsn,
            flushed_lsn,
            server_lsn,
            receive_lag: lag(received_lsn),
            flush_lag: lag(flushed_lsn.or(from_lsn)),
            transit_seconds: (transit != i64::MIN).then_some(transit as f64 / 1e6),
            wal_len: self.wal_len.load(Relaxed),
            message_count: self.message_count.load(Relaxed),
            segment_count: self.segment_count.load(Relaxed),
            stream_count: self.stream_count.load(Relaxed),
            disconnect_count: self.disconnect_count.load(Relaxed),
            switch_count: self.switch_count.load(Relaxed),
            error_counts: self.error_counts.each_ref().map(|count| count.load(Relaxed)),
            last_error_at_seconds: (last_error_at != 0).then_some(last_error_at as f64 / 1e6),
            acknowledgement: self.acknowledgement.snapshot(),
            data_syncs: self.data_syncs.snapshot(),
            directory_syncs: self.directory_syncs.snapshot(),
            archive: self.archive.get().map(|probe| (probe.0)()),
            slot: *self.slot.lock().unwrap_or_else(PoisonError::into_inner),
            archive_slot: *self.archive_slot.lock().unwrap_or_else(PoisonError::into_inner),
        };
        snapshot.healthy = matches!(health::judge(&snapshot, self.limits), Health::Well(_));
        snapshot
    }
}
