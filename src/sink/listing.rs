//! What is in the directory, without looking at more than the ends of its timelines.
//!
//! A directory may hold the WAL of years, and every connection begins with the question where it ends. The
//! original looks at each file's length, and reads each compressed one, each time. Names come many at once; a
//! length is a system call for each. So only files that may be the end of a timeline are looked at: the last one,
//! and those before it down to one that is finished. What lies before that was complete when it got its name. Of a
//! compressed one only reading it tells, and of one that is not finished how far its WAL goes before the zeros: that is done
//! for each timeline's last.

use std::io;

use super::disk::{Disk, DiskEntry};
use super::error::{Operation, SinkError};
use super::segment_writer::{PARTIAL_SUFFIX, SegmentWriter};
use crate::compression::CompressionMethod;
use crate::pg::{TimelineId, WalFileName, WalSegmentSize};

/// What a damaged segment's name is to end in, so that it is received again.
const ASIDE_SUFFIX: &str = ".damaged";

/// A segment's file, as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFile {
    /// Which segment of which timeline.
    pub name: WalFileName,
    /// Whether it has its final name.
    pub finished: bool,
    /// What it is compressed with; then its length says nothing about how much WAL it holds.
    pub method: CompressionMethod,
}

impl SegmentFile {
    /// `None` for all other files.
    pub fn parse(name: &str, segment_size: WalSegmentSize) -> Option<SegmentFile> {
        let (stem, finished) = name.strip_suffix(PARTIAL_SUFFIX).map_or((name, true), |stem| (stem, false));
        let (stem, method) = CompressionMethod::split_name(stem);
        let name = WalFileName::parse(stem, segment_size).ok()?;
        Some(SegmentFile { name, finished, method })
    }

    /// The finished segment whose file somebody has moved aside by adding `.damaged` to its name.
    pub fn parse_aside(name: &str, segment_size: WalSegmentSize) -> Option<WalFileName> {
        let file = SegmentFile::parse(name.strip_suffix(ASIDE_SUFFIX)?, segment_size)?;
        file.finished.then_some(file.name)
    }

    /// Whether it is stored compressed.
    pub fn is_compressed(&self) -> bool {
        self.method != CompressionMethod::None
    }
}

impl<D: Disk> SegmentWriter<D> {
    pub(super) fn list(&mut self, segment_size: WalSegmentSize) -> Result<Vec<DiskEntry>, SinkError> {
        let result = self.disk.list();
        let mut names = result.map_err(|error| self.failed(Operation::List, "", error))?;
        // a timeline's files together, the last one first
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut entries = Vec::with_capacity(names.len());
        let mut known_end: Option<TimelineId> = None;
        for name in names {
            let file = SegmentFile::parse(&name, segment_size);
            let Some(file) = file.filter(|file| known_end != Some(file.name.timeline)) else {
                entries.push(DiskEntry { name, len: None });
                continue;
            };
            let mut len = match self.disk.len_of(&name) {
                Ok(len) => len,
                // somebody moved a finished segment away while we were looking
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed(Operation::Stat, &name, error)),
            };
            if file.finished && file.is_compressed() {
                let plain = self.read_back(file.method, &name, segment_size.as_u64())?;
                len = plain.map_or(0, |(len, _)| len);
            }
            if !file.finished
                && !file.is_compressed()
                && len <= segment_size.as_u64()
                && let Some(unfinished) = self.open_existing(&name)?
            {
                len = self.wal_len(&unfinished, &name, len)?;
            }
            if file.finished && len == segment_size.as_u64() {
                known_end = Some(file.name.timeline);
            }
            entries.push(DiskEntry { name, len: Some(len) });
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use flate2::write::GzEncoder;

    use super::super::memory_disk::MemoryDisk;
    use super::super::{Layout, OpenMode};
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn only_the_ends_of_timelines_are_looked_at() {
        let mut disk = MemoryDisk::default();
        let mut file = |name: &str, len: u64| {
            let mut content = vec![1; len as usize];
            if name.ends_with(".gz") {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&content).unwrap();
                content = encoder.finish().unwrap();
            }
            let mut file = disk.open(name, OpenMode::ExistingOrNew).unwrap();
            disk.write_at(&mut file, 0, &[Bytes::from(content)]).unwrap();
        };
        for (name, len) in [
            ("000000010000000000000003", MIB),
            ("000000010000000000000004", MIB),
            ("000000010000000000000005.partial", 7),
            ("000000020000000000000005.gz", MIB),
            ("000000020000000000000006.gz", MIB),
            ("000000020000000000000007.gz", 9),
            // finished, and yet not: the one before it is looked at too
            ("000000030000000000000007", MIB),
            ("000000030000000000000008", MIB),
            ("000000030000000000000009", 5),
            ("00000003.history", 40),
            (".pgwake.stamp", 80),
        ] {
            file(name, len);
        }
        let mut writer = SegmentWriter::open(disk, Layout::Archive).unwrap();
        let entries = writer.list(WalSegmentSize::from_bytes(MIB).unwrap()).unwrap();
        assert!(entries.iter().any(|entry| entry.name == "000000010000000000000003" && entry.len.is_none()));
        let mut looked_at: Vec<(&str, u64)> =
            entries.iter().filter_map(|entry| Some((&entry.name[..], entry.len?))).collect();
        looked_at.sort_unstable();
        assert_eq!(
            looked_at,
            [
                ("000000010000000000000004", MIB),
                ("000000010000000000000005.partial", 7),
                ("000000020000000000000006.gz", MIB),
                ("000000020000000000000007.gz", 9),
                ("000000030000000000000008", MIB),
                ("000000030000000000000009", 5),
            ]
        );
    }
}
