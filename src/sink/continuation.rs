//! Whether a stream goes on where the directory ends.
//!
//! A stream begins at a segment's start, and finished segments are not fetched again. So a server that has lost WAL and
//! written other WAL on the same timeline (it was restored from a snapshot, say) would be taken up where the directory
//! ends, and the two halves would never fit. They are tied together by what crosses the boundary: each record names the
//! one before it, and a record that is not finished says how much is to come. So a checker reads the finished segment
//! before the stream's first, which may be of the timeline before. Where that one is damaged nothing is received, or the server
//! would be told to remove what it may still have; under the original's name it is only told of.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::error::SinkError;
use super::segment_writer::SegmentWriter;
use crate::compression::CompressionMethod;
use crate::pg::{
    Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalChecker, WalFileName, WalSegmentSize,
};

/// A checker for a stream, and the file whose end it knows.
#[derive(Debug)]
pub(super) struct StreamChecker {
    checker: WalChecker,
    start_lsn: Lsn,
    /// The finished segment before the stream.
    continues: Option<PathBuf>,
}

impl StreamChecker {
    /// Checks the bytes from `lsn` on, which must be where those before ended. What fails once fails for ever.
    pub(super) fn check(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), SinkError> {
        self.checker.push(lsn, data).map_err(|error| match self.doubted_file() {
            Some(path) => SinkError::NoContinuation { path: path.to_owned(), source: error },
            None => SinkError::InvalidWal(error),
        })
    }

    /// The file that the stream was to continue, as long as nothing shows that it does.
    fn doubted_file(&self) -> Option<&Path> {
        let joined = self.checker.last_record_lsn().is_some_and(|lsn| lsn >= self.start_lsn);
        self.continues.as_deref().filter(|_| !joined)
    }
}

impl<D: Disk> SegmentWriter<D> {
    /// A checker for a stream of `timeline` from `start_lsn` on.
    pub(super) fn stream_checker(
        &mut self,
        system: SystemIdentifier,
        segment_size: WalSegmentSize,
        timeline: TimelineId,
        start_lsn: Lsn,
    ) -> Result<StreamChecker, SinkError> {
        if self.layout().is_archive() && start_lsn.as_u64() > 0 {
            let last_lsn = Lsn::new(start_lsn.as_u64() - 1);
            let before = segment_size.segment_at(last_lsn);
            let written_on = self.timeline_before(timeline, last_lsn)?;
            let name = WalFileName { timeline: written_on, segment: before }.to_string();
            for method in CompressionMethod::ALL {
                let name = format!("{name}{}", method.suffix());
                let checker = WalChecker::new(system, segment_size, timeline, before.start_lsn());
                if let Some(checker) = self.checker_behind(checker, method, &name, segment_size)? {
                    let continues = Some(self.disk.path(&name));
                    return Ok(StreamChecker { checker, start_lsn, continues });
                }
            }
        }
        let checker = WalChecker::new(system, segment_size, timeline, start_lsn);
        Ok(StreamChecker { checker, start_lsn, continues: None })
    }

    /// The timeline on which a server on `timeline` has the byte at `lsn`, as far as the directory knows.
    fn timeline_before(&mut self, timeline: TimelineId, lsn: Lsn) -> Result<TimelineId, SinkError> {
        let content = self.read_small_file(&timeline.history_file_name(), TimelineHistory::MAX_LEN)?;
        let history = content.and_then(|content| TimelineHistory::parse(timeline, &content).ok());
        Ok(history.map_or(timeline, |history| history.timeline_at(lsn)))
    }

    /// `checker`, when it has read a whole segment; `None` when there is none, or none that is whole.
    fn checker_behind(
        &mut self,
        mut checker: WalChecker,
        method: CompressionMethod,
        name: &str,
        segment_size: WalSegmentSize,
    ) -> Result<Option<WalChecker>, SinkError> {
        if self.open_existing(name)?.is_none() {
            return Ok(None);
        }
        let mut verdict = Ok(());
        let take = |piece: &[u8]| {
            verdict = checker.push(checker.next_lsn(), piece);
            verdict.is_ok()
        };
        let len = self.read_pieces(method, name, segment_size.as_u64(), take)?;
        if let Err(source) = verdict
            && !self.replaces_damaged()
        {
            self.poison();
            return Err(SinkError::DamagedSegment { path: self.disk.path(name), source });
        }
        if let Err(error) = verdict {
            let told = "last finished segment is not valid WAL; the stream cannot be compared with it";
            tracing::warn!(file = name, %error, "{told}");
            return Ok(None);
        }
        Ok(len.filter(|len| *len == segment_size.as_u64()).map(|_| checker))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::memory_disk::MemoryDisk;
    use super::super::{ClusterStamp, Layout, OpenMode, RecordCheck};
    use super::*;
    use crate::pg::wal_builder::WalBuilder;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::from_bytes(MIB).unwrap()
    }

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn system() -> SystemIdentifier {
        SystemIdentifier::new(7)
    }

    /// Segment 2 and the first page of segment 3, where another timeline begins.
    fn wal(body: &[u8], switched_to: TimelineId) -> (Bytes, Bytes) {
        let mut builder = WalBuilder::new(system(), size(), TimelineId::FIRST, Lsn::new(2 * MIB));
        while builder.end_lsn() < Lsn::new(3 * MIB - 8192) {
            builder.record(body);
        }
        builder.fill_page();
        assert_eq!(builder.end_lsn(), Lsn::new(3 * MIB));
        builder.set_timeline(switched_to);
        builder.record(b"what comes next");
        let bytes = Bytes::copy_from_slice(builder.bytes());
        (bytes.slice(..MIB as usize), bytes.slice(MIB as usize..))
    }

    /// A directory that ends with `segment`, and whose second timeline began right behind it.
    fn writer(layout: Layout, segment: Bytes) -> SegmentWriter<MemoryDisk> {
        let mut disk = MemoryDisk::default();
        let history = Bytes::from_static(b"1\t0/300000\tno recovery target specified\n");
        for (name, content) in [("000000010000000000000002", segment), ("00000002.history", history)] {
            let mut file = disk.open(name, OpenMode::ExistingOrNew).unwrap();
            disk.write_at(&mut file, 0, &[content]).unwrap();
        }
        let writer = SegmentWriter::open(disk, layout).unwrap().with_record_check(RecordCheck::On);
        let mut writer = writer;
        writer.prepare(ClusterStamp { system_identifier: system(), segment_size: size() }).unwrap();
        writer
    }

    #[test]
    fn a_stream_is_compared_with_what_is_before_it_across_a_switch_too() {
        let (segment, next) = wal(b"some WAL", tli(2));
        let (_, other) = wal(b"some other WAL", tli(2));
        let start_lsn = Lsn::new(3 * MIB);
        for (goes_on, data) in [(true, next), (false, other)] {
            let mut writer = writer(Layout::Archive, segment.clone());
            writer.begin(tli(2), size(), start_lsn).unwrap();
            match writer.write(start_lsn, &[data]) {
                Ok(()) => assert!(goes_on),
                Err(SinkError::NoContinuation { .. }) => assert!(!goes_on),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn nothing_is_received_behind_a_damaged_segment() {
        let (segment, next) = wal(b"some WAL", tli(1));
        let mut damaged = segment.to_vec();
        damaged[8192..65536].fill(0);
        let damaged = Bytes::from(damaged);
        let start_lsn = Lsn::new(3 * MIB);
        let mut refusing = writer(Layout::Archive, damaged.clone());
        let result = refusing.begin(tli(1), size(), start_lsn);
        assert!(matches!(result, Err(SinkError::DamagedSegment { .. })), "{result:?}");
        // under the original's name it is told of
        let mut telling = writer(Layout::PaddedArchive, damaged);
        telling.begin(tli(1), size(), start_lsn).unwrap();
        telling.write(start_lsn, &[next]).unwrap();
    }
}
