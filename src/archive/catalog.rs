//! What an archive holds: for each timeline the stretches of WAL without a gap, from its listings alone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::layout::{self, SegmentRange, WAL_PREFIX};
use super::store::{ArchiveStore, ListedObject};
use super::wal_object;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

/// A stretch of WAL without a gap; half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first byte.
    pub start_lsn: Lsn,
    /// The first byte behind.
    pub end_lsn: Lsn,
}

/// WAL that is missing, with more behind it; half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The timeline of the first byte that is missing.
    pub timeline: TimelineId,
    /// The timeline of what is behind it.
    pub goes_on_on: TimelineId,
    /// The first byte that is missing.
    pub start_lsn: Lsn,
    /// The first one that is there again.
    pub end_lsn: Lsn,
}

/// One timeline's WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineContent {
    /// Which.
    pub timeline: TimelineId,
    /// Whether its history is there.
    pub has_history: bool,
    /// Whole segments, in order.
    pub segments: Vec<WalFileName>,
    /// Parts of segments that are not there as a whole, in order.
    pub ranges: Vec<SegmentRange>,
    /// Bytes that the store keeps for it.
    pub stored_len: u64,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Whose it is.
    pub identity: ClusterIdentity,
    /// Its timelines, the oldest first.
    pub timelines: Vec<TimelineContent>,
}

/// How long a gap may take to close before it counts as one: what follows it may have been put up while the rest was on its way.
const GAP_LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];

/// What lies farther than so many segments before a timeline's end does not change any more: as many names as one request lists.
const CHANGING_SEGMENTS: u64 = 1000;

impl Catalog {
    /// Lists an archive.
    pub async fn read(store: &ArchiveStore) -> Result<Self, ArchiveError> {
        let identity = ClusterIdentity::of(store).await?;
        let (directories, objects) = store.list_level(WAL_PREFIX).await?;
        let histories: BTreeSet<TimelineId> =
            objects.iter().filter_map(|object| layout::parse_timeline(&object.key)).collect();
        let known: BTreeSet<TimelineId> =
            directories.iter().filter_map(|key| layout::parse_timeline(key)).collect();
        let begun = begun_timelines(store).await?;
        let mut timelines = Vec::new();
        // the newest first: all that it grew out of was there before it, and is found after it
        for timeline in
            known.union(&begun).chain(histories.iter()).copied().collect::<BTreeSet<_>>().into_iter().rev()
        {
            let has_history = histories.contains(&timeline);
            timelines.push(TimelineContent::read(store, &identity, timeline, has_history).await?);
        }
        timelines.reverse();
        Ok(Catalog { identity, timelines })
    }
}

impl Catalog {
    /// The gaps within timelines, and where those of these histories begin, in order.
    pub fn gaps<'a>(&self, histories: impl IntoIterator<Item = &'a TimelineHistory>) -> Vec<Gap> {
        let within = self.timelines.iter().flat_map(TimelineContent::gaps);
        let before = histories.into_iter().filter_map(|history| self.gap_at_beginning(history));
        let mut gaps: Vec<Gap> = within.chain(before).collect();
        gaps.sort_unstable_by_key(|gap| (gap.timeline, gap.start_lsn, gap.goes_on_on));
        gaps
    }

    /// What is missing between a timeline's WAL and that of those that it grew out of, if anything of both is there.
    pub fn gap_at_beginning(&self, history: &TimelineHistory) -> Option<Gap> {
        let stretches = |timeline: TimelineId| {
            let content = self.timelines.iter().find(|content| content.timeline == timeline);
            content.map(TimelineContent::stretches).unwrap_or_default()
        };
        let switch = history.ancestors().last()?;
        let end_lsn = stretches(history.timeline()).first()?.start_lsn;
        // behind the switch it has to have its own
        let needed_lsn = end_lsn.min(switch.end_lsn);
        let reached = history.ancestors().iter().flat_map(|ancestor| {
            let limit = ancestor.end_lsn.min(needed_lsn);
            let found = stretches(ancestor.timeline).into_iter().filter(move |found| found.start_lsn < limit);
            found.map(move |found| found.end_lsn.min(limit))
        });
        let start_lsn = reached.max()?;
        let (timeline, goes_on_on) = (history.timeline_at(start_lsn), history.timeline());
        (start_lsn < end_lsn).then_some(Gap { timeline, goes_on_on, start_lsn, end_lsn })
    }
}

/// The gaps that an operator has accepted, each with the timeline of what is behind it.
pub async fn accepted_gaps(store: &ArchiveStore) -> Result<Vec<(TimelineId, Stretch)>, ArchiveError> {
    let listed = store.list(layout::GAPS_PREFIX).await?;
    let gaps = listed.iter().filter_map(|object| layout::parse_gap_key(&object.key));
    Ok(gaps.map(|(timeline, start_lsn, end_lsn)| (timeline, Stretch { start_lsn, end_lsn })).collect())
}

/// Timelines of which there are parts of segments.
async fn begun_timelines(store: &ArchiveStore) -> Result<BTreeSet<TimelineId>, ArchiveError> {
    let (directories, _) = store.list_level("ranges/").await?;
    let timeline = |key: &String| {
        let digits = key.strip_prefix("ranges/")?;
        layout::parse_timeline(&format!("{WAL_PREFIX}{digits}"))
    };
    Ok(directories.iter().filter_map(timeline).collect())
}

impl TimelineContent {
    async fn read(
        store: &ArchiveStore,
        identity: &ClusterIdentity,
        timeline: TimelineId,
        has_history: bool,
    ) -> Result<Self, ArchiveError> {
        let size = identity.segment_size;
        let mut listing = Listing::read(store, size, timeline, None).await?;
        let mut content = listing.content(timeline, has_history);
        let end_lsn = content.stretches().last().map_or(Lsn::INVALID, |last| last.end_lsn);
        for pause in GAP_LOOKS {
            let Some(gap) = content.changing_gap(size) else { break };
            tokio::time::sleep(pause).await;
            let from = WalFileName { timeline, segment: size.segment_at(gap.start_lsn) };
            let again = Listing::read(store, size, timeline, Some(from)).await?;
            listing.replace(from, again, end_lsn);
            content = listing.content(timeline, has_history);
        }
        Ok(content)
    }

    /// The first gap that somebody may be about to fill.
    fn changing_gap(&self, size: WalSegmentSize) -> Option<Gap> {
        let end_lsn = self.stretches().last()?.end_lsn;
        { self.gaps() }.find(|gap| end_lsn - gap.end_lsn < CHANGING_SEGMENTS * size.as_u64())
    }

    /// The gaps between its stretches, in order.
    fn gaps(&self) -> impl Iterator<Item = Gap> + use<> {
        let (timeline, stretches) = (self.timeline, self.stretches());
        (1..stretches.len()).map(move |next| Gap {
            timeline,
            goes_on_on: timeline,
            start_lsn: stretches[next - 1].end_lsn,
            end_lsn: stretches[next].start_lsn,
        })
    }

    /// The stretches without a gap, in order.
    pub fn stretches(&self) -> Vec<Stretch> {
        let whole = self
            .segments
            .iter()
            .map(|file| Stretch { start_lsn: file.segment.start_lsn(), end_lsn: file.segment.end_lsn() });
        let parts =
            self.ranges.iter().map(|range| Stretch { start_lsn: range.start_lsn, end_lsn: range.end_lsn });
        let mut pieces: Vec<Stretch> = whole.chain(parts).collect();
        pieces.sort_unstable_by_key(|piece| (piece.start_lsn, piece.end_lsn));
        let mut stretches: Vec<Stretch> = Vec::new();
        for piece in pieces {
            match stretches.last_mut() {
                Some(last) if piece.start_lsn <= last.end_lsn => {
                    last.end_lsn = last.end_lsn.max(piece.end_lsn);
                }
                _ => stretches.push(piece),
            }
        }
        stretches
    }
}

/// A timeline's parts, and its whole segments: all of them, or those of a segment and behind it. Parts first: one that is folded into
/// its segment meanwhile is then found as a segment.
pub(super) async fn objects_of(
    store: &ArchiveStore,
    timeline: TimelineId,
    from: Option<WalFileName>,
) -> Result<(Vec<ListedObject>, Vec<ListedObject>), ArchiveError> {
    let list = async |prefix: &str| match from {
        // a name is followed by what begins with it
        Some(from) => store.list_behind(prefix, &format!("{prefix}{from}")).await,
        None => store.list(prefix).await,
    };
    let parts = list(&layout::ranges_prefix(timeline)).await?;
    Ok((parts, list(&layout::timeline_prefix(timeline)).await?))
}

/// A timeline's objects, and how many bytes each has in the store.
struct Listing {
    whole: Vec<(WalFileName, u64)>,
    parts: Vec<(SegmentRange, u64)>,
}

impl Listing {
    /// All of them, or those of a segment and behind it.
    async fn read(
        store: &ArchiveStore,
        size: WalSegmentSize,
        timeline: TimelineId,
        from: Option<WalFileName>,
    ) -> Result<Self, ArchiveError> {
        let (parts, whole) = objects_of(store, timeline, from).await?;
        let whole = whole.iter();
        let mut whole: Vec<(WalFileName, u64)> = whole
            .filter_map(|object| Some((layout::parse_segment_key(&object.key, size)?, object.len)))
            .collect();
        whole.sort_unstable();
        let parts =
            parts.iter().filter_map(|object| Some((SegmentRange::parse(&object.key, size)?, object.len)));
        Ok(Listing { whole, parts: parts.collect() })
    }

    /// Takes what was found at a later look from a segment on, but nothing that begins at `end_lsn` or behind it: before that may
    /// be the next gap that is not one.
    fn replace(&mut self, from: WalFileName, again: Listing, end_lsn: Lsn) {
        self.whole.retain(|(file, _)| *file < from);
        self.whole.extend(again.whole.into_iter().filter(|(file, _)| file.segment.start_lsn() < end_lsn));
        self.parts.retain(|(part, _)| part.file < from);
        self.parts.extend(again.parts.into_iter().filter(|(part, _)| part.start_lsn < end_lsn));
    }

    fn content(&self, timeline: TimelineId, has_history: bool) -> TimelineContent {
        let segments: Vec<WalFileName> = self.whole.iter().map(|(file, _)| *file).collect();
        let is_part = |(part, _): &&(SegmentRange, u64)| segments.binary_search(&part.file).is_err();
        let parts = || self.parts.iter().filter(is_part);
        let stored_len =
            self.whole.iter().map(|(_, len)| len).sum::<u64>() + parts().map(|(_, len)| len).sum::<u64>();
        let ranges = layout::counted(parts().map(|(part, _)| *part).collect());
        TimelineContent { timeline, has_history, segments, ranges, stored_len }
    }
}

/// Reads a timeline's history; `None` where it is not in the archive.
pub async fn read_history(
    store: &ArchiveStore,
    timeline: TimelineId,
) -> Result<Option<(TimelineHistory, bytes::Bytes)>, ArchiveError> {
    let (mut key, max_len) = (layout::history_key(timeline), TimelineHistory::MAX_LEN as u64);
    let content = match store.read(&key, wal_object::max_encoded_len(max_len)).await? {
        Some(content) => match wal_object::decode_up_to(&content, max_len) {
            Ok(content) => content.into_bytes(),
            Err(source) => return Err(ArchiveError::Damaged { key, source }),
        },
        None => {
            key = layout::plain_history_key(timeline);
            match store.read(&key, max_len).await? {
                Some(content) => content,
                None => return Ok(None),
            }
        }
    };
    match TimelineHistory::parse(timeline, &content) {
        Ok(history) => Ok(Some((history, content))),
        Err(source) => Err(ArchiveError::History { key, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use object_store::memory::InMemory;
    use tokio::sync::OnceCell;

    use super::super::layout::Generation;
    use super::super::testing::{HookedStore, Verb};
    use super::*;
    use crate::pg::SystemIdentifier;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn gaps_show_and_parts_join() {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "a/b");
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let identity =
            ClusterIdentity { system_identifier: SystemIdentifier::new(5), segment_size: size, major: 17 };
        identity.claim(&store).await.unwrap();
        let timeline = TimelineId::new(2).unwrap();
        let file = |number: u64| WalFileName { timeline, segment: size.segment_at(Lsn::new(number * MIB)) };
        let range = |number: u64, from: u64, to: u64| SegmentRange {
            file: file(number),
            start_lsn: Lsn::new(number * MIB + from),
            end_lsn: Lsn::new(number * MIB + to),
            generation: Generation::FIRST,
        };
        let mut keys: Vec<String> = [3, 4, 6].map(|number| layout::segment_key(file(number))).to_vec();
        // of a segment that is whole, of one that is not, and one with a gap before it
        keys.extend([range(4, 0, 9), range(7, 0, 10), range(7, 10, 30), range(7, 40, 50)].map(|r| r.key()));
        keys.push(layout::history_key(timeline));
        keys.push("wal/00000002/something-else".into());
        for key in &keys {
            store.create(key, Bytes::from_static(b"1234567890")).await.unwrap();
        }
        let catalog = Catalog::read(&store).await.unwrap();
        let [content] = &catalog.timelines[..] else { panic!("{catalog:?}") };
        assert!(content.has_history);
        assert_eq!((content.segments.len(), content.ranges.len(), content.stored_len), (3, 3, 60));
        let stretch = |from: u64, to: u64| Stretch { start_lsn: Lsn::new(from), end_lsn: Lsn::new(to) };
        assert_eq!(
            content.stretches(),
            [stretch(3 * MIB, 5 * MIB), stretch(6 * MIB, 7 * MIB + 30), stretch(7 * MIB + 40, 7 * MIB + 50)]
        );
        // the timeline before it ends a segment too early
        let first = TimelineId::FIRST;
        let before = WalFileName { timeline: first, segment: size.segment_at(Lsn::new(MIB)) };
        store.create(&layout::segment_key(before), Bytes::from_static(b"1234567890")).await.unwrap();
        let gap = |timeline, from: u64, to: u64| Gap {
            timeline,
            goes_on_on: TimelineId::new(2).unwrap(),
            start_lsn: Lsn::new(from),
            end_lsn: Lsn::new(to),
        };
        let history = TimelineHistory::parse(timeline, b"1\t0/300100\tno reason\n").unwrap();
        let catalog = Catalog::read(&store).await.unwrap();
        assert_eq!(
            catalog.gaps([&TimelineHistory::root(first), &history]),
            [
                gap(first, 2 * MIB, 3 * MIB),
                gap(timeline, 5 * MIB, 6 * MIB),
                gap(timeline, 7 * MIB + 30, 7 * MIB + 40)
            ]
        );
        let key = layout::gap_key(first, Lsn::new(2 * MIB), Lsn::new(3 * MIB));
        store.create(&key, Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(accepted_gaps(&store).await.unwrap(), [(first, stretch(2 * MIB, 3 * MIB))]);
    }

    /// A receiver that puts up a segment's last part, the next segment and the one after that while its objects are listed.
    #[tokio::test(start_paused = true)]
    async fn what_is_put_up_while_it_is_listed_shows_no_gap() {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let timeline = TimelineId::FIRST;
        let file =
            move |number: u64| WalFileName { timeline, segment: size.segment_at(Lsn::new(number * MIB)) };
        let part = move |from: u64, to: u64| SegmentRange {
            file: file(4),
            start_lsn: Lsn::new(4 * MIB + from),
            end_lsn: Lsn::new(4 * MIB + to),
            generation: Generation::FIRST,
        };
        // before which listing what comes, and whether all of the segment's parts have become one object by then
        for (last_part_at, fold) in [(1, false), (2, false), (3, false), (3, true)] {
            let (lists, plain) = (AtomicUsize::new(0), Arc::new(OnceCell::<ArchiveStore>::new()));
            let inner = Arc::clone(&plain);
            let (store, direct) = HookedStore::archive(move |verb, prefix| {
                let below = prefix.ends_with("00000001");
                let number = lists.fetch_add(usize::from(verb == Verb::List && below), Ordering::Relaxed);
                let inner = Arc::clone(&inner);
                async move {
                    let inner = inner.get().unwrap();
                    let content = || Bytes::from_static(b"1234567890");
                    if verb == Verb::List && below && number == 1 {
                        inner.create(&layout::segment_key(file(5)), content()).await.unwrap();
                    }
                    if verb == Verb::List && below && number == last_part_at {
                        inner.create(&layout::segment_key(file(7)), content()).await.unwrap();
                        let key = if fold { layout::segment_key(file(4)) } else { part(9, MIB).key() };
                        inner.create(&key, content()).await.unwrap();
                        if fold {
                            inner.remove(&part(0, 9).key()).await.unwrap();
                        }
                    }
                    Ok(())
                }
                .boxed()
            });
            let identity = ClusterIdentity {
                system_identifier: SystemIdentifier::new(5),
                segment_size: size,
                major: 17,
            };
            identity.claim(&direct).await.unwrap();
            for key in [layout::segment_key(file(3)), part(0, 9).key()] {
                direct.create(&key, Bytes::from_static(b"1234567890")).await.unwrap();
            }
            plain.set(direct).unwrap();
            let catalog = Catalog::read(&store).await.unwrap();
            let stretches = catalog.timelines[0].stretches();
            let all = Stretch { start_lsn: Lsn::new(3 * MIB), end_lsn: Lsn::new(6 * MIB) };
            assert_eq!(stretches[0], all, "{last_part_at} {fold}: {stretches:?}");
        }
    }

    #[tokio::test]
    async fn a_history_is_read_as_it_was_or_not_at_all() {
        let timeline = TimelineId::new(2).unwrap();
        let text = b"1\t0/500100\tno recovery target specified\n";
        let content = wal_object::encode(text).unwrap();
        for index in 0..content.len() {
            let mut flipped = content.to_vec();
            flipped[index] ^= 1;
            for damaged in [flipped, content[..index].to_vec()] {
                let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
                store.create(&layout::history_key(timeline), Bytes::from(damaged)).await.unwrap();
                match read_history(&store, timeline).await {
                    Ok(found) => assert_eq!(found.unwrap().1[..], text[..], "byte {index}"),
                    Err(error) => assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}"),
                }
            }
        }
        // as early versions wrote it
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
        assert!(read_history(&store, timeline).await.unwrap().is_none());
        store.create(&layout::plain_history_key(timeline), Bytes::from_static(text)).await.unwrap();
        assert_eq!(read_history(&store, timeline).await.unwrap().unwrap().1[..], text[..]);
    }
}
