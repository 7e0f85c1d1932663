//! The only `select!`: one stream, its [`Receiver`], the sink, the clock and the wish to stop.
//!
//! One wake-up takes what has arrived, bounded by bytes, messages and time, so that status updates and flushes
//! are never starved by a stream that does not pause. A full sink pauses the reading; status updates go on.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ReceiveError;
use super::observer::{BatchReceived, Observer};
use super::receiver::{Action, Moment, Receiver};
use super::upstream::ReplicationStream;
use crate::client::{ClientError, NextTimeline, StreamEnd};
use crate::pg::{Lsn, TimelineId, WalSegmentSize};
use crate::sink::{FlushedLsn, Sink, SinkCommand, SinkEvent};
use crate::wire::replication::{PgTimestamp, ReplicationMessage};

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// Until something fails.
    #[default]
    Failure,
    /// Until all before this position is durable.
    Lsn(Lsn),
    /// No longer: make durable and report what has come, and say farewell.
    Now,
}

/// How far receiving has got, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The timeline; `None` before the first stream.
    pub timeline: Option<TimelineId>,
    /// What has arrived.
    pub received_lsn: Lsn,
    /// What is durable; [`Lsn::INVALID`] as long as nothing of this stream is.
    pub flush_lsn: Lsn,
    /// The furthest position that the server has spoken of.
    pub server_wal_end_lsn: Lsn,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamOutcome {
    /// We have what was wanted.
    Stopped,
    /// The server goes on elsewhere.
    TimelineEnded(NextTimeline),
}

/// The clock: time since the driver's first look, and the wall clock for the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
}

/// How much one wake-up takes before it looks after everything else. The bytes are a few times what a socket's
/// buffer holds; the time is far below every timeout that counts.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_MESSAGES: usize = 1024;
const BATCH_TIME: Duration = Duration::from_millis(5);

/// As long as a server leaves more of our status updates unread, nothing is read from it: each of its messages may bring one
/// more.
const MAX_UNSENT_LEN: usize = 64 << 10;

/// How long the farewell may take when no receive timeout is set.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

impl Clock {
    pub(super) fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    pub(super) fn now(self) -> Moment {
        let wall_clock = PgTimestamp::from_system_time(SystemTime::now());
        Moment { elapsed: self.origin.elapsed(), wall_clock }
    }

    fn instant(self, elapsed: Duration) -> Instant {
        self.origin + elapsed
    }
}

enum Wake {
    Message(Option<ReplicationMessage>),
    Sink(SinkEvent),
    Until,
    Timeout,
    /// The server reads our updates again.
    Sent,
}

/// What a wait is for, besides the sink and the clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Message,
    /// That the server takes what is queued; messages come after it.
    Sent,
    Nothing,
}

/// Everything around one stream.
pub(super) struct Driver<'a, K> {
    pub(super) sink: &'a mut K,
    pub(super) until: &'a mut watch::Receiver<Until>,
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) segment_size: WalSegmentSize,
    /// Up to where finished segments were told of.
    pub(super) finished_lsn: Lsn,
    pub(super) clock: Clock,
}

impl<K: Sink> Driver<'_, K> {
    /// Runs the stream to its end. However it ends, the sink gets all that was received: what a server sent just
    /// before it died may be nowhere else.
    pub(super) async fn run<S: ReplicationStream>(
        &mut self,
        stream: S,
        receiver: &mut Receiver,
    ) -> Result<StreamOutcome, ReceiveError> {
        let outcome = self.run_stream(stream, receiver).await;
        if outcome.is_err() {
            self.keep_received(receiver);
        }
        outcome
    }

    async fn run_stream<S: ReplicationStream>(
        &mut self,
        mut stream: S,
        receiver: &mut Receiver,
    ) -> Result<StreamOutcome, ReceiveError> {
        let mut reading = true;
        let until = *self.until.borrow_and_update();
        self.handle_until(until, receiver);
        loop {
            if self.act(&mut stream, receiver).await? == Act::CopyDone {
                return self.farewell(stream, receiver).await;
            }
            if self.sink.has_room() != reading {
                reading = !reading;
                let now = self.clock.now();
                if reading { receiver.resume_reading(now) } else { receiver.pause_reading(now) }
            }
            let wanted = match reading && !receiver.is_server_done() {
                true if stream.unsent_len() > MAX_UNSENT_LEN => Wanted::Sent,
                true => Wanted::Message,
                false => Wanted::Nothing,
            };
            match self.wait(&mut stream, receiver, wanted).await? {
                Wake::Message(message) => self.handle_batch(message, &mut stream, receiver).await?,
                Wake::Sink(SinkEvent::Flushed(flushed)) => {
                    receiver.handle_written(self.sink.written_lsn());
                    self.tell_finished(flushed);
                    let result = receiver.handle_flushed(self.clock.now(), flushed);
                    result.map_err(|error| broken_off(receiver, error))?;
                    self.observer.flushed(receiver.positions().flush_lsn());
                }
                Wake::Sink(SinkEvent::Written) => receiver.handle_written(self.sink.written_lsn()),
                // where a flush is under way elsewhere, what is written is told of before it
                Wake::Sink(SinkEvent::Room | SinkEvent::FlushTakesLong) | Wake::Sent => {}
                Wake::Sink(SinkEvent::Archived(archived)) => {
                    receiver.handle_archived(self.clock.now(), archived);
                }
                Wake::Until => {
                    let until = *self.until.borrow_and_update();
                    self.handle_until(until, receiver);
                }
                Wake::Timeout => {
                    // a process that was stopped for a while finds that time is up before it has looked at what came
                    if wanted == Wanted::Message
                        && let Some(message) = poll_once(stream.next()).await
                    {
                        self.handle_batch(message.map_err(lost)?, &mut stream, receiver).await?;
                    }
                    let result = receiver.handle_timeout(self.clock.now());
                    result.map_err(|error| broken_off(receiver, error))?;
                }
            }
        }
    }

    /// Does what the receiver wants done.
    async fn act<S: ReplicationStream>(
        &mut self,
        stream: &mut S,
        receiver: &mut Receiver,
    ) -> Result<Act, ReceiveError> {
        let mut status_queued = false;
        loop {
            while let Some(action) = receiver.poll_action() {
                match self.hand_to_sink(action) {
                    None if receiver.has_more_to_write() => {}
                    // what was written at once is reported in the same breath
                    None => receiver.handle_written(self.sink.written_lsn()),
                    Some(Action::SendStatus(update)) => {
                        stream.queue_status_update(&update);
                        status_queued = true;
                    }
                    Some(Action::SendCopyDone) => return Ok(Act::CopyDone),
                    _ => {}
                }
            }
            if self.sink.flushes_here() || !receiver.handle_no_flush() {
                break;
            }
        }
        self.publish(receiver);
        self.observer.written(receiver.positions().write_lsn());
        if status_queued {
            // that it fails shows again in the next wait, behind what the server said before it was gone
            let _ = poll_once(stream.send()).await;
        }
        Ok(Act::Wait)
    }

    /// The stream is broken, in the middle of a batch perhaps. There is nobody any more to tell anything.
    fn keep_received(&mut self, receiver: &mut Receiver) {
        while let Some(action) = receiver.poll_action() {
            // what is for the server has no reader
            let _ = self.hand_to_sink(action);
        }
        let _ = self.sink.written_lsn();
        self.publish(receiver);
    }

    /// An action that is the sink's; the others come back.
    fn hand_to_sink(&mut self, action: Action) -> Option<Action> {
        let command = match action {
            Action::Write { lsn, data } => SinkCommand::Write { lsn, data },
            Action::Seal => SinkCommand::Seal,
            Action::Flush => SinkCommand::Flush,
            other => return Some(other),
        };
        self.sink.push(command);
        None
    }

    async fn wait<S: ReplicationStream>(
        &mut self,
        stream: &mut S,
        receiver: &Receiver,
        wanted: Wanted,
    ) -> Result<Wake, ReceiveError> {
        let deadline = receiver.poll_timeout().map(|elapsed| self.clock.instant(elapsed));
        let timeout = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let message = async {
            if wanted == Wanted::Message {
                return stream.next().await.map(Wake::Message);
            }
            stream.send().await?;
            if wanted == Wanted::Nothing {
                pending::<()>().await;
            }
            Ok(Wake::Sent)
        };
        tokio::select! {
            biased;
            () = changed(self.until) => Ok(Wake::Until),
            event = self.sink.event() => Ok(Wake::Sink(event?)),
            () = timeout => Ok(Wake::Timeout),
            message = message => message.map_err(lost),
        }
    }

    /// Takes `first` and what else has arrived.
    async fn handle_batch<S: ReplicationStream>(
        &mut self,
        first: Option<ReplicationMessage>,
        stream: &mut S,
        receiver: &mut Receiver,
    ) -> Result<(), ReceiveError> {
        let started = self.clock.now();
        let mut message = first;
        let (mut bytes, mut messages) = (0, 0);
        loop {
            let now = self.clock.now();
            let Some(taken) = message else {
                receiver.handle_server_end(now);
                return Ok(());
            };
            if let ReplicationMessage::WalData(wal) = &taken {
                bytes += wal.data.len();
            }
            messages += 1;
            receiver.handle_message(now, taken).map_err(|error| broken_off(receiver, error))?;
            let full = bytes >= BATCH_BYTES
                || messages >= BATCH_MESSAGES
                || now.elapsed.saturating_sub(started.elapsed) >= BATCH_TIME;
            if full {
                break;
            }
            match poll_once(stream.next()).await {
                Some(next) => message = next.map_err(lost)?,
                None => break,
            }
        }
        let now = self.clock.now();
        self.observer.batch_received(&BatchReceived {
            message_count: messages as u64,
            wal_len: bytes as u64,
            age: now.elapsed.saturating_sub(started.elapsed),
            received_lsn: receiver.positions().received_lsn(),
            server_wal_end_lsn: receiver.server_wal_end_lsn(),
            server_sent_at: receiver.server_sent_at(),
        });
        receiver.handle_batch_end(now);
        Ok(())
    }

    fn tell_finished(&mut self, flushed: FlushedLsn) {
        loop {
            let end_lsn = self.segment_size.segment_at(self.finished_lsn).end_lsn();
            if end_lsn > flushed.lsn() {
                return;
            }
            self.finished_lsn = end_lsn;
            self.observer.segment_finished(flushed.timeline(), end_lsn);
        }
    }

    fn handle_until(&self, until: Until, receiver: &mut Receiver) {
        match until {
            Until::Failure => {}
            Until::Lsn(lsn) => receiver.stop_at(self.clock.now(), lsn),
            Until::Now => receiver.stop(self.clock.now()),
        }
    }

    /// CopyDone and what comes after it. All is durable and reported, so when it was us who wanted to stop, a
    /// server that does not answer is no reason to fail.
    async fn farewell<S: ReplicationStream>(
        &mut self,
        stream: S,
        receiver: &Receiver,
    ) -> Result<StreamOutcome, ReceiveError> {
        self.publish(receiver);
        let end = tokio::time::timeout(FAREWELL_TIMEOUT, stream.finish()).await;
        if receiver.is_stopped_by_us() {
            if let Ok(Err(error)) = end {
                tracing::debug!(%error, "connection was lost while the stream was being ended");
            }
            return Ok(StreamOutcome::Stopped);
        }
        let timeline = receiver.timeline();
        match end {
            Ok(Ok(StreamEnd { next_timeline: Some(next) })) => Ok(StreamOutcome::TimelineEnded(next)),
            Ok(Ok(StreamEnd { next_timeline: None })) => Err(ReceiveError::NoNextTimeline { timeline }),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => {
                let source = super::error::ReceiverError::Timeout { after: FAREWELL_TIMEOUT };
                Err(ReceiveError::Stream { timeline, source })
            }
        }
    }

    fn publish(&self, receiver: &Receiver) {
        let positions = receiver.positions();
        let new = Progress {
            timeline: Some(receiver.timeline()),
            received_lsn: positions.received_lsn(),
            flush_lsn: positions.flush_lsn(),
            server_wal_end_lsn: receiver.server_wal_end_lsn(),
        };
        self.progress.send_if_modified(|old| std::mem::replace(old, new) != new);
    }
}

#[derive(PartialEq, Eq)]
enum Act {
    Wait,
    CopyDone,
}

/// Resolves when the value changes; never when nobody can change it any more.
pub(super) async fn changed(until: &mut watch::Receiver<Until>) {
    if until.changed().await.is_err() {
        pending::<()>().await;
    }
}

fn broken_off(receiver: &Receiver, source: super::error::ReceiverError) -> ReceiveError {
    ReceiveError::Stream { timeline: receiver.timeline(), source }
}

fn lost(source: ClientError) -> ReceiveError {
    ReceiveError::Client { during: "receive WAL", source }
}

/// What is there already, without waiting. The task is woken when there is more.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::observer::LogObserver;
    use super::super::receiver::{FlushMeaning, FlushPolicy, ReceiverConfig};
    use super::super::written_reports::WrittenReports;
    use super::*;
    use crate::compression::Compression;
    use crate::sink::{Layout, RealDisk, RecordCheck};
    use crate::stream::error::ReceiverError;
    use crate::stream::receive::open_sink;
    use crate::wire::replication::{PrimaryKeepalive, StandbyStatusUpdate};

    /// A server that asks and asks, and reads no answer.
    struct Deaf<'a> {
        unsent_len: &'a mut usize,
    }

    impl ReplicationStream for Deaf<'_> {
        async fn next(&mut self) -> Result<Option<ReplicationMessage>, ClientError> {
            let wal_end_lsn = Lsn::new(1 << 20);
            Ok(Some(ReplicationMessage::PrimaryKeepalive(PrimaryKeepalive {
                wal_end_lsn,
                sent_at: PgTimestamp(0),
                reply_requested: true,
            })))
        }

        fn queue_status_update(&mut self, _: &StandbyStatusUpdate) {
            *self.unsent_len += 39;
        }

        fn unsent_len(&self) -> usize {
            *self.unsent_len
        }

        async fn send(&mut self) -> Result<(), ClientError> {
            pending().await
        }

        async fn finish(self) -> Result<crate::client::StreamEnd, ClientError> {
            pending().await
        }
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_do_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(directory.path());
        let mut sink = open_sink(disk, Layout::Archive, RecordCheck::Off, Compression::NONE).unwrap();
        let (progress, _) = watch::channel(Progress::default());
        let (_sender, mut until) = watch::channel(Until::Failure);
        let (segment_size, start_lsn) = (WalSegmentSize::from_bytes(1 << 20).unwrap(), Lsn::new(1 << 20));
        let clock = Clock::start();
        let config = ReceiverConfig {
            timeline: TimelineId::FIRST,
            start_lsn,
            segment_size,
            flush_floor: Lsn::INVALID,
            status_interval: Duration::from_secs(10),
            receive_timeout: Duration::from_millis(500),
            flush_policy: FlushPolicy::Prompt,
            flush_meaning: FlushMeaning::Durable,
            written_reports: WrittenReports::AtOnce,
        };
        let mut receiver = Receiver::new(clock.now(), config);
        let mut driver = Driver {
            sink: &mut sink,
            until: &mut until,
            progress: &progress,
            observer: &mut LogObserver,
            segment_size,
            finished_lsn: start_lsn,
            clock,
        };
        let mut unsent_len = 0;
        let error = driver.run(Deaf { unsent_len: &mut unsent_len }, &mut receiver).await.unwrap_err();
        // what it says is heard until its own deafness is in the way
        assert!(
            matches!(error, ReceiveError::Stream { source: ReceiverError::Timeout { .. }, .. }),
            "{error}"
        );
        assert!((MAX_UNSENT_LEN..2 * MAX_UNSENT_LEN).contains(&unsent_len), "{unsent_len}");
    }
}
