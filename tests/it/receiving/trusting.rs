//! WAL is checked before it is acknowledged, and nothing that a server writes is taken for damage.

use super::harness::{
    assert_same_as, caught_up, directory, keeping_wal, make_wal, receive, streaming, without_slot,
};
use crate::require_server;
use crate::support::{Stop, rewriting};

#[test]
fn damaged_wal_is_not_acknowledged() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    // one byte of one record differs on its way
    let port = rewriting::front(primary.port(), "a whole record".into(), "a whale record".into());
    let damaging =
        primary.tcp_conninfo().replace(&format!("port={}", primary.port()), &format!("port={port}"));
    let receiver = streaming(&receive(&damaging, &received).args(["--start", "current"]));
    make_wal(&primary, 2);
    caught_up(&primary);
    let damaged_lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    primary.psql("SELECT pg_logical_emit_message(true, 'test', 'a whole record')");
    let outcome = receiver.wait().exited(3).complains("the server sent WAL that is not valid");
    assert!(outcome.stderr.contains("invalid WAL at ") && outcome.stderr.contains("checksum"), "{outcome}");
    let kept = "SELECT restart_lsn <= '{}' FROM pg_replication_slots WHERE slot_name = 'witness'";
    assert_eq!(primary.psql(&kept.replace("{}", &damaged_lsn)), "t", "damaged WAL was acknowledged");
    // the same from the server itself is whole, and goes on where that ended
    let receiver = streaming(&receive(&primary.conninfo(), &received));
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    assert_same_as(&[&primary], &received);
}

#[test]
fn records_need_not_be_verified() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let port = rewriting::front(primary.port(), "a whole record".into(), "a whale record".into());
    let damaging =
        primary.tcp_conninfo().replace(&format!("port={}", primary.port()), &format!("port={port}"));
    let receiver =
        streaming(&without_slot(&damaging, &received).args(["--start", "current", "--no-verify-records"]));
    primary.psql("SELECT pg_logical_emit_message(true, 'test', 'a whole record')");
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
}

#[test]
fn what_servers_write_is_never_taken_for_damage() {
    for major in crate::support::servers::majors() {
        require_server!(major);
        for segment_megabytes in [1, 16, 64] {
            let primary = keeping_wal(segment_megabytes).major(major).start();
            let received = directory(&primary);
            // before 15 a slot's position cannot be read
            let tool = receive(&primary.conninfo(), &received).args(["--start", "current"]);
            let receiver = streaming(&tool);
            make_wal(&primary, 3);
            primary.psql("SELECT pg_switch_wal(); CHECKPOINT");
            primary.psql("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g");
            primary.psql("SELECT pg_switch_wal()");
            primary.restart();
            make_wal(&primary, 2);
            // in the middle of a write load, so that recovery finds a record that was broken off, if it can
            let load = primary.pgbench(&["-i", "-s", "5", "-q"]).spawn();
            primary.wait_for("SELECT count(*) > 0 FROM pg_class WHERE relname = 'pgbench_accounts'", "t");
            primary.kill9();
            drop(load);
            primary.start();
            make_wal(&primary, 2);
            caught_up(&primary);
            receiver.terminate();
            receiver.wait().succeeded();
            assert_same_as(&[&primary], &received);
            primary.stop(Stop::Immediate);
        }
    }
}
