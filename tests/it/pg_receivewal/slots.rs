//! Slots in every state: what is said, the exit code, and what is on the server afterwards.

use super::compare::{Comparison, Run, assert_same};
use crate::require_server;
use crate::support::{Cluster, Tool};

/// What there is under the name "slot" before a run.
const NOTHING: &str = "SELECT 1";
const PHYSICAL: &str = "SELECT 1 FROM pg_create_physical_replication_slot('slot')";
const LOGICAL: &str = "SELECT 1 FROM pg_create_logical_replication_slot('slot', 'test_decoding')";
const NONE_FREE: &str =
    "SELECT pg_create_physical_replication_slot('taken' || i) FROM generate_series(1, 4) i";

const SLOTS: &str = "SELECT slot_name, slot_type, temporary, restart_lsn IS NULL FROM pg_replication_slots ORDER BY slot_name";
const CLEAN: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";

const CASES: [(&str, &str); 22] = [
    (NOTHING, "--create-slot -S slot"),
    (NOTHING, "--create-slot -S slot -v"),
    (NOTHING, "--create-slot --if-not-exists --slot=slot -v -n -s 3 -Z gzip --no-sync"),
    (PHYSICAL, "--create-slot -S slot"),
    (PHYSICAL, "--create-slot -S slot --if-not-exists -v"),
    (LOGICAL, "--create-slot -S slot"),
    (LOGICAL, "--create-slot -S slot --if-not-exists"),
    (NONE_FREE, "--create-slot -S slot"),
    (NONE_FREE, "--create-slot -S slot --if-not-exists"),
    (NOTHING, "--create-slot -S Upper"),
    (NOTHING, "--create-slot -S a-b -v"),
    (NOTHING, "--create-slot -S aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg"),
    (NOTHING, "--drop-slot -S slot"),
    (PHYSICAL, "--drop-slot -S slot"),
    (PHYSICAL, "--drop-slot -S slot -v --if-not-exists"),
    (LOGICAL, "--drop-slot -S slot -v"),
    (NOTHING, "--drop-slot -S Upper"),
    (PHYSICAL, "--drop-slot -S slot -D /nonexistent"),
    (LOGICAL, "-D DIR -S slot -n"),
    (LOGICAL, "-D DIR -S slot -n -v"),
    (PHYSICAL, "-D DIR -S slot -n -E 0/1"),
    (PHYSICAL, "-D DIR -S slot -n -E 0/1 -v --synchronous"),
];

fn cluster() -> Cluster {
    Cluster::builder()
        .setting("wal_level", "logical")
        .setting("max_replication_slots", "4")
        .setting("autovacuum", "off")
        .start()
}

/// A server that refuses to stream gets a hint from ours; up to 14 that is how a logical slot is found out.
fn without_hints(run: &Run) -> String {
    let shown = run.shown();
    let lines = shown.lines().filter(|line| !line.starts_with("pg_receivewal: hint: "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn slots_mean_the_same_in_every_state() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    for (number, (before, line)) in CASES.iter().enumerate() {
        let after = std::cell::RefCell::new(Vec::<String>::new());
        let runs = comparison.run(
            &format!("case{number}"),
            |tool, directory| {
                tool.args(line.split(' ').map(|word| word.replace("DIR", &directory.display().to_string())))
            },
            |_| {
                let state = cluster.psql(&format!("{SLOTS}; {CLEAN}; {before}"));
                after.borrow_mut().push(state);
            },
            |_, _| {},
        );
        let last = cluster.psql(&format!("{SLOTS}; {CLEAN}; {before}"));
        assert_same(line, &runs[0].shown(), &without_hints(&runs[1]));
        // the first one is what there was before both
        assert_same(&format!("{line}: slots"), &after.borrow()[1], &last);
        cluster.psql(CLEAN);
    }
}

/// The server's process in the message is the same one.
#[test]
fn a_slot_in_use_is_refused_in_the_same_words() {
    require_server!();
    let cluster = cluster();
    cluster.psql(PHYSICAL);
    let comparison = Comparison::new(&cluster);
    let directory = cluster.dir().subdir("user", 0o700);
    let user = Tool::client(cluster.major().max(15), "pg_receivewal").args(["-S", "slot", "-d"]);
    let running = user.arg(cluster.conninfo()).arg("-D").arg(&directory).by_server_user().spawn();
    cluster.wait_for("SELECT active FROM pg_replication_slots", "t");
    for line in ["-D DIR -S slot -n", "-D DIR -S slot -n -v", "--drop-slot -S slot", "--drop-slot -S slot -v"]
    {
        let runs = comparison.run(
            &line.replace(' ', "").replace("DIR", ""),
            |tool, directory| {
                tool.args(line.split(' ').map(|word| word.replace("DIR", &directory.display().to_string())))
            },
            |_| {},
            |_, _| {},
        );
        assert_eq!(runs[1].code, Some(1), "{}", runs[1].shown());
        assert_same(line, &runs[0].shown(), &runs[1].shown());
    }
    drop(running);
}
