//! Threads that sync, one beside the other, while the disk is slow.
//!
//! On a disk that takes longer than [`QUICK_SYNC`](super::shared::QUICK_SYNC), whoever asks for a flush finds a thread that does not wait for the syncs
//! before it. Each tells how far the stream is durable by its own sync alone: that began after all before that position was
//! written, and `fdatasync` returns when everything written before it is durable, whoever else was about to write it out. So
//! the furthest of them is true, in whatever order they end. One that fails is the end for all: what others tell after it
//! was durable all the same, because each has a descriptor of its own, and is told of every error by itself.
//!
//! The sink's thread meanwhile writes what is too much to be [written at once](super::super::SegmentWriter::write_at_once). It seals
//! segments, and whatever else it is asked to do, when none of these threads is at work.

use super::super::disk::Disk;
use super::super::unverified_segment::Verification;
use super::shared::{Shared, State, SyncMark, Syncing};

/// So many syncs may run at a time. With few, most commits come while all of them are at work; more than these the disk
/// would put together anyhow. They are threads that sleep, and are started when the disk is slow for the first time.
pub(super) const COUNT: usize = 8;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// The open segment is ready for them.
    pub(super) prepared: bool,
    /// How many sync.
    pub(super) syncing: usize,
    /// They were started, those that could be.
    started: Option<usize>,
    /// There is nothing more to do for them.
    pub(super) closed: bool,
}

impl<D: Disk> State<D> {
    /// Whether a flush that is asked for is theirs: the disk is slow, and nothing that was pushed before is still to be written.
    pub(super) fn is_flush_beside(&self) -> bool {
        let has_threads = self.beside.started.is_some_and(|count| count > 0) && !(self.closed || self.ended);
        let is_all_written = self.jobs.is_empty() && !self.working;
        let is_free = self.syncing == Syncing::Nobody && (self.beside.prepared || self.beside.syncing == 0);
        // reading a segment back is the sink's thread's, which does not stop for these: between its steps it syncs itself
        has_threads && !self.is_quick_disk() && is_all_written && is_free && self.is_verified()
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verification == Verification::Done
    }
}

/// Starts them with `thread`, for the first time; says whether there are any.
pub(super) fn start<D: Disk>(shared: &Shared<D>, thread: &dyn Fn(usize) -> bool) -> bool {
    let started = shared.lock().beside.started;
    let started = started.unwrap_or_else(|| (0..COUNT).filter(|number| thread(*number)).count());
    shared.lock().beside.started = Some(started);
    started > 0
}

/// What one of the threads does until it is [closed](Close).
pub(super) fn run<D: Disk>(shared: &Shared<D>, number: usize) {
    let mut state = shared.lock();
    while !(state.beside.closed || state.ended) {
        if !(state.flush_wanted && state.is_flush_beside()) {
            state = shared.wait_beside(state);
            continue;
        }
        state.flush_wanted = false;
        if state.beside.prepared {
            state.beside.syncing += 1;
            drop(state);
            sync(shared, number);
        } else {
            state.syncing = Syncing::Elsewhere;
            drop(state);
            prepare(shared);
        }
        state = shared.lock();
    }
}

/// Syncs beside others.
fn sync<D: Disk>(shared: &Shared<D>, number: usize) {
    let _mark = Mark(shared);
    match shared.sync_beside(number) {
        Ok(Some(flushed)) => shared.publish(flushed),
        Ok(None) => {
            let mut state = shared.lock();
            (state.flush_wanted, state.beside.prepared) = (!state.ended, false);
        }
        Err(error) => shared.lock().end(Some(error)),
    }
}

/// Makes a segment ready for these threads, and then syncs alone: of what went wrong before, that sync is told.
fn prepare<D: Disk>(shared: &Shared<D>) {
    let mark = SyncMark(shared);
    let prepared = shared.writer().prepare_beside(COUNT);
    match prepared.and_then(|prepared| Ok((prepared, shared.sync()?))) {
        Ok((prepared, flushed)) => {
            shared.lock().beside.prepared = prepared;
            shared.publish(flushed);
        }
        Err(error) => shared.lock().end(Some(error)),
    }
    drop(mark);
    shared.changed.notify_one();
}

/// One of them has synced, or has panicked meanwhile.
struct Mark<'a, D: Disk>(&'a Shared<D>);

impl<D: Disk> Drop for Mark<'_, D> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if std::thread::panicking() {
            state.end(None);
        }
        state.beside.syncing -= 1;
        let is_waited_for = (state.beside.syncing == 0 || state.ended) && state.is_to_be_done();
        drop(state);
        self.0.changed.notify_one();
        if is_waited_for {
            self.0.work.notify_all();
        }
    }
}

/// The sink's thread ends, in whatever way: so do these.
pub(super) struct Close<'a, D: Disk>(pub(super) &'a Shared<D>);

impl<D: Disk> Drop for Close<'_, D> {
    fn drop(&mut self) {
        self.0.lock().beside.closed = true;
        self.0.beside.notify_all();
    }
}
