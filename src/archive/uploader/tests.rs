//! The thread against a store in memory and a real directory.

mod holding;

use std::path::PathBuf;

use bytes::Bytes;
use object_store::memory::InMemory;

use super::super::layout::{Generation, SegmentRange};
use super::super::testing::{HookedStore, Verb};
use super::super::{Access, AtGap, Catalog, Fetched, fetch, layout, lease};
use super::*;
use crate::ErrorClass;
use crate::pg::{SystemIdentifier, WalFileName, WalSegmentSize};

const MIB: u64 = 1 << 20;
const SYSTEM: u64 = 7_000_000_000_000_000_001;

fn size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(MIB).unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn file(number: u32, segment: u64) -> WalFileName {
    WalFileName { timeline: timeline(number), segment: size().segment_at(Lsn::new(segment * MIB)) }
}

fn options() -> UploadOptions {
    UploadOptions {
        delay: Duration::ZERO,
        lease: Duration::from_secs(30),
        gaps: Gaps::Refuse,
        take_over: TakeOver::Never,
        spool_limit: None,
        keep_len: None,
    }
}

/// A directory, a store, and the feed that a sink would make.
struct Scene {
    directory: tempfile::TempDir,
    store: ArchiveStore,
    uploader: Option<Uploader>,
    gaps: Gaps,
}

impl Scene {
    fn new() -> Self {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db");
        Self::over(store)
    }

    fn over(store: ArchiveStore) -> Self {
        Scene { directory: tempfile::tempdir().unwrap(), store, uploader: None, gaps: Gaps::Refuse }
    }

    fn start(&mut self) {
        let options = UploadOptions { gaps: self.gaps, ..options() };
        let uploader = Uploader::start(self.store.clone(), self.directory.path(), options).unwrap();
        let stamp = ClusterStamp { system_identifier: SystemIdentifier::new(SYSTEM), segment_size: size() };
        uploader.feed.send_modify(|feed| feed.stamp = Some(stamp));
        self.uploader = Some(uploader);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Bytes that differ from place to place; a segment's first ones are a page header's.
    fn wal(number: u32, segment: u64, len: u64) -> Vec<u8> {
        let mut wal: Vec<u8> =
            (0..len).map(|at| (at / 7 + segment * 31 + u64::from(number)) as u8 | 1).collect();
        // the number of PostgreSQL 15's format
        let header = [
            (0, &0xd110u16.to_le_bytes()[..]),
            (4, &number.to_le_bytes()),
            (8, &(segment * MIB).to_le_bytes()),
            (24, &SYSTEM.to_le_bytes()),
            (32, &(MIB as u32).to_le_bytes()),
        ];
        for (at, bytes) in header {
            wal[at..at + bytes.len()].copy_from_slice(bytes);
        }
        wal
    }

    fn write(&self, number: u32, segment: u64, len: u64) {
        let name = file(number, segment).to_string();
        let name = if len == MIB { name } else { format!("{name}.partial") };
        std::fs::write(self.path(&name), Self::wal(number, segment, len)).unwrap();
    }

    /// The sink says that all before `lsn` is durable.
    fn flushed(&self, number: u32, lsn: u64) {
        let uploader = self.uploader.as_ref().unwrap();
        uploader.feed.send_modify(|feed| {
            feed.begin(timeline(number), Lsn::INVALID);
            feed.flushed(timeline(number), Lsn::new(lsn));
        });
    }

    async fn archived(&mut self, number: u32, lsn: u64) {
        let uploader = self.uploader.as_mut().unwrap();
        let wanted = |told: &Told| {
            told.archived.is_some_and(|archived| {
                archived.timeline == timeline(number) && archived.lsn == Lsn::new(lsn)
            })
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), uploader.told.wait_for(wanted)).await;
        reached.expect("archived in time").unwrap();
    }

    async fn finish(&mut self) -> Result<Option<u64>, ArchiveError> {
        self.uploader.take().unwrap().finish(Duration::from_secs(20)).await
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
    }

    async fn fetched(&self, name: &str) -> (Fetched, Vec<u8>) {
        let target = self.path("fetched");
        let fetched = fetch(&self.store, name, &target, AtGap::Fail).await.unwrap();
        (fetched, std::fs::read(target).unwrap_or_default())
    }
}

#[tokio::test]
async fn parts_go_up_as_they_become_durable_and_are_folded() {
    let mut scene = Scene::new();
    scene.start();
    scene.write(1, 3, 1000);
    scene.flushed(1, 3 * MIB + 1000);
    scene.archived(1, 3 * MIB + 1000).await;
    let (fetched, wal) = scene.fetched("000000010000000000000003").await;
    assert_eq!(fetched, Fetched::Partial { end_lsn: Lsn::new(3 * MIB + 1000) });
    assert_eq!((wal.len() as u64, &wal[..1000]), (MIB, &Scene::wal(1, 3, 1000)[..]));
    assert!(wal[1000..].iter().all(|byte| *byte == 0));

    std::fs::remove_file(scene.path("000000010000000000000003.partial")).unwrap();
    scene.write(1, 3, MIB);
    scene.write(1, 4, 50);
    scene.flushed(1, 4 * MIB + 50);
    scene.archived(1, 4 * MIB + 50).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    assert_eq!(scene.keys("wal/").await, ["wal/00000001/000000010000000000000003.zst"]);
    assert_eq!(scene.keys("ranges/").await.len(), 1, "parts of a whole segment are removed");
    assert_eq!(scene.keys("probe/").await, [""; 0]);
    let (fetched, wal) = scene.fetched("000000010000000000000003").await;
    assert_eq!((fetched, wal), (Fetched::Segment, Scene::wal(1, 3, MIB)));
    assert_eq!(scene.fetched("000000010000000000000005").await.0, Fetched::Nothing);
    assert_eq!(scene.fetched("000000010000000000000005.00000028.backup").await.0, Fetched::Nothing);
}

/// A writer that had lost the archive was late with the whole of a segment, of another history of the timeline.
#[tokio::test]
async fn what_was_acknowledged_stays_beside_a_whole_that_contradicts_it() {
    let mut scene = Scene::new();
    scene.start();
    scene.write(1, 3, 1000);
    scene.flushed(1, 3 * MIB + 1000);
    scene.archived(1, 3 * MIB + 1000).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let parts = scene.keys("ranges/").await;
    let mut other = Scene::wal(1, 3, MIB);
    other[900] ^= 0xff;
    let content = super::super::wal_object::encode(&other).unwrap();
    scene.store.create(&layout::segment_key(file(1, 3)), content).await.unwrap();
    // by whoever comes next, however often
    for _ in 0..2 {
        scene.start();
        scene.flushed(1, 3 * MIB + 1000);
        let error = scene.finish().await.unwrap_err();
        assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
        assert_eq!((parts.len(), scene.keys("ranges/").await), (1, parts.clone()));
    }
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_archive_ends() {
    let mut scene = Scene::new();
    for segment in 2..5 {
        scene.write(1, segment, MIB);
    }
    scene.write(1, 5, 300);
    scene.start();
    scene.flushed(1, 5 * MIB + 300);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    assert_eq!(scene.keys("wal/").await.len(), 3);

    // what is up is not looked at again: its files may be gone
    for segment in 2..5 {
        std::fs::remove_file(scene.path(&file(1, segment).to_string())).unwrap();
    }
    scene.write(1, 5, 800);
    scene.start();
    scene.flushed(1, 5 * MIB + 800);
    scene.archived(1, 5 * MIB + 800).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let catalog = Catalog::read(&scene.store).await.unwrap();
    let stretches = catalog.timelines[0].stretches();
    assert_eq!(stretches.len(), 1, "{stretches:?}");
    assert_eq!(stretches[0].end_lsn, Lsn::new(5 * MIB + 800));
    assert_eq!((catalog.identity.major, scene.keys("ranges/").await.len()), (15, 2));
}

#[tokio::test]
async fn a_timeline_that_was_left_is_archived_to_its_end_and_the_next_behind_its_history() {
    let mut scene = Scene::new();
    scene.write(1, 2, MIB);
    scene.write(1, 3, 5000);
    scene.start();
    scene.flushed(1, 3 * MIB + 5000);
    scene.archived(1, 3 * MIB + 5000).await;
    std::fs::write(scene.path("00000002.history"), "1\t0/301000\tno recovery target specified\n").unwrap();
    scene.write(2, 3, 7000);
    scene.flushed(2, 3 * MIB + 7000);
    scene.archived(2, 3 * MIB + 7000).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    assert_eq!(scene.fetched("00000002.history").await.0, Fetched::History);
    let catalog = Catalog::read(&scene.store).await.unwrap();
    let ends: Vec<Lsn> =
        catalog.timelines.iter().map(|content| content.stretches().last().unwrap().end_lsn).collect();
    assert_eq!(ends, [Lsn::new(3 * MIB + 5000), Lsn::new(3 * MIB + 7000)]);
}

#[tokio::test]
async fn nothing_is_written_over_and_other_content_ends_it() {
    let mut scene = Scene::new();
    scene.write(1, 2, MIB);
    scene.write(1, 3, 100);
    let content = super::super::wal_object::encode(&Scene::wal(1, 9, MIB)).unwrap();
    let key = layout::segment_key(file(1, 4));
    scene.store.create(&key, content).await.unwrap();
    scene.write(1, 4, MIB);
    // the archive has segment 4, but not what comes before it
    scene.start();
    scene.flushed(1, 3 * MIB + 100);
    scene.archived(1, 3 * MIB + 100).await;
    std::fs::remove_file(scene.path("000000010000000000000003.partial")).unwrap();
    scene.write(1, 3, MIB);
    scene.flushed(1, 5 * MIB);
    let error = scene.finish().await.unwrap_err();
    assert!(matches!(&error, ArchiveError::Conflict { key: found } if *found == key), "{error}");
    assert_eq!(error.class(), ErrorClass::Integrity);
}

/// What has become durable is archived, whatever has come of the stream after it: there may be no room for that before.
#[tokio::test]
async fn a_timeline_that_ended_before_the_store_answered_is_archived() {
    let mut scene = Scene::new();
    scene.write(1, 3, 5000);
    scene.start();
    let uploader = scene.uploader.as_ref().unwrap();
    uploader.feed.send_modify(|feed| {
        feed.begin(timeline(1), Lsn::INVALID);
        feed.flushed(timeline(1), Lsn::new(3 * MIB + 5000));
        feed.begin(timeline(2), Lsn::new(3 * MIB));
    });
    scene.archived(1, 3 * MIB + 5000).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
}

/// Segments leave the directory when the archive has them, or nobody needs them any more, and what has gone there is put up again
/// before that. None of it holds up the end of a run.
#[tokio::test]
async fn what_is_removed_here_was_seen_there() {
    let mut scene = Scene::new();
    scene.start();
    for segment in 2..8 {
        scene.write(1, segment, MIB);
    }
    scene.flushed(1, 8 * MIB);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    // 2 and 3 were pruned, 5 has been lost
    for segment in [2, 3, 5] {
        scene.store.remove(&layout::segment_key(file(1, segment))).await.unwrap();
    }
    let begun = |keep_len| {
        let options = UploadOptions { keep_len, ..options() };
        let uploader = Uploader::start(scene.store.clone(), scene.directory.path(), options).unwrap();
        let stamp = ClusterStamp { system_identifier: SystemIdentifier::new(SYSTEM), segment_size: size() };
        uploader.feed.send_modify(|feed| {
            feed.stamp = Some(stamp);
            feed.begin(timeline(1), Lsn::INVALID);
            feed.flushed(timeline(1), Lsn::new(8 * MIB));
        });
        uploader
    };
    let is_here = |segment: u64| scene.path(&file(1, segment).to_string()).exists();
    let uploader = begun(Some(0));
    tokio::time::timeout(Duration::from_secs(20), async {
        while (2..6).any(is_here) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| {
        panic!("{:?} are here", (2..8).filter(|segment| is_here(*segment)).collect::<Vec<_>>())
    });
    assert_eq!(uploader.finish(Duration::from_secs(20)).await.unwrap(), Some(0));
    assert!(is_here(6) && is_here(7));
    let there = scene.keys("wal/").await;
    assert!(there.contains(&layout::segment_key(file(1, 5))), "{there:?}");
    assert!(lease::last_holder(&scene.store).await.unwrap().unwrap().archived_all);
}

/// The store does not answer while the server is promoted twice.
#[tokio::test]
async fn a_timeline_that_came_and_went_meanwhile_is_archived() {
    let gate = Arc::new(watch::Sender::new(false));
    let opened = Arc::clone(&gate);
    let (store, _) = HookedStore::archive(move |verb, key| {
        let mut opened = opened.subscribe();
        let waits = verb == Verb::List && key.contains("00000001");
        Box::pin(async move {
            if waits {
                opened.wait_for(|opened| *opened).await.unwrap();
            }
            Ok(())
        })
    });
    let mut scene = Scene::over(store);
    scene.start();
    scene.write(1, 3, 5000);
    scene.flushed(1, 3 * MIB + 4000);
    while scene.store.read("cluster.json", 4096).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // of the end of timeline 1 nothing was told
    std::fs::write(scene.path("00000002.history"), "1\t0/301000\tno recovery target specified\n").unwrap();
    scene.write(2, 3, MIB);
    scene.write(2, 4, 504);
    scene.flushed(2, 4 * MIB + 300);
    let history = "1\t0/301000\tno reason\n2\t0/4001F8\tno reason\n";
    std::fs::write(scene.path("00000003.history"), history).unwrap();
    scene.write(3, 4, 900);
    scene.flushed(3, 4 * MIB + 900);
    gate.send_replace(true);
    scene.archived(3, 4 * MIB + 900).await;
    let catalog = Catalog::read(&scene.store).await.unwrap();
    let end = |content: &super::super::TimelineContent| content.stretches().last().unwrap().end_lsn;
    let ends: Vec<Lsn> = catalog.timelines.iter().map(end).collect();
    assert_eq!(ends, [3 * MIB + 5000, 4 * MIB + 504, 4 * MIB + 900].map(Lsn::new));
    assert_eq!(scene.finish().await.unwrap(), Some(0));
}

/// Two standbys promoted at the same place have the same history, and not the same WAL.
#[tokio::test]
async fn what_another_server_put_up_does_not_count() {
    for whole in [false, true] {
        let mut scene = Scene::new();
        let mut other = Scene::wal(2, 3, MIB);
        other[70_000] ^= 6;
        let range = SegmentRange {
            file: file(2, 3),
            start_lsn: Lsn::new(3 * MIB),
            end_lsn: Lsn::new(3 * MIB + 80_000),
            generation: Generation::FIRST,
        };
        let (key, len) =
            if whole { (layout::segment_key(file(2, 3)), MIB) } else { (range.key(), range.wal_len()) };
        let content = super::super::wal_object::encode(&other[..len as usize]).unwrap();
        scene.store.create(&key, content).await.unwrap();
        std::fs::write(scene.path("00000002.history"), "1\t0/301000\tno recovery target specified\n")
            .unwrap();
        scene.write(2, 3, MIB);
        scene.write(2, 4, 800);
        scene.start();
        scene.flushed(2, 4 * MIB + 800);
        let error = scene.finish().await.unwrap_err();
        assert!(matches!(&error, ArchiveError::Conflict { key: found } if *found == key), "{error}");
    }
}

/// Also where its segment is further on than this directory.
#[tokio::test]
async fn a_whole_segment_of_another_server_is_noticed_before_anything_in_it_is_archived() {
    let mut scene = Scene::new();
    let key = layout::segment_key(file(1, 4));
    let content = super::super::wal_object::encode(&Scene::wal(9, 4, MIB)).unwrap();
    scene.store.create(&key, content).await.unwrap();
    scene.write(1, 3, MIB);
    scene.write(1, 4, 800);
    scene.start();
    scene.flushed(1, 4 * MIB + 800);
    scene.archived(1, 4 * MIB).await;
    assert_eq!(scene.keys("ranges/").await, [""; 0], "a part was put beside a whole segment");
    let error = scene.finish().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
}

/// What a run has put up and did not live to clean up after.
#[tokio::test]
async fn parts_stay_until_their_segment_can_be_read() {
    let mut scene = Scene::new();
    let range = SegmentRange {
        file: file(1, 3),
        start_lsn: Lsn::new(3 * MIB),
        end_lsn: Lsn::new(4 * MIB),
        generation: Generation::FIRST,
    };
    let content = super::super::wal_object::encode(&Scene::wal(1, 3, MIB)).unwrap();
    let mut damaged = content.to_vec();
    damaged[content.len() / 2] ^= 0xff;
    scene.store.create(&range.key(), content).await.unwrap();
    scene.store.create(&layout::segment_key(file(1, 3)), Bytes::from(damaged)).await.unwrap();
    scene.write(1, 3, MIB);
    scene.write(1, 4, 100);
    scene.start();
    scene.flushed(1, 4 * MIB + 100);
    let error = scene.finish().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    assert_eq!(scene.keys("ranges/").await, [range.key()]);
}

/// A store may say "there is one" of what it is still writing, or has just removed.
#[tokio::test]
async fn what_exists_and_is_not_there_is_tried_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let count = AtomicUsize::new(0);
    let (store, _) = HookedStore::archive(move |verb, key| {
        let create = verb == Verb::Create && (key.contains("probe") || key.contains("ranges"));
        // the first probe, and the first part
        let fails = create && matches!(count.fetch_add(1, Ordering::Relaxed), 0 | 3);
        let path = key.to_owned();
        Box::pin(async move {
            let source = "in use".into();
            if fails { Err(object_store::Error::AlreadyExists { path, source }) } else { Ok(()) }
        })
    });
    let mut scene = Scene::over(store);
    scene.write(1, 3, 100);
    scene.start();
    scene.flushed(1, 3 * MIB + 100);
    scene.archived(1, 3 * MIB + 100).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
}

/// A receiver's disk is lost while the store is away; the slot goes on behind what was lost.
#[tokio::test]
async fn nothing_is_put_up_behind_a_gap_unless_that_is_accepted() {
    let mut scene = Scene::new();
    scene.write(1, 3, MIB);
    scene.write(1, 4, 100);
    scene.start();
    scene.flushed(1, 4 * MIB + 100);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    scene.directory = tempfile::tempdir().unwrap();
    scene.write(1, 6, MIB);
    scene.write(1, 7, 100);
    scene.start();
    scene.flushed(1, 7 * MIB + 100);
    let error = scene.finish().await.unwrap_err();
    let (from, to) = (Lsn::new(4 * MIB + 100), Lsn::new(6 * MIB));
    assert!(matches!(error, ArchiveError::Gap { from: f, to: t, .. } if (f, t) == (from, to)), "{error}");
    assert_eq!(scene.keys("wal/").await.len(), 1);

    scene.gaps = Gaps::Accept;
    scene.start();
    scene.flushed(1, 7 * MIB + 100);
    scene.archived(1, 7 * MIB + 100).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    // said once
    scene.gaps = Gaps::Refuse;
    std::fs::remove_file(scene.path("000000010000000000000007.partial")).unwrap();
    for segment in 7..11 {
        scene.write(1, segment, MIB);
    }
    scene.start();
    scene.flushed(1, 11 * MIB);
    scene.archived(1, 11 * MIB).await;
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let target = scene.path("fetched");
    let name = "000000010000000000000004";
    let error = fetch(&scene.store, name, &target, AtGap::Fail).await.unwrap_err();
    assert!(matches!(error, ArchiveError::EndsInGap { .. }), "{error}");
    let found = fetch(&scene.store, name, &target, AtGap::End).await.unwrap();
    assert_eq!(found, Fetched::Partial { end_lsn: from });
}

/// The directory begins on timeline 2, and the archive's timeline 1 ends before that.
#[tokio::test]
async fn a_timeline_is_not_put_up_behind_a_gap_before_it() {
    let mut scene = Scene::new();
    scene.write(1, 2, MIB);
    scene.write(1, 3, 104);
    scene.start();
    scene.flushed(1, 3 * MIB + 104);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    for (switch, is_gap) in [("0/300068", false), ("0/500100", true)] {
        scene.directory = tempfile::tempdir().unwrap();
        let history = format!("1\t{switch}\tno recovery target specified\n");
        std::fs::write(scene.path("00000002.history"), history).unwrap();
        let segment = if is_gap { 5 } else { 3 };
        scene.write(2, segment, 800);
        scene.start();
        scene.flushed(2, segment * MIB + 800);
        let finished = scene.finish().await;
        if is_gap {
            assert!(matches!(finished, Err(ArchiveError::Gap { .. })), "{finished:?}");
        } else {
            assert_eq!(finished.unwrap(), Some(0));
            scene.store.remove(&layout::history_key(timeline(2))).await.unwrap();
            for key in scene.keys("ranges/00000002/").await {
                scene.store.remove(&key).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_directory_of_compressed_segments_is_refused() {
    let scene = Scene::new();
    std::fs::write(scene.path("000000010000000000000004.zst.partial"), b"x").unwrap();
    let options = UploadOptions { gaps: Gaps::Refuse, ..options() };
    let error = Uploader::start(scene.store.clone(), scene.directory.path(), options).unwrap_err();
    assert!(matches!(&error, ArchiveError::Compressed { name, .. } if name.contains(".zst")), "{error}");
}

/// A disk that is not mounted.
#[tokio::test]
async fn an_archive_that_was_there_and_is_empty_is_not_begun_anew() {
    let place = tempfile::tempdir().unwrap();
    let open = || {
        let url = format!("file://{}/archive", place.path().display()).parse().unwrap();
        ArchiveStore::open(&url, Access::Write).unwrap()
    };
    let mut scene = Scene::over(open());
    scene.write(1, 3, MIB);
    scene.write(1, 4, 104);
    for round in 0..2 {
        scene.start();
        scene.flushed(1, 4 * MIB + 104);
        assert_eq!(scene.finish().await.unwrap(), Some(0), "{round}");
    }
    std::fs::remove_dir_all(place.path().join("archive")).unwrap();
    scene.store = open();
    scene.start();
    scene.flushed(1, 4 * MIB + 104);
    let error = scene.finish().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Gone { .. }), "{error}");
    assert!(scene.keys("wal/").await.is_empty());
}

/// A directory that another program has filled, with what another cluster left there.
#[tokio::test]
async fn segments_that_are_not_this_clusters_are_not_put_up() {
    for (at, byte) in [(24, 7), (9, 9), (4, 2)] {
        let mut scene = Scene::new();
        let mut foreign = Scene::wal(1, 2, MIB);
        foreign[at] = byte;
        std::fs::write(scene.path(&file(1, 2).to_string()), foreign).unwrap();
        scene.write(1, 3, 800);
        scene.start();
        scene.flushed(1, 3 * MIB + 800);
        let error = scene.finish().await.unwrap_err();
        assert!(matches!(error, ArchiveError::Foreign { .. }), "{error}");
        assert!(scene.keys("wal/").await.is_empty());
        // what is up already is the archive's business
        let content = super::super::wal_object::encode(&Scene::wal(1, 2, MIB)).unwrap();
        scene.store.create(&layout::segment_key(file(1, 2)), content).await.unwrap();
        scene.start();
        scene.flushed(1, 3 * MIB + 800);
        let finished = scene.finish().await;
        assert!(matches!(finished, Err(ArchiveError::Conflict { .. })), "{finished:?}");
    }
}
