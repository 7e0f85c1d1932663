//! Metrics cost those who receive no system call.

use std::collections::BTreeMap;
use std::path::Path;

use super::harness::{directory, measured, primary};
use crate::support::{Cluster, Tool};
use crate::{require_program, require_server};

/// Commits, one after the other, each of which waits until it is received and durable.
const COMMITS: u64 = 300;

/// The system calls while so many commits come, of all threads: which of them receives and which syncs may change at any moment.
fn calls(primary: &Cluster, tool: Tool, log: &Path) -> BTreeMap<String, u64> {
    let args = ["-D", "-f", "-qq", "-o", log.to_str().expect("a path")].map(std::ffi::OsString::from);
    let tool = tool.under("strace", args.to_vec());
    let mut running = tool.spawn();
    running.wait_for_stderr("streaming started");
    primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
    let counted = || std::fs::read_to_string(log).unwrap_or_default();
    let commits = |count: u64| {
        let commit = "SELECT pg_logical_emit_message(true, 'one', 'commit');\n";
        let outcome = primary.try_psql(&commit.repeat(usize::try_from(count).expect("a count")));
        outcome.succeeded();
    };
    commits(10);
    let before = counted().len();
    commits(COMMITS);
    let after = counted();
    running.terminate();
    running.wait().succeeded();
    let mut calls = BTreeMap::new();
    for line in after[before..].lines() {
        // 1234 recvfrom(5, …
        let name = line.split_once('(').and_then(|(before, _)| before.split_whitespace().last());
        if let Some(name) = name.filter(|_| !line.contains(" resumed>")) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// How often these are called depends on how quick the disk is, and so on how many threads have to wake each other, whatever is
/// measured.
const WAITING: [&str; 3] = ["epoll_wait", "futex", "write"];

#[test]
fn the_same_system_calls_are_made_with_metrics_and_without() {
    require_server!();
    require_program!("strace");
    let primary = primary().setting("synchronous_standby_names", "pgwake").start();
    let log = primary.dir().subdir("trace", 0o777).join("log");
    let plain = Tool::pgwake()
        .args(["receive", "-w", "-d", &primary.conninfo(), "--slot", "meter", "--create-slot", "-D"])
        .arg(directory(&primary, "plain"))
        .by_server_user();
    let without = calls(&primary, plain, &log);
    let with = calls(&primary, measured(&primary.conninfo(), &directory(&primary, "measured")), &log);
    println!("without: {without:?}\nwith:    {with:?}");
    let working = |calls: &BTreeMap<String, u64>| -> u64 {
        calls.iter().filter(|(name, _)| !WAITING.contains(&name.as_str())).map(|(_, count)| count).sum()
    };
    assert!(working(&without) > COMMITS, "{without:?}");
    // one more a commit would be as many more as there are commits
    assert!(working(&with) < working(&without) + COMMITS / 2, "without {without:?}, with {with:?}");
    let new: Vec<_> = with.keys().filter(|name| !without.contains_key(*name)).collect();
    assert!(new.iter().all(|name| with[*name] < COMMITS / 10), "new calls {new:?}: {with:?}");
}
