//! The sink on a thread of its own.
//!
//! fdatasync can take seconds, and nothing of that may hold up the socket: the receiver pushes commands into a
//! queue bounded by bytes, the thread takes all that has gathered, writes it, syncs once, publishes, and looks
//! again. While it syncs, the next batch gathers. A full queue makes the driver leave the socket alone; status
//! updates go on.
//!
//! WAL is checked as it is pushed, where the socket is read: the bytes are in that processor's cache, and the thread is
//! left with what has to wait for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::continuation::StreamChecker;
use super::disk::{Disk, DiskEntry};
use super::error::{Operation, SinkError};
use super::flushed::FlushedLsn;
use super::queue::{Batch, SinkCommand, SinkLimits};
use super::segment_writer::SegmentWriter;
use super::stamp::ClusterStamp;
use crate::pg::{Lsn, TimelineId, WalSegmentSize};

/// What the sink has to say to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkEvent {
    /// More is durable.
    Flushed(FlushedLsn),
    /// The queue was full and has room again.
    Room,
}

/// A sink as the driver sees it: never blocking, with events that can be awaited.
///
/// The driver is written against this, so that a simulated sink in virtual time can stand in for the thread.
pub trait Sink {
    /// Queues a command.
    fn push(&mut self, command: SinkCommand);
    /// Whether more WAL should be read from the socket.
    fn has_room(&self) -> bool;
    /// The next event. Cancel-safe. After an error there are no more.
    fn event(&mut self) -> impl Future<Output = Result<SinkEvent, SinkError>>;
    /// Checks the directory's cluster and lists the directory, after all that was queued.
    fn prepare(&mut self, stamp: ClusterStamp) -> impl Future<Output = Result<Vec<DiskEntry>, SinkError>>;
    /// Begins a stream, after all that was queued. Events of the stream before it do not come any more: on the
    /// same timeline they would speak of positions that this one has not reached again.
    fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> impl Future<Output = Result<(), SinkError>>;
    /// Makes a history file durable, after all that was queued.
    fn write_history(
        &mut self,
        timeline: TimelineId,
        content: Bytes,
    ) -> impl Future<Output = Result<(), SinkError>>;
    /// Waits until all that was queued is done, and durable.
    fn settle(&mut self) -> impl Future<Output = Result<(), SinkError>>;
}

/// A [`SegmentWriter`] on a thread. Dropped, it finishes what is queued.
#[derive(Debug)]
pub struct SinkThread<D: Disk> {
    shared: Arc<Shared<D>>,
    thread: Option<JoinHandle<()>>,
    limits: SinkLimits,
    seen: Option<FlushedLsn>,
    /// For the WAL of the stream that has begun, if it is checked.
    checker: Option<StreamChecker>,
}

/// WAL shares the memory it was received into, a large piece; fewer bytes than this, waiting for the disk, must not
/// keep it.
const MIN_SHARED_LEN: usize = 8 << 10;

type Request<D> = Box<dyn FnOnce(&mut SegmentWriter<D>) -> Result<(), SinkError> + Send>;

enum Job<D: Disk> {
    Command(SinkCommand),
    /// Something rarer than the stream, with an answer of its own.
    Request(Request<D>),
}

struct Shared<D: Disk> {
    state: Mutex<State<D>>,
    work: Condvar,
    changed: Notify,
}

struct State<D: Disk> {
    jobs: VecDeque<Job<D>>,
    queued_bytes: usize,
    /// The driver was told that there is no room, and waits to be told that there is.
    waits_for_room: bool,
    flushed: Option<FlushedLsn>,
    error: Option<SinkError>,
    /// No more jobs will come.
    closed: bool,
    /// The thread takes no more jobs.
    ended: bool,
}

impl<D: Disk> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<D: Disk> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        // no code that holds the lock can panic halfway through a change
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D> SinkThread<D>
where
    D: Disk + Send + 'static,
    D::File: Send,
{
    /// Starts the thread.
    pub fn spawn(writer: SegmentWriter<D>, limits: SinkLimits) -> Result<Self, SinkError> {
        let path = writer.disk.path("");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                queued_bytes: 0,
                waits_for_room: false,
                flushed: None,
                error: None,
                closed: false,
                ended: false,
            }),
            work: Condvar::new(),
            changed: Notify::new(),
        });
        let thread = std::thread::Builder::new().name("wal-sink".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(writer, &shared)
        });
        let operation = Operation::StartThread;
        let thread = thread.map_err(|source| SinkError::Io { operation, path, source })?;
        Ok(SinkThread { shared, thread: Some(thread), limits, seen: None, checker: None })
    }

    async fn request<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut SegmentWriter<D>) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let (sender, receiver) = oneshot::channel();
        self.push_job(Job::Request(Box::new(move |writer| {
            let result = work(writer);
            let poisoned = writer.check_usable();
            // the asker may have gone; the work was done all the same
            let _ = sender.send(result);
            poisoned
        })));
        match receiver.await {
            Ok(result) => result,
            Err(_) => Err(self.shared.lock().error.take().unwrap_or(SinkError::ThreadEnded)),
        }
    }
}

impl<D: Disk> SinkThread<D> {
    fn push_job(&self, job: Job<D>) {
        let mut state = self.shared.lock();
        if state.ended {
            return;
        }
        if let Job::Command(command) = &job {
            state.queued_bytes += command.weight();
        }
        let was_empty = state.jobs.is_empty();
        state.jobs.push_back(job);
        drop(state);
        if was_empty {
            self.shared.work.notify_one();
        }
    }

    /// Whether the WAL is what a server wrote. Before the error is told, what came before it is written.
    fn checks(&mut self, command: &SinkCommand) -> bool {
        let (Some(checker), SinkCommand::Write { lsn, data }) = (&mut self.checker, command) else { return true };
        let Err(error) = checker.check(*lsn, data) else { return true };
        self.push_job(Job::Request(Box::new(|_| Err(error))));
        false
    }

    fn poll_event(&mut self) -> Option<Result<SinkEvent, SinkError>> {
        let mut state = self.shared.lock();
        if let Some(flushed) = state.flushed
            && state.flushed != self.seen
        {
            self.seen = state.flushed;
            return Some(Ok(SinkEvent::Flushed(flushed)));
        }
        if state.ended {
            return Some(Err(state.error.take().unwrap_or(SinkError::ThreadEnded)));
        }
        if state.queued_bytes < self.limits.queued_bytes && std::mem::take(&mut state.waits_for_room) {
            return Some(Ok(SinkEvent::Room));
        }
        None
    }
}

impl<D> Sink for SinkThread<D>
where
    D: Disk + Send + 'static,
    D::File: Send,
{
    fn push(&mut self, mut command: SinkCommand) {
        if !self.checks(&command) {
            return;
        }
        if let SinkCommand::Write { data, .. } = &mut command
            && data.len() < MIN_SHARED_LEN
        {
            *data = Bytes::copy_from_slice(data);
        }
        self.push_job(Job::Command(command));
    }

    fn has_room(&self) -> bool {
        // noted under the same lock: room that is made right after this answer is told of
        let mut state = self.shared.lock();
        state.waits_for_room = state.queued_bytes >= self.limits.queued_bytes;
        !state.waits_for_room
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        loop {
            if let Some(event) = self.poll_event() {
                return event;
            }
            // a change between the look and the wait leaves a permit, so none is missed
            self.shared.changed.notified().await;
        }
    }

    async fn prepare(&mut self, stamp: ClusterStamp) -> Result<Vec<DiskEntry>, SinkError> {
        self.request(move |writer| writer.prepare(stamp)).await
    }

    async fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> Result<(), SinkError> {
        self.checker = None;
        let begin = move |writer: &mut SegmentWriter<D>| {
            writer.begin(timeline, segment_size, start_lsn)?;
            Ok(writer.take_checker())
        };
        self.checker = self.request(begin).await?;
        // forgotten, not only passed over: this stream may reach the very position where the last one ended
        self.shared.lock().flushed = None;
        self.seen = None;
        Ok(())
    }

    async fn write_history(&mut self, timeline: TimelineId, content: Bytes) -> Result<(), SinkError> {
        self.request(move |writer| writer.write_history(timeline, content)).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.request(SegmentWriter::settle).await
    }
}

impl<D: Disk> Drop for SinkThread<D> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // a panic of the thread was already seen as its end
            let _ = thread.join();
        }
    }
}

/// Marks the end whatever way the thread ends, a panic included, so that nobody waits for it for ever.
struct EndMark<'a, D: Disk>(&'a Shared<D>);

impl<D: Disk> Drop for EndMark<'_, D> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.jobs.clear();
        state.queued_bytes = 0;
        drop(state);
        self.0.changed.notify_one();
    }
}

fn run<D: Disk>(mut writer: SegmentWriter<D>, shared: &Shared<D>) {
    let _mark = EndMark(shared);
    let mut batch = Batch::default();
    loop {
        let mut state = shared.lock();
        while state.jobs.is_empty() && !state.closed {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.jobs.is_empty() {
            return;
        }
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        if let Err(error) = run_jobs(&mut writer, &mut batch, jobs, shared) {
            shared.lock().error = Some(error);
            return;
        }
    }
}

fn run_jobs<D: Disk>(
    writer: &mut SegmentWriter<D>,
    batch: &mut Batch,
    jobs: VecDeque<Job<D>>,
    shared: &Shared<D>,
) -> Result<(), SinkError> {
    let publish = |flushed| {
        shared.lock().flushed = Some(flushed);
        shared.changed.notify_one();
    };
    let wrote = |len| {
        if len > 0 {
            shared.lock().queued_bytes -= len;
            shared.changed.notify_one();
        }
    };
    let mut jobs = jobs.into_iter().peekable();
    while jobs.peek().is_some() {
        let commands = std::iter::from_fn(|| match jobs.next_if(|job| matches!(job, Job::Command(_))) {
            Some(Job::Command(command)) => Some(command),
            _ => None,
        });
        batch.run(writer, commands, publish, wrote)?;
        if let Some(Job::Request(request)) = jobs.next() {
            request(writer)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, RealDisk};
    use super::*;
    use crate::pg::SystemIdentifier;

    fn stamp() -> ClusterStamp {
        let segment_size = WalSegmentSize::from_bytes(1 << 20).unwrap();
        ClusterStamp { system_identifier: SystemIdentifier::new(1), segment_size }
    }

    #[tokio::test]
    async fn what_is_pushed_becomes_durable_and_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
        let mut sink = SinkThread::spawn(writer, SinkLimits { queued_bytes: 10 }).unwrap();
        sink.prepare(stamp()).await.unwrap();
        sink.begin(TimelineId::FIRST, stamp().segment_size, Lsn::new(1 << 20)).await.unwrap();
        sink.push(SinkCommand::Write { lsn: Lsn::new(1 << 20), data: Bytes::from(vec![7; 1 << 20]) });
        sink.push(SinkCommand::Seal);
        loop {
            match sink.event().await.unwrap() {
                SinkEvent::Flushed(flushed) if flushed.lsn() == Lsn::new(2 << 20) => break,
                _ => {}
            }
        }
        assert!(sink.has_room());
        let names: Vec<String> = sink.prepare(stamp()).await.unwrap().into_iter().map(|e| e.name).collect();
        assert!(names.contains(&"000000010000000000000001".to_owned()), "{names:?}");
    }

    /// The driver asks whether there is room, and waits for an event when there is none: in between, room may be made.
    #[tokio::test]
    async fn room_that_is_made_at_once_is_told_of_too() {
        let directory = tempfile::tempdir().unwrap();
        let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
        let mut sink = SinkThread::spawn(writer, SinkLimits { queued_bytes: 10 }).unwrap();
        sink.prepare(stamp()).await.unwrap();
        let start = 1 << 20;
        sink.begin(TimelineId::FIRST, stamp().segment_size, Lsn::new(start)).await.unwrap();
        let mut waited = 0;
        for number in 0..2000 {
            sink.push(SinkCommand::Write {
                lsn: Lsn::new(start + number * 20),
                data: Bytes::from(vec![7; 20]),
            });
            if !sink.has_room() {
                waited += 1;
                while !sink.shared.lock().jobs.is_empty() {
                    std::thread::yield_now();
                }
                let event = tokio::time::timeout(std::time::Duration::from_secs(20), sink.event());
                let event = event.await.expect("room is told of").unwrap();
                assert!(matches!(event, SinkEvent::Room), "{event:?}");
            }
        }
        assert!(waited > 0, "there was always room");
    }

    #[tokio::test]
    async fn a_stream_that_ends_where_the_last_one_did_is_published_too() {
        let directory = tempfile::tempdir().unwrap();
        let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
        let mut sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
        sink.prepare(stamp()).await.unwrap();
        let (start, end) = (Lsn::new(1 << 20), Lsn::new((1 << 20) + 9));
        for _ in 0..2 {
            sink.begin(TimelineId::FIRST, stamp().segment_size, start).await.unwrap();
            sink.push(SinkCommand::Write { lsn: start, data: Bytes::from_static(b"the same.") });
            sink.push(SinkCommand::Flush);
            let event = tokio::time::timeout(std::time::Duration::from_secs(20), sink.event());
            let event = event.await.expect("the position is published").unwrap();
            assert!(matches!(event, SinkEvent::Flushed(flushed) if flushed.lsn() == end), "{event:?}");
        }
    }

    #[tokio::test]
    async fn an_error_ends_the_thread_and_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let writer = SegmentWriter::open(RealDisk::new(directory.path()), Layout::Archive).unwrap();
        let mut sink = SinkThread::spawn(writer, SinkLimits::default()).unwrap();
        sink.push(SinkCommand::Flush);
        assert!(matches!(sink.event().await, Err(SinkError::OutOfOrder { .. })));
        assert!(matches!(sink.event().await, Err(SinkError::ThreadEnded)));
        assert!(matches!(sink.prepare(stamp()).await, Err(SinkError::ThreadEnded)));
    }
}
