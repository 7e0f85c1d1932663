//! The header of a WAL page.
//!
//! Answers to `XLogPageHeaderData` and `XLogLongPageHeaderData` in PostgreSQL's `xlog_internal.h`, and to
//! `XLogReaderValidatePageHeader` in `xlogreader.c`. Little-endian: WAL is written in the machine's byte order,
//! and no big-endian machine runs a supported server next to one that runs this.

use super::version::WalFormat;
use super::wal_record::WalErrorKind;
use super::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

/// The length of a page's header, except at the start of a segment (`SizeOfXLogShortPHD`).
pub const SHORT_PAGE_HEADER_LEN: usize = 24;

/// The length of the header at the start of a segment (`SizeOfXLogLongPHD`).
pub const LONG_PAGE_HEADER_LEN: usize = 40;

/// The page begins with the rest of a record from the page before (`XLP_FIRST_IS_CONTRECORD`).
const FIRST_IS_CONTINUED: u16 = 0x0001;
/// The header is a long one (`XLP_LONG_HEADER`).
const LONG_HEADER: u16 = 0x0002;

/// What every page's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPageHeader {
    /// The WAL format (`xlp_magic`).
    pub magic: u16,
    /// Flags (`xlp_info`).
    info: u16,
    /// The timeline that the page's first record was written on (`xlp_tli`).
    pub timeline: u32,
    /// The page's own position (`xlp_pageaddr`).
    pub page_lsn: Lsn,
    /// How much of the record that crosses into this page is still to come (`xlp_rem_len`).
    pub remaining_len: u32,
}

/// What the header at the start of a segment says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSegmentHeader {
    /// The cluster (`xlp_sysid`).
    pub system_identifier: SystemIdentifier,
    /// `xlp_seg_size`.
    pub segment_len: u32,
    /// The size of a WAL page (`xlp_xlog_blcksz`).
    pub page_len: u32,
}

impl WalPageHeader {
    /// Reads the fields; nothing is checked yet.
    pub fn parse(bytes: &[u8; SHORT_PAGE_HEADER_LEN]) -> Self {
        WalPageHeader {
            magic: u16::from_le_bytes(take(bytes, 0)),
            info: u16::from_le_bytes(take(bytes, 2)),
            timeline: u32::from_le_bytes(take(bytes, 4)),
            page_lsn: Lsn::new(u64::from_le_bytes(take(bytes, 8))),
            remaining_len: u32::from_le_bytes(take(bytes, 16)),
        }
    }

    /// Whether the page begins with the rest of a record.
    pub fn continues_record(&self) -> bool {
        self.info & FIRST_IS_CONTINUED != 0
    }

    /// Whether the record that should go on here was broken off by a crash, and is void.
    pub fn breaks_record_off(&self, format: WalFormat) -> bool {
        self.info & format.broken_off_flag != 0
    }

    /// The checks that need no page before this one. `is_first`: the page is its segment's first.
    pub(super) fn check(
        &self,
        lsn: Lsn,
        is_first: bool,
        timeline: TimelineId,
    ) -> Result<WalFormat, WalErrorKind> {
        let format = WalFormat::of_magic(self.magic).ok_or(WalErrorKind::Magic { found: self.magic })?;
        let is_long = self.info & LONG_HEADER != 0;
        if self.info & !format.page_flags != 0 || is_long != is_first {
            return Err(WalErrorKind::PageFlags { found: self.info });
        }
        if self.page_lsn != lsn {
            return Err(WalErrorKind::PageAddress { found: self.page_lsn });
        }
        if self.timeline == 0 || self.timeline > timeline.as_u32() {
            return Err(WalErrorKind::PageTimeline { found: self.timeline, expected: timeline.as_u32() });
        }
        Ok(format)
    }
}

impl WalSegmentHeader {
    /// Reads the fields behind those of every page; nothing is checked yet.
    pub fn parse(bytes: &[u8; LONG_PAGE_HEADER_LEN]) -> Self {
        WalSegmentHeader {
            system_identifier: SystemIdentifier::new(u64::from_le_bytes(take(bytes, 24))),
            segment_len: u32::from_le_bytes(take(bytes, 32)),
            page_len: u32::from_le_bytes(take(bytes, 36)),
        }
    }

    pub(super) fn check(
        &self,
        system_identifier: SystemIdentifier,
        segment_size: WalSegmentSize,
    ) -> Result<(), WalErrorKind> {
        if self.system_identifier != system_identifier {
            let found = self.system_identifier;
            return Err(WalErrorKind::SystemIdentifier { found, expected: system_identifier });
        }
        if u64::from(self.segment_len) != segment_size.as_u64() {
            return Err(WalErrorKind::SegmentLen { found: self.segment_len });
        }
        // what `configure --with-wal-blocksize` takes, in bytes
        if !self.page_len.is_power_of_two() || !(1 << 10..=64 << 10).contains(&self.page_len) {
            return Err(WalErrorKind::PageLen { found: self.page_len });
        }
        Ok(())
    }
}

/// `N` bytes from `offset` on.
pub(super) fn take<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[offset..offset + N]);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first page of segment 0/1000000 of a real server 15.
    const LONG: [u8; LONG_PAGE_HEADER_LEN] = [
        0x10, 0xd1, 0x06, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5e, 0x0c, 0x34, 0x56, 0x81, 0x36, 0x02, 0x6b, 0x00, 0x00,
        0x00, 0x01, 0x00, 0x20, 0x00, 0x00,
    ];

    #[test]
    fn reads_a_servers_header() {
        let lsn = Lsn::new(1 << 24);
        let page = WalPageHeader::parse(&take(&LONG, 0));
        let format = page.check(lsn, true, TimelineId::FIRST).unwrap();
        assert!(!page.continues_record() && !page.breaks_record_off(format));
        let segment = WalSegmentHeader::parse(&LONG);
        assert_eq!((segment.segment_len, segment.page_len), (1 << 24, 8192));
        assert_eq!(segment.check(segment.system_identifier, WalSegmentSize::DEFAULT), Ok(()));
    }

    #[test]
    fn refuses_what_no_server_writes() {
        let lsn = Lsn::new(1 << 24);
        let check = |offset: usize, byte: u8, is_first: bool| {
            let mut bytes = LONG;
            bytes[offset] = byte;
            WalPageHeader::parse(&take(&bytes, 0)).check(lsn, is_first, TimelineId::FIRST)
        };
        assert!(matches!(check(1, 0xc0, true), Err(WalErrorKind::Magic { found: 0xc010 })));
        assert!(matches!(check(2, 0x10, true), Err(WalErrorKind::PageFlags { .. })));
        assert!(matches!(check(2, 0x04, true), Err(WalErrorKind::PageFlags { .. })));
        assert!(matches!(check(2, 0x06, false), Err(WalErrorKind::PageFlags { .. })));
        assert!(matches!(check(4, 0, true), Err(WalErrorKind::PageTimeline { found: 0, .. })));
        assert!(matches!(check(4, 2, true), Err(WalErrorKind::PageTimeline { found: 2, .. })));
        assert!(matches!(check(8, 1, true), Err(WalErrorKind::PageAddress { .. })));
    }
}
