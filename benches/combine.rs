//! `pgwake` as `pg_combinebackup` beside the original: the same backups, the same machine, turn and turn about.
//!
//! A full backup and two incremental ones, each after every hundredth row of the large tables has changed. Both make the
//! same result, with a manifest of CRC-32C: once copied and synced, once copied without a sync, once linked. Each run
//! writes into a directory of its own, and nothing is deleted before a comparison ends, because ext4 is slower where
//! files have just been deleted. What is measured: wall time, CPU time, largest resident memory. The results are compared
//! byte for byte.
//!
//! `cargo bench --bench combine` (PGWAKE_BENCH_MB, 1536 unless set; PGWAKE_BENCH_ROUNDS, 5; PGWAKE_BENCH_PROGRAM,
//! another `pgwake`; PGWAKE_TEST_MAJORS, 18).

mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use side_by_side::{Cost, clear, measure, pgwake, report, setting};
use support::{Cluster, Tool, servers};

/// The original has `--link` since this major.
const OLDEST_MAJOR: u32 = 18;

const COMPARED: [(&str, &[&str]); 3] = [
    ("copied, every file synced", &[]),
    ("copied, nothing synced", &["--no-sync"]),
    ("linked, nothing synced", &["--link", "--no-sync"]),
];

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 5).max(1);
    let size_mb = setting("PGWAKE_BENCH_MB", 1536);
    let major = servers::default_major().max(OLDEST_MAJOR);
    let original = servers::program(major, "pg_combinebackup").expect("the original's program");
    let cluster = back_up(major, size_mb);
    let link = cluster.dir().join("pg_combinebackup");
    std::os::unix::fs::symlink(pgwake().program(), &link).expect("link the program");
    let (version, size) = (cluster.psql("SHOW server_version"), side_by_side::size_of(&cluster));
    println!("PostgreSQL {version}, {size}, {rounds} rounds, medians");
    for (title, options) in COMPARED {
        let mut runs = [Vec::new(), Vec::new()];
        let mut outputs: [PathBuf; 2] = Default::default();
        let mut made = Vec::new();
        for round in 0..rounds {
            // the one that goes first changes every round
            for contender in [round % 2, (round + 1) % 2] {
                let program = [&original, &link][contender];
                let output = cluster.dir().join(&format!("out-{contender}-{round}"));
                runs[contender].push(run(&cluster, program, &output, options));
                outputs[contender].clone_from(&output);
                made.push(output);
            }
        }
        compare(&outputs);
        clear(&made);
        let [peer, ours] = runs;
        report(title, &[("pg_combinebackup", peer), ("pgwake as pg_combinebackup", ours)]);
    }
}

/// The cluster, with its backups beside it.
fn back_up(major: u32, size_mb: usize) -> Cluster {
    let cluster = Cluster::builder()
        .major(major)
        .setting("summarize_wal", "on")
        .setting("max_wal_size", "4GB")
        .setting("wal_keep_size", "2GB")
        .setting("autovacuum", "off")
        .start();
    side_by_side::fill(&cluster, size_mb);
    for (number, name) in ["full", "inc1", "inc2"].into_iter().enumerate() {
        if number > 0 {
            // rows of one block in a hundred or so, here and there
            for table in 1..=4 {
                cluster.psql(&format!("UPDATE t{table} SET a = 'changed' WHERE i % 9973 = {number}"));
            }
        }
        let (host, port) = (cluster.socket_dir(), cluster.port().to_string());
        let mut tool = cluster.server_tool("pg_basebackup").arg("-h").arg(host);
        tool = tool.args(["-p", &port, "-U", "postgres", "-c", "fast", "-N", "-D"]);
        tool = tool.arg(cluster.dir().join(name));
        if let Some(before) = number.checked_sub(1) {
            let manifest = cluster.dir().join(["full", "inc1"][before]).join("backup_manifest");
            tool = tool.arg("-i").arg(manifest);
        }
        tool.timeout(Duration::from_secs(600)).run().succeeded();
    }
    cluster
}

fn run(cluster: &Cluster, program: &Path, output: &Path, options: &[&str]) -> Cost {
    let inputs = ["full", "inc1", "inc2"].map(|name| cluster.dir().join(name));
    let tool = Tool::new(program).args(options).arg("-o").arg(output).args(inputs).by_server_user();
    measure(&tool.timeout(Duration::from_secs(600)))
}

/// That both made the same. Manifests differ in times.
fn compare([original, ours]: &[PathBuf; 2]) {
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference", "-x", "backup_manifest"]).arg(original).arg(ours);
    assert!(diff.status().expect("run diff").success(), "the results differ");
}
