//! What a commit waits for that waits for a receiver: `pg_receivewal --synchronous`, a real standby, `pgwake receive`, and
//! nobody, turn and turn about on the same primary, which syncs its own WAL as always.
//!
//! `pgbench` runs at each number of clients; what is measured of a run is in [`pgbench::Run`]. Every contender is started anew
//! for its turn, into a directory of its own, and has begun a segment before it is measured: what a receiver does once, when
//! it starts, is not a commit's to wait for. The situations, and what the environment says of them, are in [`situation`].
//!
//! `cargo bench --bench commit` measures, and prints every run as a line to standard output. Kept as `benches/results/commit.tsv`,
//! tables and the chart are made from them by `cargo bench --bench commit -- --draw`, which measures nothing.

mod chart;
mod figures;
mod link;
mod pgbench;
#[allow(dead_code, reason = "what is measured here is not a whole program's run")]
#[path = "../side_by_side/mod.rs"]
mod side_by_side;
mod situation;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use figures::{Figures, Measured};
use link::Link;
use pgbench::Pgbench;
use side_by_side::setting;
use situation::{Contender, Disk, Receiver, Situation};
use support::{Cluster, Running, Stop, Tool};

/// What receivers call themselves, so that the primary waits for them.
const NAME: &str = "bench";

fn main() {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has("--draw") {
        return draw();
    }
    // `cargo test --benches` only wants to know that this builds
    if !has("--bench") {
        return;
    }
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 3).max(1);
    let first_round = setting("PGWAKE_BENCH_FIRST_ROUND", 0);
    let situation = Situation::from_environment();
    let bench = Bench::prepare(situation, setting("PGWAKE_BENCH_SECONDS", 3).max(1));
    let contenders = situation.contenders();
    for round in first_round..first_round + rounds {
        // the one that goes first changes every round
        for turn in 0..contenders.len() {
            bench.take_turn(contenders[(turn + round) % contenders.len()], round);
        }
    }
}

/// Tables to standard output, and the chart to its place.
fn draw() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = root.join("benches/results/commit.tsv");
    let text = std::fs::read_to_string(&results).expect("read the results");
    let figures = Figures::parse(&text);
    print!("{}", figures.tables());
    let path = root.join("docs/commit.svg");
    std::fs::write(&path, chart::draw(&figures)).expect("write the chart");
    eprintln!("drew {}", path.display());
}

struct Bench {
    situation: Situation,
    primary: Cluster,
    standby: Cluster,
    pgbench: Pgbench,
    link: Option<Link>,
    conninfo: String,
}

impl Bench {
    fn prepare(situation: Situation, seconds: usize) -> Self {
        let primary = Cluster::builder()
            .fsync()
            .setting("max_wal_size", "8GB")
            .setting("checkpoint_timeout", "1h")
            .setting("wal_keep_size", "8GB")
            .setting("autovacuum", "off")
            .setting("max_connections", "99")
            .start();
        let pgbench = Pgbench::prepare(&primary, situation.script, seconds);
        let link = (!situation.delay.is_zero()).then(|| Link::to(primary.port(), situation.delay));
        let way = match &link {
            Some(link) => format!("host=127.0.0.1 port={} user=postgres dbname=postgres", link.port()),
            None => primary.conninfo(),
        };
        let conninfo = format!("{way} application_name={NAME}");
        let data_dir = primary.dir().join("standby");
        let direct = format!("{} application_name={NAME}", primary.conninfo());
        let copy =
            Tool::client(primary.major(), "pg_basebackup").args(["-R", "-c", "fast", "-d", &direct, "-D"]);
        copy.arg(&data_dir).by_server_user().timeout(Duration::from_secs(120)).run().succeeded();
        if link.is_some() {
            let settings = format!("primary_conninfo = '{conninfo}'\n");
            std::fs::write(data_dir.join("postgresql.auto.conf"), settings).expect("lead the standby");
        }
        let standby = primary.adopt(data_dir);
        primary.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{NAME}'"));
        primary.reload();
        Bench { situation, primary, standby, pgbench, link, conninfo }
    }

    /// Starts one receiver, and measures with each number of clients.
    fn take_turn(&self, contender: Contender, round: usize) {
        // a receiver asks for it when it connects
        let level = contender.level;
        self.primary
            .psql(&format!("ALTER SYSTEM SET synchronous_commit = '{level}'; SELECT pg_reload_conf()"));
        let name = format!("received-{}-{}-{round}", contender.name().replace(' ', "-"), contender.level);
        let directory = self.primary.dir().subdir(&name, 0o700);
        let running = self.tool(contender).map(|tool| tool.arg(&directory).timeout(LONG).spawn());
        if contender.receiver == Receiver::Standby {
            self.standby.start();
        }
        if contender.receiver != Receiver::Nobody {
            self.begin_a_segment();
        }
        let pid = self.receiver_pid(contender.receiver, running.as_ref());
        for &clients in self.situation.clients() {
            let run = self.pgbench.run(&self.primary, clients, contender.level, pid);
            println!("{}", Measured { situation: self.situation, clients, contender, round, run });
        }
        if let Some(running) = running {
            running.terminate();
            running.wait();
        }
        if contender.receiver == Receiver::Standby {
            self.standby.stop(Stop::Fast);
        }
        if let Some(link) = &self.link {
            link.forget();
        }
        self.primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
        self.primary.psql("ALTER SYSTEM SET synchronous_commit = 'local'; SELECT pg_reload_conf()");
    }

    fn tool(&self, contender: Contender) -> Option<Tool> {
        let tool = match contender.receiver {
            Receiver::Nobody | Receiver::Standby => return None,
            Receiver::Original => Tool::client(self.primary.major(), "pg_receivewal").arg("--synchronous"),
            Receiver::Pgwake => Tool::pgwake().args(["receive", "--quiet", "--start", "current"]),
        };
        let tool = tool.args(["-d", &self.conninfo, "-D"]);
        let took = match contender.disk {
            Disk::Itself => return Some(tool),
            Disk::Watched => 0,
            Disk::Slow => situation::SLOW_SYNC.as_micros(),
        };
        // only these calls stop, so that a program is slowed down by nothing else
        let trace = ["-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"];
        let mut words: Vec<String> = trace.map(Into::into).into();
        if took > 0 {
            words.extend(["-e".into(), format!("inject=fsync,fdatasync:delay_exit={took}")]);
        }
        Some(tool.under("strace", words.into_iter().map(Into::into)))
    }

    /// Twice: what a receiver makes ready for the next segment, while it receives one, is there for that one then.
    fn begin_a_segment(&self) {
        let caught_up = "SELECT count(*) FROM pg_stat_replication \
             WHERE sync_state = 'sync' AND flush_lsn >= pg_current_wal_flush_lsn()";
        for _ in 0..2 {
            self.primary.wait_for(caught_up, "1");
            self.primary.psql("SET synchronous_commit = local; CREATE TABLE x (); DROP TABLE x");
            self.primary.wait_for(caught_up, "1");
            std::thread::sleep(Duration::from_millis(700));
            self.primary.psql("SELECT pg_switch_wal()");
        }
        self.primary.psql("SET synchronous_commit = local; CREATE TABLE x (); DROP TABLE x");
        self.primary.wait_for(caught_up, "1");
        // what is made ready for the segment after this one is not what a commit waits for, but once in a segment
        std::thread::sleep(Duration::from_millis(700));
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
}

const LONG: Duration = Duration::from_secs(600);
