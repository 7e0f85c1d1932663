//! `pg_verifybackup` beside the original: the same backup, in the page cache, turn and turn about.
//!
//! A plain backup with each of three checksums, and one in tar format (19 alone reads those as a whole). Both look at every
//! file and at the WAL. What is measured: wall time, CPU time (children of the original included), the largest resident
//! memory of the process.
//!
//! `cargo bench --bench verify` (PGWAKE_BENCH_MB, 2048 unless set; PGWAKE_BENCH_ROUNDS, 7; PGWAKE_BENCH_KEEP, a directory where
//! the cluster stays for the next run; PGWAKE_BENCH_PROGRAM, another `pgwake`; PGWAKE_TEST_MAJORS, 15).

mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use side_by_side::{Source, clear, measure, pgwake, report, setting};
use support::{Cluster, Tool};

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size_mb = setting("PGWAKE_BENCH_MB", 2048);
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 7).max(1);
    let builder = Cluster::builder().setting("max_wal_size", "8GB").setting("autovacuum", "off");
    let fill = |cluster: &Cluster| side_by_side::fill(cluster, size_mb);
    let source = Source::open(builder, &format!("verified-{size_mb}"), fill);
    let cluster = source.cluster();
    let (version, size) = (cluster.psql("SHOW server_version"), side_by_side::size_of(cluster));
    println!("PostgreSQL {version}, {size}, {rounds} rounds, medians");
    let mut ways = vec![
        ("plain, CRC32C", vec!["--manifest-checksums=CRC32C"]),
        ("plain, SHA256", vec!["--manifest-checksums=SHA256"]),
        ("plain, none", vec!["--manifest-checksums=NONE"]),
    ];
    if cluster.major() >= 19 {
        ways.push(("tar, CRC32C", vec!["-Ft"]));
        ways.push(("tar, gzip, CRC32C", vec!["-Ft", "-Z1"]));
    }
    for (name, way) in ways {
        let backup = cluster.dir().join("backup");
        Tool::client(cluster.major(), "pg_basebackup")
            .args(["-c", "fast", "-N", "-X", "stream", "-d", &cluster.conninfo(), "-D"])
            .arg(&backup)
            .args(way)
            .timeout(std::time::Duration::from_secs(600))
            .run()
            .succeeded();
        let contenders = [
            ("pg_verifybackup", Tool::client(cluster.major(), "pg_verifybackup").arg(&backup)),
            ("pgwake pg_verifybackup", pgwake().arg("pg_verifybackup").arg(&backup)),
        ];
        let mut runs = [Vec::new(), Vec::new()];
        // the first round only brings the backup into the page cache
        for round in 0..=rounds {
            // the one that goes first changes every round
            for contender in [round % 2, (round + 1) % 2] {
                let cost = measure(&contenders[contender].1);
                if round > 0 {
                    runs[contender].push(cost);
                }
            }
        }
        let [peer, ours] = runs;
        report(name, &[(contenders[0].0, peer), (contenders[1].0, ours)]);
        clear(&[backup]);
    }
}
