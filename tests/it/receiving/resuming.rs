//! P1, P2, P5: however often the receiver ends, and however it ends, it goes on where it was, and what was
//! acknowledged can be recovered.

use std::time::Duration;

use super::harness::{
    Ledger, SLOT_POSITION, Sampler, assert_holds, assert_never_back, assert_same_as, base_backup, caught_up,
    directory, from_slot, keeping_wal, make_wal, receive, recover, streaming,
};
use crate::require_server;
use crate::support::Cluster;

/// A primary whose commits wait for the receiver.
fn synchronous_primary() -> Cluster {
    keeping_wal(1).setting("synchronous_standby_names", "pgwake").start()
}

#[test]
fn stopped_by_signals_it_goes_on_where_it_was() {
    require_server!();
    let primary = synchronous_primary();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    let first = streaming(&tool);
    let backup = base_backup(&primary, "backup");
    let positions = Sampler::begin(&primary, SLOT_POSITION);
    let ledger = Ledger::begin(&primary, "on");
    first.terminate();
    first.wait().succeeded();
    for round in 0..10 {
        let receiver = streaming(&tool);
        make_wal(&primary, 1);
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
        if round % 2 == 0 {
            receiver.terminate();
        } else {
            receiver.interrupt();
        }
        let outcome = receiver.wait().succeeded();
        assert!(outcome.elapsed < Duration::from_secs(10), "{outcome}");
        assert_same_as(&[&primary], &received);
    }
    // at once, before it has done anything
    let receiver = tool.spawn();
    receiver.terminate();
    let _ = receiver.wait();
    let acknowledged = ledger.end();
    assert_never_back(&positions.end());
    let recovered = recover(&primary, &backup, &received);
    assert_holds(&recovered, &acknowledged);
}

#[test]
fn killed_at_any_moment_it_loses_nothing_acknowledged() {
    require_server!();
    kill_again_and_again(16, 250);
}

#[test]
#[ignore = "two minutes; run by make torture"]
fn killed_a_hundred_times_it_loses_nothing_acknowledged() {
    require_server!();
    kill_again_and_again(100, 400);
}

fn kill_again_and_again(times: usize, longest_ms: u64) {
    let primary = synchronous_primary();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    streaming(&tool).kill9();
    let tool = from_slot(tool, &primary, "witness");
    let backup = {
        let receiver = streaming(&tool);
        let backup = base_backup(&primary, "backup");
        receiver.kill9();
        let _ = receiver.wait();
        backup
    };
    let positions = Sampler::begin(&primary, SLOT_POSITION);
    let ledger = Ledger::begin(&primary, "on");
    for round in 0..times {
        let mut receiver = tool.spawn();
        if round % 4 != 0 {
            receiver.wait_for_stderr("streaming started");
            make_wal(&primary, 1);
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..longest_ms)));
        receiver.kill9();
        let _ = receiver.wait();
        assert_same_as(&[&primary], &received);
    }
    let receiver = streaming(&tool);
    caught_up(&primary);
    receiver.kill9();
    let _ = receiver.wait();
    let acknowledged = ledger.end();
    assert_never_back(&positions.end());
    assert!(assert_same_as(&[&primary], &received).len() > times / 2);
    let recovered = recover(&primary, &backup, &received);
    assert_holds(&recovered, &acknowledged);
}
