//! A failover to a server that has no slot for the receiver, as no new primary has: it goes on by itself where it may make
//! one and nothing is missing, and ends otherwise.

use rustix::process::Signal;

use super::harness::{
    Ledger, assert_holds, assert_same_as, base_backup, caught_up, directory, keeping_wal, make_wal,
    primary_kind, receive, recover, streaming, without_slot,
};
use crate::cloning::{catch_up, create};
use crate::require_server;
use crate::support::servers::default_major;
use crate::support::{Cluster, Running, Stop, tree};

const SLOTS: &str = "SELECT slot_name, active FROM pg_replication_slots";

/// A standby of `primary` that streams, and has no slot for anybody.
fn standby_of(primary: &Cluster) -> Cluster {
    let directory = primary.dir().join("standby");
    create(primary, &directory).run().succeeded();
    let standby = primary.adopt(&directory);
    catch_up(primary, &standby);
    standby
}

/// Both, in one connection string.
fn both(one: &Cluster, other: &Cluster) -> String {
    format!("host=127.0.0.1,127.0.0.1 port={},{} user=postgres", one.port(), other.port())
}

fn to_the_primary(one: &Cluster, other: &Cluster) -> String {
    format!("{} target_session_attrs={}", both(one, other), primary_kind(one.major()))
}

/// It went on along `timeline`: switched to it while it streamed, or began on it right away, where the fork is before
/// the last segment that it had begun.
fn went_on(mut receiver: Running, timeline: u32) {
    let (switched, begun) = (format!("timeline switched to={timeline}"), format!("timeline={timeline}\n"));
    receiver.wait_for_either_on_stderr(&[&switched, &begun]);
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    let outcome =
        outcome.complains("the server does not have replication slot \"witness\", as after a failover");
    let outcome = outcome.complains("created replication slot \"witness\" there");
    assert_eq!(outcome.stderr.matches("created replication slot").count(), 2, "{outcome}");
}

#[test]
fn a_new_primary_gets_the_slot_and_nothing_is_missing() {
    // 13 says only by refusing a stream that it has no such slot
    for major in [default_major(), 13] {
        require_server!(major);
        let primary = keeping_wal(1).major(major).start();
        let received = directory(&primary);
        let standby = standby_of(&primary);
        let hosts = to_the_primary(&primary, &standby);
        let receiver = streaming(&receive(&hosts, &received));
        let backup = base_backup(&primary, "backup");
        primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 2 (pgwake, standby1)'; SELECT pg_reload_conf()");
        let ledger = Ledger::begin(&primary, "on");
        make_wal(&primary, 3);
        ledger.wait_for_first();
        primary.kill9();
        let acknowledged = ledger.end();
        standby.promote();
        standby.psql("INSERT INTO ledger SELECT i, 'after' FROM generate_series(1000000, 1000100) i");
        make_wal(&standby, 3);
        caught_up(&standby);
        assert_eq!(standby.psql(SLOTS), "witness|t", "on {major}");
        // what comes is held back there from now on
        let held = "SELECT restart_lsn >= pg_current_wal_flush_lsn() FROM pg_replication_slots";
        standby.wait_for(held, "t");
        went_on(receiver, 2);
        assert_same_as(&[&standby, &primary], &received);
        let recovered = recover(&standby, &backup, &received);
        assert_holds(&recovered, &acknowledged);
        assert_holds(&recovered, &(1_000_000..=1_000_100).collect::<Vec<_>>());
    }
}

/// It comes to the standby before that is promoted, and goes over to the new timeline there.
#[test]
fn a_standby_that_is_promoted_later_gets_it_too() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&both(&primary, &standby), &received));
    make_wal(&primary, 2);
    caught_up(&primary);
    primary.stop(Stop::Fast);
    standby.wait_for(SLOTS, "witness|t");
    standby.promote();
    make_wal(&standby, 2);
    caught_up(&standby);
    went_on(receiver, 2);
    assert_same_as(&[&standby, &primary], &received);
}

#[test]
fn a_hole_ends_it_and_leaves_no_slot() {
    require_server!();
    let primary = Cluster::builder()
        .wal_segsize(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&to_the_primary(&primary, &standby), &received));
    make_wal(&primary, 1);
    caught_up(&primary);
    // it sleeps through the failover, and through what comes then
    receiver.signal(Signal::STOP);
    primary.kill9();
    standby.promote();
    for _ in 0..3 {
        make_wal(&standby, 6);
        standby.psql("CHECKPOINT");
    }
    let before = tree(&received);
    receiver.signal(Signal::CONT);
    let outcome = receiver.wait().exited(3).complains("error: directory goes on at 0/");
    let outcome =
        outcome.complains("the server has removed the WAL from there on").complains("hint: There is a hole");
    assert_eq!(outcome.stderr.matches("created replication slot").count(), 1, "{outcome}");
    assert_eq!(standby.psql(SLOTS), "");
    let segments =
        |tree: &str| tree.lines().filter(|line| !line.contains("history")).collect::<Vec<_>>().join("\n");
    assert_eq!(segments(&tree(&received)), segments(&before));
}

#[test]
fn without_leave_to_make_one_it_ends() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    primary.psql("SELECT pg_create_physical_replication_slot('witness', true)");
    let hosts = to_the_primary(&primary, &standby);
    let receiver =
        streaming(&without_slot(&hosts, &received).args(["--slot", "witness", "--start", "current"]));
    make_wal(&primary, 1);
    caught_up(&primary);
    primary.kill9();
    standby.promote();
    let outcome = receiver.wait().exited(1).complains("error: replication slot \"witness\" does not exist");
    outcome.complains("hint: Create it with --create-slot");
    assert_eq!(standby.psql(SLOTS), "");
    // with leave it goes on from there
    let receiver = streaming(&receive(&hosts, &received));
    make_wal(&standby, 1);
    caught_up(&standby);
    receiver.terminate();
    receiver.wait().succeeded();
    assert_same_as(&[&standby, &primary], &received);
}

#[test]
fn the_slot_that_follows_the_archive_is_made_there_too() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let url = format!("file://{}", primary.dir().subdir("archive", 0o700).display());
    let tool = receive(&to_the_primary(&primary, &standby), &received).args(["--archive", &url]);
    let receiver = streaming(&tool.args(["--archive-delay", "0", "--archive-slot", "archived"]));
    let slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    primary.wait_for(slots, "archived standby1 witness");
    make_wal(&primary, 2);
    caught_up(&primary);
    primary.kill9();
    standby.promote();
    make_wal(&standby, 2);
    caught_up(&standby);
    standby.wait_for(slots, "archived witness");
    let end = standby.psql("SELECT pg_current_wal_flush_lsn()");
    let question = "SELECT restart_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = 'archived'";
    standby.wait_for(&question.replace("{}", &end), "t");
    receiver.terminate();
    receiver.wait().succeeded();
}
