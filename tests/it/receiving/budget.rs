//! What one commit costs the receiver that it waits for, in system calls.

use super::harness::{directory, keeping_wal, receive, streaming};
use crate::support::calls::{CallLog, Calls, commit};
use crate::{require_program, require_server};

/// Commits, one after the other, each of which waits until it is received and durable.
const COMMITS: u64 = 300;

/// For each commit, as the sink's thread has it where it starts: wait, receive, write, sync, look whether the file is still
/// there, report.
const BUDGET: [(&str, u64); 6] =
    [("epoll_wait", 1), ("read", 1), ("pwritev", 1), ("sendto", 1), ("fdatasync", 1), ("statx", 1)];

/// Of other calls, and of those above more than so many: one for so many commits.
const SLACK: u64 = 5;

/// What is too much of `calls`, where each commit is reported so many times.
fn excess(calls: &Calls, reports: u64) -> Vec<(&str, u64)> {
    let allowed = |name: &str| {
        let budgeted = BUDGET.iter().find(|(budgeted, _)| *budgeted == name).map_or(0, |(_, count)| *count);
        let budgeted = if name == "sendto" { budgeted * reports } else { budgeted };
        budgeted * COMMITS + COMMITS / SLACK
    };
    let calls = calls.iter().map(|(name, count)| (name.as_str(), *count));
    calls.filter(|(name, count)| *count > allowed(name)).collect()
}

/// One thread does it all: whichever that is.
fn commits_cost(synchronous_commit: &str, reports: u64) {
    let primary = keeping_wal(16)
        .setting("synchronous_standby_names", "pgwake")
        .setting("synchronous_commit", synchronous_commit)
        .start();
    let log = CallLog::new(&primary.dir().subdir("trace", 0o777).join("log"));
    let receiver = streaming(&log.of(receive(&primary.conninfo(), &directory(&primary))));
    primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
    commit(&primary, 10);
    let mut seen = Vec::new();
    // on a machine that is busy, a sync in memory takes as long as one on a slow disk, which is another thread's to do
    for _ in 0..5 {
        let threads = log.during(|| commit(&primary, COMMITS));
        let busiest = threads.into_values().max_by_key(|calls| calls.values().sum::<u64>());
        let calls = busiest.expect("a receiver makes system calls");
        assert!(calls.values().sum::<u64>() > COMMITS, "{calls:?}");
        let is_within = excess(&calls, reports).is_empty() && calls.contains_key("fdatasync");
        seen.push(calls);
        if is_within {
            break;
        }
    }
    println!("{COMMITS} commits: {seen:?}");
    let last = seen.last().expect("a turn");
    let excess = excess(last, reports);
    assert!(excess.is_empty(), "too many {excess:?} in {seen:?}");
    receiver.terminate();
    receiver.wait().succeeded();
}

#[test]
fn a_commit_takes_no_more_system_calls_than_its_budget() {
    require_server!();
    require_program!("strace");
    commits_cost("on", 1);
}

/// What is written is told of before it is durable, where commits wait for that.
#[test]
fn a_commit_that_waits_for_the_write_takes_one_report_more() {
    require_server!();
    require_program!("strace");
    commits_cost("remote_write", 2);
}
