//! Whether every backup could be restored: every object read, every file compared with the manifest.

use super::error::RepositoryError;
use super::listing::BackupListing;
use super::name::BackupName;
use super::piece_reader::{BackupReader, Pieces};
use super::reach::{WalMap, windows};
use super::record::{BackupRecord, WalPlace};
use crate::ErrorClass;
use crate::archive::{ArchiveStore, Catalog};
use crate::backup::{BackupInspector, IncludedWal};
use crate::pg::WalSegmentSize;

/// What was found out about an archive's backups.
#[derive(Debug)]
pub struct BackupsReport {
    /// Those that are whole, and how much of each was read.
    pub backups: Vec<VerifiedBackup>,
    /// What is wrong.
    pub problems: Vec<BackupProblem>,
}

/// A backup that was looked at.
#[derive(Debug)]
pub struct VerifiedBackup {
    /// Its name.
    pub name: BackupName,
    /// Files that are as the manifest has them; zero for a damaged one.
    pub file_count: u64,
    /// Bytes of files that were read.
    pub byte_count: u64,
}

/// Something that is wrong with a backup.
#[derive(Debug)]
pub struct BackupProblem {
    /// Which; `None` for what has no name.
    pub backup: Option<BackupName>,
    /// What.
    pub kind: BackupProblemKind,
}

/// What can be wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupProblemKind {
    /// An object is missing or damaged, or files are not as the manifest has them.
    #[error(transparent)]
    Damaged(RepositoryError),
    /// It is of no use without a backup that is not there.
    #[error(transparent)]
    Chain(RepositoryError),
    /// One that it builds upon is damaged.
    #[error("backup {0}, which it builds upon, is damaged")]
    Ancestor(BackupName),
    /// The WAL that makes it consistent is missing.
    #[error("the archive lacks WAL that makes it consistent")]
    WalMissing,
}

/// Looks at every backup, but for those that are pruned meanwhile. `tell` hears which is next.
pub async fn verify(
    store: &ArchiveStore,
    mut tell: impl FnMut(&BackupRecord),
) -> Result<BackupsReport, RepositoryError> {
    let catalog = Catalog::read(store).await?;
    let mut listing = BackupListing::read(store).await?;
    let map = WalMap::read(store, &catalog).await?;
    let mut report = BackupsReport { backups: Vec::new(), problems: Vec::new() };
    for key in &listing.unreadable {
        let kind = BackupProblemKind::Damaged(RepositoryError::Record { key: key.clone() });
        report.problems.push(BackupProblem { backup: None, kind });
    }
    let (mut damaged, mut pruned): (Vec<BackupName>, Vec<BackupName>) = Default::default();
    for record in &listing.backups {
        tell(record);
        let name = record.name.clone();
        match inspect(store, record, catalog.identity.segment_size).await {
            Ok(byte_count) => {
                report.backups.push(VerifiedBackup { name, file_count: record.file_count, byte_count });
            }
            // the record is what is removed first
            Err(error)
                if error.class() == ErrorClass::Integrity
                    && !store.exists(&super::keys::record_key(&name)).await? =>
            {
                pruned.push(name);
            }
            Err(error) if error.class() == ErrorClass::Integrity => {
                damaged.push(name.clone());
                report.backups.push(VerifiedBackup { name: name.clone(), file_count: 0, byte_count: 0 });
                let kind = BackupProblemKind::Damaged(error);
                report.problems.push(BackupProblem { backup: Some(name), kind });
            }
            Err(error) => return Err(error),
        }
    }
    listing.backups.retain(|record| !pruned.contains(&record.name));
    let (_, useless) = windows(&listing, &map);
    for record in &listing.backups {
        let backup = Some(record.name.clone());
        match listing.chain_of(record) {
            Err(error) => {
                report.problems.push(BackupProblem { backup, kind: BackupProblemKind::Chain(error) });
            }
            Ok(chain) => {
                let ancestor =
                    chain.iter().find(|other| other.name != record.name && damaged.contains(&other.name));
                if let Some(ancestor) = ancestor {
                    let kind = BackupProblemKind::Ancestor(ancestor.name.clone());
                    report.problems.push(BackupProblem { backup, kind });
                } else if useless.contains(&record.name) {
                    report.problems.push(BackupProblem { backup, kind: BackupProblemKind::WalMissing });
                }
            }
        }
    }
    Ok(report)
}

/// Reads all of a backup: every checksum, every file against the manifest, and the records of WAL that it carries.
async fn inspect(
    store: &ArchiveStore,
    record: &BackupRecord,
    segment_size: WalSegmentSize,
) -> Result<u64, RepositoryError> {
    let pieces = Pieces::of(store, record).await?;
    let mut reader = BackupReader::new(store.clone(), record, pieces);
    let included = (record.wal == WalPlace::Included)
        .then(|| IncludedWal::new(record.system_identifier, segment_size, record.start.lsn));
    let inspector = BackupInspector::new(record.manifest_checksums, record.archive_end());
    let mut inspector = inspector.with_wal(included);
    let content = |source| RepositoryError::Content { name: record.name.clone(), source: Box::new(source) };
    while let Some(event) = reader.next().await? {
        inspector.handle(event).map_err(content)?;
    }
    let byte_count = inspector.byte_count();
    let inspected = inspector.finish().map_err(content)?;
    let label_agrees = inspected.backup_label.start_lsn == record.start.lsn;
    let same = label_agrees
        && inspected.manifest.wal_ranges == record.wal_ranges
        && inspected.manifest.file_count == record.file_count
        && inspected.manifest.system_identifier.is_none_or(|found| found == record.system_identifier);
    if !same {
        let (name, key) = (record.name.clone(), super::keys::record_key(&record.name));
        return Err(RepositoryError::Damaged { name, key, problem: "it does not agree with the manifest" });
    }
    Ok(byte_count)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use tokio::sync::OnceCell;

    use super::super::keys;
    use super::super::record::tests::example;
    use super::*;
    use crate::archive::ClusterIdentity;
    use crate::archive::testing::{HookedStore, Verb};

    #[tokio::test]
    async fn what_is_pruned_meanwhile_is_no_problem() {
        let records = [("20261126T134500Z-00000001", 0x200_0028), ("20261126T144500Z-00000002", 0x300_0028)]
            .map(|(name, lsn)| example(name, None, lsn));
        let plain = Arc::new(OnceCell::<ArchiveStore>::new());
        let (inner, first) = (Arc::clone(&plain), records[0].name.clone());
        let (store, direct) = HookedStore::archive(move |verb, key| {
            let is_read = verb == Verb::Read && key.ends_with(&keys::sums_key(&first));
            let (inner, record_key) = (Arc::clone(&inner), keys::record_key(&first));
            async move {
                if is_read {
                    inner.get().unwrap().remove(&record_key).await.unwrap();
                }
                Ok(())
            }
            .boxed()
        });
        let (system_identifier, segment_size) = (records[0].system_identifier, WalSegmentSize::DEFAULT);
        ClusterIdentity { system_identifier, segment_size, major: 17 }.claim(&direct).await.unwrap();
        for record in &records {
            direct.create(&keys::begun_key(&record.name), Bytes::from_static(b"{}")).await.unwrap();
            direct.create(&keys::record_key(&record.name), record.encode()).await.unwrap();
        }
        plain.set(direct).unwrap();
        // neither has a piece; the first one's record goes as well
        let report = verify(&store, |_| {}).await.unwrap();
        let named = report.problems.iter().map(|problem| problem.backup.as_ref());
        assert!(named.clone().all(|name| name == Some(&records[1].name)), "{:?}", report.problems);
        assert!(named.count() > 0);
        assert_eq!(report.backups.len(), 1);
    }
}
