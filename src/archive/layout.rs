//! Which object holds what: the keys below an archive's prefix. `docs/archive-format.md` is their documentation.
//!
//! ```text
//! cluster.json                                              whose archive it is
//! wal/00000001/0000000100000000000000A3.zst                 a whole segment
//! wal/00000002.history.zst                                  a timeline's history
//! ranges/00000001/0000000100000000000000A3/<from>-<to>-<generation>.zst
//!                                                           a part of a segment that is not whole yet
//! lease/00000007.json                                       who writes here, and who wrote
//! ```

use std::cmp::Reverse;
use std::fmt;

use crate::pg::{Lsn, TimelineId, WalFileName, WalSegmentSize};

/// Whose archive it is.
pub const CLUSTER_KEY: &str = "cluster.json";

/// Where segments and histories are.
pub const WAL_PREFIX: &str = "wal/";

/// Where it is said which gaps were accepted.
pub const GAPS_PREFIX: &str = "gaps/";

/// Where the store is tried out.
pub const PROBE_PREFIX: &str = "probe/";

/// Where writers say that they are.
pub const LEASE_PREFIX: &str = "lease/";

const SUFFIX: &str = ".zst";
const PLAIN_HISTORY_SUFFIX: &str = ".history";
const HISTORY_SUFFIX: &str = ".history.zst";
const LEASE_SUFFIX: &str = ".json";

/// The number of a writer: each that takes an archive gets the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u32);

impl Generation {
    /// The first writer's.
    pub const FIRST: Generation = Generation(1);

    /// The next one; `None` when there is none any more.
    pub fn next(self) -> Option<Generation> {
        self.0.checked_add(1).map(Generation)
    }

    fn parse(digits: &str) -> Option<Generation> {
        let valid = digits.len() == 8 && digits.bytes().all(is_digit);
        valid.then(|| u32::from_str_radix(digits, 16).ok())?.filter(|number| *number > 0).map(Generation)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The object in which a writer says that it is there.
pub fn lease_key(generation: Generation) -> String {
    format!("{LEASE_PREFIX}{:08X}{LEASE_SUFFIX}", generation.0)
}

/// Which writer's that is; `None` for other objects.
pub fn parse_lease_key(key: &str) -> Option<Generation> {
    Generation::parse(key.strip_prefix(LEASE_PREFIX)?.strip_suffix(LEASE_SUFFIX)?)
}

/// A part of a segment: half-open, not empty, and within that segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentRange {
    /// The segment, and its timeline.
    pub file: WalFileName,
    /// The first byte.
    pub start_lsn: Lsn,
    /// The first byte behind.
    pub end_lsn: Lsn,
    /// Who wrote it.
    pub generation: Generation,
}

impl SegmentRange {
    /// How many bytes of WAL it has.
    pub fn wal_len(&self) -> u64 {
        self.end_lsn - self.start_lsn
    }

    /// The object that holds it.
    pub fn key(&self) -> String {
        let (start, end) = (self.start_lsn.as_u64(), self.end_lsn.as_u64());
        let generation = self.generation.0;
        format!("{}{start:016X}-{end:016X}-{generation:08X}{SUFFIX}", segment_ranges_prefix(self.file))
    }

    /// What a key says; `None` for those of other objects.
    pub fn parse(key: &str, size: WalSegmentSize) -> Option<Self> {
        let (directory, name) = key.rsplit_once('/')?;
        let (_, file) = directory.rsplit_once('/')?;
        let file = WalFileName::parse(file, size).ok()?;
        let (start, rest) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let (end, generation) = rest.split_once('-')?;
        let (start_lsn, end_lsn) = (position(start)?, position(end)?);
        let range = SegmentRange { file, start_lsn, end_lsn, generation: Generation::parse(generation)? };
        let within = file.segment.start_lsn() <= range.start_lsn
            && range.start_lsn < range.end_lsn
            && range.end_lsn <= file.segment.end_lsn();
        (within && range.key() == key).then_some(range)
    }
}

/// The parts that count, in the order of positions.
///
/// A writer begins where the archive ended when it had taken it. What an earlier one put up from there on, a request that was
/// long on its way perhaps, was never acknowledged, and does not count.
pub fn counted(mut parts: Vec<SegmentRange>) -> Vec<SegmentRange> {
    parts.sort_unstable_by_key(|part| (part.file, Reverse(part.generation), part.start_lsn));
    let (mut file, mut generation) = (None, None);
    // where the writers after this one began in the segment, and where this one did
    let (mut limit, mut first) = (None::<Lsn>, Lsn::INVALID);
    parts.retain(|part| {
        if file.replace(part.file) != Some(part.file) {
            (limit, generation) = (None, None);
        }
        if let Some(before) = generation.replace(part.generation) {
            if before != part.generation {
                limit = Some(limit.map_or(first, |limit| limit.min(first)));
                first = part.start_lsn;
            }
        } else {
            first = part.start_lsn;
        }
        limit.is_none_or(|limit| part.start_lsn < limit)
    });
    parts.sort_unstable();
    parts
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

fn position(digits: &str) -> Option<Lsn> {
    let valid = digits.len() == 16 && digits.bytes().all(is_digit);
    valid.then(|| u64::from_str_radix(digits, 16).ok().map(Lsn::new))?
}

/// Where a timeline's segments are.
pub fn timeline_prefix(timeline: TimelineId) -> String {
    format!("{WAL_PREFIX}{:08X}/", timeline.as_u32())
}

/// Where the parts of a timeline's segments are.
pub fn ranges_prefix(timeline: TimelineId) -> String {
    format!("ranges/{:08X}/", timeline.as_u32())
}

/// Where the parts of one segment are.
pub fn segment_ranges_prefix(file: WalFileName) -> String {
    format!("{}{file}/", ranges_prefix(file.timeline))
}

/// The object that holds a whole segment.
pub fn segment_key(file: WalFileName) -> String {
    format!("{}{file}{SUFFIX}", timeline_prefix(file.timeline))
}

/// The segment that a key is of; `None` for other objects.
pub fn parse_segment_key(key: &str, size: WalSegmentSize) -> Option<WalFileName> {
    let (_, name) = key.rsplit_once('/')?;
    let file = WalFileName::parse(name.strip_suffix(SUFFIX)?, size).ok()?;
    (segment_key(file) == key).then_some(file)
}

/// The object that holds a timeline's history.
pub fn history_key(timeline: TimelineId) -> String {
    format!("{WAL_PREFIX}{:08X}{HISTORY_SUFFIX}", timeline.as_u32())
}

/// The object that holds it in archives that early versions wrote: the bytes as they are, without a checksum.
pub fn plain_history_key(timeline: TimelineId) -> String {
    format!("{WAL_PREFIX}{:08X}{PLAIN_HISTORY_SUFFIX}", timeline.as_u32())
}

/// The timeline whose history, or segments, are under this name directly below [`WAL_PREFIX`].
pub fn parse_timeline(key: &str) -> Option<TimelineId> {
    let name = key.strip_prefix(WAL_PREFIX)?;
    let suffixes = [HISTORY_SUFFIX, PLAIN_HISTORY_SUFFIX, "/"];
    let digits = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let valid = digits.len() == 8 && digits.bytes().all(is_digit);
    valid.then(|| u32::from_str_radix(digits, 16).ok().and_then(TimelineId::new))?
}

/// The object that says that an operator has accepted a gap, which ends on this timeline.
pub fn gap_key(timeline: TimelineId, from: Lsn, to: Lsn) -> String {
    format!("{GAPS_PREFIX}{:08X}/{:016X}-{:016X}.json", timeline.as_u32(), from.as_u64(), to.as_u64())
}

/// The timeline and the positions that such a key names; `None` for other objects.
pub fn parse_gap_key(key: &str) -> Option<(TimelineId, Lsn, Lsn)> {
    let (digits, name) = key.strip_prefix(GAPS_PREFIX)?.split_once('/')?;
    let (from, to) = name.strip_suffix(".json")?.split_once('-')?;
    let timeline = TimelineId::new(u32::from_str_radix(digits, 16).ok()?)?;
    let (from, to) = (position(from)?, position(to)?);
    (gap_key(timeline, from, to) == key).then_some((timeline, from, to))
}

/// An object for trying out the store.
pub fn probe_key(nonce: u64) -> String {
    format!("{PROBE_PREFIX}{nonce:016x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(timeline: u32, lsn: u64, size: WalSegmentSize) -> WalFileName {
        WalFileName { timeline: TimelineId::new(timeline).unwrap(), segment: size.segment_at(Lsn::new(lsn)) }
    }

    #[test]
    fn keys_are_those_of_the_documentation() {
        let size = WalSegmentSize::DEFAULT;
        let file = file(1, 0xa300_0000, size);
        assert_eq!(segment_key(file), "wal/00000001/0000000100000000000000A3.zst");
        let (start_lsn, end_lsn) = (Lsn::new(0xa300_0000), Lsn::new(0xa300_2000));
        let range = SegmentRange { file, start_lsn, end_lsn, generation: Generation(0x1f) };
        assert_eq!(
            range.key(),
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000-0000001F.zst"
        );
        assert_eq!(lease_key(Generation(0x1f)), "lease/0000001F.json");
        assert_eq!(parse_lease_key("lease/0000001F.json"), Some(Generation(0x1f)));
        assert_eq!(history_key(TimelineId::new(2).unwrap()), "wal/00000002.history.zst");
        let gap = (TimelineId::FIRST, Lsn::new(0xA3), Lsn::new(0x1_0000_0000));
        let key = "gaps/00000001/00000000000000A3-0000000100000000.json";
        assert_eq!((gap_key(gap.0, gap.1, gap.2).as_str(), parse_gap_key(key)), (key, Some(gap)));
        for key in ["gaps/1/00000000000000A3-0000000100000000.json", "gaps/00000001/A3-B4.json", "gaps/x"] {
            assert_eq!(parse_gap_key(key), None, "{key}");
        }
        assert_eq!(plain_history_key(TimelineId::new(2).unwrap()), "wal/00000002.history");
        for key in ["wal/00000002.history.zst", "wal/00000002.history"] {
            assert_eq!(parse_timeline(key), TimelineId::new(2));
        }
        assert_eq!(parse_timeline("wal/0000000A"), TimelineId::new(10));
    }

    #[test]
    fn keys_of_nothing_are_passed_over() {
        let size = WalSegmentSize::DEFAULT;
        for key in [
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3000000-00000001.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A4000001-00000001.zst",
            "ranges/00000002/0000000100000000000000A3/00000000A3000000-00000000A3002000-00000001.zst",
            "ranges/00000001/0000000100000000000000A3/A3000000-A3002000-00000001.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000-00000000.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000-00000001",
            "",
        ] {
            assert_eq!(SegmentRange::parse(key, size), None, "{key}");
        }
        for key in [
            "wal/00000002/0000000100000000000000A3.zst",
            "wal/00000001/x.zst",
            "0000000100000000000000A3.zst",
        ] {
            assert_eq!(parse_segment_key(key, size), None, "{key}");
        }
        for key in ["lease/00000000.json", "lease/1.json", "lease/0000000a.json", "00000001.json"] {
            assert_eq!(parse_lease_key(key), None, "{key}");
        }
        for key in ["wal/00000000.history", "wal/0000001.history", "wal/000000G1", "00000001"] {
            assert_eq!(parse_timeline(key), None, "{key}");
        }
    }

    #[test]
    fn a_later_writer_counts_from_where_it_began() {
        let size = WalSegmentSize::DEFAULT;
        let part = |from: u64, to: u64, generation: u32| SegmentRange {
            file: file(1, from, size),
            start_lsn: Lsn::new(from),
            end_lsn: Lsn::new(to),
            generation: Generation(generation),
        };
        let next = 1 << 24;
        let counting = [
            part(0, 10, 1),
            part(10, 20, 1),
            part(20, 30, 3),
            part(30, 50, 3),
            part(50, 60, 4),
            part(next, next + 9, 2),
        ];
        // three were on their way when the next writer began, and one was interrupted before it began
        let late = [part(20, 40, 1), part(40, 45, 1), part(60, 70, 3), part(next, next + 5, 1)];
        let mut all: Vec<SegmentRange> = counting.iter().chain(&late).copied().collect();
        for _ in 0..20 {
            fastrand::shuffle(&mut all);
            assert_eq!(counted(all.clone()), counting);
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_round_trip(
            timeline in 1u32..,
            lsn in 0..Lsn::LIMIT.as_u64(),
            len in 1..1u64 << 20,
            generation in 1u32..,
        ) {
            let size = WalSegmentSize::DEFAULT;
            let file = file(timeline, lsn, size);
            prop_assert_eq!(parse_segment_key(&segment_key(file), size), Some(file));
            let end_lsn = (Lsn::new(lsn) + len).min(file.segment.end_lsn());
            let generation = Generation(generation);
            let range = SegmentRange { file, start_lsn: Lsn::new(lsn), end_lsn, generation };
            prop_assert_eq!(parse_lease_key(&lease_key(generation)), Some(generation));
            prop_assert_eq!(SegmentRange::parse(&range.key(), size), Some(range));
        }
    }
}
