//! Whether the archive goes on where the directory begins. A restore cannot go past a gap, so nothing is put behind one until
//! an operator has said that this is meant; then an object says so for later runs.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::error::ArchiveError;
use super::super::layout;
use super::Gaps;
use super::begin::{Remote, last_run};
use super::local::{self, LocalWal};
use super::put::Route;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName};

/// So many segments before the directory's first one are looked at: what was on its way when a directory was lost leaves gaps
/// no further back than this from where the archive ends.
pub(super) const LOOK_BACK: u64 = 4;

/// The longest content of an object that accepts a gap.
const MAX_ACCEPTANCE_LEN: u64 = 4096;

/// WAL that is neither in the archive nor in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    /// The timeline of its last byte.
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
}

/// Refuses a gap before `first`, the first segment of the directory, unless it is accepted. `remote` is of the same timeline.
pub(super) async fn check(
    route: &Route,
    local: &LocalWal,
    first: WalFileName,
    remote: &Remote,
) -> Result<(), ArchiveError> {
    let mut line = Line::of(route, local, first.timeline)?;
    let Some(gap) = line.gap_before(first, remote).await? else { return Ok(()) };
    let Gap { timeline, from, to } = gap;
    let key = layout::gap_key(timeline, from, to);
    if route.store.read(&key, MAX_ACCEPTANCE_LEN).await?.is_some() {
        return Ok(());
    }
    match route.gaps {
        Gaps::Refuse => Err(ArchiveError::Gap { timeline, from, to }),
        Gaps::Accept => {
            tracing::warn!(%timeline, %from, %to, "the archive has a gap that no restore can go past; it is accepted");
            let content = format!("{{\"timeline\":{timeline},\"from\":\"{from}\",\"to\":\"{to}\"}}\n");
            route.create(&key, Bytes::from(content)).await.map(drop)
        }
    }
}

/// A timeline with those that it grew out of.
struct Line<'a> {
    route: &'a Route,
    local: &'a LocalWal,
    history: TimelineHistory,
    ancestors: BTreeMap<WalFileName, Remote>,
}

impl<'a> Line<'a> {
    fn of(route: &'a Route, local: &'a LocalWal, timeline: TimelineId) -> Result<Self, ArchiveError> {
        let history = if local.histories.contains(&timeline) {
            local::history(&route.directory, timeline)?
        } else {
            TimelineHistory::root(timeline)
        };
        Ok(Line { route, local, history, ancestors: BTreeMap::new() })
    }

    async fn gap_before(&mut self, first: WalFileName, remote: &Remote) -> Result<Option<Gap>, ArchiveError> {
        let size = first.segment.size();
        let mut to = first.segment.start_lsn();
        for _ in 0..LOOK_BACK {
            if to.as_u64() < size.as_u64() {
                return Ok(None);
            }
            let segment = size.segment_at(Lsn::new(to.as_u64() - 1));
            let timeline = self.history.timeline_at(Lsn::new(to.as_u64() - 1));
            let file = WalFileName { timeline, segment };
            let reached = if timeline == first.timeline {
                remote.end_within(file)
            } else {
                self.end_on_ancestor(file).await?
            };
            if reached < segment.end_lsn() {
                // without anything before it this is where the archive begins
                let before =
                    if reached > segment.start_lsn() { Some(reached) } else { self.last_before(to).await? };
                return Ok(before.map(|from| Gap { timeline, from, to }));
            }
            to = segment.start_lsn();
        }
        Ok(None)
    }

    /// Up to where a segment of an ancestor is there. What the directory has of it goes up before this timeline does.
    async fn end_on_ancestor(&mut self, file: WalFileName) -> Result<Lsn, ArchiveError> {
        let here = last_run(self.local, file.timeline).iter().find(|segment| segment.file == file);
        if here.is_some_and(|segment| !segment.is_partial) {
            return Ok(file.segment.end_lsn());
        }
        if !self.ancestors.contains_key(&file) {
            let remote = Remote::list(self.route, file).await?;
            self.ancestors.insert(file, remote);
        }
        Ok(self.ancestors[&file].end_within(file))
    }

    /// The end of the last WAL of this line that begins before `lsn`.
    async fn last_before(&self, lsn: Lsn) -> Result<Option<Lsn>, ArchiveError> {
        let own = (self.history.timeline(), Lsn::LIMIT);
        let ancestors = self.history.ancestors().iter().map(|entry| (entry.timeline, entry.end_lsn));
        let mut last = None;
        for (timeline, end_lsn) in ancestors.chain([own]) {
            let limit = lsn.min(end_lsn);
            let size = self.local.size;
            let remote = Remote::list_behind(self.route, None, timeline, size).await?;
            let here = last_run(self.local, timeline).iter().map(|segment| segment.file);
            let here = here.filter(|_| timeline != own.0);
            let wholes = here.chain(remote.segments.iter().copied());
            let wholes = wholes.map(|file| (file.segment.start_lsn(), file.segment.end_lsn()));
            let parts = remote.ranges.iter().map(|range| (range.start_lsn, range.end_lsn));
            let ends = wholes.chain(parts).filter(|(start, _)| *start < limit).map(|(_, end)| end.min(limit));
            last = last.max(ends.max());
        }
        Ok(last)
    }
}
