//! What the sink's thread does, turn by turn: all that has gathered, or what may be done while others sync.

use std::collections::VecDeque;

use super::super::disk::Disk;
use super::super::error::SinkError;
use super::super::flushed::FlushedLsn;
use super::super::queue::Batch;
use super::super::segment_writer::SegmentWriter;
use super::super::unverified_segment::Verification;
use super::beside;
use super::shared::{Job, Shared, State, Syncing};

/// What the sink's thread does next.
enum Turn<D: Disk> {
    /// These, while others sync: whatever flush is among them is for later.
    Writes(VecDeque<Job<D>>),
    /// All that there is, and a flush if one is wanted.
    All(VecDeque<Job<D>>, bool),
    End,
}

impl<D: Disk> State<D> {
    /// What the sink's thread has to do; `None`: nothing now.
    fn next_turn(&mut self) -> Option<Turn<D>> {
        if self.ended {
            return Some(Turn::End);
        }
        if self.syncing == Syncing::Elsewhere || self.beside.syncing > 0 {
            let count = self.jobs.iter().take_while(|job| job.is_for_open_segment()).count();
            self.working = count > 0;
            return (count > 0).then(|| Turn::Writes(self.jobs.drain(..count).collect()));
        }
        let has_flush = self.flush_wanted && !self.is_flush_beside();
        if self.jobs.is_empty() && !has_flush && (self.closed || self.verification == Verification::Done) {
            return self.closed.then_some(Turn::End);
        }
        let jobs = std::mem::take(&mut self.jobs);
        self.working = !jobs.is_empty();
        self.beside.prepared &= jobs.iter().all(Job::is_for_open_segment);
        let flush_wanted = (has_flush && std::mem::take(&mut self.flush_wanted)) | self.take_back_sync();
        self.syncing = Syncing::SinksThread;
        Some(Turn::All(jobs, flush_wanted))
    }
}

/// Marks the end whatever way the thread ends, a panic included, so that nobody waits for it for ever.
struct EndMark<'a, D: Disk>(&'a Shared<D>);

impl<D: Disk> Drop for EndMark<'_, D> {
    fn drop(&mut self) {
        self.0.lock().end(None);
        self.0.changed.notify_one();
    }
}

pub(super) fn run<D: Disk + Send>(shared: &Shared<D>)
where
    D::File: Send,
{
    let _mark = EndMark(shared);
    std::thread::scope(|scope| {
        let _close = beside::Close(shared);
        let start = |number| {
            let thread = std::thread::Builder::new().name("wal-sync".into());
            thread.spawn_scoped(scope, move || beside::run(shared, number)).is_ok()
        };
        run_turns(shared, &start);
    });
}

fn run_turns<D: Disk>(shared: &Shared<D>, start: &dyn Fn(usize) -> bool) {
    let mut batch = Batch::default();
    loop {
        let mut state = shared.lock();
        let turn = loop {
            match state.next_turn() {
                Some(turn) => break turn,
                None => state = shared.wait(state),
            }
        };
        drop(state);
        let result = match turn {
            Turn::End => return,
            Turn::Writes(jobs) => write_meanwhile(&mut batch, jobs, shared),
            Turn::All(jobs, flush_wanted) => {
                let worked = work_through(&mut batch, jobs, flush_wanted, shared, start);
                let verified = worked.and_then(|()| shared.writer().verify_some());
                verified.map(|left| shared.lock().verification = left)
            }
        };
        let mut state = shared.lock();
        state.syncing.leave(Syncing::SinksThread);
        if let Err(error) = result {
            return state.end(Some(error));
        }
        if state.flush_wanted && state.is_flush_beside() {
            drop(state);
            shared.beside.notify_one();
        }
    }
}

/// While others sync.
fn write_meanwhile<D: Disk>(
    batch: &mut Batch,
    jobs: VecDeque<Job<D>>,
    shared: &Shared<D>,
) -> Result<(), SinkError> {
    let mut writer = shared.writer();
    let written = run_jobs(&mut writer, batch, jobs, |flushed| shared.publish(flushed), shared);
    written.map_err(|error| shared.keep(error))?;
    drop(writer);
    let mut state = shared.lock();
    state.working = false;
    state.flush_wanted |= batch.take_flush_wanted();
    Ok(())
}

fn work_through<D: Disk>(
    batch: &mut Batch,
    jobs: VecDeque<Job<D>>,
    flush_wanted: bool,
    shared: &Shared<D>,
    start: &dyn Fn(usize) -> bool,
) -> Result<(), SinkError> {
    let publish = |flushed: FlushedLsn| {
        shared.publish(flushed);
        shared.changed.notify_one();
    };
    if !jobs.is_empty() {
        let mut writer = shared.writer();
        run_jobs(&mut writer, batch, jobs, publish, shared)?;
    }
    let flush_wanted = batch.take_flush_wanted() || flush_wanted;
    let mut state = shared.lock();
    state.working = false;
    let is_slow = flush_wanted && !state.is_quick_disk() && !state.closed && state.is_verified();
    drop(state);
    if is_slow && beside::start(shared, start) {
        shared.lock().flush_wanted = true;
    } else if flush_wanted {
        publish(shared.sync()?);
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
