//! Extracts archives that the server has compressed, on a thread of its own: decompressing and writing overlap with
//! receiving.
//!
//! Answers to the decompressing streamers in PostgreSQL's `src/fe_utils`. Departure: a compressed archive must end where
//! its format ends; what comes behind that is an error.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::{Buf, Bytes, BytesMut};

use super::archive_stream::ArchiveEvent;
use super::error::BackupError;
use super::writer::{BackupWriter, WholeBackup};
use crate::compression::{CompressionMethod, Decoder};
use crate::direct::BLOCK_LEN;

/// How many bytes are gathered before the thread is told: each time it may have to be woken.
const BATCH_LEN: usize = 256 << 10;

/// How many events are gathered, for each of them keeps a receive buffer from being used again.
const BATCH_COUNT: usize = 128;

/// How many batches may wait.
const QUEUE_LEN: usize = 4;

/// The longest piece of an archive that waits, in bytes: with it what waits is bounded too.
const MAX_PIECE_LEN: usize = 64 << 10;

/// How many bytes come out of a decompressor at a time.
const PLAIN_LEN: usize = 256 << 10;

/// How many buffers for them are kept: what may wait to be written, and a bit.
const MAX_BUFFERS: usize = 32;

/// A [`BackupWriter`] on a thread of its own, behind a decompressor.
#[derive(Debug)]
pub struct Extraction {
    batches: Option<SyncSender<Batch>>,
    batch: Vec<ArchiveEvent>,
    batch_len: usize,
    thread: Option<JoinHandle<Result<Option<WholeBackup>, BackupError>>>,
    current_file: Arc<Mutex<Option<PathBuf>>>,
}

/// What the thread is told. Without an end the backup was abandoned.
#[derive(Debug)]
struct Batch {
    events: Vec<ArchiveEvent>,
    ending: Ending,
}

/// Whether there is more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Yes, or the backup was abandoned.
    Open,
    Complete,
}

impl Extraction {
    /// Starts the thread.
    pub fn start(writer: BackupWriter) -> Result<Self, BackupError> {
        let (batches, queue) = sync_channel(QUEUE_LEN);
        let current_file = Arc::default();
        let shared = Arc::clone(&current_file);
        let thread = std::thread::Builder::new().name("extract".to_owned()).spawn(move || {
            let mut source = Source { queue, batch: VecDeque::new(), held: None, ending: Ending::Open };
            extract(writer, &mut source, &shared)
        });
        let thread =
            thread.map_err(|source| super::confined::FileError::new("start thread", "extract", source))?;
        let (batches, thread) = (Some(batches), Some(thread));
        Ok(Extraction { batches, batch: Vec::new(), batch_len: 0, thread, current_file })
    }

    /// Hands an event over. Waits while too many are queued; fails when an earlier one failed.
    pub fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        match event {
            ArchiveEvent::ArchiveData(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(MAX_PIECE_LEN));
                    self.batch_len += piece.len();
                    self.push(ArchiveEvent::ArchiveData(piece))?;
                }
                Ok(())
            }
            event => self.push(event),
        }
    }

    /// The file that is being written, or was last.
    pub fn current_file(&self) -> Option<PathBuf> {
        self.current_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything has been received: waits until it is written and found whole.
    pub fn complete(mut self) -> Result<WholeBackup, BackupError> {
        self.send(Ending::Complete)?;
        self.join()?.ok_or(BackupError::FailedBefore)
    }

    fn push(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        self.batch.push(event);
        if self.batch_len >= BATCH_LEN || self.batch.len() >= BATCH_COUNT {
            self.send(Ending::Open)?;
        }
        Ok(())
    }

    fn send(&mut self, ending: Ending) -> Result<(), BackupError> {
        self.batch_len = 0;
        let batch = Batch { events: std::mem::take(&mut self.batch), ending };
        match self.batches.as_ref().map(|batches| batches.send(batch)) {
            Some(Ok(())) => Ok(()),
            // it ends before its input does only when it fails
            Some(Err(_)) => self.join().and(Err(BackupError::FailedBefore)),
            None => Err(BackupError::FailedBefore),
        }
    }

    fn join(&mut self) -> Result<Option<WholeBackup>, BackupError> {
        self.batches = None;
        let thread = self.thread.take().ok_or(BackupError::FailedBefore)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Extraction {
    /// Nothing may still be written when an abandoned backup is removed.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been printed
            let _ = thread.join();
        }
    }
}

/// The events, one of which may have been looked at already.
struct Source {
    queue: Receiver<Batch>,
    batch: VecDeque<ArchiveEvent>,
    held: Option<ArchiveEvent>,
    ending: Ending,
}

impl Source {
    fn next(&mut self) -> Option<ArchiveEvent> {
        if let Some(event) = self.held.take() {
            return Some(event);
        }
        while self.batch.is_empty() && self.ending == Ending::Open {
            let batch = self.queue.recv().ok()?;
            (self.batch, self.ending) = (batch.events.into(), batch.ending);
        }
        self.batch.pop_front()
    }
}

fn extract(
    mut writer: BackupWriter,
    source: &mut Source,
    current_file: &Mutex<Option<PathBuf>>,
) -> Result<Option<WholeBackup>, BackupError> {
    while let Some(event) = source.next() {
        let ArchiveEvent::ArchiveBegin(mut archive) = event else {
            writer.handle(event)?;
            continue;
        };
        let (plain_name, method) = CompressionMethod::split_name(&archive.file_name);
        let (plain_name, name) = (plain_name.to_owned(), archive.file_name.clone());
        archive.file_name = plain_name;
        writer.handle(ArchiveEvent::ArchiveBegin(archive))?;
        if method == CompressionMethod::None {
            continue;
        }
        let failed = |source| BackupError::Decompress { archive: name.clone(), source };
        let mut reader = ArchiveReader { source, rest: Bytes::new() };
        let mut decoder = Decoder::new(method, &mut reader).map_err(failed)?;
        let mut buffers = PlainBuffers::default();
        loop {
            let plain = buffers.fill(writer.content_offset(), &mut decoder).map_err(failed)?;
            if plain.is_empty() {
                break;
            }
            writer.handle(ArchiveEvent::ArchiveData(plain))?;
            let path = writer.current_file().map(PathBuf::from);
            *current_file.lock().unwrap_or_else(PoisonError::into_inner) = path;
        }
        drop(decoder);
        if reader.read(&mut [0]).map_err(failed)? > 0 {
            return Err(failed(io::Error::other("archive goes on after its end")));
        }
    }
    match source.ending {
        Ending::Complete => Ok(Some(writer.complete()?)),
        Ending::Open => Ok(None),
    }
}

/// Memory to decompress into, used again when nobody has it any more.
#[derive(Debug, Default)]
struct PlainBuffers {
    used: VecDeque<Bytes>,
}

impl PlainBuffers {
    /// Reads as much as fits, or is left. What goes to `offset` of a file lies where a device can take it from: as far into a
    /// block of memory as it goes into one of the file.
    fn fill(&mut self, offset: u64, source: &mut impl Read) -> io::Result<Bytes> {
        let mut buffer = self.take();
        let skew = (offset % BLOCK_LEN) as usize;
        let start = buffer.as_ptr().align_offset(BLOCK_LEN as usize) + skew;
        let (mut end, most) = (start, start + PLAIN_LEN - skew);
        while end < most {
            match source.read(&mut buffer[end..most]) {
                Ok(0) => break,
                Ok(len) => end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let buffer = buffer.freeze();
        let filled = buffer.slice(start..end);
        self.used.push_back(buffer);
        Ok(filled)
    }

    /// The oldest buffer, or a new one.
    fn take(&mut self) -> BytesMut {
        let fresh = || BytesMut::zeroed(PLAIN_LEN + 2 * BLOCK_LEN as usize);
        let Some(oldest) = self.used.pop_front() else { return fresh() };
        oldest.try_into_mut().unwrap_or_else(|oldest| {
            if self.used.len() < MAX_BUFFERS {
                self.used.push_front(oldest);
            }
            fresh()
        })
    }
}

/// The bytes of one archive; it ends with the next event that is something else.
struct ArchiveReader<'a> {
    source: &'a mut Source,
    rest: Bytes,
}

impl Read for ArchiveReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.source.next() {
                Some(ArchiveEvent::ArchiveData(data)) => self.rest = data,
                Some(ArchiveEvent::Progress { .. }) => {}
                Some(other) => {
                    self.source.held = Some(other);
                    return Ok(0);
                }
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}
