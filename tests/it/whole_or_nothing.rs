//! Nothing half-made passes for a data directory, and nothing is left behind: not after an error, not after a signal,
//! not after kill -9 and another run.

use std::path::Path;
use std::time::Duration;

use crate::cloning::{beside_the_primary, catch_up, create, hash_of_everything};
use crate::support::faults::{SmallDisk, injecting};
use crate::support::{Cluster, Direction, Ending, Proxy, Tool, tree, wait_until};
use crate::{require_program, require_root, require_server};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// A primary whose copy takes some seconds at `--max-rate 16M`.
fn primary() -> Cluster {
    let cluster = Cluster::new();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 400000) i");
    let there = cluster.dir().subdir("socket_tablespace", 0o700);
    cluster.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    cluster.psql("CREATE TABLE distant TABLESPACE far AS SELECT generate_series(1, 10000) i; CHECKPOINT");
    cluster
}

/// A copy with everything outside of its directory that a copy can have.
fn sprawling(primary: &Cluster, directory: &Path, rate: &str) -> Tool {
    let there = primary.dir().join("socket_tablespace");
    let mapping = format!("{}={}", there.display(), primary.dir().join("far/ts").display());
    let tool = create(primary, directory).args(["--max-rate", rate, "-T", &mapping, "--waldir"]);
    tool.arg(primary.dir().join("wal")).timeout(Duration::from_secs(120))
}

/// No server starts on it, whatever is there.
fn assert_not_a_data_directory(primary: &Cluster, directory: &Path) {
    if directory.exists() {
        assert!(!directory.join("PG_VERSION").exists(), "{}", tree(directory));
        let outcome =
            primary.server_tool("postgres").args(["-C", "data_directory", "-D"]).arg(directory).run();
        assert_ne!(outcome.code, Some(0), "{outcome}");
    }
}

#[test]
fn a_signal_takes_everything_back() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    for existing in [false, true] {
        for (name, delay_ms) in [("SIGINT", 0), ("SIGTERM", 300), ("SIGINT", 1500), ("SIGTERM", 2500)] {
            if existing {
                primary.dir().subdir("standby", 0o700);
            }
            let mut run = sprawling(&primary, &directory, "8M").spawn();
            run.wait_for_stderr("created replication slot");
            std::thread::sleep(Duration::from_millis(delay_ms));
            assert_not_a_data_directory(&primary, &directory);
            if name == "SIGINT" {
                run.interrupt();
            } else {
                run.terminate();
            }
            run.wait().exited(1).complains(&format!("interrupted by {name}"));
            assert_eq!(primary.psql(SLOTS), "0", "{name} after {delay_ms} ms");
            if existing {
                assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
                std::fs::remove_dir(&directory).unwrap();
            }
            assert_eq!(beside_the_primary(&primary), before, "{name} after {delay_ms} ms");
        }
    }
}

#[test]
fn after_kill_9_the_next_run_begins_afresh() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    for (round, delay_ms) in [0, 200, 700, 1500, 3000].into_iter().enumerate() {
        let existing = round % 2 == 1;
        if existing && !directory.exists() {
            primary.dir().subdir("standby", 0o700);
        }
        let mut run = sprawling(&primary, &directory, "8M").spawn();
        run.wait_for_stderr("created replication slot");
        std::thread::sleep(Duration::from_millis(delay_ms));
        run.kill9();
        let _ = run.wait();
        assert_not_a_data_directory(&primary, &directory);
        // the server notices the lost connections by itself
        primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
    }
    sprawling(&primary, &directory, "1024M").run().succeeded().complains("an earlier run");
    assert_eq!(primary.psql(SLOTS), "1");
    let standby = primary.adopt(&directory);
    catch_up(&primary, &standby);
    assert_eq!(hash_of_everything(&standby), hash_of_everything(&primary));
    let traces: Vec<_> =
        beside_the_primary(&primary).into_iter().filter(|line| line.contains(".pgwake")).collect();
    assert!(!traces.iter().any(|line| line.contains("/.pgwake") || line.contains(" .standby")), "{traces:?}");
}

#[test]
fn a_cut_connection_takes_everything_back() {
    require_server!();
    cut_and_look(7);
}

#[test]
#[ignore = "takes minutes; run by make torture"]
fn a_connection_cut_at_a_hundred_places_takes_everything_back() {
    require_server!();
    cut_and_look(101);
}

/// Cuts at `steps - 1` places all over the stream.
fn cut_and_look(steps: u64) {
    let primary = primary();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    let proxy = Proxy::to(&primary);
    // measured once, so that cuts fall all over the stream
    let there = primary.dir().join("socket_tablespace");
    let mapping = format!("{}={}", there.display(), primary.dir().join("ts").display());
    let run = |slot: &str| {
        let tool = Tool::pgwake().args([
            "standby",
            "create",
            "-d",
            &proxy.conninfo(),
            "--slot",
            slot,
            "-T",
            &mapping,
            "-D",
        ]);
        tool.arg(&directory).by_server_user().run()
    };
    let total = {
        run("whole").succeeded();
        std::fs::remove_dir_all(&directory).expect("the copy can be removed");
        std::fs::remove_dir_all(primary.dir().join("ts")).expect("the copy can be removed");
        primary.psql("SELECT pg_drop_replication_slot('whole')");
        proxy.bytes(Direction::ToClient)
    };
    for step in 1..steps {
        let ending = if step % 2 == 0 { Ending::Close } else { Ending::Reset };
        proxy.cut_after(Direction::ToClient, total * step / steps, ending);
        let outcome = run("standby1");
        assert_eq!(outcome.code, Some(1), "cut after {} of {total}: {outcome}", total * step / steps);
        assert_eq!(beside_the_primary(&primary), before, "cut after {} of {total}", total * step / steps);
        assert_eq!(primary.psql(SLOTS), "0", "cut after {} of {total}: {outcome}", total * step / steps);
    }
    run("standby1").succeeded();
}

#[test]
fn a_server_that_dies_leaves_only_what_the_next_run_needs() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let mut run = sprawling(&primary, &directory, "8M").spawn();
    run.wait_for_stderr("created replication slot");
    std::thread::sleep(Duration::from_millis(500));
    primary.kill9();
    let outcome = run.wait().exited(1).complains("replication slot \"standby1\" is still on the server");
    assert!(outcome.stderr.contains("hint: "), "{outcome}");
    assert!(!directory.exists());
    primary.start();
    assert_eq!(primary.psql(SLOTS), "1");
    sprawling(&primary, &directory, "1024M").run().succeeded();
    assert_eq!(primary.psql(SLOTS), "1");
}

#[test]
fn a_full_disk_takes_everything_back() {
    require_server!();
    require_root!();
    let primary = primary();
    let disk = SmallDisk::mount(primary.dir(), "small", 160 << 20);
    let directory = disk.path().join("standby");
    let mapping =
        format!("{}={}", primary.dir().join("socket_tablespace").display(), disk.path().join("ts").display());
    // seen beforehand
    let ballast = disk.fill(20 << 20);
    let outcome =
        create(&primary, &directory).args(["-T", &mapping]).run().exited(1).complains("not enough space");
    assert!(outcome.stderr.contains("MB are free"), "{outcome}");
    std::fs::remove_file(ballast).unwrap();
    // and when somebody else takes the space under the copy
    let mut run = create(&primary, &directory).args(["-T", &mapping, "--max-rate", "16M"]).spawn();
    run.wait_for_stderr("base backup starts");
    let ballast = disk.fill(8 << 20);
    let outcome = run.wait().exited(1).complains("No space left on device");
    assert!(outcome.stderr.contains("hint: Make room"), "{outcome}");
    assert_eq!(primary.psql(SLOTS), "0");
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0, "{}", tree(disk.path()));
    create(&primary, &directory).args(["-T", &mapping]).run().succeeded();
}

#[test]
fn a_failed_fsync_fails_the_copy() {
    require_server!();
    require_program!("strace");
    let primary = primary();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    let mapping = format!(
        "{}={}",
        primary.dir().join("socket_tablespace").display(),
        primary.dir().join("ts").display()
    );
    // strace counts in each thread
    for fault in ["fsync:error=EIO:when=40", "fsync:error=EIO:when=100+", "fdatasync:error=EIO:when=1"] {
        let tool = create(&primary, &directory).args(["-T", &mapping]).timeout(Duration::from_secs(120));
        let outcome = injecting(tool, &[fault]).run();
        assert_eq!(outcome.code, Some(1), "{fault}: {outcome}");
        assert!(outcome.stderr.contains("fsync"), "{fault}: {outcome}");
        assert!(!directory.exists());
        assert_eq!(primary.psql(SLOTS), "0", "{fault}");
        assert_eq!(beside_the_primary(&primary), before, "{fault}");
    }
}

#[test]
fn a_target_that_appears_under_the_copy_is_left_alone() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let mut run = sprawling(&primary, &directory, "16M").spawn();
    run.wait_for_stderr("base backup starts");
    primary.dir().subdir("standby", 0o700);
    run.wait().exited(1).complains("could not rename data directory");
    assert_eq!(primary.psql(SLOTS), "0");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    std::fs::remove_dir(&directory).unwrap();
    assert_eq!(beside_the_primary(&primary), Vec::<String>::new());
}

#[test]
fn directories_within_one_another_are_refused() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    for wal in [directory.clone(), directory.join("wal"), primary.dir().path().to_owned()] {
        let outcome = create(&primary, &directory).arg("--waldir").arg(&wal).arg("--dry-run").run().exited(1);
        assert!(
            outcome.stderr.contains("standby's, or around it") || outcome.stderr.contains("tablespace"),
            "{outcome}"
        );
        create(&primary, &directory).arg("--waldir").arg(&wal).run().exited(1);
        assert_eq!(primary.psql(SLOTS), "0");
    }
}

#[test]
fn a_leftover_slot_that_somebody_uses_is_not_dropped() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let mut run = sprawling(&primary, &directory, "8M").spawn();
    run.wait_for_stderr("base backup starts");
    run.kill9();
    let _ = run.wait();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
    // dropped by hand, and made anew for another standby that has moved on
    primary.psql("SELECT pg_drop_replication_slot('standby1')");
    primary.psql(
        "SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_create_physical_replication_slot('standby1', true)",
    );
    let outcome = sprawling(&primary, &directory, "1024M").run().exited(1);
    assert!(outcome.stderr.contains("has been used since"), "{outcome}");
    assert_eq!(primary.psql(SLOTS), "1");
}

/// A run that ended between making its slot and writing down where that is.
#[test]
fn a_leftover_slot_of_which_only_the_name_was_written_down_is_looked_at_too() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let interrupted = || {
        let mut run = sprawling(&primary, &directory, "8M").spawn();
        run.wait_for_stderr("base backup starts");
        run.kill9();
        let _ = run.wait();
        primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
        let journal = primary.dir().join(".standby.pgwake/journal.json");
        let content = std::fs::read(&journal).expect("read a journal");
        let mut content: serde_json::Value = serde_json::from_slice(&content).expect("a journal");
        assert!(
            content["slot_restart_lsn"].is_string() && content["slot_before_lsn"].is_string(),
            "{content}"
        );
        content["slot_restart_lsn"] = serde_json::Value::Null;
        std::fs::write(&journal, content.to_string()).expect("write a journal");
    };
    // somebody else's by now
    interrupted();
    primary.psql("SELECT pg_drop_replication_slot('standby1')");
    primary.psql(
        "SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_create_physical_replication_slot('standby1', true)",
    );
    let outcome = sprawling(&primary, &directory, "1024M").run().exited(1);
    assert!(outcome.stderr.contains("was left alone: it holds WAL from"), "{outcome}");
    assert_eq!(primary.psql(SLOTS), "1");
    primary.psql("SELECT pg_drop_replication_slot('standby1')");
    // still the run's own
    interrupted();
    let outcome = sprawling(&primary, &directory, "1024M").run().succeeded();
    assert!(!outcome.stderr.contains("was left alone"), "{outcome}");
    assert_eq!(primary.psql(SLOTS), "1");
}

#[test]
fn two_runs_do_not_meet_in_one_directory() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let mut first = sprawling(&primary, &directory, "8M").spawn();
    first.wait_for_stderr("created replication slot");
    let second = create(&primary, &directory).run();
    second.exited(1).complains("another pgwake is working on");
    assert!(first.is_running());
    first.interrupt();
    let _ = first.wait();
    wait_until("the slot is gone", || primary.psql(SLOTS) == "0");
}
