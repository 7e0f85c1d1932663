//! Looks through WAL for what recovery can be told to stop at: commits with their times, and restore points.
//!
//! Answers to `getRecordTimestamp` and `recoveryStopsBefore` in PostgreSQL's `xlogrecovery.c`. It checks nothing, which is
//! the [`WalChecker`](super::WalChecker)'s business: WAL that makes no sense only ends it.

use super::version::WalFormat;
use super::wal_page::{LONG_PAGE_HEADER_LEN, SHORT_PAGE_HEADER_LEN, WalPageHeader, WalSegmentHeader, take};
use super::wal_record::RECORD_HEADER_LEN;
use super::{Lsn, Timestamp, WalSegmentSize};

/// Something that recovery can be told to stop at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction committed, or was rolled back.
    Commit {
        /// Where its record begins.
        lsn: Lsn,
        /// When.
        at: Timestamp,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// Where its record begins.
        lsn: Lsn,
        /// When.
        at: Timestamp,
        /// Its name, in the server's encoding.
        name: Vec<u8>,
    },
}

/// The longest name of a restore point, with the zero behind it (`MAXFNAMELEN`).
const MAX_NAME_LEN: usize = 64;

/// How much of a record is kept: a restore point is the longest of interest.
const CAPTURED_LEN: usize = RECORD_HEADER_LEN + 16 + 8 + MAX_NAME_LEN;

/// The longest record (`XLogRecordMaxSize`, and what it was before 16).
const MAX_RECORD_LEN: usize = 1 << 30;

const DEFAULT_PAGE_LEN: usize = 8192;

/// Reads segments one behind the other, from the beginning of one.
#[derive(Debug)]
pub struct WalScanner {
    segment_size: WalSegmentSize,
    /// The record that goes on in the next page.
    record: Option<Record>,
}

/// A record whose beginning has been seen.
#[derive(Debug)]
struct Record {
    lsn: Lsn,
    captured: Vec<u8>,
    remaining: usize,
}

impl WalScanner {
    /// A scanner that has seen nothing.
    pub fn new(segment_size: WalSegmentSize) -> Self {
        WalScanner { segment_size, record: None }
    }

    /// Looks through a segment, or its beginning. What comes next is the segment behind it.
    pub fn push(&mut self, start_lsn: Lsn, wal: &[u8], mut found: impl FnMut(WalEvent)) {
        let page_len = page_len(wal);
        for (number, page) in wal.chunks(page_len).enumerate() {
            let lsn = start_lsn + (number * page_len) as u64;
            if self.page(lsn, page, &mut found).is_none() {
                // padding behind a switch, or the end
                self.record = None;
                return;
            }
        }
    }

    fn page(&mut self, page_lsn: Lsn, page: &[u8], found: &mut impl FnMut(WalEvent)) -> Option<()> {
        let header = WalPageHeader::parse(page.get(..SHORT_PAGE_HEADER_LEN)?.try_into().ok()?);
        WalFormat::of_magic(header.magic).filter(|_| header.page_lsn == page_lsn)?;
        let is_first = self.segment_size.offset_of(page_lsn) == 0;
        let mut at = if is_first { LONG_PAGE_HEADER_LEN } else { SHORT_PAGE_HEADER_LEN };
        let rest = header.remaining_len as usize;
        self.record =
            self.record.take().filter(|record| header.continues_record() && record.remaining == rest);
        if header.continues_record() && self.record.is_none() {
            if rest > page.len().saturating_sub(at) {
                return Some(());
            }
            at = (at + rest).next_multiple_of(8);
        }
        loop {
            let mut record = match self.record.take() {
                Some(record) => record,
                None if at >= page.len() => return Some(()),
                None => {
                    let len = u32::from_le_bytes(take(page.get(at..at + 4)?, 0)) as usize;
                    if !(RECORD_HEADER_LEN..=MAX_RECORD_LEN).contains(&len) {
                        return None;
                    }
                    let captured = Vec::with_capacity(CAPTURED_LEN.min(len));
                    Record { lsn: page_lsn + at as u64, captured, remaining: len }
                }
            };
            let part = page.get(at..)?;
            let part = &part[..part.len().min(record.remaining)];
            let wanted = CAPTURED_LEN - record.captured.len();
            record.captured.extend_from_slice(&part[..part.len().min(wanted)]);
            record.remaining -= part.len();
            if record.remaining > 0 {
                self.record = Some(record);
                return Some(());
            }
            at = (at + part.len()).next_multiple_of(8);
            if let Some(event) = event(record.lsn, &record.captured) {
                found(event);
            }
        }
    }
}

/// A segment's first page says how long pages are.
fn page_len(wal: &[u8]) -> usize {
    let header = wal.get(..LONG_PAGE_HEADER_LEN).and_then(|header| header.try_into().ok());
    let len = header.map(|header| WalSegmentHeader::parse(header).page_len as usize);
    len.filter(|len| len.is_power_of_two() && (1 << 10..=64 << 10).contains(len)).unwrap_or(DEFAULT_PAGE_LEN)
}

/// What a record is, by its beginning; `None` for all others.
fn event(lsn: Lsn, record: &[u8]) -> Option<WalEvent> {
    let (info, manager) = (*record.get(16)? & 0x70, *record.get(17)?);
    match (manager, info) {
        // RM_XACT_ID: commit, abort, and both of what was prepared
        (1, 0x00 | 0x20 | 0x30 | 0x40) => {
            let at = Timestamp::from_postgres(i64::from_le_bytes(take(main_data(record)?.get(..8)?, 0)));
            Some(WalEvent::Commit { lsn, at })
        }
        // RM_XLOG_ID: XLOG_RESTORE_POINT
        (0, 0x70) if record[16] & 0x80 == 0 => {
            let data = main_data(record)?;
            let at = Timestamp::from_postgres(i64::from_le_bytes(take(data.get(..8)?, 0)));
            let name = &data[8..data.len().min(8 + MAX_NAME_LEN)];
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
            Some(WalEvent::RestorePoint { lsn, at, name })
        }
        _ => None,
    }
}

/// What is behind a record's headers; `None` where it has blocks, which these records never have.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_HEADER_LEN;
    loop {
        match *record.get(at)? {
            // XLR_BLOCK_ID_DATA_SHORT, _LONG
            255 => return record.get(at + 2..),
            254 => return record.get(at + 5..),
            // XLR_BLOCK_ID_ORIGIN, XLR_BLOCK_ID_TOPLEVEL_XID
            253 => at += 3,
            252 => at += 5,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wal_builder::WalBuilder;
    use super::super::{SystemIdentifier, TimelineId};
    use super::*;

    const MIB: u64 = 1 << 20;

    fn restore_point(at: i64, name: &str) -> Vec<u8> {
        let mut body = vec![255, 72];
        body.extend_from_slice(&at.to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        body.resize(74, 0);
        body
    }

    fn commit(at: i64, origin: bool) -> Vec<u8> {
        let mut body = if origin { vec![253, 1, 0] } else { Vec::new() };
        body.extend_from_slice(&[255, 8]);
        body.extend_from_slice(&at.to_le_bytes());
        body
    }

    #[test]
    fn everything_is_found_wherever_pages_and_segments_end() {
        let (size, start) = (WalSegmentSize::from_bytes(MIB).unwrap(), Lsn::new(4 * MIB));
        for padding in 0..40 {
            let mut wal = WalBuilder::new(SystemIdentifier::new(7), size, TimelineId::FIRST, start);
            let mut expected = Vec::new();
            let mut number = 0;
            while wal.end_lsn() < Lsn::new(6 * MIB) {
                number += 1;
                wal.record(&vec![9; 6000 + padding * 8]);
                let at = Timestamp::from_postgres(number);
                let lsn = wal.record_of(1, 0x00, &commit(number, number % 2 == 0));
                expected.push(WalEvent::Commit { lsn, at });
                let name = format!("point {number}");
                let lsn = wal.record_of(0, 0x70, &restore_point(number, &name));
                expected.push(WalEvent::RestorePoint { lsn, at, name: name.into() });
            }
            let mut scanner = WalScanner::new(size);
            let mut found = Vec::new();
            for (index, segment) in wal.bytes().chunks(MIB as usize).enumerate() {
                scanner.push(start + index as u64 * MIB, segment, |event| found.push(event));
            }
            assert_eq!(found, expected, "{padding}");
            // from the middle on: the record that was cut is passed over
            let mut later = Vec::new();
            let second = &wal.bytes()[MIB as usize..2 * MIB as usize];
            WalScanner::new(size).push(start + MIB, second, |event| later.push(event));
            assert!(later.len() > expected.len() / 3);
            assert!(later.iter().all(|event| expected.contains(event)));
        }
    }

    #[test]
    fn what_makes_no_sense_ends_it() {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let mut wal = WalBuilder::new(SystemIdentifier::new(7), size, TimelineId::FIRST, Lsn::new(MIB));
        for number in 0..400 {
            wal.record_of(1, 0, &commit(number, false));
        }
        for at in (0..wal.bytes().len()).filter(|at| *at < 200 || at % 29 == 0) {
            let mut damaged = wal.bytes().to_vec();
            damaged[at] ^= 0xff;
            WalScanner::new(size).push(Lsn::new(MIB), &damaged, |_| {});
            WalScanner::new(size).push(Lsn::new(MIB), &damaged[..at], |_| {});
        }
    }
}
