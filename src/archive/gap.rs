//! Whether WAL that an archive does not have lies before WAL that it has. A server that recovers takes a file that is not
//! there for the end of the log, ends recovery, and opens for writing: in the middle of what was archived.

use super::catalog;
use super::error::ArchiveError;
use super::layout::{self, SegmentRange, WAL_PREFIX};
use super::lease;
use super::store::ArchiveStore;
use crate::ErrorClass;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

/// A receiver that was lost may have had so many objects on their way behind the first that is missing, in so many segments:
/// they are no sign of a gap, where the archive has what is before it, and nobody has said that it was archived.
const MAX_OBJECTS_BEHIND: usize = 3;
const MAX_SEGMENTS_BEHIND: u64 = 3;

/// Refuses to take `from` on a timeline, a byte that the archive did not have when it was looked for, for the end of the log if
/// there is WAL behind it, or was. Says how far the archive goes now without a gap: a receiver may be at work.
pub async fn refuse(
    store: &ArchiveStore,
    timeline: TimelineId,
    from: Lsn,
    size: WalSegmentSize,
) -> Result<Lsn, ArchiveError> {
    // first of all: what was archived then is in every listing that comes behind
    let archived = match lease::last_holder(store).await {
        Ok(holder) => holder.and_then(|holder| holder.archived()),
        Err(error) if error.class() == ErrorClass::Transient => return Err(error),
        // a writer's word that cannot be read says nothing
        Err(_) => None,
    };
    let file = WalFileName { timeline, segment: size.segment_at(from) };
    let history = match catalog::read_history(store, timeline).await? {
        Some((history, _)) => history,
        None => TimelineHistory::root(timeline),
    };
    let begins_at = history.ancestors().last().map_or(Lsn::INVALID, |entry| entry.end_lsn);
    if file.segment.end_lsn() <= begins_at {
        // a segment that the timeline never had
        return Ok(from);
    }
    let pieces = Pieces::list(store, timeline, size, Some(file)).await?;
    let reached = pieces.end_without_gap(from);
    if let Some(to) = goes_on(store, &pieces, &history, reached, archived).await? {
        return Err(ArchiveError::EndsInGap { timeline, from: reached, to, goes_on_on: timeline });
    }
    on_descendants(store, file, reached, archived).await?;
    Ok(reached)
}

/// Where a timeline's objects begin and end, in order.
struct Pieces {
    bounds: Vec<(Lsn, Lsn)>,
    size: WalSegmentSize,
}

impl Pieces {
    /// All of them, or those of a segment and behind it.
    async fn list(
        store: &ArchiveStore,
        timeline: TimelineId,
        size: WalSegmentSize,
        from: Option<WalFileName>,
    ) -> Result<Self, ArchiveError> {
        let (parts, whole) = catalog::objects_of(store, timeline, from).await?;
        let parts = parts.iter().filter_map(|object| SegmentRange::parse(&object.key, size)).collect();
        let parts = layout::counted(parts).into_iter().map(|part| (part.start_lsn, part.end_lsn));
        let whole = whole.iter().filter_map(|object| layout::parse_segment_key(&object.key, size));
        let whole = whole.map(|file| (file.segment.start_lsn(), file.segment.end_lsn()));
        let mut bounds: Vec<(Lsn, Lsn)> = parts.chain(whole).collect();
        bounds.sort_unstable();
        Ok(Pieces { bounds, size })
    }

    fn first(&self) -> Option<Lsn> {
        self.bounds.first().map(|(start, _)| *start)
    }

    /// How far they go from `lsn` on.
    fn end_without_gap(&self, lsn: Lsn) -> Lsn {
        self.bounds.iter().fold(lsn, |reached, (start, end)| match *start <= reached {
            true => reached.max(*end),
            false => reached,
        })
    }
}

/// Where there is WAL of the same timeline behind `from`, which the archive does not have. Whether there is any before it does not
/// matter: what was pruned, or was never archived, is missing too.
async fn goes_on(
    store: &ArchiveStore,
    pieces: &Pieces,
    history: &TimelineHistory,
    from: Lsn,
    archived: Option<(TimelineId, Lsn)>,
) -> Result<Option<Lsn>, ArchiveError> {
    let timeline = history.timeline();
    let behind = pieces.bounds.iter().map(|(start, _)| *start).filter(|start| *start > from);
    let behind: Vec<Lsn> = behind.collect();
    let archived = archived.filter(|(on, lsn)| *on == timeline && *lsn > from);
    let (Some(first), Some(last)) = (behind.first(), behind.last()) else {
        return match archived {
            Some((_, archived)) => Err(ArchiveError::EndsEarly { timeline, from, archived }),
            None => Ok(None),
        };
    };
    let far = pieces.size.segment_at(from).start_lsn() + (MAX_SEGMENTS_BEHIND + 1) * pieces.size.as_u64();
    let is_gap = archived.is_some()
        || behind.len() > MAX_OBJECTS_BEHIND
        || *last >= far
        || !has_before(store, history, pieces.size, from).await?;
    Ok(is_gap.then_some(*first))
}

async fn has_before(
    store: &ArchiveStore,
    history: &TimelineHistory,
    size: WalSegmentSize,
    from: Lsn,
) -> Result<bool, ArchiveError> {
    let ancestors = history.ancestors().iter().map(|entry| entry.timeline);
    for timeline in std::iter::once(history.timeline()).chain(ancestors) {
        let pieces = Pieces::list(store, timeline, size, None).await?;
        if pieces.first().is_some_and(|first| first < from) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses where a timeline left this one behind `from`. Nothing is put up of one before all is that it grew out of.
async fn on_descendants(
    store: &ArchiveStore,
    file: WalFileName,
    from: Lsn,
    archived: Option<(TimelineId, Lsn)>,
) -> Result<(), ArchiveError> {
    let (_, objects) = store.list_level(WAL_PREFIX).await?;
    let timelines = objects.iter().filter_map(|object| layout::parse_timeline(&object.key));
    for timeline in timelines.filter(|timeline| *timeline > file.timeline) {
        let Some((history, _)) = catalog::read_history(store, timeline).await? else { continue };
        let left = history.ancestors().iter().find(|entry| entry.timeline == file.timeline);
        let Some(left) = left.filter(|left| from < left.end_lsn) else { continue };
        let pieces = Pieces::list(store, timeline, file.segment.size(), None).await?;
        // its first segment has again what this one wrote in it
        let first = pieces.first().filter(|first| from < left.end_lsn.min(*first));
        if let Some(to) = first {
            return Err(ArchiveError::EndsInGap { timeline: file.timeline, from, to, goes_on_on: timeline });
        }
        if let Some((_, archived)) =
            archived.filter(|(on, lsn)| *on == timeline && *lsn > from && pieces.bounds.is_empty())
        {
            return Err(ArchiveError::EndsEarly { timeline: file.timeline, from, archived });
        }
    }
    Ok(())
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
        match refuse(store, TimelineId::new(timeline).unwrap(), Lsn::new(from), size()).await {
            Ok(_) => None,
            Err(ArchiveError::EndsInGap { to, goes_on_on, .. }) => Some((goes_on_on.as_u32(), to.as_u64())),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn what_a_lost_receiver_had_on_its_way_is_no_gap_and_what_it_never_had_is_one() {
        let store = archive(&[(1, 3), (1, 4), (1, 6)], &[(7, 0, 10), (7, 10, 20)], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, None);
        assert_eq!(goes_on_at(&store, 1, 7 * MIB + 20).await, None);
        let store = archive(&[(1, 3), (1, 4), (1, 6), (1, 7), (1, 8), (1, 9)], &[], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, Some((1, 6 * MIB)));
        let store = archive(&[(1, 3), (1, 4), (1, 9)], &[(5, 0, 100)], None).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB + 100).await, Some((1, 9 * MIB)));
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

    async fn archived_up_to(store: &ArchiveStore, timeline: u32, lsn: u64) {
        let directory = tempfile::tempdir().unwrap();
        let holder = lease::Holder::of(directory.path()).unwrap();
        let patience = lease::Patience::TakeOver;
        let thirty = std::time::Duration::from_secs(30);
        let taken = lease::acquire(store, &holder, thirty, patience, |_| {}, async || Ok(true));
        let (keeper, _) = taken.await.unwrap().unwrap();
        let reached = Some((TimelineId::new(timeline).unwrap(), Lsn::new(lsn)));
        let (_sender, archived) = tokio::sync::watch::channel(reached);
        keeper.telling(archived).release(true).await;
    }

    #[tokio::test]
    async fn what_was_archived_and_is_not_there_is_a_gap_however_little_is_behind_it() {
        let store = archive(&[(1, 3), (1, 4), (1, 6)], &[], None).await;
        archived_up_to(&store, 1, 5 * MIB).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, None);
        archived_up_to(&store, 1, 5 * MIB + 1).await;
        assert_eq!(goes_on_at(&store, 1, 5 * MIB).await, Some((1, 6 * MIB)));
        let ends = refuse(&store, TimelineId::FIRST, Lsn::new(7 * MIB), size()).await;
        assert_eq!(ends.unwrap(), Lsn::new(7 * MIB));
        // nothing is behind it any more
        archived_up_to(&store, 1, 7 * MIB + 9).await;
        let early = refuse(&store, TimelineId::FIRST, Lsn::new(7 * MIB), size()).await.unwrap_err();
        assert!(early.to_string().contains("archived up to 0/700009"), "{early}");
    }

    #[tokio::test]
    async fn all_of_a_timeline_that_is_gone_is_missed() {
        let store = archive(&[(1, 3)], &[(4, 0, 10)], Some("0/400040")).await;
        assert_eq!(goes_on_at(&store, 1, 4 * MIB + 10).await, None);
        // it begins with what is missing, and nothing of it was told of
        archived_up_to(&store, 2, 4 * MIB).await;
        assert_eq!(goes_on_at(&store, 1, 4 * MIB + 10).await, None);
        archived_up_to(&store, 2, 6 * MIB).await;
        let early = refuse(&store, TimelineId::FIRST, Lsn::new(4 * MIB + 10), size()).await;
        assert!(matches!(early, Err(ArchiveError::EndsEarly { .. })), "{early:?}");
    }

    /// As many parts as there may be behind a gap have come since it was looked.
    #[tokio::test]
    async fn what_comes_meanwhile_is_no_gap() {
        let parts: Vec<(u64, u64, u64)> = (0..9).map(|at| (5, at * 10, at * 10 + 10)).collect();
        let store = archive(&[(1, 3), (1, 4), (1, 6)], &parts, None).await;
        let reached = refuse(&store, TimelineId::FIRST, Lsn::new(5 * MIB + 20), size()).await.unwrap();
        assert_eq!(reached, Lsn::new(5 * MIB + 90));
        let reached = refuse(&store, TimelineId::FIRST, Lsn::new(4 * MIB), size()).await.unwrap();
        assert_eq!(reached, Lsn::new(5 * MIB + 90));
    }
}
