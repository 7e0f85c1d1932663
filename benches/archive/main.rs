//! What an archive costs a receiver, how far it is behind, what a commit waits for it, and how fast recovery gets WAL back.
//!
//! * Throughput: the same backlog of WAL received with an archive in a local directory (fsynced) and without one, turn and turn
//!   about; the run ends when all is archived.
//! * Age: how long the oldest byte that is not archived has been durable while the server writes 100 MB of WAL a second.
//! * Commits: `pgbench` with `synchronous_commit = remote_apply` against a real S3-compatible server behind a proxy that holds every
//!   answer back for the latency given.
//! * Recovery: a base backup and WAL that takes no time to replay, so that what is measured is `wal fetch`, with prefetch and
//!   without, beside a `cp` from a local directory.
//! * Restore: `pgwake restore` of a backup, beside `tar` that unpacks the same files.
//!
//! `cargo bench --bench archive` (PGWAKE_BENCH_MB, 512 unless set; PGWAKE_BENCH_ROUNDS, 3; PGWAKE_BENCH_SECONDS of each run of
//! pgbench, 5; PGWAKE_BENCH_CASES, of throughput;age;recovery;restore;commits; PGWAKE_TEST_MAJORS, 15).

#[path = "../side_by_side/mod.rs"]
mod side_by_side;
#[path = "../../tests/it/support/mod.rs"]
mod support;

mod commits;
mod recovery;
mod restore;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use side_by_side::{Cost, measure, report, setting};
use support::{Cluster, Running, Tool, object_store};

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size_mb = setting("PGWAKE_BENCH_MB", 512) as u64;
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 3).max(1);
    let wanted = std::env::var("PGWAKE_BENCH_CASES").ok();
    let is_wanted =
        |case: &str| wanted.as_ref().is_none_or(|wanted| wanted.split(';').any(|word| word == case));
    if is_wanted("throughput") {
        throughput(size_mb, rounds);
    }
    if is_wanted("age") {
        age();
    }
    if is_wanted("recovery") {
        recovery::measure(size_mb);
    }
    if is_wanted("restore") {
        restore::measure(size_mb, rounds);
    }
    if !is_wanted("commits") {
        return;
    }
    if object_store::program().is_some() {
        commits::measure(setting("PGWAKE_BENCH_SECONDS", 5));
    } else {
        println!("\ncommits: no s3s-fs here; get it with scripts/object-store");
    }
}

fn primary(synchronous: bool) -> Cluster {
    let builder = Cluster::builder().fsync();
    let builder = builder.setting("max_wal_size", "16GB").setting("checkpoint_timeout", "1h");
    let builder = builder.setting("wal_keep_size", "8GB").setting("max_connections", "120");
    let names = if synchronous { "pgwake" } else { "" };
    builder.setting("synchronous_standby_names", names).setting("autovacuum", "off").start()
}

fn receive(primary: &Cluster, directory: &Path) -> Tool {
    let tool = Tool::pgwake().args(["receive", "--quiet", "-w", "-d", &primary.conninfo(), "-D"]);
    tool.arg(directory).by_server_user().timeout(Duration::from_secs(500))
}

fn local_archive(primary: &Cluster, name: &str) -> String {
    format!("file://{}", primary.dir().subdir(name, 0o700).display())
}

// ---- throughput ----

fn throughput(size_mb: u64, rounds: usize) {
    let primary = primary(false);
    primary.psql("CREATE TABLE t (i int, a text, b text); SELECT pg_switch_wal(); SELECT txid_current()");
    let start_lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let written = || {
        let mb = format!("SELECT (pg_current_wal_flush_lsn() - '{start_lsn}')::bigint / 1048576");
        primary.psql(&mb).parse::<u64>().expect("a number of MB")
    };
    while written() < size_mb {
        primary.psql(
            "INSERT INTO t SELECT i, md5(i::text), md5((i * 7)::text) FROM generate_series(1, 400000) i; \
             UPDATE t SET i = i + 1 WHERE i % 5 = 0 AND i < 200000",
        );
    }
    primary.psql("CHECKPOINT");
    let (end_lsn, size_mb) = (primary.psql("SELECT pg_current_wal_flush_lsn()"), written());
    println!(
        "PostgreSQL {}, {size_mb} MB of WAL, {rounds} rounds, medians",
        primary.psql("SHOW server_version")
    );
    let contenders = ["pgwake receive", "… --archive file:///"];
    let mut runs: Vec<(&str, Vec<Cost>)> = contenders.iter().map(|name| (*name, Vec::new())).collect();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            let directory = primary.dir().subdir(&format!("received-{round}-{index}"), 0o700);
            let mut tool = receive(&primary, &directory).args(["--start", &start_lsn, "--endpos", &end_lsn]);
            if index == 1 {
                tool = tool.args(["--archive", &local_archive(&primary, &format!("archive-{round}"))]);
            }
            runs[index].1.push(measure(&tool));
        }
    }
    report("throughput: the same WAL, and all of it archived at the end", &runs);
    for (name, costs) in &runs {
        let mut walls: Vec<f64> = costs.iter().map(|cost| cost.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        println!("  {name:<34} {:.0} MB/s", size_mb as f64 / walls[walls.len() / 2]);
    }
}

// ---- age ----

fn age() {
    const SECONDS: u64 = 15;
    let primary = primary(false);
    let directory = primary.dir().subdir("received", 0o700);
    let url = local_archive(&primary, "archive");
    let tool = receive(&primary, &directory).args(["--start", "current", "--archive", &url]);
    let socket = primary.dir().subdir("socket_metrics", 0o777).join("s");
    let running = tool.arg("--metrics").arg(&socket).spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    let began = Instant::now();
    let (mut oldest, mut most_behind, mut written) = (0.0f64, 0.0f64, 0u64);
    while began.elapsed() < Duration::from_secs(SECONDS) {
        // as much as is due by now
        let due = (began.elapsed().as_millis() as u64 + 100) * 100 / 1000;
        if written < due {
            let count = due - written;
            primary.psql(&format!(
                "SELECT count(pg_logical_emit_message(false, 'filler', repeat(md5(random()::text || i), 32768))) \
                 FROM generate_series(1, {count}) i; SELECT pg_logical_emit_message(true, 'end', '')"
            ));
            written = due;
        }
        let [age, behind] = ["archive_lag_seconds", "archive_lag_bytes"].map(|name| metric(&socket, name));
        (oldest, most_behind) = (oldest.max(age), most_behind.max(behind));
        std::thread::sleep(Duration::from_millis(10));
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    println!(
        "\nage: at {rate:.0} MB/s of WAL for {SECONDS} s the oldest byte that was not archived was {oldest:.2} s old, \
         {:.0} MB behind at the most; --archive-delay 1s; resident {} MB",
        most_behind / 1e6,
        resident_mb(&running)
    );
    end(running);
}

fn metric(socket: &Path, name: &str) -> f64 {
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return 0.0 };
    let mut text = String::new();
    let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let _ = asked.and_then(|()| stream.read_to_string(&mut text));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("pgwake_{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

fn resident_mb(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn end(running: Running) {
    running.terminate();
    running.wait();
}
