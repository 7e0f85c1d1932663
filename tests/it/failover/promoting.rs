//! A standby becomes the primary, and never beside another one.

use super::{json, receiver_is_gone, standby_of, standby_tool, stopped_standby_of, write_and_replay};
use crate::require_server;
use crate::support::{Cluster, Outcome, Stop, Tool};

#[test]
fn beside_a_primary_that_lives_it_is_refused() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    let outcome = standby_tool("promote", &standby).run().exited(1);
    let outcome = outcome.complains("is alive and writable at");
    assert!(outcome.stderr.contains(&format!(":{}", primary.port())), "{outcome}");
    assert!(outcome.stderr.contains("hint: Two servers that take writes"), "{outcome}");
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    // the primary itself is no standby
    standby_tool("promote", &primary).run().exited(1).complains("it is a primary, on timeline 1");
    let outcome = standby_tool("promote", &standby).args(["--force", "--json"]).run().succeeded();
    let report = json(&outcome);
    assert_eq!((&report["timeline"], &report["old_timeline"]), (&2.into(), &1.into()), "{outcome}");
    assert!(outcome.stderr.contains("promoting all the same: the primary at"), "{outcome}");
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "f");
    let history = std::fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    let switch: pgwake::pg::Lsn = report["switch_lsn"].as_str().unwrap().parse().unwrap();
    let written: pgwake::pg::Lsn = history.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(switch, written);
}

#[test]
fn after_a_primary_that_was_killed_it_takes_over() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    primary.kill9();
    let outcome = standby_tool("promote", &standby).run().succeeded();
    let outcome = outcome.says("promoted: this is the primary, on timeline 2");
    assert!(outcome.stdout.contains("it left timeline 1 at "), "{outcome}");
    assert!(outcome.stderr.contains("nothing answers at"), "{outcome}");
    standby.psql("INSERT INTO t VALUES (101)");
    assert_eq!(standby.psql("SELECT count(*) FROM t"), "101");
}

#[test]
fn names_that_will_make_commits_wait_are_told_beforehand() {
    require_server!();
    let primary = Cluster::builder().setting("synchronous_standby_names", "ANY 1 (standby1, pgwake)").start();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    primary.kill9();
    let outcome = standby_tool("promote", &standby).run().succeeded();
    let waits = "every commit will wait: synchronous_standby_names is \"ANY 1 (standby1, pgwake)\", and 1 more of those \
                 has to receive from here";
    let outcome = outcome.complains(&format!("WARN once this is the primary, {waits}")).says(waits);
    assert!(outcome.stdout.contains("SQL: ALTER SYSTEM SET synchronous_standby_names"), "{outcome}");
    // and so it is
    let insert = ["-XAtq", "-d", &standby.conninfo(), "-c", "INSERT INTO t VALUES (101)"];
    let waiting = Tool::psql().args(insert).spawn();
    standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    standby.psql("SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()");
    waiting.wait().succeeded();
}

#[test]
fn that_nothing_is_synchronous_any_more_is_told() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    let json_of = |outcome: &Outcome| json(outcome)["synchronous"].clone();
    primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby1)'; SELECT pg_reload_conf()");
    write_and_replay(&primary, &[&standby]);
    primary.kill9();
    let outcome = standby_tool("promote", &standby).arg("--json").run().succeeded();
    let expected = serde_json::json!({"names": "", "missing": 0, "waits": true});
    assert_eq!(json_of(&outcome), expected, "{outcome}");
    // somebody who follows and is named confirms
    let next = standby_of(&standby, "standby2");
    let names = "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby3)'; SELECT pg_reload_conf()";
    let third = stopped_standby_of(&next, &next.conninfo(), "standby3");
    third.start();
    next.wait_for("SELECT state FROM pg_stat_replication WHERE flush_lsn IS NOT NULL", "streaming");
    next.psql(names);
    standby.kill9();
    let outcome = standby_tool("promote", &next).run().succeeded();
    outcome.says("commits wait for standbys: synchronous_standby_names is \"ANY 1 (standby3)\"");
    next.psql("INSERT INTO t VALUES (101)");
}

#[test]
fn a_server_that_answers_and_does_not_tell_speaks_against_it() {
    require_server!();
    let primary = Cluster::builder().hba("host replication rose 127.0.0.1/32 scram-sha-256").start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    let conninfo = format!("host=127.0.0.1 port={} user=rose password=right", primary.port());
    let standby = stopped_standby_of(&primary, &conninfo, "standby1");
    standby.start();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    primary.psql("ALTER ROLE rose PASSWORD 'changed'");
    let outcome = standby_tool("promote", &standby).run().exited(1);
    let outcome = outcome.complains("is alive, and did not say whether it is writable");
    assert!(outcome.stderr.contains("password authentication failed"), "{outcome}");
    assert!(!outcome.stderr.contains("right"), "{outcome}");
    // the passfile that primary_conninfo names works again
    primary.psql("ALTER ROLE rose PASSWORD 'right'");
    standby_tool("promote", &standby).run().exited(1).complains("is alive and writable");
    primary.stop(Stop::Fast);
    standby_tool("promote", &standby).run().succeeded();
}

#[test]
fn an_upstream_that_is_a_standby_speaks_against_it() {
    require_server!();
    let primary = Cluster::new();
    let upstream = standby_of(&primary, "standby1");
    let cascade = stopped_standby_of(&primary, &upstream.conninfo(), "cascade");
    cascade.start();
    upstream.wait_for("SELECT state FROM pg_stat_replication", "streaming");
    let outcome = standby_tool("promote", &cascade).run().exited(1);
    outcome.complains("is alive, and a standby itself");
    primary.stop(Stop::Fast);
    standby_tool("promote", &upstream).run().succeeded();
    standby_tool("promote", &cascade).run().exited(1).complains("is alive and writable");
}

#[test]
fn a_connection_of_the_standbys_speaks_against_it_where_nobody_can_be_asked() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("rose", "", None);
    let standby = standby_of(&primary, "standby1");
    super::replayed_all(&primary, &[&standby]);
    let outcome = standby_tool("promote", &standby).args(["-U", "rose"]).run().exited(1);
    let outcome = outcome.complains("no primary_conninfo, or this role may not see it");
    outcome.complains("its upstream seems to be alive");
}

#[test]
fn a_paused_standby_is_promoted_only_by_force() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    standby.psql("SELECT pg_wal_replay_pause()");
    primary.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_receive_lsn() >= '{lsn}'"), "t");
    primary.stop(Stop::Immediate);
    receiver_is_gone(&standby);
    let outcome = standby_tool("promote", &standby).run().exited(1);
    outcome.complains("replay is paused at").complains("pg_wal_replay_resume()");
    let outcome = standby_tool("promote", &standby).arg("--force").run().succeeded();
    outcome.says("after replaying");
    // nothing that was received is lost
    assert_eq!(standby.psql("SELECT count(*) FROM t"), "1100");
}

#[test]
fn a_role_that_may_not_is_told_what_it_needs() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("rose", "", None);
    let standby = standby_of(&primary, "standby1");
    primary.stop(Stop::Fast);
    receiver_is_gone(&standby);
    let promote = standby_tool("promote", &standby).args(["-U", "rose"]);
    let outcome = promote.run().exited(1).complains("permission denied for function pg_promote");
    outcome.complains("GRANT EXECUTE ON FUNCTION pg_promote").complains("this role may not see it");
    standby.stop(Stop::Fast);
    standby_tool("promote", &standby).run().exited(1).complains("no server runs on");
    let unreachable = format!("host=127.0.0.1 port={}", standby.port());
    let outcome = Tool::pgwake().args(["standby", "promote", "-d", &unreachable]).run().exited(1);
    outcome.complains("could not connect to the server").complains("Connection refused");
}
