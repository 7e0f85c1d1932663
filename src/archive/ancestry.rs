//! The history of a timeline that the archive has no file of, out of the file of a later one that grew out of it.
//!
//! A server that looks for the newest timeline asks for one history after the other, and stops at the first that is not there. A
//! primary that never had a history (it was copied without) cannot give it to a receiver; recovery would end on the timeline before.

use bytes::Bytes;

use super::catalog;
use super::error::ArchiveError;
use super::layout::{self, WAL_PREFIX};
use super::store::ArchiveStore;
use crate::pg::{TimelineHistory, TimelineId};

/// The content; `None` where no later history tells it.
///
/// Answers to `writeTimeLineHistory`: a server begins a history with a copy of the one it grew out of.
pub(super) async fn history(
    store: &ArchiveStore,
    timeline: TimelineId,
) -> Result<Option<Bytes>, ArchiveError> {
    let (_, objects) = store.list_level(WAL_PREFIX).await?;
    let mut later: Vec<TimelineId> =
        objects.iter().filter_map(|object| layout::parse_timeline(&object.key)).collect();
    later.retain(|other| *other > timeline);
    later.sort_unstable();
    for descendant in later {
        let Some((history, content)) = catalog::read_history(store, descendant).await? else { continue };
        if let Some(content) = beginning(timeline, &history, &content) {
            tracing::warn!(
                "the archive lacks the history of timeline {timeline}; that of timeline {descendant} tells it"
            );
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// The lines before the one that says where `timeline` was left, if they are a history of it.
fn beginning(timeline: TimelineId, history: &TimelineHistory, content: &[u8]) -> Option<Bytes> {
    let index = history.ancestors().iter().position(|entry| entry.timeline == timeline)?;
    let ancestors = &history.ancestors()[..index];
    let ends = content.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    // comments and empty lines may stand between
    ends.filter(|_| index > 0).find_map(|end| {
        let found = TimelineHistory::parse(timeline, &content[..end]).ok()?;
        (found.ancestors() == ancestors).then(|| Bytes::copy_from_slice(&content[..end]))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::super::wal_object;
    use super::*;

    #[tokio::test]
    async fn a_history_that_is_missing_is_told_by_the_next() {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
        let timeline = |number: u32| TimelineId::new(number).unwrap();
        let two = "1\t0/500100\tno recovery target specified\n";
        let four = format!("{two}\n2\t0/700100\tbefore 2026-01-01 00:00:00+00\n");
        let content = wal_object::encode(four.as_bytes()).unwrap();
        store.create(&layout::history_key(timeline(4)), content).await.unwrap();
        assert_eq!(history(&store, timeline(2)).await.unwrap(), Some(Bytes::from(two)));
        // no ancestor of the fourth; and the fourth has its own
        assert_eq!(history(&store, timeline(3)).await.unwrap(), None);
        assert_eq!(history(&store, timeline(5)).await.unwrap(), None);
        assert_eq!(history(&store, TimelineId::FIRST).await.unwrap(), None);
    }
}
