//! The operator's day: commits that wait for any one of a standby and a receiver, the loss of either, of both, and of the
//! primary; then all follow the new one, and what the dead held back is dropped.

use super::{follow, json, replayed_all, standby_of, standby_tool, stopped_standby_of};
use crate::require_server;
use crate::support::cluster::Builder;
use crate::support::{Cluster, Outcome, Running, Stop, Tool};

/// Who confirms, as the primary sees it.
const CONFIRMING: &str = "SELECT string_agg(application_name || ' ' || sync_state, ', ' ORDER BY application_name) FROM pg_stat_replication";

/// Commits that wait for somebody.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// All of these servers, in one connection string.
fn hosts(servers: &[&Cluster]) -> String {
    let list = |part: &dyn Fn(&Cluster) -> String| {
        servers.iter().map(|server| part(server)).collect::<Vec<_>>().join(",")
    };
    let (sockets, ports) =
        (list(&|it| it.socket_dir().display().to_string()), list(&|it| it.port().to_string()));
    format!("host={sockets} port={ports} user=postgres dbname=postgres")
}

fn status(hosts: &str) -> Outcome {
    Tool::pgwake().args(["status", "-d", hosts]).run().succeeded()
}

fn check(server: &Cluster) -> Outcome {
    Tool::pgwake().args(["check", "--for", "synchronous", "-d", &server.conninfo()]).run()
}

/// The receiver of the whole day, which knows all hosts and may make its slot.
fn receiver(hosts: &str, directory: &std::path::Path) -> Running {
    let conninfo = format!("{hosts} target_session_attrs=primary");
    let tool =
        Tool::pgwake().args(["receive", "-w", "-d", &conninfo, "--slot", "pgwake", "--create-slot", "-D"]);
    let mut running =
        tool.arg(directory).by_server_user().timeout(std::time::Duration::from_secs(180)).spawn();
    running.wait_for_stderr("streaming started");
    running
}

fn synchronous(server: &Cluster, names: &str) {
    server.psql(&format!(
        "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '{names}'; SELECT pg_reload_conf()"
    ));
}

/// A commit that comes back, within the patience of a test.
#[track_caller]
fn commits(server: &Cluster, n: u32) {
    server.psql(&format!("INSERT INTO notes VALUES ({n})"));
}

fn notes(server: &Cluster) -> String {
    server.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM notes")
}

fn day(servers: Builder) {
    let primary = servers.start();
    let standby1 = standby_of(&primary, "standby1");
    let standby2 = stopped_standby_of(&standby1, &standby1.conninfo(), "standby2");
    standby2.start();
    standby1.wait_for("SELECT application_name, state FROM pg_stat_replication", "standby2|streaming");
    let all = hosts(&[&primary, &standby1, &standby2]);
    let received = primary.dir().subdir("received", 0o700);
    let running = receiver(&all, &received);
    primary.psql("CREATE TABLE notes (n int)");
    synchronous(&primary, "ANY 1 (standby1, pgwake)");
    primary.wait_for(CONFIRMING, "pgwake quorum, standby1 quorum");
    commits(&primary, 1);
    let outcome = check(&primary).succeeded().says("there: standby1, pgwake").says("1 can be spared");
    assert!(!outcome.stdout.contains("commits wait:"), "{outcome}");
    let seen = status(&all);
    for name in ["standby1", "└ standby2", "pgwake", "quorum 1"] {
        assert!(seen.stdout.contains(name), "{name}: {seen}");
    }

    // one is enough
    standby1.stop(Stop::Fast);
    primary.wait_for(CONFIRMING, "pgwake quorum");
    commits(&primary, 2);
    check(&primary).succeeded().says("there: pgwake; not there: standby1").says("None can be spared");

    // none is not: the commit waits, and both say why
    running.terminate();
    running.wait().succeeded();
    let waiting =
        Tool::psql().args(["-XAtq", "-d", &primary.conninfo(), "-c", "INSERT INTO notes VALUES (3)"]);
    let mut waiting = waiting.spawn();
    primary.wait_for(WAITING, "1");
    let outcome =
        check(&primary).exited(1).says("problem  synchronous_standby_names: ANY 1 (standby1, pgwake)");
    outcome.says("there: nobody; not there: standby1, pgwake").says("Every commit waits now");
    status(&all).says("commits wait: synchronous_standby_names is \"ANY 1 (standby1, pgwake)\"");
    assert!(waiting.is_running(), "it was confirmed by nobody");
    assert_eq!(primary.psql(WAITING), "1");

    // either lets them go on
    let mut running = receiver(&all, &received);
    waiting.wait().succeeded();
    assert_eq!(notes(&primary), "1 2 3");
    standby1.start();
    primary.wait_for(CONFIRMING, "pgwake quorum, standby1 quorum");
    standby1.wait_for("SELECT state FROM pg_stat_replication", "streaming");
    replayed_all(&primary, &[&standby1, &standby2]);

    // the primary is lost: nothing that was confirmed is
    primary.kill9();
    let outcome = standby_tool("promote", &standby1).run().succeeded().says("on timeline 2");
    outcome.says("no commit waits for a standby: synchronous_standby_names is empty here");
    // the standby's standby is on the new timeline by itself, and the receiver too
    running.wait_for_stderr("created replication slot \"pgwake\" there");
    running.wait_for_stderr("timeline switched to=2");
    synchronous(&standby1, "ANY 1 (standby2, pgwake)");
    standby1.wait_for(CONFIRMING, "pgwake quorum, standby2 quorum");
    commits(&standby1, 4);
    replayed_all(&standby1, &[&standby2]);
    assert_eq!(notes(&standby2), "1 2 3 4");

    // the dead one comes back as a standby, and the other one follows it: of what was before it was made it has no WAL
    let standby3 = stopped_standby_of(&standby1, &standby1.conninfo(), "standby3");
    standby3.start();
    standby1.wait_for(CONFIRMING, "pgwake quorum, standby2 quorum, standby3 async");
    follow(&standby2, &standby3).run().succeeded().says("the new primary shows it streaming");
    commits(&standby1, 5);
    replayed_all(&standby1, &[&standby2, &standby3]);
    assert_eq!(notes(&standby2), "1 2 3 4 5");

    // what the dead held back
    let list = Tool::pgwake().args(["slot", "list", "--json", "-d", &standby1.conninfo()]).run().succeeded();
    let list = json(&list);
    let idle: Vec<&str> = list["slots"]
        .as_array()
        .expect("slots")
        .iter()
        .filter(|slot| slot["active"] == false)
        .filter_map(|slot| slot["name"].as_str())
        .collect();
    assert_eq!(idle, ["standby2"], "{list:#}");
    Tool::pgwake().args(["slot", "drop", "standby2", "-d", &standby1.conninfo()]).run().succeeded();
    let left = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots WHERE active";
    assert_eq!(standby1.psql(left), "pgwake standby3");
    let seen = status(&hosts(&[&primary, &standby1, &standby3, &standby2]));
    for line in ["no answer", "  └ ", "(streaming)"] {
        assert!(seen.stdout.contains(line), "{line}: {seen}");
    }

    running.terminate();
    running.wait().succeeded();
    Tool::pgwake().args(["wal", "verify"]).arg(&received).run().succeeded().says("timeline 2");
}

#[test]
fn on_15() {
    require_server!(15);
    day(Cluster::builder().major(15));
}

#[test]
fn on_17() {
    require_server!(17);
    day(Cluster::builder().major(17));
}

#[test]
fn on_18() {
    require_server!(18);
    day(Cluster::builder().major(18));
}
