//! Whether an archive has the WAL from one position to another, without listing all of it.

use crate::archive::layout::{self, SegmentRange};
use crate::archive::{ArchiveError, ArchiveStore};
use crate::pg::{Lsn, TimelineId, WalFileName, WalSegmentSize};

/// How far the archive goes without a gap on one timeline, looked at again and again.
#[derive(Debug)]
pub(super) struct WalPresence {
    timeline: TimelineId,
    segment_size: WalSegmentSize,
    /// All before this, from where it was begun, is there.
    reached: Lsn,
}

impl WalPresence {
    /// From the beginning of the segment that `from` lies in: recovery reads its first page.
    pub(super) fn new(timeline: TimelineId, segment_size: WalSegmentSize, from: Lsn) -> Self {
        let reached = segment_size.segment_at(from).start_lsn();
        WalPresence { timeline, segment_size, reached }
    }

    /// How far it goes, looked at anew, but no further than `until`.
    pub(super) async fn look(&mut self, store: &ArchiveStore, until: Lsn) -> Result<Lsn, ArchiveError> {
        while self.reached < until {
            let segment = self.segment_size.segment_at(self.reached);
            let file = WalFileName { timeline: self.timeline, segment };
            // parts first: one that is folded meanwhile is found as a segment then
            let parts = store.list(&layout::segment_ranges_prefix(file)).await?;
            let parts =
                parts.iter().filter_map(|part| SegmentRange::parse(&part.key, self.segment_size)).collect();
            let mut end_lsn = segment.start_lsn();
            for part in layout::counted(parts) {
                if part.start_lsn <= end_lsn {
                    end_lsn = end_lsn.max(part.end_lsn);
                }
            }
            if end_lsn < until && store.exists(&layout::segment_key(file)).await? {
                end_lsn = segment.end_lsn();
            }
            self.reached = self.reached.max(end_lsn);
            if end_lsn < segment.end_lsn() {
                break;
            }
        }
        Ok(self.reached)
    }
}
