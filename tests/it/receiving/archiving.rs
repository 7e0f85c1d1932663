//! `pgwake receive --archive`: what waits for the archive is in it, and comes back from it when all else is lost.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::harness::{
    Ledger, assert_holds, assert_same_as, base_backup, caught_up, directory, from_slot, keeping_wal,
    make_wal, receive, recover_with, streaming, without_slot,
};
use crate::require_server;
use crate::support::object_store::{self, ObjectStore};
use crate::support::{Cluster, Stop, Tool, servers, wait_until};

/// A synchronous primary whose receiver archives.
fn witnessed() -> Cluster {
    keeping_wal(1).setting("synchronous_standby_names", "pgwake").start()
}

fn archiving(primary: &Cluster, received: &Path, url: &str) -> Tool {
    let tool = receive(&primary.conninfo(), received);
    tool.args(["--archive", url, "--archive-delay", "0"])
}

/// A place for a directory that is an archive.
fn archive_directory(primary: &Cluster) -> String {
    format!("file://{}", primary.dir().subdir("archive", 0o700).display())
}

fn fetch_command(url: &str) -> String {
    let pgwake = Tool::pgwake().by_server_user();
    format!("{} wal fetch --archive {url} %f %p", pgwake.program().display())
}

fn list(url: &str) -> serde_json::Value {
    let listed = ObjectStore::credentials(Tool::pgwake().args(["list", "--archive", url, "--json"])).run();
    serde_json::from_str(&listed.succeeded().stdout).expect("a listing in JSON")
}

/// How far the archive goes on a timeline, without a gap.
fn archive_end(url: &str, timeline: u64) -> Option<String> {
    let listed = list(url);
    let mut timelines = listed["timelines"].as_array()?.iter();
    let content = timelines.find(|content| content["timeline"] == timeline)?;
    let ranges = content["ranges"].as_array()?;
    // an object on its way to a directory has a name there before it is one
    let last = ranges.last()?;
    assert_eq!(ranges.len(), 1, "gaps: {content}");
    Some(last["end_lsn"].as_str()?.to_owned())
}

/// The drill: a client that counts on the archive, and then everything but the archive and a base backup is gone.
#[test]
fn what_waited_for_the_archive_survives_the_loss_of_all_else() {
    require_server!();
    let primary = witnessed();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let receiver = streaming(&archiving(&primary, &received, &url));
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    let backup = base_backup(&primary, "backup");
    let ledger = Ledger::begin(&primary, "remote_apply");
    make_wal(&primary, 3);
    std::thread::sleep(Duration::from_millis(1500));
    primary.kill9();
    receiver.kill9();
    receiver.wait();
    let acknowledged = ledger.end();
    fs::remove_dir_all(&received).expect("lose what was received");
    fs::remove_dir_all(primary.data_dir()).expect("lose the primary");
    let restored = recover_with(&primary, &backup, &fetch_command(&url));
    assert_holds(&restored, &acknowledged);
}

#[test]
fn applied_is_what_is_in_the_archive() {
    require_server!();
    let primary = witnessed();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let receiver = streaming(&archiving(&primary, &received, &url));
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("CREATE TABLE t (i int)");
    let started = Instant::now();
    for i in 0..5 {
        primary.psql(&format!("SET synchronous_commit = remote_apply; INSERT INTO t VALUES ({i})"));
        let lsn = primary.psql("SELECT replay_lsn FROM pg_stat_replication");
        let archived = archive_end(&url, 1).expect("something is archived");
        assert_eq!(primary.psql(&format!("SELECT '{archived}'::pg_lsn >= '{lsn}'::pg_lsn")), "t");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    make_wal(&primary, 4);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    let finished = assert_same_as(&[&primary], &received);
    assert!(finished.len() >= 4);
    // each comes back as it is, the unfinished one filled up
    let target = primary.dir().subdir("fetched", 0o755);
    for name in &finished {
        let path = target.join(name);
        Tool::pgwake().args(["wal", "fetch", "--archive", &url, name]).arg(&path).run().succeeded();
        assert!(fs::read(&path).unwrap() == fs::read(received.join(name)).unwrap(), "{name}");
    }
    let parts = list(&url)["timelines"][0]["parts"].as_u64().unwrap();
    assert!(parts < 60, "{parts} parts: those of whole segments are still there");
}

#[test]
fn a_failover_is_archived_on_both_timelines() {
    require_server!();
    let primary = witnessed();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let receiver = streaming(&archiving(&primary, &received, &url));
    let backup = base_backup(&primary, "backup");
    primary.psql("SET synchronous_commit = local; CREATE TABLE ledger (id int PRIMARY KEY, note text)");
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO ledger VALUES (1, 'before')");
    primary.stop(Stop::Fast);
    let signal = primary.dir().file("socket_signal", 0o600, "");
    fs::rename(signal, primary.data_dir().join("standby.signal")).expect("make it a standby of nobody");
    primary.start();
    primary.promote();
    primary.wait_for("SELECT pg_is_in_recovery()", "f");
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO ledger VALUES (2, 'after')");
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(archive_end(&url, 1).is_some() && archive_end(&url, 2).is_some());
    let timelines = list(&url)["timelines"].clone();
    assert_eq!(timelines[1]["history"], true, "{timelines}");
    primary.stop(Stop::Immediate);
    let restored = recover_with(&primary, &backup, &fetch_command(&url));
    assert_holds(&restored, &[1, 2]);
}

#[test]
fn a_store_that_is_away_holds_up_nothing_but_what_waits_for_it() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = witnessed();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    let tool = ObjectStore::credentials(archiving(&primary, &received, &url));
    let receiver = streaming(&tool);
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("SET synchronous_commit = remote_apply; CREATE TABLE t (i int)");

    store.stop();
    let started = Instant::now();
    primary.psql("SET synchronous_commit = on; INSERT INTO t VALUES (1)");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let commit = "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (2)";
    let waiting = Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", commit]).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    make_wal(&primary, 3);
    caught_up(&primary);
    assert_eq!(primary.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "1");

    store.resume();
    waiting.wait().succeeded();
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (3)");
    // a primary that goes down waits for the directory, not for the store
    store.stop();
    make_wal(&primary, 1);
    let started = Instant::now();
    primary.stop(Stop::Fast);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    receiver.terminate();
    receiver.wait().succeeded().complains("are not in the archive yet");

    // the next run puts up the rest
    store.resume();
    primary.start();
    let receiver = streaming(&tool);
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (4)");
    receiver.terminate();
    receiver.wait().succeeded();
    let finished = assert_same_as(&[&primary], &received);
    let target = primary.dir().subdir("fetched", 0o755);
    for name in &finished {
        let path = target.join(name);
        let fetched = Tool::pgwake().args(["wal", "fetch", "--archive", &url, name]).arg(&path);
        ObjectStore::credentials(fetched).run().succeeded();
        assert!(fs::read(&path).unwrap() == fs::read(received.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn what_cannot_be_an_archive_is_refused_before_anything_is_received() {
    require_server!();
    let (primary, other) = (keeping_wal(1).start(), keeping_wal(1).start());
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let refused = |url: &str| receive(&primary.conninfo(), &received).args(["--archive", url]).run();
    refused("s3://wal/db1?secret_access_key=hunter2").exited(2).complains("is a secret");
    refused("ftp://host/x").exited(2).complains("none of s3, gs, az and file");
    refused("s3://wal/db1?endpoint=http://127.0.0.1:9&colour=red")
        .exited(1)
        .complains("no option \"colour\"");
    assert_eq!(primary.psql(slots), "0", "a slot was left behind");

    // somebody else's
    let receiver = streaming(&receive(&other.conninfo(), &directory(&other)).args(["--archive", &url]));
    make_wal(&other, 1);
    wait_until("it is archived", || archive_end_if_any(&url).is_some());
    receiver.terminate();
    receiver.wait().succeeded();
    make_wal(&primary, 1);
    refused(&url).exited(3).complains("holds the WAL of system").complains("prefix of its own");
}

fn archive_end_if_any(url: &str) -> Option<String> {
    let listed = Tool::pgwake().args(["list", "--archive", url]).run();
    if listed.code == Some(0) { archive_end(url, 1) } else { None }
}

/// A second receiver, with a directory and a slot of its own, for the same archive.
fn rival(primary: &Cluster, url: &str) -> Tool {
    let directory = primary.dir().subdir("rival", 0o700);
    let tool = without_slot(&primary.conninfo(), &directory).args(["--slot", "rival", "--create-slot"]);
    tool.args(["--archive", url, "--archive-delay", "0", "--archive-lease", "2s"])
}

#[test]
fn a_second_receiver_refuses_and_says_who_has_the_archive() {
    require_server!();
    let primary = keeping_wal(1).start();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let (first, rival) =
        (archiving(&primary, &received, &url).args(["--archive-lease", "2s"]), rival(&primary, &url));
    let receiver = streaming(&first);
    let refused = rival.run().exited(1);
    refused
        .complains(&format!("the archive is held by another receiver: process {} on", receiver.pid()))
        .complains(&format!("(directory \"{}\") since 20", received.display()))
        .complains("--take-over takes the archive");
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'rival'"), "0");
    // the same directory is not even looked at
    first.run().exited(1).complains("is in use by another receiver");

    // killed, it goes on at once
    receiver.kill9();
    receiver.wait();
    let started = Instant::now();
    let receiver = streaming(&first);
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
    make_wal(&primary, 1);
    caught_up(&primary);
    // one that lives can be told to leave
    let taker = streaming(&rival.clone().args(["--take-over"]));
    let left = receiver.wait().exited(1);
    left.complains("another receiver has taken the archive over").complains(&taker.pid().to_string());
    taker.terminate();
    taker.wait().succeeded();
    // and one that has gone is not waited for
    let started = Instant::now();
    let receiver = streaming(&first);
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
    receiver.terminate();
    receiver.wait().succeeded();
}

/// A machine that hangs for longer than its lease, and comes back.
#[test]
fn a_stopped_receiver_that_wakes_writes_nothing_that_counts() {
    require_server!();
    let primary = keeping_wal(1).setting("synchronous_standby_names", "ANY 1 (pgwake)").start();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    primary.psql("SELECT pg_create_physical_replication_slot('rival', true)");
    let receiver = streaming(&archiving(&primary, &received, &url).args(["--archive-lease", "2s"]));
    primary.psql("SET synchronous_commit = local; CREATE TABLE t (i int)");
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1)");
    receiver.signal(rustix::process::Signal::STOP);
    // some of it is in the stopped one's socket
    make_wal(&primary, 2);
    let mut other = streaming(&from_slot(rival(&primary, &url), &primary, "rival"));
    other.wait_for_stderr("it is taken over when its time is up");
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (2)");
    receiver.signal(rustix::process::Signal::CONT);
    receiver.wait().exited(1).complains("another receiver has taken the archive over");
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (3)");
    let lsn = primary.psql("SELECT replay_lsn FROM pg_stat_replication");
    let archived = archive_end(&url, 1).expect("something is archived");
    assert_eq!(primary.psql(&format!("SELECT '{archived}'::pg_lsn >= '{lsn}'::pg_lsn")), "t");
    other.terminate();
    other.wait().succeeded();
    Tool::pgwake().args(["wal", "verify", "--archive", &url]).run().succeeded().says("nothing is wrong");
}

/// A server that recovers takes exit codes up to 125 for "there is no such file".
#[test]
fn only_what_the_archive_does_not_have_is_not_there() {
    require_server!();
    let primary = keeping_wal(1).start();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let receiver =
        streaming(&receive(&primary.conninfo(), &received).args(["--archive", &url, "--archive-delay", "0"]));
    make_wal(&primary, 2);
    caught_up(&primary);
    wait_until("it is archived", || archive_end_if_any(&url).is_some());
    receiver.terminate();
    receiver.wait().succeeded();
    let finished = assert_same_as(&[&primary], &received);
    let first = finished.first().expect("a finished segment");
    let target = primary.dir().subdir("fetched", 0o755).join("file");
    let fetch = |url: &str, name: &str| {
        let tool = Tool::pgwake().args(["wal", "fetch", "--archive", url, name]).arg(&target);
        tool.run()
    };
    fetch(&url, first).succeeded();
    for name in ["00000009.history", "0000000900000000000000AA", "000000010000000000000001.00000028.backup"] {
        assert_eq!(fetch(&url, name).exited(1).stderr, "", "{name}");
    }
    let empty = format!("file://{}", primary.dir().subdir("empty", 0o755).display());
    fetch(&empty, first).exited(200).complains("there is no archive here");
    fetch("nonsense", first).exited(200);
    Tool::pgwake().args(["wal", "fetch", first]).run().exited(200);
    // a standby asks its primary instead of going down
    let standby = primary.dir().file("standby.signal", 0o600, "");
    fetch(&empty, first).exited(1).complains("there is no archive here");
    let recovery = primary.dir().file("recovery.signal", 0o600, "");
    fetch(&empty, first).exited(200);
    fs::remove_file(recovery).expect("no recovery any more");

    Tool::pgwake().args(["wal", "verify", "--archive", &url]).run().succeeded().says("nothing is wrong");

    // a damaged object is no segment, and no end of the log
    let directory = primary.dir().join("archive").join("wal/00000001");
    let object = directory.join(format!("{first}.zst"));
    let mut content = fs::read(&object).expect("the object's file");
    let middle = content.len() / 2;
    content[middle] ^= 0xff;
    fs::write(&object, content).expect("damage it");
    fs::remove_file(&target).expect("remove what came before");
    fetch(&url, first).exited(200).complains("is damaged");
    fs::remove_file(standby).expect("no standby any more");
    fetch(&url, first).exited(200).complains("is damaged");
    Tool::pgwake().args(["wal", "verify", "--archive", &url]).run().exited(3).says("cannot be decompressed");
    assert!(!target.exists());
}

/// A directory is lost with WAL that the archive does not have; the slot has moved on.
#[test]
fn nothing_is_archived_behind_a_gap_unless_that_is_meant() {
    require_server!();
    let primary = keeping_wal(1).start();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let archived = archiving(&primary, &received, &url);
    let receiver = streaming(&archived);
    make_wal(&primary, 2);
    caught_up(&primary);
    wait_until("it is archived", || archive_end_if_any(&url).is_some());
    receiver.terminate();
    receiver.wait().succeeded();
    let end = archive_end(&url, 1).expect("something is archived");
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    make_wal(&primary, 3);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    fs::remove_dir_all(&received).expect("lose the directory");

    let archived = from_slot(archived, &primary, "witness");
    let refused = archived.run().exited(3);
    refused.complains("is neither in the archive nor in the directory").complains("--accept-archive-gap");
    let receiver = streaming(&archived.clone().args(["--accept-archive-gap"]));
    make_wal(&primary, 4);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    // said once
    let receiver = streaming(&archived);
    make_wal(&primary, 1);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();

    let list = Tool::pgwake().args(["list", "--archive", &url]);
    list.run().succeeded().says(&format!("timeline 1: gap from {end} to ")).says(", accepted\n");
    // a server that recovers must not take it for the end of the log
    let name = primary.psql(&format!("SELECT pg_walfile_name('{end}')"));
    let target = primary.dir().subdir("pg_wal", 0o755).join("RECOVERYXLOG");
    let fetch = Tool::pgwake().args(["wal", "fetch", "--archive", &url, &name]).arg(&target);
    fetch.run().exited(200).complains("goes on at").complains("--end-at-gap");
    fetch.clone().args(["--end-at-gap"]).run().succeeded();
    // a standby asks its primary for it
    let standby = primary.dir().file("standby.signal", 0o600, "");
    fetch.run().succeeded();
    fs::remove_file(standby).expect("no standby any more");
    // and what a server has itself, it is not given less of
    let own = target.with_file_name(&name);
    fs::copy(primary.data_dir().join("pg_wal").join(&name), &own).expect("have the segment");
    fs::remove_file(&target).expect("remove what was fetched");
    assert_eq!(fetch.run().exited(1).stderr, "");
    assert!(!target.exists());
    fs::write(&own, vec![0; 1 << 20]).expect("have a file for it");
    fetch.run().exited(200);
    Tool::pgwake().args(["wal", "verify", "--archive", &url]).run().exited(3).says("is missing");
}

/// Parts become segments, and what follows them is put up, while the archive is listed and read.
#[test]
fn an_archive_that_is_written_to_is_without_a_problem_and_without_a_gap() {
    require_server!();
    let primary = keeping_wal(1).start();
    let (received, url) = (directory(&primary), archive_directory(&primary));
    let receiver = streaming(&archiving(&primary, &received, &url));
    make_wal(&primary, 4);
    wait_until("something is archived", || archive_end_if_any(&url).is_some());
    let is_over = AtomicBool::new(false);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                make_wal(&primary, 1);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let run = |words: &[&str]| Tool::pgwake().args(words).args(["--archive", &url]).run();
        let outcomes = (0..6).map(|_| (run(&["wal", "verify"]), run(&["list"]))).collect();
        is_over.store(true, Ordering::Relaxed);
        outcomes
    });
    for (verified, listed) in outcomes {
        verified.succeeded().says("nothing is wrong");
        let listed = listed.succeeded();
        assert!(!listed.stdout.contains("gap"), "{listed}");
    }
    receiver.terminate();
    receiver.wait().succeeded();
}
