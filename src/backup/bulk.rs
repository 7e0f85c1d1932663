//! Long files go to the device past the page cache, from a thread of their own.
//!
//! PostgreSQL's `pg_basebackup` writes through the page cache where it receives. A write past it waits for the device
//! instead of copying, which costs a fraction of the processor time, and that waiting must not hold up the socket: so
//! what is received is gathered, queued, and written here while more comes. Files keep their order, and each is handed to
//! the [`Syncer`](super::syncer::Syncer) behind its last byte.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::confined::FileError;
use super::failure::Failure;
use super::syncer::SyncQueue;
use crate::direct::{DirectWriter, TwinFile};

/// From this length on a file is a long one, in bytes.
pub(super) const MIN_FILE_LEN: u64 = 1 << 20;

/// How many bytes are gathered for one write: what keeps a device busy.
pub(super) const GATHER_LEN: usize = 512 << 10;

/// How many pieces are gathered for one write, for each of them keeps a receive buffer from being used again.
pub(super) const GATHER_COUNT: usize = 256;

/// How many writes may wait.
const QUEUE_LEN: usize = 4;

/// The thread that writes.
#[derive(Debug)]
pub(super) struct BulkWriter {
    queue: Option<BulkQueue>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Failure>,
}

/// What gives it something to do.
#[derive(Debug, Clone)]
pub(super) struct BulkQueue {
    jobs: SyncSender<Job>,
    failure: Arc<Failure>,
}

/// A file that is written here.
#[derive(Debug)]
pub(super) struct LongFile {
    twin: TwinFile,
    path: PathBuf,
}

/// What becomes of a write for which the device has no time yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusyDevice {
    /// It waits: everything has to reach the device before the backup ends anyway.
    Wait,
    /// It goes through the page cache, and the operating system has the trouble.
    UseCache,
}

#[derive(Debug)]
enum Job {
    Write {
        file: Arc<LongFile>,
        offset: u64,
        chunks: Vec<Bytes>,
    },
    /// The file is complete. Nobody else has it any more.
    End(Arc<LongFile>),
    /// Nothing will come.
    Stop,
}

impl BulkWriter {
    /// Starts the thread, which hands complete files to `syncer`.
    pub(super) fn start(syncer: Option<SyncQueue>) -> Result<Self, FileError> {
        let (jobs, queue) = sync_channel(QUEUE_LEN);
        let failure = Arc::new(Failure::default());
        let shared = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("write".to_owned())
            .spawn(move || run(&queue, syncer.as_ref(), &shared))
            .map_err(|source| FileError::new("start thread", "write", source))?;
        let queue = BulkQueue { jobs, failure: Arc::clone(&failure) };
        Ok(BulkWriter { queue: Some(queue), thread: Some(thread), failure })
    }

    /// For whoever has something to write.
    pub(super) fn queue(&self) -> Option<BulkQueue> {
        self.queue.clone()
    }

    /// Waits until all is written.
    pub(super) fn finish(mut self) -> Result<(), FileError> {
        if let Some(Err(panic)) = self.stop() {
            std::panic::resume_unwind(panic);
        }
        self.failure.check()
    }

    fn stop(&mut self) -> Option<std::thread::Result<()>> {
        // a thread that has panicked listens to nobody
        let _ = self.queue.take()?.jobs.send(Job::Stop);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for BulkWriter {
    /// Of an abandoned backup nothing may still be written when it is removed.
    fn drop(&mut self) {
        self.failure.abandon();
        // a panic has been printed
        let _ = self.stop();
    }
}

impl BulkQueue {
    /// Writes `chunks` to `offset`, soon. An error may be an earlier write's.
    pub(super) fn write(
        &self,
        file: &Arc<LongFile>,
        offset: u64,
        chunks: Vec<Bytes>,
        busy: BusyDevice,
    ) -> Result<(), FileError> {
        self.failure.check()?;
        let job = Job::Write { file: Arc::clone(file), offset, chunks };
        match (busy, self.jobs.try_send(job)) {
            (_, Ok(())) => Ok(()),
            (BusyDevice::UseCache, Err(TrySendError::Full(Job::Write { file, offset, chunks }))) => {
                file.failed(file.twin.write_cached_at(offset, &chunks))
            }
            (_, Err(TrySendError::Full(job) | TrySendError::Disconnected(job))) => self.send(job),
        }
    }

    /// The file is complete: syncs it when all that was queued is written.
    pub(super) fn end(&self, file: Arc<LongFile>) -> Result<(), FileError> {
        self.send(Job::End(file))
    }

    fn send(&self, job: Job) -> Result<(), FileError> {
        self.failure.check()?;
        self.jobs.send(job).map_err(|_| {
            // it ends before its queue does only when it panics
            FileError::new("write", "backup", std::io::Error::other("no thread is left to write it"))
        })
    }
}

impl LongFile {
    /// A file that can be written past the page cache; gives it back when it cannot.
    pub(super) fn open(file: File, path: PathBuf) -> Result<Arc<Self>, (File, PathBuf)> {
        match TwinFile::open(file) {
            Ok(twin) => Ok(Arc::new(LongFile { twin, path })),
            Err(file) => Err((file, path)),
        }
    }

    /// The file alone.
    pub(super) fn into_parts(self) -> (File, PathBuf) {
        (self.twin.into_file(), self.path)
    }

    fn failed(&self, written: std::io::Result<()>) -> Result<(), FileError> {
        written.map_err(|source| FileError::new("write to file", &self.path, source))
    }
}

fn run(queue: &Receiver<Job>, syncer: Option<&SyncQueue>, failure: &Failure) {
    let mut writer = DirectWriter::new();
    for job in queue {
        let done = match job {
            Job::Stop => return,
            // after a failure the queue is drained, so that nobody waits for room in it
            _ if failure.has_happened() => Ok(()),
            Job::Write { file, offset, chunks } => {
                file.failed(writer.write_twin_at(&file.twin, offset, &chunks))
            }
            Job::End(file) => match (Arc::into_inner(file), syncer) {
                (Some(file), Some(syncer)) => {
                    let (file, path) = file.into_parts();
                    syncer.sync(file, path, MIN_FILE_LEN)
                }
                _ => Ok(()),
            },
        };
        if let Err(error) = done {
            failure.report(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    /// A long file in a directory that has no other.
    fn long_file(directory: &std::path::Path) -> Option<Arc<LongFile>> {
        let path = directory.join("file");
        LongFile::open(File::create(&path).unwrap(), path).ok()
    }

    #[test]
    fn all_is_written_whether_the_device_is_busy_or_not() {
        for busy in [BusyDevice::Wait, BusyDevice::UseCache] {
            let scratch = tempfile::tempdir().unwrap();
            let Some(file) = long_file(scratch.path()) else { return };
            let writer = BulkWriter::start(None).unwrap();
            let queue = writer.queue().unwrap();
            let mut expected = Vec::new();
            for turn in 0..60_u8 {
                let len = [4096, 300_000, 7, GATHER_LEN][usize::from(turn) % 4];
                let chunk = vec![turn; len];
                queue.write(&file, expected.len() as u64, vec![chunk.clone().into()], busy).unwrap();
                expected.extend_from_slice(&chunk);
            }
            queue.end(file).unwrap();
            drop(queue);
            writer.finish().unwrap();
            assert!(std::fs::read(scratch.path().join("file")).unwrap() == expected);
        }
    }

    #[test]
    fn a_failure_is_final_and_named() {
        // a pipe has no offsets to write to
        let (_reader, pipe) = std::io::pipe().unwrap();
        let Ok(file) = LongFile::open(File::from(OwnedFd::from(pipe)), "a/b".into()) else { return };
        let writer = BulkWriter::start(None).unwrap();
        let queue = writer.queue().unwrap();
        let _ = queue.write(&file, 0, vec![Bytes::from_static(b"x")], BusyDevice::Wait);
        drop(queue);
        let error = writer.finish().unwrap_err();
        assert_eq!(error.to_string(), "could not write to file \"a/b\"");
    }

    #[test]
    fn an_abandoned_writer_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let Some(file) = long_file(scratch.path()) else { return };
        let writer = BulkWriter::start(None).unwrap();
        let queue = writer.queue().unwrap();
        queue.write(&file, 0, vec![Bytes::from_static(b"x")], BusyDevice::Wait).unwrap();
        drop(queue);
        drop(writer);
    }
}
