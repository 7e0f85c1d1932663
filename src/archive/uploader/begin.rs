//! Where to begin with a timeline: what of the directory's WAL the archive has already.

use std::collections::BTreeSet;

use super::super::catalog;
use super::super::error::ArchiveError;
use super::super::layout::{self, SegmentRange};
use super::continuity;
use super::local::{self, LocalSegment, LocalWal};
use super::plan::{Known, Plan};
use super::put::Route;
use crate::pg::{Lsn, TimelineId, WalFileName, WalSegmentSize};
use crate::sink::ClusterStamp;

/// What the archive has of a timeline.
pub(super) struct Remote {
    pub(super) segments: BTreeSet<WalFileName>,
    /// In the order of positions.
    pub(super) ranges: Vec<SegmentRange>,
}

impl Remote {
    /// From a few segments before `first` on, if there is anything; else all of the timeline. An archive may hold years of it.
    pub(super) async fn list(route: &Route, first: WalFileName) -> Result<Self, ArchiveError> {
        let size = first.segment.size();
        let start_lsn = first.segment.start_lsn().as_u64();
        if let Some(before_lsn) = start_lsn.checked_sub(continuity::LOOK_BACK * size.as_u64()) {
            let before = WalFileName { segment: size.segment_at(Lsn::new(before_lsn)), ..first };
            let near = Self::list_behind(route, Some(before), first.timeline, size).await?;
            if !near.is_empty() {
                return Ok(near);
            }
        }
        Self::list_behind(route, None, first.timeline, size).await
    }

    pub(super) async fn list_behind(
        route: &Route,
        from: Option<WalFileName>,
        timeline: TimelineId,
        size: WalSegmentSize,
    ) -> Result<Self, ArchiveError> {
        let (parts, whole) = catalog::objects_of(&route.store, timeline, from).await?;
        let found = parts.iter().chain(&whole).map(|object| object.key.as_str());
        route.store.make_durable(found)?;
        let ranges = parts.iter().filter_map(|object| SegmentRange::parse(&object.key, size)).collect();
        let ranges = layout::counted(ranges);
        let segments =
            whole.iter().filter_map(|object| layout::parse_segment_key(&object.key, size)).collect();
        Ok(Remote { segments, ranges })
    }

    /// Up to where a segment is there without a gap.
    pub(super) fn end_within(&self, file: WalFileName) -> Lsn {
        if self.segments.contains(&file) {
            return file.segment.end_lsn();
        }
        let mut end = file.segment.start_lsn();
        for range in self.ranges.iter().filter(|range| range.file == file) {
            if range.start_lsn <= end {
                end = end.max(range.end_lsn);
            }
        }
        end
    }

    /// What counts from a segment's start on, once it was compared: wholes, and parts up to the first gap, in the order in
    /// which they are read.
    fn known_from(&self, start_lsn: Lsn) -> Vec<Known> {
        let wholes = self.segments.iter().map(|file| Known::segment(*file));
        let parts = self.ranges.iter().filter(|range| !self.segments.contains(&range.file));
        let parts = parts.map(|range| Known::range(*range));
        let mut all: Vec<Known> = wholes.chain(parts).collect();
        all.retain(|known| known.file.segment.start_lsn() >= start_lsn);
        all.sort_by_key(|known| (known.start_lsn(), known.end_lsn));
        let mut reached = start_lsn;
        all.retain(|known| {
            let joins = known.start_lsn() <= reached;
            if joins {
                reached = reached.max(known.end_lsn);
            }
            joins || self.segments.contains(&known.file)
        });
        all
    }

    /// The first segment of which there is something.
    pub(super) fn first(&self) -> Option<WalFileName> {
        let parts = self.ranges.first().map(|range| range.file);
        self.segments.first().copied().into_iter().chain(parts).min()
    }

    fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.ranges.is_empty()
    }
}

/// Whether WAL still comes for a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// The stream says how far it is durable.
    Live,
    /// What is in the directory is all there is.
    Left,
}

/// What is to be done for a timeline whose WAL is in the directory; `None` where there is none of it.
pub(super) async fn begin(
    route: &Route,
    local: &LocalWal,
    timeline: TimelineId,
    stamp: ClusterStamp,
    ends: Ends,
    delay: std::time::Duration,
) -> Result<Option<Plan>, ArchiveError> {
    let size = stamp.segment_size;
    let run = last_run(local, timeline);
    let Some(first) = run.first() else { return Ok(None) };
    let before = local.of(timeline).len() - run.len();
    if let Some(last) = before.checked_sub(1).and_then(|last| local.of(timeline).get(last)) {
        let told = "directory has a gap behind this segment; archiving only what comes after the gap";
        tracing::warn!(segment = %last.file, %timeline, "{told}");
    }
    let remote = Remote::list(route, first.file).await?;
    clean_up(route, &remote).await?;
    continuity::check(route, local, first.file, &remote).await?;
    let run = not_pruned(run, &remote);
    let is_up = |segment: &&LocalSegment| remote.end_within(segment.file) == segment.file.segment.end_lsn();
    let up = &run[..run.iter().take_while(is_up).count()];
    local::check_owner(&route.directory, &run[up.len()..], stamp)?;
    // the last one that is up is compared, and all that is there in parts: segments that follow each other have each other's
    // checksums
    let is_whole = |segment: &LocalSegment| remote.segments.contains(&segment.file);
    let compared = up.iter().position(|segment| !is_whole(segment)).or(up.len().checked_sub(1));
    let start_lsn = run[compared.unwrap_or(0)].file.segment.start_lsn();
    let mut plan = Plan::new(timeline, route.lease.generation(), size, start_lsn, delay)
        .with_known(remote.known_from(start_lsn))
        .with_found(up.iter().filter(|segment| is_whole(segment)).map(|segment| segment.file).collect());
    for segment in run {
        let file = segment.file;
        let end_lsn = match (segment.is_partial, ends) {
            (false, _) => file.segment.end_lsn(),
            (true, Ends::Live) => continue,
            (true, Ends::Left) => local::data_end(&route.directory, file)?,
        };
        if file.segment.start_lsn() <= plan.flushed_lsn() {
            plan.handle_flushed(std::time::Duration::ZERO, end_lsn);
        }
    }
    if ends == Ends::Left {
        plan.handle_end();
    }
    Ok(Some(plan))
}

/// The timeline's segments in the directory from its last gap on. What lies before a gap can be archived in no order
/// that a restore could use.
pub(super) fn last_run(local: &LocalWal, timeline: TimelineId) -> &[LocalSegment] {
    let segments = local.of(timeline);
    let gap = segments.windows(2).rposition(|pair| pair[0].file.segment.next() != pair[1].file.segment);
    &segments[gap.map_or(0, |gap| gap + 1)..]
}

/// What the archive does not have before its first segment was pruned there. Not right before it: of several that were on their
/// way when a run was killed, a later one may have arrived alone.
fn not_pruned<'a>(run: &'a [LocalSegment], remote: &Remote) -> &'a [LocalSegment] {
    let Some(first) = remote.first() else { return run };
    let older = run.partition_point(|segment| segment.file < first);
    if older == run.len() {
        return run;
    }
    &run[older.saturating_sub(continuity::LOOK_BACK as usize)..]
}

/// Parts that a run did not live to remove.
async fn clean_up(route: &Route, remote: &Remote) -> Result<(), ArchiveError> {
    for parts in remote.ranges.chunk_by(|a, b| a.file == b.file) {
        if remote.segments.contains(&parts[0].file) {
            route.finish_fold(parts[0].file, parts).await?;
        }
    }
    Ok(())
}
