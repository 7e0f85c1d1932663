//! What the primary is told: positions that advance and are never ahead, and commits that wait for them.

use std::time::{Duration, Instant};

use super::harness::{SLOT_POSITION, assert_same_as, wal_files};
use super::harness::{
    Sampler, assert_never_back, caught_up, directory, keeping_wal, make_wal, receive, streaming,
};
use crate::support::faults::attached;
use crate::support::{Cluster, Direction, Ending, Proxy, Stop, Tool};
use crate::{require_program, require_root, require_server};

#[test]
fn positions_advance_in_their_order_and_nothing_is_applied() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    let sampler = Sampler::begin(
        &primary,
        "SELECT CASE WHEN replay_lsn IS NULL AND write_lsn <= sent_lsn AND coalesce(flush_lsn <= write_lsn, true) \
         AND sync_state = 'async' THEN 'fine' ELSE s::text END FROM pg_stat_replication s WHERE state <> 'startup'",
    );
    let slot = Sampler::begin(&primary, SLOT_POSITION);
    make_wal(&primary, 12);
    caught_up(&primary);
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    primary.wait_for(
        &format!("SELECT write_lsn >= '{lsn}' AND flush_lsn >= '{lsn}' FROM pg_stat_replication"),
        "t",
    );
    let positions = slot.end();
    assert!(positions.len() > 1, "{positions:?}");
    assert_never_back(&positions);
    assert_eq!(sampler.end(), ["fine"]);
    receiver.terminate();
    receiver.wait().succeeded();
    assert_same_as(&[&primary], &received);
}

#[test]
fn a_commit_waits_for_the_receiver() {
    require_server!();
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    let receiver = streaming(&tool);
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
    primary.psql("CREATE TABLE t (i int)");
    for level in ["on", "remote_write"] {
        let started = Instant::now();
        for i in 0..5 {
            primary.psql(&format!("SET synchronous_commit = {level}; INSERT INTO t VALUES ({i})"));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{level}: {:?}", started.elapsed());
    }
    // nothing is ever applied here, so this level waits until it is given up
    give_up_waiting(&primary, "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (7)");
    receiver.terminate();
    receiver.wait().succeeded();
    give_up_waiting(&primary, "INSERT INTO t VALUES (8)");
    let receiver = streaming(&tool);
    let started = Instant::now();
    primary.psql("INSERT INTO t VALUES (10)");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    receiver.interrupt();
    receiver.wait().succeeded();
}

/// The statement waits for a standby; then it is told not to.
#[track_caller]
fn give_up_waiting(primary: &Cluster, sql: &str) {
    let waiting = Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", sql]).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    primary.psql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    waiting.wait().succeeded().complains("canceling wait for synchronous replication");
}

/// A commit with `remote_write` does not wait for the receiver's disk, and yet survives a receiver that is killed.
#[test]
fn what_is_reported_as_written_survives_the_receiver() {
    require_server!();
    require_root!();
    require_program!("strace");
    let primary = keeping_wal(16).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    primary.psql("CREATE TABLE t (i int)");
    // from now on a sync takes longer than all that follows
    let hung = attached(&receiver, "fdatasync:delay_enter=60s");
    let started = Instant::now();
    for i in 0..30 {
        primary.psql(&format!("SET synchronous_commit = remote_write; INSERT INTO t VALUES ({i})"));
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let reported = "SELECT (write_lsn - '0/0')::int8 FROM pg_stat_replication WHERE write_lsn > flush_lsn";
    let written: u64 = primary.psql(reported).parse().expect("more is written than durable");
    receiver.kill9();
    // who traces it would see its end only when the time is over
    hung.kill9();
    receiver.wait();
    hung.wait();
    let files = wal_files(&received);
    let len = |name: &String| std::fs::metadata(received.join(name)).expect("a file").len();
    assert_eq!(files.len(), 1, "{files:?}");
    let there = files.iter().map(len).max().unwrap_or(0);
    assert!(there >= written % (16 << 20), "only {there} bytes are there, and {written} was reported");
    assert_same_as(&[&primary], &received);
    give_up_waiting(&primary, "INSERT INTO t VALUES (100)");
}

#[test]
fn a_commit_whose_acknowledgement_was_lost_is_acknowledged_by_the_next_connection() {
    require_server!();
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let proxy = Proxy::to(&primary);
    let mut receiver = streaming(&receive(&proxy.conninfo(), &received));
    primary.psql("CREATE TABLE t (i int)");
    caught_up(&primary);
    proxy.stall(Direction::ToServer);
    let commit =
        Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", "INSERT INTO t VALUES (1)"]).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    primary.wait_for(&format!("SELECT sent_lsn >= '{end}' FROM pg_stat_replication"), "t");
    // it is here, and made durable, in far less than this
    std::thread::sleep(Duration::from_millis(300));
    proxy.cut_now(Ending::Reset);
    proxy.resume(Direction::ToServer);
    let started = Instant::now();
    commit.wait().succeeded();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(receiver.is_running());
}

#[test]
fn a_primary_that_shuts_down_is_not_held_up() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut receiver = streaming(&receive(&primary.conninfo(), &received));
    for (round, mode) in [Stop::Fast, Stop::Smart, Stop::Fast].into_iter().enumerate() {
        make_wal(&primary, 5);
        let started = Instant::now();
        primary.stop(mode);
        assert!(started.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", started.elapsed());
        primary.start();
        primary.wait_for("SELECT state FROM pg_stat_replication", "streaming");
        caught_up(&primary);
        assert!(receiver.is_running());
        let reconnects = receiver.stderr_so_far().matches("streaming started").count();
        assert!(reconnects >= round + 2, "{}", receiver.stderr_so_far());
    }
    receiver.terminate();
    receiver.wait().succeeded().complains("it is shutting down");
    assert_same_as(&[&primary], &received);
}
