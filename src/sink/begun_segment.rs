//! Which file an unfinished segment goes on in.
//!
//! A segment is finished in the format that it was begun in, whatever is asked for now: the next one gets that. So
//! there is one file for a segment, and none beside it that is older and could be taken for it. Others may have left
//! several (the original begins a new file for each format): the one that goes furthest is gone on with, and the
//! others stay until the segment is complete and durable under its final name.

use super::compressed_segment::partial_name;
use super::disk::{Disk, OpenMode};
use super::error::{Operation, SinkError};
use super::segment_writer::{OpenSegment, SegmentState, SegmentWriter};
use crate::compression::{Compression, CompressionMethod};
use crate::pg::{TimelineId, WalSegment};

/// The largest page of WAL that a server can be built with.
const MAX_WAL_PAGE_LEN: u64 = 64 << 10;

/// How much is read at once, from the end, of a file that ends in zeros.
const PIECE_LEN: u64 = 1 << 20;

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
                CompressionMethod::None => self.plain_len(&file_name)?,
                method => self.trusted_len(method, &file_name, timeline, segment)?,
            };
            if len > furthest.0 || !begun.contains(&furthest.1) {
                furthest = (len, method);
            }
        }
        Ok(furthest.1)
    }

    fn plain_len(&mut self, file_name: &str) -> Result<u64, SinkError> {
        let Some(file) = self.open_existing(file_name)? else { return Ok(0) };
        let len = self.disk.len(&file).map_err(|error| self.failed(Operation::Stat, file_name, error))?;
        self.data_len(&file, file_name, len)
    }

    /// Opens a plain unfinished segment. A new one is the file that was made ready for it, if one is.
    pub(super) fn open_unfinished(
        &mut self,
        segment: WalSegment,
        file_name: String,
    ) -> Result<OpenSegment<D::File>, SinkError> {
        let segment_len = segment.size().as_u64();
        self.directory_dirty = true;
        let begun = match self.disk.open(&file_name, OpenMode::Existing) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            result => Some(result.map_err(|error| self.failed(Operation::Open, &file_name, error))?),
        };
        let is_new = begun.is_none();
        let mut file = match begun {
            Some(file) => file,
            None => self.begin_file(&file_name, segment_len)?,
        };
        let len = self.disk.len(&file);
        let len = len.map_err(|error| self.failed(Operation::Stat, &file_name, error))?;
        if len > segment_len {
            let path = self.disk.path(&file_name);
            return Err(SinkError::WrongLength { path, len, segment_len });
        }
        let existing_len = if is_new { 0 } else { self.wal_len(&file, &file_name, len)? };
        if self.layout().has_full_length() && len < segment_len {
            let result = self.disk.set_len(&mut file, segment_len);
            result.map_err(|error| self.failed(Operation::SetLen, &file_name, error))?;
        }
        let open = OpenSegment::new(segment, file, file_name, SegmentState::Unfinished);
        Ok(OpenSegment { existing_len, ..open })
    }

    fn begin_file(&mut self, file_name: &str, segment_len: u64) -> Result<D::File, SinkError> {
        let ready = self.disk.take_ready(file_name, segment_len);
        if let Some(file) = ready.map_err(|error| self.failed(Operation::Open, file_name, error))? {
            return Ok(file);
        }
        let result = self.disk.open(file_name, OpenMode::ExistingOrNew);
        result.map_err(|error| self.failed(Operation::Open, file_name, error))
    }

    /// The stream is live, and will come to the next segment: a file is made ready for that one. Not while catching up, when
    /// zeros would only be written over.
    pub(super) fn make_next_ready(&mut self) {
        if !self.layout().is_archive() || self.compression.method != CompressionMethod::None {
            return;
        }
        let Some(open) = self.open.as_mut().filter(|open| !open.next_asked) else { return };
        open.next_asked = true;
        self.disk.make_ready(open.segment.size().as_u64());
    }

    /// How much WAL a plain unfinished file of `len` bytes holds, at the most: zeros may follow it. It ends in
    /// the last page that has something else, but for the blank ones behind a log switch, which are received again.
    pub(super) fn wal_len(&mut self, file: &D::File, name: &str, len: u64) -> Result<u64, SinkError> {
        Ok(self.data_len(file, name, len)?.next_multiple_of(MAX_WAL_PAGE_LEN).min(len))
    }

    /// How far a file of `len` bytes has something other than zeros.
    fn data_len(&mut self, file: &D::File, name: &str, len: u64) -> Result<u64, SinkError> {
        let mut piece = Vec::new();
        let mut end = len;
        while end > 0 {
            let start = end.saturating_sub(PIECE_LEN);
            piece.resize((end - start) as usize, 0);
            let result = self.disk.read_at(file, start, &mut piece);
            let read_len = result.map_err(|error| self.failed(Operation::Read, name, error))?;
            if let Some(last) = piece[..read_len].iter().rposition(|byte| *byte != 0) {
                return Ok(start + last as u64 + 1);
            }
            end = start;
        }
        Ok(0)
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
