//! Which object holds what: the keys below an archive's prefix. `docs/archive-format.md` is their documentation.
//!
//! ```text
//! cluster.json                                              whose archive it is
//! wal/00000001/0000000100000000000000A3.zst                 a whole segment
//! wal/00000002.history                                      a timeline's history, as the server has it
//! ranges/00000001/0000000100000000000000A3/<from>-<to>.zst  a part of a segment that is not whole yet
//! ```

use crate::pg::{Lsn, TimelineId, WalFileName, WalSegmentSize};

/// Whose archive it is.
pub const CLUSTER_KEY: &str = "cluster.json";

/// Where segments and histories are.
pub const WAL_PREFIX: &str = "wal/";

const SUFFIX: &str = ".zst";
const HISTORY_SUFFIX: &str = ".history";

/// A part of a segment: half-open, not empty, and within that segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentRange {
    /// The segment, and its timeline.
    pub file: WalFileName,
    /// The first byte.
    pub start_lsn: Lsn,
    /// The first byte behind.
    pub end_lsn: Lsn,
}

impl SegmentRange {
    /// How many bytes of WAL it has.
    pub fn wal_len(&self) -> u64 {
        self.end_lsn - self.start_lsn
    }

    /// The object that holds it.
    pub fn key(&self) -> String {
        let (start, end) = (self.start_lsn.as_u64(), self.end_lsn.as_u64());
        format!("{}{start:016X}-{end:016X}{SUFFIX}", segment_ranges_prefix(self.file))
    }

    /// What a key says; `None` for those of other objects.
    pub fn parse(key: &str, size: WalSegmentSize) -> Option<Self> {
        let (directory, name) = key.rsplit_once('/')?;
        let (_, file) = directory.rsplit_once('/')?;
        let file = WalFileName::parse(file, size).ok()?;
        let (start, end) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let range = SegmentRange { file, start_lsn: position(start)?, end_lsn: position(end)? };
        let within = file.segment.start_lsn() <= range.start_lsn
            && range.start_lsn < range.end_lsn
            && range.end_lsn <= file.segment.end_lsn();
        (within && range.key() == key).then_some(range)
    }
}

fn position(digits: &str) -> Option<Lsn> {
    let valid = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
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

/// The timeline whose history, or segments, are under this name directly below [`WAL_PREFIX`].
pub fn parse_timeline(key: &str) -> Option<TimelineId> {
    let name = key.strip_prefix(WAL_PREFIX)?;
    let digits = name.strip_suffix(HISTORY_SUFFIX).or_else(|| name.strip_suffix('/')).unwrap_or(name);
    let valid = digits.len() == 8 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    valid.then(|| u32::from_str_radix(digits, 16).ok().and_then(TimelineId::new))?
}

/// An object for trying out the store.
pub fn probe_key(nonce: u64) -> String {
    format!("probe/{nonce:016x}")
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
        let range = SegmentRange { file, start_lsn: Lsn::new(0xa300_0000), end_lsn: Lsn::new(0xa300_2000) };
        assert_eq!(
            range.key(),
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000.zst"
        );
        assert_eq!(history_key(TimelineId::new(2).unwrap()), "wal/00000002.history");
        assert_eq!(parse_timeline("wal/00000002.history"), TimelineId::new(2));
        assert_eq!(parse_timeline("wal/0000000A"), TimelineId::new(10));
    }

    #[test]
    fn keys_of_nothing_are_passed_over() {
        let size = WalSegmentSize::DEFAULT;
        for key in [
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3000000.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A4000001.zst",
            "ranges/00000002/0000000100000000000000A3/00000000A3000000-00000000A3002000.zst",
            "ranges/00000001/0000000100000000000000A3/A3000000-A3002000.zst",
            "ranges/00000001/0000000100000000000000A3/00000000A3000000-00000000A3002000",
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
        for key in ["wal/00000000.history", "wal/0000001.history", "wal/000000G1", "00000001"] {
            assert_eq!(parse_timeline(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_round_trip(timeline in 1u32.., lsn in 0..Lsn::LIMIT.as_u64(), len in 1..1u64 << 20) {
            let size = WalSegmentSize::DEFAULT;
            let file = file(timeline, lsn, size);
            prop_assert_eq!(parse_segment_key(&segment_key(file), size), Some(file));
            let end_lsn = (Lsn::new(lsn) + len).min(file.segment.end_lsn());
            let range = SegmentRange { file, start_lsn: Lsn::new(lsn), end_lsn };
            prop_assert_eq!(SegmentRange::parse(&range.key(), size), Some(range));
        }
    }
}
