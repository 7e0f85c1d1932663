//! Whether WAL that an archive does not have lies before WAL that it has. A server that recovers takes a file that is not
//! there for the end of the log, ends recovery, and opens for writing: in the middle of what was archived.

use super::catalog;
use super::error::ArchiveError;
use super::layout::{self, SegmentRange, WAL_PREFIX};
use super::store::ArchiveStore;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

/// Where the WAL of a line of history goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GoesOn {
    timeline: TimelineId,
    lsn: Lsn,
}

/// A receiver that was lost may have had so many objects on their way behind the first that is missing, in so many segments:
/// they are no sign of a gap, where the archive has what is before it.
const MAX_OBJECTS_BEHIND: usize = 3;
const MAX_SEGMENTS_BEHIND: u64 = 2;

/// Refuses to take `from` on a timeline, a byte that the archive does not have, for the end of the log if there is WAL behind it.
pub async fn refuse(
    store: &ArchiveStore,
    timeline: TimelineId,
    from: Lsn,
    size: WalSegmentSize,
) -> Result<(), ArchiveError> {
    let file = WalFileName { timeline, segment: size.segment_at(from) };
    match goes_on(store, file, from).await? {
        None => Ok(()),
        Some(GoesOn { timeline: goes_on_on, lsn: to }) => {
            Err(ArchiveError::EndsInGap { timeline, from, to, goes_on_on })
        }
    }
}

/// Where there is WAL behind `from`, which is in `file` and not in the archive. Whether there is any before it does not matter:
/// what was pruned, or was never archived, is missing too.
async fn goes_on(store: &ArchiveStore, file: WalFileName, from: Lsn) -> Result<Option<GoesOn>, ArchiveError> {
    let history = match catalog::read_history(store, file.timeline).await? {
        Some((history, _)) => history,
        None => TimelineHistory::root(file.timeline),
    };
    let begins_at = history.ancestors().last().map_or(Lsn::INVALID, |entry| entry.end_lsn);
    if file.segment.end_lsn() <= begins_at {
        // a segment that the timeline never had
        return Ok(None);
    }
    match on_same(store, file, from, &history).await? {
        Some(found) => Ok(Some(found)),
        None => on_descendants(store, file, from).await,
    }
}

async fn on_same(
    store: &ArchiveStore,
    file: WalFileName,
    from: Lsn,
    history: &TimelineHistory,
) -> Result<Option<GoesOn>, ArchiveError> {
    let size = file.segment.size();
    let behind: Vec<Lsn> = starts(store, file.timeline, size, Some(file)).await?;
    let behind: Vec<Lsn> = behind.into_iter().filter(|start| *start >= from).collect();
    let (Some(first), Some(last)) = (behind.first(), behind.last()) else { return Ok(None) };
    let far = file.segment.start_lsn() + (MAX_SEGMENTS_BEHIND + 1) * size.as_u64();
    let is_gap =
        behind.len() > MAX_OBJECTS_BEHIND || *last >= far || !has_before(store, history, size, from).await?;
    Ok(is_gap.then_some(GoesOn { timeline: file.timeline, lsn: *first }))
}

async fn has_before(
    store: &ArchiveStore,
    history: &TimelineHistory,
    size: WalSegmentSize,
    from: Lsn,
) -> Result<bool, ArchiveError> {
    let ancestors = history.ancestors().iter().map(|entry| entry.timeline);
    for timeline in std::iter::once(history.timeline()).chain(ancestors) {
        let begins = starts(store, timeline, size, None).await?;
        if begins.first().is_some_and(|first| *first < from) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Timelines that left this one behind `from`. Nothing is put up of one before all is that it grew out of.
async fn on_descendants(
    store: &ArchiveStore,
    file: WalFileName,
    from: Lsn,
) -> Result<Option<GoesOn>, ArchiveError> {
    let (_, objects) = store.list_level(WAL_PREFIX).await?;
    let timelines = objects.iter().filter_map(|object| layout::parse_timeline(&object.key));
    for timeline in timelines.filter(|timeline| *timeline > file.timeline) {
        let Some((history, _)) = catalog::read_history(store, timeline).await? else { continue };
        let left = history.ancestors().iter().find(|entry| entry.timeline == file.timeline);
        let Some(left) = left.filter(|left| from < left.end_lsn) else { continue };
        let begins = starts(store, timeline, file.segment.size(), None).await?;
        // its first segment has again what this one wrote in it
        let Some(first) = begins.first().filter(|first| from < left.end_lsn.min(**first)) else { continue };
        return Ok(Some(GoesOn { timeline, lsn: *first }));
    }
    Ok(None)
}

/// Where a timeline's objects begin, in order: all of them, or those of a segment and behind it.
async fn starts(
    store: &ArchiveStore,
    timeline: TimelineId,
    size: WalSegmentSize,
    from: Option<WalFileName>,
) -> Result<Vec<Lsn>, ArchiveError> {
    let list = async |prefix: &str| match from {
        // a name is followed by what begins with it
        Some(from) => store.list_behind(prefix, &format!("{prefix}{from}")).await,
        None => store.list(prefix).await,
    };
    let parts = list(&layout::ranges_prefix(timeline)).await?;
    let whole = list(&layout::timeline_prefix(timeline)).await?;
    let parts = parts.iter().filter_map(|object| SegmentRange::parse(&object.key, size));
    let whole = whole.iter().filter_map(|object| layout::parse_segment_key(&object.key, size));
    let mut starts: Vec<Lsn> =
        parts.map(|part| part.start_lsn).chain(whole.map(|file| file.segment.start_lsn())).collect();
    starts.sort_unstable();
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use object_store::memory::InMemory;

    use super::super::layout::Generation;
    use super::super::wal_object;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::from_bytes(MIB).unwrap()
    }

    fn file(timeline: u32, number: u64) -> WalFileName {
        let timeline = TimelineId::new(timeline).unwrap();
        WalFileName { timeline, segment: size().segment_at(Lsn::new(number * MIB)) }
    }

    async fn archive(
        segments: &[(u32, u64)],
        parts: &[(u64, u64, u64)],
        switch: Option<&str>,
    ) -> ArchiveStore {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
        let mut keys: Vec<String> =
            segments.iter().map(|(timeline, number)| layout::segment_key(file(*timeline, *number))).collect();
        keys.extend(parts.iter().map(|(number, from, to)| {
            let start_lsn = Lsn::new(number * MIB + from);
            let end_lsn = Lsn::new(number * MIB + to);
            SegmentRange { file: file(1, *number), start_lsn, end_lsn, generation: Generation::FIRST }.key()
        }));
        for key in keys {
            store.create(&key, Bytes::from_static(b"x")).await.unwrap();
        }
        if let Some(switch) = switch {
            let history = format!("1\t{switch}\tno reason\n");
            let history = wal_object::encode(history.as_bytes()).unwrap();
            store.create(&layout::history_key(TimelineId::new(2).unwrap()), history).await.unwrap();
        }
        store
    }

    async fn goes_on_at(store: &ArchiveStore, timeline: u32, from: u64) -> Option<(u32, u64)> {
        let from = Lsn::new(from);
        let segment = size().segment_at(from);
        let file = WalFileName { timeline: TimelineId::new(timeline).unwrap(), segment };
        let found = goes_on(store, file, from).await.unwrap();
        found.map(|found| (found.timeline.as_u32(), found.lsn.as_u64()))
    }

    #[tokio::test]
    async fn what_a_lost_receiver_had_on_its_way_is_no_gap_and_what_it_never_had_is_one() {
        let store = archive(&[(1, 3), (1, 4), (1, 6)], &[(7, 0, 10), (7, 10, 20)], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, None);
        assert_eq!(goes_on_at(&store, 1, 7 * MIB + 20).await, None);
        let store = archive(&[(1, 3), (1, 4), (1, 6), (1, 7), (1, 8), (1, 9)], &[], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, Some((1, 6 * MIB)));
        let store = archive(&[(1, 3), (1, 4), (1, 8)], &[(5, 0, 100)], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB + 100).await, Some((1, 8 * MIB)));
        // pruned, or the archive was begun after the backup: no server may end there
        assert_eq!(goes_on_at(&store, 1, 2 * MIB).await, Some((1, 3 * MIB)));
        let store = archive(&[(1, 8)], &[], None).await;
        assert_eq!(goes_on_at(&store, 1, 7 * MIB).await, Some((1, 8 * MIB)));
        assert_eq!(goes_on_at(&store, 1, 9 * MIB).await, None);
    }

    #[tokio::test]
    async fn a_timeline_that_ends_before_the_next_one_begins_has_a_gap() {
        let store = archive(&[(1, 3), (2, 6)], &[(4, 0, 10)], Some("0/610000")).await;
        assert_eq!(goes_on_at(&store, 1, 4 * MIB + 10).await, Some((2, 6 * MIB)));
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, Some((2, 6 * MIB)));
        // the new timeline's file has it again; and behind the switch nobody goes on
        assert_eq!(goes_on_at(&store, 1, 6 * MIB).await, None);
        assert_eq!(goes_on_at(&store, 1, 7 * MIB).await, None);
        assert_eq!(goes_on_at(&store, 2, 7 * MIB).await, None);
        // timeline 2 never had these
        assert_eq!(goes_on_at(&store, 2, 4 * MIB).await, None);
    }
}
