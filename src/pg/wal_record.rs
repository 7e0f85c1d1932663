//! The header of a WAL record, and what can be wrong with WAL.
//!
//! Answers to `XLogRecord` in PostgreSQL's `xlogrecord.h`, and to `ValidXLogRecordHeader` and `ValidXLogRecord`
//! in `xlogreader.c`.

use super::wal_page::take;
use super::{Lsn, SystemIdentifier};

/// The length of a record's header, and of the shortest record (`SizeOfXLogRecord`).
pub const RECORD_HEADER_LEN: usize = 24;

/// Records begin at multiples of this (`MAXIMUM_ALIGNOF`).
pub const RECORD_ALIGNMENT: u64 = 8;

/// How much of the header the checksum covers, after all that follows the header.
pub(super) const CHECKED_HEADER_LEN: usize = 20;

/// The resource manager of the log itself (`RM_XLOG_ID`).
const RESOURCE_MANAGER_XLOG: u8 = 0;
/// The bits of `xl_info` that are the resource manager's own (`~XLR_INFO_MASK`).
const OPERATION_MASK: u8 = 0xf0;
/// Ends the segment (`XLOG_SWITCH`).
const OPERATION_SWITCH: u8 = 0x40;
/// Says that the record before was broken off (`XLOG_OVERWRITE_CONTRECORD`).
const OPERATION_OVERWRITE_CONTINUED: u8 = 0xd0;

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRecordHeader {
    /// The record's length, header included, padding at its end not (`xl_tot_len`).
    pub total_len: u32,
    /// Where the record before this one begins (`xl_prev`).
    pub previous_lsn: Lsn,
    /// `xl_info`.
    info: u8,
    /// `xl_rmid`.
    resource_manager: u8,
    /// The checksum (`xl_crc`), a CRC-32C.
    pub crc: u32,
}

impl WalRecordHeader {
    /// Reads the fields; nothing is checked yet.
    pub fn parse(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        WalRecordHeader {
            total_len: u32::from_le_bytes(take(bytes, 0)),
            previous_lsn: Lsn::new(u64::from_le_bytes(take(bytes, 8))),
            info: bytes[16],
            resource_manager: bytes[17],
            crc: u32::from_le_bytes(take(bytes, CHECKED_HEADER_LEN)),
        }
    }

    /// Whether nothing follows in this segment but padding.
    pub fn is_switch(&self) -> bool {
        self.is_of_the_log(OPERATION_SWITCH)
    }

    /// Whether this is what a server writes first where a crash broke a record off.
    pub fn is_overwrite(&self) -> bool {
        self.is_of_the_log(OPERATION_OVERWRITE_CONTINUED)
    }

    fn is_of_the_log(&self, operation: u8) -> bool {
        self.resource_manager == RESOURCE_MANAGER_XLOG && self.info & OPERATION_MASK == operation
    }
}

/// WAL is not what a server can have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL at {lsn}: {kind}")]
pub struct WalError {
    /// The beginning of the page or record with the fault. Everything before the record is whole.
    pub lsn: Lsn,
    /// What is wrong there.
    pub kind: WalErrorKind,
}

/// What is wrong with WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WalErrorKind {
    /// Not a WAL page, or one of a format not known here.
    #[error("page has magic number {found:04X}, which is no known WAL format's")]
    Magic {
        /// The number.
        found: u16,
    },
    /// Another format than the pages before.
    #[error("page has magic number {found:04X}, but the pages before it have {expected:04X}")]
    FormatChanged {
        /// The page's.
        found: u16,
        /// The others'.
        expected: u16,
    },
    /// Unknown flags, or a long header where a short one belongs, or the other way round.
    #[error("page has invalid flags {found:04X}")]
    PageFlags {
        /// The flags.
        found: u16,
    },
    /// The page belongs to another place: what an older segment in the same file left behind, say.
    #[error("page says that it belongs at {found}")]
    PageAddress {
        /// The place that it belongs to.
        found: Lsn,
    },
    /// The page was written on a timeline that cannot be here.
    #[error("page was written on timeline {found}, where timeline {expected} belongs")]
    PageTimeline {
        /// The page's; zero is none.
        found: u32,
        /// The latest that can be here.
        expected: u32,
    },
    /// Timelines do not go back from page to page.
    #[error("page was written on timeline {found}, after a page of timeline {previous}")]
    TimelineBack {
        /// The page's.
        found: u32,
        /// That of the page before.
        previous: u32,
    },
    /// WAL of another cluster.
    #[error("segment belongs to system {found}, not to system {expected}")]
    SystemIdentifier {
        /// The segment's.
        found: SystemIdentifier,
        /// The cluster that it should be of.
        expected: SystemIdentifier,
    },
    /// The segment says that segments have another size.
    #[error("segment header tells a segment size of {found} bytes")]
    SegmentLen {
        /// The size that it tells.
        found: u32,
    },
    /// A page size that no server has, or another one than before.
    #[error("segment header tells a page size of {found} bytes")]
    PageLen {
        /// The size that it tells.
        found: u32,
    },
    /// A record goes on past the page's end, but the next page does not begin with its rest.
    #[error("page does not continue the record that is unfinished before it")]
    NotContinued,
    /// The page begins with the rest of a record, but none was unfinished.
    #[error("page continues a record, but none is unfinished")]
    UnexpectedContinuation,
    /// The page and the record disagree about how much is left of it.
    #[error("page continues a record by {found} bytes, where {expected} are left")]
    ContinuationLen {
        /// What the page says.
        found: u32,
        /// What the record says.
        expected: u32,
    },
    /// The first record of a page that breaks a record off does not say so, or there was none to break off.
    #[error("page breaks a record off where none can be")]
    BreakOff,
    /// A record shorter than its header. Zero is where WAL was never written, or was lost.
    #[error("record is {found} bytes long, which is less than its header")]
    RecordTooShort {
        /// The length.
        found: u32,
    },
    /// A record longer than any server makes.
    #[error("record is {found} bytes long, which is more than the {max} that a server writes")]
    RecordTooLong {
        /// The length.
        found: u32,
        /// The longest.
        max: u32,
    },
    /// The record does not follow the one before it.
    #[error("record says that the one before it begins at {found}, but that is at {expected}")]
    PreviousLink {
        /// What it says.
        found: Lsn,
        /// Where the one before it is.
        expected: Lsn,
    },
    /// The record says that a later one comes before it.
    #[error("record says that the one before it begins at {found}, which is not before it")]
    PreviousLinkAhead {
        /// What it says.
        found: Lsn,
    },
    /// The record's bytes are not those that its checksum was made of.
    #[error("record has checksum {computed:08X}, but its header says {expected:08X}")]
    Checksum {
        /// That of the bytes.
        computed: u32,
        /// The header's.
        expected: u32,
    },
    /// Something follows the record that ends a segment.
    #[error("something follows the record that ended the segment")]
    AfterSwitch,
    /// Bytes for another place than the next one. Not the WAL's fault.
    #[error("bytes for {found} were given where {expected} comes next")]
    NotContiguous {
        /// The place given.
        found: Lsn,
        /// The next byte's.
        expected: Lsn,
    },
}

impl WalErrorKind {
    /// The error that it is at `lsn`.
    pub(super) fn at(self, lsn: Lsn) -> WalError {
        WalError { lsn, kind: self }
    }
}
