//! What the server is told, what it says, and when it says nothing.

use std::fs;
use std::time::{Duration, Instant};

use super::{SEGMENT_LEN, cluster, conninfo, current_segment, receive, receive_originally};
use crate::pg_receivewal::{original, ours};
use crate::support::faults::injecting;
use crate::support::{Cluster, Stop, TestDir, tree, wait_until};
use crate::{require_program, require_server};

/// A slot that does not exist ends it; the original tries for ever.
#[test]
fn a_missing_slot_is_fatal() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let tool = ours(&dir).args(["-S", "missing", "-d", &conninfo(&cluster), "-D"]).arg(&directory);
    tool.run().exited(1).complains("pg_receivewal: error: replication slot \"missing\" does not exist");
    let directory = dir.subdir("original", 0o700);
    let tool = original(&cluster).args(["-S", "missing", "-d", &conninfo(&cluster), "-D"]).arg(&directory);
    let mut running = tool.spawn();
    running.wait_for_stderr("waiting 5 seconds to try again");
}

/// One that somebody else uses is waited for, in the original's words.
#[test]
fn a_taken_slot_is_waited_for() {
    let cluster = cluster();
    let dir = TestDir::new();
    cluster.psql("SELECT pg_create_physical_replication_slot('witness', true)");
    let with_slot = |tool: crate::support::Tool| tool.args(["-S", "witness"]);
    let mut first = with_slot(receive(&dir, &cluster, &dir.subdir("first", 0o700))).spawn();
    first.wait_for_stderr("starting log streaming");
    cluster.wait_for("SELECT active FROM pg_replication_slots", "t");
    let mut waiting = with_slot(receive(&dir, &cluster, &dir.subdir("second", 0o700))).spawn();
    let mut its = with_slot(receive_originally(&cluster, &dir.subdir("original", 0o700))).spawn();
    for running in [&mut waiting, &mut its] {
        running.wait_for_stderr(
            "error: could not send replication command \"START_REPLICATION\": ERROR:  replication slot \"witness\" is \
             active for PID",
        );
        running.wait_for_stderr("seconds to try again");
    }
    drop(its);
    first.interrupt();
    first.wait().exited(0);
    cluster.wait_for("SELECT active FROM pg_replication_slots", "t");
    waiting.interrupt();
    waiting.wait().exited(0);
}

/// The original waits for one more byte when the position is exactly where the server stands.
#[test]
fn endpos_is_reached_without_more_wal() {
    let cluster = cluster();
    let dir = TestDir::new();
    cluster.psql("SELECT txid_current(); CHECKPOINT");
    let end = cluster.psql("SELECT pg_current_wal_flush_lsn()");
    let directory = dir.subdir("ours", 0o700);
    let tool = ours(&dir).args(["-E", &end, "-d", &conninfo(&cluster), "-D"]).arg(&directory);
    tool.timeout(Duration::from_secs(10)).run().exited(0).complains("not renaming");
    let name = current_segment(&cluster);
    let received = fs::read(directory.join(format!("{name}.partial"))).expect("read what came");
    assert_eq!(received.len() as u64, SEGMENT_LEN, "full length, as the original's");
    let primary = fs::read(cluster.data_dir().join("pg_wal").join(&name)).expect("read the primary's");
    let offset = usize::from_str_radix(end.split_once('/').expect("an LSN").1, 16).expect("hex")
        % SEGMENT_LEN as usize;
    assert!(received[..offset] == primary[..offset]);
    assert!(received[offset..].iter().all(|byte| *byte == 0), "nothing beyond the position");
}

/// The primary's fast shutdown is not held up.
#[test]
fn a_shutdown_is_not_delayed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = ours(&dir).args(["-v", "-n", "-d", &conninfo(&cluster), "-D"]).arg(&directory).spawn();
    running.wait_for_stderr("starting log streaming");
    // which it says before the server has begun to
    cluster.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1");
    let before = Instant::now();
    cluster.stop(Stop::Fast);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    running.wait().exited(1).complains("replication stream was terminated before stop point");
}

/// A signal that comes at any moment ends it at once, with nothing that would wake it up: the original has a moment in
/// which it misses one, and then waits for data, with `-s 0` for ever.
#[test]
fn a_signal_is_heard_at_any_moment() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    for round in 0..20 {
        let mut running = receive(&dir, &cluster, &directory).args(["-s", "0"]).spawn();
        if round % 2 == 0 {
            running.wait_for_stderr("starting log streaming");
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..30)));
        let signalled_at = Instant::now();
        running.terminate();
        let outcome = running.wait();
        let after = signalled_at.elapsed();
        // before it listens for signals, one ends it like any program
        let early = outcome.signal.is_some() && round % 2 == 1;
        assert!(outcome.code == Some(0) || early, "{outcome}");
        assert!(after < Duration::from_secs(10), "round {round}: {after:?}\n{outcome}");
    }
}

/// The slot's position, in bytes.
fn slot_position(cluster: &Cluster) -> u64 {
    let question = "SELECT (restart_lsn - '0/0')::bigint FROM pg_replication_slots";
    cluster.psql(question).parse().expect("a position")
}

/// A slot in the middle of a segment: the original's first message moves it back to the segment's start.
#[test]
fn a_slot_is_never_moved_backwards() {
    let cluster = cluster();
    let dir = TestDir::new();
    for who in ["ours", "original"] {
        let directory = dir.subdir(who, 0o700);
        cluster.psql(
            "SELECT pg_create_physical_replication_slot('witness', true); SELECT txid_current();
             SELECT pg_logical_emit_message(true, 'filler', repeat('x', 5000));
             SELECT pg_replication_slot_advance('witness', pg_current_wal_flush_lsn())",
        );
        let before = slot_position(&cluster);
        assert_ne!(before % SEGMENT_LEN, 0, "in the middle of a segment");
        if who == "original" {
            let running = receive_originally(&cluster, &directory).args(["-S", "witness"]).spawn();
            cluster.wait_for(
                &format!("SELECT (restart_lsn - '0/0')::bigint < {before} FROM pg_replication_slots"),
                "t",
            );
            drop(running);
            continue;
        }
        let mut lowest = before;
        let mut running = receive(&dir, &cluster, &directory).args(["-S", "witness", "-s", "1"]).spawn();
        running.wait_for_stderr("starting log streaming");
        let started_at = Instant::now();
        while started_at.elapsed() < Duration::from_secs(3) {
            lowest = lowest.min(slot_position(&cluster));
        }
        assert_eq!(lowest, before, "the slot went backwards");
        // and it moves on without a segment's end, though nothing forces a flush
        cluster.psql("SELECT pg_logical_emit_message(true, 'filler', 'x')");
        let end = "pg_current_wal_flush_lsn()";
        cluster.wait_for(&format!("SELECT flush_lsn >= {end} FROM pg_stat_replication"), "t");
        assert!(slot_position(&cluster) > before);
        assert!(tree(&directory).contains(".partial"), "within one segment");
        running.interrupt();
        running.wait().exited(0);
        cluster.wait_for("SELECT active FROM pg_replication_slots", "f");
        cluster.psql("SELECT pg_drop_replication_slot('witness')");
    }
}

/// With `--no-sync` and a slot the original reports what the disk may not have, and the server forgets it.
#[test]
fn what_was_not_made_durable_is_not_reported_as_that() {
    require_server!();
    require_program!("strace");
    let cluster = cluster();
    let dir = TestDir::new();
    for who in ["original", "ours"] {
        cluster.psql("SELECT pg_create_physical_replication_slot('witness', true)");
        let before = slot_position(&cluster);
        let directory = dir.subdir(who, 0o700);
        let tool = match who {
            "original" => receive_originally(&cluster, &directory),
            _ => receive(&dir, &cluster, &directory),
        };
        // nothing ever becomes durable
        let tool = tool.args(["--no-sync", "-n", "-S", "witness"]);
        let mut running = injecting(tool, &["fsync:error=EIO", "fdatasync:error=EIO"]).spawn();
        if who == "original" {
            running.wait_for_stderr("starting log streaming");
            cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
            wait_until("the slot has moved", || slot_position(&cluster) > before);
            running.interrupt();
            running.wait().exited(0);
        } else {
            cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
            running.wait().exited(1).complains("could not fsync");
            assert_eq!(slot_position(&cluster), before);
        }
        cluster.wait_for("SELECT active FROM pg_replication_slots", "f");
        cluster.psql("SELECT pg_drop_replication_slot('witness')");
    }
}

/// The first connection is not tried again, as by the original; later ones are, after waits that grow and vary.
#[test]
fn waits_grow_and_vary_but_the_first_connection_fails_at_once() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = receive(&dir, &cluster, &directory).spawn();
    running.wait_for_stderr("starting log streaming");
    cluster.stop(Stop::Fast);
    let tried = |text: &str| text.matches("seconds to try again").count();
    wait_until("it has tried some times", || tried(&running.stderr_so_far()) >= 3);
    let text = running.stderr_so_far();
    let waits = text.split("waiting ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    let waits: Vec<u32> = waits.take(3).collect();
    assert!(waits.is_sorted() && waits[2] > waits[0], "{waits:?}\n{text}");
    let once = receive(&dir, &cluster, &dir.subdir("once", 0o700)).run().exited(1);
    assert!(once.elapsed < Duration::from_secs(10), "{once}");
    assert!(!once.stderr.contains("try again"), "{once}");
    cluster.start();
    let streams = |text: &str| text.matches("starting log streaming").count();
    wait_until("it streams again", || streams(&running.stderr_so_far()) == 2);
    running.interrupt();
    running.wait().exited(0);
}
