//! The directory that is archived: what WAL is in it, and its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::buffers::Buffer;
use super::super::error::ArchiveError;
use super::super::file::ArchivedFile;
use super::super::layout::{self, WAL_PREFIX};
use crate::compression::CompressionMethod;
use crate::direct;
use crate::pg::wal_page::{LONG_PAGE_HEADER_LEN, SHORT_PAGE_HEADER_LEN, WalPageHeader, WalSegmentHeader};
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};
use crate::sink::ClusterStamp;

/// How records are aligned: the zeros behind the last byte that is not may belong to it.
const ALIGNMENT: u64 = 8;

/// What is in the directory.
#[derive(Debug)]
pub(super) struct LocalWal {
    /// How long segments are.
    pub(super) size: WalSegmentSize,
    /// Segments, finished or not, in the order of timelines and positions.
    pub(super) segments: Vec<LocalSegment>,
    /// Timelines with a history.
    pub(super) histories: Vec<TimelineId>,
}

/// A segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalSegment {
    pub(super) file: WalFileName,
    pub(super) is_partial: bool,
}

impl LocalWal {
    /// Looks at the names.
    pub(super) fn list(directory: &Path, size: WalSegmentSize) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::file("list directory", directory, source);
        let mut found = LocalWal { size, segments: Vec::new(), histories: Vec::new() };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(file) = ArchivedFile::parse(name, size) {
                if file.compression == CompressionMethod::None {
                    found.segments.push(LocalSegment { file: file.wal, is_partial: file.is_partial });
                }
            } else if name.ends_with(".history") {
                found.histories.extend(layout::parse_timeline(&format!("{WAL_PREFIX}{name}")));
            }
        }
        found.histories.sort_unstable();
        // of a segment that has both, the finished file counts
        found.segments.sort_unstable_by_key(|segment| (segment.file, segment.is_partial));
        found.segments.dedup_by_key(|segment| segment.file);
        Ok(found)
    }

    /// The segments of one timeline, in order.
    pub(super) fn of(&self, timeline: TimelineId) -> &[LocalSegment] {
        let start = self.segments.partition_point(|segment| segment.file.timeline < timeline);
        let end = self.segments.partition_point(|segment| segment.file.timeline <= timeline);
        &self.segments[start..end]
    }

    /// Up to where it has WAL of a timeline that nothing more comes for, without a gap behind `from`.
    pub(super) fn end_of(
        &self,
        directory: &Path,
        timeline: TimelineId,
        from: Lsn,
    ) -> Result<Lsn, ArchiveError> {
        let mut end = from;
        for LocalSegment { file, is_partial } in self.of(timeline) {
            if file.segment.start_lsn() > end {
                break;
            }
            let reached = if *is_partial { data_end(directory, *file)? } else { file.segment.end_lsn() };
            end = end.max(reached);
        }
        Ok(end)
    }

    /// The timelines that it has WAL of, in order.
    pub(super) fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> =
            self.segments.iter().map(|segment| segment.file.timeline).collect();
        timelines.dedup();
        timelines
    }
}

/// Whether segments are what their names say, and this cluster's, as far as the first page of each tells: nobody may have looked
/// at those that were here before.
pub(super) fn check_owner(
    directory: &Path,
    segments: &[LocalSegment],
    stamp: ClusterStamp,
) -> Result<(), ArchiveError> {
    for LocalSegment { file, .. } in segments {
        let start_lsn = file.segment.start_lsn();
        let header = match read(directory, *file, start_lsn, start_lsn + LONG_PAGE_HEADER_LEN as u64) {
            // removed meanwhile, or made a moment ago
            Err(ArchiveError::Hole { .. }) => continue,
            Err(ArchiveError::File { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                continue;
            }
            header => header?,
        };
        let whole = <[u8; LONG_PAGE_HEADER_LEN]>::try_from(&header[..]);
        let short = header.first_chunk::<SHORT_PAGE_HEADER_LEN>();
        let (Ok(whole), Some(short)) = (whole, short) else { continue };
        let page = WalPageHeader::parse(short);
        // a timeline's first segment begins with what was written on those before
        let fits = page.page_lsn == start_lsn
            && (1..=file.timeline.as_u32()).contains(&page.timeline)
            && WalSegmentHeader::parse(&whole).system_identifier == stamp.system_identifier;
        // zeros: no WAL yet
        if page.magic != 0 && !fits {
            return Err(ArchiveError::Foreign { name: file.to_string(), directory: directory.to_owned() });
        }
    }
    Ok(())
}

/// A segment that is stored compressed: an archive reads what it puts up from plain ones.
pub(super) fn compressed_segment(directory: &Path) -> Result<Option<String>, ArchiveError> {
    let failed = |source| ArchiveError::file("list directory", directory, source);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if ArchivedFile::split_name(name).is_some_and(|(_, method, _)| method != CompressionMethod::None) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Opens a segment, whatever it is called at the moment.
fn open(directory: &Path, file: WalFileName) -> Result<File, ArchiveError> {
    let partial = directory.join(format!("{file}.partial"));
    let finished = directory.join(file.to_string());
    // twice, because it may get its final name between the two
    for path in [&finished, &partial, &finished] {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map_err(|source| ArchiveError::file("open file", path, source)),
        }
    }
    let (timeline, from) = (file.timeline, file.segment.start_lsn());
    Err(ArchiveError::Hole { timeline, from, directory: directory.to_owned() })
}

/// The bytes of a segment between two positions.
pub(super) fn read(
    directory: &Path,
    file: WalFileName,
    start: Lsn,
    end: Lsn,
) -> Result<Buffer, ArchiveError> {
    let opened = open(directory, file)?;
    let mut wal = Buffer::take(usize::try_from(end - start).unwrap_or(usize::MAX));
    // what was received as fast as it came is on the device, and nowhere else
    let read = direct::read_exact_at(&opened, &mut wal, start - file.segment.start_lsn());
    read.map_err(|source| ArchiveError::file("read file", directory.join(file.to_string()), source))?;
    Ok(wal)
}

/// Up to where an unfinished segment that nobody writes to any more holds WAL. What was made ready for WAL that never
/// came is zeros, and so is what a crash has lost.
pub(super) fn data_end(directory: &Path, file: WalFileName) -> Result<Lsn, ArchiveError> {
    const PIECE_LEN: u64 = 1 << 20;
    let failed = |source| ArchiveError::file("read file", directory.join(format!("{file}.partial")), source);
    let opened = open(directory, file)?;
    let mut end = opened.metadata().map_err(failed)?.len().min(file.segment.size().as_u64());
    let mut piece = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PIECE_LEN);
        piece.resize((end - start) as usize, 0);
        opened.read_exact_at(&mut piece, start).map_err(failed)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            let len = (start + last as u64 + 1).next_multiple_of(ALIGNMENT);
            return Ok(file.segment.start_lsn() + len.min(end.next_multiple_of(ALIGNMENT)));
        }
        end = start;
    }
    Ok(file.segment.start_lsn())
}

/// A timeline's history; it has been checked by whoever received it, and is checked again by whoever reads it.
pub(super) fn read_history(directory: &Path, timeline: TimelineId) -> Result<Vec<u8>, ArchiveError> {
    parsed_history(directory, timeline).map(|(content, _)| content)
}

/// What it says.
pub(super) fn history(directory: &Path, timeline: TimelineId) -> Result<TimelineHistory, ArchiveError> {
    parsed_history(directory, timeline).map(|(_, history)| history)
}

fn parsed_history(
    directory: &Path,
    timeline: TimelineId,
) -> Result<(Vec<u8>, TimelineHistory), ArchiveError> {
    let path = directory.join(timeline.history_file_name());
    let content = std::fs::read(&path).map_err(|source| ArchiveError::file("read file", &path, source))?;
    let history = TimelineHistory::parse(timeline, &content)
        .map_err(|source| ArchiveError::History { key: path.display().to_string(), source })?;
    Ok((content, history))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let size = WalSegmentSize::from_bytes(1 << 20).unwrap();
        std::fs::write(at("000000010000000000000003"), vec![7; 1 << 20]).unwrap();
        std::fs::write(at("000000010000000000000003.partial"), b"old").unwrap();
        std::fs::write(at("000000010000000000000004.gz"), b"compressed").unwrap();
        let mut partial = vec![0; 1 << 20];
        partial[..100].fill(1);
        std::fs::write(at("000000020000000000000004.partial"), &partial).unwrap();
        std::fs::write(at("00000002.history"), "1\t0/400000\tno recovery target specified\n").unwrap();
        std::fs::write(at(".pgwake.stamp"), b"x").unwrap();
        let local = LocalWal::list(directory.path(), size).unwrap();
        let names: Vec<(String, bool)> =
            local.segments.iter().map(|segment| (segment.file.to_string(), segment.is_partial)).collect();
        let compressed = compressed_segment(directory.path()).unwrap();
        assert_eq!(compressed.as_deref(), Some("000000010000000000000004.gz"));
        assert_eq!(compressed_segment(&at("missing")).unwrap(), None);
        assert_eq!(
            names,
            [("000000010000000000000003".into(), false), ("000000020000000000000004".into(), true)]
        );
        let second = TimelineId::new(2).unwrap();
        assert_eq!((local.histories.clone(), local.of(second).len()), (vec![second], 1));
        let unfinished = local.segments[1].file;
        assert_eq!(data_end(directory.path(), unfinished).unwrap(), unfinished.segment.start_lsn() + 104);
        assert!(read_history(directory.path(), second).is_ok());
        let start = unfinished.segment.start_lsn();
        assert_eq!(read(directory.path(), unfinished, start + 98, start + 102).unwrap()[..], [1, 1, 0, 0]);
        let missing = WalFileName { segment: unfinished.segment.next(), ..unfinished };
        assert!(matches!(read(directory.path(), missing, start, start + 1), Err(ArchiveError::Hole { .. })));
    }
}
