//! What a commit waits for that waits for a receiver: `pg_receivewal --synchronous`, a real standby, `pgwake receive`, and
//! nobody, turn and turn about on the same primary, which syncs its own WAL as always.
//!
//! `pgbench` inserts one row a transaction, prepared, at each number of clients. What is measured: transactions a second,
//! and of each transaction's latency the mean, the median and the 99th percentile, from pgbench's own log; CPU time of
//! the receiver a commit (of a standby its walreceiver alone, which neither writes data nor replays). Every contender is
//! started anew for its turn, into a directory of its own.
//!
//! `cargo bench --bench commit` (PGWAKE_BENCH_ROUNDS, 3 unless set; PGWAKE_BENCH_SECONDS of each run, 3;
//! PGWAKE_TEST_MAJORS, 15).

#[allow(dead_code, reason = "what is measured here is not a whole program's run")]
mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use side_by_side::setting;
use support::{Cluster, Running, Stop, Tool};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Receiver {
    Nobody,
    Original,
    Standby,
    Pgwake,
}

/// Who is waited for, and for what.
const CONTENDERS: [(&str, Receiver, &str); 6] = [
    ("nobody (local)", Receiver::Nobody, "local"),
    ("pg_receivewal --synchronous, on", Receiver::Original, "on"),
    ("standby, on", Receiver::Standby, "on"),
    ("pgwake receive, on", Receiver::Pgwake, "on"),
    ("standby, remote_write", Receiver::Standby, "remote_write"),
    ("pgwake receive, remote_write", Receiver::Pgwake, "remote_write"),
];

const CLIENTS: [usize; 3] = [1, 8, 32];

/// What receivers call themselves, so that the primary waits for them.
const NAME: &str = "bench";

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 3).max(1);
    let bench = Bench::prepare(setting("PGWAKE_BENCH_SECONDS", 3).max(1));
    let version = bench.primary.psql("SHOW server_version");
    println!("PostgreSQL {version}, {rounds} rounds of {} s, medians", bench.seconds);
    let mut runs: BTreeMap<(usize, usize), Vec<Run>> = BTreeMap::new();
    for round in 0..rounds {
        // the one that goes first changes every round
        for turn in 0..CONTENDERS.len() {
            let index = (turn + round) % CONTENDERS.len();
            for (clients, run) in bench.take_turn(index, round) {
                runs.entry((clients, index)).or_default().push(run);
            }
        }
    }
    report(&runs);
}

/// One run of pgbench.
#[derive(Debug, Clone, Copy)]
struct Run {
    tps: f64,
    mean_ms: f64,
    median_ms: f64,
    p99_ms: f64,
    /// Of the receiver.
    cpu_us_per_commit: f64,
}

type Figure = fn(&Run) -> f64;

fn report(runs: &BTreeMap<(usize, usize), Vec<Run>>) {
    let median = |runs: &[Run], of: Figure| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for clients in CLIENTS {
        println!(
            "\n{clients} clients{:29} tps  of local  mean ms   p50 ms   p99 ms  CPU us   tps of each round",
            ""
        );
        let local = median(&runs[&(clients, 0)], |run| run.tps);
        for (index, (name, ..)) in CONTENDERS.iter().enumerate() {
            let runs = &runs[&(clients, index)];
            let tps = median(runs, |run| run.tps);
            let figures: [Figure; 3] = [|run| run.mean_ms, |run| run.median_ms, |run| run.p99_ms];
            let [mean, p50, p99] = figures.map(|of| median(runs, of));
            let cpu = median(runs, |run| run.cpu_us_per_commit);
            let all: Vec<_> = runs.iter().map(|run| format!("{:.0}", run.tps)).collect();
            println!(
                "  {name:<33} {tps:>8.0} {:>9.2} {mean:>8.2} {p50:>8.2} {p99:>8.2} {cpu:>7.1}   {}",
                tps / local,
                all.join(" ")
            );
        }
    }
}

struct Bench {
    primary: Cluster,
    standby: Cluster,
    script: PathBuf,
    seconds: usize,
}

impl Bench {
    fn prepare(seconds: usize) -> Self {
        let primary = Cluster::builder()
            .fsync()
            .setting("max_wal_size", "8GB")
            .setting("checkpoint_timeout", "1h")
            .setting("wal_keep_size", "8GB")
            .setting("autovacuum", "off")
            .start();
        primary.psql("CREATE TABLE t (client int, note text)");
        let data_dir = primary.dir().join("standby");
        let conninfo = format!("{} application_name={NAME}", primary.conninfo());
        let copy =
            Tool::client(primary.major(), "pg_basebackup").args(["-R", "-c", "fast", "-d", &conninfo, "-D"]);
        copy.arg(&data_dir).by_server_user().timeout(Duration::from_secs(120)).run().succeeded();
        let standby = primary.adopt(data_dir);
        let script = primary.dir().join("insert.sql");
        std::fs::write(
            &script,
            "INSERT INTO t VALUES (:client_id, 'a row of some forty bytes, as many are');\n",
        )
        .expect("write the script");
        primary.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{NAME}'"));
        primary.reload();
        Bench { primary, standby, script, seconds }
    }

    /// Starts one receiver, and measures with each number of clients.
    fn take_turn(&self, index: usize, round: usize) -> Vec<(usize, Run)> {
        let (_, receiver, level) = CONTENDERS[index];
        let directory = self.primary.dir().subdir(&format!("received-{index}-{round}"), 0o700);
        let conninfo = format!("{} application_name={NAME}", self.primary.conninfo());
        let tool = match receiver {
            Receiver::Original => Some(Tool::client(self.primary.major(), "pg_receivewal").args([
                "--synchronous",
                "-d",
                &conninfo,
                "-D",
            ])),
            Receiver::Pgwake => {
                Some(Tool::pgwake().args(["receive", "--quiet", "--start", "current", "-d", &conninfo, "-D"]))
            }
            Receiver::Nobody | Receiver::Standby => None,
        };
        let running = tool.map(|tool| tool.arg(&directory).timeout(Duration::from_secs(600)).spawn());
        if receiver == Receiver::Standby {
            self.standby.start();
        }
        if receiver != Receiver::Nobody {
            let caught_up = "SELECT count(*) FROM pg_stat_replication \
                 WHERE sync_state = 'sync' AND flush_lsn >= pg_current_wal_flush_lsn()";
            self.primary.wait_for(caught_up, "1");
        }
        let pid = self.receiver_pid(receiver, running.as_ref());
        let figures = CLIENTS.map(|clients| (clients, self.run(clients, level, pid)));
        if let Some(running) = running {
            running.terminate();
            running.wait();
        }
        if receiver == Receiver::Standby {
            self.standby.stop(Stop::Fast);
        }
        self.primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
        figures.into()
    }

    fn receiver_pid(&self, receiver: Receiver, running: Option<&Running>) -> Option<u32> {
        match receiver {
            Receiver::Nobody => None,
            Receiver::Standby => {
                let pid = self.standby.psql("SELECT pid FROM pg_stat_wal_receiver");
                Some(pid.parse().expect("the walreceiver's process id"))
            }
            Receiver::Original | Receiver::Pgwake => running.map(Running::pid),
        }
    }

    fn run(&self, clients: usize, level: &str, receiver: Option<u32>) -> Run {
        // what a run writes of data pages is not the next one's to wait for
        self.primary.psql("SET synchronous_commit = local; TRUNCATE t; CHECKPOINT");
        let log = self.primary.dir().subdir("pgbench", 0o700);
        let tool = Tool::client(self.primary.major(), "pgbench")
            .args([
                "-n",
                "-M",
                "prepared",
                "-j",
                "2",
                "-c",
                &clients.to_string(),
                "-T",
                &self.seconds.to_string(),
            ])
            .args(["-f", &self.script.display().to_string(), "-l", "--log-prefix"])
            .arg(log.join("log"))
            .args(["-d", &self.primary.conninfo()])
            .env("PGOPTIONS", format!("-c synchronous_commit={level}"));
        let cpu_before = receiver.map_or(0.0, cpu_us);
        let outcome = tool.timeout(Duration::from_secs(120)).run().succeeded();
        let cpu = receiver.map_or(0.0, cpu_us) - cpu_before;
        let mut latencies = latencies_ms(&log);
        std::fs::remove_dir_all(&log).expect("remove the log");
        latencies.sort_by(f64::total_cmp);
        assert!(!latencies.is_empty(), "{outcome}");
        let count = latencies.len() as f64;
        let percentile =
            |percent: f64| latencies[((count * percent / 100.0) as usize).min(latencies.len() - 1)];
        Run {
            tps: count / self.seconds as f64,
            mean_ms: latencies.iter().sum::<f64>() / count,
            median_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            cpu_us_per_commit: cpu / count,
        }
    }
}

/// Third word of each line: microseconds.
fn latencies_ms(directory: &std::path::Path) -> Vec<f64> {
    let files = std::fs::read_dir(directory).expect("list the logs").flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.path()).expect("read a log"));
    let of_text = |text: String| -> Vec<f64> {
        let third = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
        text.lines().filter_map(third).map(|us| us / 1000.0).collect()
    };
    texts.flat_map(of_text).collect()
}

/// CPU time of all threads of a process: `schedstat` counts it in nanoseconds.
fn cpu_us(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the receiver lives").flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let on_cpu_ns = |text: String| text.split_whitespace().next()?.parse::<f64>().ok();
    texts.filter_map(on_cpu_ns).sum::<f64>() / 1000.0
}
