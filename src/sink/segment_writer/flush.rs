//! What was written becomes durable, in two halves: the file is synced between them, without the writer.

use super::{Position, SegmentWriter};
use crate::pg::{Lsn, TimelineId};
use crate::sink::disk::{Disk, DiskFile};
use crate::sink::error::{Operation, SinkError};
use crate::sink::flushed::FlushedLsn;

/// What a flush has to sync, and how far the stream is durable after it.
#[derive(Debug)]
pub struct PendingFlush<F> {
    pub(super) file: Option<(F, String)>,
    pub(super) timeline: TimelineId,
    pub(super) lsn: Lsn,
}

impl<F: DiskFile> PendingFlush<F> {
    /// Whether there is anything to sync.
    pub fn is_for_disk(&self) -> bool {
        self.file.is_some()
    }

    /// Syncs the file, which may take its time: the writer is not needed for it.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |(file, _)| file.sync_data())
    }
}

impl<D: Disk> SegmentWriter<D> {
    /// Makes all that was written durable: the bytes, and the name they are found under.
    pub fn flush(&mut self) -> Result<FlushedLsn, SinkError> {
        let pending = self.begin_flush()?;
        let synced = pending.sync();
        self.end_flush(pending, synced)
    }

    /// The first half of a flush. What is written from now on is not part of it. The file is to be
    /// [synced](PendingFlush::sync) before the other half, and nothing may be sealed in between.
    pub fn begin_flush(&mut self) -> Result<PendingFlush<D::File>, SinkError> {
        self.check_usable()?;
        let Position { timeline, lsn, .. } = self
            .position
            .ok_or(SinkError::OutOfOrder { lsn: Lsn::INVALID, reason: "no stream has begun" })?;
        self.flush_compressed()?;
        self.written_lsn = lsn;
        let lsn = self.flushable_lsn(lsn);
        let dirty = self.open.as_mut().filter(|open| open.dirty);
        let file = dirty.map(|open| {
            open.dirty = false;
            (open.file.clone(), open.file_name.clone())
        });
        Ok(PendingFlush { file, timeline, lsn })
    }

    /// The other half: `synced` is what syncing the file came to.
    pub fn end_flush(
        &mut self,
        pending: PendingFlush<D::File>,
        synced: std::io::Result<()>,
    ) -> Result<FlushedLsn, SinkError> {
        if let Err(error) = synced {
            let name = pending.file.map(|(_, name)| name).unwrap_or_default();
            return Err(self.failed(Operation::Sync, &name, error));
        }
        self.check_usable()?;
        self.sync_rest()?;
        Ok(FlushedLsn::new(pending.timeline, pending.lsn))
    }

    /// How far it may be said to be durable after a sync. Of a full segment the last byte is not before the name is: the server
    /// would have no need of the segment any more, and after a crash in between the name would be missing.
    pub(super) fn flushable_lsn(&self, written_lsn: Lsn) -> Lsn {
        let is_full = self.open.as_ref().is_some_and(|open| open.segment.end_lsn() == written_lsn);
        if is_full { Lsn::new(written_lsn.as_u64() - 1) } else { written_lsn }
    }

    /// Makes durable what is not the open segment: the directory's names, and what was there before this process.
    pub(super) fn sync_rest(&mut self) -> Result<(), SinkError> {
        if self.earlier_dirty {
            let result = self.disk.sync_earlier();
            result.map_err(|error| self.failed(Operation::SyncDirectory, "", error))?;
            self.earlier_dirty = false;
        }
        if self.directory_dirty {
            self.sync_directory("")?;
        }
        Ok(())
    }
}
