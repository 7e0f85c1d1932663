//! Makes finished files durable in the background, while receiving goes on.
//!
//! Answers to `fsync_pgdata` in PostgreSQL's `src/common/file_utils.c`, which runs when everything has been received.
//! Here writeback of a file starts as soon as it is complete, and `fsync` follows on threads of their own. Files are
//! taken in batches: writeback of the whole batch is under way before the first `fsync` waits, and one commit of the
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

/// How many complete files may wait; then receiving waits. Each holds a descriptor, and 1024 is the usual limit.
pub const QUEUE_LEN: usize = 384;

/// How many files a thread takes at once.
pub const BATCH_LEN: usize = 128;

/// How many threads sync.
pub const THREAD_COUNT: usize = 4;

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
    jobs: SyncSender<Job>,
    failure: Arc<Failure>,
}

#[derive(Debug)]
struct Job {
    file: File,
    path: PathBuf,
}

impl Syncer {
    /// Starts the threads.
    pub fn start() -> Result<Self, FileError> {
        let (queue, jobs) = sync_channel(QUEUE_LEN);
        let jobs = Arc::new(Mutex::new(jobs));
        let failure = Arc::new(Failure::default());
        let mut threads = Vec::with_capacity(THREAD_COUNT);
        for _ in 0..THREAD_COUNT {
            let (jobs, failure) = (Arc::clone(&jobs), Arc::clone(&failure));
            let thread =
                std::thread::Builder::new().name("fsync".to_owned()).spawn(move || run(&jobs, &failure));
            threads.push(thread.map_err(|source| FileError::new("start thread", "fsync", source))?);
        }
        let queue = SyncQueue { jobs: queue, failure: Arc::clone(&failure) };
        Ok(Syncer { queue: Some(queue), threads, failure })
    }

    /// Hands over a complete file. Waits while too many are queued; fails when an earlier one failed.
    pub fn sync(&self, file: File, path: PathBuf) -> Result<(), FileError> {
        self.queue.as_ref().map_or(Ok(()), |queue| queue.sync(file, path))
    }

    /// For a thread that has files of its own to hand over.
    pub(super) fn queue(&self) -> Option<SyncQueue> {
        self.queue.clone()
    }

    /// Waits until every file handed over is durable. Every [`SyncQueue`] must be gone.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.failure.check()
    }
}

impl SyncQueue {
    /// As [`Syncer::sync`].
    pub(super) fn sync(&self, file: File, path: PathBuf) -> Result<(), FileError> {
        self.failure.check()?;
        match self.jobs.send(Job { file, path }) {
            Ok(()) => Ok(()),
            Err(unsent) => {
                self.failure.check()?;
                let source = std::io::Error::other("no thread is left to sync it");
                Err(FileError::new("fsync file", unsent.0.path, source))
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

fn run(jobs: &Mutex<Receiver<Job>>, failure: &Failure) {
    let mut batch = Vec::with_capacity(BATCH_LEN);
    loop {
        {
            let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(first) = jobs.recv() else { return };
            batch.push(first);
            batch.extend(jobs.try_iter().take(BATCH_LEN - 1));
        }
        // After a failure the queue is drained, so that nobody waits for room in it.
        if !failure.has_happened() {
            batch.iter().for_each(|job| start_writeback(&job.file, 0, None));
            for job in &batch {
                if let Err(source) = job.file.sync_all() {
                    failure.report(FileError::new("fsync file", &job.path, source));
                    break;
                }
            }
        }
        batch.clear();
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
        for number in 0..2 * QUEUE_LEN {
            let path = scratch.path().join(number.to_string());
            syncer.sync(File::create(&path).unwrap(), path).unwrap();
        }
        syncer.finish().unwrap();
    }

    #[test]
    fn a_failure_is_final_and_named() {
        let syncer = Syncer::start().unwrap();
        // A socket cannot be synced.
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        syncer.sync(File::from(std::os::fd::OwnedFd::from(socket)), "a/socket".into()).unwrap();
        let error = syncer.finish().unwrap_err();
        assert_eq!(error.to_string(), "could not fsync file \"a/socket\"");
        assert_eq!(error.source.kind(), std::io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_abandoned_syncer_ends() {
        let syncer = Syncer::start().unwrap();
        syncer.sync(tempfile::tempfile().unwrap(), "x".into()).unwrap();
        drop(syncer);
    }
}
