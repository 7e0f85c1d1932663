//! Extracts archives that the server has compressed, on a thread of its own: decompressing and writing overlap with
//! receiving.
//!
//! Answers to the decompressing streamers in PostgreSQL's `src/fe_utils`. Departure: a compressed archive must end where
//! its format ends; what comes behind that is an error.

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

/// How many events may wait.
const QUEUE_LEN: usize = 64;

/// The longest piece of an archive that waits, in bytes: with it what waits is bounded too.
const MAX_PIECE_LEN: usize = 64 << 10;

/// How many bytes come out of a decompressor at a time.
const PLAIN_LEN: usize = 128 << 10;

/// A [`BackupWriter`] on a thread of its own, behind a decompressor.
#[derive(Debug)]
pub struct Extraction {
    events: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Result<Option<WholeBackup>, BackupError>>>,
    current_file: Arc<Mutex<Option<PathBuf>>>,
}

/// What the thread is told. Without an end the backup was abandoned.
#[derive(Debug)]
enum Message {
    Event(ArchiveEvent),
    End,
}

/// What the thread knows of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Abandoned,
    Complete,
}

impl Extraction {
    /// Starts the thread.
    pub fn start(writer: BackupWriter) -> Result<Self, BackupError> {
        let (events, queue) = sync_channel(QUEUE_LEN);
        let current_file = Arc::default();
        let shared = Arc::clone(&current_file);
        let thread = std::thread::Builder::new().name("extract".to_owned()).spawn(move || {
            let mut source = Source { queue, held: None, ending: Ending::Abandoned };
            extract(writer, &mut source, &shared)
        });
        let thread =
            thread.map_err(|source| super::confined::FileError::new("start thread", "extract", source))?;
        Ok(Extraction { events: Some(events), thread: Some(thread), current_file })
    }

    /// Hands an event over. Waits while too many are queued; fails when an earlier one failed.
    pub fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        match event {
            ArchiveEvent::ArchiveData(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(MAX_PIECE_LEN));
                    self.send(Message::Event(ArchiveEvent::ArchiveData(piece)))?;
                }
                Ok(())
            }
            event => self.send(Message::Event(event)),
        }
    }

    /// The file that is being written, or was last.
    pub fn current_file(&self) -> Option<PathBuf> {
        self.current_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything has been received: waits until it is written and found whole.
    pub fn complete(mut self) -> Result<WholeBackup, BackupError> {
        self.send(Message::End)?;
        self.join()?.ok_or(BackupError::FailedBefore)
    }

    fn send(&mut self, message: Message) -> Result<(), BackupError> {
        match self.events.as_ref().map(|events| events.send(message)) {
            Some(Ok(())) => Ok(()),
            // it ends before its input does only when it fails
            Some(Err(_)) => self.join().and(Err(BackupError::FailedBefore)),
            None => Err(BackupError::FailedBefore),
        }
    }

    fn join(&mut self) -> Result<Option<WholeBackup>, BackupError> {
        self.events = None;
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
        self.events = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been printed
            let _ = thread.join();
        }
    }
}

/// The events, one of which may have been looked at already.
struct Source {
    queue: Receiver<Message>,
    held: Option<ArchiveEvent>,
    ending: Ending,
}

impl Source {
    fn next(&mut self) -> Option<ArchiveEvent> {
        if let Some(event) = self.held.take() {
            return Some(event);
        }
        match self.queue.recv() {
            Ok(Message::Event(event)) => Some(event),
            Ok(Message::End) => {
                self.ending = Ending::Complete;
                None
            }
            Err(_) => None,
        }
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
        loop {
            let mut plain = BytesMut::zeroed(PLAIN_LEN);
            let len = decoder.read(&mut plain).map_err(failed)?;
            if len == 0 {
                break;
            }
            plain.truncate(len);
            writer.handle(ArchiveEvent::ArchiveData(plain.freeze()))?;
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
        Ending::Abandoned => Ok(None),
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
