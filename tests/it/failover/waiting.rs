//! What was written is read on a standby: when it is there, and not before.

use std::time::Instant;

use super::{json, standby_of, standby_tool, write_and_replay};
use crate::require_server;
use crate::support::{Cluster, Stop, Tool};

fn wait(cluster: &Cluster, lsn: &str) -> Tool {
    Tool::pgwake().args(["standby", "wait", "-d", &cluster.conninfo(), "--lsn", lsn])
}

#[test]
fn it_ends_when_the_standby_has_replayed() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    for _ in 0..5 {
        primary.psql("INSERT INTO t VALUES (0)");
        let lsn = primary.psql("SELECT pg_current_wal_lsn()");
        let count = primary.psql("SELECT count(*) FROM t");
        let outcome = wait(&standby, &lsn).args(["--timeout", "30", "--json"]).run().succeeded();
        assert_eq!(standby.psql("SELECT count(*) FROM t"), count);
        let report = json(&outcome);
        assert_eq!(report["in_recovery"], true, "{outcome}");
        let reached: pgwake::pg::Lsn = report["reached_lsn"].as_str().unwrap().parse().unwrap();
        assert!(reached >= lsn.parse().unwrap(), "{outcome}");
    }
    // on the primary it is there already
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    wait(&primary, &lsn).args(["--timeout", "0"]).run().succeeded().says("flushed (this is a primary)");
}

#[test]
fn an_insert_position_behind_a_page_header_is_reached_before_the_next_record() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    primary.psql("SELECT pg_switch_wal()");
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    assert!(lsn.ends_with("000028"), "{lsn}");
    for cluster in [&primary, &standby] {
        wait(cluster, &lsn).args(["--timeout", "10"]).run().succeeded();
    }
}

#[test]
fn a_paused_standby_says_so_and_goes_on_when_it_may() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    standby.psql("SELECT pg_wal_replay_pause()");
    primary.psql("INSERT INTO t VALUES (0)");
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    let outcome = wait(&standby, &lsn).args(["--timeout", "0.3"]).run().exited(1);
    let outcome = outcome.complains("was not replayed within 0.3 s").complains("replay is paused at");
    assert!(outcome.stderr.contains("hint: Resume it with"), "{outcome}");
    let mut waiting = wait(&standby, &lsn).spawn();
    standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgwake'", "1");
    assert!(waiting.is_running());
    standby.psql("SELECT pg_wal_replay_resume()");
    waiting.wait().succeeded().says("is replayed, after");
}

#[test]
fn time_that_is_over_is_told_with_the_reason() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    let far = ["--timeout", "0.2"];
    let outcome = wait(&standby, "7F/0").args(far).run().exited(1).complains("7F/0 was not replayed within");
    outcome.complains("and received up to");
    let outcome = wait(&primary, "7F/0").args(far).arg("--json").run().exited(1);
    let outcome = outcome.complains("was not flushed within 0.2 s").complains("this is a primary");
    assert_eq!(json(&outcome)["error"]["exit_code"], 1, "{outcome}");
    primary.stop(Stop::Fast);
    super::receiver_is_gone(&standby);
    let outcome = wait(&standby, "7F/0").args(far).run().exited(1);
    outcome.complains("its WAL receiver is not running");
    wait(&standby, "yesterday").run().exited(2);
    wait(&standby, "0/1").args(["--timeout", "-1"]).run().exited(2);
    let outcome = wait(&primary, "0/1").run().exited(1);
    outcome.complains("could not connect to the server");
}

#[test]
fn a_promotion_while_waiting_is_noticed() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    primary.stop(Stop::Fast);
    let received: pgwake::pg::Lsn = standby.psql("SELECT pg_last_wal_receive_lsn()").parse().unwrap();
    let waiting = wait(&standby, &(received + 1_000_000).to_string()).spawn();
    standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgwake'", "1");
    standby.promote();
    standby.psql("INSERT INTO t SELECT generate_series(1, 50000)");
    waiting.wait().succeeded().says("flushed (this is a primary)");
}

#[test]
fn a_signal_ends_it_at_once() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    let waiting = standby_tool("wait", &standby).args(["--lsn", "7F/0"]).spawn();
    standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgwake'", "1");
    let asked = Instant::now();
    waiting.interrupt();
    waiting.wait().exited(1).complains("interrupted by SIGINT while waiting for 7F/0");
    assert!(asked.elapsed().as_secs() < 5, "it took {:?}", asked.elapsed());
    // the server does not go on waiting for nobody
    standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgwake'", "0");
}

#[test]
fn a_wrong_password_is_told() {
    require_server!();
    let cluster = Cluster::builder().hba("host all rose 127.0.0.1/32 scram-sha-256").start();
    cluster.create_role("rose", "", Some("right"));
    let conninfo = format!("host=127.0.0.1 port={} user=rose dbname=postgres password=wrong", cluster.port());
    for verb in [&["wait", "--lsn", "0/1"][..], &["status"], &["promote"]] {
        let outcome = Tool::pgwake().arg("standby").args(verb).args(["-w", "-d", &conninfo]).run().exited(1);
        let outcome = outcome.complains("password authentication failed");
        assert!(!outcome.stderr.contains("wrong"), "{outcome}");
    }
}
