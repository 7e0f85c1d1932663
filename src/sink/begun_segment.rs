//! Which file an unfinished segment goes on in.
//!
//! A segment is finished in the format that it was begun in, whatever is asked for now: the next one gets that. So
//! there is one file for a segment, and none beside it that is older and could be taken for it. Others may have left
//! several (the original begins a new file for each format): the one that goes furthest is gone on with, and the
//! others stay until the segment is complete and durable under its final name.

use super::compressed_segment::partial_name;
use super::disk::{Disk, OpenMode};
use super::error::{Operation, SinkError};
use super::segment_writer::{OpenSegment, SegmentWriter};
use crate::compression::{Compression, CompressionMethod};
use crate::pg::{TimelineId, WalSegment};

impl<D: Disk> SegmentWriter<D> {
    /// Opens an unfinished segment in the format that it was begun in, or in the one that is wanted.
    pub(super) fn open_begun(
        &mut self,
        timeline: TimelineId,
        segment: WalSegment,
        name: &str,
    ) -> Result<OpenSegment<D::File>, SinkError> {
        let mut begun = Vec::new();
        for method in CompressionMethod::ALL {
            if self.open_existing(&partial_name(name, method))?.is_some() {
                begun.push(method);
            }
        }
        let wanted = self.compression;
        let method = match begun[..] {
            [] => wanted.method,
            [method] => method,
            _ => self.furthest(&begun, timeline, segment, name)?,
        };
        let file_name = partial_name(name, method);
        let mut open = if method == CompressionMethod::None {
            self.open_unfinished(segment, file_name)?
        } else {
            let level = wanted.level.filter(|_| method == wanted.method);
            self.open_unfinished_compressed(timeline, segment, file_name, Compression { method, level })?
        };
        let others = begun.into_iter().filter(|other| *other != method);
        open.superseded = others.map(|other| partial_name(name, other)).collect();
        Ok(open)
    }

    fn furthest(
        &mut self,
        begun: &[CompressionMethod],
        timeline: TimelineId,
        segment: WalSegment,
        name: &str,
    ) -> Result<CompressionMethod, SinkError> {
        let mut furthest = (0, self.compression.method);
        for &method in begun {
            let file_name = partial_name(name, method);
            let len = match method {
                CompressionMethod::None => self.data_len(&file_name)?,
                method => self.trusted_len(method, &file_name, timeline, segment)?,
            };
            if len > furthest.0 || !begun.contains(&furthest.1) {
                furthest = (len, method);
            }
        }
        Ok(furthest.1)
    }

    /// How far a plain file has something other than zeros.
    fn data_len(&mut self, file_name: &str) -> Result<u64, SinkError> {
        let Some(file) = self.open_existing(file_name)? else { return Ok(0) };
        let mut piece = vec![0; 64 << 10];
        let (mut offset, mut data_len) = (0, 0);
        loop {
            let result = self.disk.read_at(&file, offset, &mut piece);
            let len = result.map_err(|error| self.failed(Operation::Read, file_name, error))?;
            if let Some(last) = piece[..len].iter().rposition(|byte| *byte != 0) {
                data_len = offset + last as u64 + 1;
            }
            offset += len as u64;
            if len < piece.len() {
                return Ok(data_len);
            }
        }
    }

    /// Takes away the other beginnings of a segment that is complete and durable.
    pub(super) fn remove_superseded(&mut self, names: &[String]) -> Result<(), SinkError> {
        for name in names {
            let result = match self.disk.remove(name) {
                // somebody was faster
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result,
            };
            result.map_err(|error| self.failed(Operation::Remove, name, error))?;
        }
        Ok(())
    }

    /// `None`: there is no such file.
    pub(super) fn open_existing(&mut self, name: &str) -> Result<Option<D::File>, SinkError> {
        match self.disk.open(name, OpenMode::ToRead) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(Operation::Open, name, error)),
        }
    }
}
