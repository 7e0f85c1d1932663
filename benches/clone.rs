//! `pgwake standby create` beside `pg_basebackup -X stream`: the same cluster, the same machine, turn and turn about.
//!
//! Both make a standby's data directory with a slot, a manifest with CRC-32C and an fsync of everything; pgwake also
//! checks every file against the manifest. Each run writes into a directory of its own, and nothing is deleted before
//! the end, because ext4 is slower where files have just been deleted. What is measured: wall time, CPU time of the
//! client (children of pg_basebackup included), the largest resident memory of its process.
//!
//! `cargo bench --bench clone` (PGWAKE_BENCH_MB, 1024 unless set; PGWAKE_BENCH_ROUNDS, 5; PGWAKE_TEST_MAJORS, 15).

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::{Cluster, Tool};

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size_mb = setting("PGWAKE_BENCH_MB", 1024);
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 5).max(1);
    let cluster = Cluster::builder().setting("max_wal_size", "4GB").start();
    fill(&cluster, size_mb);
    println!("PostgreSQL {}, {size_mb} MB, {rounds} rounds, medians", cluster.psql("SHOW server_version"));
    for (name, conninfo) in [("Unix socket", cluster.conninfo()), ("TCP loopback", cluster.tcp_conninfo())] {
        let mut runs = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // the one that goes first changes every round
            for contender in [round % 2, (round + 1) % 2] {
                runs[contender].push(run(&cluster, contender, &conninfo, name, round));
            }
        }
        report(name, &runs);
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Tables of some 13 MB to 100 MB, incompressible enough, and nothing that changes afterwards.
fn fill(cluster: &Cluster, size_mb: usize) {
    let rows_per_mb = 8_000;
    for (table, share) in [(1, 0.5), (2, 0.25), (3, 0.15), (4, 0.1)] {
        let rows = (size_mb as f64 * share) as usize * rows_per_mb;
        cluster.psql(&format!(
            "CREATE UNLOGGED TABLE t{table} AS SELECT i, md5(i::text) a, md5((i * 7)::text) b FROM generate_series(1, {rows}) i; \
             ALTER TABLE t{table} SET LOGGED"
        ));
    }
    cluster.psql("VACUUM; CHECKPOINT");
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    resident_kb: u64,
}

fn run(cluster: &Cluster, contender: usize, conninfo: &str, connection: &str, round: usize) -> Cost {
    let directory = cluster.dir().join(&format!("{}-{contender}-{round}", connection.replace(' ', "-")));
    let slot = format!("bench_{contender}");
    let tool = match contender {
        0 => Tool::client(cluster.major(), "pg_basebackup")
            .args(["-X", "stream", "-c", "fast", "-R", "-C", "-S", &slot]),
        _ => Tool::pgwake().args(["standby", "create", "--quiet", "--slot", &slot]),
    };
    let tool =
        tool.args(["-d", conninfo, "-D"]).arg(&directory).by_server_user().timeout(Duration::from_secs(600));
    rustix::fs::sync();
    let cpu_before = children_cpu();
    let started_at = Instant::now();
    let running = tool.spawn();
    let pid = running.pid();
    let sampler = std::thread::spawn(move || sample_resident_kb(pid));
    let outcome = running.wait();
    let wall = started_at.elapsed();
    assert!(outcome.code == Some(0), "{outcome}");
    let cpu = children_cpu() - cpu_before;
    let resident_kb = sampler.join().unwrap_or(0);
    cluster.psql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    Cost { wall, cpu, resident_kb }
}

/// CPU time of the children that have been waited for: `cutime` and `cstime` of proc(5), in ticks of 10 ms.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn sample_resident_kb(pid: impl std::fmt::Display) -> u64 {
    let path = format!("/proc/{pid}/status");
    let mut largest = 0;
    while let Ok(status) = std::fs::read_to_string(Path::new(&path)) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(kb) = line.and_then(|line| line.split_whitespace().next()?.parse().ok()) else { break };
        largest = largest.max(kb);
        std::thread::sleep(Duration::from_millis(20));
    }
    largest
}

/// One of the figures of a run.
type Measure = fn(&Cost) -> f64;

fn report(name: &str, runs: &[Vec<Cost>; 2]) {
    let median = |runs: &[Cost], of: Measure| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "\n{name:<14} {:>14} {:>14} {:>8}   rounds: pg_basebackup | pgwake",
        "pg_basebackup", "pgwake", "ratio"
    );
    let rows: [(&str, Measure); 3] = [
        ("wall, s", |cost| cost.wall.as_secs_f64()),
        ("client CPU, s", |cost| cost.cpu.as_secs_f64()),
        ("resident, MB", |cost| cost.resident_kb as f64 / 1024.0),
    ];
    for (label, of) in rows {
        let (peer, ours) = (median(&runs[0], of), median(&runs[1], of));
        let all =
            |runs: &[Cost]| runs.iter().map(|cost| format!("{:.2}", of(cost))).collect::<Vec<_>>().join(" ");
        println!(
            "{label:<14} {peer:>14.2} {ours:>14.2} {:>8.2}   {} | {}",
            ours / peer,
            all(&runs[0]),
            all(&runs[1])
        );
    }
}
