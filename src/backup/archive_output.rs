//! Where an archive in tar format goes: a file, or through a compressor on a thread of its own.
//!
//! Answers to `astreamer_plain_writer` and the compressing streamers in PostgreSQL's `src/fe_utils`. They compress where
//! they receive, so that the server waits for the compressor; here the two overlap.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::bulk::BulkWriter;
use super::checksum::ChecksumAlgorithm;
use super::confined::FileError;
use super::open_file::{OpenFile, Writeback, WrittenContent};
use crate::compression::ArchiveCompression;
use crate::compression::archive::ArchiveEncoder;

/// How many bytes are gathered before the compressor is told: each time it may have to be woken.
const BATCH_LEN: usize = 512 << 10;

/// How many pieces are gathered, for each of them keeps a receive buffer from being used again.
const BATCH_COUNT: usize = 256;

/// How many batches may wait for the compressor.
const QUEUE_LEN: usize = 2;

/// The longest piece, in bytes: with it what waits is bounded too.
const MAX_PIECE_LEN: usize = 256 << 10;

/// How many compressed bytes are gathered for one write.
const GATHER_LEN: usize = 256 << 10;

/// An archive that is being written.
#[derive(Debug)]
pub(super) enum ArchiveOutput {
    Plain(OpenFile),
    /// A long one, and what writes it.
    Bulk(OpenFile, BulkWriter),
    Compressed(CompressedOutput),
}

/// A file that is complete, and perhaps not durable.
#[derive(Debug)]
pub(super) struct WrittenArchive {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// The receiving end's half.
#[derive(Debug)]
pub(super) struct CompressedOutput {
    batches: Option<SyncSender<Vec<Bytes>>>,
    batch: Vec<Bytes>,
    batch_len: usize,
    thread: Option<JoinHandle<Result<WrittenArchive, FileError>>>,
}

impl ArchiveOutput {
    /// Writes to `file`, which is empty, or a pipe.
    pub(super) fn new(
        file: File,
        path: PathBuf,
        compression: Option<ArchiveCompression>,
        writeback: Writeback,
    ) -> Result<Self, FileError> {
        match compression {
            None => {
                let checksum = ChecksumAlgorithm::None.start();
                Ok(ArchiveOutput::Plain(OpenFile::new(file, path, checksum, writeback)))
            }
            Some(compression) => {
                CompressedOutput::start(file, path, compression).map(ArchiveOutput::Compressed)
            }
        }
    }

    /// Writes an archive to `file`, as it is, and past the page cache where that is possible.
    pub(super) fn bulk(file: File, path: PathBuf, writeback: Writeback) -> Result<Self, FileError> {
        let (writer, checksum) = (BulkWriter::start(None)?, ChecksumAlgorithm::None.start());
        Ok(match writer.queue() {
            Some(queue) => {
                ArchiveOutput::Bulk(OpenFile::long(file, path, checksum, writeback, queue), writer)
            }
            None => ArchiveOutput::Plain(OpenFile::new(file, path, checksum, writeback)),
        })
    }

    pub(super) fn write(&mut self, data: Bytes) -> Result<(), FileError> {
        match self {
            ArchiveOutput::Plain(file) | ArchiveOutput::Bulk(file, _) => file.write(data),
            ArchiveOutput::Compressed(output) => output.write(data),
        }
    }

    pub(super) fn finish(self) -> Result<WrittenArchive, FileError> {
        let (file, writer) = match self {
            ArchiveOutput::Plain(file) => (file, None),
            ArchiveOutput::Bulk(file, writer) => (file, Some(writer)),
            ArchiveOutput::Compressed(output) => return output.finish(),
        };
        let content = file.finish()?.content;
        let (content, queued) = match content {
            WrittenContent::Written { file, path } => (Some((file, path)), None),
            // the queue goes here, and with it the thread ends
            WrittenContent::Queued { file, .. } => (None, Some(file)),
        };
        writer.map_or(Ok(()), BulkWriter::finish)?;
        let content = content.or_else(|| Some(Arc::into_inner(queued?)?.into_parts()));
        let (file, path) = content.ok_or_else(|| {
            FileError::new("write", "archive", io::Error::other("somebody still writes it"))
        })?;
        Ok(WrittenArchive { file, path })
    }
}

impl CompressedOutput {
    fn start(file: File, path: PathBuf, compression: ArchiveCompression) -> Result<Self, FileError> {
        let (batches, queue) = sync_channel(QUEUE_LEN);
        let for_thread = path.clone();
        let thread = std::thread::Builder::new()
            .name("compress".to_owned())
            .spawn(move || compress(&queue, file, for_thread, compression));
        let thread = thread.map_err(|source| FileError::new("start thread", path, source))?;
        Ok(CompressedOutput { batches: Some(batches), batch: Vec::new(), batch_len: 0, thread: Some(thread) })
    }

    fn write(&mut self, mut data: Bytes) -> Result<(), FileError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_PIECE_LEN));
            self.batch_len += piece.len();
            self.batch.push(piece);
            if self.batch_len >= BATCH_LEN || self.batch.len() >= BATCH_COUNT {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), FileError> {
        self.batch_len = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok()) {
            return Ok(());
        }
        // it ends before its input does only when it fails
        self.join().map(drop)
    }

    fn finish(mut self) -> Result<WrittenArchive, FileError> {
        if !self.batch.is_empty() {
            self.send()?;
        }
        self.join()
    }

    fn join(&mut self) -> Result<WrittenArchive, FileError> {
        self.batches = None;
        let gone = || FileError::new("compress", "archive", io::Error::other("the compressor has ended"));
        let thread = self.thread.take().ok_or_else(gone)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for CompressedOutput {
    /// Of an abandoned archive nothing may still be written when its file is removed.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been printed
            let _ = thread.join();
        }
    }
}

fn compress(
    queue: &Receiver<Vec<Bytes>>,
    file: File,
    path: PathBuf,
    compression: ArchiveCompression,
) -> Result<WrittenArchive, FileError> {
    let result = (|| {
        let out = io::BufWriter::with_capacity(GATHER_LEN, file);
        let mut encoder = ArchiveEncoder::new(compression, out)?;
        while let Ok(batch) = queue.recv() {
            for piece in batch {
                encoder.write(&piece)?;
            }
        }
        let mut out = encoder.finish()?;
        out.flush()?;
        out.into_inner().map_err(io::IntoInnerError::into_error)
    })();
    match result {
        Ok(file) => Ok(WrittenArchive { file, path }),
        Err(source) => Err(FileError::new("write to file", path, source)),
    }
}
