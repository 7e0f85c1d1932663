//! What an archive holds: for each timeline the stretches of WAL without a gap, from its listings alone.

use std::collections::BTreeSet;

use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::layout::{self, SegmentRange, WAL_PREFIX};
use super::store::ArchiveStore;
use super::wal_object;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName};

/// A stretch of WAL without a gap; half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first byte.
    pub start_lsn: Lsn,
    /// The first byte behind.
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
        for timeline in known.union(&begun).chain(histories.iter()).copied().collect::<BTreeSet<_>>() {
            let has_history = histories.contains(&timeline);
            timelines.push(TimelineContent::read(store, &identity, timeline, has_history).await?);
        }
        Ok(Catalog { identity, timelines })
    }
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
        // parts first: one that is folded into its segment meanwhile is then found as a segment
        let parts = store.list(&layout::ranges_prefix(timeline)).await?;
        let whole = store.list(&layout::timeline_prefix(timeline)).await?;
        let mut stored_len = 0;
        let mut segments = Vec::new();
        for object in &whole {
            if let Some(file) = layout::parse_segment_key(&object.key, size) {
                segments.push(file);
                stored_len += object.len;
            }
        }
        segments.sort_unstable();
        let mut ranges = Vec::new();
        for object in &parts {
            if let Some(range) = SegmentRange::parse(&object.key, size)
                && segments.binary_search(&range.file).is_err()
            {
                ranges.push(range);
                stored_len += object.len;
            }
        }
        let ranges = layout::counted(ranges);
        Ok(TimelineContent { timeline, has_history, segments, ranges, stored_len })
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

    use bytes::Bytes;
    use object_store::memory::InMemory;

    use super::super::layout::Generation;
    use super::*;
    use crate::pg::{SystemIdentifier, WalSegmentSize};

    const MIB: u64 = 1 << 20;

    #[tokio::test]
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
