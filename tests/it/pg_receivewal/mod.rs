//! Promise: a script that calls `pg_receivewal` cannot tell which one answers. The real one and ours get the same
//! argv against the same server; exit code, both streams, directory listing, permissions and bytes are compared.

mod compare;
mod compressed;
mod connecting;
mod ending;
mod faults;
mod slots;
mod streaming;
mod table;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::support::{Cluster, Outcome, TestDir, Tool, tree, wait_until};

/// What is allowed to be there beside the original's files.
const STAMP: &str = ".pgwake.stamp";

/// Ours under the original's name, as a link to the program.
pub(super) fn ours(dir: &TestDir) -> Tool {
    let link = dir.join("pg_receivewal");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pgwake"), &link).expect("link the program");
    }
    Tool::new(link)
}

/// The real one: of the server's major. Up to 14 it had another command line (`-Z 0-9`, numbers read by `atoi`) and
/// other words, and ours is like 19's: there the oldest with this command line stands in, which takes those servers.
pub(super) fn original(cluster: &Cluster) -> Tool {
    Tool::client(original_major(cluster), "pg_receivewal")
}

fn original_major(cluster: &Cluster) -> u32 {
    cluster.major().max(15)
}

/// Whether the original was built with LZ4; some of the builds that are fetched are not.
fn has_lz4(cluster: &Cluster) -> bool {
    let outcome = original(cluster).args(["-D", "/nonexistent", "-Z", "lz4"]).run().exited(1);
    !outcome.stderr.contains(WITHOUT_LZ4)
}

const WITHOUT_LZ4: &str = "this build does not support compression with LZ4";

/// On timeline 1.
fn segment_name(number: u64, segment_mb: u32) -> String {
    let per_log = (1 << 32) / (u64::from(segment_mb) << 20);
    format!("00000001{:08X}{:08X}", number / per_log, number % per_log)
}

/// Where the server's WAL ends.
fn position(cluster: &Cluster) -> u64 {
    let text = cluster.psql("SELECT pg_current_wal_lsn() - '0/0'");
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no position"))
}

/// The text without what differs between any two runs: the program's path, directories.
fn normalised(outcome: &Outcome, program: &str, directory: &Path) -> String {
    let plain =
        |text: &str| text.replace(program, "PROGRAM").replace(&directory.display().to_string(), "DIRECTORY");
    format!("exit code {:?}\n{}\n{}", outcome.code, plain(&outcome.stdout), plain(&outcome.stderr))
}

fn listing(directory: &Path) -> String {
    tree(directory).lines().filter(|line| !line.ends_with(STAMP)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_same_arguments_do_the_same() {
    let cluster = Cluster::builder().setting("wal_keep_size", "64MB").wal_segsize(1).start();
    cluster.psql(
        "CREATE TABLE t AS SELECT repeat('x', 200) FROM generate_series(1, 8000); SELECT pg_switch_wal()",
    );
    let dir = TestDir::new();
    let (ours, original) = (ours(&dir), original(&cluster));
    let program_of = |tool: &Tool| tool.to_string();
    let (our_program, its_program) = (program_of(&ours), program_of(&original));
    let mut different = Vec::new();
    let cases = table::cases(&cluster);
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    for (number, case) in cases.iter().enumerate() {
        let mut results = Vec::new();
        for (tool, program) in [(&original, &its_program), (&ours, &our_program)] {
            let directory = dir.subdir(&format!("{number}-{}", results.len()), 0o700);
            if case.has_to_do_with_slots() {
                case.prepare(&cluster);
            }
            let words = case.args.iter().map(|word| word.replace("DIR", &directory.display().to_string()));
            let mut tool = tool.clone().args(words).timeout(Duration::from_secs(20));
            for (name, value) in [
                ("PGHOST", cluster.socket_dir().display().to_string()),
                ("PGPORT", cluster.port().to_string()),
                ("PGUSER", "postgres".to_owned()),
            ] {
                tool = tool.env(name, value);
            }
            let outcome = tool.run();
            let slots =
                if case.has_to_do_with_slots() { case.slots_afterwards(&cluster) } else { String::new() };
            results.push(format!(
                "{}\n{}\nslots: {slots}",
                case.essence(normalised(&outcome, program, &directory)),
                listing(&directory)
            ));
        }
        let expected = match table::known_difference(&cluster, case) {
            Some((original, ours)) => results[0].replacen(original, ours, 1),
            None => results[0].clone(),
        };
        if expected != results[1] {
            different
                .push(format!("{:?}\n--- original\n{}\n--- ours\n{}", case.args, results[0], results[1]));
        }
    }
    assert!(different.is_empty(), "{} of {} differ\n{}", different.len(), cases.len(), different.join("\n"));
}

/// Both receive the same load; whatever the segment size, each sealed file is the primary's and the other's.
#[test]
fn sealed_files_are_the_primarys_and_the_originals() {
    for (segment_mb, rows, switches) in [(1, 30_000, 6), (16, 120_000, 3), (64, 100_000, 2)] {
        let cluster = Cluster::builder().setting("wal_keep_size", "1GB").wal_segsize(segment_mb).start();
        let dir = TestDir::new();
        cluster.psql("CREATE TABLE t (a text)");
        let mut running = Vec::new();
        for (name, tool) in [("original", original(&cluster)), ("ours", ours(&dir))] {
            let directory = dir.subdir(name, 0o700);
            let tool = tool.args([
                "-d",
                &format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port()),
            ]);
            running.push((tool.arg("-D").arg(&directory).arg("--synchronous").spawn(), directory));
        }
        wait_until("both stream", || {
            cluster.psql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "2"
        });
        for _ in 0..switches {
            cluster.psql(&format!(
                "INSERT INTO t SELECT repeat(md5(i::text), 4) FROM generate_series(1, {}) i; CHECKPOINT; SELECT pg_switch_wal()",
                rows / switches
            ));
        }
        // an idle server, a switch with nothing before it, and a checkpoint alone
        std::thread::sleep(Duration::from_millis(1200));
        cluster.psql("SELECT pg_switch_wal(); SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal()");
        let last = segment_name((position(&cluster) - 1) / (u64::from(segment_mb) << 20), segment_mb);
        let mut directories = Vec::new();
        for (running, directory) in running {
            wait_until("the last segment is there", || directory.join(&last).exists());
            running.interrupt();
            running.wait().exited(0);
            directories.push(directory);
        }
        let names = |directory: &Path| {
            let entries =
                fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").file_name());
            let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
            names.retain(|name| name.len() == 24);
            names.sort();
            names
        };
        let (its, our) = (names(&directories[0]), names(&directories[1]));
        assert_eq!(its, our, "{segment_mb} MB");
        assert!(our.len() >= switches, "{our:?}");
        for name in &our {
            let read = |directory: &Path| fs::read(directory.join(name)).expect("read a segment");
            let bytes = read(&directories[1]);
            assert!(bytes == read(&directories[0]), "{name} is not the original's");
            assert!(bytes == read(&cluster.data_dir().join("pg_wal")), "{name} is not the primary's");
        }
    }
}

#[test]
fn group_access_is_the_servers() {
    let cluster = Cluster::builder().group_access().start();
    cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
    let dir = TestDir::new();
    let directory = dir.subdir("wal", 0o750);
    let start = cluster.psql("SELECT pg_current_wal_lsn()");
    cluster.psql("SELECT txid_current(); SELECT pg_switch_wal(); SELECT txid_current()");
    let _ = start;
    let conninfo = format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port());
    let mut running = ours(&dir).args(["-v", "-d", &conninfo, "-D"]).arg(&directory).spawn();
    running.wait_for_stderr("starting log streaming");
    wait_until("a file is there", || tree(&directory).contains(".partial"));
    running.interrupt();
    running.wait().exited(0);
    let modes = fs::read_dir(&directory).expect("list").map(|entry| entry.expect("entry"));
    for entry in modes.filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial")) {
        assert_eq!(entry.metadata().expect("stat").permissions().mode() & 0o777, 0o640);
    }
}
