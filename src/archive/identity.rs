//! Whose archive it is: the first object that is written, and compared before any other is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::ArchiveError;
use super::layout::CLUSTER_KEY;
use super::store::{ArchiveStore, Creation};
use crate::pg::wal_page::{WalPageHeader, WalSegmentHeader};
use crate::pg::{SystemIdentifier, WalErrorKind, WalFileName, WalSegmentSize};
use crate::sink::{ClusterDifference, ClusterStamp};

/// A cluster, as far as its WAL is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its segments' size.
    pub segment_size: WalSegmentSize,
    /// The major version of PostgreSQL that wrote its WAL; it never changes, because an upgrade makes a new cluster.
    pub major: u16,
}

/// The object's content: JSON. The identifier is text, because many JSON readers take numbers for floating point.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    system_identifier: String,
    wal_segment_size: u64,
    postgresql_major: u16,
}

/// The format of archives that this program reads and writes.
const FORMAT: u32 = 1;

/// The longest content taken, in bytes.
const MAX_LEN: u64 = 4096;

impl ClusterIdentity {
    /// The archive's; `None` where nothing has been archived yet.
    pub async fn read(store: &ArchiveStore) -> Result<Option<Self>, ArchiveError> {
        let Some(content) = store.read(CLUSTER_KEY, MAX_LEN).await? else { return Ok(None) };
        let found = Self::decode(&content).ok_or(ArchiveError::Identity { key: CLUSTER_KEY })?;
        store.is_of(found.system_identifier);
        Ok(Some(found))
    }

    /// The same, of an archive that has to be there.
    pub async fn of(store: &ArchiveStore) -> Result<Self, ArchiveError> {
        Self::read(store).await?.ok_or(ArchiveError::NotAnArchive { key: CLUSTER_KEY })
    }

    /// Makes sure that the archive is this cluster's; a new one becomes it.
    pub async fn claim(self, store: &ArchiveStore) -> Result<(), ArchiveError> {
        let found = match Self::read(store).await? {
            Some(found) => found,
            None => match store.create(CLUSTER_KEY, self.encode()).await? {
                Creation::Created => return Ok(()),
                Creation::Exists => Self::of(store).await?,
            },
        };
        self.check_against(found)
    }

    /// Whether WAL of `self` belongs to an archive of `found`.
    pub fn check_against(self, found: ClusterIdentity) -> Result<(), ArchiveError> {
        found.check_stamp(self.stamp())?;
        let (expected, found) = (self.major, found.major);
        // a format that one of the two does not know says nothing
        if expected != found && expected != 0 && found != 0 {
            return Err(ArchiveError::OtherMajor { expected, found });
        }
        Ok(())
    }

    /// Whether WAL of a directory with this stamp belongs to this one's archive.
    pub(super) fn check_stamp(self, stamp: ClusterStamp) -> Result<(), ArchiveError> {
        Err(match stamp.difference(self.stamp()) {
            None => return Ok(()),
            Some(ClusterDifference::System { expected, found }) => {
                ArchiveError::OtherSystem { expected, found }
            }
            Some(ClusterDifference::SegmentSize { expected, found }) => {
                ArchiveError::OtherSegmentSize { expected, found }
            }
        })
    }

    /// Whether WAL begins as this cluster's segment of this name does; too little of it says nothing.
    pub(super) fn check_segment(self, file: WalFileName, wal: &[u8]) -> Result<(), ArchiveError> {
        // of another format it is not known where what stands
        let Some(header) = wal.first_chunk().filter(|_| self.major != 0) else { return Ok(()) };
        let found = WalSegmentHeader::parse(header);
        let page = WalPageHeader::parse(header.first_chunk().expect("a long header begins as a short one"));
        let expected = self.system_identifier;
        let source = if page.page_lsn != file.segment.start_lsn() {
            WalErrorKind::PageAddress { found: page.page_lsn }
        } else if found.system_identifier != expected {
            WalErrorKind::SystemIdentifier { found: found.system_identifier, expected }
        } else if u64::from(found.segment_len) != self.segment_size.as_u64() {
            WalErrorKind::SegmentLen { found: found.segment_len }
        } else if page.timeline > file.timeline.as_u32() {
            WalErrorKind::PageTimeline { found: page.timeline, expected: file.timeline.as_u32() }
        } else {
            return Ok(());
        };
        Err(ArchiveError::OtherSegment { name: file.to_string(), source })
    }

    fn stamp(self) -> ClusterStamp {
        ClusterStamp { system_identifier: self.system_identifier, segment_size: self.segment_size }
    }

    pub(super) fn encode(self) -> Bytes {
        let content = Content {
            format: FORMAT,
            system_identifier: self.system_identifier.to_string(),
            wal_segment_size: self.segment_size.as_u64(),
            postgresql_major: self.major,
        };
        let mut text = serde_json::to_vec(&content).expect("strings and numbers can be written as JSON");
        text.push(b'\n');
        text.into()
    }

    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let content: Content = serde_json::from_slice(content).ok()?;
        if content.format != FORMAT {
            return None;
        }
        Some(ClusterIdentity {
            system_identifier: content.system_identifier.parse().ok()?,
            segment_size: WalSegmentSize::from_bytes(content.wal_segment_size).ok()?,
            major: content.postgresql_major,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn identity(system: u64) -> ClusterIdentity {
        let system_identifier = SystemIdentifier::new(system);
        ClusterIdentity { system_identifier, segment_size: WalSegmentSize::DEFAULT, major: 15 }
    }

    #[tokio::test]
    async fn an_archive_belongs_to_who_came_first() {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db1");
        assert!(matches!(ClusterIdentity::of(&store).await, Err(ArchiveError::NotAnArchive { .. })));
        identity(7_710_876_330_348_008_478).claim(&store).await.unwrap();
        identity(7_710_876_330_348_008_478).claim(&store).await.unwrap();
        assert_eq!(ClusterIdentity::of(&store).await.unwrap(), identity(7_710_876_330_348_008_478));
        let other = identity(1).claim(&store).await;
        assert!(matches!(other, Err(ArchiveError::OtherSystem { .. })));
        let mut smaller = identity(7_710_876_330_348_008_478);
        smaller.segment_size = WalSegmentSize::from_bytes(1 << 20).unwrap();
        assert!(matches!(smaller.claim(&store).await, Err(ArchiveError::OtherSegmentSize { .. })));
        let mut newer = identity(7_710_876_330_348_008_478);
        newer.major = 16;
        let refused = newer.claim(&store).await;
        assert!(matches!(refused, Err(ArchiveError::OtherMajor { expected: 16, found: 15 })), "{refused:?}");
        newer.major = 0;
        newer.claim(&store).await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_left_alone() {
        for content in [
            "",
            "{}",
            "{\"format\":2,\"system_identifier\":\"1\",\"wal_segment_size\":1048576,\"postgresql_major\":15}",
        ] {
            let store = ArchiveStore::over(Arc::new(InMemory::new()), "");
            store.create(CLUSTER_KEY, Bytes::from(content)).await.unwrap();
            assert!(
                matches!(identity(1).claim(&store).await, Err(ArchiveError::Identity { .. })),
                "{content}"
            );
        }
    }
}
