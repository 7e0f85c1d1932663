//! P2, P3: what is received is the primary's WAL, byte for byte, and what `pg_receivewal` beside it receives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use pgwake::pg::Lsn;

use super::harness::{
    assert_same_as, caught_up, directory, from_slot, keeping_wal, make_wal, receive, streaming,
};
use crate::require_server;
use crate::support::Tool;

#[test]
fn segments_of_1_mb_are_the_primarys_and_the_originals() {
    compare_under_load(1, 10, 8);
}

#[test]
fn segments_of_16_mb_are_the_primarys_and_the_originals() {
    compare_under_load(16, 36, 2);
}

#[test]
fn segments_of_64_mb_are_the_primarys_and_the_originals() {
    compare_under_load(64, 72, 2);
}

fn compare_under_load(segment_megabytes: u32, megabytes: u32, least_finished: usize) {
    require_server!();
    let primary = keeping_wal(segment_megabytes).start();
    let ours = directory(&primary);
    let theirs = primary.dir().subdir("original", 0o700);
    let original = Tool::client(primary.major(), "pg_receivewal")
        .args(["-d", &primary.conninfo(), "-D"])
        .arg(&theirs)
        .by_server_user()
        .dir(primary.dir().path())
        .timeout(Duration::from_secs(180))
        .spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    let receiver = streaming(&receive(&primary.conninfo(), &ours).args(["--status-interval", "1"]));
    primary.pgbench(&["-i", "-s", "1"]).run().succeeded();
    let load = primary.pgbench(&["-T", "600", "-c", "2"]).timeout(Duration::from_secs(600)).spawn();
    make_wal(&primary, megabytes / 2);
    primary.psql("SELECT pg_switch_wal(); CHECKPOINT");
    load.terminate();
    let _ = load.wait();
    // nothing happens for a while, then a switch with nothing in between, then more
    caught_up(&primary);
    std::thread::sleep(Duration::from_millis(1500));
    primary.psql("SELECT pg_switch_wal(); SELECT pg_switch_wal()");
    primary.psql("CREATE TABLE after_the_pause (i int); SELECT pg_switch_wal()");
    make_wal(&primary, megabytes / 2);
    caught_up(&primary);
    let outcome = {
        receiver.terminate();
        receiver.wait().succeeded()
    };
    assert!(outcome.stderr.contains("all of it is durable"), "{outcome}");
    let finished = assert_same_as(&[&primary], &ours);
    assert!(finished.len() >= least_finished, "{finished:?}");
    primary.wait_for(
        "SELECT count(*) FROM pg_stat_replication WHERE write_lsn < pg_current_wal_flush_lsn()",
        "0",
    );
    original.interrupt();
    original.wait().succeeded();
    for name in finished {
        let read = |directory: &Path| fs::read(directory.join(&name)).expect("read a segment");
        assert!(read(&ours) == read(&theirs), "{name} is not what pg_receivewal received");
    }
    for entry in fs::read_dir(&ours).expect("list what was received").flatten() {
        let mode = entry.metadata().expect("a file's mode").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[test]
fn a_stop_position_is_the_end() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    receive(&primary.conninfo(), &received).args(["--endpos", "0/1"]).run().succeeded();
    make_wal(&primary, 2);
    // as we write it: from 19 on servers fill the lower half up with zeros
    let end: Lsn = primary.psql("SELECT pg_current_wal_lsn()").parse().expect("a position");
    let end = end.to_string();
    make_wal(&primary, 2);
    let tool = from_slot(receive(&primary.conninfo(), &received), &primary, "witness");
    let outcome = tool.args(["--json", "--endpos", &end]).run().succeeded();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["flush_lsn"], end.as_str(), "{outcome}");
    assert_eq!(report["received_lsn"], end.as_str(), "{outcome}");
    assert_same_as(&[&primary], &received);
    // before 15 the slot may be anywhere up to the server's end, as far as we know, and is not moved to what is below that
    let is = if primary.major() < 15 { "<=" } else { "=" };
    assert_eq!(
        primary.psql(&format!("SELECT restart_lsn {is} '{end}' FROM pg_replication_slots")),
        "t",
        "the last report was not taken"
    );
}
