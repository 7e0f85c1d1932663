//! The sink in virtual time: the same writer and the same batches as on the thread, with syncs that take a while.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use pgwake::pg::{Lsn, TimelineId, WalSegmentSize};
use pgwake::sink::{Batch, ClusterStamp, DiskEntry, SegmentWriter, Sink, SinkCommand, SinkError, SinkEvent};
use tokio::time::Instant;

use crate::disk::SimDisk;

const QUEUE_LEN: usize = 200_000;

pub struct SimSink {
    writer: SegmentWriter<SimDisk>,
    queue: VecDeque<SinkCommand>,
    queued_bytes: usize,
    events: VecDeque<SinkEvent>,
    due: Option<Instant>,
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
            events: VecDeque::new(),
            due: None,
            random,
            slowest,
            failed: false,
        }
    }

    fn run_queue(&mut self) -> Result<(), SinkError> {
        if self.failed {
            return Err(SinkError::Poisoned);
        }
        let was_full = !self.has_room();
        let (events, queued_bytes) = (&mut self.events, &mut self.queued_bytes);
        let result = Batch::default().run(
            &mut self.writer,
            self.queue.drain(..),
            |flushed| events.push_back(SinkEvent::Flushed(flushed)),
            |len| *queued_bytes -= len,
        );
        self.failed = result.is_err();
        if was_full && self.has_room() {
            self.events.push_back(SinkEvent::Room);
        }
        result
    }
}

impl Sink for SimSink {
    fn push(&mut self, command: SinkCommand) {
        self.queued_bytes += command.weight();
        self.queue.push_back(command);
    }

    fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_LEN
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.queue.is_empty() {
                pending::<()>().await;
            }
            let wait = self.slowest.mul_f64(self.random.f64().powi(4));
            let due = *self.due.get_or_insert_with(|| Instant::now() + wait);
            tokio::time::sleep_until(due).await;
            self.due = None;
            self.run_queue()?;
        }
    }

    async fn prepare(&mut self, stamp: ClusterStamp) -> Result<Vec<DiskEntry>, SinkError> {
        self.run_queue()?;
        self.writer.prepare(stamp)
    }

    async fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> Result<(), SinkError> {
        self.run_queue()?;
        self.events.clear();
        self.writer.begin(timeline, segment_size, start_lsn)
    }

    async fn write_history(&mut self, timeline: TimelineId, content: Bytes) -> Result<(), SinkError> {
        self.run_queue()?;
        self.writer.write_history(timeline, content)
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.run_queue()?;
        self.writer.settle()
    }
}
