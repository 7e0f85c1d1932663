//! The backups of an archive: those that are whole, and what was broken off.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::error::RepositoryError;
use super::keys::{self, BACKUPS_PREFIX};
use super::name::BackupName;
use super::record::{self, BackupRecord};
use crate::archive::{ArchiveStore, ClusterIdentity};

/// What is below `backups/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupListing {
    /// Backups that are whole, the oldest first.
    pub backups: Vec<BackupRecord>,
    /// Objects in the place of records that are none, or of a later format, or of another cluster.
    pub unreadable: Vec<String>,
    /// What has no record: somebody is at it, or was.
    pub unfinished: Vec<UnfinishedBackup>,
}

/// A backup that is being taken, or was broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedBackup {
    /// Its name.
    pub name: BackupName,
}

/// How many records are read at once.
const READERS: usize = 16;

impl BackupListing {
    /// Reads the listing and every record.
    pub async fn read(store: &ArchiveStore) -> Result<Self, RepositoryError> {
        let owner = ClusterIdentity::read(store).await?.map(|identity| identity.system_identifier);
        let (directories, objects) = store.list_level(BACKUPS_PREFIX).await?;
        let records: BTreeSet<BackupName> =
            objects.iter().filter_map(|object| keys::parse_record_key(&object.key)).collect();
        let mut listing = BackupListing::default();
        for prefix in &directories {
            let Some(name) = keys::parse_data_prefix(prefix).filter(|name| !records.contains(name)) else {
                continue;
            };
            // a directory is left behind what was pruned in it
            if !store.list(&keys::data_prefix(&name)).await?.is_empty() {
                listing.unfinished.push(UnfinishedBackup { name });
            }
        }
        let mut names = records.into_iter();
        let mut readers = JoinSet::new();
        loop {
            while readers.len() < READERS
                && let Some(name) = names.next()
            {
                let store = store.clone();
                readers.spawn(async move {
                    let read = read_record(&store, &name).await;
                    (name, read)
                });
            }
            let Some(read) = readers.join_next().await else { break };
            match read.map_err(RepositoryError::Panicked)? {
                // another cluster's would be restored, and recover with this one's WAL
                (name, Ok(Some(record))) if owner.is_some_and(|owner| record.system_identifier != owner) => {
                    listing.unreadable.push(keys::record_key(&name));
                }
                (_, Ok(Some(record))) => listing.backups.push(record),
                // pruned meanwhile
                (_, Ok(None)) => {}
                (_, Err(RepositoryError::Record { key })) => listing.unreadable.push(key),
                (_, Err(error)) => return Err(error),
            }
        }
        // names tell the second; the clock may have been set back
        let age = |record: &BackupRecord| (record.start.at, record.start.timeline, record.start.lsn);
        listing.backups.sort_unstable_by(|a, b| age(a).cmp(&age(b)).then_with(|| a.name.cmp(&b.name)));
        listing.unfinished.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        listing.unreadable.sort_unstable();
        Ok(listing)
    }

    /// The backup of a name.
    pub fn find(&self, name: &BackupName) -> Option<&BackupRecord> {
        self.backups.iter().find(|record| record.name == *name)
    }

    /// A backup and all that it builds upon, the full one first.
    pub fn chain_of<'a>(
        &'a self,
        record: &'a BackupRecord,
    ) -> Result<Vec<&'a BackupRecord>, RepositoryError> {
        let mut chain = vec![record];
        let mut newest = record;
        while let Some(parent) = &newest.parent {
            // a ring is no chain
            let found = self.find(parent).filter(|_| chain.len() <= self.backups.len());
            let name = newest.name.clone();
            newest = found.ok_or_else(|| RepositoryError::NoParent { name, parent: parent.clone() })?;
            chain.push(newest);
        }
        chain.reverse();
        Ok(chain)
    }

    /// The backup that ends latest, and whose chain is whole: what the next incremental one builds upon.
    pub fn latest(&self) -> Option<&BackupRecord> {
        let whole = self.backups.iter().filter(|record| self.chain_of(record).is_ok());
        whole.max_by_key(|record| (record.stop.timeline, record.stop.lsn))
    }
}

/// A backup's record; `None` where there is none.
pub(super) async fn read_record(
    store: &ArchiveStore,
    name: &BackupName,
) -> Result<Option<BackupRecord>, RepositoryError> {
    let key = keys::record_key(name);
    let Some(content) = store.read(&key, record::MAX_LEN).await? else { return Ok(None) };
    let record = BackupRecord::decode(&content).filter(|record| record.name == *name);
    record.map(Some).ok_or(RepositoryError::Record { key })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use object_store::memory::InMemory;

    use super::super::record::tests::example;
    use super::*;
    use crate::pg::{SystemIdentifier, Timestamp, WalSegmentSize};

    #[tokio::test]
    async fn only_what_has_a_record_is_a_backup() {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db1");
        let full = example("20261126T134500Z-00000001", None, 0x200_0028);
        let first = example("20261126T144500Z-00000002", Some("20261126T134500Z-00000001"), 0x300_0028);
        let orphan = example("20261126T154500Z-00000003", Some("20261101T154500Z-00000009"), 0x400_0028);
        for record in [&orphan, &full, &first] {
            store.create(&keys::record_key(&record.name), record.encode()).await.unwrap();
            store.create(&keys::begun_key(&record.name), Bytes::from_static(b"{}")).await.unwrap();
        }
        // another one's record, something else, and what was broken off
        let wrong = "backups/20261126T164500Z-00000004.json";
        store.create(wrong, full.encode()).await.unwrap();
        store.create("backups/notes.txt", Bytes::from_static(b"hello")).await.unwrap();
        let begun: BackupName = "20261126T174500Z-00000005".parse().unwrap();
        store.create(&keys::begun_key(&begun), Bytes::from_static(b"{}")).await.unwrap();

        let mut foreign = example("20261126T184500Z-00000006", None, 0x500_0028);
        foreign.system_identifier = SystemIdentifier::new(1);
        let foreign_key = keys::record_key(&foreign.name);
        store.create(&foreign_key, foreign.encode()).await.unwrap();
        let (system_identifier, segment_size) = (full.system_identifier, WalSegmentSize::DEFAULT);
        ClusterIdentity { system_identifier, segment_size, major: 17 }.claim(&store).await.unwrap();

        let listing = BackupListing::read(&store).await.unwrap();
        assert_eq!(listing.backups, [full.clone(), first.clone(), orphan.clone()]);
        assert_eq!(listing.unreadable, [wrong, foreign_key.as_str()]);
        assert_eq!(listing.unfinished, [UnfinishedBackup { name: begun }]);
        assert_eq!(listing.chain_of(&first).unwrap(), [&full, &first]);
        assert!(matches!(listing.chain_of(&orphan), Err(RepositoryError::NoParent { .. })));
        assert_eq!(listing.latest(), Some(&first));
    }

    #[tokio::test]
    async fn of_those_that_began_in_one_second_the_earlier_one_comes_first() {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db1");
        let mut records = ["c", "a", "b"].map(|nonce| {
            let lsn = 0x200_0028 + u64::from(nonce != "c") * 0x100_0000;
            example(&format!("20261126T134500Z-0000000{nonce}"), None, lsn)
        });
        // the same position, and the clock tells them apart
        records[1].start.at = Timestamp::from_unix_micros(records[0].start.at.unix_micros() + 70_000);
        records[2].start.at = Timestamp::from_unix_micros(records[0].start.at.unix_micros() + 30_000);
        for record in &records {
            store.create(&keys::record_key(&record.name), record.encode()).await.unwrap();
        }
        let listing = BackupListing::read(&store).await.unwrap();
        let [first, third, second] = records;
        assert_eq!(listing.backups, [first, second, third]);
    }

    #[tokio::test]
    async fn a_ring_is_no_chain() {
        let listing = BackupListing {
            backups: vec![
                example("20261126T134500Z-00000001", Some("20261126T144500Z-00000002"), 0x200_0028),
                example("20261126T144500Z-00000002", Some("20261126T134500Z-00000001"), 0x300_0028),
            ],
            ..BackupListing::default()
        };
        assert!(listing.chain_of(&listing.backups[0]).is_err());
        assert_eq!(listing.latest(), None);
    }
}
