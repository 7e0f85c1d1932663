//! Whole small files: timeline histories and the stamp.
//!
//! Answers to `writeTimeLineHistoryFile` in PostgreSQL's `receivelog.c`, which ignores failures, measures the
//! content with `strlen` and never looks at what is there. Here the bytes are the server's, a failure fails,
//! and a history that differs from the one already there is an error: two servers claim one timeline.

use bytes::Bytes;

use super::disk::{Disk, DiskFile as _, OpenMode};
use super::error::{Operation, SinkError};
use super::segment_writer::{Layout, SegmentWriter};
use super::stamp::ClusterStamp;
use crate::pg::{TimelineHistory, TimelineId};

impl<D: Disk> SegmentWriter<D> {
    /// Makes the history file of `timeline` durable; nothing happens when the same content is there already.
    pub fn write_history(&mut self, timeline: TimelineId, content: Bytes) -> Result<(), SinkError> {
        self.check_usable()?;
        let name = timeline.history_file_name();
        match self.read_small_file(&name, TimelineHistory::MAX_LEN)? {
            Some(existing) if existing == content => {}
            Some(_) => return Err(SinkError::HistoryDiffers { timeline, path: self.disk.path(&name) }),
            None => self.write_small_file(&name, content)?,
        }
        if self.layout() == Layout::PgWal {
            self.mark_done(&name)?;
        }
        Ok(())
    }

    /// Compares the directory's stamp, or leaves one where there was none.
    pub(super) fn check_stamp(&mut self, stamp: ClusterStamp) -> Result<(), SinkError> {
        let name = ClusterStamp::FILE_NAME;
        match self.read_small_file(name, ClusterStamp::MAX_LEN)? {
            None => self.write_small_file(name, Bytes::from(stamp.encode())),
            Some(content) => {
                let damaged = || SinkError::DamagedStamp { path: self.disk.path(name) };
                stamp.check_against(ClusterStamp::decode(&content).ok_or_else(damaged)?)
            }
        }
    }

    /// The content, cut off one byte after `max_len`; `None` when there is no such file.
    pub(super) fn read_small_file(
        &mut self,
        name: &str,
        max_len: usize,
    ) -> Result<Option<Vec<u8>>, SinkError> {
        let file = match self.disk.open(name, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(Operation::Open, name, error)),
        };
        let mut content = vec![0; max_len + 1];
        let result = self.disk.read_at(&file, 0, &mut content);
        let len = result.map_err(|error| self.failed(Operation::Read, name, error))?;
        content.truncate(len);
        Ok(Some(content))
    }

    /// The final name appears whole and durable, or not at all: temporary name, fsync, rename, fsync directory.
    fn write_small_file(&mut self, name: &str, content: Bytes) -> Result<(), SinkError> {
        let temporary = format!("{name}.tmp");
        let result = self.disk.open(&temporary, OpenMode::ExistingOrNew);
        let mut file = result.map_err(|error| self.failed(Operation::Open, &temporary, error))?;
        // what a crash left of an earlier attempt was never acknowledged and goes
        let result = self.disk.set_len(&mut file, 0);
        result.map_err(|error| self.failed(Operation::SetLen, &temporary, error))?;
        let result = self.disk.write_at(&mut file, 0, &[content]);
        result.map_err(|error| self.failed(Operation::Write, &temporary, error))?;
        let result = file.sync_data();
        result.map_err(|error| self.failed(Operation::Sync, &temporary, error))?;
        let result = self.disk.rename(&temporary, name);
        result.map_err(|error| self.failed(Operation::Rename, &temporary, error))?;
        self.sync_directory("")
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_disk::MemoryDisk;
    use super::*;
    use crate::pg::{SystemIdentifier, WalSegmentSize};

    const TWO: TimelineId = TimelineId::new(2).unwrap();

    fn stamp(identifier: u64) -> ClusterStamp {
        ClusterStamp {
            system_identifier: SystemIdentifier::new(identifier),
            segment_size: WalSegmentSize::DEFAULT,
        }
    }

    #[test]
    fn a_history_appears_whole_and_is_never_replaced() {
        let disk = MemoryDisk::default();
        disk.put("00000002.history.tmp", b"half of something longer than the content");
        let mut writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
        writer.write_history(TWO, Bytes::from_static(b"1\t0/1\tx\n")).unwrap();
        assert_eq!(disk.read("00000002.history").unwrap(), b"1\t0/1\tx\n");
        assert_eq!(
            disk.steps.borrow()[1..],
            [
                "write 00000002.history.tmp 0+8",
                "sync 00000002.history.tmp",
                "rename 00000002.history.tmp 00000002.history",
                "sync_directory"
            ]
        );
        writer.write_history(TWO, Bytes::from_static(b"1\t0/1\tx\n")).unwrap();
        let error = writer.write_history(TWO, Bytes::from_static(b"1\t0/2\tx\n")).unwrap_err();
        assert!(matches!(error, SinkError::HistoryDiffers { .. }), "{error}");
    }

    #[test]
    fn the_stamp_keeps_other_clusters_out() {
        let disk = MemoryDisk::default();
        SegmentWriter::open(disk.clone(), Layout::Archive).unwrap().prepare(stamp(1)).unwrap();
        let mut writer = SegmentWriter::open(disk.clone(), Layout::Archive).unwrap();
        assert!(writer.prepare(stamp(1)).is_ok());
        assert!(matches!(writer.prepare(stamp(2)), Err(SinkError::OtherSystem { .. })));
        disk.put(ClusterStamp::FILE_NAME, b"{");
        assert!(matches!(writer.prepare(stamp(1)), Err(SinkError::DamagedStamp { .. })));
    }
}
