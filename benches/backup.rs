//! `pg_basebackup` beside the original: the same argv, the same cluster, the same machine, turn and turn about.
//!
//! Each run writes into a directory of its own, and nothing is deleted before a comparison ends, because ext4 is slower
//! where files have just been deleted. What is measured: wall time, CPU time of the client (children of the original
//! included), the largest resident memory of its process. What goes to standard output goes to `/dev/null`.
//!
//! `cargo bench --bench backup` (PGWAKE_BENCH_MB, 3072 unless set; PGWAKE_BENCH_TABLES, 20000; PGWAKE_BENCH_ROUNDS, 3;
//! PGWAKE_BENCH_CASES, titles with semicolons between them, or their beginnings and a star, all unless set;
//! PGWAKE_BENCH_KEEP, a directory where the clusters stay for the next run; PGWAKE_BENCH_PROGRAM, another `pgwake`;
//! PGWAKE_TEST_MAJORS, 15).

mod side_by_side;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use side_by_side::{Cost, Source, clear, measure, pgwake, report, setting};
use support::{Cluster, Tool};

/// Which cluster a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Large,
    ManyTables,
}

/// What both are told; `DIR` is a directory that is not there yet.
struct Case {
    title: &'static str,
    data: Data,
    args: &'static str,
    tls: bool,
}

const fn case(title: &'static str, data: Data, args: &'static str) -> Case {
    Case { title, data, args, tls: false }
}

const CASES: [Case; 15] = [
    case("discard", Data::Large, "-D - -Ft -X none"),
    Case { title: "discard, TLS", data: Data::Large, args: "-D - -Ft -X none", tls: true },
    case("plain, not synced", Data::Large, "-D DIR -N"),
    case("plain, synced", Data::Large, "-D DIR"),
    case("tar, not synced", Data::Large, "-D DIR -Ft -N"),
    case("tar, synced", Data::Large, "-D DIR -Ft"),
    case("client gzip 1", Data::Large, "-D - -Ft -X none -Z gzip:1"),
    case("client lz4", Data::Large, "-D - -Ft -X none -Z lz4"),
    case("client zstd 1", Data::Large, "-D - -Ft -X none -Z zstd:1"),
    case("server lz4, extracted", Data::Large, "-D DIR -N -Z server-lz4"),
    case("server zstd 1, extracted", Data::Large, "-D DIR -N -Z server-zstd:1"),
    case("server zstd 1, kept", Data::Large, "-D DIR -N -Ft -Z server-zstd:1"),
    case("tables, synced", Data::ManyTables, "-D DIR"),
    case("tables, synced at once", Data::ManyTables, "-D DIR --sync-method=syncfs"),
    case("tables, not synced", Data::ManyTables, "-D DIR -N"),
];

fn main() {
    // `cargo test --benches` only wants to know that this builds
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size_mb = setting("PGWAKE_BENCH_MB", 3072);
    let tables = setting("PGWAKE_BENCH_TABLES", 20_000);
    let rounds = setting("PGWAKE_BENCH_ROUNDS", 3).max(1);
    let wanted = std::env::var("PGWAKE_BENCH_CASES").unwrap_or_default();
    let words: Vec<&str> = wanted.split(';').filter(|word| !word.is_empty()).collect();
    let is_meant = |title: &str, word: &str| match word.strip_suffix('*') {
        Some(beginning) => title.starts_with(beginning),
        None => title == word,
    };
    let chosen = |case: &&Case| words.is_empty() || words.iter().any(|word| is_meant(case.title, word));
    let cases: Vec<&Case> = CASES.iter().filter(chosen).collect();
    assert!(!cases.is_empty(), "PGWAKE_BENCH_CASES names none of {:?}", CASES.map(|case| case.title));
    for data in [Data::Large, Data::ManyTables] {
        let cases: Vec<_> = cases.iter().filter(|case| case.data == data).collect();
        if cases.is_empty() {
            continue;
        }
        let builder = Cluster::builder().tls().setting("max_wal_size", "8GB").setting("autovacuum", "off");
        let builder = builder.setting("max_locks_per_transaction", "1024");
        let name = match data {
            Data::Large => format!("large-{size_mb}"),
            Data::ManyTables => format!("tables-{tables}"),
        };
        let source = Source::open(builder, &name, |cluster| match data {
            Data::Large => side_by_side::fill(cluster, size_mb),
            Data::ManyTables => make_tables(cluster, tables),
        });
        let cluster = source.cluster();
        let (version, size) = (cluster.psql("SHOW server_version"), side_by_side::size_of(cluster));
        println!("PostgreSQL {version}, {name}, {size}, {rounds} rounds, medians");
        for case in cases {
            let (mut runs, mut made) = ([Vec::new(), Vec::new()], Vec::new());
            for round in 0..rounds {
                // the one that goes first changes every round
                for contender in [round % 2, (round + 1) % 2] {
                    let directory = cluster.dir().join(&format!("out-{contender}-{round}"));
                    runs[contender].push(run(cluster, case, contender, &directory));
                    made.push(directory);
                }
            }
            clear(&made);
            let [peer, ours] = runs;
            report(case.title, &[("pg_basebackup", peer), ("pgwake pg_basebackup", ours)]);
        }
    }
}

/// Each with a row, an index and a TOAST table: four files and more.
fn make_tables(cluster: &Cluster, count: usize) {
    for start in (1..=count).step_by(2_000) {
        let end = (start + 1_999).min(count);
        cluster.psql(&format!(
            "DO $$ BEGIN FOR i IN {start}..{end} LOOP \
             EXECUTE format('CREATE TABLE s%s (i int PRIMARY KEY, t text)', i); \
             EXECUTE format('INSERT INTO s%s VALUES (1, ''x'')', i); END LOOP; END $$"
        ));
    }
    cluster.psql("CHECKPOINT");
}

fn run(cluster: &Cluster, case: &Case, contender: usize, directory: &Path) -> Cost {
    let tool = match contender {
        0 => Tool::client(cluster.major(), "pg_basebackup"),
        _ => pgwake().arg("pg_basebackup"),
    };
    let conninfo = match case.tls {
        true => format!("{} sslmode=require", cluster.tcp_conninfo()),
        false => cluster.conninfo(),
    };
    let words = case.args.split(' ');
    // the original knows it since 17
    let is_known =
        |word: &&str| contender == 1 || cluster.major() >= 17 || !word.starts_with("--sync-method");
    let words = words.filter(is_known).map(|word| word.replace("DIR", &directory.display().to_string()));
    let tool = tool.args(["-c", "fast", "-d", &conninfo]).args(words).by_server_user();
    let quiet = ["-c", "exec \"$@\" >/dev/null", "sh"].map(Into::into);
    measure(&tool.under("/bin/sh", quiet).timeout(Duration::from_secs(900)))
}
