//! From what a receiver hears of itself to numbers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::ReceiverMetrics;
use crate::pg::{Lsn, Marks, TimelineId};
use crate::stream::resume::Stray;
use crate::stream::{BatchReceived, LogObserver, Observer, ReceiveError};
use crate::wire::replication::PgTimestamp;

/// Keeps the metrics, and the log as without them.
#[derive(Debug)]
pub struct MeteringObserver {
    metrics: Arc<ReceiverMetrics>,
    log: LogObserver,
    /// What has arrived and is not durable.
    unflushed: Marks,
    /// What the server is known to have and is not durable.
    behind: Marks,
}

impl MeteringObserver {
    /// For a receiver that has not begun.
    pub fn new(metrics: Arc<ReceiverMetrics>) -> Self {
        MeteringObserver { metrics, log: LogObserver, unflushed: Marks::new(), behind: Marks::new() }
    }

    /// Another timeline than before: its positions are others.
    fn begin_timeline(&mut self, timeline: TimelineId, lsn: Lsn) {
        self.unflushed.clear();
        self.behind.clear();
        let metrics = &*self.metrics;
        metrics.timeline.store(timeline.as_u32(), Relaxed);
        metrics.from_lsn.store(lsn.as_u64(), Relaxed);
        metrics.flushed_lsn.store(0, Relaxed);
        metrics.written_lsn.store(lsn.as_u64(), Relaxed);
        metrics.received_lsn.store(lsn.as_u64(), Relaxed);
        metrics.server_lsn.store(0, Relaxed);
        self.publish_waits();
    }

    fn publish_waits(&self) {
        self.metrics.unflushed_since.set(self.unflushed.oldest());
        self.metrics.behind_since.set(self.behind.oldest());
    }
}

impl Observer for MeteringObserver {
    fn stray_found(&mut self, stray: &Stray) {
        self.log.stray_found(stray);
    }

    fn wal_missing(&mut self, timeline: TimelineId, start_lsn: Lsn, end_lsn: Lsn) {
        self.log.wal_missing(timeline, start_lsn, end_lsn);
    }

    fn beginning_anew(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        self.log.beginning_anew(timeline, start_lsn);
    }

    fn stream_starting(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        self.log.stream_starting(timeline, start_lsn);
        self.metrics.stream_count.fetch_add(1, Relaxed);
        if self.metrics.timeline.load(Relaxed) != timeline.as_u32() {
            self.begin_timeline(timeline, start_lsn);
        }
    }

    fn segment_finished(&mut self, timeline: TimelineId, end_lsn: Lsn) {
        self.log.segment_finished(timeline, end_lsn);
        self.metrics.segment_count.fetch_add(1, Relaxed);
    }

    fn timeline_switched(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        self.log.timeline_switched(timeline, switch_lsn);
        self.metrics.switch_count.fetch_add(1, Relaxed);
    }

    /// All that had been received is durable by now: the sink has settled.
    fn disconnected(&mut self, error: &ReceiveError, wait: Duration) {
        self.log.disconnected(error, wait);
        let metrics = &*self.metrics;
        metrics.disconnect_count.fetch_add(1, Relaxed);
        metrics.count_error(error.class());
        metrics.away();
        self.unflushed.clear();
        if metrics.stream_count.load(Relaxed) > 0 {
            let received_lsn = metrics.received_lsn.load(Relaxed);
            metrics.written_lsn.fetch_max(received_lsn, Relaxed);
            metrics.flushed_lsn.fetch_max(received_lsn, Relaxed);
        }
        self.publish_waits();
    }

    fn stream_started(&mut self) {
        self.metrics.streaming();
        self.metrics.heard_at.set(Some(self.metrics.now()));
    }

    fn batch_received(&mut self, batch: &BatchReceived) {
        let metrics = &*self.metrics;
        let now = metrics.now();
        metrics.heard_at.set(Some(now));
        metrics.message_count.fetch_add(batch.message_count, Relaxed);
        metrics.wal_len.fetch_add(batch.wal_len, Relaxed);
        if let Some(sent_at) = batch.server_sent_at {
            let transit = PgTimestamp::from_system_time(SystemTime::now()).micros_since(sent_at);
            metrics.transit_micros.store(transit, Relaxed);
        }
        let flushed_lsn = Lsn::new(metrics.flushed_lsn.load(Relaxed).max(metrics.from_lsn.load(Relaxed)));
        metrics.received_lsn.fetch_max(batch.received_lsn.as_u64(), Relaxed);
        metrics.server_lsn.fetch_max(batch.server_wal_end_lsn.as_u64(), Relaxed);
        // a segment that is fetched again after a reconnection is durable already
        if batch.received_lsn > flushed_lsn {
            self.unflushed.push(batch.received_lsn, now.saturating_sub(batch.age));
        }
        if batch.server_wal_end_lsn > flushed_lsn {
            self.behind.push(batch.server_wal_end_lsn, now);
        }
        self.publish_waits();
    }

    fn written(&mut self, lsn: Lsn) {
        self.metrics.written_lsn.fetch_max(lsn.as_u64(), Relaxed);
    }

    fn flushed(&mut self, lsn: Lsn) {
        let metrics = &*self.metrics;
        let now = metrics.now();
        metrics.flushed_lsn.fetch_max(lsn.as_u64(), Relaxed);
        self.unflushed.reach(lsn, |since| metrics.acknowledgement.observe(now.saturating_sub(since)));
        self.behind.reach(lsn, |_| {});
        self.publish_waits();
    }
}
