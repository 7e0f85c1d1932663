//! A failover, and another one: the receiver follows from timeline to timeline, and so can who recovers from it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::harness::{
    Ledger, assert_holds, assert_same_as, base_backup, caught_up, directory, from_slot, keeping_wal,
    make_wal, primary_kind, receive, recover, streaming, wal_files, without_slot,
};
use crate::cloning::{catch_up, create, hash_of_everything};
use crate::require_server;
use crate::support::{Cluster, Running, Stop, Tool, wait_until};

/// A standby of `primary` that streams, with a slot for the receiver.
fn standby_of(primary: &Cluster) -> Cluster {
    let directory = primary.dir().join("standby");
    create(primary, &directory).run().succeeded();
    let standby = primary.adopt(&directory);
    catch_up(primary, &standby);
    standby.psql("SELECT pg_create_physical_replication_slot('witness', true)");
    standby
}

/// A standby of that standby.
fn cascading_standby_of(primary: &Cluster, standby: &Cluster) -> Cluster {
    let directory = primary.dir().join("cascade");
    create(standby, &directory).run().succeeded();
    let cascade = primary.adopt(&directory);
    cascade.start();
    catch_up_quietly(primary, &cascade);
    cascade.psql("SELECT pg_create_physical_replication_slot('witness', true)");
    cascade
}

/// To whichever of the two is the primary.
fn either(one: &Cluster, other: &Cluster) -> String {
    format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres target_session_attrs={}",
        one.port(),
        other.port(),
        primary_kind(one.major())
    )
}

/// The server becomes a standby of nobody and is promoted: one more timeline.
fn promote_again(server: &Cluster) {
    server.stop(Stop::Fast);
    let signal = server.dir().file("socket_signal", 0o600, "");
    fs::rename(signal, server.data_dir().join("standby.signal")).expect("make it a standby");
    server.start();
    server.promote();
    server.wait_for("SELECT pg_is_in_recovery()", "f");
}

fn timeline(server: &Cluster) -> u32 {
    let name = server.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    u32::from_str_radix(&name[..8], 16).expect("a timeline")
}

#[track_caller]
fn assert_same_histories(server: &Cluster, received: &Path, timelines: impl IntoIterator<Item = u32>) {
    for timeline in timelines {
        let name = format!("{timeline:08X}.history");
        let original = fs::read(server.data_dir().join("pg_wal").join(&name)).expect("read a history");
        assert_eq!(fs::read(received.join(&name)).expect("a history was received"), original, "{name}");
    }
}

/// Stops it, and shows that it went along without ending in between.
#[track_caller]
fn end(receiver: Running, switches: usize) {
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    let streams = outcome.stderr.matches("streaming started").count();
    assert!(streams > switches, "{outcome}");
}

#[test]
fn a_failover_in_the_middle_of_a_segment_is_followed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&either(&primary, &standby), &received));
    let backup = base_backup(&primary, "backup");
    let ledger = Ledger::begin(&primary, "on");
    make_wal(&primary, 3);
    let before = ledger.end();
    caught_up(&primary);
    primary.psql("CHECKPOINT");
    let last = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.stop(Stop::Fast);
    standby.promote();
    standby.psql("INSERT INTO ledger SELECT i, 'after' FROM generate_series(1000000, 1000100) i");
    make_wal(&standby, 3);
    caught_up(&standby);
    end(receiver, 1);
    let files = wal_files(&received);
    assert!(files.contains(&format!("{last}.partial")) && !files.contains(&last), "{last}: {files:?}");
    assert!(assert_same_as(&[&standby, &primary], &received).len() >= 5);
    assert_same_histories(&standby, &received, [2]);
    let recovered = recover(&standby, &backup, &received);
    assert_holds(&recovered, &before);
    assert_same_rows(&recovered, &standby);
}

/// A record of many segments is under way when the primary dies: its beginning came, and is no part of what follows.
#[test]
fn a_failover_in_the_middle_of_a_record_is_followed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&either(&primary, &standby), &received));
    let backup = base_backup(&primary, "backup");
    primary.psql("CREATE TABLE ledger (id int); INSERT INTO ledger VALUES (1)");
    caught_up(&primary);
    let before = wal_files(&received).len();
    let record = "SELECT pg_logical_emit_message(true, 'large', repeat('x', 300000000))";
    // time to find the process before it begins
    let first = "SELECT pg_sleep(3) /* emit_message */";
    let writing = Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", first, "-c", record]).spawn();
    hold_in_the_middle(&primary, || wal_files(&received).len().saturating_sub(before));
    wait_until("some of the record is on the standby", || {
        standby.psql("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()") == "t"
    });
    primary.kill9();
    drop(writing);
    standby.promote();
    let switch = switch_point(&standby, 2);
    standby.psql("INSERT INTO ledger VALUES (2)");
    make_wal(&standby, 3);
    caught_up(&standby);
    end(receiver, 1);
    let files = wal_files(&received);
    let beyond = files.iter().filter(|name| name.starts_with("00000001") && name[8..] > switch[8..]).count();
    assert!(beyond >= 2, "nothing of the record lies beyond {switch}: {files:?}");
    assert!(files.iter().any(|name| *name == format!("00000002{}", &switch[8..])), "{switch}: {files:?}");
    assert_same_as(&[&standby, &primary], &received);
    assert_same_histories(&standby, &received, [2]);
    let recovered = recover(&standby, &backup, &received);
    assert_holds(&recovered, &[1, 2]);
    assert_same_rows(&recovered, &standby);
}

/// Stops the process that writes the large record, as soon as enough of it has come: so many segments.
#[track_caller]
fn hold_in_the_middle(primary: &Cluster, arrived: impl Fn() -> usize) {
    const ENOUGH: usize = 4;
    let writer =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%emit_message%' AND pid <> pg_backend_pid()";
    let mut pid = None;
    wait_until("the record is being written", || {
        pid = primary.psql(writer).parse().ok().and_then(Pid::from_raw);
        pid.is_some()
    });
    let pid = pid.expect("a process");
    let signal = |signal| rustix::process::kill_process(pid, signal).expect("signal the writer");
    wait_until("some of the record is here", || {
        if arrived() == 0 {
            return false;
        }
        signal(Signal::STOP);
        // what it has written needs its time to come here, and all of the record must not be written meanwhile
        let enough = (0..30).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            arrived() >= ENOUGH
        });
        if !enough {
            signal(Signal::CONT);
        }
        enough
    });
}

/// The name of the segment, on the timeline before, in which `timeline` began.
fn switch_point(server: &Cluster, timeline: u32) -> String {
    let history = server.data_dir().join(format!("pg_wal/{timeline:08X}.history"));
    let history = fs::read_to_string(history).expect("read a history");
    let last = history.lines().rfind(|line| !line.trim().is_empty()).expect("an ancestor");
    let mut fields = last.split('\t');
    let ancestor: u32 = fields.next().and_then(|field| field.parse().ok()).expect("a timeline");
    let lsn = fields.next().expect("a position");
    let name = server.psql(&format!("SELECT pg_walfile_name('{lsn}')"));
    format!("{ancestor:08X}{}", &name[8..])
}

/// What was recovered has all rows of all tables, and no other ones.
#[track_caller]
fn assert_same_rows(recovered: &Cluster, primary: &Cluster) {
    let expected = hash_of_everything(primary);
    assert!(expected.contains("ledger"), "{expected}");
    assert_eq!(hash_of_everything(recovered), expected);
}

#[test]
fn a_failover_at_a_segments_end_is_followed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&either(&primary, &standby), &received));
    let backup = base_backup(&primary, "backup");
    make_wal(&primary, 2);
    primary.psql("CREATE TABLE ledger (id int); INSERT INTO ledger VALUES (1)");
    let last = primary.psql("SELECT pg_walfile_name(pg_switch_wal())");
    caught_up(&primary);
    catch_up_quietly(&primary, &standby);
    // without a word: no shutdown checkpoint begins the next segment
    primary.stop(Stop::Immediate);
    standby.promote();
    let history = fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    assert!(history.contains("00000\t"), "the switch is not at a segment's end: {history}");
    standby.psql("INSERT INTO ledger VALUES (2)");
    make_wal(&standby, 2);
    caught_up(&standby);
    end(receiver, 1);
    let files = wal_files(&received);
    assert!(files.contains(&last), "{last}: {files:?}");
    assert!(
        !files.iter().any(|name| name.starts_with("00000001") && name.ends_with(".partial")),
        "{files:?}"
    );
    assert_same_as(&[&standby, &primary], &received);
    assert_same_histories(&standby, &received, [2]);
    let recovered = recover(&standby, &backup, &received);
    assert_holds(&recovered, &[1, 2]);
    assert_same_rows(&recovered, &standby);
}

/// Waits until the standby has replayed all, without writing anything.
#[track_caller]
fn catch_up_quietly(primary: &Cluster, standby: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
}

#[test]
fn one_promotion_after_the_other_is_followed_and_so_are_those_that_were_missed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let late = primary.dir().subdir("received_late", 0o700);
    let beginning = primary.psql("SELECT pg_current_wal_lsn()");
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    let (backup, other_backup) = (base_backup(&primary, "backup"), base_backup(&primary, "other_backup"));
    primary.psql("CREATE TABLE ledger (id int)");
    // one that sleeps through it all, on a timeline that is over then
    let sleeper = without_slot(&primary.conninfo(), &late).args(["--start", &beginning]);
    make_wal(&primary, 2);
    let first = streaming(&sleeper);
    caught_up(&primary);
    first.terminate();
    first.wait().succeeded();
    for round in 1..=4 {
        primary.psql(&format!("INSERT INTO ledger VALUES ({round})"));
        make_wal(&primary, round % 2);
        promote_again(&primary);
        assert_eq!(timeline(&primary), round + 1);
        caught_up(&primary);
    }
    primary.psql("INSERT INTO ledger VALUES (5)");
    caught_up(&primary);
    end(receiver, 4);
    assert_same_as(&[&primary], &received);
    assert_same_histories(&primary, &received, 2..=5);
    let recovered = recover(&primary, &other_backup, &received);
    assert_same_rows(&recovered, &primary);
    let waking = streaming(&sleeper);
    primary.psql("INSERT INTO ledger VALUES (6)");
    caught_up(&primary);
    waking.terminate();
    waking.wait().succeeded();
    assert_same_histories(&primary, &late, 2..=5);
    assert_same_as(&[&primary], &late);
    let recovered = recover(&primary, &backup, &late);
    assert_holds(&recovered, &[1, 2, 3, 4, 5, 6]);
    assert_same_rows(&recovered, &primary);
}

/// Two servers were promoted, one after the other and each another one, while the receiver was away.
#[test]
fn servers_that_were_promoted_in_turn_are_followed_afterwards() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    // their WAL begins where they were copied
    let middle = standby_of(&primary);
    let last = cascading_standby_of(&primary, &middle);
    let beginning = primary.psql("SELECT pg_current_wal_lsn()");
    let first = streaming(&without_slot(&primary.conninfo(), &received).args(["--start", &beginning]));
    let backup = base_backup(&primary, "backup");
    primary.psql("CREATE TABLE ledger (id int); INSERT INTO ledger VALUES (1)");
    make_wal(&primary, 1);
    caught_up(&primary);
    first.terminate();
    first.wait().succeeded();
    primary.psql("INSERT INTO ledger VALUES (2)");
    make_wal(&primary, 2);
    catch_up_quietly(&primary, &last);
    primary.stop(Stop::Immediate);
    middle.promote();
    middle.psql("INSERT INTO ledger VALUES (3)");
    make_wal(&middle, 1);
    catch_up_quietly(&middle, &last);
    middle.stop(Stop::Immediate);
    last.promote();
    last.psql("INSERT INTO ledger VALUES (4)");
    make_wal(&last, 1);
    let receiver = streaming(&without_slot(&last.conninfo(), &received));
    caught_up(&last);
    end(receiver, 2);
    assert_same_as(&[&last, &middle, &primary], &received);
    assert_same_histories(&last, &received, [2, 3]);
    let recovered = recover(&last, &backup, &received);
    assert_holds(&recovered, &[1, 2, 3, 4]);
    assert_same_rows(&recovered, &last);
}

/// The server that is followed stays a standby; the one that it follows is promoted.
#[test]
fn a_standby_whose_upstream_is_promoted_is_followed_on_one_connection() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let middle = standby_of(&primary);
    let last = cascading_standby_of(&primary, &middle);
    let mut receiver = streaming(&from_slot(receive(&last.conninfo(), &received), &last, "witness"));
    let backup = base_backup(&primary, "backup");
    primary.psql("CREATE TABLE ledger (id int); INSERT INTO ledger VALUES (1)");
    make_wal(&primary, 2);
    catch_up_quietly(&primary, &last);
    primary.stop(Stop::Fast);
    middle.promote();
    receiver.wait_for_stderr("timeline switched");
    middle.psql("INSERT INTO ledger VALUES (2)");
    make_wal(&middle, 2);
    let end_lsn = middle.psql("SELECT pg_current_wal_flush_lsn()");
    last.wait_for(&format!("SELECT bool_or(flush_lsn >= '{end_lsn}') FROM pg_stat_replication"), "t");
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert!(!outcome.stderr.contains("disconnected"), "{outcome}");
    assert_same_as(&[&last, &middle, &primary], &received);
    assert_same_histories(&middle, &received, [2]);
    let recovered = recover(&middle, &backup, &received);
    assert_holds(&recovered, &[1, 2]);
    assert_same_rows(&recovered, &middle);
}

#[test]
fn a_standby_is_followed_through_its_promotion_on_one_connection() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let mut receiver = streaming(&from_slot(receive(&standby.conninfo(), &received), &standby, "witness"));
    let backup = base_backup(&primary, "backup");
    make_wal(&primary, 2);
    primary.psql("CREATE TABLE ledger (id int); INSERT INTO ledger VALUES (1)");
    catch_up_quietly(&primary, &standby);
    primary.stop(Stop::Fast);
    standby.promote();
    receiver.wait_for_stderr("timeline switched");
    standby.psql("INSERT INTO ledger VALUES (2)");
    make_wal(&standby, 2);
    caught_up(&standby);
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert!(!outcome.stderr.contains("disconnected"), "{outcome}");
    assert_same_as(&[&standby, &primary], &received);
    assert_same_histories(&standby, &received, [2]);
    let recovered = recover(&standby, &backup, &received);
    assert_holds(&recovered, &[1, 2]);
    assert_same_rows(&recovered, &standby);
}

#[test]
fn a_server_from_before_the_failover_is_refused() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let standby = standby_of(&primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    make_wal(&primary, 2);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    primary.stop(Stop::Fast);
    standby.promote();
    make_wal(&standby, 2);
    let follow = streaming(&receive(&standby.conninfo(), &received));
    caught_up(&standby);
    follow.terminate();
    follow.wait().succeeded();
    // the old primary comes back, and has gone its own way
    primary.start();
    make_wal(&primary, 2);
    let outcome = receive(&primary.conninfo(), &received).run().exited(1);
    let outcome = outcome.complains("directory holds WAL of timeline 2, but the server is on timeline 1");
    outcome.complains("hint: A failover went another way than this server");
    // and when it is promoted too, its timeline 2 is not the one that is here
    promote_again(&primary);
    let outcome = receive(&primary.conninfo(), &received).run().exited(3);
    outcome.complains("history of timeline 2 from the server differs");
    assert_same_as(&[&standby, &primary], &received);
}
