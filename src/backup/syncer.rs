//! Makes finished files durable in the background, while receiving goes on.
//!
//! Answers to `fsync_pgdata` in PostgreSQL's `src/common/file_utils.c`, which runs when everything has been received.
//! Here writeback of a file starts soon after it is complete, and `fsync` follows on threads of their own. Small files are
//! handed over in batches: writeback of the whole batch is under way before the first `fsync` waits, and one commit of the
//! file system's journal serves them all. The descriptor that wrote a file is the one that syncs it, so an error of
//! its writeback cannot be missed. The first failure is final: a failed `fsync` is never tried again, because the
//! pages that it failed to write may be gone.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::Advice;

use super::confined::FileError;
use super::failure::Failure;

/// How many files a thread is given at once, at the most. One by one they would cost twice as much: each wakes a thread, and has
/// the journal committed for itself alone.
pub const BATCH_LEN: usize = 32;

/// How many bytes of files make a batch, though they be few.
const BATCH_BYTES: u64 = 1 << 20;

/// How many batches may wait; then receiving waits. Each file of them holds a descriptor, and 1024 is the usual limit.
pub const QUEUE_LEN: usize = 8;

/// How many threads sync. They wait for the device together, which then serves them all at once.
pub const THREAD_COUNT: usize = 8;

/// Threads that sync files.
#[derive(Debug)]
pub struct Syncer {
    queue: Option<SyncQueue>,
    threads: Vec<JoinHandle<()>>,
    failure: Arc<Failure>,
}

/// What gives them something to do. They end when all of them are gone.
#[derive(Debug, Clone)]
pub(super) struct SyncQueue {
    batches: SyncSender<Vec<Job>>,
    /// What is not yet a batch.
    gathered: Arc<Mutex<Gathered>>,
    failure: Arc<Failure>,
}

#[derive(Debug, Default)]
struct Gathered {
    jobs: Vec<Job>,
    byte_count: u64,
}

#[derive(Debug)]
struct Job {
    file: File,
    path: PathBuf,
}

impl Syncer {
    /// Starts the threads.
    pub fn start() -> Result<Self, FileError> {
        let (sender, batches) = sync_channel(QUEUE_LEN);
        let batches = Arc::new(Mutex::new(batches));
        let failure = Arc::new(Failure::default());
        let mut threads = Vec::with_capacity(THREAD_COUNT);
        for _ in 0..THREAD_COUNT {
            let (batches, failure) = (Arc::clone(&batches), Arc::clone(&failure));
            let thread =
                std::thread::Builder::new().name("fsync".to_owned()).spawn(move || run(&batches, &failure));
            threads.push(thread.map_err(|source| FileError::new("start thread", "fsync", source))?);
        }
        let queue = SyncQueue { batches: sender, gathered: Arc::default(), failure: Arc::clone(&failure) };
        Ok(Syncer { queue: Some(queue), threads, failure })
    }

    /// Hands over a complete file of `len` bytes. Waits while too many are queued; fails when an earlier one failed.
    pub fn sync(&self, file: File, path: PathBuf, len: u64) -> Result<(), FileError> {
        self.queue.as_ref().map_or(Ok(()), |queue| queue.sync(file, path, len))
    }

    /// For a thread that has files of its own to hand over.
    pub(super) fn queue(&self) -> Option<SyncQueue> {
        self.queue.clone()
    }

    /// Waits until every file handed over is durable. Every [`SyncQueue`] must be gone.
    pub fn finish(mut self) -> Result<(), FileError> {
        let queue = self.queue.take();
        // what could not be handed over has failed, or there was a failure before
        let sent = queue.map_or(Ok(()), |queue| queue.send_gathered());
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.failure.check().and(sent)
    }
}

impl SyncQueue {
    /// As [`Syncer::sync`].
    pub(super) fn sync(&self, file: File, path: PathBuf, len: u64) -> Result<(), FileError> {
        self.failure.check()?;
        let batch = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.jobs.push(Job { file, path });
            gathered.byte_count = gathered.byte_count.saturating_add(len);
            if gathered.jobs.len() < BATCH_LEN && gathered.byte_count < BATCH_BYTES {
                return Ok(());
            }
            std::mem::take(&mut *gathered)
        };
        self.send(batch)
    }

    fn send_gathered(&self) -> Result<(), FileError> {
        self.send(std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn send(&self, batch: Gathered) -> Result<(), FileError> {
        match self.batches.send(batch.jobs) {
            Ok(()) => Ok(()),
            Err(unsent) => {
                self.failure.check()?;
                let source = std::io::Error::other("no thread is left to sync it");
                let path = unsent.0.into_iter().next().map(|job| job.path).unwrap_or_default();
                Err(FileError::new("fsync file", path, source))
            }
        }
    }
}

impl Drop for Syncer {
    /// An abandoned backup needs no durability: what is queued is closed unsynced.
    fn drop(&mut self) {
        self.failure.abandon();
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A panic has been printed, and a panic while dropping would abort.
            let _ = thread.join();
        }
    }
}

fn run(batches: &Mutex<Receiver<Vec<Job>>>, failure: &Failure) {
    loop {
        let received = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = received else { return };
        // After a failure the queue is drained, so that nobody waits for room in it.
        if failure.has_happened() {
            continue;
        }
        batch.iter().for_each(|job| start_writeback(&job.file, 0, None));
        for job in &batch {
            if let Err(source) = job.file.sync_all() {
                failure.report(FileError::new("fsync file", &job.path, source));
                break;
            }
        }
    }
}

/// Asks the kernel to start writing a range that will not change again. Only advice: `fsync` settles the matter.
pub fn start_writeback(file: &File, offset: u64, len: Option<NonZeroU64>) {
    let _ = rustix::fs::fadvise(file, offset, len, Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_more_files_than_the_queue_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let syncer = Syncer::start().unwrap();
        for number in 0..2 * (QUEUE_LEN + THREAD_COUNT) * BATCH_LEN + 1 {
            let path = scratch.path().join(number.to_string());
            syncer.sync(File::create(&path).unwrap(), path, 1).unwrap();
        }
        syncer.finish().unwrap();
    }

    #[test]
    fn a_failure_is_final_and_named() {
        let syncer = Syncer::start().unwrap();
        // A socket cannot be synced.
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        syncer.sync(File::from(std::os::fd::OwnedFd::from(socket)), "a/socket".into(), 1).unwrap();
        let error = syncer.finish().unwrap_err();
        assert_eq!(error.to_string(), "could not fsync file \"a/socket\"");
        assert_eq!(error.source.kind(), std::io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_abandoned_syncer_ends() {
        let syncer = Syncer::start().unwrap();
        syncer.sync(tempfile::tempfile().unwrap(), "x".into(), 1).unwrap();
        drop(syncer);
    }
}
