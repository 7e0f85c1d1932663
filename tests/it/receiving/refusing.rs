//! What is refused: each with a sentence that says why, and one that says what to do.

use std::fs;

use super::harness::{
    assert_same_as, caught_up, directory, keeping_wal, make_wal, receive, streaming, without_slot,
};
use crate::cloning::{catch_up, create};
use crate::require_server;
use crate::support::{Cluster, Outcome, Stop, Tool, tree};

#[track_caller]
pub(super) fn assert_refused(tool: &Tool, code: i32, cause: &str, hint: &str) -> Outcome {
    let outcome = tool.run().exited(code).complains(cause);
    let hints = outcome.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default();
    assert!(hints.contains(hint), "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
    outcome
}

#[test]
fn another_clusters_directory_is_refused() {
    require_server!();
    let (one, other) = (keeping_wal(1).start(), keeping_wal(1).start());
    let received = directory(&one);
    receive(&one.conninfo(), &received).args(["--endpos", "0/1"]).run().succeeded();
    let receiver = streaming(&receive(&one.conninfo(), &received));
    make_wal(&one, 1);
    caught_up(&one);
    // a server that comes up in the other's place
    receiver.terminate();
    receiver.wait().succeeded();
    let before = tree(&received);
    let tool = receive(&other.conninfo(), &received);
    assert_refused(&tool, 3, "directory holds WAL of system ", "Each cluster needs a directory");
    assert_eq!(tree(&received), before);
    fs::write(received.join(".pgwake.stamp"), "{}").unwrap();
    assert_refused(&receive(&one.conninfo(), &received), 3, ".pgwake.stamp\" is damaged", "remove the file");
}

#[test]
fn two_receivers_do_not_share_a_directory() {
    require_server!();
    let primary = Cluster::new();
    let received = directory(&primary);
    let first = streaming(&receive(&primary.conninfo(), &received));
    let second = without_slot(&primary.conninfo(), &received).args(["--start", "current"]);
    assert_refused(&second, 1, "directory is in use by another receiver", "Stop the other receiver");
    first.terminate();
    first.wait().succeeded();
    second.args(["--endpos", "0/1"]).run().succeeded();
}

#[test]
fn a_place_to_begin_at_is_never_guessed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let tool = without_slot(&primary.conninfo(), &received);
    assert_refused(&tool, 1, "no replication slot says where to start", "--start current");
    let missing = without_slot(&primary.conninfo(), &received).args(["--slot", "nobody"]);
    assert_refused(&missing, 1, "replication slot \"nobody\" does not exist", "Create it with --create-slot");
    primary.psql("SELECT pg_create_physical_replication_slot('empty')");
    let empty = without_slot(&primary.conninfo(), &received).args(["--slot", "empty"]);
    assert_refused(&empty, 1, "neither does the replication slot: it was never used", "wal_status");
    let receiver = streaming(&tool.args(["--start", "current"]));
    make_wal(&primary, 2);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(assert_same_as(&[&primary], &received).len() >= 2);
    // the directory itself is made, but not a path to it: it may belong on a disk that is not mounted
    let nowhere = primary.dir().join("socket/nowhere/received");
    assert_refused(&receive(&primary.conninfo(), &nowhere), 1, "No such file or directory", "");
    assert!(!nowhere.exists());
}

#[test]
fn a_server_that_has_lost_wal_is_refused_or_waited_for() {
    require_server!();
    let primary = keeping_wal(1).create();
    let copy = primary.adopt(primary.dir().join("copy"));
    Tool::new("/bin/cp")
        .arg("-a")
        .arg(primary.data_dir())
        .arg(copy.data_dir())
        .by_server_user()
        .run()
        .succeeded();
    primary.start();
    copy.start();
    let received = directory(&primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    make_wal(&primary, 6);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    let before = tree(&received);
    let behind = without_slot(&copy.conninfo(), &received);
    let outcome = assert_refused(&behind.clone().arg("-n"), 1, "but the server's WAL ends at", "lags behind");
    assert!(outcome.stderr.contains("directory holds WAL up to 0/"), "{outcome}");
    assert_eq!(tree(&received), before);
    // it may only lag; but what it writes then is not what is here
    let mut waiting = behind.spawn();
    waiting.wait_for_stderr("disconnected; trying again");
    make_wal(&copy, 5);
    copy.psql("CREATE TABLE another_history (i int)");
    make_wal(&copy, 5);
    let outcome = waiting.wait().exited(3).complains("WAL from the server differs from what is in");
    assert!(outcome.stderr.contains("hint: Two servers have written the same timeline"), "{outcome}");
    assert_same_as(&[&primary], &received);
}

/// After a failover to a server that lags, with nothing lost: it is waited for, and what is here stays as it is.
#[test]
fn a_server_that_lags_is_gone_on_with_once_it_has_caught_up() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = primary.adopt(primary.dir().join("standby"));
    create(&primary, standby.data_dir()).run().succeeded();
    catch_up(&primary, &standby);
    let upstream = standby.psql("SHOW primary_conninfo");
    let follow = |conninfo: &str| {
        let conninfo = conninfo.replace('\'', "''");
        standby.psql(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'; SELECT pg_reload_conf()"));
        let expected = if conninfo.is_empty() { "0" } else { "1" };
        standby.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", expected);
    };
    // some segments behind, and then some bytes
    for filler in [3, 0] {
        follow("");
        let ahead = streaming(&receive(&primary.conninfo(), &received));
        make_wal(&primary, filler);
        caught_up(&primary);
        ahead.terminate();
        ahead.wait().succeeded();
        let before = tree(&received);
        let mut waiting = without_slot(&standby.conninfo(), &received).spawn();
        if filler > 0 {
            waiting.wait_for_stderr(
                "WARN disconnected; trying again error=could not find where to start: directory",
            );
            waiting.wait_for_stderr("but the server's WAL ends at");
        } else {
            standby.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
        }
        assert_eq!(tree(&received), before);
        follow(&upstream);
        make_wal(&primary, 1);
        let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
        standby.wait_for(&format!("SELECT bool_or(flush_lsn >= '{end}') FROM pg_stat_replication"), "t");
        waiting.terminate();
        waiting.wait().succeeded();
        assert_same_as(&[&primary], &received);
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_or_is_waited_for() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    primary.stop(Stop::Fast);
    let once = receive(&primary.tcp_conninfo(), &received).arg("-n");
    assert_refused(&once, 1, "Connection refused", "Nothing listens there");
    let loose = without_slot(&primary.tcp_conninfo(), &received).args(["-n", "--start", "current"]);
    assert_refused(&loose, 1, "Connection refused", "Nothing listens there");
    for tool in [
        receive(&primary.tcp_conninfo(), &received),
        without_slot(&primary.tcp_conninfo(), &received).args(["--start", "current"]),
    ] {
        let mut patient = tool.spawn();
        patient.wait_for_stderr("trying again");
        primary.start();
        patient.wait_for_stderr("streaming started");
        make_wal(&primary, 1);
        caught_up(&primary);
        primary.stop(Stop::Fast);
        patient.terminate();
        patient.wait().succeeded();
    }
    assert_same_as(&[&primary], &received);
}

#[test]
fn a_slot_that_was_made_in_vain_is_dropped_again() {
    require_server!();
    let (one, other) = (keeping_wal(1).start(), keeping_wal(1).start());
    let received = directory(&one);
    receive(&one.conninfo(), &received).args(["--endpos", "0/1"]).run().succeeded();
    assert_eq!(one.psql("SELECT count(*) FROM pg_replication_slots"), "1");
    let outcome = receive(&other.conninfo(), &received).run().exited(3);
    assert!(outcome.stderr.contains("dropped replication slot \"witness\" again"), "{outcome}");
    assert_eq!(other.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    // one that was there before is not ours
    other.psql("SELECT pg_create_physical_replication_slot('witness')");
    receive(&other.conninfo(), &received).run().exited(3);
    assert_eq!(other.psql("SELECT count(*) FROM pg_replication_slots"), "1");
}

/// Before version 15 no replication command tells where a slot begins.
#[test]
fn an_old_server_is_received_from_with_a_slot_of_the_runs_own() {
    for major in [13, 14] {
        require_server!(major);
        let primary = keeping_wal(1).major(major).start();
        make_wal(&primary, 2);
        let begin = primary.psql("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
        let received = directory(&primary);
        let receiver = streaming(&receive(&primary.conninfo(), &received));
        make_wal(&primary, 2);
        caught_up(&primary);
        receiver.terminate();
        receiver.wait().succeeded();
        let finished = assert_same_as(&[&primary], &received);
        assert!(finished.len() >= 2 && finished.first().unwrap() <= &begin, "{begin}: {finished:?}");
        // with a slot that was there before, somebody has to say it
        let empty = primary.dir().subdir("empty", 0o700);
        let tool = receive(&primary.conninfo(), &empty);
        assert_refused(&tool, 1, "does not say where its replication slot begins", "--start LSN");
        assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "1");
    }
}
