//! Promise: what `--json` prints is what `docs/json.md` says, no key more and none less.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::require_server;
use crate::support::{Cluster, Outcome, Port, Stop, TestDir, Tool};

/// The keys of a section; those with a dagger are there only sometimes.
#[derive(Default)]
struct Section {
    always: BTreeSet<String>,
    sometimes: BTreeSet<String>,
}

fn documented() -> BTreeMap<String, Section> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md");
    let text = std::fs::read_to_string(path).expect("read the page");
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut title = String::new();
    for line in text.lines() {
        if let Some(found) = line.strip_prefix("## ") {
            found.clone_into(&mut title);
        } else if let Some(rest) = line.strip_prefix("| `") {
            let (key, rest) = rest.split_once('`').expect("a key");
            let section = sections.entry(title.clone()).or_default();
            let keys = if rest.starts_with(" †") { &mut section.sometimes } else { &mut section.always };
            assert!(keys.insert(key.to_owned()), "{key} is there twice");
        }
    }
    sections
}

/// Every key that is there, as the page writes it.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn object(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// What a command printed is what its section says.
#[track_caller]
pub(crate) fn assert_as_documented(title: &str, printed: Value) {
    assert_documented(&documented(), title, &[printed]);
}

#[track_caller]
fn assert_documented(sections: &BTreeMap<String, Section>, title: &str, printed: &[Value]) {
    let section = sections.get(title).unwrap_or_else(|| panic!("no section {title:?}"));
    let mut found = BTreeSet::new();
    for value in printed {
        keys(value, "", &mut found);
    }
    if title == "pgwake status" {
        // documented where slots are
        found.retain(|key| !key.starts_with("servers[].slots[]"));
    }
    let unknown: Vec<_> = found
        .iter()
        .filter(|key| !section.always.contains(*key) && !section.sometimes.contains(*key))
        .collect();
    let missing: Vec<_> = section.always.difference(&found).collect();
    assert!(
        unknown.is_empty() && missing.is_empty(),
        "{title}: not documented {unknown:?}, never seen {missing:?}"
    );
}

fn pgwake(args: &[&str]) -> Tool {
    Tool::pgwake().args(args).by_server_user()
}

#[test]
fn what_is_printed_is_what_is_documented() {
    require_server!();
    let sections = documented();
    let primary = Cluster::builder()
        .wal_segsize(1)
        .setting("max_slot_wal_keep_size", "1GB")
        .setting("synchronous_standby_names", "nobody")
        .start();
    primary.psql("SET synchronous_commit = local; SELECT pg_create_physical_replication_slot('idle', true)");
    let place = primary.dir().join("standby1");
    let directory = place.to_str().expect("a path");
    let made = ["standby", "create", "-d", &primary.tcp_conninfo(), "--slot", "standby1", "-D", directory];
    pgwake(&made).run().succeeded();
    let standby = primary.adopt(&place);
    standby.start();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1");

    let nobody = Port::reserve();
    let ports = format!("{},{},{}", primary.port(), standby.port(), nobody.number());
    let all = format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres");
    let status = object(&pgwake(&["status", "--json", "-d", &all]).run());
    assert_documented(&sections, "pgwake status", std::slice::from_ref(&status));
    let slots = object(&pgwake(&["slot", "list", "--json", "-d", &primary.conninfo()]).run().succeeded());
    assert_documented(&sections, "pgwake slot list", std::slice::from_ref(&slots));
    // the same slots, the same keys
    let (mut here, mut there) = (BTreeSet::new(), BTreeSet::new());
    keys(&slots["slots"], "", &mut here);
    keys(&status["servers"][0]["slots"], "", &mut there);
    assert_eq!(here, there);

    let checks = ["standby", "synchronous"]
        .map(|job| object(&pgwake(&["check", "--json", "--for", job, "-d", &primary.conninfo()]).run()));
    assert_documented(&sections, "pgwake check", &checks);

    let running = object(&pgwake(&["standby", "status", "--json", "-D", directory]).run().succeeded());
    standby.stop(Stop::Fast);
    let stopped = object(&pgwake(&["standby", "status", "--json", "-D", directory]).run().succeeded());
    assert_documented(&sections, "pgwake standby status", &[running, stopped]);

    let received = primary.dir().subdir("received", 0o700);
    let received = received.to_str().expect("a path");
    let end = primary.psql(
        "SET synchronous_commit = local; SELECT count(pg_switch_wal()) FROM generate_series(1, 1); \
         SELECT pg_logical_emit_message(true, 'a', 'b'); SELECT pg_current_wal_flush_lsn()",
    );
    let end = end.lines().last().expect("a position");
    let start = primary.psql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'idle'");
    let args = ["receive", "--json", "--slot", "idle", "-d", &primary.conninfo(), "-D", received];
    // before version 15 a server does not tell where a slot begins
    let tool = pgwake(&args).args(["--start", &start, "--endpos", end]);
    let outcome = object(&tool.run().succeeded());
    assert_documented(&sections, "pgwake receive", &[outcome]);
    let first = std::fs::read_dir(received).expect("list what was received").flatten();
    let first = first.map(|entry| entry.path()).filter(|path| path.extension().is_none());
    let first = first.filter(|path| std::fs::metadata(path).is_ok_and(|file| file.len() == 1 << 20)).min();
    let first = first.expect("a finished segment");
    let mut bytes = std::fs::read(&first).expect("read a segment");
    bytes[8192..].fill(7);
    std::fs::write(&first, bytes).expect("damage a segment");
    let damaged = object(&pgwake(&["wal", "verify", "--json", received]).run().exited(3));
    assert_documented(&sections, "pgwake wal verify", &[damaged]);

    let backup = primary.dir().join("backup");
    let backup = backup.to_str().expect("a path");
    let taken = Tool::client(primary.major(), "pg_basebackup").by_server_user();
    taken.args(["-c", "fast", "-X", "fetch", "-d", &primary.conninfo(), "-D", backup]).run().succeeded();
    std::fs::write(format!("{backup}/extra"), b"x").expect("add a file");
    let damaged = object(&pgwake(&["verify", "--json", backup]).run().exited(3));
    assert_documented(&sections, "pgwake verify", &[damaged]);
}

#[test]
fn errors_are_documented() {
    let sections = documented();
    let dir = TestDir::new();
    let missing = dir.join("missing");
    let failed = pgwake(&["wal", "verify", "--json"]).arg(&missing).run().exited(1);
    let usage = Tool::pgwake().args(["receive", "--json"]).run().exited(2);
    assert_documented(&sections, "Errors, of every command", &[object(&failed), object(&usage)]);
}
