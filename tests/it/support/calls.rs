//! System calls of a program, counted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Cluster, Tool};

/// How often each system call was made.
pub(crate) type Calls = BTreeMap<String, u64>;

/// A log that `strace` writes of all threads of a program. Needs `require_program!("strace")`.
pub(crate) struct CallLog {
    path: PathBuf,
}

impl CallLog {
    pub(crate) fn new(path: &Path) -> Self {
        CallLog { path: path.to_owned() }
    }

    /// The program, with the log being written.
    pub(crate) fn of(&self, tool: Tool) -> Tool {
        let args = ["-D", "-f", "-qq", "-o"].map(OsString::from).into_iter();
        tool.under("strace", args.chain([self.path.clone().into_os_string()]))
    }

    /// The calls of each thread while `work` is done.
    pub(crate) fn during(&self, work: impl FnOnce()) -> BTreeMap<String, Calls> {
        let read = || std::fs::read_to_string(&self.path).unwrap_or_default();
        let before = read().len();
        work();
        let mut threads: BTreeMap<String, Calls> = BTreeMap::new();
        for line in read()[before..].lines().filter(|line| !line.contains(" resumed>")) {
            // 1234 recvfrom(5, …
            let Some((thread, name)) = line.split_once('(').and_then(|(words, _)| words.split_once(' '))
            else {
                continue;
            };
            *threads.entry(thread.to_owned()).or_default().entry(name.trim().to_owned()).or_default() += 1;
        }
        threads
    }
}

/// So many commits, one after the other, each of which waits as the primary is set up.
#[track_caller]
pub(crate) fn commit(primary: &Cluster, count: u64) {
    let commit = "SELECT pg_logical_emit_message(true, 'one', 'commit');\n";
    primary.try_psql(&commit.repeat(usize::try_from(count).expect("a count"))).succeeded();
}
