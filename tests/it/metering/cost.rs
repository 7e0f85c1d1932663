//! Metrics cost the thread that receives no system call.

use std::collections::BTreeMap;
use std::path::Path;

use super::harness::{directory, measured, primary};
use crate::support::{Cluster, Tool};
use crate::{require_program, require_server};

/// Commits, one after the other, each of which waits until it is received and durable.
const COMMITS: u64 = 300;

/// The system calls of the thread that receives, the main thread, while so many commits come.
fn calls(primary: &Cluster, tool: Tool, log: &Path) -> BTreeMap<String, u64> {
    // without -f, strace sees the main thread only
    let args = ["-D", "-qq", "-o", log.to_str().expect("a path")].map(std::ffi::OsString::from);
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
        if let Some((name, _)) = line.split_once('(') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// How often these are called depends on who is faster, this thread or the disk's, whatever is measured.
const WAITING: [&str; 2] = ["epoll_wait", "futex"];

#[test]
fn the_thread_that_receives_makes_the_same_system_calls_with_metrics_and_without() {
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
    assert!(working(&with) < working(&without) + COMMITS / 10, "without {without:?}, with {with:?}");
    let new: Vec<_> = with.keys().filter(|name| !without.contains_key(*name)).collect();
    assert!(new.iter().all(|name| with[*name] < 5), "new calls {new:?}: {with:?}");
}
