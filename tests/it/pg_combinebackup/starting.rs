//! What comes out is checked by the server's own tools, starts, and holds the rows that the newest backup held.

use std::path::Path;

use super::chain::{Chain, NAMES, rows};
use super::ours;
use crate::cloning::hash_of_everything;
use crate::support::dir::own_all;
use crate::support::faults::SmallDisk;
use crate::support::{Cluster, Stop, TestDir, Tool, servers, tree};

pub(super) fn chains_of_every_depth_start_with_every_row(chain: &Chain) {
    let major = chain.cluster.major();
    let cluster = &chain.cluster;
    let dir = TestDir::new();
    let methods = [&["--copy"][..], &["--copy-file-range"], &["--no-sync"], &["--link"]];
    for (newest, method) in methods.into_iter().enumerate() {
        let output = cluster.dir().join(&format!("combined{newest}"));
        let mut tool = ours(&dir).args(method).arg("-o").arg(&output).by_server_user();
        for (name, old) in chain.tablespaces(newest) {
            let new = cluster.dir().join(&format!("{name}.combined{newest}"));
            tool = tool.arg("-T").arg(format!("{}={}", old.display(), new.display()));
        }
        let inputs = NAMES[..=newest].iter().map(|name| chain.backup(name));
        tool.args(inputs).run().succeeded();
        cluster.server_tool("pg_verifybackup").arg(&output).run().succeeded();
        let label = std::fs::read_to_string(output.join("backup_label")).expect("read the label");
        assert!(!label.contains("INCREMENTAL"), "{label}");
        let combined = cluster.adopt(&output);
        combined.start();
        assert_eq!(rows(&combined), chain.rows[newest], "{major}, {method:?}");
        let host = cluster.socket_dir().display().to_string();
        let port = combined.port().to_string();
        let amcheck = Tool::new(servers::program(major, "pg_amcheck").expect("pg_amcheck"));
        let amcheck = amcheck.args(["-h", &host, "-p", &port, "-U", "postgres", "-a", "--install-missing"]);
        amcheck.args(["--heapallindexed"]).run().succeeded();
        combined.stop(Stop::Immediate);
    }
}

/// A server that can be backed up incrementally, with a table that most of its content is in.
fn server(major: u32) -> Cluster {
    let builder = Cluster::builder().major(major).in_memory().wal_segsize(1);
    let cluster = builder.setting("autovacuum", "off").setting("summarize_wal", "on").start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 100000) i; VACUUM");
    cluster
}

/// A backup by ours; incremental upon the one `before`.
fn back_up(cluster: &Cluster, backup: &Path, before: Option<&Path>) {
    let (host, port) = (cluster.socket_dir(), cluster.port().to_string());
    let tool =
        Tool::pgwake().args(["pg_basebackup", "-U", "postgres", "-p", &port, "-c", "fast", "-N", "-h"]);
    let mut tool = tool.arg(host).arg("-D").arg(backup);
    if let Some(before) = before {
        tool = tool.arg("-i").arg(before.join("backup_manifest"));
    }
    tool.run().succeeded();
}

pub(super) fn clones_cost_nothing(major: u32) {
    let dir = TestDir::new();
    let Some(disk) = SmallDisk::mount_sharing(&dir, "sharing") else { return };
    let cluster = server(major);
    let [full, newest] = ["full", "newest"].map(|name| disk.path().join(name));
    back_up(&cluster, &full, None);
    cluster.psql("CREATE TABLE small AS SELECT 1 i");
    back_up(&cluster, &newest, Some(&full));
    let combined = |tool: Tool, name: &str, method: &str| {
        let output = disk.path().join(name);
        let before = used(disk.path());
        let tool = tool.args([method, "-N", "-o"]).arg(&output).args([&full, &newest]);
        tool.run().succeeded();
        (tree(&output), used(disk.path()).saturating_sub(before))
    };
    let (clones, cost) = combined(ours(&dir), "clones", "--clone");
    let (copies, full_cost) = combined(ours(&dir), "copies", "--copy");
    assert_eq!(clones, copies);
    assert!(4 * cost < full_cost, "{cost} bytes for clones, {full_cost} for copies");
    Tool::pgwake().args(["pg_verifybackup", "-q"]).arg(disk.path().join("clones")).run().succeeded();
}

/// How many bytes of a file system are used.
fn used(path: &Path) -> u64 {
    // what was deleted, and what waits for its place, counts only afterwards
    rustix::fs::syncfs(std::fs::File::open(path).expect("open a file system")).expect("sync it");
    let stat = rustix::fs::statvfs(path).expect("ask for free space");
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

pub(super) fn a_chain_of_two_hundred_starts(major: u32) {
    let dir = TestDir::in_memory();
    let cluster = server(major);
    let mut backups = vec![dir.join("full")];
    back_up(&cluster, &backups[0], None);
    for number in 1..200 {
        cluster.psql(&format!("UPDATE t SET i = -i WHERE i % 1000 = {number}"));
        let backup = dir.join(&format!("incremental{number}"));
        back_up(&cluster, &backup, backups.last().map(std::path::PathBuf::as_path));
        backups.push(backup);
    }
    let output = cluster.dir().join("combined");
    ours(&dir).arg("-N").arg("-o").arg(&output).args(&backups).run().succeeded();
    Tool::pgwake().args(["pg_verifybackup", "-q"]).arg(&output).run().succeeded();
    own_all(&output);
    let combined = cluster.adopt(&output);
    combined.start();
    assert_eq!(hash_of_everything(&combined), hash_of_everything(&cluster));
    combined.stop(Stop::Immediate);
}
