//! What goes wrong around it, and what the original gets wrong: nothing half-made passes for a backup, and nothing is
//! left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{leading_to, ours};
use crate::support::faults::{SmallDisk, injecting};
use crate::support::{Cluster, Direction, Ending, Proxy, TestDir, Tool, tree, wait_until};
use crate::{require_program, require_root};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// A server whose backup takes some seconds at 16 MB/s.
fn server() -> Cluster {
    let cluster = Cluster::builder().setting("autovacuum", "off").wal_segsize(1).start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i; CHECKPOINT");
    cluster
}

fn backup(cluster: &Cluster, dir: &TestDir, directory: &Path) -> Tool {
    let tool = leading_to(ours(dir), cluster).args(["-c", "fast", "-D"]).arg(directory);
    tool.timeout(Duration::from_secs(120))
}

/// A directory that was there is empty again, one that was not is gone.
#[track_caller]
fn assert_taken_back(directory: &Path, existed: bool, why: &str) {
    let left = directory.exists().then(|| tree(directory));
    assert_eq!(left, existed.then(String::new), "{why}");
}

#[test]
fn signals_take_everything_back() {
    let cluster = server();
    let dir = TestDir::new();
    let mut number = 0;
    for (format, existed) in [("p", false), ("p", true), ("t", false), ("t", true)] {
        for (signal, delay_ms) in [("SIGINT", 0), ("SIGTERM", 700)] {
            number += 1;
            let directory = dir.join(&format!("backup{number}"));
            if existed {
                fs::create_dir(&directory).expect("create a directory");
            }
            let tool = backup(&cluster, &dir, &directory);
            let mut run = tool.args(["-v", "-r", "16M", "-C", "-S", "mine", "-F", format]).spawn();
            run.wait_for_stderr("created replication slot \"mine\"");
            std::thread::sleep(Duration::from_millis(delay_ms));
            if signal == "SIGINT" {
                run.interrupt();
            } else {
                run.terminate();
            }
            let why = format!("{signal} after {delay_ms} ms, format {format}");
            let outcome =
                run.wait().exited(1).complains(&format!("pg_basebackup: error: interrupted by {signal}"));
            outcome.complains("pg_basebackup: dropping replication slot \"mine\"");
            assert_eq!(cluster.psql(SLOTS), "0", "{why}");
            assert_taken_back(&directory, existed, &why);
        }
    }
}

/// A signal may come between the server's making of the slot and its answer, and the slot is ours all the same.
#[test]
fn a_slot_whose_answer_is_on_its_way_is_dropped() {
    let cluster = server();
    let dir = TestDir::new();
    let proxy = Proxy::to(&cluster);
    proxy.delay(Direction::ToClient, Duration::from_millis(600));
    let directory = dir.join("backup");
    let tool = backup(&cluster, &dir, &directory).env("PGHOST", "127.0.0.1");
    let tool = tool.env("PGPORT", proxy.port().to_string()).args(["-v", "-w", "-C", "-S", "mine"]);
    let run = tool.spawn();
    wait_until("the slot is there", || cluster.psql(SLOTS) == "1");
    run.interrupt();
    let outcome = run.wait().exited(1).complains("pg_basebackup: error: interrupted by SIGINT");
    // its making was not told of: the answer had not come
    assert!(!outcome.stderr.contains("created replication slot"), "{outcome}");
    outcome.complains("pg_basebackup: dropping replication slot \"mine\"");
    assert_eq!(cluster.psql(SLOTS), "0");
    assert_taken_back(&directory, false, "a signal while the slot was made");
}

/// One that was there is somebody else's, whatever comes meanwhile.
#[test]
fn a_slot_of_somebody_else_stays() {
    let cluster = server();
    let dir = TestDir::new();
    cluster.psql("SELECT pg_create_physical_replication_slot('mine')");
    let outcome = backup(&cluster, &dir, &dir.join("backup")).args(["-C", "-S", "mine"]).run().exited(1);
    outcome.complains("replication slot \"mine\" already exists");
    assert_eq!(cluster.psql(SLOTS), "1");
}

#[test]
fn a_connection_cut_takes_everything_back() {
    cut_and_look(8);
}

#[test]
#[ignore = "a hundred backups; run by make torture"]
fn a_connection_cut_at_a_hundred_places_takes_everything_back() {
    cut_and_look(100);
}

fn cut_and_look(places: u64) {
    let cluster = server();
    let dir = TestDir::new();
    // how much goes through when nothing is cut
    let proxy = Proxy::to(&cluster);
    let backup = |directory: &Path, format: &str, port: u16| {
        let tool =
            backup(&cluster, &dir, directory).env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string());
        tool.args(["-N", "-w", "-C", "-S", "mine", "-F", format])
    };
    backup(&dir.join("whole"), "p", proxy.port()).run().succeeded();
    let whole = proxy.bytes(Direction::ToClient);
    cluster.psql("SELECT pg_drop_replication_slot('mine')");
    for place in 0..places {
        let proxy = Proxy::to(&cluster);
        let format = if place % 2 == 0 { "p" } else { "t" };
        let ending = if place % 3 == 0 { Ending::Reset } else { Ending::Close };
        // the last bytes are those of the second connection's farewell
        let at = whole.saturating_sub(4096) * place / places;
        proxy.cut_after(Direction::ToClient, at, ending);
        let directory = dir.join(&format!("cut{place}"));
        let outcome = backup(&directory, format, proxy.port()).run().exited(1);
        let why = format!("cut at {at} of {whole}\n{outcome}");
        assert!(outcome.stderr.starts_with("pg_basebackup: error: "), "{why}");
        assert_taken_back(&directory, false, &why);
        // the proxy lives on, so that the slot can be dropped, if it is known to be there
        if outcome.stderr.contains("hint: The server may have made the slot before its answer was lost.") {
            cluster.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
        }
        assert_eq!(cluster.psql(SLOTS), "0", "{why}");
    }
}

#[test]
fn what_is_left_on_request_is_no_backup() {
    let cluster = server();
    let dir = TestDir::new();
    for (format, part) in [("p", "base"), ("t", "base.tar")] {
        let proxy = Proxy::to(&cluster);
        proxy.cut_after(Direction::ToClient, 8 << 20, Ending::Close);
        let directory = dir.join(format);
        let tool = backup(&cluster, &dir, &directory).env("PGHOST", "127.0.0.1");
        let tool = tool.env("PGPORT", proxy.port().to_string()).args(["-n", "-w", "-F", format]);
        tool.run().exited(1).complains(&format!(
            "pg_basebackup: data directory \"{}\" not removed at user's request",
            directory.display()
        ));
        assert!(directory.join(part).exists() && !directory.join("backup_manifest").exists());
    }
}

#[test]
fn a_server_that_dies_ends_the_backup() {
    let cluster = server();
    let dir = TestDir::new();
    let directory = dir.join("backup");
    let mut run = backup(&cluster, &dir, &directory).args(["-v", "-r", "8M"]).spawn();
    run.wait_for_stderr("created temporary replication slot");
    cluster.kill9();
    let outcome = run.wait().exited(1);
    // some servers' processes say a last word before they go
    let words = ["server closed the connection unexpectedly", "due to unexpected postmaster exit"];
    assert!(words.iter().any(|word| outcome.stderr.contains(word)), "{outcome}");
    assert_taken_back(&directory, false, &outcome.to_string());
}

/// The original notices it with the next piece of an archive, and so does ours; nobody waits for the end of the copy.
#[test]
fn the_death_of_the_wal_stream_ends_the_backup_at_once() {
    let cluster = server();
    let dir = TestDir::new();
    let directory = dir.join("backup");
    let mut run = backup(&cluster, &dir, &directory).args(["-v", "-r", "4M"]).spawn();
    run.wait_for_stderr("created temporary replication slot");
    let stream = "pg_stat_replication WHERE state = 'streaming'";
    wait_until("WAL streams", || cluster.psql(&format!("SELECT count(*) FROM {stream}")) == "1");
    cluster.psql(&format!("SELECT pg_terminate_backend(pid) FROM {stream}"));
    let outcome = run.wait().exited(1);
    let outcome = outcome.complains("pg_basebackup: error: background process terminated unexpectedly");
    assert!(outcome.elapsed < Duration::from_secs(5), "{outcome}");
    assert_taken_back(&directory, false, &outcome.to_string());
}

/// So does that of what packs WAL into its archive.
#[test]
fn the_death_of_the_wal_archive_ends_the_backup_at_once() {
    let cluster = server();
    let dir = TestDir::new();
    let directory = dir.join("backup");
    let mut run = backup(&cluster, &dir, &directory).args(["-v", "-r", "4M", "-F", "t"]).spawn();
    run.wait_for_stderr("created temporary replication slot");
    // a segment that is marked as complete, and is not there
    let mark = directory.join(".pgwake.wal/archive_status/0000000100000000000000AA.done");
    fs::write(mark, "").expect("plant a mark");
    let outcome = run.wait().exited(1);
    let outcome = outcome.complains("pg_basebackup: error: background process terminated unexpectedly");
    assert!(outcome.stderr.contains("0000000100000000000000AA"), "{outcome}");
    assert!(outcome.elapsed < Duration::from_secs(5), "{outcome}");
    assert_taken_back(&directory, false, &outcome.to_string());
}

/// Every call that makes something durable, one after the other, and the last name.
#[test]
fn what_cannot_be_made_durable_is_no_backup() {
    require_program!("strace");
    let cluster = Cluster::builder().setting("autovacuum", "off").wal_segsize(1).start();
    let dir = TestDir::new();
    let run = |args: &[&str], fault: &str| {
        let place = dir.subdir(&format!("{:08x}", fastrand::u32(..)), 0o755);
        let directory = place.join("deeper/backup");
        let outcome = injecting(backup(&cluster, &dir, &directory).args(args), &[fault]).run();
        if outcome.code == Some(1) {
            assert_taken_back(&directory, false, &format!("{args:?} {fault}\n{outcome}"));
        }
        outcome
    };
    // archives, the manifest, their directory, the parents: all of it is tried
    for (args, least) in [
        (&["-F", "t", "-X", "none"][..], 4),
        (&["-F", "t"], 5),
        (&["-F", "t", "-Z", "lz4"], 5),
        (&["-F", "t", "-X", "none", "--no-manifest", "--sync-method=syncfs"], 2),
    ] {
        let failures = (1..40).take_while(|number| {
            let outcome = run(args, &format!("fsync:error=EIO:when={number}"));
            outcome.code != Some(0) && outcome.stderr.contains("could not fsync")
        });
        let count = failures.count();
        assert!((least..39).contains(&count), "{args:?}: {count} calls failed");
    }
    // calls are counted in each thread
    for number in [1, 60] {
        run(&["-F", "p"], &format!("fsync:error=EIO:when={number}")).exited(1).complains("could not fsync");
    }
    for args in [&["-F", "p", "-X", "none"], &["-F", "t", "-X", "none"]] {
        let fault = "renameat2,renameat,rename:error=EIO:when=1";
        run(args, fault).exited(1).complains("could not rename");
        let args = [&args[..], &["--sync-method=syncfs"]].concat();
        run(&args, "syncfs:error=EIO:when=1").exited(1);
    }
}

/// Nothing can be taken away then; what is left has no manifest, and the next run does not go on in it.
#[test]
fn what_a_killed_run_leaves_passes_for_no_backup() {
    require_program!("strace");
    let cluster = Cluster::builder().setting("autovacuum", "off").wal_segsize(1).start();
    let dir = TestDir::new();
    for (format, moment, fault) in [
        ("p", "base", "fstat,statx:delay_enter=2000"),
        ("p", "backup_manifest.tmp", "renameat2,renameat,rename:delay_enter=60000000"),
        ("t", "base.tar", "fsync:delay_enter=60000000"),
        ("t", "backup_manifest.tmp", "renameat2,renameat,rename:delay_enter=60000000"),
    ] {
        let directory = dir.join(&format!("{format}-{moment}"));
        let running = injecting(backup(&cluster, &dir, &directory).args(["-F", format]), &[fault]).spawn();
        wait_until("it has come so far", || directory.join(moment).exists());
        running.kill9();
        running.wait();
        assert!(!directory.join("backup_manifest").exists(), "{format} {moment}");
        let again = backup(&cluster, &dir, &directory).args(["-F", format]).run().exited(1);
        again.complains(&format!("directory \"{}\" exists but is not empty", directory.display()));
    }
}

#[test]
fn a_full_disk_fails_the_backup() {
    require_root!();
    let cluster = server();
    let dir = TestDir::new();
    let disk = SmallDisk::mount(&dir, "disk", 24 << 20);
    for args in [&["-F", "p"][..], &["-F", "t"], &["-F", "t", "-Z", "lz4"]] {
        let left_mb = if args.len() == 2 { 16 } else { 3 };
        let ballast = disk.fill(left_mb << 20);
        let directory = disk.path().join("backup");
        let outcome = backup(&cluster, &dir, &directory).args(args).run().exited(1);
        let outcome = outcome.complains("No space left on device");
        assert_taken_back(&directory, false, &outcome.to_string());
        fs::remove_file(ballast).expect("make room");
    }
}

#[test]
fn the_last_segment_is_marked_and_every_archive_compressed() {
    let cluster = server();
    let dir = TestDir::new();
    let directory = dir.join("plain");
    backup(&cluster, &dir, &directory).arg("-N").run().succeeded();
    let listing = tree(&directory.join("pg_wal"));
    let names: Vec<&str> = listing.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    let segments = names.iter().filter(|name| name.len() == 24);
    for segment in segments.clone() {
        assert!(names.contains(&format!("archive_status/{segment}.done").as_str()), "{listing}");
    }
    assert!(segments.count() > 0, "{listing}");
    for (method, suffix) in [("gzip:1", "gz"), ("lz4", "lz4"), ("zstd:1", "zst")] {
        let directory = dir.join(suffix);
        backup(&cluster, &dir, &directory).args(["-N", "-F", "t", "-Z", method]).run().succeeded();
        let mut names: Vec<String> = fs::read_dir(&directory)
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let expected =
            ["backup_manifest".to_owned(), format!("base.tar.{suffix}"), format!("pg_wal.tar.{suffix}")];
        assert_eq!(names, expected);
    }
}

/// A slot that is made for the backup moves on with it, and a long backup does not fill the server's disk.
#[test]
fn a_slot_follows_a_long_backup() {
    let cluster = server();
    let dir = TestDir::new();
    let directory = dir.join("backup");
    let mut run =
        backup(&cluster, &dir, &directory).args(["-v", "-N", "-r", "4M", "-C", "-S", "mine"]).spawn();
    run.wait_for_stderr("created replication slot");
    let behind =
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 2500000 FROM pg_replication_slots";
    for _ in 0..4 {
        cluster.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    }
    cluster.wait_for(behind, "t");
    assert!(run.is_running());
    run.interrupt();
    run.wait().exited(1);
}
