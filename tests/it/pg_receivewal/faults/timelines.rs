//! Timelines: where one ends, and what is kept of those that were left.

use std::fs;
use std::path::Path;

use super::{SEGMENT_LEN, cluster, current_segment, receive, receive_originally};
use crate::support::{Cluster, Stop, TestDir, tree, wait_until};

/// The server becomes a standby of nobody and is promoted: one more timeline. Stopped without a word, so that the last
/// record is the one that was written last.
fn promote(cluster: &Cluster) {
    cluster.stop(Stop::Immediate);
    let signal = cluster.data_dir().join("standby.signal");
    fs::write(&signal, "").expect("make it a standby");
    crate::support::dir::own(&signal);
    cluster.start();
    cluster.promote();
    cluster.wait_for("SELECT pg_is_in_recovery()", "f");
}

/// Whether a finished segment of that timeline is there.
fn has_segment(directory: &Path, timeline: u32) -> bool {
    let beginning = format!(" {timeline:08X}");
    tree(directory).lines().any(|line| line.contains(&beginning) && !line.contains('.'))
}

/// Fills the current segment, so that the next record is the first of the next one.
fn finish_segment(cluster: &Cluster) {
    cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
}

/// Started exactly at a switch point on a segment boundary, the original takes the answer without a stream for an error
/// that has no text, and loops for ever.
#[test]
fn a_switch_point_on_a_boundary_is_passed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = receive(&dir, &cluster, &directory).spawn();
    running.wait_for_stderr("starting log streaming");
    cluster.psql("SELECT txid_current()");
    let last = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
    wait_until("all of it is here", || directory.join(&last).exists());
    running.interrupt();
    running.wait().exited(0);
    promote(&cluster);
    let history = fs::read_to_string(cluster.data_dir().join("pg_wal/00000002.history")).expect("a history");
    assert!(history.contains("00000\t"), "the switch is not at a segment's end: {history}");
    let its = dir.subdir("original", 0o700);
    for entry in fs::read_dir(&directory).expect("list").flatten() {
        fs::copy(entry.path(), its.join(entry.file_name())).expect("give the original the same");
    }
    let failed = receive_originally(&cluster, &its).arg("-n").run().exited(1);
    failed.complains("could not send replication command \"START_REPLICATION\": \n");
    let mut running = receive(&dir, &cluster, &directory).spawn();
    running.wait_for_stderr("(timeline 2)");
    finish_segment(&cluster);
    wait_until("a segment of the new timeline is here", || has_segment(&directory, 2));
    running.interrupt();
    running.wait().exited(0);
    assert!(directory.join("00000002.history").exists(), "histories are plain, and there");
}

/// The same while it goes on: the server is stopped, started as a standby and promoted under it.
#[test]
fn a_promotion_is_followed_from_connection_to_connection() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = receive(&dir, &cluster, &directory).spawn();
    running.wait_for_stderr("starting log streaming");
    finish_segment(&cluster);
    promote(&cluster);
    finish_segment(&cluster);
    wait_until("a segment of the new timeline is here", || has_segment(&directory, 2));
    running.interrupt();
    running.wait().exited(0).complains("seconds to try again");
}

/// A higher segment of a timeline that the server left: the original asks for what comes after it, for ever.
#[test]
fn a_stray_segment_of_a_dead_timeline_is_passed_over() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directories = ["original", "ours"].map(|name| dir.subdir(name, 0o700));
    finish_segment(&cluster);
    promote(&cluster);
    cluster.psql("SELECT txid_current()");
    let current = current_segment(&cluster);
    for directory in &directories {
        let stray = directory.join(format!("00000001{:016X}", 0x50));
        fs::write(&stray, vec![0; SEGMENT_LEN as usize]).expect("leave a stray");
        let last = format!(
            "00000001{:08X}{:08X}",
            0,
            u32::from_str_radix(&current[16..], 16).expect("a number") - 1
        );
        fs::copy(cluster.data_dir().join("pg_wal").join(&last), directory.join(&last))
            .expect("leave a segment");
    }
    let failed = receive_originally(&cluster, &directories[0]).arg("-n").run().exited(1);
    failed.complains("is not in this server's history");
    let mut running = receive(&dir, &cluster, &directories[1]).spawn();
    running.wait_for_stderr(
        "warning: segment file \"000000010000000000000050\" is not part of the server's history",
    );
    running.wait_for_stderr("starting log streaming");
    finish_segment(&cluster);
    wait_until("a segment of the new timeline is here", || has_segment(&directories[1], 2));
    running.interrupt();
    running.wait().exited(0);
    assert!(tree(&directories[1]).contains("000000010000000000000050"), "the stray stays");
}

/// The original fetches the history of the timeline that it streams and of no other one, and compresses it.
#[test]
fn all_histories_are_there_and_plain_whatever_becomes_of_segments() {
    let cluster = cluster();
    let dir = TestDir::new();
    promote(&cluster);
    promote(&cluster);
    let original = |name: &str| fs::read(cluster.data_dir().join("pg_wal").join(name)).expect("the server's");
    // a bare level means gzip, to old ones too
    for method in ["0", "6"] {
        let its = dir.subdir(&format!("original-{method}"), 0o700);
        let mut running = receive_originally(&cluster, &its).args(["-Z", method]).spawn();
        running.wait_for_stderr("starting log streaming");
        wait_until("it has begun", || tree(&its).contains(".partial"));
        running.interrupt();
        running.wait().exited(0);
        let left = tree(&its);
        assert!(!left.contains("00000002.history"), "{left}");
        assert_eq!(left.contains("00000003.history.gz"), method == "6", "{left}");
        let directory = dir.subdir(&format!("ours-{method}"), 0o700);
        let mut running = receive(&dir, &cluster, &directory).args(["-Z", method]).spawn();
        running.wait_for_stderr("starting log streaming");
        running.interrupt();
        running.wait().exited(0);
        for name in ["00000002.history", "00000003.history"] {
            let received = fs::read(directory.join(name)).expect("a history");
            assert_eq!(received, original(name), "{name}");
        }
    }
}

/// A history that cannot be written: the original says so, and streams on without.
#[test]
fn without_its_history_no_timeline_is_streamed() {
    let cluster = cluster();
    let dir = TestDir::new();
    promote(&cluster);
    cluster.psql("SELECT txid_current()");
    let directories = ["original", "ours"].map(|name| dir.subdir(name, 0o700));
    for directory in &directories {
        // in the way of the temporary file, whoever runs this
        fs::create_dir(directory.join("00000002.history.tmp")).expect("stand in the way");
    }
    let mut running = receive_originally(&cluster, &directories[0]).spawn();
    running.wait_for_stderr("could not create timeline history file");
    wait_until("it streams all the same", || tree(&directories[0]).contains(".partial"));
    running.interrupt();
    running.wait().exited(0);
    let outcome = receive(&dir, &cluster, &directories[1]).run().exited(1);
    let outcome = outcome.complains("00000002.history.tmp");
    assert!(!tree(&directories[1]).contains(".partial"), "{outcome}");
}
