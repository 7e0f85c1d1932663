//! How it ends: signals, a server that goes away, a timeline that does.

use std::fs;
use std::path::Path;

use super::compare::{Comparison, Run, assert_same};
use super::original_major;
use crate::require_server;
use crate::support::{Cluster, Running, Stop, wait_until};

fn cluster() -> Cluster {
    Cluster::builder().setting("autovacuum", "off").start()
}

/// A file is begun by the first byte that comes; the original then pads it, which takes a while.
fn has_begun(directory: &Path, timeline: &str) -> bool {
    let entries = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry"));
    let mut begun = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let compressed = name.contains(".gz");
        let whole = || entry.metadata().is_ok_and(|metadata| metadata.len() == 16 << 20);
        name.starts_with(timeline) && name.ends_with(".partial") && (compressed || whole())
    });
    begun.next().is_some()
}

fn streams(directory: &Path) {
    wait_until("it has begun to receive", || has_begun(directory, "00000001"));
}

#[test]
fn signals_end_it_alike() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    type Signal = (&'static str, fn(&Running));
    let signals: [Signal; 2] = [("INT", Running::interrupt), ("TERM", Running::terminate)];
    for (name, send) in signals {
        for line in ["", "-v", "-n --synchronous -v", "-Z gzip -v"] {
            let [its, our] = comparison.run(
                &format!("{name}{line}").replace(' ', ""),
                |tool, directory| {
                    tool.args(line.split_terminator(' ')).args(["-s", "1", "-D"]).arg(directory)
                },
                |_| {},
                |running, directory| {
                    streams(directory);
                    send(running);
                },
            );
            assert_eq!(our.code, Some(0), "{name} {line}: {}", our.shown());
            if name == "TERM" && original_major(&cluster) < 16 {
                // it did not listen to this one before 16: killed, in the middle of a file
                assert_eq!(its.signal, Some(15), "{}", its.shown());
                assert!(our.stderr.contains("segment is not complete"), "{}", our.shown());
                assert_eq!(its.listing, our.listing);
                continue;
            }
            assert_same(line, &its.shown(), &our.shown());
        }
    }
}

/// A server of 13 that is stopped at once warns of a crash, if the words get out before the connection ends.
fn without_last_words(run: &Run) -> String {
    let shown = run.shown();
    let last_words = ["WARNING:  ", "DETAIL:  ", "HINT:  ", "pg_receivewal: warning: server: "];
    let lines = shown.lines().filter(|line| !last_words.iter().any(|words| line.starts_with(words)));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_server_that_goes_away_ends_it_alike_with_no_loop() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    type Away = (&'static str, fn(&Cluster));
    let ways: [Away; 4] = [
        ("fast", |cluster| cluster.stop(Stop::Fast)),
        ("immediate", |cluster| cluster.stop(Stop::Immediate)),
        ("killed", Cluster::kill9),
        ("terminated", |cluster| {
            cluster.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
        }),
    ];
    for (name, away) in ways {
        for line in ["-n", "-n -v"] {
            let runs = comparison.run(
                &format!("{name}{line}").replace(' ', ""),
                |tool, directory| tool.args(line.split(' ')).args(["-s", "1", "-D"]).arg(directory),
                |_| {},
                |running, directory| {
                    streams(directory);
                    away(&cluster);
                    wait_until("it has ended", || !running.is_running());
                    if !cluster.is_running() {
                        cluster.start();
                    }
                },
            );
            assert_eq!(runs[1].code, Some(1), "{name} {line}: {}", runs[1].shown());
            let [its, our] = runs.each_ref().map(without_last_words);
            assert_same(&format!("{name} {line}"), &its, &our);
        }
    }
}

/// The waits are shorter at first, and grow.
fn without_waits(run: &Run) -> String {
    let line = |line: &str| match line.split_once("disconnected; waiting ") {
        Some((front, rest)) => {
            let (_, rest) = rest.split_once(' ').expect("a unit");
            format!("{front}disconnected; waiting N {rest}\n")
        }
        None => format!("{line}\n"),
    };
    run.shown().lines().map(line).collect()
}

#[test]
fn a_server_that_comes_back_is_followed_alike() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    let runs = comparison.run(
        "restart",
        |tool, directory| tool.args(["-v", "-s", "1", "-D"]).arg(directory),
        |_| {},
        |running, directory| {
            streams(directory);
            cluster.restart();
            running.wait_for_stderr("to try again");
            // what was received before is there; what comes now is not seen in the file
            cluster.wait_for(
                "SELECT bool_and(write_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication",
                "t",
            );
            running.interrupt();
        },
    );
    assert_same("a restart", &without_waits(&runs[0]), &without_waits(&runs[1]));
    assert_eq!(runs[1].code, Some(0));
}

/// Both follow a standby through its promotion.
#[test]
fn a_timeline_switch_is_told_alike() {
    require_server!();
    let cluster = cluster();
    cluster.stop(Stop::Fast);
    fs::write(cluster.data_dir().join("standby.signal"), "").expect("make it a standby");
    crate::support::dir::own(&cluster.data_dir().join("standby.signal"));
    cluster.start();
    let comparison = Comparison::new(&cluster);
    let runs = comparison.run_together(
        "switch",
        |tool, directory| tool.args(["-v", "-s", "1", "-D"]).arg(directory),
        |running, directories| {
            wait_until("both have the first timeline", || {
                directories.iter().all(|directory| has_begun(directory, "00000001"))
            });
            cluster.promote();
            cluster.psql("SELECT txid_current()");
            for tool in running.iter_mut() {
                tool.wait_for_stderr("switched to timeline 2");
            }
            wait_until("both have the second timeline", || {
                directories.iter().all(|directory| has_begun(directory, "00000002"))
            });
            let written = "SELECT bool_and(write_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
            cluster.wait_for(written, "t");
            running.iter().for_each(Running::interrupt);
        },
    );
    assert_same("a switch", &runs[0].shown(), &runs[1].shown());
    let [its, our] = runs.each_ref().map(Run::segments);
    for (name, bytes) in &our {
        assert!(its[name] == *bytes, "{name}");
    }
    let history = |run: &Run| fs::read(run.directory.join("00000002.history")).expect("a history file");
    assert_eq!(history(&runs[0]), history(&runs[1]));
}
