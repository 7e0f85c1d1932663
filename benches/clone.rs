//! `pgwake standby create` beside `pg_basebackup -X stream`: the same cluster, the same machine, turn and turn about.
//!
//! Both make a standby's data directory with a slot, a manifest with CRC-32C and an fsync of everything; pgwake also
//! checks every file against the manifest. Each run writes into a directory of its own, and nothing is deleted before
//! a comparison ends, because ext4 is slower where files have just been deleted. What is measured: wall time, CPU time of the
//! client (children of pg_basebackup included), the largest resident memory of its process.
//!
//! `cargo bench --bench clone` (PGWAKE_BENCH_MB, 1024 unless set; PGWAKE_BENCH_ROUNDS, 5; PGWAKE_BENCH_PROGRAM, another
//! `pgwake`; PGWAKE_TEST_MAJORS, 15).

mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use side_by_side::{Cost, clear, measure, pgwake, report, setting};
use support::{Cluster, Tool};

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size_mb = setting("PGWAKE_BENCH_MB", 1024);
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 5).max(1);
    let cluster = Cluster::builder().setting("max_wal_size", "4GB").start();
    side_by_side::fill(&cluster, size_mb);
    let (version, size) = (cluster.psql("SHOW server_version"), side_by_side::size_of(&cluster));
    println!("PostgreSQL {version}, {size}, {rounds} rounds, medians");
    for (name, conninfo) in [("Unix socket", cluster.conninfo()), ("TCP loopback", cluster.tcp_conninfo())] {
        let (mut runs, mut made) = ([Vec::new(), Vec::new()], Vec::new());
        for round in 0..rounds {
            // the one that goes first changes every round
            for contender in [round % 2, (round + 1) % 2] {
                let directory = cluster.dir().join(&format!("out-{contender}-{round}"));
                runs[contender].push(run(&cluster, contender, &conninfo, &directory));
                made.push(directory);
            }
        }
        clear(&made);
        let [peer, ours] = runs;
        report(name, &[("pg_basebackup", peer), ("pgwake standby create", ours)]);
    }
}

fn run(cluster: &Cluster, contender: usize, conninfo: &str, directory: &Path) -> Cost {
    let slot = format!("bench_{contender}");
    let tool = match contender {
        0 => Tool::client(cluster.major(), "pg_basebackup")
            .args(["-X", "stream", "-c", "fast", "-R", "-C", "-S", &slot]),
        _ => pgwake().args(["standby", "create", "--quiet", "--slot", &slot]),
    };
    let tool =
        tool.args(["-d", conninfo, "-D"]).arg(directory).by_server_user().timeout(Duration::from_secs(600));
    let cost = measure(&tool);
    cluster.psql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    cost
}
