//! Which backups, and which WAL, nobody needs any more; and their removal, in an order that leaves no backup listed
//! without its objects.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::error::RepositoryError;
use super::keys;
use super::listing::BackupListing;
use super::name::BackupName;
use super::reach::WalMap;
use super::record::BackupRecord;
pub use super::retention::Retention;
use super::retention::keep;
use super::start;
use crate::archive::{ArchiveStore, Catalog, layout};
use crate::pg::{Lsn, Timestamp};

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The archive could not be read, or something not removed.
    #[error("could not prune the archive")]
    Repository(#[from] RepositoryError),
    /// A record that is not understood may need anything.
    #[error(
        "object \"{0}\" is no record of a backup of this cluster, or of a later format: what it needs is not known"
    )]
    Unreadable(String),
    /// Neither count nor window.
    #[error("it was not said what to keep")]
    NoRetention,
}

/// What is going to be removed, or was.
#[derive(Debug, Default)]
pub struct Plan {
    /// Backups that stay, the oldest first.
    pub kept: Vec<BackupName>,
    /// Backups that go, the newest first: none is left without what it builds upon.
    pub backups: Vec<BackupName>,
    /// What was broken off.
    pub leftovers: Vec<BackupName>,
    /// Objects of WAL.
    pub wal: Vec<String>,
    /// The first byte of WAL that stays; `None` where all of it does.
    pub wal_from: Option<Lsn>,
    /// A backup that is being taken, and has not said yet from where on it needs WAL: all of it stays.
    pub awaited: Option<BackupName>,
    /// How many objects of backups go.
    pub object_count: u64,
    /// How many bytes all of it has in the store.
    pub stored_len: u64,
    /// Objects of the backups, in the order in which they go.
    objects: Vec<String>,
    /// Those of what was broken off, by what that is called.
    leftover_objects: Vec<(BackupName, Vec<String>)>,
}

/// Looks what nobody needs.
pub async fn plan(store: &ArchiveStore, retention: Retention, now: SystemTime) -> Result<Plan, PruneError> {
    if retention.count.is_none() && retention.window.is_none() {
        return Err(PruneError::NoRetention);
    }
    // the backups first: one that is taken meanwhile is found unfinished, or newer than all of this
    let listing = BackupListing::read(store).await?;
    if let Some(key) = listing.unreadable.first() {
        return Err(PruneError::Unreadable(key.clone()));
    }
    let mut plan = Plan::default();
    let mut needed = BTreeSet::new();
    let mut starts = Vec::new();
    for unfinished in &listing.unfinished {
        let objects = list(store, &unfinished.name).await?;
        let newest = objects.iter().map(|object| object.modified_at).max();
        let age = newest.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
        if age < retention.leftover_age {
            needed.extend(parent_of(store, &unfinished.name).await?);
            match start::read(store, &unfinished.name).await? {
                Some(lsn) => starts.push(lsn),
                None => plan.awaited = Some(unfinished.name.clone()),
            }
            continue;
        }
        plan.leftovers.push(unfinished.name.clone());
        plan.stored_len += objects.iter().map(|object| object.len).sum::<u64>();
        plan.object_count += objects.len() as u64;
        let keys = objects.into_iter().map(|object| object.key).collect();
        plan.leftover_objects.push((unfinished.name.clone(), keys));
    }
    let catalog = Catalog::read(store).await.map_err(RepositoryError::from)?;
    let map = WalMap::read(store, &catalog).await.map_err(RepositoryError::from)?;
    let kept = keep(&listing, &map, retention, Timestamp::of(now), &needed);
    plan.kept = listing.backups.iter().map(|b| b.name.clone()).filter(|name| kept.contains(name)).collect();
    let mut gone: Vec<&BackupRecord> =
        listing.backups.iter().filter(|record| !kept.contains(&record.name)).collect();
    // what builds upon another one begins behind it, whatever the clock said
    gone.sort_by_key(|record| std::cmp::Reverse((record.start.timeline, record.start.lsn)));
    for record in gone {
        plan.backups.push(record.name.clone());
        plan.objects.push(keys::record_key(&record.name));
        for object in list(store, &record.name).await? {
            plan.stored_len += object.len;
            plan.objects.push(object.key);
        }
    }
    plan.object_count += plan.objects.len() as u64;
    let records = listing.backups.iter().filter(|record| kept.contains(&record.name));
    starts.extend(records.map(|record| record.start.lsn));
    // where no backup stays, all WAL does
    let stays = plan.kept.is_empty() || plan.awaited.is_some();
    if let Some(first) = starts.into_iter().min().filter(|_| !stays) {
        plan_wal(store, &catalog, first, &mut plan).await?;
    }
    Ok(plan)
}

/// Removes it. Each backup's record goes first, so that what is broken off here is a leftover.
pub async fn remove(store: &ArchiveStore, plan: &Plan, mut tell: impl FnMut(u64)) -> Result<(), PruneError> {
    for (name, keys) in &plan.leftover_objects {
        remove_leftover(store, name, keys).await?;
    }
    for (done, key) in plan.objects.iter().chain(&plan.wal).enumerate() {
        store.remove(key).await.map_err(RepositoryError::from)?;
        tell(done as u64 + 1);
    }
    Ok(())
}

/// Removes what was broken off, unless whoever takes that backup has gone on. He looks for the first object once the record
/// is there, so either he finds that it is gone, or the record is found here.
async fn remove_leftover(
    store: &ArchiveStore,
    name: &BackupName,
    keys: &[String],
) -> Result<(), RepositoryError> {
    let begun_key = keys::begun_key(name);
    store.remove(&begun_key).await?;
    if store.exists(&keys::record_key(name)).await? {
        tracing::warn!("backup {name}, which was taken for broken off, is being finished: it is left alone");
        return Ok(());
    }
    for key in keys.iter().filter(|key| **key != begun_key) {
        store.remove(key).await?;
    }
    Ok(())
}

/// WAL from before the first that is needed.
async fn plan_wal(
    store: &ArchiveStore,
    catalog: &Catalog,
    first: Lsn,
    plan: &mut Plan,
) -> Result<(), PruneError> {
    let from = catalog.identity.segment_size.segment_at(first).start_lsn();
    plan.wal_from = Some(from);
    for content in &catalog.timelines {
        let old = content.segments.iter().filter(|file| file.segment.end_lsn() <= from);
        plan.wal.extend(old.map(|file| layout::segment_key(*file)));
        // those too that do not count
        let parts =
            store.list(&layout::ranges_prefix(content.timeline)).await.map_err(RepositoryError::from)?;
        let size = catalog.identity.segment_size;
        let parts = parts.iter().filter_map(|part| layout::SegmentRange::parse(&part.key, size));
        let old = parts.filter(|range| range.file.segment.end_lsn() <= from);
        plan.wal.extend(old.map(|range| range.key()));
    }
    Ok(())
}

/// The objects of a backup but its record.
async fn list(
    store: &ArchiveStore,
    name: &BackupName,
) -> Result<Vec<crate::archive::store::ListedObject>, RepositoryError> {
    Ok(store.list(&keys::data_prefix(name)).await?)
}

/// What a backup that is being taken builds upon.
async fn parent_of(store: &ArchiveStore, name: &BackupName) -> Result<Option<BackupName>, RepositoryError> {
    let Some(content) = store.read(&keys::begun_key(name), 4096).await? else { return Ok(None) };
    let begun: Option<serde_json::Value> = serde_json::from_slice(&content).ok();
    Ok(begun.and_then(|begun| begun["parent"].as_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use object_store::memory::InMemory;

    use std::time::Duration;

    use super::super::record::tests::example;
    use super::*;
    use crate::archive::ClusterIdentity;
    use crate::pg::{SystemIdentifier, TimelineId, WalFileName, WalSegmentSize};

    const DAY: Duration = Duration::from_secs(86_400);
    const MIB: u64 = 1 << 20;

    /// Full backups on the 20th and 24th, incremental ones on the days between.
    fn records() -> Vec<BackupRecord> {
        let names: Vec<String> = (20..27).map(|day| format!("202611{day}T000000Z-00000001")).collect();
        let parent = |index: usize| (!index.is_multiple_of(4)).then(|| names[index - 1].as_str());
        (0..7).map(|index| example(&names[index], parent(index), (index as u64 + 2) * MIB + 40)).collect()
    }

    async fn archive() -> ArchiveStore {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db1");
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let system_identifier = SystemIdentifier::new(7_710_876_330_348_008_478);
        ClusterIdentity { system_identifier, segment_size: size, major: 17 }.claim(&store).await.unwrap();
        for number in 1..10 {
            let segment = size.segment_at(Lsn::new(number * MIB));
            let file = WalFileName { timeline: TimelineId::FIRST, segment };
            store.create(&layout::segment_key(file), Bytes::from_static(b"wal")).await.unwrap();
        }
        for record in records() {
            store.create(&keys::begun_key(&record.name), Bytes::from_static(b"{}")).await.unwrap();
            store.create(&keys::sums_key(&record.name), Bytes::from_static(b"")).await.unwrap();
            store.create(&keys::record_key(&record.name), record.encode()).await.unwrap();
        }
        store
    }

    fn days(plan: &Plan) -> (Vec<u32>, Vec<u32>) {
        let day = |name: &BackupName| name.as_str()[6..8].parse().unwrap();
        (plan.kept.iter().map(day).collect(), plan.backups.iter().map(day).collect())
    }

    fn at(day: u32) -> SystemTime {
        let moment: Timestamp = format!("2026-11-{day} 12:00:00Z").parse().unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_micros(moment.unix_micros() as u64)
    }

    #[tokio::test]
    async fn what_is_kept_keeps_all_that_it_needs() {
        let store = archive().await;
        let retention = |count, window: Option<u32>| Retention {
            count,
            window: window.map(|days| days * DAY),
            leftover_age: DAY,
        };
        for (count, window, kept, first_segment) in [
            (Some(1), None, 24..27, 6),
            (Some(2), None, 20..27, 2),
            (Some(9), None, 20..27, 2),
            (None, Some(0), 24..27, 6),
            (None, Some(1), 24..27, 6),
            // that of the 23rd was the last before the window began
            (None, Some(3), 20..27, 2),
            (None, Some(99), 20..27, 2),
            (Some(1), Some(3), 20..27, 2),
        ] {
            let plan = plan(&store, retention(count, window), at(26)).await.unwrap();
            let (stay, go) = days(&plan);
            let kept: Vec<u32> = kept.collect();
            assert_eq!(stay, kept, "{count:?} {window:?}");
            let gone: Vec<u32> = (20..27).rev().filter(|day| !kept.contains(day)).collect();
            assert_eq!(go, gone, "{count:?} {window:?}");
            assert_eq!(plan.wal_from, Some(Lsn::new(first_segment * MIB)));
            assert_eq!(plan.wal.len() as u64, first_segment - 1);
        }
    }

    #[tokio::test]
    async fn a_record_goes_before_what_it_needs_and_none_is_left_without_its_parent() {
        let store = archive().await;
        let retention = Retention { count: Some(1), window: None, leftover_age: DAY };
        let plan = plan(&store, retention, at(26)).await.unwrap();
        for stop in 0..plan.objects.len() + plan.wal.len() {
            let store = archive().await;
            for key in plan.objects.iter().chain(&plan.wal).take(stop) {
                store.remove(key).await.unwrap();
            }
            let listing = BackupListing::read(&store).await.unwrap();
            for record in &listing.backups {
                assert!(listing.chain_of(record).is_ok(), "{stop}");
                assert!(store.exists(&keys::sums_key(&record.name)).await.unwrap(), "{stop}");
            }
            assert!(listing.backups.len() >= 3);
        }
        remove(&store, &plan, |_| {}).await.unwrap();
        let listing = BackupListing::read(&store).await.unwrap();
        assert_eq!((listing.backups.len(), listing.unfinished.len()), (3, 0));
    }

    #[tokio::test]
    async fn what_is_being_taken_keeps_what_it_builds_upon() {
        let store = archive().await;
        let begun: BackupName = "20261126T110000Z-00000009".parse().unwrap();
        let content = "{\"format\":1,\"parent\":\"20261122T000000Z-00000001\"}";
        store.create(&keys::begun_key(&begun), Bytes::from(content)).await.unwrap();
        let retention = |leftover_age| Retention { count: Some(1), window: None, leftover_age };
        let now = SystemTime::now();
        let careful = plan(&store, retention(DAY), now).await.unwrap();
        assert_eq!(days(&careful).0, [20, 21, 22, 24, 25, 26]);
        assert!(careful.leftovers.is_empty());
        // from where on it needs WAL is not known yet, and then it is
        assert_eq!((careful.wal_from, careful.awaited.as_ref(), careful.wal.len()), (None, Some(&begun), 0));
        let start = start::encode(TimelineId::FIRST, Lsn::new(9 * MIB / 2));
        store.create(&keys::start_key(&begun), start).await.unwrap();
        let careful = plan(&store, retention(DAY), now).await.unwrap();
        assert_eq!((careful.wal_from, careful.awaited), (Some(Lsn::new(2 * MIB)), None));
        let other: BackupName = "20261126T110000Z-0000000a".parse().unwrap();
        store.create(&keys::begun_key(&other), Bytes::from_static(b"{}")).await.unwrap();
        let start = start::encode(TimelineId::FIRST, Lsn::new(MIB + 7));
        store.create(&keys::start_key(&other), start).await.unwrap();
        let careful = plan(&store, retention(DAY), now).await.unwrap();
        assert_eq!(careful.wal_from, Some(Lsn::new(MIB)));
        let later = plan(&store, retention(DAY), now + 2 * DAY).await.unwrap();
        assert_eq!(days(&later).0, [24, 25, 26]);
        assert_eq!(later.leftovers, [begun.clone(), other.clone()]);
        // one of the two is finished at the last moment
        store.create(&keys::record_key(&other), Bytes::from_static(b"record")).await.unwrap();
        remove(&store, &later, |_| {}).await.unwrap();
        assert!(list(&store, &begun).await.unwrap().is_empty());
        let left = list(&store, &other).await.unwrap();
        assert_eq!(left.iter().map(|object| &object.key).collect::<Vec<_>>(), [&keys::start_key(&other)]);
        store.remove(&keys::record_key(&other)).await.unwrap();
        assert!(matches!(plan(&store, Retention::default(), now).await, Err(PruneError::NoRetention)));
        store.create("backups/20261126T120000Z-00000009.json", Bytes::from_static(b"?")).await.unwrap();
        assert!(matches!(plan(&store, retention(DAY), now).await, Err(PruneError::Unreadable(_))));
    }
}
