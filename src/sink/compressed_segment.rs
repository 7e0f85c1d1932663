//! Segments that are stored compressed.
//!
//! Answers to the gzip and lz4 parts of PostgreSQL's `walmethods.c`, which reopens a compressed `.partial` without
//! cutting it off, so that old bytes survive behind a shorter new stream. Here a `.partial` that exists is read as
//! far as it can be believed, written anew under a temporary name, synced, and renamed over the old one, before the
//! stream goes on: at every moment the file with the known name has every byte that was ever acknowledged. What the
//! stream then brings again is compared with it. Before a segment gets its final name it is read back (see
//! [`super::unverified_segment`]).
//!
//! How far a file can be believed:
//! * One of ours up to its last right checksum (see [`crate::compression`]). All that was ever acknowledged lies
//!   before that, and what a loss of power tore does not.
//! * One that has no such checksums, the original's, as far as the WAL in it checks, record by record: what lies
//!   behind the last whole record is of no use to a recovery. Where WAL is not checked, all that can be read.
//!
//! Nothing here holds more of a segment in memory than the compressor's own window.

use std::io::{self, Read};

use bytes::Bytes;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{Operation, SinkError};
use super::segment_writer::{OpenSegment, PARTIAL_SUFFIX, SegmentState, SegmentWriter};
use crate::compression::{Compression, CompressionMethod, Decoder, Encoder};
use crate::pg::{TimelineId, WalSegment};

/// How much compressed output is gathered before it is written.
const OUTPUT_LEN: usize = 256 << 10;
/// How much is read at a time.
pub(super) const PIECE_LEN: usize = 64 << 10;

/// What a compressed segment needs besides its file.
#[derive(Debug)]
pub(super) struct CompressedSegment<F: DiskFile> {
    /// `None` once the format's end is written, and for finished segments.
    encoder: Option<Encoder>,
    method: CompressionMethod,
    /// The compressed bytes written so far.
    file_len: u64,
    /// Output that is not written yet.
    output: Vec<u8>,
    /// What an earlier stream left, read again as the new one passes it.
    existing: Option<Decoder<FileReader<F>>>,
    /// Length and CRC-32C of the plain bytes when the format's end was written.
    finished: Option<(u64, u32)>,
}

impl<F: DiskFile> CompressedSegment<F> {
    fn new(method: CompressionMethod) -> Self {
        CompressedSegment {
            encoder: None,
            method,
            file_len: 0,
            output: Vec::new(),
            existing: None,
            finished: None,
        }
    }

    /// What it is compressed with, and length and CRC-32C of the plain bytes, once the format's end is written.
    pub(super) fn finished(&self) -> Option<(CompressionMethod, u64, u32)> {
        self.finished.map(|(len, checksum)| (self.method, len, checksum))
    }

    /// The next bytes of what an earlier stream left.
    pub(super) fn read_existing(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(existing) = &mut self.existing else { return Ok(0) };
        existing.read_exact(buffer)?;
        Ok(buffer.len())
    }
}

impl<D: Disk> SegmentWriter<D> {
    /// The segment's file, when it is finished and compressed: whole, to be compared with. One that is not whole is an
    /// error, or passed over where it may be replaced.
    pub(super) fn open_finished_compressed(
        &mut self,
        segment: WalSegment,
        name: &str,
    ) -> Result<Option<OpenSegment<D::File>>, SinkError> {
        for method in CompressionMethod::ALL.into_iter().filter(|method| *method != CompressionMethod::None) {
            let file_name = format!("{name}{}", method.suffix());
            let Some(file) = self.open_existing(&file_name)? else { continue };
            let segment_len = segment.size().as_u64();
            match self.read_back(method, &file_name, segment_len)? {
                Some((len, _)) if len == segment_len => {
                    let mut compressed = CompressedSegment::new(method);
                    compressed.existing = Some(self.decoder(method, &file_name)?);
                    return Ok(Some(OpenSegment {
                        existing_len: segment_len,
                        compressed: Some(compressed),
                        ..OpenSegment::new(segment, file, file_name, SegmentState::Finished)
                    }));
                }
                _ if self.replaces_damaged() => {}
                _ => return Err(SinkError::Compression { path: self.disk.path(&file_name) }),
            }
        }
        Ok(None)
    }

    /// Opens a compressed `.partial`, or makes one.
    pub(super) fn open_unfinished_compressed(
        &mut self,
        timeline: TimelineId,
        segment: WalSegment,
        file_name: String,
        compression: Compression,
    ) -> Result<OpenSegment<D::File>, SinkError> {
        let mut compressed = CompressedSegment::new(compression.method);
        let encoder = Encoder::new(compression);
        let mut encoder = encoder.map_err(|error| self.failed(Operation::Write, &file_name, error))?;
        let is_begun = self.open_existing(&file_name)?.is_some();
        let (file, existing_len) = if is_begun {
            let len = self.trusted_len(compression.method, &file_name, timeline, segment)?;
            compressed.existing = Some(self.decoder(compression.method, &file_name)?);
            let (file, file_len) = self.write_anew(compression.method, &file_name, len, &mut encoder)?;
            compressed.file_len = file_len;
            (file, len)
        } else {
            let result = self.disk.open(&file_name, OpenMode::ExistingOrNew);
            (result.map_err(|error| self.failed(Operation::Open, &file_name, error))?, 0)
        };
        self.directory_dirty = true;
        compressed.encoder = Some(encoder);
        Ok(OpenSegment {
            existing_len,
            compressed: Some(compressed),
            ..OpenSegment::new(segment, file, file_name, SegmentState::Unfinished)
        })
    }

    /// How many plain bytes of a file can be believed.
    pub(super) fn trusted_len(
        &mut self,
        method: CompressionMethod,
        file_name: &str,
        timeline: TimelineId,
        segment: WalSegment,
    ) -> Result<u64, SinkError> {
        let segment_len = segment.size().as_u64();
        let mut checker = self.checker_for(timeline, segment);
        let mut decoder = self.decoder(method, file_name)?;
        let mut piece = vec![0; PIECE_LEN];
        while decoder.plain_len() <= segment_len {
            let lsn = segment.start_lsn() + decoder.plain_len();
            match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => {
                    if let Some(checker) = &mut checker {
                        // what is wrong is told again, and ends what is believed
                        let _ = checker.push(lsn, &piece[..len]);
                    }
                }
                Err(error) if is_disk_failure(&error) => {
                    return Err(self.failed(Operation::Read, file_name, error));
                }
                Err(_) => break,
            }
        }
        let len = match checker {
            _ if decoder.is_marked() => decoder.trusted_len(),
            Some(checker) => (checker.checked_lsn() - segment.start_lsn()).min(segment_len),
            None => decoder.plain_len().min(segment_len),
        };
        if len > segment_len {
            return Err(SinkError::WrongLength { path: self.disk.path(file_name), len, segment_len });
        }
        Ok(len)
    }

    /// Puts a file with the first `len` plain bytes, durable, in the place of the one that is there. Says how long it is.
    fn write_anew(
        &mut self,
        method: CompressionMethod,
        file_name: &str,
        len: u64,
        encoder: &mut Encoder,
    ) -> Result<(D::File, u64), SinkError> {
        let temporary = format!("{file_name}.tmp");
        let result = self.disk.open(&temporary, OpenMode::ExistingOrNew);
        let mut file = result.map_err(|error| self.failed(Operation::Open, &temporary, error))?;
        let result = self.disk.set_len(&mut file, 0);
        result.map_err(|error| self.failed(Operation::SetLen, &temporary, error))?;
        let mut old = self.decoder(method, file_name)?;
        let mut piece = vec![0; PIECE_LEN];
        let (mut output, mut file_len) = (Vec::new(), 0);
        loop {
            let wanted = (len - encoder.plain_len()).min(PIECE_LEN as u64) as usize;
            let result = old.read_exact(&mut piece[..wanted]);
            result.map_err(|error| self.failed(Operation::Read, file_name, error))?;
            let encoded = encoder.write(&piece[..wanted]);
            let encoded =
                encoded.and_then(|()| if wanted == 0 { encoder.flush() } else { Ok(encoder.take()) });
            output.append(&mut encoded.map_err(|error| self.failed(Operation::Write, &temporary, error))?);
            if output.len() >= OUTPUT_LEN || wanted == 0 {
                let output = Bytes::from(std::mem::take(&mut output));
                let output_len = output.len() as u64;
                let result = self.disk.write_at(&mut file, file_len, &[output]);
                result.map_err(|error| self.failed(Operation::Write, &temporary, error))?;
                file_len += output_len;
            }
            if wanted == 0 {
                break;
            }
        }
        let result = file.sync_data();
        result.map_err(|error| self.failed(Operation::Sync, &temporary, error))?;
        let result = self.disk.rename(&temporary, file_name);
        result.map_err(|error| self.failed(Operation::Rename, &temporary, error))?;
        Ok((file, file_len))
    }

    /// Compresses what of `chunks`, the plain bytes from `offset` on, the file does not have yet.
    pub(super) fn write_compressed(&mut self, offset: u64, chunks: &[Bytes]) -> Result<(), SinkError> {
        let Some(compressed) = self.compressed() else { return Ok(()) };
        let mut offset = offset;
        let mut result = Ok(());
        if let Some(encoder) = &mut compressed.encoder {
            for chunk in chunks {
                let known = encoder.plain_len().saturating_sub(offset).min(chunk.len() as u64);
                result = result.and_then(|()| encoder.write(&chunk[known as usize..]));
                offset += chunk.len() as u64;
            }
            compressed.output.append(&mut encoder.take());
        }
        if result.is_ok() && compressed.output.len() >= OUTPUT_LEN {
            return self.write_output();
        }
        result.map_err(|error| self.open_failed(error))
    }

    /// Writes all that makes what was given so far readable.
    pub(super) fn flush_compressed(&mut self) -> Result<(), SinkError> {
        let dirty = self.open.as_ref().is_some_and(|open| open.dirty);
        let Some(compressed) = self.compressed().filter(|_| dirty) else { return Ok(()) };
        if let Some(encoder) = &mut compressed.encoder {
            match encoder.flush() {
                Ok(mut output) => compressed.output.append(&mut output),
                Err(error) => return Err(self.open_failed(error)),
            }
        }
        self.write_output()
    }

    /// Writes the format's end.
    pub(super) fn complete_compressed(&mut self) -> Result<(), SinkError> {
        let Some(compressed) = self.compressed() else { return Ok(()) };
        let Some(encoder) = compressed.encoder.take() else { return Ok(()) };
        compressed.finished = Some((encoder.plain_len(), encoder.checksum()));
        match encoder.finish() {
            Ok(mut output) => compressed.output.append(&mut output),
            Err(error) => return Err(self.open_failed(error)),
        }
        if let Some(open) = &mut self.open {
            open.dirty = true;
        }
        self.write_output()
    }

    /// Length and CRC-32C of what is in a complete file; `None` when it is not one, or longer than `max_len`.
    pub(super) fn read_back(
        &mut self,
        method: CompressionMethod,
        file_name: &str,
        max_len: u64,
    ) -> Result<Option<(u64, u32)>, SinkError> {
        let mut checksum = 0;
        let take = |piece: &[u8]| {
            checksum = crc32c::crc32c_append(checksum, piece);
            true
        };
        Ok(self.read_pieces(method, file_name, max_len, take)?.map(|len| (len, checksum)))
    }

    /// Gives the plain bytes of a complete file to `take`, as long as that says so, and returns their length; `None` when
    /// there are more, or the file is not complete.
    pub(super) fn read_pieces(
        &mut self,
        method: CompressionMethod,
        file_name: &str,
        max_len: u64,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<u64>, SinkError> {
        let mut source: Box<dyn Read + '_> = match method {
            CompressionMethod::None => Box::new(self.reader(file_name)?),
            method => Box::new(self.decoder(method, file_name)?),
        };
        let (mut piece, mut read_len) = (vec![0; PIECE_LEN], 0);
        let result = loop {
            match source.read(&mut piece) {
                Ok(0) => break Ok(Some(read_len)),
                Ok(len) => {
                    read_len += len as u64;
                    if read_len > max_len || !take(&piece[..len]) {
                        break Ok(None);
                    }
                }
                Err(error) if is_disk_failure(&error) || method == CompressionMethod::None => {
                    break Err(error);
                }
                Err(_) => break Ok(None),
            }
        };
        drop(source);
        result.map_err(|error| self.failed(Operation::Read, file_name, error))
    }

    fn reader(&mut self, file_name: &str) -> Result<FileReader<D::File>, SinkError> {
        let opened = self.disk.open(file_name, OpenMode::ToRead);
        let file = opened.map_err(|error| self.failed(Operation::Open, file_name, error))?;
        Ok(FileReader { file, offset: 0 })
    }

    pub(super) fn decoder(
        &mut self,
        method: CompressionMethod,
        file_name: &str,
    ) -> Result<Decoder<FileReader<D::File>>, SinkError> {
        let decoder = Decoder::new(method, self.reader(file_name)?);
        decoder.map_err(|error| self.failed(Operation::Read, file_name, error))
    }

    fn write_output(&mut self) -> Result<(), SinkError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(compressed) = &mut open.compressed else { return Ok(()) };
        let output = Bytes::from(std::mem::take(&mut compressed.output));
        if output.is_empty() {
            return Ok(());
        }
        let offset = compressed.file_len;
        compressed.file_len += output.len() as u64;
        let result = self.disk.write_at(&mut open.file, offset, &[output]);
        result.map_err(|error| self.open_failed(error))
    }

    fn compressed(&mut self) -> Option<&mut CompressedSegment<D::File>> {
        self.open.as_mut()?.compressed.as_mut()
    }

    fn open_failed(&mut self, error: io::Error) -> SinkError {
        let name = self.open.as_ref().map(|open| open.file_name.clone()).unwrap_or_default();
        self.failed(Operation::Write, &name, error)
    }
}

/// A file, read from its start.
#[derive(Debug)]
pub(super) struct FileReader<F> {
    file: F,
    offset: u64,
}

impl<F: DiskFile> Read for FileReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.fill_from(self.offset, buffer).map_err(|error| {
            // told apart from what a decompressor says of the bytes
            io::Error::new(error.kind(), DiskFailure(error))
        })?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// The operating system would not read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct DiskFailure(io::Error);

pub(super) fn is_disk_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<DiskFailure>)
}

/// What an unfinished file of this method is called.
pub(super) fn partial_name(name: &str, method: CompressionMethod) -> String {
    format!("{name}{}{PARTIAL_SUFFIX}", method.suffix())
}

#[cfg(test)]
mod tests;
