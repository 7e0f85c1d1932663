//! Whether WAL is what a server wrote: every page header, and every record's checksum, as the bytes come.
//!
//! Answers to `XLogDecodeNextRecord` in PostgreSQL's `xlogreader.c`. Departures:
//! * Nothing is assembled. Checksums run along, so that a record of a gigabyte takes no more memory than one of
//!   24 bytes, and bytes may come in any pieces.
//! * A stream begins at a segment's start. The rest of a record that began before it is passed over; its length
//!   is still compared from page to page.
//! * What follows a segment switch must be zeros, or empty pages. The original never looks there.
//! * Where a crash broke a record off, the page must begin with the record that says so, and is taken only there.
//!
//! The verdict on a prefix of the bytes does not depend on how it was cut. Padding between records carries
//! nothing and is not looked at, nor is, up to 18, the flag for full-page images in page headers.

use super::record_crc::{record_crc, record_crc_from_body};
use super::version::WalFormat;
use super::wal_page::{LONG_PAGE_HEADER_LEN, SHORT_PAGE_HEADER_LEN, WalPageHeader, WalSegmentHeader, take};
use super::wal_record::{RECORD_ALIGNMENT, RECORD_HEADER_LEN, WalError, WalErrorKind, WalRecordHeader};
use super::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

/// Checks WAL from a segment's start on. See the [module](self) for what is checked.
#[derive(Debug, Clone)]
pub struct WalChecker {
    system_identifier: SystemIdentifier,
    segment_size: WalSegmentSize,
    timeline: TimelineId,
    history: Option<TimelineHistory>,
    /// The next byte's place.
    lsn: Lsn,
    /// The end of the last whole record.
    checked_lsn: Lsn,
    /// Known from the first page on.
    format: Option<WalFormat>,
    page_len: u64,
    page_timeline: u32,
    /// The page that the next byte belongs to ends here.
    page_end_lsn: Lsn,
    page_header: Gathered<LONG_PAGE_HEADER_LEN>,
    state: State,
    record: Record,
    /// Where the last whole record begins.
    previous_lsn: Option<Lsn>,
    /// A record was broken off, and the next one must say so.
    broken_off: bool,
    failure: Option<WalError>,
}

/// What the next byte belongs to, apart from page headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A record's header, of which nothing may be there yet.
    RecordHeader,
    /// What follows a record's header.
    Body { remaining_len: u32 },
    /// A record that began before the first byte.
    Rest { remaining_len: u32 },
    /// The gap up to the next record.
    Padding { remaining_len: u64 },
    /// What fills a segment after a switch.
    Switched,
}

/// The record that is under way.
#[derive(Debug, Clone, Copy)]
struct Record {
    lsn: Lsn,
    header: Gathered<RECORD_HEADER_LEN>,
    body_crc: u32,
}

/// The first bytes of something, gathered from however many pieces they come in.
#[derive(Debug, Clone, Copy)]
struct Gathered<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Gathered<N> {
    const EMPTY: Self = Gathered { bytes: [0; N], len: 0 };

    /// Takes bytes off `data` until there are `wanted`, and says whether there are.
    fn fill(&mut self, data: &mut &[u8], wanted: usize) -> bool {
        let piece = cut(data, (wanted - self.len) as u64);
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
        self.len == wanted
    }
}

impl WalChecker {
    /// A checker for WAL of one timeline, from the start of the segment at `start_lsn` on.
    ///
    /// # Panics
    /// When `start_lsn` is not the start of a segment: page and record boundaries cannot be known there.
    pub fn new(
        system_identifier: SystemIdentifier,
        segment_size: WalSegmentSize,
        timeline: TimelineId,
        start_lsn: Lsn,
    ) -> Self {
        assert!(segment_size.offset_of(start_lsn) == 0, "WAL is checked from a segment's start on");
        WalChecker {
            system_identifier,
            segment_size,
            timeline,
            history: None,
            lsn: start_lsn,
            checked_lsn: start_lsn,
            format: None,
            page_len: 0,
            page_timeline: 0,
            page_end_lsn: start_lsn,
            page_header: Gathered::EMPTY,
            state: State::RecordHeader,
            record: Record { lsn: start_lsn, header: Gathered::EMPTY, body_crc: 0 },
            previous_lsn: None,
            broken_off: false,
            failure: None,
        }
    }

    /// A checker from the start of the page that holds the byte at `lsn`, for who has the header of that segment's
    /// first page and does not need what comes before `lsn`. [`next_lsn`](Self::next_lsn) says where the page begins.
    pub fn from_page(
        system_identifier: SystemIdentifier,
        segment_size: WalSegmentSize,
        timeline: TimelineId,
        lsn: Lsn,
        segment_header: &[u8; LONG_PAGE_HEADER_LEN],
    ) -> Result<Self, WalError> {
        let segment_lsn = segment_size.segment_at(lsn).start_lsn();
        let segment = WalSegmentHeader::parse(segment_header);
        let page = WalPageHeader::parse(&take(segment_header, 0));
        let checked = page.check(segment_lsn, true, timeline);
        checked
            .and_then(|_| segment.check(system_identifier, segment_size))
            .map_err(|kind| kind.at(segment_lsn))?;
        let mut checker = WalChecker::new(system_identifier, segment_size, timeline, segment_lsn);
        let page_len = u64::from(segment.page_len);
        let page_lsn = Lsn::new(lsn.as_u64() - lsn.as_u64() % page_len);
        (checker.lsn, checker.checked_lsn, checker.page_end_lsn) = (page_lsn, page_lsn, page_lsn);
        (checker.page_len, checker.record.lsn) = (page_len, page_lsn);
        Ok(checker)
    }

    /// Checks besides that each page was written on the timeline that this history has there. The history is that
    /// of the timeline itself.
    pub fn with_history(mut self, history: TimelineHistory) -> Self {
        self.history = Some(history);
        self
    }

    /// The bytes from `lsn` on, which must be where those before ended. After an error it is told again for ever.
    pub fn push(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), WalError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let result = if lsn == self.lsn {
            self.take_all(data)
        } else {
            Err(WalErrorKind::NotContiguous { found: lsn, expected: self.lsn }.at(self.lsn))
        };
        self.failure = result.err();
        result
    }

    /// The end of the last whole record, or the start as long as there is none.
    pub fn checked_lsn(&self) -> Lsn {
        self.checked_lsn
    }

    /// Where the last whole record begins that began here.
    pub fn last_record_lsn(&self) -> Option<Lsn> {
        self.previous_lsn
    }

    /// The next byte's place.
    pub fn next_lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether the next byte belongs to a record that has begun.
    pub fn is_within_record(&self) -> bool {
        match self.state {
            State::RecordHeader => self.record.header.len > 0,
            State::Body { .. } | State::Rest { .. } => true,
            State::Padding { .. } | State::Switched => false,
        }
    }

    /// The WAL format, once a page's header was seen.
    pub fn format(&self) -> Option<WalFormat> {
        self.format
    }

    fn take_all(&mut self, mut data: &[u8]) -> Result<(), WalError> {
        while !data.is_empty() {
            if self.lsn == self.page_end_lsn || self.page_header.len > 0 {
                self.take_page_header(&mut data)?;
                continue;
            }
            let mut page = cut(&mut data, self.page_end_lsn - self.lsn);
            while !page.is_empty() {
                self.take_whole_records(&mut page);
                if !page.is_empty() {
                    self.take_some(&mut page)?;
                }
            }
        }
        Ok(())
    }

    fn take_page_header(&mut self, data: &mut &[u8]) -> Result<(), WalError> {
        let page_lsn = self.page_end_lsn;
        let is_first = self.segment_size.offset_of(page_lsn) == 0;
        let wanted = if is_first { LONG_PAGE_HEADER_LEN } else { SHORT_PAGE_HEADER_LEN };
        let is_whole = self.page_header.fill(data, wanted);
        self.lsn = page_lsn + self.page_header.len as u64;
        if !is_whole {
            return Ok(());
        }
        let header = std::mem::replace(&mut self.page_header, Gathered::EMPTY).bytes;
        if is_first && self.state == State::Switched {
            self.state = State::RecordHeader;
        }
        let is_blank = self.state == State::Switched && header.iter().all(|byte| *byte == 0);
        if !is_blank {
            let page = WalPageHeader::parse(&take(&header, 0));
            if self.state == State::Switched && WalFormat::of_magic(page.magic).is_none() {
                return Err(WalErrorKind::AfterSwitch.at(page_lsn));
            }
            let segment = is_first.then(|| WalSegmentHeader::parse(&header));
            self.check_page(page_lsn, &page, segment.as_ref()).map_err(|kind| kind.at(page_lsn))?;
        }
        self.page_end_lsn = page_lsn + self.page_len;
        Ok(())
    }

    fn check_page(
        &mut self,
        lsn: Lsn,
        page: &WalPageHeader,
        segment: Option<&WalSegmentHeader>,
    ) -> Result<(), WalErrorKind> {
        let format = page.check(lsn, segment.is_some(), self.timeline)?;
        if let Some(expected) = self.format.filter(|expected| *expected != format) {
            return Err(WalErrorKind::FormatChanged { found: format.magic, expected: expected.magic });
        }
        if page.timeline < self.page_timeline {
            let previous = self.page_timeline;
            return Err(WalErrorKind::TimelineBack { found: page.timeline, previous });
        }
        let written_on = self.history.as_ref().map(|history| history.timeline_at(lsn).as_u32());
        if let Some(expected) = written_on.filter(|expected| *expected != page.timeline) {
            return Err(WalErrorKind::PageTimeline { found: page.timeline, expected });
        }
        if let Some(segment) = segment {
            segment.check(self.system_identifier, self.segment_size)?;
            let page_len = u64::from(segment.page_len);
            if self.format.is_some() && self.page_len != page_len {
                return Err(WalErrorKind::PageLen { found: segment.page_len });
            }
            self.page_len = page_len;
        }
        let is_beginning = self.format.is_none();
        self.format = Some(format);
        self.page_timeline = page.timeline;
        self.check_continuation(page, is_beginning, format)
    }

    /// What the page says of the record that crosses into it, against what is known of that.
    fn check_continuation(
        &mut self,
        page: &WalPageHeader,
        is_beginning: bool,
        format: WalFormat,
    ) -> Result<(), WalErrorKind> {
        let left = match self.state {
            State::RecordHeader if self.record.header.len > 0 => {
                Some(self.record_len() - self.record.header.len as u32)
            }
            State::Body { remaining_len } | State::Rest { remaining_len } => Some(remaining_len),
            _ => None,
        };
        let found = page.remaining_len;
        if page.breaks_record_off(format) {
            if page.continues_record() || !(is_beginning || left.is_some()) {
                return Err(WalErrorKind::BreakOff);
            }
            self.state = State::RecordHeader;
            self.record.header.len = 0;
            self.broken_off = true;
            return Ok(());
        }
        match (left, page.continues_record()) {
            (None, false) => Ok(()),
            (None, true) if is_beginning && (1..=format.max_record_len).contains(&found) => {
                self.state = State::Rest { remaining_len: found };
                Ok(())
            }
            (None, true) => Err(WalErrorKind::UnexpectedContinuation),
            (Some(_), false) => Err(WalErrorKind::NotContinued),
            (Some(left), true) if left != found => {
                Err(WalErrorKind::ContinuationLen { found, expected: left })
            }
            (Some(_), true) => Ok(()),
        }
    }

    /// Takes records off `data`, which is of one page, as long as they are whole, padding included, and nothing about them is
    /// out of the ordinary: nearly all are like that, and this is several times as fast as [`Self::take_some`], which
    /// judges the others.
    fn take_whole_records(&mut self, data: &mut &[u8]) {
        if self.state != State::RecordHeader || self.record.header.len != 0 || self.broken_off {
            return;
        }
        let Some(mut previous_lsn) = self.previous_lsn else { return };
        let mut lsn = self.lsn;
        while let Some(bytes) = data.first_chunk::<RECORD_HEADER_LEN>() {
            let header = WalRecordHeader::parse(bytes);
            let record_len = header.total_len as usize;
            let padded_len = record_len.next_multiple_of(RECORD_ALIGNMENT as usize);
            if record_len < RECORD_HEADER_LEN || padded_len > data.len() {
                break;
            }
            let is_right =
                record_crc(&data[..record_len]) == header.crc && header.previous_lsn == previous_lsn;
            if !is_right || header.is_switch() {
                break;
            }
            *data = &data[padded_len..];
            previous_lsn = lsn;
            lsn = lsn + padded_len as u64;
        }
        if lsn != self.lsn {
            (self.lsn, self.checked_lsn, self.previous_lsn) = (lsn, lsn, Some(previous_lsn));
        }
    }

    /// Takes what belongs together off `data`, which is of one page.
    fn take_some(&mut self, data: &mut &[u8]) -> Result<(), WalError> {
        match self.state {
            State::RecordHeader => self.take_record_header(data)?,
            State::Body { remaining_len } => {
                let piece = self.cut(data, remaining_len.into());
                self.record.body_crc = crc32c::crc32c_append(self.record.body_crc, piece);
                let remaining_len = remaining_len - piece.len() as u32;
                self.state = State::Body { remaining_len };
                if remaining_len == 0 {
                    self.end_record()?;
                }
            }
            State::Rest { remaining_len } => {
                let remaining_len = remaining_len - self.cut(data, remaining_len.into()).len() as u32;
                self.state = State::Rest { remaining_len };
                if remaining_len == 0 {
                    self.end_at_next_record();
                }
            }
            State::Padding { remaining_len } => {
                let remaining_len = remaining_len - self.cut(data, remaining_len).len() as u64;
                self.state = State::Padding { remaining_len };
                if remaining_len == 0 {
                    self.checked_lsn = self.lsn;
                    self.state = State::RecordHeader;
                }
            }
            State::Switched => {
                let piece = self.cut(data, u64::MAX);
                // all at once first: nearly always there is nothing, and this is done in wide steps
                if piece.iter().fold(0, |all, byte| all | byte) != 0 {
                    let blank = piece.iter().take_while(|byte| **byte == 0).count();
                    let lsn = Lsn::new(self.lsn.as_u64() - (piece.len() - blank) as u64);
                    return Err(WalErrorKind::AfterSwitch.at(lsn));
                }
                self.checked_lsn = self.lsn;
            }
        }
        Ok(())
    }

    fn take_record_header(&mut self, data: &mut &[u8]) -> Result<(), WalError> {
        let had = self.record.header.len;
        if had == 0 {
            self.record.lsn = self.lsn;
        }
        let is_whole = self.record.header.fill(data, RECORD_HEADER_LEN);
        self.lsn = self.lsn + (self.record.header.len - had) as u64;
        let lsn = self.record.lsn;
        if had < LEN_LEN && self.record.header.len >= LEN_LEN {
            self.check_record_len().map_err(|kind| kind.at(lsn))?;
        }
        if is_whole {
            let header = WalRecordHeader::parse(&self.record.header.bytes);
            self.check_previous(header.previous_lsn).map_err(|kind| kind.at(lsn))?;
            self.record.body_crc = 0;
            let remaining_len = header.total_len - RECORD_HEADER_LEN as u32;
            self.state = State::Body { remaining_len };
            if remaining_len == 0 {
                self.end_record()?;
            }
        }
        Ok(())
    }

    /// As soon as the length is there: it says how the next page must go on.
    fn check_record_len(&self) -> Result<(), WalErrorKind> {
        let found = self.record_len();
        let max = self.format.map_or(0, |format| format.max_record_len);
        if (found as usize) < RECORD_HEADER_LEN {
            return Err(WalErrorKind::RecordTooShort { found });
        }
        if found > max {
            return Err(WalErrorKind::RecordTooLong { found, max });
        }
        Ok(())
    }

    fn check_previous(&self, found: Lsn) -> Result<(), WalErrorKind> {
        match self.previous_lsn {
            Some(expected) if found != expected => Err(WalErrorKind::PreviousLink { found, expected }),
            None if found >= self.record.lsn => Err(WalErrorKind::PreviousLinkAhead { found }),
            _ => Ok(()),
        }
    }

    fn record_len(&self) -> u32 {
        u32::from_le_bytes(take(&self.record.header.bytes, 0))
    }

    fn end_record(&mut self) -> Result<(), WalError> {
        let Record { lsn, header: Gathered { bytes, .. }, body_crc } = self.record;
        let header = WalRecordHeader::parse(&bytes);
        let computed = record_crc_from_body(body_crc, &bytes);
        if computed != header.crc {
            return Err(WalErrorKind::Checksum { computed, expected: header.crc }.at(lsn));
        }
        if std::mem::take(&mut self.broken_off) && !header.is_overwrite() {
            return Err(WalErrorKind::BreakOff.at(lsn));
        }
        self.previous_lsn = Some(lsn);
        self.end_at_next_record();
        if header.is_switch() {
            self.state = State::Switched;
        }
        Ok(())
    }

    fn end_at_next_record(&mut self) {
        self.record.header.len = 0;
        self.checked_lsn = self.lsn;
        let remaining_len = self.lsn.as_u64().wrapping_neg() % RECORD_ALIGNMENT;
        self.state = match remaining_len {
            0 => State::RecordHeader,
            remaining_len => State::Padding { remaining_len },
        };
    }

    fn cut<'a>(&mut self, data: &mut &'a [u8], most: u64) -> &'a [u8] {
        let piece = cut(data, most);
        self.lsn = self.lsn + piece.len() as u64;
        piece
    }
}

/// The bytes of a record that tell its length.
const LEN_LEN: usize = 4;

/// Takes `most` bytes off the front, or all.
fn cut<'a>(data: &mut &'a [u8], most: u64) -> &'a [u8] {
    let len = data.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let (piece, rest) = data.split_at(len);
    *data = rest;
    piece
}

#[cfg(test)]
mod tests;
