//! One run of pgbench, and what is measured of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Cluster, Tool};

/// What a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Script {
    /// One row is inserted.
    Insert,
    /// pgbench's own: three updates, a select, an insert.
    Tpcb,
}

impl Script {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Script::Insert => "insert",
            Script::Tpcb => "tpcb",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Script::Insert, Script::Tpcb].into_iter().find(|script| script.name() == name)
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Script::Insert => "One row inserted a transaction",
            Script::Tpcb => "pgbench's own script",
        }
    }
}

/// A run's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) tps: f64,
    /// Of each transaction's latency, from pgbench's own log.
    pub(crate) mean_ms: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time of the receiver, all its threads; of a standby, its walreceiver alone.
    pub(crate) cpu_us_per_commit: f64,
}

pub(crate) struct Pgbench {
    script: Script,
    file: PathBuf,
    seconds: usize,
}

/// So many branches, and so many rows a client can wait for others to be done with: more than there are clients.
const SCALE: &str = "70";

impl Pgbench {
    /// The tables that the script needs.
    pub(crate) fn prepare(primary: &Cluster, script: Script, seconds: usize) -> Self {
        let file = primary.dir().join("insert.sql");
        let insert = "INSERT INTO t VALUES (:client_id, 'a row of some forty bytes, as many are');\n";
        std::fs::write(&file, insert).expect("write the script");
        match script {
            Script::Insert => drop(primary.psql("CREATE TABLE t (client int, note text)")),
            Script::Tpcb => {
                let fill = Tool::client(primary.major(), "pgbench").args(["-i", "-q", "-s", SCALE]);
                let fill = fill.args(["-d", &primary.conninfo()]).timeout(Duration::from_secs(300));
                fill.run().succeeded();
            }
        }
        Pgbench { script, file, seconds }
    }

    pub(crate) fn run(&self, primary: &Cluster, clients: usize, level: &str, receiver: Option<u32>) -> Run {
        // what a run writes of data pages is not the next one's to wait for
        primary.psql(match self.script {
            Script::Insert => "SET synchronous_commit = local; TRUNCATE t; CHECKPOINT",
            Script::Tpcb => "SET synchronous_commit = local; TRUNCATE pgbench_history; CHECKPOINT",
        });
        let log = primary.dir().subdir("pgbench", 0o700);
        let (clients, seconds) = (clients.to_string(), self.seconds.to_string());
        let mut tool = Tool::client(primary.major(), "pgbench")
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds])
            .args(["-l", "--log-prefix"])
            .arg(log.join("log"))
            .args(["-d", &primary.conninfo()])
            .env("PGOPTIONS", format!("-c synchronous_commit={level}"));
        if self.script == Script::Insert {
            tool = tool.arg("-f").arg(&self.file);
        }
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
fn latencies_ms(directory: &Path) -> Vec<f64> {
    let files = std::fs::read_dir(directory).expect("list the logs").flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.path()).expect("read a log"));
    let of_text = |text: String| -> Vec<f64> {
        let third = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
        text.lines().filter_map(third).map(|us| us / 1000.0).collect()
    };
    texts.flat_map(of_text).collect()
}

/// User and system time of a process, the threads that have ended included: `utime` and `stime` of proc(5), in ticks of 10 ms.
fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the receiver lives");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10_000.0
}
