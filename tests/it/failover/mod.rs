//! A failover by hand: looked at, promoted, followed, and what was written read elsewhere.

mod day;
mod following;
mod looking;
mod promoting;
mod reading;
mod waiting;

use std::path::Path;

use crate::support::{Cluster, Outcome, Tool};

/// A standby of `primary` with a slot of its name; it runs and streams, and takes clients over its own socket and port.
#[track_caller]
fn standby_of(primary: &Cluster, name: &str) -> Cluster {
    let standby = stopped_standby_of(primary, &primary.conninfo(), name);
    standby.start();
    let sql = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{name}'");
    primary.wait_for(&sql, "streaming");
    standby
}

#[track_caller]
fn stopped_standby_of(primary: &Cluster, conninfo: &str, name: &str) -> Cluster {
    let directory = primary.dir().join(name);
    let tool = Tool::pgwake().args(["standby", "create", "-d", conninfo, "--slot", name, "-D"]);
    tool.arg(&directory).by_server_user().run().succeeded();
    primary.adopt(&directory)
}

/// `pgwake standby VERB -D` on a cluster's directory, as its server's user.
fn standby_tool(verb: &str, cluster: &Cluster) -> Tool {
    on_directory(verb, cluster.data_dir())
}

fn on_directory(verb: &str, directory: &Path) -> Tool {
    Tool::pgwake().args(["standby", verb, "-D"]).arg(directory).by_server_user()
}

/// `standby follow` of `standby`, to `upstream`.
fn follow(standby: &Cluster, upstream: &Cluster) -> Tool {
    standby_tool("follow", standby).args(["-d", &upstream.conninfo()])
}

#[track_caller]
fn json(outcome: &Outcome) -> serde_json::Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Writes, and waits until the standbys have it.
#[track_caller]
fn write_and_replay(primary: &Cluster, standbys: &[&Cluster]) {
    primary.psql("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t SELECT generate_series(1, 100)");
    replayed_all(primary, standbys);
}

#[track_caller]
fn replayed_all(primary: &Cluster, standbys: &[&Cluster]) {
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    for standby in standbys {
        standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    }
}

/// The server answers nobody any more, and its standby has noticed.
#[track_caller]
fn receiver_is_gone(standby: &Cluster) {
    standby.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0");
}
