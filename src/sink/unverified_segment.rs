//! A compressed segment that is complete and durable, and not yet read back.
//!
//! Before a segment gets its final name it is read back from the disk and compared with what the stream brought (P3). That
//! takes as long as decompressing it, and nobody who waits for an acknowledgement should wait for it: what is acknowledged is
//! durable under the unfinished name. So it is done in small steps, whenever the sink has nothing else to do, and between its
//! batches when it always has. The next segment's end waits for it, so that final names come in order. A crash meanwhile
//! leaves two unfinished segments, the first of them complete: [`super::completed_segment`].

use std::io::Read as _;

use super::compressed_segment::{CompressedSegment, FileReader, PIECE_LEN, is_disk_failure};
use super::disk::{Disk, DiskFile};
use super::error::{Operation, SinkError};
use super::segment_writer::{OpenSegment, PARTIAL_SUFFIX, SegmentWriter};
use crate::compression::Decoder;

/// A step's length, in plain bytes: about a millisecond.
const STEP_LEN: u64 = 256 << 10;

/// A complete segment, and how much of it was read back.
#[derive(Debug)]
pub(super) struct UnverifiedSegment<F: DiskFile> {
    segment: OpenSegment<F>,
    reading: Option<Decoder<FileReader<F>>>,
    checksum: u32,
}

impl<F: DiskFile> UnverifiedSegment<F> {
    pub(super) fn new(segment: OpenSegment<F>) -> Self {
        UnverifiedSegment { segment, reading: None, checksum: 0 }
    }
}

/// Whether something is left to be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Another step is wanted.
    Pending,
    /// All complete segments have their final names.
    Done,
}

impl<D: Disk> SegmentWriter<D> {
    /// Reads some of a complete segment back; at its end, gives it its final name.
    pub fn verify_some(&mut self) -> Result<Verification, SinkError> {
        self.check_usable()?;
        let Some(mut unverified) = self.unverified.take() else { return Ok(Verification::Done) };
        if self.read_some_back(&mut unverified)? == Verification::Pending {
            self.unverified = Some(unverified);
            return Ok(Verification::Pending);
        }
        let OpenSegment { file_name, superseded, .. } = unverified.segment;
        let final_name = file_name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&file_name);
        let result = self.disk.rename(&file_name, final_name);
        result.map_err(|error| self.failed(Operation::Rename, &file_name, error))?;
        self.sync_directory("")?;
        self.remove_superseded(&superseded)?;
        Ok(Verification::Done)
    }

    /// The same, to the end.
    pub(super) fn verify_all(&mut self) -> Result<(), SinkError> {
        while self.verify_some()? == Verification::Pending {}
        Ok(())
    }

    fn read_some_back(
        &mut self,
        unverified: &mut UnverifiedSegment<D::File>,
    ) -> Result<Verification, SinkError> {
        let OpenSegment { file_name, compressed, .. } = &unverified.segment;
        let finished = compressed.as_ref().and_then(CompressedSegment::finished);
        let Some((method, len, checksum)) = finished else { return Ok(Verification::Done) };
        let reading = match &mut unverified.reading {
            Some(reading) => reading,
            reading => reading.insert(self.decoder(method, file_name)?),
        };
        let mut piece = vec![0; PIECE_LEN];
        let step_end = reading.plain_len() + STEP_LEN;
        while reading.plain_len() <= len {
            match reading.read(&mut piece) {
                Ok(0) if (reading.plain_len(), unverified.checksum) == (len, checksum) => {
                    return Ok(Verification::Done);
                }
                Ok(0) => break,
                Ok(count) => {
                    unverified.checksum = crc32c::crc32c_append(unverified.checksum, &piece[..count]);
                }
                Err(error) if is_disk_failure(&error) => {
                    return Err(self.failed(Operation::Read, file_name, error));
                }
                Err(_) => break,
            }
            if reading.plain_len() >= step_end {
                return Ok(Verification::Pending);
            }
        }
        self.poison();
        Err(SinkError::Compression { path: self.disk.path(file_name) })
    }
}
