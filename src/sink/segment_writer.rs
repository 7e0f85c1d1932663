//! The stream, cut into segment files.
//!
//! Answers to `open_walfile`, `close_walfile` and `ProcessXLogDataMsg` in PostgreSQL's `receivelog.c` and to
//! `walmethods.c`. Departures, each for a promise:
//! * A new file's directory entry is fsynced before the first acknowledgement in it. The original fsyncs the
//!   directory when it opens and renames, but only because it always fsyncs there; here it is tied to the
//!   acknowledgement, so that nothing need be synced before there is something to acknowledge.
//! * An unfinished file may have any length up to a segment. The original insists on 0 or one segment, and a
//!   full disk leaves a length that it then refuses for ever. Zeros may follow its WAL, as in the original's: a file that
//!   was made ready for it, or a hole in the layout that a server starts on. So the length says nothing about how
//!   far a file goes, and its content does.
//! * What is written again after a restart is compared with what is there. A byte on disk is the primary's, or
//!   zero where a crash lost it; anything else means that two servers wrote one timeline, and is an error.
//!   Equal bytes are written all the same, because after a failed fsync the page cache shows bytes that the
//!   disk never got, as clean pages that no later fsync would write. Writing makes them dirty again.
//! * WAL is checked before it is written (see [`WalChecker`]), when that is wanted: by whoever hands it over, with the
//!   checker that [`SegmentWriter::take_checker`] gives out, or else here. What does not check is not written, and
//!   nothing after it. A record that comes in several pieces is written, and may be acknowledged, piece by piece
//!   before its checksum comes at its end: a server that shuts down, or a standby that stopped in the middle of a
//!   record, waits for all that it has sent.
//! * Any failure poisons the writer. What is durable is then found out anew, from the disk, by the next one.

use bytes::Bytes;

use super::compressed_segment::CompressedSegment;
use super::continuation::StreamChecker;
use super::disk::{Disk, DiskEntry, DiskFile, OpenMode};
use super::error::{Operation, SinkError};
use super::flushed::FlushedLsn;
use super::stamp::ClusterStamp;
use super::unverified_segment::UnverifiedSegment;
use crate::compression::Compression;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalFileName, WalSegment, WalSegmentSize};

pub use flush::PendingFlush;

/// What the files are called, and what lies beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A directory of received WAL, as `pg_receivewal` keeps it: `.partial` until a segment is complete.
    /// One receiver at a time, always of the same cluster.
    Archive,
    /// The same as `pg_receivewal` itself leaves it: an unfinished segment has full length, zeros behind its end,
    /// so that the original and a server's `restore_command` take it. The zeros are a hole: nothing is written.
    PaddedArchive,
    /// `pg_wal` of a data directory that no server has started on yet, as `pg_basebackup -X stream` fills it:
    /// final names at once, full length, and `archive_status/*.done` for what need not be archived again.
    PgWal,
}

impl Layout {
    pub(super) fn is_archive(self) -> bool {
        self != Layout::PgWal
    }

    pub(super) fn has_full_length(self) -> bool {
        self != Layout::Archive
    }
}

/// Whether WAL is checked before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordCheck {
    /// Page headers and the checksum of every record.
    #[default]
    On,
    /// Nothing: whatever comes is written.
    Off,
}

/// The synchronous heart of the sink: segments on a [`Disk`], and what of them is durable.
#[derive(Debug)]
pub struct SegmentWriter<D: Disk> {
    pub(super) disk: D,
    layout: Layout,
    position: Option<Position>,
    /// How far the stream is with the operating system: it survives the end of this process.
    written_lsn: Lsn,
    pub(super) open: Option<OpenSegment<D::File>>,
    /// The segment before, complete and durable, until it has its final name.
    pub(super) unverified: Option<UnverifiedSegment<D::File>>,
    /// Names were made or changed since the directory was last synced, perhaps by a process before this one.
    pub(super) directory_dirty: bool,
    /// What was there before may not be durable: a run that synced nothing has left it, or somebody has copied it here.
    earlier_dirty: bool,
    /// A process before this one may have left complete segments without their final names.
    completed_unnamed: bool,
    poisoned: bool,
    comparison: Vec<u8>,
    record_check: RecordCheck,
    system_identifier: Option<SystemIdentifier>,
    checker: Option<StreamChecker>,
    pub(super) compression: Compression,
    _lock: Option<D::File>,
}

/// Where the next byte goes.
#[derive(Debug, Clone, Copy)]
struct Position {
    timeline: TimelineId,
    segment_size: WalSegmentSize,
    lsn: Lsn,
}

#[derive(Debug)]
pub(super) struct OpenSegment<F: DiskFile> {
    pub(super) segment: WalSegment,
    pub(super) file: F,
    pub(super) file_name: String,
    /// How far an earlier stream got in this file; up to here bytes are compared.
    pub(super) existing_len: u64,
    pub(super) dirty: bool,
    pub(super) state: SegmentState,
    /// For a segment that is stored compressed.
    pub(super) compressed: Option<CompressedSegment<F>>,
    /// Other beginnings of the same segment, which are of no use when it is complete.
    pub(super) superseded: Vec<String>,
    /// A file for the next segment was asked for.
    pub(super) next_asked: bool,
    /// The same file opened again, once for each sync that runs beside others.
    pub(super) twins: Vec<F>,
}

impl<F: DiskFile> OpenSegment<F> {
    pub(super) fn new(segment: WalSegment, file: F, file_name: String, state: SegmentState) -> Self {
        let (existing_len, dirty, compressed, superseded, next_asked) = (0, false, None, Vec::new(), false);
        OpenSegment {
            segment,
            file,
            file_name,
            existing_len,
            dirty,
            state,
            compressed,
            superseded,
            next_asked,
            twins: Vec::new(),
        }
    }

    fn is_plain(&self) -> bool {
        self.state == SegmentState::Unfinished && self.compressed.is_none()
    }

    fn is_to_be_verified(&self) -> bool {
        self.state == SegmentState::Unfinished && self.compressed.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentState {
    /// To be written, and to get its final name when it is full.
    Unfinished,
    /// It had its final name before: the stream is compared with it, and nothing is written.
    Finished,
}

/// What is longer is left to whoever has time to wait for the device.
pub(super) const MAX_AT_ONCE_LEN: usize = crate::direct::MIN_LEN as usize;

pub(super) const PARTIAL_SUFFIX: &str = ".partial";
/// The directory itself is locked: the lock leaves nothing behind.
const LOCK_NAME: &str = "";
const ARCHIVE_STATUS: &str = "archive_status";

impl<D: Disk> SegmentWriter<D> {
    /// A writer for the directory, which checks no WAL. An archive is locked until the writer is dropped.
    pub fn open(disk: D, layout: Layout) -> Result<Self, SinkError> {
        let mut writer = SegmentWriter {
            disk,
            layout,
            position: None,
            written_lsn: Lsn::INVALID,
            open: None,
            unverified: None,
            directory_dirty: true,
            earlier_dirty: layout.is_archive(),
            completed_unnamed: layout.is_archive(),
            poisoned: false,
            comparison: Vec::new(),
            record_check: RecordCheck::Off,
            system_identifier: None,
            checker: None,
            compression: Compression::NONE,
            _lock: None,
        };
        if layout.is_archive() {
            let result = writer.disk.lock(LOCK_NAME);
            let lock = result.map_err(|error| writer.failed(Operation::Lock, LOCK_NAME, error))?;
            if lock.is_none() {
                return Err(SinkError::Locked { path: writer.disk.path(LOCK_NAME) });
            }
            writer._lock = lock;
        }
        Ok(writer)
    }

    /// Checks the WAL of every stream that begins from now on, or does not.
    pub fn with_record_check(mut self, record_check: RecordCheck) -> Self {
        self.record_check = record_check;
        self
    }

    /// Stores segments from now on compressed. Not for a directory that a server is to start on.
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The layout chosen at the beginning.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Makes sure that the directory is this cluster's, and says what was in it, a stamp if it was this cluster's before.
    pub fn prepare(&mut self, stamp: ClusterStamp) -> Result<Vec<DiskEntry>, SinkError> {
        self.check_usable()?;
        self.finish_open_segment()?;
        self.position = None;
        self.system_identifier = Some(stamp.system_identifier);
        let entries = self.list(stamp.segment_size)?;
        if !self.layout.is_archive() {
            return Ok(entries);
        }
        self.check_stamp(stamp)?;
        // what an earlier process left; this one names what it completes
        let is_first = std::mem::take(&mut self.completed_unnamed);
        if is_first && self.name_completed(&entries, stamp.segment_size)? {
            return self.list(stamp.segment_size);
        }
        Ok(entries)
    }

    /// A stream of `timeline` begins at `start_lsn`, the start of a segment; what was open is made durable.
    pub fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> Result<(), SinkError> {
        self.check_usable()?;
        self.finish_open_segment()?;
        if segment_size.offset_of(start_lsn) != 0 {
            return Err(SinkError::OutOfOrder {
                lsn: start_lsn,
                reason: "a stream begins at the start of a segment",
            });
        }
        self.checker = match (self.record_check, self.system_identifier) {
            (RecordCheck::On, Some(system)) => {
                Some(self.stream_checker(system, segment_size, timeline, start_lsn)?)
            }
            (RecordCheck::On, None) => {
                let reason = "the cluster is not known yet, and its WAL cannot be checked";
                return Err(SinkError::OutOfOrder { lsn: start_lsn, reason });
            }
            (RecordCheck::Off, _) => None,
        };
        self.position = Some(Position { timeline, segment_size, lsn: start_lsn });
        self.written_lsn = start_lsn;
        Ok(())
    }

    /// Nothing more is written, and the directory may be somebody else's.
    pub(super) fn close(&mut self) {
        self.poisoned = true;
        self.open = None;
        self.unverified = None;
        self._lock = None;
    }

    /// How far the stream is with the operating system, so that it survives the end of this process, of the system not.
    pub fn written_lsn(&self) -> Lsn {
        self.written_lsn
    }

    /// [Writes](Self::write) `chunks`, if that takes no more than handing it over: no file to be opened, nothing to be compared
    /// or compressed, and no more of it than the page cache takes. Says whether it did.
    pub fn write_at_once(&mut self, lsn: Lsn, chunks: &[Bytes]) -> Result<bool, SinkError> {
        let Some(open) = self.open.as_ref().filter(|_| !self.poisoned) else { return Ok(false) };
        let is_inside = open.segment.start_lsn() + open.existing_len <= lsn && lsn < open.segment.end_lsn();
        let len: usize = chunks.iter().map(Bytes::len).sum();
        let can = open.is_plain() && is_inside && len < MAX_AT_ONCE_LEN;
        if can {
            self.write(lsn, chunks)?;
            self.make_next_ready();
        }
        Ok(can)
    }

    /// The checker of the stream that has just begun, if its WAL is to be checked, for who will check it before it is
    /// [written](Self::write).
    pub(super) fn take_checker(&mut self) -> Option<StreamChecker> {
        self.checker.take()
    }

    /// Gives `chunks`, the bytes from `lsn` on, to the operating system. They must stay within one segment.
    pub fn write(&mut self, lsn: Lsn, chunks: &[Bytes]) -> Result<(), SinkError> {
        self.check_usable()?;
        let position = self.position.ok_or(SinkError::OutOfOrder { lsn, reason: "no stream has begun" })?;
        if lsn != position.lsn {
            return Err(SinkError::NotContiguous { expected: position.lsn, found: lsn });
        }
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let segment = position.segment_size.segment_at(lsn);
        let end_lsn = lsn.checked_add(len).filter(|end| *end <= segment.end_lsn());
        let end_lsn = end_lsn.ok_or(SinkError::OutOfOrder { lsn, reason: "it crosses a segment's end" })?;
        self.check_records(lsn, chunks)?;
        if self.open.is_none() {
            self.open = Some(self.open_segment(position.timeline, segment)?);
        }
        let open = self.open.as_mut().expect("a segment was just opened");
        if open.segment != segment {
            return Err(SinkError::OutOfOrder { lsn, reason: "the segment before it is not sealed" });
        }
        let offset = position.segment_size.offset_of(lsn);
        if offset < open.existing_len {
            self.compare(lsn, chunks)?;
        }
        let open = self.open.as_mut().expect("comparing closes nothing");
        if open.state == SegmentState::Unfinished {
            open.dirty = true;
            if open.compressed.is_some() {
                self.write_compressed(offset, chunks)?;
            } else if let Err(error) = self.disk.write_at(&mut open.file, offset, chunks) {
                let name = open.file_name.clone();
                return Err(self.failed(Operation::Write, &name, error));
            }
        }
        self.position = Some(Position { lsn: end_lsn, ..position });
        if self.open.as_ref().is_none_or(|open| open.compressed.is_none()) {
            self.written_lsn = end_lsn;
        }
        Ok(())
    }

    /// Completes the open segment, whose last byte was just written: durable first, then its final name.
    pub fn seal(&mut self) -> Result<FlushedLsn, SinkError> {
        self.check_usable()?;
        let full = match (&self.open, &self.position) {
            (Some(open), Some(position)) => open.segment.end_lsn() == position.lsn,
            _ => false,
        };
        if !full {
            let lsn = self.position.map_or(Lsn::INVALID, |position| position.lsn);
            return Err(SinkError::OutOfOrder { lsn, reason: "only a full segment can be sealed" });
        }
        self.complete_compressed()?;
        self.sync_open_segment()?;
        // segments get their final names in order
        self.verify_all()?;
        let open = self.open.take().expect("a full segment is open");
        if open.is_to_be_verified() {
            self.unverified = Some(UnverifiedSegment::new(open));
            return self.flush();
        }
        if open.state == SegmentState::Unfinished {
            let final_name = open.file_name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&open.file_name);
            if final_name != open.file_name {
                let result = self.disk.rename(&open.file_name, final_name);
                result.map_err(|error| self.failed(Operation::Rename, &open.file_name, error))?;
                self.directory_dirty = true;
            }
            if self.layout == Layout::PgWal {
                self.mark_done(final_name)?;
            }
        }
        let flushed = self.flush()?;
        self.remove_superseded(&open.superseded)?;
        Ok(flushed)
    }

    /// Makes durable what is open, and the names of all that is not.
    pub fn settle(&mut self) -> Result<(), SinkError> {
        self.check_usable()?;
        self.verify_all()?;
        if self.open.as_ref().is_some_and(|open| open.compressed.is_some()) {
            // gets the format's end, so that everybody's tools can read it, and is begun anew by the next write
            self.finish_open_segment()?;
        } else if self.open.is_some() {
            self.flush()?;
        } else {
            self.sync_rest()?;
        }
        if let Some(name) = self.open.as_ref().map(|open| open.file_name.clone())
            && self.layout == Layout::PgWal
        {
            // the backup that it came with ends in it: the server that it came from will archive it
            self.mark_done(&name)?;
        }
        Ok(())
    }

    pub(super) fn check_usable(&self) -> Result<(), SinkError> {
        if self.poisoned { Err(SinkError::Poisoned) } else { Ok(()) }
    }

    /// Turns the system's error into ours. Nothing can be acknowledged after it.
    pub(super) fn failed(&mut self, operation: Operation, name: &str, source: std::io::Error) -> SinkError {
        self.poisoned = true;
        SinkError::Io { operation, path: self.disk.path(name), source }
    }

    pub(super) fn sync_directory(&mut self, name: &str) -> Result<(), SinkError> {
        let result = self.disk.sync_directory(name);
        result.map_err(|error| self.failed(Operation::SyncDirectory, name, error))?;
        if name.is_empty() {
            self.directory_dirty = false;
        }
        Ok(())
    }

    /// Says to a server that will start here that `name` need not be archived (`XLogArchiveForceDone`).
    pub(super) fn mark_done(&mut self, name: &str) -> Result<(), SinkError> {
        let name = format!("{ARCHIVE_STATUS}/{name}.done");
        let result = self.disk.open(&name, OpenMode::ExistingOrNew);
        result.map_err(|error| self.failed(Operation::Open, &name, error))?;
        self.sync_directory(ARCHIVE_STATUS)
    }

    pub(super) fn poison(&mut self) {
        self.poisoned = true;
    }

    /// A checker of its own for a segment that is there, if WAL is checked at all.
    pub(super) fn checker_for(&self, timeline: TimelineId, segment: WalSegment) -> Option<WalChecker> {
        let system = self.system_identifier.filter(|_| self.record_check == RecordCheck::On)?;
        Some(WalChecker::new(system, segment.size(), timeline, segment.start_lsn()))
    }

    fn check_records(&mut self, mut lsn: Lsn, chunks: &[Bytes]) -> Result<(), SinkError> {
        let Some(checker) = &mut self.checker else { return Ok(()) };
        for chunk in chunks {
            if let Err(error) = checker.check(lsn, chunk) {
                self.poisoned = true;
                return Err(error);
            }
            lsn = lsn + chunk.len() as u64;
        }
        Ok(())
    }

    fn sync_open_segment(&mut self) -> Result<(), SinkError> {
        self.flush_compressed()?;
        let Some(open) = self.open.as_mut().filter(|open| open.dirty) else { return Ok(()) };
        if let Err(error) = open.file.sync_data() {
            let name = open.file_name.clone();
            return Err(self.failed(Operation::Sync, &name, error));
        }
        open.dirty = false;
        Ok(())
    }

    /// Leaves the open segment as it is, unfinished, and durable as far as it goes.
    fn finish_open_segment(&mut self) -> Result<(), SinkError> {
        self.verify_all()?;
        if self.open.is_some() {
            self.complete_compressed()?;
            self.flush()?;
            self.open = None;
        }
        Ok(())
    }

    fn open_segment(
        &mut self,
        timeline: TimelineId,
        segment: WalSegment,
    ) -> Result<OpenSegment<D::File>, SinkError> {
        let final_name = WalFileName { timeline, segment }.to_string();
        let segment_len = segment.size().as_u64();
        if self.layout == Layout::PgWal {
            return self.open_unfinished(segment, final_name);
        }
        if let Some(open) = self.open_finished_compressed(segment, &final_name)? {
            return Ok(open);
        }
        match self.open_existing(&final_name)? {
            Some(file) => {
                let len = self.disk.len(&file);
                let len = len.map_err(|error| self.failed(Operation::Stat, &final_name, error))?;
                match len == segment_len {
                    true => {
                        let open = OpenSegment::new(segment, file, final_name, SegmentState::Finished);
                        Ok(OpenSegment { existing_len: len, ..open })
                    }
                    false if self.replaces_damaged() => self.open_begun(timeline, segment, &final_name),
                    false => {
                        let path = self.disk.path(&final_name);
                        Err(SinkError::WrongLength { path, len, segment_len })
                    }
                }
            }
            None => self.open_begun(timeline, segment, &final_name),
        }
    }

    /// Whether a finished file that is not whole gives way to the segment that comes again, as the original has it.
    pub(super) fn replaces_damaged(&self) -> bool {
        self.layout == Layout::PaddedArchive
    }

    /// Compares what the stream brings with what an earlier one left in the open segment.
    fn compare(&mut self, lsn: Lsn, chunks: &[Bytes]) -> Result<(), SinkError> {
        let open = self.open.as_mut().expect("the caller opened the segment");
        // a plain file may have lost bytes to a crash; of a compressed one only what is certain is compared
        let may_have_holes = open.state == SegmentState::Unfinished && open.compressed.is_none();
        let mut offset = lsn - open.segment.start_lsn();
        for chunk in chunks {
            let common = open.existing_len.saturating_sub(offset).min(chunk.len() as u64) as usize;
            self.comparison.resize(common, 0);
            let read = match &mut open.compressed {
                Some(compressed) => compressed.read_existing(&mut self.comparison),
                None => self.disk.read_at(&open.file, offset, &mut self.comparison),
            };
            let len = match read {
                Ok(len) => len,
                Err(error) => {
                    let name = open.file_name.clone();
                    return Err(self.failed(Operation::Read, &name, error));
                }
            };
            let differs = |(new, old): (&u8, &u8)| new != old && !(may_have_holes && *old == 0);
            // whole slices first: nearly always they are equal, and this is a memcmp
            if chunk[..len] != self.comparison[..len]
                && let Some(index) = chunk.iter().zip(&self.comparison[..len]).position(differs)
            {
                let path = self.disk.path(&open.file_name);
                let lsn = open.segment.start_lsn() + offset + index as u64;
                self.poisoned = true;
                return Err(SinkError::Diverged { path, lsn });
            }
            offset += chunk.len() as u64;
        }
        Ok(())
    }
}

mod beside;
mod flush;
#[cfg(test)]
mod tests;
