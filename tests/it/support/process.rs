//! Processes that are not our children: a server that `pg_ctl` started is nobody's.

use std::fs;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

/// Makes orphans below this process its children. Otherwise a killed server stays a zombie for as long as the
/// system's first process likes, and PostgreSQL takes a zombie for a server that runs.
pub(crate) fn adopt_orphans() {
    set_child_subreaper(Some(getpid())).expect("become the parent of orphans");
}

/// Lets go of a dead process that was adopted.
pub(crate) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Processes whose parent is `pid`.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&child| stat_of(child).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// Gone, or dead and only waiting for its parent to notice.
pub(crate) fn is_gone(pid: i32) -> bool {
    stat_of(pid).is_none_or(|(state, _)| state == "Z")
}

/// State and parent of a process. The name before them, in parentheses, may have anything in it.
fn stat_of(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
