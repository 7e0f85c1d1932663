//! What is in the directory, and whose it is.

use std::fs;
use std::path::Path;

use super::{SEGMENT_LEN, cluster, conninfo, current_segment, receive, receive_originally};
use crate::pg_receivewal::{original, ours};
use crate::require_program;
use crate::support::scripted::{Script, answer};
use crate::support::{Cluster, TestDir, Tool, tree, wait_until};

/// An unfinished file of any length is gone on with; the original refuses it at every attempt.
#[test]
fn an_odd_sized_partial_is_healed() {
    let cluster = cluster();
    let dir = TestDir::new();
    let name = current_segment(&cluster);
    for (who, tool) in [("original", original(&cluster)), ("ours", ours(&dir))] {
        let directory = dir.subdir(who, 0o700);
        let partial = directory.join(format!("{name}.partial"));
        fs::write(&partial, vec![0; 12_345]).expect("leave an odd file");
        let tool = tool.args(["-v", "-n", "-d", &conninfo(&cluster), "-D"]).arg(&directory);
        if who == "original" {
            tool.run().exited(1).complains("has 12345 bytes, should be 0 or");
            continue;
        }
        let running = tool.spawn();
        let end = cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
        assert!(!end.is_empty());
        wait_until("the segment is finished", || directory.join(&name).exists());
        running.interrupt();
        running.wait().exited(0);
        assert_eq!(fs::metadata(directory.join(&name)).expect("stat").len(), SEGMENT_LEN);
    }
}

/// Two receivers in one directory, or another cluster behind the same address: the original writes on.
#[test]
fn a_directory_is_one_receivers_and_one_clusters() {
    let (first, second) = (cluster(), cluster());
    let dir = TestDir::new();
    let directory = dir.subdir("ours", 0o700);
    let receive = |cluster: &Cluster| -> Tool {
        ours(&dir).args(["-v", "-n", "-d", &conninfo(cluster), "-D"]).arg(&directory)
    };
    let mut running = receive(&first).spawn();
    running.wait_for_stderr("starting log streaming");
    receive(&first).run().exited(1).complains("in use by another receiver");
    running.interrupt();
    running.wait().exited(0);
    receive(&second).run().exited(1).complains("directory holds WAL of system");
    assert!(!tree(&directory).contains("lock"), "a lock leaves nothing behind");
}

/// The WAL was moved elsewhere, and nothing remembers how far it went: the original begins now, without a word.
#[test]
fn a_directory_that_was_emptied_is_not_begun_anew_in_silence() {
    let cluster = cluster();
    let dir = TestDir::new();
    for (who, slot) in [("without", &[][..]), ("with", &["-S", "witness"])] {
        let directory = dir.subdir(who, 0o700);
        let begin = |told: bool| {
            let mut running = receive(&dir, &cluster, &directory).args(slot).spawn();
            running.wait_for_stderr("starting log streaming");
            cluster.psql("SELECT pg_logical_emit_message(true, 'some', 'WAL')");
            wait_until("it has begun", || tree(&directory).contains(".partial"));
            running.interrupt();
            let outcome = running.wait().exited(0);
            assert_eq!(
                outcome.stderr.contains("warning: directory was received into before"),
                told,
                "{outcome}"
            );
        };
        cluster.psql("SELECT pg_create_physical_replication_slot('witness')");
        begin(false);
        begin(false);
        cluster.wait_for("SELECT active FROM pg_replication_slots", "f");
        for entry in fs::read_dir(&directory).expect("list").flatten() {
            if !entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path()).expect("move it away");
            }
        }
        // a slot remembers, and from 15 on says what
        begin(slot.is_empty() || cluster.major() < 15);
        cluster.wait_for("SELECT active FROM pg_replication_slots", "f");
        cluster.psql("SELECT pg_drop_replication_slot('witness')");
    }
}

/// Another cluster, or one of other segments, that answers at the same address within one run: the original asks for both
/// anew each time, and never compares.
#[test]
fn another_cluster_at_the_next_connection_is_refused() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dir = TestDir::new();
    for (command, before, after, cause) in [
        (
            "IDENTIFY_SYSTEM",
            "7000000000000000001",
            "7000000000000000002",
            "server is system 7000000000000000002 now",
        ),
        ("SHOW wal_segment_size", "1MB", "16MB", "segments of 1048576 bytes"),
    ] {
        let asked = AtomicUsize::new(0);
        // the first connection asks for each once; the stream of it ends at once
        let primary = Script::new()
            .on(command, move |client| {
                use std::io::Write as _;
                let value = if asked.fetch_add(1, Ordering::Relaxed) < 2 { before } else { after };
                client.write_all(&match command {
                    "IDENTIFY_SYSTEM" => answer(&[Some(value), Some("1"), Some("0/400000"), None]),
                    _ => answer(&[Some(value)]),
                })
            })
            .on("START_REPLICATION", |_| Err(std::io::ErrorKind::ConnectionReset.into()))
            .perform();
        let directory = dir.subdir(before, 0o700);
        let tool = ours(&dir).args(["-v", "-d", &primary.conninfo(), "-D"]).arg(&directory);
        let outcome = tool.run().exited(1).complains(cause);
        assert!(outcome.stderr.contains("seconds to try again"), "{outcome}");
        assert!(primary.connection_count() > 1, "{outcome}");
    }
}

/// A server whose WAL begins behind so many segments, which `directory` has: made up, and of the right length.
fn after_segments(count: u64, directory: &Path) -> Cluster {
    const FIRST: u64 = 3;
    let name = |number: u64| format!("00000001{:08X}{:08X}", number / 4096, number % 4096);
    for number in FIRST..FIRST + count {
        let file = fs::File::create(directory.join(name(number))).expect("make up a segment");
        file.set_len(SEGMENT_LEN).expect("give it its length");
    }
    let cluster = Cluster::builder().wal_segsize(1).create();
    let reset = cluster.server_tool("pg_resetwal").args(["-l", &name(FIRST + count), "-D"]);
    reset.arg(cluster.data_dir()).run().succeeded();
    cluster.start();
    cluster
}

/// How many system calls that name a file, or ask for one's length, the program makes until it streams.
#[track_caller]
fn file_calls(tool: Tool, dir: &TestDir) -> usize {
    let trace = dir.join("trace");
    let mut args = ["-f", "-qq", "-e", "trace=%file,fstat", "-o"].map(Into::into).to_vec();
    args.push(trace.clone().into());
    let outcome = tool.args(["-E", "0/1"]).under("strace", args).run();
    outcome.exited(0).complains("starting log streaming");
    fs::read_to_string(&trace).expect("read the trace").lines().count()
}

/// The original asks for the length of every file at every connection.
#[test]
fn the_start_costs_the_same_however_many_segments_there_are() {
    crate::require_server!();
    require_program!("strace");
    let mut calls = Vec::new();
    for count in [50, 5_000] {
        let dir = TestDir::new();
        let directory = dir.subdir("wal", 0o700);
        let cluster = after_segments(count, &directory);
        let its = file_calls(receive_originally(&cluster, &directory), &dir);
        assert!(its as u64 > count, "{its} calls for {count} segments");
        for entry in fs::read_dir(&directory).expect("list").flatten() {
            if entry.file_name().to_string_lossy().ends_with(".partial") {
                fs::remove_file(entry.path()).expect("take away what the original left");
            }
        }
        calls.push(file_calls(receive(&dir, &cluster, &directory), &dir));
    }
    assert!(calls[0] > 0 && calls[1] <= calls[0] + 5, "{calls:?}");
}
