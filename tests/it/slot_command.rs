//! `pgwake slot`: slots are made, shown with what they cost and who uses them, and dropped, never under somebody's feet.

use rustix::process::Signal;
use serde_json::Value;

use crate::require_server;
use crate::support::{Cluster, Outcome, Running, Tool};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

fn slot(conninfo: &str, verb: &str, more: &[&str]) -> Tool {
    Tool::pgwake().args(["slot", verb, "-w", "-d", conninfo]).args(more)
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// The one slot of this name in what `slot list --json` has said.
fn listed(conninfo: &str, name: &str) -> Value {
    let list = json(&slot(conninfo, "list", &["--json"]).run().succeeded());
    let slots = list["slots"].as_array().expect("slots");
    slots.iter().find(|slot| slot["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
}

/// A receiver that uses a slot.
fn user_of(cluster: &Cluster, name: &str) -> Running {
    let directory = cluster.dir().subdir(&format!("received_{name}"), 0o700);
    let tool = Tool::pgwake().args([
        "receive",
        "-w",
        "-d",
        &cluster.tcp_conninfo(),
        "--slot",
        name,
        "--start",
        "current",
        "-D",
    ]);
    let mut running = tool.arg(directory).by_server_user().spawn();
    running.wait_for_stderr("streaming started");
    running
}

/// Segments of 1 MB, and no more WAL kept than must be.
fn frugal() -> crate::support::cluster::Builder {
    Cluster::builder().wal_segsize(1).setting("max_wal_size", "2MB").setting("min_wal_size", "2MB")
}

fn make_wal(cluster: &Cluster, megabytes: u32) {
    for _ in 0..megabytes {
        cluster.psql(
            "SELECT pg_logical_emit_message(false, 'test', repeat('x', 900000)); SELECT pg_switch_wal()",
        );
    }
    cluster.psql("CHECKPOINT");
}

#[test]
fn a_role_that_may_only_replicate_makes_and_drops_slots() {
    require_server!();
    let cluster = Cluster::builder().hba("host all rep 127.0.0.1/32 reject").start();
    cluster.create_role("rep", "REPLICATION", None);
    let conninfo = format!("host=127.0.0.1 port={} user=rep", cluster.port());
    let made = slot(&conninfo, "create", &["one"]).run().succeeded().says("created slot \"one\"");
    assert!(!made.stdout.contains("first use"), "{made}");
    let reserved = "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = ";
    assert_eq!(cluster.psql(&format!("{reserved}'one'")), "t");

    let two = json(&slot(&conninfo, "create", &["two", "--no-reserve", "--json"]).run().succeeded());
    assert_eq!(two, serde_json::json!({"slot": "two", "reserved": false, "restart_lsn": null}));
    assert_eq!(cluster.psql(&format!("{reserved}'two'")), "f");

    slot(&conninfo, "create", &["one"])
        .run()
        .exited(1)
        .complains("already exists")
        .complains("pgwake slot list");
    slot(&conninfo, "list", &[]).run().exited(1).complains("could not list the replication slots");
    slot(&conninfo, "drop", &["one"]).run().succeeded().says("dropped slot \"one\"");
    let two = json(&slot(&conninfo, "drop", &["two", "--json"]).run().succeeded());
    assert_eq!(two, serde_json::json!({"slot": "two", "dropped": true}));
    slot(&conninfo, "drop", &["two"])
        .run()
        .exited(1)
        .complains("does not exist")
        .complains("pgwake slot list");
    assert_eq!(cluster.psql(SLOTS), "0");
}

#[test]
fn a_new_slot_says_from_where_it_holds_wal() {
    require_server!();
    let cluster = Cluster::new();
    let made = json(&slot(&cluster.conninfo(), "create", &["one", "--json"]).run().succeeded());
    let lsn = cluster.psql("SELECT restart_lsn FROM pg_replication_slots");
    let same = format!("SELECT '{}'::pg_lsn = '{lsn}'::pg_lsn", made["restart_lsn"].as_str().unwrap());
    assert_eq!(cluster.psql(&same), "t", "{made}");
    assert_eq!(made["reserved"], true);
}

#[test]
fn a_role_that_may_not_replicate_is_told() {
    require_server!();
    let cluster = Cluster::new();
    cluster.create_role("rose", "", None);
    let conninfo = format!("host=127.0.0.1 port={} user=rose dbname=postgres", cluster.port());
    slot(&conninfo, "create", &["one"]).run().exited(1).complains("REPLICATION").complains("hint: ");
    assert_eq!(cluster.psql(SLOTS), "0");
}

#[test]
fn when_all_slots_are_taken_the_servers_reason_is_told() {
    require_server!();
    let cluster = Cluster::builder().setting("max_replication_slots", "1").start();
    slot(&cluster.conninfo(), "create", &["one"]).run().succeeded();
    let refused = slot(&cluster.conninfo(), "create", &["two", "--json"]).run().exited(1);
    let error = &json(&refused)["error"];
    assert_eq!(error["message"], "could not create replication slot \"two\"");
    assert!(error["causes"][0].as_str().unwrap().contains("all replication slots are in use"), "{refused}");
    assert!(error["hint"].as_str().unwrap().contains("pgwake slot drop NAME"), "{refused}");
}

#[test]
fn a_slot_in_use_is_dropped_only_once_it_is_free() {
    require_server!();
    let cluster = Cluster::new();
    let conninfo = cluster.tcp_conninfo();
    slot(&conninfo, "create", &["one"]).run().succeeded();
    let user = user_of(&cluster, "one");
    let pid = cluster.psql("SELECT active_pid FROM pg_replication_slots");

    let refused = slot(&conninfo, "drop", &["one"]).run().exited(1);
    let told = format!("in use by pgwake, process {pid} from 127.0.0.1, and was not dropped");
    let refused = refused.complains(&told).complains("--wait");
    assert!(!refused.stderr.contains("dropped slot"), "{refused}");
    slot(&conninfo, "drop", &["one", "--wait=0.5"])
        .run()
        .exited(1)
        .complains("still in use after 0.5 s by pgwake");

    let mut interrupted = slot(&conninfo, "drop", &["one", "--wait"]).spawn();
    interrupted.wait_for_stderr("waiting until replication slot");
    interrupted.signal(Signal::INT);
    interrupted.wait().exited(1).complains("interrupted by SIGINT before");

    let mut waiting = slot(&conninfo, "drop", &["one", "--wait"]).spawn();
    waiting.wait_for_stderr("waiting until replication slot");
    assert_eq!(cluster.psql(SLOTS), "1");
    assert!(waiting.is_running());
    user.terminate();
    user.wait().succeeded();
    waiting.wait().succeeded().says("dropped slot \"one\"");
    assert_eq!(cluster.psql(SLOTS), "0");
}

#[test]
fn waiting_needs_no_more_than_the_right_to_replicate() {
    require_server!();
    let cluster = Cluster::builder().hba("host all rep 127.0.0.1/32 reject").start();
    cluster.create_role("rep", "REPLICATION", None);
    let conninfo = format!("host=127.0.0.1 port={} user=rep", cluster.port());
    slot(&conninfo, "create", &["one"]).run().succeeded();
    let user = user_of(&cluster, "one");
    // who uses it is only in the server's own words then
    let pid = cluster.psql("SELECT active_pid FROM pg_replication_slots");
    slot(&conninfo, "drop", &["one"]).run().exited(1).complains(&format!("active for PID {pid}"));
    let mut waiting = slot(&conninfo, "drop", &["one", "--wait"]).spawn();
    waiting.wait_for_stderr("waiting until replication slot");
    user.terminate();
    user.wait().succeeded();
    waiting.wait().succeeded();
    assert_eq!(cluster.psql(SLOTS), "0");
}

#[test]
fn slots_are_listed_with_who_uses_them() {
    require_server!();
    let cluster = Cluster::new();
    cluster.create_role("rose", "", None);
    let rose = format!("host=127.0.0.1 port={} user=rose dbname=postgres", cluster.port());
    slot(&cluster.conninfo(), "list", &[]).run().succeeded().says("no replication slots");
    slot(&cluster.conninfo(), "create", &["one"]).run().succeeded();
    slot(&cluster.conninfo(), "create", &["unused", "--no-reserve"]).run().succeeded();
    let _user = user_of(&cluster, "one");
    let pid = cluster.psql("SELECT active_pid FROM pg_replication_slots WHERE active");

    let one = listed(&cluster.conninfo(), "one");
    assert_eq!(
        (&one["type"], &one["active"], &one["temporary"]),
        (&"physical".into(), &true.into(), &false.into())
    );
    assert_eq!(one["used_by"]["pid"].to_string(), pid);
    assert_eq!(one["used_by"]["application_name"], "pgwake");
    assert_eq!(one["used_by"]["address"], "127.0.0.1");
    assert_eq!((&one["wal_status"], &one["warning"]), (&"reserved".into(), &Value::Null));
    assert!(one["restart_lsn"].is_string() && one["held_bytes"].is_u64(), "{one}");
    assert!(one["inactive_since"].is_null());
    let unused = listed(&cluster.conninfo(), "unused");
    assert!(unused["restart_lsn"].is_null() && unused["used_by"].is_null() && unused["warning"].is_null());
    assert_eq!(unused["inactive_since"].is_string(), cluster.major() >= 17, "{unused}");
    assert_eq!(unused["inactive_seconds"].is_number(), cluster.major() >= 17, "{unused}");

    let text = slot(&cluster.conninfo(), "list", &[]).run().succeeded();
    let text = text.says(&format!("pgwake, process {pid} from 127.0.0.1"));
    assert!(!text.stdout.contains("may not see"), "{text}");

    // without pg_monitor the address is hidden, and that is said
    let seen = listed(&rose, "one");
    assert_eq!(
        (&seen["used_by"]["application_name"], &seen["used_by"]["address"]),
        (&"pgwake".into(), &Value::Null)
    );
    let text = slot(&rose, "list", &[]).run().succeeded();
    text.says("role \"rose\" may not see the addresses").says("GRANT pg_monitor TO \"rose\";");
}

#[test]
fn a_forgotten_slot_that_fills_the_disk_is_warned_of() {
    require_server!();
    let cluster = frugal().start();
    slot(&cluster.conninfo(), "create", &["forgotten"]).run().succeeded();
    assert!(listed(&cluster.conninfo(), "forgotten")["warning"].is_null());
    make_wal(&cluster, 8);
    let found = listed(&cluster.conninfo(), "forgotten");
    assert_eq!(found["wal_status"], "extended");
    assert!(found["held_bytes"].as_u64().unwrap() > 7 << 20, "{found}");
    assert!(found["warning"].as_str().unwrap().contains("the disk fills"), "{found}");
    let text = slot(&cluster.conninfo(), "list", &[]).run().succeeded();
    text.says("warning: slot \"forgotten\" has been used by nobody").says("pgwake slot drop forgotten");
}

#[test]
fn a_lost_slot_is_warned_of() {
    require_server!();
    let cluster = frugal().setting("max_slot_wal_keep_size", "4MB").start();
    slot(&cluster.conninfo(), "create", &["late"]).run().succeeded();
    let fresh = listed(&cluster.conninfo(), "late");
    assert!(fresh["safe_wal_size"].as_i64().unwrap() > 0, "{fresh}");
    make_wal(&cluster, 12);
    cluster.wait_for("SELECT wal_status FROM pg_replication_slots", "lost");
    let found = listed(&cluster.conninfo(), "late");
    let warning = found["warning"].as_str().unwrap();
    assert!(warning.contains("cannot go on with it") && warning.contains("pgwake slot drop late"), "{found}");
    slot(&cluster.conninfo(), "list", &[]).run().succeeded().says("lost");
    slot(&cluster.conninfo(), "drop", &["late"]).run().succeeded();
    assert_eq!(cluster.psql(SLOTS), "0");
}

#[test]
fn bad_names_and_waits_are_usage_errors() {
    for args in [
        &["slot", "create", "Bad"][..],
        &["slot", "create"],
        &["slot", "create", "one", "--temporary"],
        &["slot", "drop", "one", "--wait=-1"],
        &["slot", "drop", "one", "--wait=soon"],
        &["slot", "list", "-d", "hots=typo"],
    ] {
        Tool::pgwake().args(args).run().exited(2).complains("error: ");
    }
}
