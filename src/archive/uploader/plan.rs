//! What to archive next of one timeline: a state machine without I/O and without a clock.
//!
//! WAL goes up in the order of its positions, in pieces: parts of the segment that is being written, as they become
//! durable, or a whole segment where none of it is up yet. Several pieces may be on their way at once; archived is what
//! lies before the first that is not up. When all of a segment is up in parts it is folded: put up as a whole, its parts
//! removed.
//!
//! `archived <= started <= flushed` holds at every moment.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::layout::{Generation, SegmentRange};
use crate::pg::{Lsn, Marks, TimelineId, WalFileName, WalSegment, WalSegmentSize};

/// The longest part in bytes: what is lost of a store's time when one has to be sent again.
const MAX_RANGE_LEN: u64 = 4 << 20;

/// How many pieces may be on their way at once, and how many where the next is a whole segment, which is in memory as
/// long as that.
const MAX_IN_FLIGHT: usize = 4;
const MAX_SEGMENTS_IN_FLIGHT: usize = 3;

/// Larger segments go up in parts, and stay so: a whole one would have to be in memory.
const MAX_WHOLE_LEN: u64 = 64 << 20;

/// Something to put up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A part of a segment.
    Range(SegmentRange),
    /// A whole segment.
    Segment(WalFileName),
    /// What is up already: to be compared before it counts, because another run has put it up, perhaps another server's.
    Known(Known),
}

/// An object that is up already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) file: WalFileName,
    pub(super) object: KnownObject,
    /// Up to where it can be compared; its end, unless less than that will ever be durable here.
    pub(super) end_lsn: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownObject {
    Range(SegmentRange),
    Segment,
}

impl Known {
    pub(super) fn range(range: SegmentRange) -> Self {
        Known { file: range.file, object: KnownObject::Range(range), end_lsn: range.end_lsn }
    }

    pub(super) fn segment(file: WalFileName) -> Self {
        Known { file, object: KnownObject::Segment, end_lsn: file.segment.end_lsn() }
    }

    pub(super) fn start_lsn(&self) -> Lsn {
        match self.object {
            KnownObject::Range(range) => range.start_lsn,
            KnownObject::Segment => self.file.segment.start_lsn(),
        }
    }
}

impl Piece {
    fn end_lsn(self) -> Lsn {
        match self {
            Piece::Range(range) => range.end_lsn,
            Piece::Segment(file) => file.segment.end_lsn(),
            Piece::Known(known) => known.end_lsn,
        }
    }

    /// The segment that is up as a whole when it is.
    pub(super) fn whole_segment(self) -> Option<WalFileName> {
        match self {
            Piece::Segment(file) => Some(file),
            Piece::Known(Known { object: KnownObject::Segment, file, end_lsn }) => {
                (end_lsn == file.segment.end_lsn()).then_some(file)
            }
            _ => None,
        }
    }

    /// How many may be on their way with it.
    fn max_in_flight(self) -> usize {
        match self {
            Piece::Segment(_) | Piece::Known(Known { object: KnownObject::Segment, .. }) => {
                MAX_SEGMENTS_IN_FLIGHT
            }
            _ => MAX_IN_FLIGHT,
        }
    }

    /// The segment that is up in parts when it is.
    fn completes_parts_of(self) -> Option<WalFileName> {
        let range = match self {
            Piece::Range(range) | Piece::Known(Known { object: KnownObject::Range(range), .. }) => range,
            _ => return None,
        };
        (self.end_lsn() == range.file.segment.end_lsn()).then_some(range.file)
    }
}

/// One timeline's state.
#[derive(Debug)]
pub(super) struct Plan {
    timeline: TimelineId,
    generation: Generation,
    segment_size: WalSegmentSize,
    /// How old WAL may get before it is on its way.
    delay: Duration,
    flushed_lsn: Lsn,
    started_lsn: Lsn,
    archived_lsn: Lsn,
    began_lsn: Lsn,
    /// What was up at the beginning, in order.
    known: VecDeque<Known>,
    /// On their way or up, in order, from `archived_lsn` to `started_lsn`.
    in_flight: VecDeque<(Piece, Done)>,
    found: Vec<WalFileName>,
    /// Since when there is something that is not on its way.
    waiting_since: Option<Duration>,
    /// What is not up, and since when it is durable.
    unarchived: Marks,
    /// Nothing more comes: what is there goes without delay.
    ended: bool,
    /// Up in parts, to be put up as wholes.
    to_fold: VecDeque<WalFileName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    No,
    Yes,
}

impl Plan {
    /// All before `archived_lsn` is up.
    pub(super) fn new(
        timeline: TimelineId,
        generation: Generation,
        segment_size: WalSegmentSize,
        archived_lsn: Lsn,
        delay: Duration,
    ) -> Self {
        Plan {
            timeline,
            generation,
            segment_size,
            delay,
            flushed_lsn: archived_lsn,
            started_lsn: archived_lsn,
            archived_lsn,
            began_lsn: archived_lsn,
            known: VecDeque::new(),
            in_flight: VecDeque::new(),
            found: Vec::new(),
            waiting_since: None,
            unarchived: Marks::new(),
            ended: false,
            to_fold: VecDeque::new(),
        }
    }

    /// These are up already; in order, and those that are parts without a gap from where it begins.
    pub(super) fn with_known(self, known: Vec<Known>) -> Self {
        Plan { known: known.into(), ..self }
    }

    /// Whole segments of the directory that the archive has, too. They count once one of this plan's was compared with it.
    pub(super) fn with_found(self, found: Vec<WalFileName>) -> Self {
        Plan { found, ..self }
    }

    /// Those; from then on there are none.
    pub(super) fn take_found(&mut self) -> Vec<WalFileName> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// All before this is in the archive.
    pub(super) fn archived_lsn(&self) -> Lsn {
        self.archived_lsn
    }

    /// Whether something of it was put up, or compared with what is up.
    pub(super) fn has_advanced(&self) -> bool {
        self.archived_lsn > self.began_lsn
    }

    /// All before this is durable here.
    pub(super) fn flushed_lsn(&self) -> Lsn {
        self.flushed_lsn
    }

    /// Bytes that are durable here and not in the archive.
    pub(super) fn behind_len(&self) -> u64 {
        self.flushed_lsn - self.archived_lsn
    }

    /// Since when the oldest of them is durable.
    pub(super) fn oldest_at(&self) -> Option<Duration> {
        self.unarchived.oldest()
    }

    /// Whether all that will ever come is up.
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.archived_lsn == self.flushed_lsn && self.to_fold.is_empty()
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// More is durable here.
    pub(super) fn handle_flushed(&mut self, now: Duration, lsn: Lsn) {
        if lsn > self.flushed_lsn {
            self.flushed_lsn = lsn;
            self.waiting_since.get_or_insert(now);
            self.unarchived.push(lsn, now);
        }
    }

    /// Nothing more comes.
    pub(super) fn handle_end(&mut self) {
        self.ended = true;
    }

    /// A piece is up.
    pub(super) fn handle_done(&mut self, piece: Piece) {
        if let Some(entry) = self.in_flight.iter_mut().find(|(other, _)| *other == piece) {
            entry.1 = Done::Yes;
        }
        while let Some((piece, Done::Yes)) = self.in_flight.front().copied() {
            self.in_flight.pop_front();
            self.archived_lsn = piece.end_lsn();
            self.unarchived.reach(self.archived_lsn, |_| {});
            if self.goes_up_whole() {
                self.to_fold.extend(piece.completes_parts_of());
            }
        }
    }

    fn goes_up_whole(&self) -> bool {
        self.segment_size.as_u64() <= MAX_WHOLE_LEN
    }

    /// The next piece; `None` until something changes, or time passes.
    pub(super) fn poll_piece(&mut self, now: Duration) -> Option<Piece> {
        while self.known.front().is_some_and(|known| known.end_lsn <= self.started_lsn) {
            self.known.pop_front();
        }
        let piece = self.next().filter(|piece| self.in_flight.len() < piece.max_in_flight())?;
        let due = !matches!(piece, Piece::Range(_))
            || piece.end_lsn() == self.segment_size.segment_at(self.started_lsn).end_lsn()
            || self.ended
            || self.flushed_lsn - self.started_lsn >= MAX_RANGE_LEN
            || self.deadline().is_none_or(|at| at <= now);
        if !due {
            return None;
        }
        self.started_lsn = piece.end_lsn();
        if self.started_lsn == self.flushed_lsn {
            self.waiting_since = None;
        }
        self.in_flight.push_back((piece, Done::No));
        Some(piece)
    }

    /// What comes next, whenever it is due; `None`: that takes more WAL.
    fn next(&self) -> Option<Piece> {
        if self.started_lsn >= self.flushed_lsn {
            return None;
        }
        let segment = self.segment_size.segment_at(self.started_lsn);
        let known = self.known.iter().find(|known| known.end_lsn > self.started_lsn);
        if let Some(known) = known.filter(|known| known.start_lsn() <= self.started_lsn) {
            let end_lsn = if self.ended { known.end_lsn.min(self.flushed_lsn) } else { known.end_lsn };
            return (end_lsn <= self.flushed_lsn).then_some(Piece::Known(Known { end_lsn, ..*known }));
        }
        let is_whole = self.flushed_lsn >= segment.end_lsn();
        let file = self.file(segment);
        if is_whole && self.started_lsn == segment.start_lsn() && self.goes_up_whole() {
            return Some(Piece::Segment(file));
        }
        let end_lsn = self.flushed_lsn.min(segment.end_lsn()).min(self.started_lsn + MAX_RANGE_LEN);
        let (start_lsn, generation) = (self.started_lsn, self.generation);
        Some(Piece::Range(SegmentRange { file, start_lsn, end_lsn, generation }))
    }

    /// A segment that is up in parts, to be folded.
    pub(super) fn poll_fold(&mut self) -> Option<WalFileName> {
        self.to_fold.pop_front()
    }

    /// When to ask again; `None`: time changes nothing.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let piece = self.next()?;
        if self.in_flight.len() < piece.max_in_flight() { self.deadline() } else { None }
    }

    fn deadline(&self) -> Option<Duration> {
        self.waiting_since.map(|since| since.saturating_add(self.delay))
    }

    fn file(&self, segment: WalSegment) -> WalFileName {
        WalFileName { timeline: self.timeline, segment }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const DELAY: Duration = Duration::from_secs(1);

    fn plan(segment_len: u64, archived: u64) -> Plan {
        let size = WalSegmentSize::from_bytes(segment_len).unwrap();
        Plan::new(TimelineId::FIRST, Generation::FIRST, size, Lsn::new(archived), DELAY)
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn bounds(piece: Piece) -> (u64, u64) {
        match piece {
            Piece::Range(range) => (range.start_lsn.as_u64(), range.end_lsn.as_u64()),
            Piece::Segment(file) => (file.segment.start_lsn().as_u64(), file.segment.end_lsn().as_u64()),
            Piece::Known(known) => (known.start_lsn().as_u64(), known.end_lsn.as_u64()),
        }
    }

    #[test]
    fn what_is_flushed_waits_no_longer_than_the_delay() {
        let mut plan = plan(16 * MIB, 16 * MIB);
        plan.handle_flushed(at(0), Lsn::new(16 * MIB + 100));
        assert_eq!(plan.poll_piece(at(999)), None);
        assert_eq!(plan.poll_timeout(), Some(at(1000)));
        plan.handle_flushed(at(500), Lsn::new(16 * MIB + 300));
        let piece = plan.poll_piece(at(1000)).unwrap();
        assert_eq!(bounds(piece), (16 * MIB, 16 * MIB + 300));
        // what comes next is as young as it is
        plan.handle_flushed(at(1100), Lsn::new(16 * MIB + 400));
        assert_eq!((plan.poll_piece(at(2000)), plan.poll_timeout()), (None, Some(at(2100))));
        plan.handle_end();
        assert_eq!(bounds(plan.poll_piece(at(2000)).unwrap()), (16 * MIB + 300, 16 * MIB + 400));
    }

    #[test]
    fn only_what_has_no_gap_before_it_is_archived() {
        let mut plan = plan(MIB, 3 * MIB);
        plan.handle_flushed(at(0), Lsn::new(7 * MIB + 5));
        let pieces: Vec<Piece> = std::iter::from_fn(|| plan.poll_piece(at(0))).collect();
        assert_eq!(
            pieces.iter().map(|piece| bounds(*piece)).collect::<Vec<_>>(),
            [(3 * MIB, 4 * MIB), (4 * MIB, 5 * MIB), (5 * MIB, 6 * MIB)]
        );
        // more waits, and time does not help it
        assert_eq!(plan.poll_timeout(), None);
        plan.handle_done(pieces[1]);
        plan.handle_done(pieces[2]);
        assert_eq!(plan.archived_lsn(), Lsn::new(3 * MIB));
        plan.handle_done(pieces[0]);
        assert_eq!(plan.archived_lsn(), Lsn::new(6 * MIB));
        let last = plan.poll_piece(at(0)).unwrap();
        assert_eq!(bounds(last), (6 * MIB, 7 * MIB));
        plan.handle_done(last);
        assert_eq!((plan.archived_lsn(), plan.poll_fold()), (Lsn::new(7 * MIB), None));
    }

    #[test]
    fn a_segment_that_went_up_in_parts_is_folded() {
        let mut plan = plan(MIB, MIB + 10);
        plan.handle_flushed(at(0), Lsn::new(2 * MIB));
        let piece = plan.poll_piece(at(0)).unwrap();
        assert_eq!(bounds(piece), (MIB + 10, 2 * MIB));
        plan.handle_end();
        plan.handle_done(piece);
        assert!(!plan.is_finished());
        assert_eq!(plan.poll_fold().unwrap().segment.start_lsn(), Lsn::new(MIB));
        assert!(plan.is_finished());
    }

    #[test]
    fn what_is_up_counts_when_it_was_compared() {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let file = |number: u64| WalFileName {
            timeline: TimelineId::FIRST,
            segment: size.segment_at(Lsn::new(number * MIB)),
        };
        let part = |from: u64, to: u64| {
            let (start_lsn, end_lsn) = (Lsn::new(3 * MIB + from), Lsn::new(3 * MIB + to));
            Known::range(SegmentRange { file: file(3), start_lsn, end_lsn, generation: Generation::FIRST })
        };
        let known = vec![part(0, 100), part(50, 100), part(50, 400), Known::segment(file(4))];
        let mut plan = plan(MIB, 3 * MIB).with_known(known);
        plan.handle_flushed(at(0), Lsn::new(3 * MIB + 300));
        let first = plan.poll_piece(at(0)).unwrap();
        assert_eq!((first, bounds(first)), (Piece::Known(part(0, 100)), (3 * MIB, 3 * MIB + 100)));
        // the rest of it is not here yet: nothing is put beside it
        assert_eq!((plan.poll_piece(at(9000)), plan.poll_timeout()), (None, None));
        plan.handle_done(first);
        assert_eq!(plan.archived_lsn(), Lsn::new(3 * MIB + 100));
        plan.handle_flushed(at(0), Lsn::new(4 * MIB + 500));
        let pieces: Vec<Piece> = std::iter::from_fn(|| plan.poll_piece(at(0))).collect();
        assert_eq!(
            pieces.iter().map(|piece| bounds(*piece)).collect::<Vec<_>>(),
            [(3 * MIB + 50, 3 * MIB + 400), (3 * MIB + 400, 4 * MIB)]
        );
        for piece in pieces {
            plan.handle_done(piece);
        }
        assert!(plan.poll_fold().is_some());
        assert_eq!((plan.poll_piece(at(9000)), plan.poll_timeout()), (None, None));
        // no more comes: as much of it as there is here
        plan.handle_end();
        assert_eq!(bounds(plan.poll_piece(at(0)).unwrap()), (4 * MIB, 4 * MIB + 500));
    }

    proptest! {
        /// Whatever order things happen in: pieces follow each other without a gap, none crosses a segment, and archived is
        /// never beyond what is up.
        #[test]
        fn every_byte_goes_up_once(
            steps in proptest::collection::vec((0u8..4, 0u64..3_000_000, 0usize..4), 1..200),
        ) {
            let mut plan = plan(MIB, 7 * MIB);
            let (mut now, mut flushed, mut next) = (0, 7 * MIB, 7 * MIB);
            let mut open: Vec<Piece> = Vec::new();
            let mut done: Vec<(u64, u64)> = Vec::new();
            for (kind, amount, index) in steps {
                match kind {
                    0 => { flushed += amount; plan.handle_flushed(at(now), Lsn::new(flushed)); }
                    1 => now += amount / 1000,
                    2 => while let Some(piece) = plan.poll_piece(at(now)) {
                        let (start, end) = bounds(piece);
                        prop_assert_eq!(start, next);
                        prop_assert!(start < end && end <= flushed && (end - 1) / MIB == start / MIB);
                        next = end;
                        open.push(piece);
                        prop_assert!(open.len() <= MAX_IN_FLIGHT + done.len());
                    },
                    _ if !open.is_empty() => {
                        let piece = open.swap_remove(index % open.len());
                        done.push(bounds(piece));
                        plan.handle_done(piece);
                    }
                    _ => {}
                }
                done.sort_unstable();
                let mut up = 7 * MIB;
                for (start, end) in &done {
                    if *start == up { up = *end; }
                }
                prop_assert_eq!(plan.archived_lsn(), Lsn::new(up));
            }
        }
    }
}
