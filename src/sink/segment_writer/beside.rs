//! Syncs of one segment that run side by side.
//!
//! A commit that comes while a sync runs waits for the rest of that, and then for the next one: one and a half of them, on
//! average. Where the disk is slow, but takes more than one request at a time, the next one need not wait for the one before it.

use super::{PendingFlush, SegmentWriter};
use crate::sink::disk::{Disk, DiskFile as _};
use crate::sink::error::SinkError;

impl<D: Disk> SegmentWriter<D> {
    /// Opens the file of the open segment so often again that `count` syncs of it can run side by side, each of which is told of
    /// an error by itself. To be done before a sync of the usual kind: what went wrong before that one is told by it. Says
    /// whether they can: not where segments are compressed, because what is to be synced is first written then.
    pub fn prepare_beside(&mut self, count: usize) -> Result<bool, SinkError> {
        self.check_usable()?;
        let Some(open) = self.open.as_mut().filter(|open| open.is_plain()) else { return Ok(false) };
        while open.twins.len() < count {
            match open.file.open_again() {
                Ok(twin) => open.twins.push(twin),
                Err(error) => {
                    tracing::debug!(%error, "could not open a segment again to sync it");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// [The first half of a flush](Self::begin_flush) that may run beside others: `number` is none of theirs. `None`: the open
    /// segment is not [prepared](Self::prepare_beside) for so many.
    ///
    /// It syncs whatever others have begun to, because they may not be done. So each says how far it is durable by
    /// itself, and in whatever order they end, what the furthest says is true. The segment counts as not synced: whoever
    /// seals it syncs it again.
    pub fn begin_flush_beside(&mut self, number: usize) -> Result<Option<PendingFlush<D::File>>, SinkError> {
        self.check_usable()?;
        let (Some(position), Some(open)) = (&self.position, &self.open) else { return Ok(None) };
        let Some(twin) = open.twins.get(number) else { return Ok(None) };
        let file = Some((twin.clone(), open.file_name.clone()));
        let lsn = self.flushable_lsn(position.lsn);
        Ok(Some(PendingFlush { file, timeline: position.timeline, lsn }))
    }
}
