//! Stores and networks on bad days, between a receiver and a real store: nothing is acknowledged that is not there, and nothing
//! is read that is not what was written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::harness::{caught_up, directory, keeping_wal, make_wal, receive, streaming};
use crate::support::faults::SmallDisk;
use crate::support::object_store::{self, ObjectStore};
use crate::support::store_proxy::{StoreFault, StoreProxy};
use crate::support::{Cluster, PATIENCE, Stop, Tool, servers, wait_until};
use crate::{require_root, require_server};

/// A synchronous primary, a store, and the proxy between the receiver and that.
struct Scene {
    // the receiver's store goes first
    proxy: StoreProxy,
    store: ObjectStore,
    received: PathBuf,
    primary: Cluster,
}

impl Scene {
    /// `None`: there is no store to be had.
    fn new() -> Option<Scene> {
        if object_store::program().is_none() {
            servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
            return None;
        }
        let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
        let received = directory(&primary);
        let store = ObjectStore::start(primary.dir());
        let proxy = StoreProxy::before(store.port(), store.root().to_owned());
        Some(Scene { proxy, store, received, primary })
    }

    fn receiver(&self) -> Tool {
        let tool = receive(&self.primary.conninfo(), &self.received);
        ObjectStore::credentials(tool.args(["--archive", &self.proxy.url("db1"), "--archive-delay", "0"]))
    }

    fn run(&self, args: &[&str], url: &str) -> Tool {
        ObjectStore::credentials(Tool::pgwake().args(args).args(["--archive", url]))
    }

    /// A commit that waits for the archive, and what was acknowledged then is in the store: asked without the proxy.
    fn commit(&self, row: usize) {
        self.commit_within(row, PATIENCE);
    }

    fn commit_within(&self, row: usize, patience: Duration) {
        let commit = format!("SET synchronous_commit = remote_apply; INSERT INTO t VALUES ({row})");
        let client = Tool::psql().args(["-XAtq", "-d", &self.primary.conninfo(), "-c", &commit]);
        client.timeout(patience).run().succeeded();
        let lsn = self.primary.psql("SELECT replay_lsn FROM pg_stat_replication");
        let listed = self.run(&["list", "--json"], &self.store.url("db1")).run().succeeded().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("a listing");
        let ranges = listed["timelines"][0]["ranges"].as_array().expect("ranges").clone();
        assert_eq!(ranges.len(), 1, "a gap: {ranges:?}");
        let end = ranges[0]["end_lsn"].as_str().expect("a position");
        let there = self.primary.psql(&format!("SELECT '{end}'::pg_lsn >= '{lsn}'::pg_lsn"));
        assert_eq!(there, "t", "{lsn} was acknowledged, and the archive ends at {end}");
    }
}

#[test]
fn nothing_is_acknowledged_that_is_not_in_the_store() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    let receiver = streaming(&scene.receiver());
    scene.primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    scene.primary.psql("SET synchronous_commit = local; CREATE TABLE t (i int)");
    let faults = [
        StoreFault::Status(500),
        StoreFault::Status(503),
        StoreFault::Status(429),
        StoreFault::CutBefore,
        StoreFault::LoseAnswer,
        StoreFault::WrongEtag,
        StoreFault::AlterRequest,
        StoreFault::Slow(Duration::from_secs(4)),
    ];
    for (row, fault) in faults.into_iter().enumerate() {
        let before = scene.proxy.faults();
        scene.proxy.next(2, "PUT", "/ranges/", fault);
        let started = Instant::now();
        scene.commit(row);
        if matches!(fault, StoreFault::Slow(_)) {
            assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
        }
        // whole segments, too
        scene.proxy.next(1, "PUT", "/wal/0", fault);
        // and what the parts of a segment that is whole are removed with
        scene.proxy.next(1, "DELETE", "/ranges/", fault);
        make_wal(&scene.primary, 2);
        scene.commit(row + 100);
        assert!(scene.proxy.faults() > before, "{fault:?} was not tried");
    }
    // and the lease: it outlives a store that does not answer for a while
    scene.proxy.next(6, "PUT", "/lease/", StoreFault::Status(503));
    caught_up(&scene.primary);
    receiver.terminate();
    receiver.wait().succeeded();
    let url = scene.store.url("db1");
    scene.run(&["wal", "verify"], &url).run().succeeded().says("nothing is wrong");
}

/// What an archive is begun with, and what a backup is made of.
#[test]
fn a_beginning_and_a_backup_outlive_bad_days() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    let faults = [
        StoreFault::Status(500),
        StoreFault::Status(503),
        StoreFault::Status(429),
        StoreFault::CutBefore,
        StoreFault::LoseAnswer,
        StoreFault::WrongEtag,
        StoreFault::AlterRequest,
    ];
    for fault in faults {
        scene.proxy.next(1, "PUT", "/probe/", fault);
        scene.proxy.next(1, "PUT", "/lease/", fault);
        scene.proxy.next(1, "PUT", "cluster.json", fault);
        scene.proxy.next(1, "GET", "list-type", fault);
    }
    let receiver = streaming(&scene.receiver());
    scene.primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    scene.primary.psql("SET synchronous_commit = local; CREATE TABLE t (i int)");
    scene.commit(1);
    let (proxied, plain) = (scene.proxy.url("db1"), scene.store.url("db1"));
    for (number, fault) in faults.into_iter().enumerate() {
        let before = scene.proxy.faults();
        scene.proxy.next(2, "PUT", "/backups/", fault);
        scene.proxy.next(1, "GET", "/backups/", fault);
        let taken = scene.run(&["backup", "-w", "-d", &scene.primary.conninfo()], &proxied).run();
        assert!(scene.proxy.faults() > before, "{fault:?} was not tried");
        // an answer that says what is wrong may end it; then there is no such backup
        let listed = scene.run(&["list", "--json"], &plain).run().succeeded().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("a listing");
        let count = listed["backups"].as_array().expect("backups").len();
        assert_eq!(taken.code, Some(0), "{fault:?}: {taken}");
        assert_eq!(count, number + 1, "{fault:?}");
    }
    receiver.terminate();
    receiver.wait().succeeded();
    scene.run(&["verify"], &plain).timeout(PATIENCE * 2).run().succeeded().says("nothing is wrong");
}

#[test]
fn nothing_is_read_that_does_not_check() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    let receiver = streaming(&scene.receiver());
    make_wal(&scene.primary, 3);
    caught_up(&scene.primary);
    let listed = || scene.run(&["list"], &scene.store.url("db1")).run();
    wait_until("it is archived", || listed().code == Some(0));
    receiver.terminate();
    receiver.wait().succeeded();
    let mut names: Vec<String> = super::harness::wal_files(&scene.received).into_iter().collect();
    names.retain(|name| name.len() == 24);
    let name = &names[0];
    let target = scene.primary.dir().subdir("fetched", 0o755).join("file");
    let path = target.to_str().expect("a path");
    let fetch = || scene.run(&["wal", "fetch", name, path], &scene.proxy.url("db1")).run();
    for fault in [StoreFault::Alter, StoreFault::Shorten] {
        scene.proxy.next(1, "GET", name, fault);
        fetch().exited(200).complains("is damaged");
        assert!(!target.exists(), "{fault:?}");
    }
    // what breaks off is asked for again, and what breaks off for good is no segment
    scene.proxy.next(1, "GET", name, StoreFault::Truncate);
    fetch();
    scene.proxy.next(100, "GET", name, StoreFault::Truncate);
    let _ = std::fs::remove_file(&target);
    fetch().exited(200);
    assert!(!target.exists());
    for status in [500, 503, 403] {
        scene.proxy.next(100, "GET", "cluster.json", StoreFault::Status(status));
        fetch().exited(200);
        assert!(!target.exists(), "{status}");
    }
}

/// Such as Garage, or rclone's server: what was archived could be written over.
#[test]
fn a_store_that_ignores_the_condition_is_found_out_before_anything_is_entrusted_to_it() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    scene.proxy.next(1000, "PUT", "/probe/", StoreFault::IgnoreCondition);
    scene.receiver().run().exited(1).complains("does not honour conditions").complains("If-None-Match");
    assert_eq!(
        scene.primary.psql("SELECT count(*) FROM pg_replication_slots"),
        "0",
        "a slot was left behind"
    );
    let left = std::fs::read_dir(scene.store.root().join("wal")).expect("the bucket").count();
    assert!(left <= 1, "more than the trial's prefix is there");
}

/// A wrong region, a store that knows only a part of the protocol: nothing that waiting heals.
#[test]
fn what_a_store_refuses_at_first_ends_the_run_and_its_answer_is_told_once() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    for status in [400, 405] {
        scene.proxy.next(1, "PUT", "/probe/", StoreFault::Status(status));
        let told = scene.receiver().run().exited(1).complains("could not create object \"probe/").stderr;
        assert_eq!(told.matches(&format!("status code: {status}")).count(), 1, "{told}");
        assert_eq!(told.matches("not today").count(), 1, "{told}");
    }
}

/// A file system that is full: what is received is safe meanwhile, and goes up when there is room.
#[test]
fn a_store_that_is_full_holds_up_nothing_but_what_waits_for_it() {
    require_server!();
    require_root!();
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let disk = SmallDisk::mount(primary.dir(), "small", 64 << 20);
    let url = format!("file://{}", disk.path().join("archive").display());
    let receiver = receive(&primary.conninfo(), &received);
    let mut receiver = streaming(&receiver.args(["--archive", &url, "--archive-delay", "0"]));
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("SET synchronous_commit = remote_apply; CREATE TABLE t (i int)");
    let ballast = disk.fill(0);
    make_wal(&primary, 3);
    receiver.wait_for_stderr("No space left on device");
    primary.psql("SET synchronous_commit = on; INSERT INTO t VALUES (1)");
    let commit = "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (2)";
    let waiting = Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", commit]).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    let archive = |words: &[&str]| Tool::pgwake().args(words).args(["--archive", &url]);
    archive(&["wal", "verify"]).run().succeeded().says("nothing is wrong");
    std::fs::remove_file(ballast).expect("make room");
    waiting.wait().succeeded();
    receiver.terminate();
    receiver.wait().succeeded();
    archive(&["wal", "verify"]).run().succeeded().says("nothing is wrong");
}

/// Longer than the lease, and as long as a request may take.
#[test]
#[ignore = "four minutes; run by make torture"]
fn a_store_that_takes_a_minute_for_an_object_loses_none() {
    require_server!();
    let Some(scene) = Scene::new() else { return };
    let receiver = streaming(&scene.receiver());
    scene.primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    scene.primary.psql("SET synchronous_commit = local; CREATE TABLE t (i int)");
    let slow = StoreFault::Slow(Duration::from_secs(60));
    for (row, path) in ["/ranges/", "/wal/0", "/lease/"].into_iter().enumerate() {
        let before = scene.proxy.faults();
        scene.proxy.next(1, "PUT", path, slow);
        make_wal(&scene.primary, 2);
        scene.commit_within(row, Duration::from_secs(150));
        wait_until("it was slow", || scene.proxy.faults() > before);
        scene.commit_within(row + 100, Duration::from_secs(150));
    }
    receiver.terminate();
    receiver.wait().succeeded();
    scene.run(&["wal", "verify"], &scene.store.url("db1")).run().succeeded().says("nothing is wrong");
}

/// A primary that is told to shut down waits for what its flush waits for, and no longer than a minute.
#[test]
#[ignore = "a minute; run by make torture"]
fn a_store_that_is_down_holds_up_a_shutdown_for_a_minute_where_flush_waits_for_it() {
    require_server!();
    let Some(mut scene) = Scene::new() else { return };
    let receiver = streaming(&scene.receiver().args(["--require-archive"]));
    scene.primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    scene.primary.psql("SET synchronous_commit = on; CREATE TABLE t (i int)");
    scene.store.stop();
    make_wal(&scene.primary, 1);
    let started = Instant::now();
    scene.primary.stop(Stop::Fast);
    let took = started.elapsed();
    assert!((Duration::from_secs(50)..Duration::from_secs(90)).contains(&took), "{took:?}");
    // what was not archived is on the primary, and behind the slot
    scene.store.resume();
    scene.primary.start();
    scene.commit(1);
    receiver.terminate();
    receiver.wait().succeeded().complains("server is shutting down and has waited for 60 s");
    scene.primary.stop(Stop::Fast);
    scene.run(&["wal", "verify"], &scene.store.url("db1")).run().succeeded().says("nothing is wrong");
}
