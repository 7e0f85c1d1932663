//! What the threads of a sink share: what is to be done, who does it, and what has come of it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::super::disk::Disk;
use super::super::error::SinkError;
use super::super::flushed::FlushedLsn;
use super::super::queue::SinkCommand;
use super::super::segment_writer::{PendingFlush, SegmentWriter};
use super::super::unverified_segment::Verification;
use super::beside::Beside;
use crate::handover::Work;
use crate::pg::Lsn;

/// As long as most syncs take less, the task's own thread does them. A standby's walreceiver always does them itself; here
/// nobody is to wait for a disk who waits for `remote_write`, unless to wake another thread on a busy machine takes as long.
pub(super) const QUICK_SYNC: Duration = Duration::from_millis(2);

/// What one sync counts for that, at the most: one that hung says little of the next.
const MAX_COUNTED_SYNC: Duration = Duration::from_millis(8);

pub(super) type Request<D> = Box<dyn FnOnce(&mut SegmentWriter<D>) -> Result<(), SinkError> + Send>;

pub(super) enum Job<D: Disk> {
    Command(SinkCommand),
    /// Something rarer than the stream, with an answer of its own.
    Request(Request<D>),
}

impl<D: Disk> Job<D> {
    /// Whether it opens and closes no file, and says nothing of what is durable: so it may be done while others sync.
    pub(super) fn is_for_open_segment(&self) -> bool {
        matches!(self, Job::Command(SinkCommand::Write { .. } | SinkCommand::Flush))
    }
}

pub(super) struct Shared<D: Disk> {
    pub(super) state: Mutex<State<D>>,
    /// Held by the thread while it works, but not while it syncs what was written. Locked, if at all, before the state.
    pub(super) writer: Mutex<SegmentWriter<D>>,
    pub(super) work: Condvar,
    /// For the threads that sync beside each other.
    pub(super) beside: Condvar,
    pub(super) changed: Notify,
}

/// Who syncs. There is only one at a time, of two the kernel would tell one alone of an error; unless all of them are of
/// [those](super::beside) that have a descriptor each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncing {
    Nobody,
    /// The task's own thread will, when the task waits.
    Asked,
    /// The task's own thread does, or one of those beside. The sink's thread only writes meanwhile.
    Elsewhere,
    /// The sink's thread does, or writes.
    SinksThread,
}

impl Syncing {
    /// `who` does no more, if it was them.
    pub(super) fn leave(&mut self, who: Syncing) {
        if *self == who {
            *self = Syncing::Nobody;
        }
    }
}

pub(super) struct State<D: Disk> {
    pub(super) jobs: VecDeque<Job<D>>,
    /// A flush was asked for behind all that was ever pushed; then it is not among the jobs.
    pub(super) flush_wanted: bool,
    /// The thread has taken jobs that are not done: what is pushed now has to come after them.
    pub(super) working: bool,
    pub(super) syncing: Syncing,
    /// The sink's thread has more to verify, in its own time.
    pub(super) verification: Verification,
    /// How long the quicker half of syncs take.
    pub(super) sync_time: Duration,
    pub(super) beside: Beside,
    pub(super) queued_bytes: usize,
    /// The driver was told that there is no room, and waits to be told that there is.
    pub(super) waits_for_room: bool,
    pub(super) flushed: Option<FlushedLsn>,
    pub(super) written_lsn: Lsn,
    /// The first, which is the cause of those behind it.
    pub(super) error: Option<SinkError>,
    /// No more jobs will come.
    pub(super) closed: bool,
    /// The thread takes no more jobs.
    pub(super) ended: bool,
}

impl<D: Disk> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<D: Disk> Shared<D> {
    pub(super) fn new(writer: SegmentWriter<D>) -> Self {
        Shared {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                flush_wanted: false,
                working: false,
                syncing: Syncing::Nobody,
                verification: Verification::Done,
                sync_time: Duration::ZERO,
                beside: Beside::default(),
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
            beside: Condvar::new(),
            changed: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<D>> {
        // no code that holds the lock can panic halfway through a change
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, SegmentWriter<D>> {
        // a panic under this lock ends the thread, after which nobody writes
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State<D>>) -> MutexGuard<'a, State<D>> {
        self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_beside<'a>(&self, state: MutexGuard<'a, State<D>>) -> MutexGuard<'a, State<D>> {
        self.beside.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable what is written. The writer is free meanwhile.
    pub(super) fn sync(&self) -> Result<FlushedLsn, SinkError> {
        let pending = self.writer().begin_flush()?;
        self.end_sync(pending)
    }

    /// The same, beside others. `None`: the open segment is not ready for that.
    pub(super) fn sync_beside(&self, number: usize) -> Result<Option<FlushedLsn>, SinkError> {
        let pending = self.writer().begin_flush_beside(number)?;
        pending.map(|pending| self.end_sync(pending)).transpose()
    }

    pub(super) fn end_sync(&self, pending: PendingFlush<D::File>) -> Result<FlushedLsn, SinkError> {
        let (is_for_disk, started_at) = (pending.is_for_disk(), Instant::now());
        let synced = pending.sync();
        let mut writer = self.writer();
        let flushed = writer.end_flush(pending, synced).map_err(|error| self.keep(error));
        drop(writer);
        let mut state = self.lock();
        if is_for_disk {
            state.note_sync(started_at.elapsed());
        }
        flushed
    }

    /// Keeps why the writer is unusable. While it is held: others who sync find it so, and could not say by what.
    pub(super) fn keep(&self, cause: SinkError) -> SinkError {
        self.lock().error.get_or_insert(cause);
        SinkError::Poisoned
    }

    pub(super) fn publish(&self, flushed: FlushedLsn) {
        let mut state = self.lock();
        // of those that sync beside each other, one that began later may have told its end before
        if state.flushed.is_none_or(|before| before.lsn() < flushed.lsn()) {
            state.flushed = Some(flushed);
        }
        state.written_lsn = state.written_lsn.max(flushed.lsn());
    }
}

/// A sync, done by the task's own thread.
impl<D> Work for Shared<D>
where
    D: Disk + Send,
    D::File: Send,
{
    fn run(&self) {
        let mut state = self.lock();
        if state.syncing != Syncing::Asked || state.ended {
            return;
        }
        state.syncing = Syncing::Elsewhere;
        drop(state);
        let _mark = SyncMark(self);
        match self.sync() {
            Ok(flushed) => self.publish(flushed),
            Err(error) => self.lock().end(Some(error)),
        }
    }

    fn wake(&self) {
        self.changed.notify_one();
    }
}

/// A thread that is not the sink's has synced, or has panicked meanwhile.
pub(super) struct SyncMark<'a, D: Disk>(pub(super) &'a Shared<D>);

impl<D: Disk> Drop for SyncMark<'_, D> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if std::thread::panicking() {
            state.end(None);
        }
        state.syncing = Syncing::Nobody;
        let is_waited_for = state.is_to_be_done();
        let is_beside = state.flush_wanted && state.is_flush_beside();
        drop(state);
        if is_beside {
            self.0.beside.notify_one();
        } else if is_waited_for {
            self.0.work.notify_all();
        }
    }
}

impl<D: Disk> State<D> {
    /// Drawn to quick syncs more than to slow ones: a busy machine makes some take long whatever the disk does, and then to
    /// wake more threads would not make them quicker.
    pub(super) fn note_sync(&mut self, took: Duration) {
        let took = took.min(MAX_COUNTED_SYNC);
        let weight = if took < self.sync_time { 4 } else { 16 };
        self.sync_time = ((weight - 1) * self.sync_time + took) / weight;
    }

    pub(super) fn is_quick_disk(&self) -> bool {
        self.sync_time < QUICK_SYNC
    }

    /// Whether the task's own thread may sync.
    pub(super) fn is_tasks(&self) -> bool {
        self.is_quick_disk() && !self.working && self.beside.syncing == 0
    }

    pub(super) fn has_work(&self) -> bool {
        self.flush_wanted || !self.jobs.is_empty()
    }

    /// Whether the sink's thread has anything to look after.
    pub(super) fn is_to_be_done(&self) -> bool {
        self.has_work() || self.closed || self.ended || self.verification == Verification::Pending
    }

    /// A sync that was asked for and has not begun is somebody else's now.
    pub(super) fn take_back_sync(&mut self) -> bool {
        let is_asked = self.syncing == Syncing::Asked;
        if is_asked {
            self.syncing = Syncing::Nobody;
        }
        is_asked
    }

    pub(super) fn end(&mut self, error: Option<SinkError>) {
        self.ended = true;
        self.error = self.error.take().or(error);
        self.jobs.clear();
        (self.flush_wanted, self.working, self.queued_bytes) = (false, false, 0);
    }
}
