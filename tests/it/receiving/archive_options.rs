//! What `pgwake receive --archive` can be told: encryption, a bounded spool, an archive that flush waits for, a slot that follows it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{
    assert_holds, base_backup, caught_up, directory, keeping_wal, make_wal, receive, recover_with, streaming,
    wal_files,
};
use crate::require_server;
use crate::support::object_store::{self, ObjectStore};
use crate::support::{Cluster, Stop, Tool, servers, wait_until};

fn archive_url(primary: &Cluster) -> String {
    format!("file://{}", primary.dir().subdir("archive", 0o700).display())
}

fn archiving(primary: &Cluster, received: &Path, url: &str) -> Tool {
    let tool = receive(&primary.conninfo(), received);
    tool.args(["--archive", url, "--archive-delay", "0"])
}

/// All that the primary has flushed by now is reported as applied.
fn archived(primary: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let applied = format!(
        "SELECT count(*) > 0 FROM pg_stat_replication WHERE application_name = 'pgwake' AND replay_lsn >= '{lsn}'"
    );
    primary.wait_for(&applied, "t");
}

/// Of the forty segments that come behind the `here` first ones no more is taken than what was on its way.
#[track_caller]
fn assert_receives_no_more(received: &Path, here: usize) {
    let mut sizes = Vec::new();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        sizes.push(wal_files(received).len() - here);
    }
    assert!(sizes.iter().all(|count| *count < 25), "{sizes:?}");
    assert_eq!(sizes[5], sizes[9], "it goes on receiving: {sizes:?}");
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).expect("list the archive").flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn an_encrypted_archive_shows_nothing_and_gives_everything_back_to_who_has_the_keys() {
    require_server!();
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let (received, url) = (directory(&primary), archive_url(&primary));
    let first = format!("k1 {}\n", "1f".repeat(32));
    let keys = primary.dir().file("socket_keys", 0o600, &first);
    let keys = keys.to_str().expect("a path").to_owned();
    let with_keys = |tool: Tool| tool.args(["--encryption-keys", &keys]);
    let receiver = streaming(&with_keys(archiving(&primary, &received, &url)));
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    let backup = base_backup(&primary, "backup");
    primary.psql("SET synchronous_commit = local; CREATE TABLE ledger (id int PRIMARY KEY, note text)");
    primary
        .psql("SET synchronous_commit = remote_apply; INSERT INTO ledger VALUES (1, 'with the first key')");
    make_wal(&primary, 2);
    archived(&primary);
    receiver.terminate();
    receiver.wait().succeeded();

    // a new key writes, the old one reads
    fs::write(&keys, format!("k2 {}\n{first}", "2e".repeat(32))).expect("add a key");
    let receiver = streaming(&with_keys(archiving(&primary, &received, &url)));
    primary.psql("SET synchronous_commit = remote_apply; INSERT INTO ledger VALUES (2, 'with the second')");
    receiver.terminate();
    receiver.wait().succeeded();
    let objects = files_below(&primary.dir().join("archive"));
    assert!(objects.len() > 3);
    let mut ids = std::collections::BTreeSet::new();
    for object in &objects {
        let content = fs::read(object).expect("read an object");
        assert!(content.starts_with(b"PGWKENC2\x02k"), "{} is not encrypted", object.display());
        ids.insert(content[10]);
    }
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), b"12", "both keys were written with");

    let list = || Tool::pgwake().args(["list", "--archive", &url]);
    list().run().exited(1).complains("it is encrypted, and no key was given").complains("--encryption-keys");
    with_keys(list()).run().succeeded().says("SEGMENTS");
    let verify = || Tool::pgwake().args(["wal", "verify", "--archive", &url]);
    with_keys(verify()).run().succeeded().says("nothing is wrong");
    let command = format!("cat {keys}");
    list().args(["--encryption-keys-command", &command]).run().succeeded();
    list().args(["--encryption-keys-command", "exit 3"]).run().exited(1).complains("key command failed");

    primary.stop(Stop::Immediate);
    let pgwake = Tool::pgwake().by_server_user();
    let fetch =
        format!("{} wal fetch --archive {url} --encryption-keys {keys} %f %p", pgwake.program().display());
    let restored = recover_with(&primary, &backup, &fetch);
    assert_holds(&restored, &[1, 2]);

    // an object in another's place is none, however well it is encrypted
    let segments: Vec<_> = objects.iter().filter(|path| path.to_string_lossy().contains("/wal/0")).collect();
    fs::copy(segments[0], segments[1]).expect("put one in another's place");
    with_keys(verify()).run().exited(3).says("it was changed, or is another object's");
}

#[test]
fn what_is_archived_may_leave_the_directory_and_nothing_else() {
    require_server!();
    let primary = keeping_wal(1).start();
    let (received, url) = (directory(&primary), archive_url(&primary));
    let receiver = streaming(&archiving(&primary, &received, &url).args(["--keep-local", "4MB"]));
    make_wal(&primary, 15);
    archived(&primary);
    let finished = || wal_files(&received).iter().filter(|name| name.len() == 24).count();
    wait_until("the directory is tidy", || finished() <= 4);
    assert!(finished() >= 2);
    receiver.terminate();
    receiver.wait().succeeded();
    // a later run goes on from what is left
    let receiver = streaming(&archiving(&primary, &received, &url).args(["--keep-local", "0"]));
    make_wal(&primary, 5);
    archived(&primary);
    wait_until("the directory is tidy again", || finished() <= 2);
    receiver.terminate();
    receiver.wait().succeeded();
    let verified = Tool::pgwake().args(["wal", "verify", "--archive", &url]).run().succeeded();
    verified.says("nothing is wrong");
}

/// The slot keeps on the primary what does not fit.
#[test]
fn a_spool_that_is_full_receives_no_more_and_is_told_of_before() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    let tool = ObjectStore::credentials(archiving(&primary, &received, &url).args(["--spool-limit", "6MB"]));
    let mut receiver = streaming(&tool);
    make_wal(&primary, 1);
    archived(&primary);
    let here = wal_files(&received).len();
    store.stop();
    make_wal(&primary, 40);
    receiver.wait_for_stderr("of --spool-limit");
    assert_receives_no_more(&received, here);
    store.resume();
    archived(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
}

/// From the first moment on, when nothing is known of it yet.
#[test]
fn a_store_that_was_never_there_holds_up_little_and_fills_no_more_than_its_spool() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    store.stop();
    let tool = archiving(&primary, &received, &url).args(["--spool-limit", "6MB", "--archive-lease", "600"]);
    let tool = ObjectStore::credentials(tool);
    // a signal is heard while it is waited for
    let stopped = tool.spawn();
    wait_until("the receiver is about to archive", || received.join(".pgwake.archive").exists());
    let began = Instant::now();
    stopped.terminate();
    stopped.wait().succeeded();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let began = Instant::now();
    let mut receiver = tool.spawn();
    receiver.wait_for_stderr("does not answer yet");
    receiver.wait_for_stderr("streaming started");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    make_wal(&primary, 40);
    receiver.wait_for_stderr("of --spool-limit");
    assert_receives_no_more(&received, 0);
    store.resume();
    archived(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
}

/// Nothing is read then, so that the server's pings are not seen either.
#[test]
#[ignore = "a shutdown waits for a minute; run by make torture"]
fn a_spool_that_is_full_does_not_hold_up_a_shutdown_for_ever() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    let tool = archiving(&primary, &received, &url).args(["--spool-limit", "6MB"]);
    let mut receiver = streaming(&ObjectStore::credentials(tool.timeout(Duration::from_secs(600))));
    make_wal(&primary, 1);
    archived(&primary);
    store.stop();
    make_wal(&primary, 40);
    receiver.wait_for_stderr("of --spool-limit");
    let began = Instant::now();
    primary.stop(Stop::Fast);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(30), "nobody was waited for: {took:?}");
    assert!(took < Duration::from_secs(90), "{took:?}");
    receiver.wait_for_stderr("there was no room for more WAL for 60 s");
    primary.start();
    store.resume();
    archived(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
}

#[test]
fn flush_can_be_made_to_wait_for_the_archive() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let tool = archiving(&primary, &received, &store.url("db1"));
    let receiver = streaming(&ObjectStore::credentials(tool.args(["--require-archive"])));
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("SET synchronous_commit = on; CREATE TABLE t (i int)");
    store.stop();
    let commit = "SET synchronous_commit = on; INSERT INTO t VALUES (1)";
    let waiting = Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", commit]).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    primary.psql("SET synchronous_commit = remote_write; INSERT INTO t VALUES (2)");
    let flushed = "SELECT write_lsn > flush_lsn AND flush_lsn = replay_lsn FROM pg_stat_replication";
    assert_eq!(primary.psql(flushed), "t");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(primary.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "1");
    store.resume();
    waiting.wait().succeeded();
    receiver.terminate();
    receiver.wait().succeeded();
}

#[test]
fn a_second_slot_keeps_on_the_primary_what_is_not_archived() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    let tool =
        archiving(&primary, &received, &url).args(["--archive-slot", "archived", "--archive-lease", "2s"]);
    let mut receiver = streaming(&ObjectStore::credentials(tool));
    receiver.wait_for_stderr("created replication slot \"archived\"");
    let position = |slot: &str| {
        let lsn = format!("SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        primary.psql(&lsn).parse::<u64>().expect("a position")
    };
    make_wal(&primary, 3);
    archived(&primary);
    let end: u64 = primary.psql("SELECT pg_current_wal_flush_lsn() - '0/0'").parse().expect("a position");
    wait_until("the slot follows", || position("archived") + 64 >= end);
    store.stop();
    make_wal(&primary, 3);
    caught_up(&primary);
    std::thread::sleep(Duration::from_secs(3));
    let kept = position("archived");
    assert!(position("witness") >= kept + (3 << 20), "{kept}");
    // the machine is lost; whoever takes its place goes on from that slot, without a gap
    receiver.kill9();
    receiver.wait();
    fs::remove_dir_all(&received).expect("lose what was received");
    store.resume();
    let other = primary.dir().subdir("other", 0o700);
    let tool = super::harness::without_slot(&primary.conninfo(), &other).args(["--slot", "archived"]);
    let tool = super::harness::from_slot(tool, &primary, "archived");
    let tool = tool.args(["--archive", &url, "--archive-delay", "0", "--archive-lease", "2s"]);
    let started = Instant::now();
    let receiver = streaming(&ObjectStore::credentials(tool));
    archived(&primary);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    receiver.terminate();
    receiver.wait().succeeded();
    let verify = ObjectStore::credentials(Tool::pgwake().args(["wal", "verify", "--archive", &url]));
    verify.run().succeeded().says("nothing is wrong");
}

#[test]
fn a_second_slot_that_is_lost_is_told_of_and_one_that_is_missing_is_made() {
    require_server!();
    let primary =
        keeping_wal(1).setting("wal_keep_size", "0").setting("max_slot_wal_keep_size", "1MB").start();
    primary.psql("SELECT pg_create_physical_replication_slot('archived', true)");
    make_wal(&primary, 8);
    primary.psql("CHECKPOINT");
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'archived'";
    primary.wait_for(status, "lost");
    let (received, url) = (directory(&primary), archive_url(&primary));
    let tool = archiving(&primary, &received, &url).args(["--archive-slot", "archived"]);
    let mut receiver = streaming(&tool);
    receiver.wait_for_stderr("replication slot \"archived\" is lost");
    // as where a failover has led to a server that never had it
    primary.psql("SELECT pg_drop_replication_slot('archived')");
    make_wal(&primary, 1);
    receiver.wait_for_stderr("created replication slot \"archived\"");
    archived(&primary);
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let followed = format!(
        "SELECT restart_lsn >= '{end}'::pg_lsn FROM pg_replication_slots WHERE slot_name = 'archived'"
    );
    primary.wait_for(&followed, "t");
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert_eq!(outcome.stderr.matches("\"archived\" is lost").count(), 1, "{outcome}");
}
