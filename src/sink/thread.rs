//! The sink on a thread of its own.
//!
//! fdatasync can take seconds, and nothing of that may hold up the socket: the receiver pushes commands into a
//! queue bounded by bytes, the thread takes all that has gathered, writes it, syncs once, publishes, and looks
//! again. A full queue makes the driver leave the socket alone; status updates go on.
//!
//! What takes no more than a copy into the page cache is written where it is pushed, while the thread waits for the disk: the
//! writer is shared, and the thread lets go of it while it syncs. So a commit that waits for `remote_write` is answered
//! without the thread, and never by the disk; and the next sync is for all that came during the last one.
//!
//! The way of a commit's WAL when the stream is live, which is all there is to do for it: one `recv`; its checksums, where
//! the bytes are warm; one `pwritev`, from where they were received; a futex to wake the thread, unless it is at work; a
//! `send` that says "written". Then the thread's `fdatasync`, and a `write` to wake the socket's thread, which `send`s
//! "flushed". One copy out of the socket, one into the page cache, no allocation that grows with the stream. While catching
//! up the thread writes, past the page cache: then the copy out of the socket is the only one.
//!
//! WAL is checked as it is pushed: the bytes are in that processor's cache, and the thread is left with what has to wait
//! for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::continuation::StreamChecker;
use super::disk::{Disk, DiskEntry};
use super::error::{Operation, SinkError};
use super::flushed::{ArchivedLsn, FlushedLsn};
use super::queue::{Batch, SinkCommand, SinkLimits};
use super::segment_writer::SegmentWriter;
use super::stamp::ClusterStamp;
use super::unverified_segment::Verification;
use crate::pg::{Lsn, TimelineId, WalSegmentSize};

/// What the sink has to say to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkEvent {
    /// More is durable.
    Flushed(FlushedLsn),
    /// More is with the operating system: see [`Sink::written_lsn`].
    Written,
    /// The queue was full and has room again.
    Room,
    /// More is in the archive. Only sinks that archive say so.
    Archived(ArchivedLsn),
}

/// A sink as the driver sees it: never blocking, with events that can be awaited.
///
/// The driver is written against this, so that a simulated sink in virtual time can stand in for the thread.
pub trait Sink {
    /// Queues a command.
    fn push(&mut self, command: SinkCommand);
    /// How far the stream is with the operating system.
    fn written_lsn(&mut self) -> Lsn;
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
    seen_written_lsn: Lsn,
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
    /// Held by the thread while it works, but not while it syncs what was written. Locked, if at all, before the state.
    writer: Mutex<SegmentWriter<D>>,
    work: Condvar,
    changed: Notify,
}

struct State<D: Disk> {
    jobs: VecDeque<Job<D>>,
    /// A flush was asked for behind all that was ever pushed; then it is not among the jobs.
    flush_wanted: bool,
    /// The thread has taken jobs that are not done: what is pushed now has to come after them.
    working: bool,
    queued_bytes: usize,
    /// The driver was told that there is no room, and waits to be told that there is.
    waits_for_room: bool,
    flushed: Option<FlushedLsn>,
    written_lsn: Lsn,
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

    fn writer(&self) -> MutexGuard<'_, SegmentWriter<D>> {
        // a panic under this lock ends the thread, after which nobody writes
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
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
                flush_wanted: false,
                working: false,
                queued_bytes: 0,
                waits_for_room: false,
                flushed: None,
                written_lsn: Lsn::INVALID,
                error: None,
                closed: false,
                ended: false,
            }),
            writer: Mutex::new(writer),
            work: Condvar::new(),
            changed: Notify::new(),
        });
        let thread = std::thread::Builder::new().name("wal-sink".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared)
        });
        let operation = Operation::StartThread;
        let thread = thread.map_err(|source| SinkError::Io { operation, path, source })?;
        Ok(SinkThread {
            shared,
            thread: Some(thread),
            limits,
            seen: None,
            seen_written_lsn: Lsn::INVALID,
            checker: None,
        })
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
        let was_idle = state.jobs.is_empty() && !state.flush_wanted;
        match job {
            Job::Command(SinkCommand::Flush) if state.jobs.is_empty() => state.flush_wanted = true,
            job => {
                if std::mem::take(&mut state.flush_wanted) {
                    state.jobs.push_back(Job::Command(SinkCommand::Flush));
                }
                state.jobs.push_back(job);
            }
        }
        drop(state);
        if was_idle {
            self.shared.work.notify_one();
        }
    }

    /// Writes here and now, if that is next and quickly done. Says whether nothing is left to do about it.
    fn writes_at_once(&mut self, command: &SinkCommand) -> bool {
        let SinkCommand::Write { lsn, data } = command else { return false };
        let state = self.shared.lock();
        // only this thread pushes, so what is idle now stays idle
        if state.working || !state.jobs.is_empty() || state.ended {
            return false;
        }
        drop(state);
        let Ok(mut writer) = self.shared.writer.try_lock() else { return false };
        let written = writer.write_at_once(*lsn, data);
        drop(writer);
        match written {
            Ok(false) => return false,
            Ok(true) => self.shared.lock().written_lsn = *lsn + data.len() as u64,
            Err(error) => self.push_job(Job::Request(Box::new(|_| Err(error)))),
        }
        true
    }

    /// Whether the WAL is what a server wrote. Before the error is told, what came before it is written.
    fn checks(&mut self, command: &SinkCommand) -> bool {
        let (Some(checker), SinkCommand::Write { lsn, data }) = (&mut self.checker, command) else {
            return true;
        };
        let Err(error) = checker.check(*lsn, data) else { return true };
        self.push_job(Job::Request(Box::new(|_| Err(error))));
        false
    }

    fn poll_event(&mut self) -> Option<Result<SinkEvent, SinkError>> {
        let mut state = self.shared.lock();
        // first: after a failure nothing is told any more, not even what was durable before
        if state.ended {
            return Some(Err(state.error.take().unwrap_or(SinkError::ThreadEnded)));
        }
        if let Some(flushed) = state.flushed
            && state.flushed != self.seen
        {
            self.seen = state.flushed;
            return Some(Ok(SinkEvent::Flushed(flushed)));
        }
        if state.queued_bytes < self.limits.queued_bytes && std::mem::take(&mut state.waits_for_room) {
            return Some(Ok(SinkEvent::Room));
        }
        if state.written_lsn > self.seen_written_lsn {
            self.seen_written_lsn = state.written_lsn;
            return Some(Ok(SinkEvent::Written));
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
        if !self.checks(&command) || self.writes_at_once(&command) {
            return;
        }
        if let SinkCommand::Write { data, .. } = &mut command
            && data.len() < MIN_SHARED_LEN
        {
            *data = Bytes::copy_from_slice(data);
        }
        self.push_job(Job::Command(command));
    }

    fn written_lsn(&mut self) -> Lsn {
        self.seen_written_lsn = self.shared.lock().written_lsn;
        self.seen_written_lsn
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
        let mut state = self.shared.lock();
        (state.flushed, state.written_lsn) = (None, start_lsn);
        (self.seen, self.seen_written_lsn) = (None, start_lsn);
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
        (state.flush_wanted, state.working, state.queued_bytes) = (false, false, 0);
        drop(state);
        self.0.changed.notify_one();
    }
}

fn run<D: Disk>(shared: &Shared<D>) {
    let _mark = EndMark(shared);
    let mut batch = Batch::default();
    let mut verification = Verification::Done;
    loop {
        let mut state = shared.lock();
        while state.jobs.is_empty() && !state.flush_wanted && !state.closed {
            if verification == Verification::Pending {
                break;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed && state.jobs.is_empty() && !state.flush_wanted {
            return;
        }
        let jobs = std::mem::take(&mut state.jobs);
        state.working = !jobs.is_empty();
        let flush_wanted = std::mem::take(&mut state.flush_wanted);
        drop(state);
        let worked = work_through(&mut batch, jobs, flush_wanted, shared);
        match worked.and_then(|()| shared.writer().verify_some()) {
            Ok(left) => verification = left,
            Err(error) => {
                shared.lock().error = Some(error);
                return;
            }
        }
    }
}

fn work_through<D: Disk>(
    batch: &mut Batch,
    jobs: VecDeque<Job<D>>,
    flush_wanted: bool,
    shared: &Shared<D>,
) -> Result<(), SinkError> {
    let publish = |flushed: FlushedLsn| {
        let mut state = shared.lock();
        state.flushed = Some(flushed);
        state.written_lsn = state.written_lsn.max(flushed.lsn());
        drop(state);
        shared.changed.notify_one();
    };
    if !jobs.is_empty() {
        let mut writer = shared.writer();
        run_jobs(&mut writer, batch, jobs, publish, shared)?;
        shared.lock().working = false;
    }
    if batch.take_flush_wanted() || flush_wanted {
        let pending = shared.writer().begin_flush()?;
        // the writer is free meanwhile
        let synced = pending.sync();
        publish(shared.writer().end_flush(pending, synced)?);
    }
    Ok(())
}

fn run_jobs<D: Disk>(
    writer: &mut SegmentWriter<D>,
    batch: &mut Batch,
    jobs: VecDeque<Job<D>>,
    mut publish: impl FnMut(FlushedLsn),
    shared: &Shared<D>,
) -> Result<(), SinkError> {
    let wrote = |weight, written_lsn| {
        let mut state = shared.lock();
        state.queued_bytes -= weight;
        state.written_lsn = written_lsn;
        drop(state);
        shared.changed.notify_one();
    };
    let mut jobs = jobs.into_iter().peekable();
    while jobs.peek().is_some() {
        let commands = std::iter::from_fn(|| match jobs.next_if(|job| matches!(job, Job::Command(_))) {
            Some(Job::Command(command)) => Some(command),
            _ => None,
        });
        batch.run(writer, commands, &mut publish, wrote)?;
        if let Some(Job::Request(request)) = jobs.next() {
            if batch.take_flush_wanted() {
                publish(writer.flush()?);
            }
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
            loop {
                let event = tokio::time::timeout(std::time::Duration::from_secs(20), sink.event());
                match event.await.expect("the position is published").unwrap() {
                    SinkEvent::Written => assert_eq!(sink.written_lsn(), end),
                    event => {
                        let published = matches!(event, SinkEvent::Flushed(flushed) if flushed.lsn() == end);
                        assert!(published, "{event:?}");
                        break;
                    }
                }
            }
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
