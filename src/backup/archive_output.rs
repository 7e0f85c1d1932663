//! Where an archive in tar format goes: a file, or through a compressor on a thread of its own.
//!
//! Answers to `astreamer_plain_writer` and the compressing streamers in PostgreSQL's `src/fe_utils`. They compress where
//! they receive, so that the server waits for the compressor; here the two overlap.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::checksum::ChecksumAlgorithm;
use super::confined::FileError;
use super::open_file::{OpenFile, Writeback};
use crate::compression::ArchiveCompression;
use crate::compression::archive::ArchiveEncoder;

/// How many pieces may wait for the compressor.
const QUEUE_LEN: usize = 64;

/// The longest piece, in bytes: with it what waits is bounded too.
const MAX_PIECE_LEN: usize = 64 << 10;

/// How many compressed bytes are gathered for one write.
const GATHER_LEN: usize = 256 << 10;

/// An archive that is being written.
#[derive(Debug)]
pub(super) enum ArchiveOutput {
    Plain(OpenFile),
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
    pieces: Option<SyncSender<Bytes>>,
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

    pub(super) fn write(&mut self, data: Bytes) -> Result<(), FileError> {
        match self {
            ArchiveOutput::Plain(file) => file.write(data),
            ArchiveOutput::Compressed(output) => output.write(data),
        }
    }

    pub(super) fn finish(self) -> Result<WrittenArchive, FileError> {
        match self {
            ArchiveOutput::Plain(file) => {
                let written = file.finish()?;
                Ok(WrittenArchive { file: written.file, path: written.path })
            }
            ArchiveOutput::Compressed(output) => output.finish(),
        }
    }
}

impl CompressedOutput {
    fn start(file: File, path: PathBuf, compression: ArchiveCompression) -> Result<Self, FileError> {
        let (pieces, queue) = sync_channel(QUEUE_LEN);
        let for_thread = path.clone();
        let thread = std::thread::Builder::new()
            .name("compress".to_owned())
            .spawn(move || compress(&queue, file, for_thread, compression));
        let thread = thread.map_err(|source| FileError::new("start thread", path, source))?;
        Ok(CompressedOutput { pieces: Some(pieces), thread: Some(thread) })
    }

    fn write(&mut self, mut data: Bytes) -> Result<(), FileError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_PIECE_LEN));
            let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok());
            if !sent {
                // it ends before its input does only when it fails
                return self.join().map(drop);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<WrittenArchive, FileError> {
        self.join()
    }

    fn join(&mut self) -> Result<WrittenArchive, FileError> {
        self.pieces = None;
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
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been printed
            let _ = thread.join();
        }
    }
}

fn compress(
    queue: &Receiver<Bytes>,
    file: File,
    path: PathBuf,
    compression: ArchiveCompression,
) -> Result<WrittenArchive, FileError> {
    let result = (|| {
        let out = io::BufWriter::with_capacity(GATHER_LEN, file);
        let mut encoder = ArchiveEncoder::new(compression, out)?;
        while let Ok(piece) = queue.recv() {
            encoder.write(&piece)?;
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
