//! The sink on a thread of its own.
//!
//! fdatasync can take seconds, and nothing of that may hold up the socket: the receiver pushes commands into a
//! queue bounded by bytes, the thread takes all that has gathered, writes it, syncs once, publishes, and looks
//! again. A full queue makes the driver leave the socket alone; status updates go on.
//!
//! What takes no more than a copy into the page cache is written where it is pushed, while others wait for the disk: the
//! writer is shared, and whoever syncs lets go of it meanwhile. So a commit that waits for `remote_write` is answered
//! without the thread, and never by the disk; and the next sync is for all that came during the last one.
//!
//! The way of a commit's WAL when the stream is live, and all that one commit costs: one wait for the socket (`epoll_wait`), one
//! `recv`; its checksums, where the bytes are warm; one `pwritev`, from where they were received; `fdatasync`, and `statx`, because
//! nobody would find a file that was removed; a `send` that says "written and flushed", or two, where commits wait for
//! `remote_write`. Six system calls, or seven, one thread, and a test counts them. As long as syncs are quick, the thread that
//! receives does them itself, by way of a [`Handover`], which has another one go on with receiving when one takes longer. When
//! they are slow, they are left to [threads of their own](beside), several at a time: a futex to wake one, and a `write` to be
//! woken by. One copy out of the socket, one into the page cache, no allocation that grows with the stream. While catching up
//! the sink's thread writes, past the page cache: then the copy out of the socket is the only one.
//!
//! WAL is checked as it is pushed: the bytes are in that processor's cache, and the thread is left with what has to wait
//! for the disk.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::continuation::StreamChecker;
use super::disk::{Disk, DiskEntry};
use super::error::{Operation, SinkError};
use super::flushed::FlushedLsn;
use super::interface::{Sink, SinkEvent};
use super::queue::{SinkCommand, SinkLimits};
use super::segment_writer::{MAX_AT_ONCE_LEN, SegmentWriter};
use super::stamp::ClusterStamp;
use crate::handover::{Handover, Work};
use crate::pg::{Lsn, TimelineId, WalSegmentSize};

mod beside;
mod gathered;
mod shared;
mod turns;

use gathered::Gathered;
use shared::{Job, Shared, Syncing};

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
    /// Where the task that pushes can leave a sync for its own thread.
    handover: Option<Handover>,
    /// A sync was left there, and nothing was told of it since.
    asked_here: bool,
    /// What was pushed last and follows one upon the other, to be written at once, and in one.
    gathered: Gathered,
}

/// WAL shares the memory it was received into, a large piece; fewer bytes than this, waiting for the disk, must not
/// keep it.
const MIN_SHARED_LEN: usize = 8 << 10;

impl<D> SinkThread<D>
where
    D: Disk + Send + 'static,
    D::File: Send,
{
    /// Starts the thread.
    pub fn spawn(writer: SegmentWriter<D>, limits: SinkLimits) -> Result<Self, SinkError> {
        let path = writer.disk.path("");
        let shared = Arc::new(Shared::new(writer));
        let thread = std::thread::Builder::new().name("wal-sink".into()).spawn({
            let shared = Arc::clone(&shared);
            move || turns::run(&shared)
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
            handover: None,
            asked_here: false,
            gathered: Gathered::default(),
        })
    }

    /// Leaves syncs that are quick to the thread that pushes.
    pub fn with_handover(mut self, handover: Option<Handover>) -> Self {
        self.handover = handover;
        self
    }

    async fn request<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut SegmentWriter<D>) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        self.write_gathered();
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

impl<D> SinkThread<D>
where
    D: Disk + Send + 'static,
    D::File: Send,
{
    fn push_job(&mut self, job: Job<D>) {
        let mut state = self.shared.lock();
        if state.ended {
            return;
        }
        if let Job::Command(command) = &job {
            state.queued_bytes += command.weight();
        }
        let (was_idle, had_jobs) = (!state.has_work(), !state.jobs.is_empty());
        match job {
            Job::Command(SinkCommand::Flush) if state.jobs.is_empty() => {
                match (state.syncing, &self.handover) {
                    (Syncing::Asked, _) => return,
                    (Syncing::Nobody, Some(handover)) if was_idle && state.is_tasks() => {
                        state.syncing = Syncing::Asked;
                        drop(state);
                        self.asked_here = true;
                        return handover.ask(Arc::clone(&self.shared) as Arc<dyn Work>);
                    }
                    _ => state.flush_wanted = true,
                }
            }
            job => {
                if std::mem::take(&mut state.flush_wanted) | state.take_back_sync() {
                    state.jobs.push_back(Job::Command(SinkCommand::Flush));
                }
                state.jobs.push_back(job);
            }
        }
        let is_beside = state.flush_wanted && state.is_flush_beside();
        // whoever syncs looks again afterwards, and what is to be written meanwhile is not theirs
        let wakes =
            if state.jobs.is_empty() { was_idle && state.syncing == Syncing::Nobody } else { !had_jobs };
        drop(state);
        if is_beside {
            self.shared.beside.notify_one();
        } else if wakes {
            self.shared.work.notify_all();
        }
    }

    /// Keeps what is to be written behind what is kept already.
    fn gather(&mut self, lsn: Lsn, data: Bytes) {
        if !self.gathered.can_take(lsn, data.len(), MAX_AT_ONCE_LEN) {
            self.write_gathered();
        }
        self.gathered.push(lsn, data);
    }

    /// Writes what is kept, or leaves it to the thread.
    fn write_gathered(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        if self.writes_at_once() {
            self.gathered.clear();
            return;
        }
        for mut command in self.gathered.take_commands() {
            if let SinkCommand::Write { data, .. } = &mut command
                && data.len() < MIN_SHARED_LEN
            {
                *data = Bytes::copy_from_slice(data);
            }
            self.push_job(Job::Command(command));
        }
    }

    /// Writes what is kept here and now, if that is next and quickly done. Says whether nothing is left to do about it.
    fn writes_at_once(&mut self) -> bool {
        let state = self.shared.lock();
        // only this thread pushes, so what is idle now stays idle
        if state.working || !state.jobs.is_empty() || state.ended {
            return false;
        }
        drop(state);
        let Ok(mut writer) = self.shared.writer.try_lock() else { return false };
        match writer.write_at_once(self.gathered.lsn(), self.gathered.chunks()) {
            Ok(false) => return false,
            Ok(true) => self.shared.lock().written_lsn = self.gathered.end_lsn(),
            Err(error) => {
                // while the writer is held: a sync that ends after this finds it poisoned, and could not say by what
                self.shared.lock().error.get_or_insert(error);
                drop(writer);
                self.push_job(Job::Request(Box::new(|_| Err(SinkError::Poisoned))));
            }
        }
        true
    }

    /// Whether the WAL is what a server wrote. Before the error is told, what came before it is written.
    fn checks(&mut self, command: &SinkCommand) -> bool {
        let (Some(checker), SinkCommand::Write { lsn, data }) = (&mut self.checker, command) else {
            return true;
        };
        let Err(error) = checker.check(*lsn, data) else { return true };
        self.write_gathered();
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
            self.asked_here &= state.syncing == Syncing::Asked;
            return Some(Ok(SinkEvent::Flushed(flushed)));
        }
        if self.asked_here && state.syncing != Syncing::Asked {
            self.asked_here = false;
            return Some(Ok(SinkEvent::FlushTakesLong));
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
    fn push(&mut self, command: SinkCommand) {
        if !self.checks(&command) {
            return;
        }
        match command {
            SinkCommand::Write { lsn, data } => self.gather(lsn, data),
            command => {
                self.write_gathered();
                self.push_job(Job::Command(command));
            }
        }
    }

    fn written_lsn(&mut self) -> Lsn {
        self.write_gathered();
        self.seen_written_lsn = self.shared.lock().written_lsn;
        self.seen_written_lsn
    }

    fn flushes_here(&self) -> bool {
        self.asked_here && self.shared.lock().syncing == Syncing::Asked
    }

    fn has_room(&self) -> bool {
        // noted under the same lock: room that is made right after this answer is told of
        let mut state = self.shared.lock();
        state.waits_for_room = state.queued_bytes >= self.limits.queued_bytes;
        !state.waits_for_room
    }

    async fn event(&mut self) -> Result<SinkEvent, SinkError> {
        self.write_gathered();
        let shared = Arc::clone(&self.shared);
        loop {
            let mut changed = pin!(shared.changed.notified());
            // the task may be polled for another reason, and finds what its own thread has done
            let event = poll_fn(|cx| match self.poll_event() {
                Some(event) => Poll::Ready(Some(event)),
                // a change between the look and the wait leaves a permit, so none is missed
                None => changed.as_mut().poll(cx).map(|()| None),
            });
            if let Some(event) = event.await {
                return event;
            }
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
        (self.seen, self.seen_written_lsn, self.asked_here) = (None, start_lsn, false);
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
        let mut state = self.shared.lock();
        for command in self.gathered.take_commands() {
            state.queued_bytes += command.weight();
            state.jobs.push_back(Job::Command(command));
        }
        state.closed = true;
        state.flush_wanted |= state.take_back_sync();
        drop(state);
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // a panic of the thread was already seen as its end
            let _ = thread.join();
        }
        // work that was asked for may still be remembered somewhere; the directory is free all the same
        self.shared.writer().close();
    }
}

#[cfg(test)]
mod tests;
