//! One test for each fault of the original that concerns receiving, as far as it shows from outside.

use std::fs;
use std::time::Duration;

use super::{original, ours};
use crate::support::{Cluster, TestDir, Tool, tree, wait_until};

const SEGMENT_LEN: u64 = 1 << 20;

fn cluster() -> Cluster {
    Cluster::builder().setting("wal_keep_size", "64MB").wal_segsize(1).start()
}

fn conninfo(cluster: &Cluster) -> String {
    format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port())
}

fn current_segment(cluster: &Cluster) -> String {
    cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

/// An unfinished file of any length is gone on with; the original refuses it at every attempt.
#[test]
fn an_odd_sized_partial_is_healed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let name = current_segment(&cluster);
    for (who, tool) in [("original", original(&cluster)), ("ours", ours(&dir))] {
        let directory = dir.subdir(who, 0o700);
        let partial = directory.join(format!("{name}.partial"));
        fs::write(&partial, vec![0; 12_345]).expect("leave an odd file");
        let tool = tool.args(["-v", "-n", "-d", &conninfo(&cluster), "-D"]).arg(&directory);
        if who == "original" {
            tool.run().exited(1).complains("has 12345 bytes, should be 0 or");
            continue;
        }
        let running = tool.spawn();
        let end = cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
        assert!(!end.is_empty());
        wait_until("the segment is finished", || directory.join(&name).exists());
        running.interrupt();
        running.wait().exited(0);
        assert_eq!(fs::metadata(directory.join(&name)).expect("stat").len(), SEGMENT_LEN);
    }
}

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

/// Two receivers in one directory, or another cluster behind the same address: the original writes on.
#[test]
fn a_directory_is_one_receivers_and_one_clusters() {
    let (first, second) = (cluster(), cluster());
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let receive = |cluster: &Cluster| -> Tool {
        ours(&dir).args(["-v", "-n", "-d", &conninfo(cluster), "-D"]).arg(&directory)
    };
    let mut running = receive(&first).spawn();
    running.wait_for_stderr("starting log streaming");
    receive(&first).run().exited(1).complains("in use by another receiver");
    running.interrupt();
    running.wait().exited(0);
    receive(&second).run().exited(1).complains("directory holds WAL of system");
    assert!(!tree(&directory).contains("lock"), "a lock leaves nothing behind");
}

/// Started exactly at a switch point on a segment boundary, the original loops for ever.
#[test]
fn a_switch_point_on_a_boundary_is_passed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = ours(&dir).args(["-v", "-d", &conninfo(&cluster), "-D"]).arg(&directory).spawn();
    running.wait_for_stderr("starting log streaming");
    cluster
        .psql("SELECT txid_current(); SELECT pg_switch_wal(); SELECT txid_current(); SELECT pg_switch_wal()");
    cluster.stop(crate::support::Stop::Fast);
    fs::write(cluster.data_dir().join("standby.signal"), "").expect("make it a standby");
    crate::support::dir::own(&cluster.data_dir().join("standby.signal"));
    cluster.start();
    cluster.promote();
    cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
    let finished = || tree(&directory).lines().any(|line| line.contains(" 00000002") && !line.contains('.'));
    let started_at = std::time::Instant::now();
    while !finished() {
        let patient = started_at.elapsed() < Duration::from_secs(40);
        assert!(patient, "no segment of the new timeline\n{}\n{}", running.stderr_so_far(), tree(&directory));
        std::thread::sleep(Duration::from_millis(20));
    }
    running.interrupt();
    running.wait().exited(0).complains("waiting");
    assert!(directory.join("00000002.history").exists(), "histories are plain, and there");
}

/// The primary's fast shutdown is not held up.
#[test]
fn a_shutdown_is_not_delayed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let mut running = ours(&dir).args(["-v", "-n", "-d", &conninfo(&cluster), "-D"]).arg(&directory).spawn();
    running.wait_for_stderr("starting log streaming");
    let before = std::time::Instant::now();
    cluster.stop(crate::support::Stop::Fast);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    running.wait().exited(1).complains("replication stream was terminated before stop point");
}
