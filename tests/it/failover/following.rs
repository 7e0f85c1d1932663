//! After a failover the other standbys follow the new primary, unless they must not.

use super::{follow, json, receiver_is_gone, standby_of, standby_tool, stopped_standby_of, write_and_replay};
use crate::require_server;
use crate::support::servers::default_major;
use crate::support::{Cluster, Stop};

const STREAMING: &str = "SELECT application_name, state FROM pg_stat_replication";

/// A primary that was killed, a standby that was promoted, and another one that has to follow.
fn after_a_failover() -> (Cluster, Cluster, Cluster) {
    let primary = Cluster::new();
    let (one, two) = (standby_of(&primary, "standby1"), standby_of(&primary, "standby2"));
    write_and_replay(&primary, &[&one, &two]);
    primary.kill9();
    receiver_is_gone(&two);
    standby_tool("promote", &one).run().succeeded();
    one.psql("INSERT INTO t VALUES (101)");
    (primary, one, two)
}

#[test]
fn a_standby_that_runs_is_pointed_at_the_new_primary() {
    require_server!();
    let (primary, one, two) = after_a_failover();
    let outcome = follow(&two, &one).run().succeeded();
    let outcome = outcome.says("on timeline 2").says("replication slot \"standby2\" was made there");
    let outcome = outcome.says("the new primary shows it streaming");
    assert!(outcome.stdout.contains("SELECT pg_drop_replication_slot('standby2');"), "{outcome}");
    assert!(outcome.stdout.contains(&format!(":{} still holds WAL back", primary.port())), "{outcome}");
    one.wait_for(STREAMING, "standby2|streaming");
    super::replayed_all(&one, &[&two]);
    assert_eq!(two.psql("SELECT count(*) FROM t"), "101");
    let sql = "SELECT slot_name, active, restart_lsn IS NOT NULL FROM pg_replication_slots";
    assert_eq!(one.psql(sql), "standby2|t|t");
    // once more: its own slot is in use
    follow(&two, &one).run().exited(1).complains("already exists on the new primary");
    follow(&two, &one).arg("--use-existing-slot").run().exited(1).complains("is in use on the new primary");
    // it comes back after a restart
    two.restart();
    one.wait_for(STREAMING, "standby2|streaming");
}

#[test]
fn a_stopped_standby_is_pointed_at_the_new_primary() {
    require_server!();
    let (_primary, one, two) = after_a_failover();
    two.stop(Stop::Fast);
    let outcome = follow(&two, &one).args(["--slot", "other", "--json"]).run().succeeded();
    let report = json(&outcome);
    assert_eq!((&report["running"], &report["slot"]), (&false.into(), &"other".into()), "{outcome}");
    assert_eq!(
        (&report["slot_created"], &report["old_slot"]),
        (&true.into(), &"standby2".into()),
        "{outcome}"
    );
    assert_eq!((&report["old_timeline"], &report["timeline"]), (&1.into(), &2.into()), "{outcome}");
    two.start();
    one.wait_for(STREAMING, "standby2|streaming");
    assert_eq!(one.psql("SELECT slot_name, active FROM pg_replication_slots"), "other|t");
}

#[test]
fn without_a_slot_it_is_seen_by_its_name() {
    require_server!();
    let (_primary, one, two) = after_a_failover();
    follow(&two, &one)
        .args(["--no-slot", "--application-name", "two"])
        .run()
        .succeeded()
        .says("no replication slot");
    assert_eq!(one.psql(STREAMING), "two|streaming");
    assert_eq!(one.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(two.psql("SHOW primary_slot_name"), "");
    // now none can be guessed
    follow(&two, &one).run().exited(2).complains("has no replication slot now");
}

#[test]
fn a_password_goes_to_the_passfile() {
    require_server!();
    let primary = Cluster::builder().hba("host replication rose 127.0.0.1/32 scram-sha-256").start();
    primary.create_role("rose", "REPLICATION", Some("secret7"));
    let (one, two) = (standby_of(&primary, "standby1"), standby_of(&primary, "standby2"));
    super::replayed_all(&primary, &[&one, &two]);
    primary.stop(Stop::Fast);
    receiver_is_gone(&two);
    standby_tool("promote", &one).run().succeeded();
    let conninfo =
        |password: &str| format!("host=127.0.0.1 port={} user=rose password={password}", one.port());
    let follow = |password: &str| standby_tool("follow", &two).args(["-w", "-d", &conninfo(password)]);
    let outcome = follow("wrong7").run().exited(1).complains("password authentication failed");
    assert!(!outcome.stderr.contains("wrong7"), "{outcome}");
    let passfile = two.data_dir().join("primary.passfile");
    assert!(!passfile.exists());
    follow("secret7").run().succeeded().says("the new primary shows its slot in use");
    assert!(std::fs::read_to_string(&passfile).unwrap().contains("secret7"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&passfile).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!two.psql("SHOW primary_conninfo").contains("secret7"));
    assert!(
        !std::fs::read_to_string(two.data_dir().join("postgresql.auto.conf")).unwrap().contains("secret7")
    );
}

#[test]
fn a_standby_that_is_ahead_is_refused() {
    require_server!();
    let primary = Cluster::new();
    let (one, two) = (standby_of(&primary, "standby1"), standby_of(&primary, "standby2"));
    write_and_replay(&primary, &[&one, &two]);
    // one is stopped while two goes on
    one.stop(Stop::Fast);
    primary.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    super::replayed_all(&primary, &[&two]);
    primary.kill9();
    one.start();
    standby_tool("promote", &one).run().succeeded();
    let before = std::fs::read_to_string(two.data_dir().join("postgresql.auto.conf")).unwrap();
    let assert_refused = || {
        let outcome = follow(&two, &one).run().exited(3).complains("which the new primary left at");
        outcome.complains("run pg_rewind, or make a new standby");
        assert_eq!(std::fs::read_to_string(two.data_dir().join("postgresql.auto.conf")).unwrap(), before);
        assert_eq!(one.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    };
    assert_refused();
    two.stop(Stop::Fast);
    assert_refused();
    // the other way round: a timeline that the other one never took
    two.start();
    standby_tool("promote", &two).run().succeeded();
    let three = stopped_standby_of(&two, &two.conninfo(), "standby3");
    let outcome = follow(&three, &one).run().exited(3);
    outcome.complains("the standby cannot follow this server");
}

#[test]
fn whom_it_must_not_follow_is_refused() {
    require_server!();
    let (primary, one, two) = after_a_failover();
    let foreign = Cluster::new();
    follow(&two, &foreign).run().exited(3).complains("the new primary is of system");
    assert_eq!(foreign.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    follow(&two, &two).run().exited(1).complains("leads to the standby itself");
    follow(&one, &two).run().exited(1).complains("is not a standby's");
    follow(&two, &primary).run().exited(1).complains("could not connect to the server");
    two.psql("SELECT pg_wal_replay_pause()");
    follow(&two, &one).run().exited(1).complains("replay is paused at");
    two.psql("SELECT pg_wal_replay_resume()");
    let outcome = follow(&two, &one).args(["--standby", "user=nobody"]).run().exited(1);
    outcome.complains("role \"nobody\" does not exist");
    assert_eq!(one.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    follow(&two, &one).run().succeeded();
}

#[test]
fn wal_that_is_gone_is_told_before_anything_is_changed() {
    require_server!();
    let primary = Cluster::builder()
        .wal_segsize(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .start();
    let (one, two) = (standby_of(&primary, "standby1"), standby_of(&primary, "standby2"));
    write_and_replay(&primary, &[&one, &two]);
    two.stop(Stop::Fast);
    primary.stop(Stop::Fast);
    receiver_is_gone(&one);
    standby_tool("promote", &one).run().succeeded();
    for _ in 0..6 {
        one.psql("INSERT INTO t SELECT generate_series(1, 10000); SELECT pg_switch_wal()");
        one.psql("CHECKPOINT");
    }
    let outcome = follow(&two, &one).run().exited(1).complains("which the standby needs");
    outcome.complains("has already been removed");
    assert_eq!(one.psql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_role_that_may_not_change_the_standby_leaves_nothing() {
    require_server!();
    let (_primary, one, _two) = after_a_failover();
    one.create_role("rose", "REPLICATION", None);
    // the role came after the failover
    let three = stopped_standby_of(&one, &one.conninfo(), "standby3");
    three.start();
    one.wait_for(STREAMING, "standby3|streaming");
    super::replayed_all(&one, &[&three]);
    let configuration = || std::fs::read_to_string(three.data_dir().join("postgresql.auto.conf")).unwrap();
    let (before, slots) = (configuration(), "SELECT count(*) FROM pg_replication_slots");
    let outcome = follow(&three, &one).args(["--slot", "another", "--standby", "user=rose"]).run().exited(1);
    outcome
        .complains("could not change the standby's configuration")
        .complains("--standby \"user=postgres\"");
    assert_eq!(one.psql(slots), "1");
    assert_eq!(configuration(), before);
}

/// A role may be allowed one setting and not the next, or both and no reload: then nothing is changed.
#[test]
fn a_configuration_is_changed_whole_or_not_at_all() {
    require_server!();
    if default_major() < 15 {
        // whoever may change one setting may change all
        return;
    }
    let (_primary, one, _two) = after_a_failover();
    one.create_role("rose", "REPLICATION", None);
    let three = stopped_standby_of(&one, &one.conninfo(), "standby3");
    three.start();
    one.wait_for(STREAMING, "standby3|streaming");
    let configuration = || {
        let content = std::fs::read_to_string(three.data_dir().join("postgresql.auto.conf")).unwrap();
        let mut lines: Vec<String> = content.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = configuration();
    let rose = || {
        super::replayed_all(&one, &[&three]);
        let outcome =
            follow(&three, &one).args(["--slot", "another", "--standby", "user=rose"]).run().exited(1);
        let outcome = outcome.complains("could not change the standby's configuration");
        assert_eq!(configuration(), before);
        assert_eq!(one.psql("SELECT slot_name FROM pg_replication_slots"), "standby3");
        outcome
    };
    one.psql("GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO rose");
    rose().complains("permission denied to set parameter \"primary_slot_name\"");
    one.psql("GRANT ALTER SYSTEM ON PARAMETER primary_slot_name TO rose");
    rose().complains("permission denied for function pg_reload_conf");
    one.psql("GRANT EXECUTE ON FUNCTION pg_reload_conf TO rose");
    super::replayed_all(&one, &[&three]);
    let allowed = follow(&three, &one).args(["--slot", "another", "--standby", "user=rose"]);
    allowed.run().succeeded().says("the new primary shows it streaming");
    assert_ne!(configuration(), before);
}

/// What a standby has, nobody is asked for: a server that was made after that was written will do.
#[test]
fn only_what_comes_next_has_to_be_there() {
    require_server!();
    let (_primary, one, two) = after_a_failover();
    follow(&two, &one).run().succeeded();
    one.psql("SELECT pg_switch_wal(); INSERT INTO t VALUES (102); SELECT pg_switch_wal()");
    let three = stopped_standby_of(&one, &one.conninfo(), "standby3");
    three.start();
    one.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "2");
    super::replayed_all(&one, &[&two, &three]);
    let oldest = "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
    assert!(three.psql(oldest) > two.psql(oldest), "{} {}", three.psql(oldest), two.psql(oldest));
    let outcome = follow(&two, &three).run().succeeded();
    outcome.says("on timeline 2").says("the new primary shows it streaming");
    // stopped, it is read off its files
    two.stop(Stop::Fast);
    let outcome = follow(&two, &three).arg("--use-existing-slot").run().succeeded();
    outcome.says("it does not run");
    two.start();
    three.wait_for(STREAMING, "standby2|streaming");
    one.psql("INSERT INTO t VALUES (103)");
    super::replayed_all(&one, &[&two]);
    assert_eq!(two.psql("SELECT count(*) FROM t"), "103");
}

#[test]
fn an_old_primary_that_was_shut_down_cleanly_can_come_back() {
    require_server!();
    let primary = Cluster::new();
    let one = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&one]);
    primary.stop(Stop::Fast);
    receiver_is_gone(&one);
    standby_tool("promote", &one).run().succeeded();
    let back = follow(&primary, &one).args(["--slot", "back"]);
    back.run().exited(1).complains("is not a standby's").complains("standby.signal");
    let signal = primary.dir().file("socket_signal", 0o600, "");
    std::fs::rename(signal, primary.data_dir().join("standby.signal")).unwrap();
    back.run().succeeded().says("it does not run");
    primary.start();
    one.wait_for(STREAMING, "back|streaming");
}
