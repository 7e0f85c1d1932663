//! WAL in a compressed archive, checked as it streams by.
//!
//! Servers and `pg_basebackup` store segments in the order of the log, so one pass over the archive is enough for all
//! ranges at once. An archive in another order is read again, a few times.

use std::fs::File;

use super::super::manifest::WalRange;
use super::super::tar_header::{MemberKind, TarMember};
use super::super::tar_stream::TarEvent;
use super::compressed::{self, Next};
use super::problem::{ArchiveFault, WalFault};
use super::wal::{WalRequest, acceptable, end_of_range, timelines};
use super::wal_place::{segment_header, segment_name};
use crate::compression::CompressionMethod;
use crate::pg::wal_page::LONG_PAGE_HEADER_LEN;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalFileName, WalSegment, WalSegmentSize};

/// How often an archive is read, at most.
const MAX_PASSES: usize = 4;

/// Checks all ranges; says how many bytes of WAL were read.
pub(super) fn check(
    request: &WalRequest<'_>,
    file: &File,
    method: CompressionMethod,
    name: &[u8],
    faults: &mut [Option<(Lsn, WalFault)>],
) -> u64 {
    let mut stream = WalStream {
        ranges: request.ranges.iter().copied().map(RangeCheck::new).collect(),
        timelines: timelines(request.ranges),
        system_identifier: request.system_identifier,
        segment_size: None,
        member: None,
        byte_count: 0,
    };
    let mut ending = Ending::Disorder;
    for _ in 0..MAX_PASSES {
        let before = stream.byte_count;
        if stream.is_over() {
            break;
        }
        if let Err(fault) = compressed::stream(file, method, |event| stream.event(event), |_| {}) {
            ending = Ending::Broken(fault);
            break;
        }
        if stream.byte_count == before {
            ending = Ending::End;
            break;
        }
    }
    let byte_count = stream.byte_count;
    stream.finish(name, ending, faults);
    byte_count
}

struct WalStream {
    ranges: Vec<RangeCheck>,
    timelines: Vec<TimelineId>,
    system_identifier: Option<SystemIdentifier>,
    segment_size: Option<WalSegmentSize>,
    member: Option<Member>,
    byte_count: u64,
}

/// A segment that streams by.
struct Member {
    name: [u8; super::wal_place::NAME_LEN],
    /// The first bytes, until there are enough for the segment's header.
    head: Vec<u8>,
    len: u64,
    /// Which ranges want it; known with the header.
    wanted_by: Option<(WalSegment, Vec<usize>)>,
}

struct RangeCheck {
    range: WalRange,
    state: State,
    fault: Option<(Lsn, WalFault)>,
}

enum State {
    Unbegun,
    /// All before `next` was read.
    Reading {
        checker: Box<WalChecker>,
        next: WalSegment,
    },
    Done,
}

impl WalStream {
    fn event(&mut self, event: TarEvent) -> Next {
        match event {
            TarEvent::Member(TarMember { path, kind: MemberKind::File { .. }, .. }) => {
                self.member = segment_name(path.as_bytes()).map(|name| Member {
                    name: *name,
                    head: Vec::new(),
                    len: 0,
                    wanted_by: None,
                });
            }
            TarEvent::Data(data) => self.data(&data),
            TarEvent::MemberEnd => self.member_end(),
            TarEvent::Member(_) | TarEvent::End => {}
        }
        if self.is_over() { Next::Stop } else { Next::Event }
    }

    fn is_over(&self) -> bool {
        self.ranges.iter().all(|range| range.fault.is_some() || matches!(range.state, State::Done))
    }

    fn data(&mut self, data: &[u8]) {
        let Some(mut member) = self.member.take() else { return };
        if member.wanted_by.is_some() {
            self.feed(&mut member, data);
        } else {
            member.head.extend_from_slice(data);
            if member.head.len() >= LONG_PAGE_HEADER_LEN {
                member.wanted_by = self.wanted_by(&member);
                let head = std::mem::take(&mut member.head);
                if member.wanted_by.is_none() {
                    return;
                }
                self.feed(&mut member, &head);
            }
        }
        self.member = Some(member);
    }

    /// Who goes on with this segment. A segment that is no WAL at all says nothing of how WAL is cut.
    fn wanted_by(&mut self, member: &Member) -> Option<(WalSegment, Vec<usize>)> {
        if self.segment_size.is_none() {
            let (header, size) = segment_header(&member.head)?;
            self.segment_size = Some(size);
            self.system_identifier.get_or_insert(header.system_identifier);
        }
        let size = self.segment_size?;
        let name = std::str::from_utf8(&member.name).ok()?;
        let WalFileName { timeline, segment } = WalFileName::parse(name, size).ok()?;
        let wanted = |range: &RangeCheck| {
            let next = match &range.state {
                State::Unbegun => size.segment_at(range.range.start_lsn),
                State::Reading { next, .. } => *next,
                State::Done => return false,
            };
            range.fault.is_none()
                && next == segment
                && acceptable(&self.timelines, range.range.timeline).contains(&timeline)
        };
        let wanted: Vec<usize> = self
            .ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| wanted(range))
            .map(|(index, _)| index)
            .collect();
        Some((segment, wanted)).filter(|(_, wanted)| !wanted.is_empty())
    }

    fn feed(&mut self, member: &mut Member, data: &[u8]) {
        let (Some((segment, wanted)), Some(identifier)) = (&member.wanted_by, self.system_identifier) else {
            return;
        };
        let lsn = segment.start_lsn() + member.len;
        for index in wanted {
            let range = &mut self.ranges[*index];
            match range.feed(*segment, identifier, lsn, data) {
                Ok(len) => self.byte_count += len,
                Err((lsn, fault)) => range.fault = Some((lsn, fault)),
            }
        }
        member.len += data.len() as u64;
    }

    fn member_end(&mut self) {
        let Some(Member { name, len, wanted_by: Some((segment, wanted)), .. }) = self.member.take() else {
            return;
        };
        for index in wanted {
            let range = &mut self.ranges[index];
            if let State::Reading { checker, next } = &mut range.state
                && range.fault.is_none()
            {
                if checker.next_lsn() < segment.end_lsn() {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    range.fault = Some((checker.next_lsn(), WalFault::Short { name, len }));
                }
                *next = segment.next();
            }
        }
    }

    fn finish(self, name: &[u8], ending: Ending, faults: &mut [Option<(Lsn, WalFault)>]) {
        let (size, mut ending) = (self.segment_size, Some(ending));
        for (check, fault) in self.ranges.into_iter().zip(faults) {
            let RangeCheck { range, state, fault: found } = check;
            let lsn = match &state {
                State::Done => range.end_lsn,
                State::Unbegun => range.start_lsn,
                State::Reading { checker, .. } => checker.next_lsn(),
            };
            *fault = match (found, state) {
                (Some(found), _) => Some(found),
                (None, State::Done) => None,
                // what ended the reading is the same for all, so it is told once
                (None, _) => ending.take().map(|ending| (lsn, ending.fault(name, range.timeline, lsn, size))),
            };
        }
    }
}

/// Why nothing more was read.
#[derive(Debug)]
enum Ending {
    /// There is no more.
    End,
    /// There may be more, but it was read often enough.
    Disorder,
    /// It cannot be read.
    Broken(ArchiveFault),
}

impl Ending {
    fn fault(self, name: &[u8], timeline: TimelineId, lsn: Lsn, size: Option<WalSegmentSize>) -> WalFault {
        match (self, size) {
            (Ending::Broken(source), _) => WalFault::Archive { name: name.into(), source },
            (Ending::Disorder, _) => WalFault::Disorder { name: name.into() },
            (Ending::End, None) => WalFault::NoSegments { path: name.into() },
            (Ending::End, Some(size)) => {
                let segment = size.segment_at(lsn);
                WalFault::Missing { name: WalFileName { timeline, segment }.to_string() }
            }
        }
    }
}

impl RangeCheck {
    fn new(range: WalRange) -> Self {
        let state = if range.start_lsn < range.end_lsn { State::Unbegun } else { State::Done };
        RangeCheck { range, state, fault: None }
    }

    /// Takes what it needs of the bytes from `lsn` on; says how much that was.
    fn feed(
        &mut self,
        segment: WalSegment,
        identifier: SystemIdentifier,
        lsn: Lsn,
        data: &[u8],
    ) -> Result<u64, (Lsn, WalFault)> {
        let WalRange { timeline, start_lsn, end_lsn } = self.range;
        if let (State::Unbegun, Some(head)) = (&self.state, data.first_chunk()) {
            let checker = WalChecker::from_page(identifier, segment.size(), timeline, start_lsn, head);
            let checker = Box::new(checker.map_err(|error| (error.lsn, error.into()))?);
            self.state = State::Reading { checker, next: segment };
        }
        let State::Reading { checker, .. } = &mut self.state else { return Ok(0) };
        let next_lsn = checker.next_lsn();
        let passed_over = usize::try_from(next_lsn.saturating_since(lsn)).unwrap_or(usize::MAX);
        let data = data.get(passed_over..).unwrap_or_default();
        let most = end_lsn.min(segment.end_lsn()).saturating_since(next_lsn);
        let data = &data[..data.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
        if !data.is_empty() {
            checker.push(next_lsn, data).map_err(|error| (error.lsn, error.into()))?;
        }
        if checker.next_lsn() >= end_lsn {
            end_of_range(checker, end_lsn)?;
            self.state = State::Done;
        }
        Ok(data.len() as u64)
    }
}
