//! How the write-ahead log is cut into segments, and what their files are called.

use std::fmt;
use std::str::FromStr;

use super::{Lsn, TimelineId};

/// The size of a WAL segment in bytes: a power of two from 1 MB to 1 GB, chosen at `initdb --wal-segsize`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WalSegmentSize(u32);

/// A number that cannot be a segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL segment size of {0} bytes: it must be a power of two between 1 MB and 1 GB")]
pub struct WalSegmentSizeError(pub u64);

/// A text from `SHOW wal_segment_size` that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseWalSegmentSizeError {
    /// Not a whole number followed by `kB`, `MB`, `GB` or `B`.
    #[error("could not parse WAL segment size \"{}\"", .0.escape_debug())]
    Syntax(String),
    /// A number out of range.
    #[error(transparent)]
    Size(#[from] WalSegmentSizeError),
}

impl WalSegmentSize {
    /// 16 MB, what `initdb` chooses unless told otherwise.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);

    /// A size from its bytes.
    pub const fn from_bytes(len: u64) -> Result<Self, WalSegmentSizeError> {
        if len.is_power_of_two() && len >= 1 << 20 && len <= 1 << 30 {
            Ok(WalSegmentSize(len as u32))
        } else {
            Err(WalSegmentSizeError(len))
        }
    }

    /// The size in bytes.
    pub const fn as_u64(self) -> u64 {
        self.0 as u64
    }

    /// How many segments share the first sixteen digits of their file names (`XLogSegmentsPerXLogId`).
    const fn segments_per_log_id(self) -> u64 {
        (1 << 32) / self.as_u64()
    }

    /// The segment that holds the byte at `lsn` (`XLByteToSeg`).
    pub const fn segment_at(self, lsn: Lsn) -> WalSegment {
        WalSegment { number: lsn.as_u64() / self.as_u64(), size: self }
    }

    /// How far into its segment `lsn` lies, in bytes (`XLogSegmentOffset`).
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.as_u64() & (self.as_u64() - 1)
    }
}

impl FromStr for WalSegmentSize {
    type Err = ParseWalSegmentSizeError;

    /// Takes what `SHOW wal_segment_size` answers, such as `16MB` or `1GB`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseWalSegmentSizeError::Syntax(text.chars().take(64).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| syntax())?;
        let unit = match &text[digits..] {
            "B" => 1,
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return Err(syntax()),
        };
        let len = number.checked_mul(unit).ok_or_else(syntax)?;
        Ok(Self::from_bytes(len)?)
    }
}

/// One segment of the log: a half-open range of LSNs, the same on every timeline that passes through it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegment {
    number: u64,
    size: WalSegmentSize,
}

impl WalSegment {
    /// The segment's number, counted from zero (`XLogSegNo`).
    pub const fn number(self) -> u64 {
        self.number
    }

    /// The size that the log is cut by.
    pub const fn size(self) -> WalSegmentSize {
        self.size
    }

    /// The first byte of the segment.
    pub const fn start_lsn(self) -> Lsn {
        Lsn::new(self.number * self.size.as_u64())
    }

    /// The first byte after the segment.
    pub fn end_lsn(self) -> Lsn {
        self.start_lsn() + self.size.as_u64()
    }

    /// The segment that follows.
    pub fn next(self) -> WalSegment {
        self.size.segment_at(self.end_lsn())
    }
}

impl fmt::Debug for WalSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}MB", self.start_lsn(), self.size.as_u64() >> 20)
    }
}

/// The name of a segment's file on one timeline: 24 upper-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalFileName {
    /// The timeline, the name's first eight digits.
    pub timeline: TimelineId,
    /// The segment, the other sixteen.
    pub segment: WalSegment,
}

/// A text that is not the name of a WAL segment of the given size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not the name of a WAL segment", .text.escape_debug())]
pub struct ParseWalFileNameError {
    text: String,
}

impl WalFileName {
    /// Reads a name as `XLogFromFileName` does, but refuses what no server would write: lower-case digits,
    /// timeline zero, a low part beyond what the segment size allows, or a segment that begins at [`Lsn::LIMIT`] or
    /// beyond it.
    pub fn parse(text: &str, size: WalSegmentSize) -> Result<Self, ParseWalFileNameError> {
        let error = || ParseWalFileNameError { text: text.chars().take(64).collect() };
        let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if text.len() != 24 || !text.bytes().all(digit) {
            return Err(error());
        }
        let part = |range| u32::from_str_radix(&text[range], 16).map_err(|_| error());
        let (timeline, log_id, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let timeline = TimelineId::new(timeline).ok_or_else(error)?;
        if u64::from(low) >= size.segments_per_log_id() {
            return Err(error());
        }
        let number = u64::from(log_id) * size.segments_per_log_id() + u64::from(low);
        let segment = WalSegment { number, size };
        if segment.start_lsn() >= Lsn::LIMIT {
            return Err(error());
        }
        Ok(WalFileName { timeline, segment })
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_id = self.segment.size.segments_per_log_id();
        let number = self.segment.number;
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.as_u32(), number / per_id, number % per_id)
    }
}

impl fmt::Debug for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_two_within_bounds() {
        for text in ["1MB", "16MB", "64MB", "1GB"] {
            assert!(text.parse::<WalSegmentSize>().is_ok(), "{text}");
        }
        for text in ["", "MB", "512kB", "3MB", "2GB", "16", "16mb", "-16MB", "99999999999999999999GB"] {
            assert!(text.parse::<WalSegmentSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_the_servers() {
        let lsn: Lsn = "1/FF000010".parse().unwrap();
        let segment = WalSegmentSize::DEFAULT.segment_at(lsn);
        let name = WalFileName { timeline: TimelineId::new(2).unwrap(), segment };
        assert_eq!(name.to_string(), "0000000200000001000000FF");
        assert_eq!(segment.next().start_lsn(), "2/0".parse().unwrap());
        assert_eq!(WalSegmentSize::DEFAULT.offset_of(lsn), 0x10);
    }

    #[test]
    fn refuses_names_no_server_writes() {
        for text in [
            "",
            "00000001000000000000000",
            "0000000100000000000000010",
            "00000001000000000000000a",
            "000000000000000000000001",
            "000000010000000000000100",
            "000000010000000000000001.partial",
            "000000018000000000000000",
            "00000001FFFFFFFF000000FF",
        ] {
            assert!(WalFileName::parse(text, WalSegmentSize::DEFAULT).is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_round_trip(timeline in 1u32.., position in 0..Lsn::LIMIT.as_u64(), shift in 20u32..=30) {
            let size = WalSegmentSize::from_bytes(1 << shift).unwrap();
            let name = WalFileName {
                timeline: TimelineId::new(timeline).unwrap(),
                segment: size.segment_at(Lsn::new(position)),
            };
            prop_assert_eq!(WalFileName::parse(&name.to_string(), size).unwrap(), name);
            prop_assert!(name.segment.start_lsn().as_u64() <= position);
            prop_assert!(position - name.segment.start_lsn().as_u64() < size.as_u64());
        }
    }
}
