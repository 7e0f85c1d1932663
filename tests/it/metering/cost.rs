//! Metrics cost those who receive no system call.

use super::harness::{directory, measured, primary};
use crate::support::calls::{CallLog, Calls, commit};
use crate::support::{Cluster, Tool};
use crate::{require_program, require_server};

/// Commits, one after the other, each of which waits until it is received and durable.
const COMMITS: u64 = 300;

/// The system calls while so many commits come, of all threads: which of them receives and which syncs may change at any moment.
fn calls(primary: &Cluster, tool: Tool, log: &CallLog) -> Calls {
    let mut running = log.of(tool).spawn();
    running.wait_for_stderr("streaming started");
    primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
    commit(primary, 10);
    // threads are started once, when the disk is slow for the first time
    let turns: Vec<Calls> = (0..3)
        .map(|_| {
            let mut calls = Calls::new();
            for (name, count) in log.during(|| commit(primary, COMMITS)).into_values().flatten() {
                *calls.entry(name).or_default() += count;
            }
            calls
        })
        .collect();
    running.terminate();
    running.wait().succeeded();
    turns.into_iter().min_by_key(working).expect("a turn")
}

/// How often these are called depends on how quick the disk is, and so on how many threads have to wake each other, whatever is
/// measured.
const WAITING: [&str; 3] = ["epoll_wait", "futex", "write"];

fn working(calls: &Calls) -> u64 {
    calls.iter().filter(|(name, _)| !WAITING.contains(&name.as_str())).map(|(_, count)| count).sum()
}

#[test]
fn the_same_system_calls_are_made_with_metrics_and_without() {
    require_server!();
    require_program!("strace");
    let primary = primary().setting("synchronous_standby_names", "pgwake").start();
    let log = CallLog::new(&primary.dir().subdir("trace", 0o777).join("log"));
    let plain = Tool::pgwake()
        .args(["receive", "-w", "-d", &primary.conninfo(), "--slot", "meter", "--create-slot", "-D"])
        .arg(directory(&primary, "plain"))
        .by_server_user();
    let without = calls(&primary, plain, &log);
    let with = calls(&primary, measured(&primary.conninfo(), &directory(&primary, "measured")), &log);
    println!("without: {without:?}\nwith:    {with:?}");
    assert!(working(&without) > COMMITS, "{without:?}");
    // one more a commit would be as many more as there are commits
    assert!(working(&with) < working(&without) + COMMITS / 2, "without {without:?}, with {with:?}");
    let new: Vec<_> = with.keys().filter(|name| !without.contains_key(*name)).collect();
    assert!(new.iter().all(|name| with[*name] < COMMITS / 10), "new calls {new:?}: {with:?}");
}
