//! The sink in virtual time: the same writer and the same batches as on the thread, with syncs that take a while, during which
//! what is pushed may be written. In some lives several syncs run side by side.

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

use crate::disk::{Canary, SimDisk, SimFile};

const QUEUE_LEN: usize = 200_000;

/// A sync that is done by the thread that receives is let go on elsewhere after so long.
const HERE: Duration = Duration::from_millis(10);

/// A sync under way.
struct Flushing {
    pending: PendingFlush<SimFile>,
    /// What it came to. The least that a sync can reach is what was written when it began, and the most what is when it ends:
    /// `None` when it is one of the latter.
    synced: Option<std::io::Result<()>>,
    due: Instant,
    /// Which of those that run side by side.
    number: usize,
}

pub struct SimSink {
    writer: SegmentWriter<SimDisk>,
    queue: VecDeque<SinkCommand>,
    queued_bytes: usize,
    flush_wanted: bool,
    flushing: Vec<Flushing>,
    /// How many syncs may run side by side, and whether the open segment is ready for that.
    beside: usize,
    prepared: bool,
    /// Syncs are done by the thread that receives, as long as they are quick.
    here: bool,
    /// What is pushed one behind the other is written in one.
    gathers: bool,
    gathered: Vec<Bytes>,
    gathered_lsn: Lsn,
    events: VecDeque<SinkEvent>,
    due: Option<Instant>,
    verification: Verification,
    written_lsn: Lsn,
    seen_written_lsn: Lsn,
    error: Option<SinkError>,
    random: fastrand::Rng,
    slowest: Duration,
    failed: bool,
    canary: Option<Canary>,
}

impl SimSink {
    pub fn new(writer: SegmentWriter<SimDisk>, mut random: fastrand::Rng, canary: Option<Canary>) -> Self {
        // mostly as fast as disks are, now and then as slow as they can be
        let slowest = Duration::from_millis([1, 5, 20, 40_000][random.usize(..4)]);
        SimSink {
            writer,
            queue: VecDeque::new(),
            queued_bytes: 0,
            flush_wanted: false,
            flushing: Vec::new(),
            beside: [1, 1, 3, 8][fastrand::Rng::with_seed(!random.clone().u64(..)).usize(..4)],
            prepared: false,
            here: fastrand::Rng::with_seed(random.clone().u64(..)).bool(),
            gathers: fastrand::Rng::with_seed(random.clone().u64(..).rotate_left(7)).bool(),
            gathered: Vec::new(),
            gathered_lsn: Lsn::INVALID,
            events: VecDeque::new(),
            due: None,
            verification: Verification::Done,
            written_lsn: Lsn::INVALID,
            seen_written_lsn: Lsn::INVALID,
            error: None,
            random,
            slowest,
            failed: false,
            canary,
        }
    }

    /// How much of the queue may be worked through while something is synced.
    fn meanwhile(&self) -> usize {
        self.queue.iter().take_while(|command| **command != SinkCommand::Seal).count()
    }

    fn has_flush_beside(&self) -> bool {
        let is_theirs = self.flush_wanted && self.prepared && self.queue.is_empty();
        is_theirs && self.flushing.len() < self.beside
    }

    /// Whether there is something to do now.
    fn has_turn(&self) -> bool {
        if self.flushing.is_empty() {
            !self.queue.is_empty() || self.flush_wanted || self.verification == Verification::Pending
        } else {
            self.meanwhile() > 0 || self.has_flush_beside()
        }
    }

    /// Works through what was pushed, and begins a flush.
    fn run_queue(&mut self) -> Result<(), SinkError> {
        if self.failed {
            return Err(SinkError::Poisoned);
        }
        let was_full = !self.has_room();
        let count = if self.flushing.is_empty() { self.queue.len() } else { self.meanwhile() };
        self.prepared &= count <= self.meanwhile();
        let (events, queued_bytes, written_lsn) =
            (&mut self.events, &mut self.queued_bytes, &mut self.written_lsn);
        let mut batch = Batch::default();
        let result = batch.run(
            &mut self.writer,
            self.queue.drain(..count),
            |flushed| events.push_back(SinkEvent::Flushed(flushed)),
            |weight, lsn| (*queued_bytes, *written_lsn) = (*queued_bytes - weight, lsn),
        );
        let result = result.and_then(|()| {
            self.flush_wanted |= batch.take_flush_wanted();
            self.begin_flush()
        });
        self.failed = result.is_err();
        if was_full && self.has_room() {
            self.events.push_back(SinkEvent::Room);
        }
        result
    }

    fn begin_flush(&mut self) -> Result<(), SinkError> {
        let is_taken = |number| self.flushing.iter().any(|other| other.number == number);
        let number = (0..).find(|number| !is_taken(*number)).expect("a number");
        let beside = match self.has_flush_beside() {
            true => self.writer.begin_flush_beside(number)?,
            false => None,
        };
        let pending = match beside {
            Some(pending) => pending,
            None if !self.flush_wanted || !self.flushing.is_empty() => return Ok(()),
            None => {
                self.prepared = self.beside > 1 && self.writer.prepare_beside(self.beside)?;
                self.writer.begin_flush()?
            }
        };
        self.flush_wanted = false;
        self.written_lsn = self.writer.written_lsn();
        if self.canary == Some(Canary::AckBesideSync) && !self.flushing.is_empty() {
            let due = Instant::now();
            self.flushing.push(Flushing { pending, synced: Some(Ok(())), due, number });
            return Ok(());
        }
        let reaches_least = self.beside == 1 || self.random.bool();
        let synced = reaches_least.then(|| pending.sync());
        if let Some(Err(error)) = synced {
            // after it nothing is told any more, not even what was durable before
            return self.writer.end_flush(pending, Err(error)).map(|_| ());
        }
        let wait = self.wait();
        let due = Instant::now() + wait;
        if self.here && wait > HERE {
            self.events.push_back(SinkEvent::FlushTakesLong);
        }
        self.flushing.push(Flushing { pending, synced, due, number });
        Ok(())
    }

    /// The one under way that ends next.
    fn next_end(&self) -> Option<(usize, Instant)> {
        let ends = self.flushing.iter().enumerate().map(|(index, flushing)| (index, flushing.due));
        ends.min_by_key(|(_, due)| *due)
    }

    fn end_flush(&mut self) -> Result<(), SinkError> {
        let Some((index, _)) = self.next_end() else { return Ok(()) };
        let Flushing { pending, synced, .. } = self.flushing.remove(index);
        let synced = synced.unwrap_or_else(|| pending.sync());
        let result = self.writer.end_flush(pending, synced);
        self.failed |= result.is_err();
        self.events.push_back(SinkEvent::Flushed(result?));
        Ok(())
    }

    fn end_flushes(&mut self) -> Result<(), SinkError> {
        while !self.flushing.is_empty() {
            self.end_flush()?;
        }
        Ok(())
    }

    /// All that was pushed, to its end.
    fn run_all(&mut self) -> Result<(), SinkError> {
        self.write_gathered();
        self.end_flushes()?;
        self.run_queue()?;
        self.end_flushes()
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

    /// What is kept is written at once, or goes into the queue.
    fn write_gathered(&mut self) {
        let chunks = std::mem::take(&mut self.gathered);
        if chunks.is_empty() {
            return;
        }
        let mut lsn = self.gathered_lsn;
        if !self.failed && self.queue.is_empty() && self.random.u8(..4) > 0 {
            match self.writer.write_at_once(lsn, &chunks) {
                Ok(true) => {
                    self.written_lsn = lsn + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    (self.failed, self.error) = (true, Some(error));
                    return;
                }
            }
        }
        for data in chunks {
            let command = SinkCommand::Write { lsn, data };
            lsn = lsn + command.len() as u64;
            self.queue_up(command);
        }
    }

    fn queue_up(&mut self, command: SinkCommand) {
        self.queued_bytes += command.weight();
        self.queue.push_back(command);
    }
}

impl Sink for SimSink {
    fn push(&mut self, command: SinkCommand) {
        if let SinkCommand::Write { lsn, data } = command {
            if self.gathered.is_empty() {
                self.gathered_lsn = lsn;
            }
            self.gathered.push(data);
            if !self.gathers {
                self.write_gathered();
            }
            return;
        }
        self.write_gathered();
        if command == SinkCommand::Flush && self.queue.is_empty() {
            self.flush_wanted = true;
            return;
        }
        self.queue_up(command);
    }

    fn written_lsn(&mut self) -> Lsn {
        self.write_gathered();
        self.seen_written_lsn = self.written_lsn;
        self.written_lsn
    }

    fn flushes_here(&self) -> bool {
        let takes_long = |flushing: &Flushing| flushing.due > Instant::now() + HERE;
        let is_asked = self.flush_wanted || !self.flushing.is_empty();
        self.here && self.queue.is_empty() && is_asked && !self.flushing.iter().any(takes_long)
    }

    fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_LEN
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        self.write_gathered();
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
            let wait = self.wait();
            let turn = self.has_turn().then(|| *self.due.get_or_insert_with(|| Instant::now() + wait));
            match (self.next_end(), turn) {
                (None, None) => pending::<()>().await,
                (Some((_, end)), turn) if turn.is_none_or(|turn| end <= turn) => {
                    tokio::time::sleep_until(end).await;
                    self.end_flush()?;
                }
                (_, turn) => {
                    tokio::time::sleep_until(turn.expect("one of the two")).await;
                    self.due = None;
                    self.run_queue()?;
                    if self.flushing.is_empty() {
                        self.verify_some()?;
                    } else {
                        // something may have been sealed; that is looked at when nothing is synced any more
                        self.verification = Verification::Pending;
                    }
                }
            }
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
