//! The WAL that recovery of a backup needs: every record of the manifest's ranges.
//!
//! Answers to `parse_required_wal` in PostgreSQL's `pg_verifybackup.c` and to what `pg_waldump --quiet` does there: from
//! the page that holds a range's first byte to its last byte, and nothing else of the segments. Departures: where the
//! segment of an older timeline is not there, that of a newer one of the same backup will do, for a promoted standby
//! has no other; WAL of another cluster is refused.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::manifest::WalRange;
use super::checksums::on_threads;
use super::error::VerifyError;
use super::findings::Findings;
use super::problem::{ArchiveFault, Problem, WalFault};
use super::wal_place::{NAME_LEN, OpenSegment, SegmentSet, WalPlace};
use super::wal_stream;
use crate::compression::CompressionMethod;
use crate::pg::wal_page::LONG_PAGE_HEADER_LEN;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalFileName, WalSegment, WalSegmentSize};

/// How much WAL is checked in one go, and read at once.
const ROW_LEN: u64 = 64 << 20;
const BUFFER_LEN: usize = 256 << 10;

/// What to check.
#[derive(Debug)]
pub(super) struct WalRequest<'a> {
    pub(super) place: WalPlace,
    pub(super) ranges: &'a [WalRange],
    /// Whose WAL it has to be, if that is known.
    pub(super) system_identifier: Option<SystemIdentifier>,
    pub(super) thread_count: usize,
}

/// Tells of each range that is not there, or not whole; says how many bytes were read.
pub(super) fn check_wal(request: &WalRequest<'_>, findings: &Findings<'_>) -> Result<u64, VerifyError> {
    let mut faults: Vec<Option<(Lsn, WalFault)>> = request.ranges.iter().map(|_| None).collect();
    let byte_count = AtomicU64::new(0);
    match &request.place {
        WalPlace::Directory { path, links } => {
            let found = SegmentSet::of_directory(path, *links);
            check_set(request, found, &mut faults, &byte_count, findings)?;
        }
        WalPlace::Archive { path, method } => {
            let name = || Box::from(path.as_os_str().as_bytes());
            let opened = File::open(path).map_err(|source| WalFault::Open { path: name(), source });
            let in_archive = |source: ArchiveFault| WalFault::Archive { name: name(), source };
            match opened {
                Ok(file) if *method != CompressionMethod::None => {
                    byte_count.store(
                        wal_stream::check(request, &file, *method, &name(), &mut faults),
                        Ordering::Relaxed,
                    );
                }
                opened => {
                    let found = opened.and_then(|file| SegmentSet::of_archive(file).map_err(in_archive));
                    check_set(request, found, &mut faults, &byte_count, findings)?;
                }
            }
        }
    }
    for (range, fault) in request.ranges.iter().zip(faults) {
        if let Some((_, fault)) = fault {
            findings.tell(Problem::Wal { timeline: range.timeline, fault });
        }
    }
    Ok(byte_count.into_inner())
}

type Faults = Vec<Option<(Lsn, WalFault)>>;

fn check_set(
    request: &WalRequest<'_>,
    found: Result<SegmentSet, WalFault>,
    faults: &mut Faults,
    byte_count: &AtomicU64,
    findings: &Findings<'_>,
) -> Result<(), VerifyError> {
    let header = |set: &SegmentSet| {
        let path = match &request.place {
            WalPlace::Directory { path, .. } | WalPlace::Archive { path, .. } => path,
        };
        set.header().ok_or_else(|| WalFault::NoSegments { path: path.as_os_str().as_bytes().into() })
    };
    let (set, (header, segment_size)) = match found.and_then(|set| header(&set).map(|header| (set, header))) {
        Ok(found) => found,
        Err(fault) => {
            // the same for all of them, so it is told once
            if let (Some(range), Some(first)) = (request.ranges.first(), faults.first_mut()) {
                *first = Some((range.start_lsn, fault));
            }
            return Ok(());
        }
    };
    let system_identifier = request.system_identifier.unwrap_or(header.system_identifier);
    let (ranges, timelines) = (request.ranges, timelines(request.ranges));
    let check = SetCheck { set: &set, ranges, timelines, system_identifier, segment_size, byte_count };
    let rows: Vec<Row> = (0..ranges.len()).flat_map(|range| check.rows(range, faults)).collect();
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(faults);
    let work = || {
        let mut buffer = vec![0; BUFFER_LEN];
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            if findings.has_stopped() {
                return;
            }
            if let Err((lsn, fault)) = check.row(row, &mut buffer) {
                let mut faults = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let first = &mut faults[row.range];
                if first.as_ref().is_none_or(|(known, _)| lsn < *known) {
                    *first = Some((lsn, fault));
                }
            }
        }
    };
    on_threads(request.thread_count.clamp(1, rows.len().clamp(1, 64)), work)
}

/// Ranges end where records end. The original takes a record that ends later for one that is not needed, so a flipped
/// bit in a length hides all that follows from it.
pub(super) fn end_of_range(checker: &WalChecker, end_lsn: Lsn) -> Result<(), (Lsn, WalFault)> {
    let record_lsn = checker.checked_lsn();
    match checker.is_within_record() {
        true => Err((record_lsn, WalFault::UnfinishedRecord { record_lsn, end_lsn })),
        false => Ok(()),
    }
}

/// How many newer timelines are tried for a segment that is not there.
const MAX_NEWER: usize = 16;

/// The timelines of a backup, each once, oldest first.
pub(super) fn timelines(ranges: &[WalRange]) -> Vec<TimelineId> {
    let mut timelines: Vec<TimelineId> = ranges.iter().map(|range| range.timeline).collect();
    timelines.sort_unstable();
    timelines.dedup();
    timelines
}

/// The timelines whose segments will do for one of `timeline`, that one first.
pub(super) fn acceptable(all: &[TimelineId], timeline: TimelineId) -> &[TimelineId] {
    let from = all.partition_point(|other| *other < timeline);
    &all[from..all.len().min(from + 1 + MAX_NEWER)]
}

fn name_of(timeline: TimelineId, segment: WalSegment) -> Option<[u8; NAME_LEN]> {
    WalFileName { timeline, segment }.to_string().as_bytes().try_into().ok()
}

/// A part of a range.
#[derive(Debug)]
struct Row {
    range: usize,
    start_lsn: Lsn,
    end_lsn: Lsn,
}

struct SetCheck<'a> {
    set: &'a SegmentSet,
    ranges: &'a [WalRange],
    timelines: Vec<TimelineId>,
    system_identifier: SystemIdentifier,
    segment_size: WalSegmentSize,
    byte_count: &'a AtomicU64,
}

impl SetCheck<'_> {
    /// The rows of a range as far as its segments are there: there are never more rows than segments, whatever a
    /// manifest says.
    fn rows(&self, index: usize, faults: &mut Faults) -> Vec<Row> {
        let range = self.ranges[index];
        let mut rows: Vec<Row> = Vec::new();
        let mut lsn = range.start_lsn;
        while lsn < range.end_lsn {
            let segment = self.segment_size.segment_at(lsn);
            if self.name(index, segment).is_none() {
                let name = WalFileName { timeline: range.timeline, segment }.to_string();
                faults[index] = Some((lsn, WalFault::Missing { name }));
                break;
            }
            let end_lsn = segment.end_lsn().min(range.end_lsn);
            match rows.last_mut() {
                Some(row) if end_lsn.saturating_since(row.start_lsn) <= ROW_LEN => row.end_lsn = end_lsn,
                _ => rows.push(Row { range: index, start_lsn: lsn, end_lsn }),
            }
            lsn = end_lsn;
        }
        rows
    }

    fn name(&self, range: usize, segment: WalSegment) -> Option<[u8; NAME_LEN]> {
        let timelines = acceptable(&self.timelines, self.ranges[range].timeline).iter();
        timelines.filter_map(|timeline| name_of(*timeline, segment)).find(|name| self.set.contains(name))
    }

    /// Reads beyond the row's end, up to the range's, until a record that begins there has ended: so nothing falls
    /// between two rows.
    fn row(&self, row: &Row, buffer: &mut [u8]) -> Result<(), (Lsn, WalFault)> {
        let range = self.ranges[row.range];
        let mut segments = Segments { check: self, range: row.range, open: None };
        let segment = self.segment_size.segment_at(row.start_lsn);
        let mut head = [0; LONG_PAGE_HEADER_LEN];
        let at_start = |fault| (row.start_lsn, fault);
        let len = segments.read(segment.start_lsn(), &mut head).map_err(at_start)?;
        if len < head.len() {
            let name = segments.name_at(segment.start_lsn());
            return Err(at_start(WalFault::Short { name, len: len as u64 }));
        }
        let (identifier, size) = (self.system_identifier, self.segment_size);
        let checker = WalChecker::from_page(identifier, size, range.timeline, row.start_lsn, &head);
        let mut checker = checker.map_err(|error| (error.lsn, error.into()))?;
        loop {
            let lsn = checker.next_lsn();
            let end_lsn = match lsn < row.end_lsn {
                true => row.end_lsn,
                false if checker.last_record_lsn().is_some_and(|last| last >= row.end_lsn) => return Ok(()),
                false => range.end_lsn,
            };
            let wanted = self.wanted(lsn, end_lsn, buffer.len());
            // within a row as much as fits; beyond, where little is needed, page by page
            let wanted = if lsn < row.end_lsn { wanted } else { wanted.min(8192) };
            if wanted == 0 {
                return end_of_range(&checker, range.end_lsn);
            }
            let read = segments.read(lsn, &mut buffer[..wanted]).map_err(|fault| (lsn, fault))?;
            if read == 0 {
                let len = self.segment_size.offset_of(lsn);
                return Err((lsn, WalFault::Short { name: segments.name_at(lsn), len }));
            }
            self.byte_count.fetch_add(read as u64, Ordering::Relaxed);
            checker.push(lsn, &buffer[..read]).map_err(|error| (error.lsn, error.into()))?;
        }
    }

    /// How much to read at once: no further than the segment goes.
    fn wanted(&self, lsn: Lsn, end_lsn: Lsn, room: usize) -> usize {
        let end_lsn = end_lsn.min(self.segment_size.segment_at(lsn).end_lsn());
        room.min(usize::try_from(end_lsn.saturating_since(lsn)).unwrap_or(usize::MAX))
    }
}

/// The segments of a range, one open at a time.
struct Segments<'a> {
    check: &'a SetCheck<'a>,
    range: usize,
    open: Option<(WalSegment, [u8; NAME_LEN], OpenSegment)>,
}

impl Segments<'_> {
    fn read(&mut self, lsn: Lsn, buffer: &mut [u8]) -> Result<usize, WalFault> {
        let segment = self.check.segment_size.segment_at(lsn);
        if self.open.as_ref().is_none_or(|(open, ..)| *open != segment) {
            let timeline = self.check.ranges[self.range].timeline;
            let name = self
                .check
                .name(self.range, segment)
                .ok_or_else(|| WalFault::Missing { name: WalFileName { timeline, segment }.to_string() })?;
            self.open = Some((segment, name, self.check.set.open(&name)?));
        }
        let Some((_, name, open)) = &self.open else { return Ok(0) };
        let failed = |source| WalFault::Read { path: Box::from(&name[..]), source };
        open.read(buffer, lsn - segment.start_lsn()).map_err(failed)
    }

    fn name_at(&self, lsn: Lsn) -> String {
        match &self.open {
            Some((_, name, _)) => String::from_utf8_lossy(name).into_owned(),
            None => lsn.to_string(),
        }
    }
}
