//! The row of segments at the end of a directory: where it goes on, and what is missing in it.
//!
//! A directory may begin anywhere, for finished segments are moved away, the oldest first. But what lies between two of its
//! segments was there once, or should have been, and behind a hole nothing is of use to a recovery. So a stream begins at
//! the hole: the server may still have what is missing, and if it has not, it says so. Only the last few segments are
//! looked at: `pgwake wal verify` looks at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegment};

/// How many whole segments, counted from the end, are to be without a hole between them.
const LAST_FEW: u32 = 8;

/// What there is of a segment; of several files the best counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    /// Nothing: somebody has moved it aside, because it was damaged.
    Aside,
    /// A file that is not finished.
    Unfinished,
    /// A finished one, of the right length as far as is known.
    Finished,
}

/// A segment's file on the server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    timeline: TimelineId,
    kept: Kept,
}

/// Files on the server's history, of each segment the one on the latest timeline.
#[derive(Debug)]
pub(super) struct Row<'a> {
    history: &'a TimelineHistory,
    found: BTreeMap<WalSegment, Found>,
    /// Finished files of a length that a segment does not have.
    damaged: BTreeMap<WalSegment, TimelineId>,
    /// Of these somebody has moved a file aside. What is there besides may be the beginning of its successor.
    aside: BTreeSet<WalSegment>,
}

/// Where a directory goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowEnd {
    pub(super) timeline: TimelineId,
    pub(super) start_lsn: Lsn,
    /// There is WAL behind it, from here on.
    pub(super) gap_end_lsn: Option<Lsn>,
}

impl<'a> Row<'a> {
    pub(super) fn new(history: &'a TimelineHistory) -> Self {
        Row { history, found: BTreeMap::new(), damaged: BTreeMap::new(), aside: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, file: WalFileName, kept: Kept) {
        if kept == Kept::Aside {
            self.aside.insert(file.segment);
        }
        let new = Found { timeline: file.timeline, kept };
        let best = self.found.entry(file.segment).or_insert(new);
        *best = new.max(*best);
    }

    pub(super) fn add_damaged(&mut self, file: WalFileName) {
        let timeline = self.damaged.entry(file.segment).or_insert(file.timeline);
        *timeline = file.timeline.max(*timeline);
    }

    /// Where to go on; `None` when there is nothing to go on with.
    pub(super) fn end(&self) -> Option<RowEnd> {
        let (&last, _) = self.found.last_key_value()?;
        let (timeline, start_lsn) = self.end_without_gaps(last);
        let mut end = RowEnd { timeline, start_lsn, gap_end_lsn: None };
        let mut next = last.size().segment_at(start_lsn);
        let mut whole_count = 0;
        for (&segment, found) in self.found.range(..next).rev() {
            let is_whole = self.is_whole(segment);
            let (timeline, start_lsn) = if is_whole {
                self.behind(segment)
            } else if self.aside.contains(&segment) && segment.end_lsn() == next.start_lsn() {
                (found.timeline, segment.start_lsn())
            } else {
                // a leftover, from before a switch say
                continue;
            };
            if start_lsn != next.start_lsn() {
                end = RowEnd { timeline, start_lsn, gap_end_lsn: Some(next.start_lsn()) };
            }
            next = segment;
            whole_count += u32::from(is_whole);
            if whole_count == LAST_FEW {
                break;
            }
        }
        Some(end)
    }

    /// Behind the last segment if it is whole, else at the first of those that are not.
    fn end_without_gaps(&self, last: WalSegment) -> (TimelineId, Lsn) {
        if self.is_whole(last) {
            return self.behind(last);
        }
        let mut first = last;
        while let Some(before) = self.begun_before(first) {
            first = before;
        }
        let timeline = match self.found.get(&first) {
            // the later timeline has this segment too, with another end
            Some(Found { kept: Kept::Finished, .. }) => {
                self.history.timeline_at(Lsn::new(first.end_lsn().as_u64() - 1))
            }
            Some(found) => found.timeline,
            None => self.damaged[&first],
        };
        (timeline, first.start_lsn())
    }

    /// Whether there is all of the segment that the history has.
    fn is_whole(&self, segment: WalSegment) -> bool {
        self.found.get(&segment).is_some_and(|found| {
            let switch_lsn = self.history.switch_point(found.timeline);
            found.kept == Kept::Finished && switch_lsn.is_none_or(|lsn| lsn >= segment.end_lsn())
        })
    }

    /// The segment before this one, if there is something of it, but not all.
    fn begun_before(&self, segment: WalSegment) -> Option<WalSegment> {
        let found = self.found.range(..segment).next_back().map(|(before, _)| *before);
        let damaged = self.damaged.range(..segment).next_back().map(|(before, _)| *before);
        found.max(damaged).filter(|before| before.next() == segment && !self.is_whole(*before))
    }

    /// What follows a whole segment. At a switch point the server would have nothing more of the timeline that ends there.
    fn behind(&self, segment: WalSegment) -> (TimelineId, Lsn) {
        let (timeline, end_lsn) = (self.found[&segment].timeline, segment.end_lsn());
        match self.history.switch_point(timeline) {
            Some(switch_lsn) if switch_lsn == end_lsn => (self.history.timeline_at(end_lsn), end_lsn),
            _ => (timeline, end_lsn),
        }
    }
}
