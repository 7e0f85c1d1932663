//! Segments that are stored compressed.
//!
//! Answers to the gzip and lz4 parts of PostgreSQL's `walmethods.c`, which reopens a compressed `.partial` without
//! cutting it off, so that old bytes survive behind a shorter new stream. Here a `.partial` that exists is read as
//! far as it can be, written anew under a temporary name, synced, and renamed over the old one, before the stream
//! goes on: at every moment the file with the known name has every byte that was ever acknowledged. What the
//! stream then brings again is compared with it. Before a segment gets its final name it is read back.

use std::io::{self, Read};

use bytes::Bytes;

use super::compression::{Compression, Encoder, decode_all, decode_prefix};
use super::disk::{Disk, OpenMode};
use super::error::{Operation, SinkError};
use super::segment_writer::{OpenSegment, PARTIAL_SUFFIX, SegmentState, SegmentWriter};
use crate::pg::WalSegment;

/// How much compressed output is gathered before it is written.
const OUTPUT_LEN: usize = 256 << 10;

/// What a compressed segment needs besides its file.
#[derive(Debug)]
pub(super) struct CompressedSegment {
    /// `None` once the format's end is written, and for finished segments.
    encoder: Option<Encoder>,
    compression: Compression,
    /// The compressed bytes written so far.
    file_len: u64,
    /// Output that is not written yet.
    output: Vec<u8>,
    /// What an earlier stream left, plain, for as long as the new one has not passed it.
    existing: Vec<u8>,
    /// Length and CRC-32C of the plain bytes when the format's end was written.
    finished: Option<(u64, u32)>,
}

impl CompressedSegment {
    /// What an earlier stream left from `offset` on.
    pub(super) fn read_existing(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.existing.get(offset..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        len
    }
}

impl<D: Disk> SegmentWriter<D> {
    /// The segment's file, when it is finished and compressed, or is to be written so; `None` for a plain one.
    pub(super) fn open_compressed(
        &mut self,
        segment: WalSegment,
        name: &str,
    ) -> Result<Option<OpenSegment<D::File>>, SinkError> {
        let others = [Compression::Gzip { level: None }, Compression::Lz4, Compression::Zstd { level: 1 }];
        for compression in others {
            let file_name = format!("{name}{}", compression.suffix());
            let file = match self.disk.open(&file_name, OpenMode::Existing) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed(Operation::Open, &file_name, error)),
            };
            let source = DiskReader { disk: &mut self.disk, file: &file, offset: 0 };
            let segment_len = segment.size().as_u64();
            let plain = decode_all(compression, source, segment_len);
            match plain {
                Ok(existing) if existing.len() as u64 == segment_len => {
                    let open =
                        opened(segment, file, file_name, compression, existing, SegmentState::Finished);
                    return Ok(Some(open));
                }
                _ => return Err(SinkError::Compression { path: self.disk.path(&file_name) }),
            }
        }
        let plain_exists = self.disk.open(name, OpenMode::Existing).is_ok();
        match self.compression {
            Compression::None => Ok(None),
            _ if plain_exists => Ok(None),
            compression => self.open_unfinished_compressed(segment, name, compression).map(Some),
        }
    }

    fn open_unfinished_compressed(
        &mut self,
        segment: WalSegment,
        name: &str,
        compression: Compression,
    ) -> Result<OpenSegment<D::File>, SinkError> {
        let file_name = format!("{name}{}{PARTIAL_SUFFIX}", compression.suffix());
        let segment_len = segment.size().as_u64();
        let existing = match self.disk.open(&file_name, OpenMode::Existing) {
            Ok(file) => {
                let source = DiskReader { disk: &mut self.disk, file: &file, offset: 0 };
                decode_prefix(compression, source, segment_len)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(self.failed(Operation::Open, &file_name, error)),
        };
        if existing.len() as u64 > segment_len {
            let (path, len) = (self.disk.path(&file_name), existing.len() as u64);
            return Err(SinkError::WrongLength { path, len, segment_len });
        }
        let temporary = format!("{file_name}.tmp");
        let result = self.disk.open(&temporary, OpenMode::ExistingOrNew);
        let mut file = result.map_err(|error| self.failed(Operation::Open, &temporary, error))?;
        let result = self.disk.set_len(&mut file, 0);
        result.map_err(|error| self.failed(Operation::SetLen, &temporary, error))?;
        let mut encoder = Encoder::new(compression)
            .ok_or_else(|| SinkError::Compression { path: self.disk.path(&file_name) })?;
        let encoded = encoder.write(&existing).and_then(|()| encoder.flush());
        let encoded = encoded.map_err(|error| self.failed(Operation::Write, &temporary, error))?;
        let file_len = encoded.len() as u64;
        let result = self.disk.write_at(&mut file, 0, &[Bytes::from(encoded)]);
        result.map_err(|error| self.failed(Operation::Write, &temporary, error))?;
        let result = self.disk.sync_data(&mut file);
        result.map_err(|error| self.failed(Operation::Sync, &temporary, error))?;
        let result = self.disk.rename(&temporary, &file_name);
        result.map_err(|error| self.failed(Operation::Rename, &temporary, error))?;
        self.directory_dirty = true;
        let mut open = opened(segment, file, file_name, compression, existing, SegmentState::Unfinished);
        if let Some(compressed) = &mut open.compressed {
            compressed.file_len = file_len;
            compressed.encoder = Some(encoder);
        }
        Ok(open)
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

    /// Reads a complete segment back from the disk and compares it with what the stream brought.
    pub(super) fn verify_compressed(&mut self) -> Result<(), SinkError> {
        let Some(open) = &self.open else { return Ok(()) };
        let Some(compressed) = &open.compressed else { return Ok(()) };
        let Some(finished) = compressed.finished else { return Ok(()) };
        let source = DiskReader { disk: &mut self.disk, file: &open.file, offset: 0 };
        let plain = decode_all(compressed.compression, source, open.segment.size().as_u64());
        match plain {
            Ok(plain) if (plain.len() as u64, crc32c::crc32c(&plain)) == finished => Ok(()),
            _ => {
                let name = open.file_name.clone();
                let source = io::Error::from(io::ErrorKind::InvalidData);
                // poisons the writer; the reason is the file's
                drop(self.failed(Operation::Read, &name, source));
                Err(SinkError::Compression { path: self.disk.path(&name) })
            }
        }
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

    fn compressed(&mut self) -> Option<&mut CompressedSegment> {
        self.open.as_mut()?.compressed.as_mut()
    }

    fn open_failed(&mut self, error: io::Error) -> SinkError {
        let name = self.open.as_ref().map(|open| open.file_name.clone()).unwrap_or_default();
        self.failed(Operation::Write, &name, error)
    }
}

fn opened<F>(
    segment: WalSegment,
    file: F,
    file_name: String,
    compression: Compression,
    existing: Vec<u8>,
    state: SegmentState,
) -> OpenSegment<F> {
    let existing_len = existing.len() as u64;
    let compressed = CompressedSegment {
        encoder: None,
        compression,
        file_len: 0,
        output: Vec::new(),
        existing,
        finished: None,
    };
    OpenSegment { segment, file, file_name, existing_len, dirty: false, state, compressed: Some(compressed) }
}

/// A file on a [`Disk`], read from its start.
struct DiskReader<'a, D: Disk> {
    disk: &'a mut D,
    file: &'a D::File,
    offset: u64,
}

impl<D: Disk> Read for DiskReader<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.disk.read_at(self.file, self.offset, buffer)?;
        self.offset += len as u64;
        Ok(len)
    }
}
