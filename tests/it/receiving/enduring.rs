//! What a receiver sees through by itself: a disk that hangs, a disk that is full, and being killed again and again.

use std::time::{Duration, Instant};

use super::harness::{
    Ledger, assert_holds, assert_same_as, base_backup, caught_up, directory, keeping_wal, make_wal, receive,
    recover, streaming,
};
use crate::support::cluster::{Cluster, Stop};
use crate::support::faults::{SmallDisk, attached};
use crate::support::{Running, Tool, wait_until};
use crate::{require_program, require_root, require_server};

/// A primary whose commits wait for the receiver.
fn waited_for() -> Cluster {
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    primary.psql("SET synchronous_commit = local; CREATE TABLE t (i int)");
    primary
}

fn commit(primary: &Cluster, level: &str) -> Running {
    let insert = format!("SET synchronous_commit = {level}; INSERT INTO t VALUES (1)");
    Tool::psql()
        .args(["-XAtq", "-d", &primary.conninfo(), "-c", &insert])
        .timeout(Duration::from_secs(300))
        .spawn()
}

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
const SENDER: &str = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";

#[test]
fn an_fsync_that_takes_seconds_delays_those_who_wait_for_it_and_nothing_else() {
    require_server!();
    require_root!();
    require_program!("strace");
    through_slow_fsyncs(&[1, 8]);
}

#[test]
#[ignore = "fsyncs of 30 and 120 seconds; run by make torture"]
fn an_fsync_may_take_minutes() {
    require_server!();
    require_root!();
    require_program!("strace");
    through_slow_fsyncs(&[30, 120]);
}

fn through_slow_fsyncs(seconds: &[u64]) {
    let primary = waited_for();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received).timeout(Duration::from_secs(600));
    let receiver = streaming(&tool);
    caught_up(&primary);
    let sender = primary.psql(SENDER);
    for &seconds in seconds {
        let count = |text: &str| receiver.stderr_so_far().matches(text).count();
        let (alarms, endings) = (count("is not durable for"), count("the disk goes on"));
        let slow = attached(&receiver, &format!("fdatasync:delay_exit={}:when=1", seconds * 1_000_000));
        let began = Instant::now();
        let durable = commit(&primary, "on");
        // a second is over before anybody has looked
        if seconds > 1 {
            assert_only_the_disk_is_waited_for(&primary, began, Duration::from_secs(seconds));
        }
        durable.wait().succeeded();
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(seconds), "acknowledged after {took:?}, before it was durable");
        assert!(took < Duration::from_secs(seconds + 5), "{took:?}");
        slow.interrupt();
        slow.wait();
        // one after 5 seconds, then one a minute
        let expected = if seconds > 5 { 1 + (seconds - 5) / 60 } else { 0 };
        assert_eq!((count("is not durable for") - alarms) as u64, expected, "{seconds} s");
        if expected > 0 {
            wait_until("it is told that it goes on", || count("the disk goes on") > endings);
        }
    }
    assert_eq!(primary.psql(SENDER), sender, "the connection was another one meanwhile");
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert!(!outcome.stderr.contains("disconnected"), "{outcome}");
    assert_same_as(&[&primary], &received);
}

#[test]
#[ignore = "a shutdown waits for a minute; run by make torture"]
fn a_disk_that_hangs_does_not_hold_up_a_shutdown_for_ever() {
    require_server!();
    require_root!();
    require_program!("strace");
    let primary = waited_for();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received).timeout(Duration::from_secs(600));
    let receiver = streaming(&tool);
    caught_up(&primary);
    let hung = attached(&receiver, "fdatasync:delay_exit=600000000:when=1");
    let waiting = commit(&primary, "on");
    primary.wait_for(WAITING, "1");
    let began = Instant::now();
    primary.stop(Stop::Fast);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(50), "the server did not wait for the disk: {took:?}");
    assert!(took < Duration::from_secs(90), "{took:?}");
    waiting.wait();
    hung.interrupt();
    hung.wait();
    primary.start();
    caught_up(&primary);
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert!(outcome.stderr.contains("server is shutting down and has waited for 60 s"), "{outcome}");
    assert_same_as(&[&primary], &received);
}

/// What is only received is acknowledged while an fsync takes its time, and nothing more than that.
fn assert_only_the_disk_is_waited_for(primary: &Cluster, began: Instant, delay: Duration) {
    primary.wait_for(WAITING, "1");
    let written = Instant::now();
    commit(primary, "remote_write").wait().succeeded();
    let took = written.elapsed();
    let positions = "SELECT write_lsn > flush_lsn FROM pg_stat_replication";
    assert_eq!((primary.psql(positions), primary.psql(WAITING)), ("t".to_owned(), "1".to_owned()));
    assert!(began.elapsed() < delay, "too slow to tell: {:?}", began.elapsed());
    assert!(took < delay / 2, "{took:?}");
}

#[test]
fn a_full_disk_is_waited_for_and_room_heals_it() {
    require_server!();
    require_root!();
    let primary = waited_for();
    let disk = SmallDisk::mount(primary.dir(), "small", 48 << 20);
    let received = disk.path().to_owned();
    let tool = receive(&primary.conninfo(), &received);
    let mut receiver = streaming(&tool);
    caught_up(&primary);
    for round in 1..=2 {
        let ballast = disk.fill((2 << 20) + 12 * 4096);
        make_wal(&primary, 6);
        let told = |receiver: &Running| receiver.stderr_so_far().matches("no room for WAL").count();
        wait_until("it tells that there is no room", || told(&receiver) == round);
        let waiting = commit(&primary, "on");
        primary.wait_for(WAITING, "1");
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(
            (told(&receiver), primary.psql(WAITING)),
            (round, "1".to_owned()),
            "{}",
            receiver.stderr_so_far()
        );
        assert!(receiver.is_running());
        if round == 2 {
            // told to stop while it waits
            receiver.terminate();
            receiver.wait().succeeded();
            std::fs::remove_file(&ballast).expect("make room");
            receiver = streaming(&tool);
        } else {
            std::fs::remove_file(&ballast).expect("make room");
        }
        let began = Instant::now();
        waiting.wait().succeeded();
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        caught_up(&primary);
        if round == 1 {
            assert!(receiver.stderr_so_far().contains("the disk has room again"));
        }
    }
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(assert_same_as(&[&primary], &received).len() >= 12);
}

#[test]
fn killed_under_load_it_loses_nothing_that_was_acknowledged() {
    require_server!();
    killed_under_load(10);
}

#[test]
#[ignore = "two hundred times; run by make torture"]
fn killed_two_hundred_times_under_load_it_loses_nothing() {
    require_server!();
    killed_under_load(200);
}

fn killed_under_load(times: u32) {
    let primary = waited_for();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    let mut receiver = streaming(&tool);
    caught_up(&primary);
    let backup = base_backup(&primary, "backup");
    let ledger = Ledger::begin(&primary, "on");
    for _ in 0..times {
        // in the middle of anything
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..250)));
        receiver.kill9();
        receiver.wait();
        receiver = streaming(&tool);
    }
    caught_up(&primary);
    std::thread::sleep(Duration::from_millis(100));
    let acknowledged = ledger.end();
    receiver.kill9();
    receiver.wait();
    assert!(acknowledged.len() as u32 > times, "only {} commits over {times} receivers", acknowledged.len());
    assert_same_as(&[&primary], &received);
    let server = recover(&primary, &backup, &received);
    assert_holds(&server, &acknowledged);
}
