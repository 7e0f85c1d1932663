//! Makes WAL that is valid, for tests and benchmarks. The opposite of [`WalChecker`](super::WalChecker), kept
//! apart from it: what the one gets wrong the other must not.

use super::version::WalFormat;
use super::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

/// The page size of all but a few servers.
const PAGE_LEN: u64 = 8192;

/// WAL that grows by whole records, from a segment's start on.
#[derive(Debug, Clone)]
pub struct WalBuilder {
    system_identifier: SystemIdentifier,
    segment_size: WalSegmentSize,
    format: WalFormat,
    timeline: TimelineId,
    start_lsn: Lsn,
    bytes: Vec<u8>,
    previous_lsn: Lsn,
}

impl WalBuilder {
    /// Nothing yet.
    pub fn new(
        system_identifier: SystemIdentifier,
        segment_size: WalSegmentSize,
        timeline: TimelineId,
        start_lsn: Lsn,
    ) -> Self {
        let format = WalFormat::ALL[WalFormat::ALL.len() - 1];
        let previous_lsn = Lsn::new(start_lsn.as_u64().saturating_sub(100));
        let bytes = Vec::new();
        WalBuilder { system_identifier, segment_size, format, timeline, start_lsn, bytes, previous_lsn }
    }

    /// WAL of another format than the newest's.
    pub fn with_format(mut self, format: WalFormat) -> Self {
        self.format = format;
        self
    }

    /// What there is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it ends.
    pub fn end_lsn(&self) -> Lsn {
        self.start_lsn + self.bytes.len() as u64
    }

    /// From the next page on, WAL is written on this timeline.
    pub fn set_timeline(&mut self, timeline: TimelineId) {
        self.timeline = timeline;
    }

    /// Appends a record with this body; says where it begins.
    pub fn record(&mut self, body: &[u8]) -> Lsn {
        self.append_record(10, 0, body)
    }

    /// Appends a record of a resource manager (`xl_rmid`, `xl_info`); says where it begins.
    pub fn record_of(&mut self, resource_manager: u8, info: u8, body: &[u8]) -> Lsn {
        self.append_record(resource_manager, info, body)
    }

    /// Appends the record that ends a segment, and what fills it up.
    pub fn switch(&mut self) -> Lsn {
        let lsn = self.append_record(0, 0x40, &[]);
        let end = self.segment_size.segment_at(Lsn::new(self.end_lsn().as_u64() - 1)).end_lsn();
        self.bytes.resize((end - self.start_lsn) as usize, 0);
        lsn
    }

    /// Appends a record that was broken off after `written_len` bytes at the least, as a crash leaves it, and what
    /// the server writes there when it has recovered.
    pub fn broken_off_record(&mut self, body: &[u8], written_len: u64) {
        let whole = self.clone();
        self.append_record(10, 0, body);
        let at = (whole.bytes.len() as u64 + written_len).next_multiple_of(PAGE_LEN);
        assert!(at < self.bytes.len() as u64, "a record that is broken off crosses into another page");
        self.bytes.truncate(at as usize);
        self.previous_lsn = whole.previous_lsn;
        self.page_header(self.format.broken_off_flag, 0);
        self.append_record(0, 0xd0, &[0xff, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Appends a record that ends a page's room by filling up the current page exactly.
    pub fn fill_page(&mut self) {
        let rest = PAGE_LEN - self.bytes.len() as u64 % PAGE_LEN;
        let rest = if rest == PAGE_LEN { PAGE_LEN - self.header_len(self.end_lsn()) } else { rest };
        if rest >= 24 {
            self.record(&vec![3; rest as usize - 24]);
        }
    }

    fn append_record(&mut self, resource_manager: u8, info: u8, body: &[u8]) -> Lsn {
        if self.at_page_start() {
            self.page_header(0, 0);
        }
        let lsn = self.end_lsn();
        let total_len = 24 + body.len() as u32;
        let mut record = Vec::with_capacity(total_len as usize);
        record.extend_from_slice(&total_len.to_le_bytes());
        record.extend_from_slice(&7u32.to_le_bytes());
        record.extend_from_slice(&self.previous_lsn.as_u64().to_le_bytes());
        record.extend_from_slice(&[info, resource_manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend_from_slice(&crc.to_le_bytes());
        record.extend_from_slice(body);
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.at_page_start() {
                self.page_header(0x0001, rest.len() as u32);
            }
            let room = (PAGE_LEN - self.bytes.len() as u64 % PAGE_LEN) as usize;
            let (piece, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend_from_slice(piece);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous_lsn = lsn;
        lsn
    }

    fn at_page_start(&self) -> bool {
        (self.bytes.len() as u64).is_multiple_of(PAGE_LEN)
    }

    fn header_len(&self, lsn: Lsn) -> u64 {
        if self.segment_size.offset_of(lsn) == 0 { 40 } else { 24 }
    }

    fn page_header(&mut self, flags: u16, remaining_len: u32) {
        let lsn = self.end_lsn();
        let is_long = self.header_len(lsn) == 40;
        let flags = flags | if is_long { 0x0002 } else { 0 };
        self.bytes.extend_from_slice(&self.format.magic.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&self.timeline.as_u32().to_le_bytes());
        self.bytes.extend_from_slice(&lsn.as_u64().to_le_bytes());
        self.bytes.extend_from_slice(&remaining_len.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        if is_long {
            self.bytes.extend_from_slice(&self.system_identifier.as_u64().to_le_bytes());
            self.bytes.extend_from_slice(&(self.segment_size.as_u64() as u32).to_le_bytes());
            self.bytes.extend_from_slice(&(PAGE_LEN as u32).to_le_bytes());
        }
    }
}
