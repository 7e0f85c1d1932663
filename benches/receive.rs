//! `pgwake` beside `pg_receivewal`: the same backlog of WAL, the same machine, turn and turn about.
//!
//! Each fetches everything from the same segment's start to the same position, into an empty directory, and ends there.
//! Three degrees of care are compared: nothing is synced (`--no-sync`); each segment is (what `pg_receivewal` does unless
//! told otherwise); every byte is, before it is reported (`--synchronous`, and always in `pgwake receive`). pgwake checks
//! every page and record meanwhile; one contender does not, which shows what that costs. What is measured: wall time, CPU
//! time, largest resident memory. One more run of each, under strace, counts system calls; another tells how long the
//! socket is left alone while a segment is opened.
//!
//! `cargo bench --bench receive` (PGWAKE_BENCH_MB, 2048 unless set; PGWAKE_BENCH_ROUNDS, 5; PGWAKE_TEST_MAJORS, 15).

mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use side_by_side::{Cost, measure, report, setting};
use support::{Cluster, Tool};

#[derive(Debug, Clone, Copy)]
enum Contender {
    Original,
    /// Ours, called by the original's name.
    Namesake,
    /// `pgwake receive`.
    Receive,
    /// The same, without checks of pages and records.
    Unverified,
}

use Contender::{Namesake, Original, Receive, Unverified};

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Original => "pg_receivewal",
            Namesake => "pgwake as pg_receivewal",
            Receive => "pgwake receive",
            Unverified => "pgwake receive --no-verify-records",
        }
    }
}

/// When what was received is synced.
#[derive(Debug, Clone, Copy)]
enum Syncing {
    Never,
    Segments,
    EveryByte,
}

const COMPARED: [(&str, Syncing, &[Contender]); 3] = [
    ("nothing synced", Syncing::Never, &[Original, Namesake]),
    ("each segment synced", Syncing::Segments, &[Original, Namesake]),
    (
        "every byte synced before it is reported",
        Syncing::EveryByte,
        &[Original, Namesake, Receive, Unverified],
    ),
];

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 5).max(1);
    let bench = Bench::prepare(setting("PGWAKE_BENCH_MB", 2048));
    let version = bench.cluster.psql("SHOW server_version");
    println!("PostgreSQL {version}, backlog of {} MB, {rounds} rounds, medians", bench.backlog_mb());
    for (title, syncing, contenders) in COMPARED {
        let mut runs: Vec<(&str, Vec<Cost>)> =
            contenders.iter().map(|contender| (contender.name(), Vec::new())).collect();
        for round in 0..rounds {
            // the one that goes first changes every round
            for turn in 0..contenders.len() {
                let index = (turn + round) % contenders.len();
                runs[index].1.push(bench.run(contenders[index], syncing));
            }
        }
        report(title, &runs);
    }
    for (title, syncing, contenders) in COMPARED {
        println!("\n{title}, under strace");
        for &contender in contenders {
            bench.trace(contender, syncing);
        }
    }
}

struct Bench {
    cluster: Cluster,
    link: PathBuf,
    first_segment: String,
    start_lsn: String,
    end_lsn: String,
}

impl Bench {
    /// A server with `size_mb` of WAL: what loading and updating tables writes, full-page images and small records.
    fn prepare(size_mb: usize) -> Self {
        let cluster = Cluster::builder()
            .setting("max_wal_size", "16GB")
            .setting("checkpoint_timeout", "1h")
            .setting("wal_keep_size", "16GB")
            .setting("autovacuum", "off")
            .start();
        cluster.psql("CREATE TABLE t (i int, a text, b text); SELECT pg_switch_wal(); SELECT txid_current()");
        let start_lsn = cluster.psql("SELECT pg_current_wal_flush_lsn()");
        let first_segment = cluster.psql("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
        let link = cluster.dir().join("pg_receivewal");
        std::os::unix::fs::symlink(Tool::pgwake_program(), &link).expect("link the program");
        let mut bench = Bench { cluster, link, first_segment, start_lsn, end_lsn: String::new() };
        while bench.backlog_mb() < size_mb as u64 {
            bench.cluster.psql(
                "INSERT INTO t SELECT i, md5(i::text), md5((i * 7)::text) FROM generate_series(1, 400000) i; \
                 UPDATE t SET i = i + 1 WHERE i % 5 = 0 AND i < 200000",
            );
        }
        bench.cluster.psql("CHECKPOINT");
        bench.end_lsn = bench.cluster.psql("SELECT pg_current_wal_flush_lsn()");
        bench
    }

    fn backlog_mb(&self) -> u64 {
        let mb = format!("SELECT (pg_current_wal_flush_lsn() - '{}')::bigint / 1048576", self.start_lsn);
        self.cluster.psql(&mb).parse().expect("a number of MB")
    }

    /// An empty unfinished segment tells all of them where to begin.
    fn directory(&self) -> PathBuf {
        let directory = self.cluster.dir().subdir("received", 0o700);
        std::fs::write(directory.join(format!("{}.partial", self.first_segment)), "")
            .expect("mark the start");
        directory
    }

    fn tool(&self, contender: Contender, syncing: Syncing, directory: &Path) -> Tool {
        let tool = match contender {
            Original => Tool::client(self.cluster.major(), "pg_receivewal"),
            Namesake => Tool::new(&self.link),
            Receive => Tool::pgwake().args(["receive", "--quiet"]),
            Unverified => Tool::pgwake().args(["receive", "--quiet", "--no-verify-records"]),
        };
        let tool = match (contender, syncing) {
            (Receive | Unverified, _) | (_, Syncing::Segments) => tool,
            (_, Syncing::Never) => tool.args(["--no-sync"]),
            (_, Syncing::EveryByte) => tool.args(["--synchronous"]),
        };
        let tool =
            tool.args(["-d", &self.cluster.conninfo(), "--endpos", &self.end_lsn, "-D"]).arg(directory);
        tool.timeout(Duration::from_secs(600))
    }

    fn run(&self, contender: Contender, syncing: Syncing) -> Cost {
        let directory = self.directory();
        let cost = measure(&self.tool(contender, syncing, &directory));
        self.check_and_remove(&directory);
        cost
    }

    /// Every contender received the same; so that the disk is not full, it goes away again.
    fn check_and_remove(&self, directory: &Path) {
        let received = std::fs::read_dir(directory).expect("list what came");
        let len: u64 = received.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum();
        assert!(len >> 20 >= self.backlog_mb(), "only {} MB came", len >> 20);
        std::fs::remove_dir_all(directory).expect("remove what came");
    }

    /// Counts system calls in one run, and looks at gaps between readings of the socket in another: only that call is
    /// followed then, so that the program is not slowed down by being watched while it opens a segment.
    fn trace(&self, contender: Contender, syncing: Syncing) {
        let counts = self.strace(
            contender,
            syncing,
            &["-c", "-e", "trace=write,pwrite64,pwritev,writev,fsync,fdatasync,ftruncate,fallocate"],
        );
        let calls = |names: &[&str]| -> u64 {
            let lines = counts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let counted = lines.filter(|words| words.last().is_some_and(|name| names.contains(name)));
            counted.filter_map(|words| words.get(3)?.parse::<u64>().ok()).sum()
        };
        let readings = self.strace(
            contender,
            syncing,
            &["--seccomp-bpf", "-y", "-T", "-ttt", "-e", "trace=recvfrom,read"],
        );
        let mut gaps = gaps_ms(&readings);
        gaps.sort_by(f64::total_cmp);
        let longest: Vec<_> = gaps.iter().rev().take(8).map(|gap| format!("{gap:.0}")).collect();
        println!(
            "  {:<34} {:>7} writes {:>6} syncs, longest gaps between readings {} ms",
            contender.name(),
            calls(&["write", "pwrite64", "pwritev", "writev"]),
            calls(&["fsync", "fdatasync"]),
            longest.join(" ")
        );
    }

    fn strace(&self, contender: Contender, syncing: Syncing, options: &[&str]) -> String {
        let directory = self.directory();
        let output = self.cluster.dir().join("strace");
        let tool = self.tool(contender, syncing, &directory);
        let words = ["-D", "-f", "-o"].map(Into::into).into_iter().chain([output.clone().into_os_string()]);
        let tool = tool.under("strace", words.chain(options.iter().map(Into::into)));
        let outcome = tool.run();
        assert!(outcome.code == Some(0), "{outcome}");
        // strace writes its file after the program has ended
        let mut text = String::new();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            text = std::fs::read_to_string(&output).unwrap_or_default();
            if text.contains("exited with") || text.contains("total") {
                break;
            }
        }
        self.check_and_remove(&directory);
        text
    }
}

/// From each reading's end to the next one's beginning, where both brought bytes.
fn gaps_ms(trace: &str) -> Vec<f64> {
    let mut last_end = None;
    let mut gaps = Vec::new();
    for line in trace.lines() {
        // 1234 1700000000.123456 read(5<socket:[6789]>, …, 16384) = 16384 <0.000010>
        if !(line.contains("<socket:[") || line.contains("<UNIX")) {
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        let started_at: Option<f64> = words.get(1).and_then(|word| word.parse().ok());
        let took =
            words.last().and_then(|word| word.strip_prefix('<')?.strip_suffix('>')?.parse::<f64>().ok());
        let (Some(started_at), Some(took)) = (started_at, took) else { continue };
        if let Some(last_end) = last_end {
            gaps.push((started_at - last_end) * 1000.0);
        }
        last_end = Some(started_at + took);
    }
    gaps
}
