//! One thing put up: created, or found to be there with the same content.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::buffers::Buffer;
use super::super::error::ArchiveError;
use super::super::identity::ClusterIdentity;
use super::super::layout::{self, SegmentRange};
use super::super::lease::Lease;
use super::super::retry::retried;
use super::super::store::{ArchiveStore, Creation};
use super::super::{catalog, wal_object};
use super::begin::Remote;
use super::plan::{Known, KnownObject, Piece};
use super::tidy::ReadBack;
use super::{Gaps, local};
use crate::pg::version::WalFormat;
use crate::pg::wal_page::{SHORT_PAGE_HEADER_LEN, WalPageHeader};
use crate::pg::{Lsn, TimelineId, WalFileName};
use crate::sink::ClusterStamp;

/// How many parts of a segment are read at once.
const PARTS_AT_ONCE: usize = 16;

/// Where from and where to.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) directory: Arc<Path>,
    pub(super) store: ArchiveStore,
    pub(super) lease: Lease,
    pub(super) gaps: Gaps,
}

impl Route {
    /// Creates an object, as long as that is ours to do.
    pub(super) async fn create(&self, key: &str, content: Bytes) -> Result<Creation, ArchiveError> {
        self.lease.valid().await?;
        self.store.create(key, content).await
    }

    /// Puts up a piece of WAL.
    pub(super) async fn put(&self, piece: Piece) -> Result<(), ArchiveError> {
        let (key, file, start_lsn, end_lsn) = match piece {
            Piece::Range(range) => (range.key(), range.file, range.start_lsn, range.end_lsn),
            Piece::Segment(file) => {
                (layout::segment_key(file), file, file.segment.start_lsn(), file.segment.end_lsn())
            }
            Piece::Known(known) => {
                return match self.compare_known(known).await {
                    // what is not here any more contradicts nothing
                    Err(ArchiveError::Hole { .. }) => Ok(()),
                    compared => compared,
                };
            }
        };
        let content = self.encoded(file, start_lsn, end_lsn).await?;
        match self.create(&key, content).await? {
            Creation::Created => Ok(()),
            // sent before by a run that did not live to hear of it, or by a request whose answer was lost
            Creation::Exists => self.compare(&key, file, start_lsn, end_lsn - start_lsn, end_lsn).await,
        }
    }

    /// Whether what is up is what is here, as far as that goes.
    pub(super) async fn compare_known(&self, known: Known) -> Result<(), ArchiveError> {
        let (key, stored_len) = match known.object {
            KnownObject::Range(range) => (range.key(), range.wal_len()),
            KnownObject::Segment => (layout::segment_key(known.file), known.file.segment.size().as_u64()),
        };
        self.compare(&key, known.file, known.start_lsn(), stored_len, known.end_lsn).await
    }

    /// Puts up a whole segment whose parts are up, and removes those when it was read back: nothing else has its bytes then.
    /// That it is not in the directory any more is no failure: its parts are as good.
    /// Says whether it is up as a whole.
    pub(super) async fn fold(&self, file: WalFileName) -> Result<bool, ArchiveError> {
        let result = async {
            self.put(Piece::Segment(file)).await?;
            self.compare_known(Known::segment(file)).await
        };
        match result.await {
            Err(ArchiveError::Hole { .. }) => return Ok(false),
            result => result?,
        }
        self.remove_parts(file).await?;
        Ok(true)
    }

    /// Reads back a segment that is to be removed here.
    pub(super) async fn read_back(&self, file: WalFileName) -> Result<ReadBack, ArchiveError> {
        match self.compare_known(Known::segment(file)).await {
            Ok(()) | Err(ArchiveError::Hole { .. }) => return Ok(ReadBack::NotNeeded),
            Err(ArchiveError::Vanished { .. }) => {}
            Err(error) => return Err(error),
        }
        let there = Remote::list_behind(self, None, file.timeline, file.segment.size()).await?;
        match there.first() {
            // what comes before the first was pruned
            Some(first) if first > file => Ok(ReadBack::NotNeeded),
            // somebody has removed it: it is put up again, and read back
            Some(_) => {
                self.put(Piece::Segment(file)).await?;
                self.compare_known(Known::segment(file)).await.map(|()| ReadBack::NotNeeded)
            }
            None => Ok(ReadBack::Needed),
        }
    }

    /// Removes the parts of a segment that another run has put up as a whole, if that has what they have. `parts` are those that
    /// count: what they hold may have been acknowledged, and where a writer that had lost the archive was late with a whole of
    /// another history, it is nowhere else.
    pub(super) async fn finish_fold(
        &self,
        file: WalFileName,
        parts: &[SegmentRange],
    ) -> Result<(), ArchiveError> {
        let (key, start_lsn) = (layout::segment_key(file), file.segment.start_lsn());
        let whole = self.read_decoded(&key, file.segment.size().as_u64()).await?;
        let whole = whole.ok_or_else(|| ArchiveError::Vanished { key: key.clone() })?;
        // a commit that waits for the archive makes a part: there may be thousands
        let read = |part: &SegmentRange| {
            let (part_key, part_len, from) =
                (part.key(), part.wal_len(), (part.start_lsn - start_lsn) as usize);
            async move {
                match retried(|| self.read_decoded(&part_key, part_len)).await {
                    // what cannot be read contradicts nothing
                    Err(ArchiveError::Damaged { .. } | ArchiveError::Envelope { .. }) => Ok(None),
                    found => found.map(|found| found.map(|found| (from, found))),
                }
            }
        };
        let mut found = stream::iter(parts.iter().map(read)).buffered(PARTS_AT_ONCE);
        while let Some(found) = found.try_next().await? {
            if found.is_some_and(|(from, found)| found[..] != whole[from..from + found.len()]) {
                return Err(ArchiveError::Conflict { key });
            }
        }
        self.remove_parts(file).await
    }

    /// The WAL in an object, of which there are `len` bytes; `None` where there is no such object.
    async fn read_decoded(&self, key: &str, len: u64) -> Result<Option<Buffer>, ArchiveError> {
        let Some(found) = self.store.read(key, wal_object::max_encoded_len(len)).await? else {
            return Ok(None);
        };
        let decoded = tokio::task::spawn_blocking(move || wal_object::decode(&found, len)).await;
        let decoded = decoded.map_err(|_| ArchiveError::ThreadEnded)?;
        decoded.map(Some).map_err(|source| ArchiveError::Damaged { key: key.to_owned(), source })
    }

    /// Removes the parts of a segment that is up as a whole.
    async fn remove_parts(&self, file: WalFileName) -> Result<(), ArchiveError> {
        for part in self.store.list(&layout::segment_ranges_prefix(file)).await? {
            if SegmentRange::parse(&part.key, file.segment.size()).is_some_and(|range| range.file == file) {
                self.lease.valid().await?;
                self.store.remove(&part.key).await?;
            }
        }
        Ok(())
    }

    /// Puts up a timeline's history.
    pub(super) async fn put_history(&self, timeline: TimelineId) -> Result<(), ArchiveError> {
        let history = local::read_history(&self.directory, timeline)?;
        let key = layout::history_key(timeline);
        // an early version may have put it up under its other name
        let mut found = catalog::read_history(&self.store, timeline).await?;
        if found.is_none() {
            let failed = |source| ArchiveError::file("compress file", self.directory.join(&key), source);
            let content = wal_object::encode(&history).map_err(failed)?;
            if self.create(&key, content).await? == Creation::Created {
                return Ok(());
            }
            found = catalog::read_history(&self.store, timeline).await?;
        }
        match found {
            Some((_, found)) if found == history => Ok(()),
            Some(_) => Err(ArchiveError::Conflict { key }),
            None => Err(ArchiveError::Vanished { key }),
        }
    }

    /// Makes sure that the archive is the directory's cluster's. `file` is a segment that has begun.
    pub(super) async fn claim(&self, stamp: ClusterStamp, file: WalFileName) -> Result<(), ArchiveError> {
        let start_lsn = file.segment.start_lsn();
        let header = local::read(&self.directory, file, start_lsn, start_lsn + SHORT_PAGE_HEADER_LEN as u64)?;
        let magic = <[u8; SHORT_PAGE_HEADER_LEN]>::try_from(&header[..]);
        let magic = magic.map_or(0, |header| WalPageHeader::parse(&header).magic);
        let identity = ClusterIdentity {
            system_identifier: stamp.system_identifier,
            segment_size: stamp.segment_size,
            major: WalFormat::major_of_magic(magic),
        };
        self.lease.valid().await?;
        identity.claim(&self.store).await
    }

    async fn encoded(&self, file: WalFileName, start: Lsn, end: Lsn) -> Result<Bytes, ArchiveError> {
        let directory = Arc::clone(&self.directory);
        let work = move || {
            let wal = local::read(&directory, file, start, end)?;
            let failed =
                |source| ArchiveError::file("compress file", directory.join(file.to_string()), source);
            wal_object::encode(&wal).map_err(failed)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ArchiveError::ThreadEnded)?
    }

    /// Whether an object that begins at `start` and has `stored_len` bytes of WAL has those that are here up to `end`.
    async fn compare(
        &self,
        key: &str,
        file: WalFileName,
        start: Lsn,
        stored_len: u64,
        end: Lsn,
    ) -> Result<(), ArchiveError> {
        let found = self.store.read(key, wal_object::max_encoded_len(stored_len)).await?;
        let found = found.ok_or_else(|| ArchiveError::Vanished { key: key.to_owned() })?;
        let directory = Arc::clone(&self.directory);
        let work = move || {
            let wal = local::read(&directory, file, start, end)?;
            Ok::<_, ArchiveError>((wal, wal_object::decode(&found, stored_len)))
        };
        let compared = tokio::task::spawn_blocking(work).await.map_err(|_| ArchiveError::ThreadEnded)?;
        let (wal, found) = compared?;
        let key = key.to_owned();
        match found {
            Ok(found) if found.starts_with(&wal[..]) => Ok(()),
            Ok(_) => Err(ArchiveError::Conflict { key }),
            Err(source) => Err(ArchiveError::Damaged { key, source }),
        }
    }
}
