//! The zero-loss drill: a client that counts on what a commit waited for, and then the machines are gone.

use std::fs;
use std::time::Duration;

use super::harness::{
    Ledger, assert_holds, base_backup, directory, keeping_wal, make_wal, receive, recover_segments, streaming,
};
use crate::require_server;
use crate::support::object_store::{self, ObjectStore};
use crate::support::{Cluster, Tool, servers};

/// A primary and its receiver, killed while a client writes.
struct Disaster {
    primary: Cluster,
    store: ObjectStore,
    /// A base backup that is not in the store.
    backup: std::path::PathBuf,
    received: std::path::PathBuf,
    acknowledged: Vec<i32>,
    /// Where the primary's WAL ended just before, in bytes.
    end: u64,
}

impl Disaster {
    /// `None`: there is no store to be had.
    fn strike(synchronous_commit: &str, delay: &str, after: Duration) -> Option<Disaster> {
        if object_store::program().is_none() {
            servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
            return None;
        }
        let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
        let received = directory(&primary);
        let store = ObjectStore::start(primary.dir());
        let tool = receive(&primary.conninfo(), &received);
        let tool = tool.args(["--archive", &store.url("db1"), "--archive-delay", delay]);
        let receiver = streaming(&ObjectStore::credentials(tool));
        primary.wait_for("SELECT sync_state FROM pg_stat_replication", "sync");
        let backup = base_backup(&primary, "backup");
        let archived =
            Tool::pgwake().args(["backup", "-w", "-d", &primary.conninfo(), "--archive", &store.url("db1")]);
        ObjectStore::credentials(archived).run().succeeded();
        let ledger = Ledger::begin(&primary, synchronous_commit);
        make_wal(&primary, 2);
        std::thread::sleep(after);
        let end = primary.psql("SELECT pg_current_wal_flush_lsn() - '0/0'").parse().expect("a position");
        primary.kill9();
        receiver.kill9();
        receiver.wait();
        let acknowledged = ledger.end();
        fs::remove_dir_all(primary.data_dir()).expect("lose the primary");
        Some(Disaster { primary, store, backup, received, acknowledged, end })
    }

    /// A new server from the store alone.
    fn restore(&self) -> Cluster {
        fs::remove_dir_all(&self.backup).expect("lose the other backup");
        let server = self.primary.adopt(self.primary.dir().join("restored"));
        let port = format!("port={}", server.port());
        let tool =
            Tool::pgwake().args(["restore", "--archive", &self.store.url("db1"), "--start", "--set", &port]);
        let tool = tool.args(["--set", "synchronous_standby_names=", "--bindir"]).arg(self.primary.bin_dir());
        let tool = ObjectStore::credentials(tool.arg("-D").arg(server.data_dir()));
        tool.by_server_user().timeout(Duration::from_secs(120)).run().succeeded().says("it is a primary");
        server
    }
}

fn with_remote_apply(after: Duration) {
    let Some(disaster) = Disaster::strike("remote_apply", "0", after) else { return };
    fs::remove_dir_all(&disaster.received).expect("lose what was received");
    assert_holds(&disaster.restore(), &disaster.acknowledged);
}

#[test]
fn no_row_that_waited_for_the_store_is_lost_with_both_machines() {
    require_server!();
    with_remote_apply(Duration::from_millis(1500));
}

#[test]
#[ignore = "fifty times; run by make torture"]
fn no_row_that_waited_for_the_store_is_lost_in_fifty_runs() {
    require_server!();
    let runs = std::env::var("PGWAKE_DRILL_RUNS").ok().map_or(50, |runs| runs.parse().expect("a number"));
    for run in 0..runs {
        with_remote_apply(Duration::from_millis(100 + run * 37));
        println!("{} of {runs} runs", run + 1);
    }
}

/// What waited for the receiver's disk is lost with that one only.
#[test]
fn no_row_that_waited_for_the_receivers_disk_is_lost_while_that_survives() {
    require_server!();
    let Some(disaster) = Disaster::strike("on", "1s", Duration::from_millis(1500)) else { return };
    let restored = recover_segments(&disaster.primary, &disaster.backup, &disaster.received, 1 << 20);
    assert_holds(&restored, &disaster.acknowledged);
}

/// What waited for nobody: how much is lost, so that the others are seen to be worth their wait.
#[test]
fn rows_that_waited_for_nobody_are_lost_as_far_as_they_are_younger_than_the_archives_delay() {
    require_server!();
    let Some(disaster) = Disaster::strike("local", "1s", Duration::from_millis(2500)) else { return };
    fs::remove_dir_all(&disaster.received).expect("lose what was received");
    let restored = disaster.restore();
    let held: usize = restored.psql("SELECT count(*) FROM ledger").parse().expect("a count");
    let listed = Tool::pgwake().args(["list", "--json", "--archive", &disaster.store.url("db1")]);
    let listed = ObjectStore::credentials(listed).run().succeeded().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("a listing");
    let archived = listed["timelines"][0]["ranges"][0]["end_lsn"].as_str().expect("a position");
    let archived: u64 =
        restored.psql(&format!("SELECT '{archived}'::pg_lsn - '0/0'")).parse().expect("bytes");
    let (acknowledged, lost) = (disaster.acknowledged.len(), disaster.end.saturating_sub(archived));
    println!(
        "with local: {lost} bytes of WAL lost; {held} rows of {acknowledged} acknowledged ones are there"
    );
    assert!(held > 0 && held < acknowledged, "nothing was lost: {held} of {acknowledged}");
    assert!(lost < 200 << 20, "{lost}");
}
