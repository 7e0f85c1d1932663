//! The sink in virtual time: the same writer and the same batches as on the thread, with syncs that take a while, during which
//! what is pushed may be written.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use pgwake::pg::{Lsn, TimelineId, WalSegmentSize};
use pgwake::sink::{
    Batch, ClusterStamp, DiskEntry, PendingFlush, SegmentWriter, Sink, SinkCommand, SinkError, SinkEvent,
    Verification,
};
use tokio::time::Instant;

use crate::disk::{SimDisk, SimFile};

const QUEUE_LEN: usize = 200_000;

pub struct SimSink {
    writer: SegmentWriter<SimDisk>,
    queue: VecDeque<SinkCommand>,
    queued_bytes: usize,
    flush_wanted: bool,
    /// What was synced when it began, and is told when its time is over.
    flushing: Option<(PendingFlush<SimFile>, std::io::Result<()>, Instant)>,
    events: VecDeque<SinkEvent>,
    due: Option<Instant>,
    verification: Verification,
    written_lsn: Lsn,
    seen_written_lsn: Lsn,
    error: Option<SinkError>,
    random: fastrand::Rng,
    slowest: Duration,
    failed: bool,
}

impl SimSink {
    pub fn new(writer: SegmentWriter<SimDisk>, mut random: fastrand::Rng) -> Self {
        // mostly as fast as disks are, now and then as slow as they can be
        let slowest = Duration::from_millis([1, 5, 20, 40_000][random.usize(..4)]);
        SimSink {
            writer,
            queue: VecDeque::new(),
            queued_bytes: 0,
            flush_wanted: false,
            flushing: None,
            events: VecDeque::new(),
            due: None,
            verification: Verification::Done,
            written_lsn: Lsn::INVALID,
            seen_written_lsn: Lsn::INVALID,
            error: None,
            random,
            slowest,
            failed: false,
        }
    }

    /// Works through what was pushed, and begins a flush.
    fn run_queue(&mut self) -> Result<(), SinkError> {
        if self.failed {
            return Err(SinkError::Poisoned);
        }
        let was_full = !self.has_room();
        let (events, queued_bytes, written_lsn) =
            (&mut self.events, &mut self.queued_bytes, &mut self.written_lsn);
        let mut batch = Batch::default();
        let result = batch.run(
            &mut self.writer,
            self.queue.drain(..),
            |flushed| events.push_back(SinkEvent::Flushed(flushed)),
            |weight, lsn| (*queued_bytes, *written_lsn) = (*queued_bytes - weight, lsn),
        );
        let result = result.and_then(|()| {
            if batch.take_flush_wanted() || std::mem::take(&mut self.flush_wanted) {
                let pending = self.writer.begin_flush()?;
                self.written_lsn = self.writer.written_lsn();
                // the least that a sync can reach: what is written while it runs is not in it
                let synced = pending.sync();
                if synced.is_err() {
                    // after it nothing is told any more, not even what was durable before
                    self.writer.end_flush(pending, synced)?;
                    return Ok(());
                }
                self.flushing = Some((pending, synced, Instant::now() + self.wait()));
            }
            Ok(())
        });
        self.failed = result.is_err();
        if was_full && self.has_room() {
            self.events.push_back(SinkEvent::Room);
        }
        result
    }

    fn end_flush(&mut self) -> Result<(), SinkError> {
        let Some((pending, synced, _)) = self.flushing.take() else { return Ok(()) };
        let result = self.writer.end_flush(pending, synced);
        self.failed |= result.is_err();
        self.events.push_back(SinkEvent::Flushed(result?));
        Ok(())
    }

    /// All that was pushed, to its end.
    fn run_all(&mut self) -> Result<(), SinkError> {
        self.end_flush()?;
        self.run_queue()?;
        self.end_flush()
    }

    fn verify_some(&mut self) -> Result<(), SinkError> {
        let result = self.writer.verify_some();
        self.failed |= result.is_err();
        self.verification = result?;
        Ok(())
    }

    fn wait(&mut self) -> Duration {
        self.slowest.mul_f64(self.random.f64().powi(4))
    }

    fn writes_at_once(&mut self, command: &SinkCommand) -> bool {
        let SinkCommand::Write { lsn, data } = command else { return false };
        if self.failed || !self.queue.is_empty() || self.random.u8(..4) == 0 {
            return false;
        }
        match self.writer.write_at_once(*lsn, data) {
            Ok(true) => self.written_lsn = *lsn + data.len() as u64,
            Ok(false) => return false,
            Err(error) => (self.failed, self.error) = (true, Some(error)),
        }
        true
    }
}

impl Sink for SimSink {
    fn push(&mut self, command: SinkCommand) {
        if self.writes_at_once(&command) {
            return;
        }
        if command == SinkCommand::Flush && self.queue.is_empty() {
            self.flush_wanted = true;
            return;
        }
        self.queued_bytes += command.weight();
        self.queue.push_back(command);
    }

    fn written_lsn(&mut self) -> Lsn {
        self.seen_written_lsn = self.written_lsn;
        self.written_lsn
    }

    fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_LEN
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        loop {
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.written_lsn > self.seen_written_lsn {
                self.seen_written_lsn = self.written_lsn;
                return Ok(SinkEvent::Written);
            }
            if let Some((_, _, due)) = self.flushing {
                tokio::time::sleep_until(due).await;
                self.end_flush()?;
                continue;
            }
            if self.queue.is_empty() && !self.flush_wanted && self.verification == Verification::Done {
                pending::<()>().await;
            }
            let wait = self.wait();
            let due = *self.due.get_or_insert_with(|| Instant::now() + wait);
            tokio::time::sleep_until(due).await;
            self.due = None;
            self.run_queue()?;
            self.verify_some()?;
        }
    }

    async fn prepare(&mut self, stamp: ClusterStamp) -> Result<Vec<DiskEntry>, SinkError> {
        self.run_all()?;
        self.writer.prepare(stamp)
    }

    async fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> Result<(), SinkError> {
        self.run_all()?;
        self.events.clear();
        (self.written_lsn, self.seen_written_lsn) = (start_lsn, start_lsn);
        self.writer.begin(timeline, segment_size, start_lsn)
    }

    async fn write_history(&mut self, timeline: TimelineId, content: Bytes) -> Result<(), SinkError> {
        self.run_all()?;
        self.writer.write_history(timeline, content)
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.run_all()?;
        self.writer.settle()
    }
}
