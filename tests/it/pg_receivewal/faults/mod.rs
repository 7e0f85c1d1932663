//! One test for each fault of the original that concerns receiving, as far as it shows from outside.
//!
//! Where that is quick to show, the original fails first. Compressed files have tests of their own; `receiving` has
//! those for what `pgwake receive` shares: connections that are cut or silent, disks that fail, failovers.

mod directory;
mod server;
mod timelines;

use std::path::Path;

use super::{original, ours};
use crate::support::{Cluster, TestDir, Tool};

const SEGMENT_LEN: u64 = 1 << 20;

fn cluster() -> Cluster {
    Cluster::builder().setting("wal_keep_size", "64MB").wal_segsize(1).start()
}

fn conninfo(cluster: &Cluster) -> String {
    format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port())
}

fn current_segment(cluster: &Cluster) -> String {
    cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

/// Ours, and what it is told in every test: where from, where to.
fn receive(dir: &TestDir, cluster: &Cluster, directory: &Path) -> Tool {
    ours(dir).args(["-v", "-d", &conninfo(cluster), "-D"]).arg(directory)
}

/// The original, told the same.
fn receive_originally(cluster: &Cluster, directory: &Path) -> Tool {
    original(cluster).args(["-v", "-d", &conninfo(cluster), "-D"]).arg(directory)
}
