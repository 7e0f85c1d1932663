//! Compressed segments that a crash left complete, but without their final names.
//!
//! A compressed segment gets its final name when it was read back, and what follows it is acknowledged meanwhile (see
//! [`super::unverified_segment`]). After a crash the stream would have to begin with that segment again; but the slot has moved
//! on with what was acknowledged, and the server may have removed it. So the next process first does what the last one was
//! about to: reads it back, and gives it its name.
//!
//! Whether the disk has it is not known: after a failed fsync the page cache may show what the disk never got. So its bytes are
//! written once more, as they are, and synced.

use bytes::Bytes;

use super::compressed_segment::partial_name;
use super::disk::{Disk, DiskEntry, DiskFile as _, OpenMode};
use super::error::{Operation, SinkError};
use super::listing::SegmentFile;
use super::segment_writer::{PARTIAL_SUFFIX, SegmentWriter};
use crate::compression::CompressionMethod;
use crate::pg::WalSegmentSize;

const PIECE_LEN: usize = 256 << 10;

impl<D: Disk> SegmentWriter<D> {
    /// Gives complete segments of `entries` their final names. Says whether there were any.
    pub(super) fn name_completed(
        &mut self,
        entries: &[DiskEntry],
        segment_size: WalSegmentSize,
    ) -> Result<bool, SinkError> {
        let mut named = false;
        for entry in entries {
            let file = SegmentFile::parse(&entry.name, segment_size);
            if let Some(file) = file.filter(|file| !file.finished && file.is_compressed())
                && !self.has_final_name(&file)?
                && self.is_completed(&entry.name, &file)?
            {
                self.name(&entry.name, &file)?;
                named = true;
            }
        }
        Ok(named)
    }

    fn has_final_name(&mut self, file: &SegmentFile) -> Result<bool, SinkError> {
        for method in CompressionMethod::ALL {
            if self.open_existing(&format!("{}{}", file.name, method.suffix()))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_completed(&mut self, name: &str, file: &SegmentFile) -> Result<bool, SinkError> {
        let mut checker = self.checker_for(file.name.timeline, file.name.segment);
        let segment_len = file.name.segment.size().as_u64();
        let take = |piece: &[u8]| {
            checker.as_mut().is_none_or(|checker| checker.push(checker.next_lsn(), piece).is_ok())
        };
        Ok(self.read_pieces(file.method, name, segment_len, take)? == Some(segment_len))
    }

    fn name(&mut self, partial: &str, file: &SegmentFile) -> Result<(), SinkError> {
        self.write_again(partial)?;
        let final_name = partial.strip_suffix(PARTIAL_SUFFIX).unwrap_or(partial);
        let result = self.disk.rename(partial, final_name);
        result.map_err(|error| self.failed(Operation::Rename, partial, error))?;
        self.sync_directory("")?;
        let name = file.name.to_string();
        let others = CompressionMethod::ALL.into_iter().filter(|method| *method != file.method);
        let others: Vec<String> = others.map(|method| partial_name(&name, method)).collect();
        self.remove_superseded(&others)?;
        tracing::info!(file = final_name, "segment was complete but for its name; it has that now");
        Ok(())
    }

    fn write_again(&mut self, name: &str) -> Result<(), SinkError> {
        let opened = self.disk.open(name, OpenMode::ExistingOrNew);
        let mut file = opened.map_err(|error| self.failed(Operation::Open, name, error))?;
        let mut offset = 0;
        loop {
            let mut piece = vec![0; PIECE_LEN];
            let read = self.disk.read_at(&file, offset, &mut piece);
            let len = read.map_err(|error| self.failed(Operation::Read, name, error))?;
            if len == 0 {
                break;
            }
            piece.truncate(len);
            let written = self.disk.write_at(&mut file, offset, &[Bytes::from(piece)]);
            written.map_err(|error| self.failed(Operation::Write, name, error))?;
            offset += len as u64;
        }
        let synced = file.sync_data();
        synced.map_err(|error| self.failed(Operation::Sync, name, error))
    }
}
