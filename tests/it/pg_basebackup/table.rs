//! The command lines that are compared, all against one quiet server.
//!
//! `OUT` stands for a directory that does not exist, `EMPTY` for one that is empty, `FULL` for one that is not, `RUN` for
//! the one around them; `NOTHING` is the empty word. `=` in front of a line: the runs also leave a backup to compare.

use std::time::Duration;

use super::compare::{Place, essence};
use super::{leading_to, original, ours};
use crate::support::servers::{default_major, skipped};
use crate::support::{Cluster, TestDir};

/// Mistakes, and what is found out before a server is asked.
const WITHOUT_SERVER: &[&str] = &[
    "",
    "-D",
    "--pgdata",
    "-D OUT operand",
    "operand more",
    "-D OUT -q",
    "-D OUT -?",
    "-D OUT --help",
    "-D OUT -V",
    "-D OUT --version",
    "-D OUT --nosuch",
    "-D OUT --no",
    "-D OUT --no-s",
    "-D OUT --ma",
    "-D OUT --verb=1",
    "-D OUT --manifest-c",
    "-F x -D OUT",
    "-Fx",
    "-D OUT -F NOTHING",
    "-D OUT --format=tarball",
    "-D OUT -X foo",
    "-D OUT --wal-method=NOTHING",
    "-D OUT -c slow",
    "-D OUT -c NOTHING",
    "-D OUT -r x",
    "-D OUT -r NOTHING",
    "-D OUT -r 0",
    "-D OUT -r -5",
    "-D OUT -r 31",
    "-D OUT -r 31.9k",
    "-D OUT -r 1048577",
    "-D OUT -r 1025M",
    "-D OUT -r 10G",
    "-D OUT -r 10kB",
    "-D OUT -r 99999999999",
    "-D OUT -r nan",
    "-D OUT -r inf",
    "-D OUT -r 1e99",
    "-D OUT -s x",
    "-D OUT -s -1",
    "-D OUT -s 2147484",
    "-D OUT -s NOTHING",
    "-D OUT -T x",
    "-D OUT -T NOTHING",
    "-D OUT -T /a=",
    "-D OUT -T =/a",
    "-D OUT -T a=/b",
    "-D OUT -T /a=b",
    "-D OUT -T /a=/b=/c",
    "-D OUT -T /a\\=/b",
    "-D OUT -Z foo",
    "-D OUT -Z gzip",
    "-D OUT -z",
    "-D OUT -Z 9",
    "-D OUT -Ft -Z 10",
    "-D OUT -Ft -Z -2",
    "-D OUT -Ft -Z gzip:",
    "-D OUT -Ft -Z gzip:level",
    "-D OUT -Ft -Z gzip:level=",
    "-D OUT -Ft -Z gzip:level=x",
    "-D OUT -Ft -Z gzip:level=10",
    "-D OUT -Ft -Z gzip:workers=2",
    "-D OUT -Ft -Z lz4:13",
    "-D OUT -Ft -Z none:1",
    "-D OUT -Ft -Z client-foo",
    "-D OUT -Ft -Z GZIP",
    "-D OUT -Ft -Z :",
    "-D OUT -Z client-gzip:3",
    "-t blackhole",
    "-t blackhole -D OUT",
    "-t blackhole -F p",
    "-t blackhole -X stream",
    "-t blackhole -X none -Z client-gzip",
    "-t blackhole -X none --waldir=/x",
    "-t server:/x -Ft -D OUT",
    "-t client",
    "-t client -Fx",
    "-D - -Ft",
    "-D - -Ft -X stream",
    "-D OUT -S slot -X none",
    "-D OUT -S slot -X fetch",
    "-D OUT --no-slot -S slot",
    "-D OUT -C",
    "-D OUT -C --no-slot",
    "-D OUT -C -X none",
    "-D OUT -C -S slot --no-slot",
    "-D OUT -Ft --waldir=/x",
    "-D OUT --waldir=x",
    "-D OUT --waldir=NOTHING",
    "-D OUT -P --no-estimate-size",
    "-D OUT --sync-method=none",
    "-D OUT --sync-method",
    "-D OUT --sync-method=NOTHING",
    "-D OUT --no-manifest --manifest-checksums=NONE",
    "-D OUT --no-manifest --manifest-force-encode",
    "-D OUT -h /nonexistent",
    "-D OUT -h 127.0.0.1 -p 1",
    "-D OUT -p abc",
    "-D OUT -d foo=1",
    "-D OUT -d host=/nonexistent",
    "-D OUT -U nosuch",
    "-D OUT -w -U nosuch",
];

/// What the server or the directory does not like.
const REFUSED: &[&str] = &[
    "-D FULL",
    "-D FULL -Ft",
    "-D /etc/passwd",
    "-D /etc/passwd/below",
    "-D /proc/nothing/below",
    "-D OUT --waldir=FULL",
    "-D OUT --manifest-checksums=foo -c fast",
    "-D OUT -Z server-foo -c fast",
    "-D OUT -Z server-gzip:99 -c fast",
    "-D OUT -Z server-gzip:level=x -c fast",
    "-D OUT -Z server-none:level=1 -c fast",
    "-t nosuch -X none -c fast",
    "-t server -X none -c fast",
    "-t blackhole:x -X none -c fast",
    "-t server:relative -X none -c fast",
    "-t blackhole -X none -R -c fast",
    "-D OUT -S missing -c fast",
    "-D OUT -v -S missing -c fast",
    "-D EMPTY -S missing -c fast",
    "-D OUT -C -S Upper -c fast",
    "-D OUT -C -S taken -v -c fast",
    "-D OUT --waldir=RUN/wal -S missing -c fast",
    "-D OUT -Ft -S missing -c fast",
    "-D - -Ft -X fetch -Z server-gzip -c fast",
];

/// Backups.
const BACKUPS: &[&str] = &[
    "-D OUT -c fast -N",
    "-D EMPTY -c fast -N -v -P",
    "-D OUT/deeper/still -c fast -N -X none --no-manifest",
    "-D OUT -cfast -NPX fetch",
    "-D OUT -c FAST --no-sync --no-slot -v --label=it's",
    "-D OUT -c fast -N -R -S taken",
    "-D OUT -c fast -N -R -C -S made -v",
    "-D OUT -c fast -N -R -h 127.0.0.1",
    "-D OUT -c fast -N -R -h 127.0.0.1 -d dbname=it's",
    "-D OUT -c fast -N -R -d postgresql://127.0.0.1/a%20base?password=it%27s%20a%5Csecret",
    "-D OUT -c fast --sync-method=fsync",
    "-D OUT -c fast --sync-method syncfs -v",
    "-D OUT -c fast -Ft -X none --sync-method=syncfs",
    "-D OUT -c fast -N --waldir=RUN/wal",
    "-D OUT -c fast -N --manifest-checksums=sha512 --manifest-force-encode",
    "-D OUT -c fast -N --manifest-checksums=NONE --no-verify-checksums --no-estimate-size",
    "-D OUT -c fast -N -r 100M -s 0",
    "-D OUT -c fast -N -Ft",
    "-D OUT -c fast -N -Ft -R -X fetch -v",
    "-D OUT -c fast -N -Ft -z -X none",
    "-D OUT -c fast -N -Ft -Z lz4 -X none",
    "-D OUT -c fast -N -Ft -Z zstd:1 -X none -P",
    "-D OUT -c fast -N -Ft -Z server-gzip:1 -X fetch",
    "-D OUT -c fast -N -Z server-lz4 -X fetch",
    "-D - -c fast -Ft -X none",
    "-D - -c fast -Ft -X fetch -R --no-manifest",
    "-D - -c fast -Ft -X none -Z 1",
    "-D - -c fast -Ft -X fetch -Z lz4 --manifest-checksums=sha256",
    "-t blackhole -X none -c fast -v -P",
    "-t server:RUN/onserver -X fetch -c fast -Z gzip:1",
];

/// What the originals of other majors know or say otherwise.
fn is_comparable(cluster: &Cluster, line: &str) -> bool {
    let has_lz4_and_zstd = !matches!(cluster.major(), 16);
    let compresses = line.contains("lz4") || line.contains("zstd");
    // the tool that stands in for the originals up to 15 has no choice there
    let has_sync_method = cluster.major() >= 17 || !line.contains("--sync-method");
    // what a standby is told is what its libpq knows: that of 13 knows less than the tool which stands in for 13's, and
    // the tool of 16 is here built without TLS. Whether a standby follows is seen in `starting`.
    let is_told_alike = !matches!(cluster.major(), 13 | 16) || !line.contains("-R");
    (has_lz4_and_zstd || !compresses) && has_sync_method && is_told_alike
}

/// What a server up to 14 cannot do is found out after the connection is made.
#[test]
fn what_an_old_server_cannot_do_is_told_alike() {
    if default_major() >= 15 {
        skipped("a server without backup targets: 14 or earlier");
        return;
    }
    let cluster = Cluster::builder().in_memory().setting("autovacuum", "off").start();
    let lines = [
        "-t blackhole -X none -c fast -v",
        "-t server:RUN/x -X fetch -c fast",
        "-D OUT -Z server-gzip -c fast -v",
        "-D EMPTY -Ft -Z server-lz4:3 -c fast",
        "-D - -Ft -X none -Z server-gzip -c fast",
    ];
    assert_none(&compare(&cluster, &lines), lines.len());
    let dir = TestDir::new();
    for (args, complaint) in [
        (&lines[0], "backup targets are not supported by this server version"),
        (&lines[2], "server does not support server-side compression"),
    ] {
        let words = Place::new(&dir, complaint).words(args);
        leading_to(ours(&dir), &cluster).args(words).run().exited(1).complains(complaint);
    }
}

fn compare(cluster: &Cluster, lines: &[&str]) -> Vec<String> {
    let dir = TestDir::in_memory();
    let tools = [("original", original(cluster)), ("ours", ours(&dir))];
    let mut different = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_comparable(cluster, line)) {
        let results = tools.clone().map(|(name, tool)| {
            if line.contains("taken") {
                cluster.psql("SELECT pg_create_physical_replication_slot('taken')");
            }
            let place = Place::new(&dir, &format!("{number}-{name}"));
            let program = tool.to_string();
            let tool = leading_to(tool, cluster).args(place.words(line)).timeout(Duration::from_secs(60));
            let outcome = tool.run();
            let slots = if line.contains("-S") { slots_afterwards(cluster) } else { String::new() };
            format!("{}\n--- slots\n{slots}", essence(&outcome, &program, &place))
        });
        let [original, ours] = results;
        if original != ours {
            different.push(format!("=== {line}\n{}", differences(&original, &ours)));
        }
    }
    different
}

/// Which there are, and none is left.
fn slots_afterwards(cluster: &Cluster) -> String {
    let state = cluster.psql("SELECT slot_name, slot_type FROM pg_replication_slots ORDER BY 1");
    cluster.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    state
}

/// The lines that only one of them has; all lines do not fit on a screen.
fn differences(original: &str, ours: &str) -> String {
    let missing = |text: &str, other: &str, mark: &str| {
        let lines = text.lines().filter(|line| !other.lines().any(|other| other == *line));
        lines.take(20).map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    missing(original, ours, "original:") + &missing(ours, original, "ours:    ")
}

#[track_caller]
fn assert_none(different: &[String], count: usize) {
    assert!(different.is_empty(), "{} of {count} differ\n{}", different.len(), different.join("\n"));
}

#[test]
fn mistakes_are_told_alike() {
    assert!(WITHOUT_SERVER.len() + REFUSED.len() + BACKUPS.len() >= 120);
    let cluster = Cluster::builder().in_memory().start();
    assert_none(&compare(&cluster, WITHOUT_SERVER), WITHOUT_SERVER.len());
}

#[test]
fn refusals_are_told_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    assert_none(&compare(&cluster, REFUSED), REFUSED.len());
}

#[test]
fn backups_are_alike() {
    let cluster = Cluster::builder()
        .in_memory()
        .setting("autovacuum", "off")
        .setting("wal_keep_size", "1GB")
        .wal_segsize(1)
        .start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 5000) i; CREATE INDEX ON t (i); VACUUM FREEZE");
    assert_none(&compare(&cluster, BACKUPS), BACKUPS.len());
}
