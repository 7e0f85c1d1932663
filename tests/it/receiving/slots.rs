//! A slot that is lost, missing, taken, ahead, behind or of another kind: each is told, and none leads to a silent hole.

use std::path::PathBuf;

use super::harness::{
    SLOT_POSITION, assert_same_as, caught_up, directory, keeping_wal, make_wal, receive, streaming,
    without_slot,
};
use super::refusing::assert_refused;
use crate::support::cluster::Builder;
use crate::support::servers::default_major;
use crate::support::{Cluster, Tool, tree};
use crate::{require_server, require_slot_positions};

/// A primary that gives a slot up soon.
fn forgetful(major: u32) -> Builder {
    Cluster::builder()
        .major(major)
        .wal_segsize(1)
        .setting("max_slot_wal_keep_size", "3MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
}

/// Makes the server remove what it may.
fn forget(primary: &Cluster) {
    for _ in 0..3 {
        make_wal(primary, 6);
        primary.psql("CHECKPOINT");
    }
}

/// Receives some WAL into a directory, and stops.
#[track_caller]
fn receive_some(primary: &Cluster) -> PathBuf {
    let received = directory(primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    make_wal(primary, 1);
    caught_up(primary);
    receiver.terminate();
    receiver.wait().succeeded();
    received
}

/// Under the original's name.
fn renamed(primary: &Cluster) -> Tool {
    Tool::pgwake().args(["pg_receivewal", "-d"]).arg(format!(
        "host={} port={} user=postgres",
        primary.socket_dir().display(),
        primary.port()
    ))
}

#[test]
fn a_lost_slot_is_told_and_so_is_the_hole_behind_it() {
    for major in [13, 15, 17, 18] {
        require_server!(major);
        let primary = forgetful(major).start();
        let received = receive_some(&primary);
        forget(&primary);
        primary.wait_for("SELECT wal_status FROM pg_replication_slots", "lost");
        let before = tree(&received);
        let with_slot = receive(&primary.conninfo(), &received);
        match major {
            // lets nobody in with such a slot; the hole shows without it
            18.. => {
                let outcome =
                    assert_refused(&with_slot, 1, "slot \"witness\" was invalidated", "Drop it with");
                assert!(outcome.stderr.contains("can no longer access replication slot"), "{outcome}");
            }
            15.. => {
                let cause = "replication slot \"witness\" holds none: it was invalidated, or never used";
                let outcome = assert_refused(&with_slot, 3, cause, "There is a hole");
                assert!(outcome.stderr.contains("WARN slot holds no WAL"), "{outcome}");
            }
            _ => drop(assert_refused(&with_slot, 3, "removed the WAL from there on", "There is a hole")),
        }
        let bare = without_slot(&primary.conninfo(), &received);
        let outcome = assert_refused(&bare, 3, "error: directory goes on at 0/", "There is a hole");
        assert!(outcome.stderr.contains("has already been removed"), "{outcome}");
        // what the hint says, with WAL that is gone already: the new slot helps nobody, and is not left there
        primary.psql("SELECT pg_drop_replication_slot('witness')");
        let cause = if major < 15 { "has already been removed" } else { "holds it only from 0/" };
        let outcome = assert_refused(&with_slot, 3, cause, "There is a hole");
        assert!(outcome.stderr.contains("dropped replication slot \"witness\" again"), "{outcome}");
        assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
        primary.psql("SELECT pg_create_physical_replication_slot('witness', true)");
        let outcome = renamed(&primary).args(["-S", "witness", "-D"]).arg(&received).run().exited(1);
        let outcome =
            outcome.complains("pg_receivewal: error: unexpected termination of replication stream: ERROR:");
        assert!(outcome.stderr.contains("pg_receivewal: hint: There is a hole"), "{outcome}");
        assert_eq!(tree(&received), before);
    }
}

#[test]
fn a_slot_beyond_the_directory_leaves_no_hole() {
    require_slot_positions!();
    let primary = forgetful(default_major()).setting("wal_keep_size", "1GB").start();
    let received = receive_some(&primary);
    make_wal(&primary, 2);
    let advance = "SELECT pg_replication_slot_advance('witness', pg_current_wal_flush_lsn())";
    primary.psql(advance);
    // still there: it is fetched again
    let tool = receive(&primary.conninfo(), &received);
    let receiver = streaming(&tool);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded().complains("slot has acknowledged WAL that is not in the directory");
    assert_same_as(&[&primary], &received);
    // gone: the receiver does not begin where the slot is
    primary.psql("ALTER SYSTEM SET wal_keep_size = 0; SELECT pg_reload_conf()");
    for _ in 0..6 {
        make_wal(&primary, 2);
        primary.psql(&format!("{advance}; CHECKPOINT"));
    }
    let before = tree(&received);
    assert_refused(&tool, 3, "replication slot \"witness\" holds it only from 0/", "There is a hole");
    assert_eq!(tree(&received), before);
}

#[test]
fn a_slot_behind_the_directory_moves_up() {
    require_slot_positions!();
    let primary = keeping_wal(1).start();
    primary.psql("SELECT pg_create_physical_replication_slot('late', true)");
    let received = receive_some(&primary);
    let tool = without_slot(&primary.conninfo(), &received).args(["--slot", "late"]);
    let receiver = streaming(&tool);
    make_wal(&primary, 1);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded().complains("slot is behind the directory");
    let question =
        "SELECT restart_lsn >= pg_current_wal_flush_lsn() FROM pg_replication_slots WHERE slot_name = 'late'";
    primary.wait_for(question, "t");
}

#[test]
fn a_slot_that_is_taken_is_waited_for() {
    require_server!();
    let primary = keeping_wal(1).start();
    let first = streaming(&receive(&primary.conninfo(), &directory(&primary)));
    let elsewhere = primary.dir().subdir("elsewhere", 0o700);
    let second = receive(&primary.conninfo(), &elsewhere);
    let cause = "replication slot \"witness\" is active for PID";
    let outcome = assert_refused(&second.clone().arg("-n"), 1, cause, "wal_sender_timeout");
    assert!(outcome.stderr.contains("error: replication slot \"witness\" is in use"), "{outcome}");
    let mut waiting = second.spawn();
    let pid = primary.psql("SELECT active_pid FROM pg_replication_slots");
    waiting.wait_for_stderr(&format!("is active for PID {pid}"));
    assert!(waiting.stderr_so_far().contains("WARN disconnected; trying again error=replication slot"));
    let position = primary.psql(SLOT_POSITION);
    first.terminate();
    first.wait().succeeded();
    make_wal(&primary, 1);
    caught_up(&primary);
    waiting.terminate();
    waiting.wait().succeeded();
    assert!(primary.psql(SLOT_POSITION).parse::<u64>().unwrap() > position.parse().unwrap());
    assert_same_as(&[&primary], &elsewhere);
}

#[test]
fn a_slot_of_another_kind_or_none_is_refused() {
    for major in [13, 15, 18] {
        require_server!(major);
        let primary = keeping_wal(1).major(major).setting("wal_level", "logical").start();
        let received = directory(&primary);
        primary.psql("SELECT pg_create_logical_replication_slot('decoding', 'pgoutput')");
        let of = |slot: &str| {
            without_slot(&primary.conninfo(), &received).args(["--start", "current", "--slot", slot])
        };
        let cause = "error: replication slot \"decoding\" is not a physical one";
        assert_refused(&of("decoding"), 1, cause, "Name another slot");
        let cause = "error: replication slot \"nobody\" does not exist";
        assert_refused(&of("nobody"), 1, cause, "Create it with --create-slot");
        // one that was there, and is dropped while the connection is lost
        let receiver = streaming(&of("witness").arg("--create-slot"));
        caught_up(&primary);
        primary.psql(
            "DO $$ BEGIN PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
             LOOP BEGIN PERFORM pg_drop_replication_slot('witness'); EXIT;
             EXCEPTION WHEN object_in_use THEN
               PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active; END; END LOOP; END $$",
        );
        receiver.wait().exited(1).complains("error: replication slot \"witness\" does not exist");
    }
}
