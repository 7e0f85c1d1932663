//! Promise: a script that calls `pg_basebackup` cannot tell which one answers, but for the faults that are gone. The real
//! one and ours get the same argv against the same server; exit code, both streams, trees with modes, and contents are
//! compared.

mod compare;
mod faults;
mod servers;
mod starting;
mod table;

use crate::support::{Cluster, TestDir, Tool};

/// Ours under the original's name, as a link to the program.
pub(super) fn ours(dir: &TestDir) -> Tool {
    let link = dir.join("pg_basebackup");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pgwake"), &link).expect("link the program");
    }
    Tool::new(link)
}

/// The real one: of the server's major. Up to 14 it had another command line, and ours is like 19's: there the oldest
/// with this command line stands in, which takes those servers.
pub(super) fn original(cluster: &Cluster) -> Tool {
    Tool::client(cluster.major().max(15), "pg_basebackup")
}

/// With the way to the server in its environment.
pub(super) fn leading_to(tool: Tool, cluster: &Cluster) -> Tool {
    tool.env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", "postgres")
}
