//! What the whole-program benchmarks share: how a run is measured, and how contenders are shown side by side.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Builder, Cluster, Stop, Tool};

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From the start to the exit.
    pub(crate) wall: Duration,
    /// User and system time of the program and its children.
    pub(crate) cpu: Duration,
    /// The user's part of it.
    pub(crate) user: Duration,
    /// The largest resident memory of the program itself.
    pub(crate) resident_kb: u64,
}

/// One of the figures of a run.
pub(crate) type Measure = fn(&Cost) -> f64;

const ROWS: [(&str, Measure); 4] = [
    ("wall, s", |cost| cost.wall.as_secs_f64()),
    ("client CPU, s", |cost| cost.cpu.as_secs_f64()),
    ("… user CPU, s", |cost| cost.user.as_secs_f64()),
    ("resident, MB", |cost| cost.resident_kb as f64 / 1024.0),
];

/// A number from the environment.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The `pgwake` to measure: the one that was built, or another one that `PGWAKE_BENCH_PROGRAM` names.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) fn pgwake() -> Tool {
    std::env::var_os("PGWAKE_BENCH_PROGRAM").map_or_else(Tool::pgwake, Tool::new)
}

/// A cluster to copy from. With `PGWAKE_BENCH_KEEP` naming a directory it is made there under `name` once, and found there
/// by later runs.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) struct Source {
    cluster: Cluster,
    is_kept: bool,
}

#[allow(dead_code, reason = "each benchmark uses a part")]
impl Source {
    pub(crate) fn open(builder: Builder, name: &str, fill: impl Fn(&Cluster)) -> Source {
        let cluster = builder.create();
        let Some(keep) = std::env::var_os("PGWAKE_BENCH_KEEP") else {
            cluster.start();
            fill(&cluster);
            return Source { cluster, is_kept: false };
        };
        let kept = PathBuf::from(keep).join(format!("{name}-{}", cluster.major()));
        if !kept.exists() {
            cluster.start();
            fill(&cluster);
            cluster.stop(Stop::Fast);
            std::fs::rename(cluster.data_dir(), &kept)
                .expect("PGWAKE_BENCH_KEEP is a directory, on the file system of temporary ones");
        }
        let cluster = cluster.adopt(kept);
        cluster.start();
        Source { cluster, is_kept: true }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for Source {
    /// What is kept is not swept away with everything else, so its server has to be stopped.
    fn drop(&mut self) {
        if self.is_kept && self.cluster.is_running() {
            self.cluster.stop(Stop::Fast);
        }
    }
}

/// Removes what a comparison has made, and waits until that is over.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) fn clear(directories: &[PathBuf]) {
    for directory in directories {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    rustix::fs::sync();
}

/// Runs `tool`, which has to succeed, on a machine that has nothing left to write.
pub(crate) fn measure(tool: &Tool) -> Cost {
    rustix::fs::sync();
    let cpu_before = children_cpu();
    let started_at = Instant::now();
    let running = tool.spawn();
    let pid = running.pid();
    let sampler = std::thread::spawn(move || sample_resident_kb(pid));
    let outcome = running.wait();
    let wall = started_at.elapsed();
    assert!(outcome.code == Some(0), "{outcome}");
    let [user, system] = [0, 1].map(|part| children_cpu()[part] - cpu_before[part]);
    Cost { wall, cpu: user + system, user, resident_kb: sampler.join().unwrap_or(0) }
}

/// User and system time of the children that have been waited for: `cutime` and `cstime` of proc(5), in ticks of 10 ms.
fn children_cpu() -> [Duration; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    [13, 14].map(|index| Duration::from_millis(ticks(index) * 10))
}

fn sample_resident_kb(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let mut largest = 0;
    while let Ok(status) = std::fs::read_to_string(&path) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(kb) = line.and_then(|line| line.split_whitespace().next()?.parse().ok()) else { break };
        largest = largest.max(kb);
        std::thread::sleep(Duration::from_millis(20));
    }
    largest
}

fn median(runs: &[Cost], of: Measure) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the medians, their ratio to the first contender's, and every round.
pub(crate) fn report(title: &str, contenders: &[(&str, Vec<Cost>)]) {
    println!("\n{title}");
    for (label, of) in ROWS {
        let peer = median(&contenders[0].1, of);
        for (name, runs) in contenders {
            let ours = median(runs, of);
            let all: Vec<_> = runs.iter().map(|cost| format!("{:.2}", of(cost))).collect();
            println!("  {label:<14} {name:<34} {ours:>8.2} {:>7.2}   {}", ours / peer, all.join(" "));
        }
    }
}

/// Tables of some 13 MB to 100 MB, incompressible enough, and nothing that changes afterwards.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) fn fill(cluster: &Cluster, size_mb: usize) {
    let rows_per_mb = 10_000;
    for (table, share) in [(1, 0.5), (2, 0.25), (3, 0.15), (4, 0.1)] {
        let rows = (size_mb as f64 * share) as usize * rows_per_mb;
        cluster.psql(&format!(
            "CREATE UNLOGGED TABLE t{table} AS SELECT i, md5(i::text) a, md5((i * 7)::text) b FROM generate_series(1, {rows}) i; \
             ALTER TABLE t{table} SET LOGGED"
        ));
    }
    cluster.psql("VACUUM; CHECKPOINT");
}

/// How much there is to copy.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) fn size_of(cluster: &Cluster) -> String {
    cluster.psql("SELECT sum(pg_database_size(oid)) / 1000000 || ' MB' FROM pg_database")
}
