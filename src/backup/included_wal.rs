//! WAL that a backup carries below `pg_wal`: all that recovery needs, and as a server wrote it?
//!
//! The manifest, which says what recovery needs, comes last. So every segment is checked as it passes by, from the backup's start
//! on, and what is found is compared with the manifest's ranges in the end. As for [`verify`](super::verify), where the segment of an
//! older timeline is not there, that of a newer one of the same backup will do.

use super::manifest::WalRange;
use crate::pg::wal_page::LONG_PAGE_HEADER_LEN;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalError, WalFileName, WalSegmentSize};

/// Segments that pass by: [`begin`](Self::begin), [`data`](Self::data) and [`end`](Self::end) for each member of the data
/// directory's archive, then [`check`](Self::check).
#[derive(Debug)]
pub struct IncludedWal {
    system_identifier: SystemIdentifier,
    segment_size: WalSegmentSize,
    /// What comes before in its segment is not needed.
    start_lsn: Lsn,
    stretches: Vec<Stretch>,
    member: Option<Member>,
}

/// Why a backup does not carry the WAL that it needs.
#[derive(Debug, thiserror::Error)]
pub enum IncludedWalError {
    /// It is not there.
    #[error("WAL of timeline {timeline} from {lsn} on is missing in it")]
    Missing {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        lsn: Lsn,
    },
    /// It is not what a server wrote.
    #[error(transparent)]
    Invalid(#[from] WalError),
    /// What has to be the last record is not whole.
    #[error("the record at {lsn} on timeline {timeline} does not end where the backup does, at {end_lsn}")]
    Unfinished {
        /// The timeline.
        timeline: TimelineId,
        /// Where the record begins.
        lsn: Lsn,
        /// Where it ought to have ended.
        end_lsn: Lsn,
    },
}

/// Segments of one timeline that came one behind the other.
#[derive(Debug)]
struct Stretch {
    timeline: TimelineId,
    start_lsn: Lsn,
    checker: Option<WalChecker>,
    failure: Option<WalError>,
}

/// The segment that is passing by.
#[derive(Debug)]
struct Member {
    file: WalFileName,
    /// The first bytes, until there are enough for the segment's header.
    head: Vec<u8>,
    /// Where it belongs; known with the header.
    stretch: Option<usize>,
    /// The next byte's place.
    lsn: Lsn,
}

/// In a backup as a server sends it there is one for each timeline.
const MAX_STRETCHES: usize = 1000;

impl IncludedWal {
    /// Of a backup of this cluster that begins at `start_lsn`.
    pub fn new(system_identifier: SystemIdentifier, segment_size: WalSegmentSize, start_lsn: Lsn) -> Self {
        IncludedWal { system_identifier, segment_size, start_lsn, stretches: Vec::new(), member: None }
    }

    /// A file begins.
    pub(super) fn begin(&mut self, path: &[u8]) {
        let name = path.strip_prefix(b"pg_wal/").and_then(|name| std::str::from_utf8(name).ok());
        let file = name.and_then(|name| WalFileName::parse(name, self.segment_size).ok());
        self.member =
            file.map(|file| Member { file, head: Vec::new(), stretch: None, lsn: file.segment.start_lsn() });
    }

    /// Bytes of the file that began last.
    pub(super) fn data(&mut self, data: &[u8]) {
        let Some(mut member) = self.member.take() else { return };
        match member.stretch {
            Some(stretch) => self.push(stretch, &mut member, data),
            None => {
                member.head.extend_from_slice(data);
                if let Some(header) = member.head.first_chunk() {
                    let Some(stretch) = self.stretch_for(member.file, header) else { return };
                    member.stretch = Some(stretch);
                    let head = std::mem::take(&mut member.head);
                    self.push(stretch, &mut member, &head);
                }
            }
        }
        self.member = Some(member);
    }

    /// The file has ended.
    pub(super) fn end(&mut self) {
        self.member = None;
    }

    /// The stretch that a segment goes on, or begins.
    fn stretch_for(&mut self, file: WalFileName, header: &[u8; LONG_PAGE_HEADER_LEN]) -> Option<usize> {
        let segment_lsn = file.segment.start_lsn();
        let goes_on = |stretch: &Stretch| {
            let next_lsn = stretch.checker.as_ref().map(WalChecker::next_lsn);
            stretch.timeline == file.timeline && stretch.failure.is_none() && next_lsn == Some(segment_lsn)
        };
        if let Some(index) = self.stretches.iter().position(goes_on) {
            return Some(index);
        }
        if self.stretches.len() == MAX_STRETCHES {
            return None;
        }
        let holds_start = segment_lsn <= self.start_lsn && self.start_lsn < file.segment.end_lsn();
        let start_lsn = if holds_start { self.start_lsn } else { segment_lsn };
        let (system, size) = (self.system_identifier, self.segment_size);
        let (checker, failure) = match WalChecker::from_page(system, size, file.timeline, start_lsn, header) {
            Ok(checker) => (Some(checker), None),
            Err(error) => (None, Some(error)),
        };
        self.stretches.push(Stretch { timeline: file.timeline, start_lsn, checker, failure });
        Some(self.stretches.len() - 1)
    }

    fn push(&mut self, index: usize, member: &mut Member, data: &[u8]) {
        let (stretch, lsn) = (&mut self.stretches[index], member.lsn);
        member.lsn = lsn + data.len() as u64;
        let Some(checker) = stretch.checker.as_mut().filter(|_| stretch.failure.is_none()) else { return };
        // what is before the page of the backup's start is passed over
        let known_len = usize::try_from(checker.next_lsn().saturating_since(lsn)).unwrap_or(usize::MAX);
        if let Some(new) = data.get(known_len..).filter(|new| !new.is_empty()) {
            stretch.failure = checker.push(lsn + known_len as u64, new).err();
        }
    }

    /// Everything has passed by: is all there that the manifest says recovery needs?
    pub(super) fn check(&self, ranges: &[WalRange]) -> Result<(), IncludedWalError> {
        ranges.iter().rev().try_for_each(|range| self.check_range(ranges, range))
    }

    fn check_range(&self, ranges: &[WalRange], range: &WalRange) -> Result<(), IncludedWalError> {
        let (timeline, end_lsn) = (range.timeline, range.end_lsn);
        let mut lsn = range.start_lsn;
        while lsn < end_lsn {
            let will_do = |stretch: &&Stretch| {
                let is_of_backup = ranges.iter().any(|other| other.timeline == stretch.timeline);
                is_of_backup && stretch.timeline >= timeline && stretch.start_lsn <= lsn
            };
            let candidates = || self.stretches.iter().filter(will_do);
            let found =
                candidates().filter(|stretch| lsn < stretch.reached()).min_by_key(|found| found.timeline);
            let Some(stretch) = found else {
                let failure =
                    candidates().filter_map(|stretch| stretch.failure).max_by_key(|found| found.lsn);
                return Err(failure.map_or(IncludedWalError::Missing { timeline, lsn }, Into::into));
            };
            if let Some(failure) = stretch.failure.filter(|failure| failure.lsn < end_lsn) {
                return Err(failure.into());
            }
            lsn = stretch.reached();
            let open = stretch.checker.as_ref().filter(|checker| checker.is_within_record());
            if let Some(open_lsn) = open.map(WalChecker::checked_lsn)
                && open_lsn < end_lsn
                && end_lsn <= lsn
            {
                return Err(IncludedWalError::Unfinished { timeline, lsn: open_lsn, end_lsn });
            }
        }
        Ok(())
    }
}

impl Stretch {
    /// Up to where nothing was wrong.
    fn reached(&self) -> Lsn {
        let read = self.checker.as_ref().map_or(self.start_lsn, WalChecker::next_lsn);
        self.failure.map_or(read, |failure| failure.lsn.min(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal_builder::WalBuilder;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::from_bytes(MIB).unwrap()
    }

    /// From the start of the fourth megabyte on, and where a record in the middle of it begins.
    fn wal() -> (WalBuilder, Lsn) {
        let mut wal = WalBuilder::new(SystemIdentifier::new(5), size(), TimelineId::FIRST, Lsn::new(4 * MIB));
        let mut start_lsn = Lsn::INVALID;
        while wal.end_lsn() < Lsn::new(7 * MIB) {
            let lsn = wal.record(&[7; 3000]);
            if start_lsn == Lsn::INVALID && lsn > Lsn::new(4 * MIB + 500_000) {
                start_lsn = lsn;
            }
        }
        (wal, start_lsn)
    }

    /// `segments` are what comes, by the number of the megabyte, the content, and the timeline in its name.
    fn checked(
        ranges: &[WalRange],
        start_lsn: Lsn,
        segments: &[(u64, &[u8], u32)],
        chunk_len: usize,
    ) -> Result<(), IncludedWalError> {
        let mut included = IncludedWal::new(SystemIdentifier::new(5), size(), start_lsn);
        for &(number, content, timeline) in segments {
            let timeline = TimelineId::new(timeline).unwrap();
            let file = WalFileName { timeline, segment: size().segment_at(Lsn::new(number * MIB)) };
            included.begin(format!("pg_wal/{file}").as_bytes());
            content.chunks(chunk_len).for_each(|chunk| included.data(chunk));
            included.end();
            included.begin(b"pg_wal/archive_status/x");
            included.data(b"something else");
            included.end();
        }
        included.check(ranges)
    }

    fn range(timeline: u32, start_lsn: Lsn, end_lsn: Lsn) -> WalRange {
        WalRange { timeline: TimelineId::new(timeline).unwrap(), start_lsn, end_lsn }
    }

    #[test]
    fn what_is_needed_has_to_be_there_and_nothing_else_matters() {
        let (wal, start_lsn) = wal();
        let bytes = wal.bytes()[..3 * MIB as usize].to_vec();
        let end_lsn = Lsn::new(6 * MIB + 400_000);
        let ranges = [range(1, start_lsn, end_lsn)];
        let segment = |bytes: &[u8], number: u64| {
            let from = ((number - 4) * MIB) as usize;
            bytes[from..from + MIB as usize].to_vec()
        };
        let run = |bytes: &[u8], numbers: &[u64], chunk_len| {
            let segments: Vec<Vec<u8>> = numbers.iter().map(|number| segment(bytes, *number)).collect();
            let segments: Vec<(u64, &[u8], u32)> =
                numbers.iter().zip(&segments).map(|(number, content)| (*number, &content[..], 1)).collect();
            checked(&ranges, start_lsn, &segments, chunk_len)
        };
        for chunk_len in [7, 512, 8192, 1 << 21] {
            run(&bytes, &[4, 5, 6], chunk_len).unwrap();
        }
        for (numbers, missing) in [
            (&[5, 6][..], start_lsn),
            (&[4, 6], Lsn::new(5 * MIB)),
            (&[4, 5], Lsn::new(6 * MIB)),
            (&[], start_lsn),
        ] {
            let found = run(&bytes, numbers, 8192);
            assert!(
                matches!(found, Err(IncludedWalError::Missing { lsn, .. }) if lsn == missing),
                "{numbers:?}: {found:?}"
            );
        }
        for at in
            [start_lsn - Lsn::new(4 * MIB) + 200, MIB + 10, MIB + 300_000, 2 * MIB + 3, 2 * MIB + 399_000]
        {
            let mut damaged = bytes.clone();
            damaged[at as usize] ^= 1;
            let found = run(&damaged, &[4, 5, 6], 8192);
            assert!(matches!(found, Err(IncludedWalError::Invalid(_))), "{at}: {found:?}");
        }
        // before the start, and behind the end
        for at in [10_000, 2 * MIB + 500_000] {
            let mut damaged = bytes.clone();
            damaged[at as usize] ^= 1;
            run(&damaged, &[4, 5, 6], 8192).unwrap();
        }
    }

    #[test]
    fn a_segment_that_is_cut_lacks_its_end() {
        let (wal, start_lsn) = wal();
        let ranges = [range(1, start_lsn, Lsn::new(4 * MIB + 700_000))];
        let cut = &wal.bytes()[..600_000];
        let found = checked(&ranges, start_lsn, &[(4, cut, 1)], 8192);
        assert!(
            matches!(found, Err(IncludedWalError::Missing { lsn, .. }) if lsn == Lsn::new(4 * MIB + 600_000))
        );
        assert!(checked(&ranges, start_lsn, &[(4, &cut[..30], 1)], 8192).is_err());
    }

    #[test]
    fn a_newer_timelines_segment_will_do_for_an_older_one() {
        let (wal, start_lsn) = wal();
        let switch_lsn = Lsn::new(5 * MIB + 9000);
        let ranges = [range(2, switch_lsn, Lsn::new(5 * MIB + 700_000)), range(1, start_lsn, switch_lsn)];
        let [first, second] = [0, 1].map(|index| &wal.bytes()[index * MIB as usize..][..MIB as usize]);
        checked(&ranges, start_lsn, &[(4, first, 1), (5, second, 2)], 8192).unwrap();
        checked(&ranges, start_lsn, &[(4, first, 1), (5, second, 2), (5, second, 1)], 8192).unwrap();
        assert!(checked(&ranges, start_lsn, &[(4, first, 1), (5, second, 1)], 8192).is_err());
        // of a timeline that is none of the backup's
        assert!(checked(&ranges, start_lsn, &[(4, first, 3), (5, second, 2)], 8192).is_err());
    }
}
