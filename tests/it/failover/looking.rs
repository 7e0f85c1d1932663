//! What a standby says of itself, running and stopped.

use super::{json, receiver_is_gone, standby_of, standby_tool, write_and_replay};
use crate::require_server;
use crate::support::{Cluster, Stop, Tool};

#[test]
fn a_standby_that_runs_is_shown() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    let text = standby_tool("status", &standby).run().succeeded().stdout;
    assert!(text.lines().all(|line| line.len() <= 80 || line.starts_with("upstream")), "{text}");
    for line in [
        "in recovery       yes",
        "timeline          1",
        "WAL receiver      streaming, heard of",
        "slot              standby1",
        "replay            on",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let outcome = standby_tool("status", &standby).arg("--json").run().succeeded();
    let status = json(&outcome);
    let by_psql = standby.psql("SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()");
    let lsn = |name: &str| status[name].as_str().unwrap().parse::<pgwake::pg::Lsn>().unwrap();
    let (received, replayed) = by_psql.split_once('|').unwrap();
    assert_eq!(
        (lsn("received_lsn"), lsn("replayed_lsn")),
        (received.parse().unwrap(), replayed.parse().unwrap())
    );
    assert_eq!(status["slot"], "standby1", "{outcome}");
    assert_eq!(status["receiver"]["state"], "streaming", "{outcome}");
    assert!(status["upstream"].as_str().unwrap().ends_with(&format!(":{}", primary.port())), "{outcome}");
    let system = primary.psql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(status["system_identifier"], system.as_str(), "{outcome}");
    // the primary, by its directory and by a connection string
    standby_tool("status", &primary).run().succeeded().says("no: this is a primary");
    let outcome =
        Tool::pgwake().args(["standby", "status", "--json", "-d", &primary.conninfo()]).run().succeeded();
    assert_eq!(json(&outcome)["in_recovery"], false, "{outcome}");
}

#[test]
fn what_is_received_and_not_replayed_is_the_lag() {
    require_server!();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    standby.psql("SELECT pg_wal_replay_pause()");
    primary.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_receive_lsn() >= '{lsn}'"), "t");
    let outcome = standby_tool("status", &standby).arg("--json").run().succeeded();
    let status = json(&outcome);
    assert_eq!(status["replay"], "paused", "{outcome}");
    assert!(status["replay_lag_bytes"].as_u64().unwrap() > 50_000, "{outcome}");
    assert!(status["replay_lag_seconds"].as_f64().unwrap() > 0.0, "{outcome}");
    standby_tool("status", &standby).run().succeeded().says("replay            paused");
    standby.psql("SELECT pg_wal_replay_resume()");
    super::replayed_all(&primary, &[&standby]);
    crate::support::wait_until("there is no lag", || {
        let outcome = standby_tool("status", &standby).arg("--json").run().succeeded();
        json(&outcome)["replay_lag_bytes"] == 0 && json(&outcome)["replay_lag_seconds"] == 0.0
    });
    primary.stop(Stop::Fast);
    receiver_is_gone(&standby);
    standby_tool("status", &standby).run().succeeded().says("WAL receiver      not running");
}

#[test]
fn a_role_without_rights_sees_what_it_may() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("rose", "", None);
    let standby = standby_of(&primary, "standby1");
    super::replayed_all(&primary, &[&standby]);
    let status = standby_tool("status", &standby).args(["-U", "rose"]);
    status.run().succeeded().says("running (this role may not see more)").says("this role may not see it");
}

#[test]
fn a_stopped_directory_says_how_far_it_would_come() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    primary.psql("INSERT INTO t SELECT generate_series(1, 30000)");
    super::replayed_all(&primary, &[&standby]);
    primary.stop(Stop::Fast);
    receiver_is_gone(&standby);
    for stop in [Stop::Immediate, Stop::Fast] {
        let replayed: pgwake::pg::Lsn = standby.psql("SELECT pg_last_wal_replay_lsn()").parse().unwrap();
        standby.stop(stop);
        let outcome = standby_tool("status", &standby).arg("--json").run().succeeded();
        let status = json(&outcome);
        assert_eq!((&status["running"], &status["in_recovery"]), (&false.into(), &true.into()), "{outcome}");
        assert_eq!(status["received_lsn"].as_str().unwrap().parse(), Ok(replayed), "{stop:?}: {outcome}");
        assert_eq!((&status["timeline"], &status["slot"]), (&1.into(), &"standby1".into()), "{outcome}");
        let cut_off = if stop == Stop::Fast { "shut_down_in_recovery" } else { "in_recovery" };
        assert_eq!(status["state"], cut_off, "{outcome}");
        let min_recovery = standby.server_tool("pg_controldata").arg(standby.data_dir()).run().succeeded();
        let line = min_recovery
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("Minimum recovery ending location:"));
        let expected: pgwake::pg::Lsn = line.unwrap().trim().parse().unwrap();
        assert_eq!(status["replayed_lsn"].as_str().unwrap().parse(), Ok(expected), "{outcome}");
        standby_tool("status", &standby)
            .run()
            .succeeded()
            .says("not running; its directory is that of a standby");
        standby.start();
    }
    standby.kill9();
    standby_tool("status", &standby).run().succeeded().says("in recovery: it was cut off");
    let empty = primary.dir().subdir("socket_empty", 0o700);
    super::on_directory("status", &empty).run().exited(1).complains("is not a data directory");
}
