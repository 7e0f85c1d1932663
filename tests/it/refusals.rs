//! Every refusal says what was being done, the cause, and what to type next; and makes nothing.

use crate::cloning::{beside_the_primary, create};
use crate::require_server;
use crate::support::{Cluster, Outcome, Stop, Tool};

/// `pgwake standby create` as `rose` over TCP, by a connection string with more in it.
fn as_rose(primary: &Cluster, more: &str) -> Tool {
    let conninfo = format!("host=127.0.0.1 port={} user=rose {more}", primary.port());
    let tool = Tool::pgwake().args(["standby", "create", "-w", "-d", &conninfo, "--slot", "standby1", "-D"]);
    tool.arg(primary.dir().join("standby")).by_server_user()
}

#[track_caller]
fn assert_refused(outcome: Outcome, cause: &str, hint: &str) {
    let outcome = outcome.exited(1).complains(cause);
    assert!(outcome.stderr.starts_with("error: ") || outcome.stderr.contains("\nerror: "), "{outcome}");
    let hints = outcome.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default();
    assert!(hints.contains(hint), "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
}

#[test]
fn a_role_that_may_not_is_told_what_would_let_it() {
    require_server!();
    let primary = Cluster::builder()
        .hba("host replication rose 127.0.0.1/32 scram-sha-256")
        .hba("host all rose 127.0.0.1/32 reject")
        .hba("host replication walter 127.0.0.1/32 reject")
        .start();
    let before = beside_the_primary(&primary);
    primary.create_role("rose", "", Some("right"));
    assert_refused(as_rose(&primary, "password=right").run(), "could not connect", "ALTER ROLE");
    primary.psql("ALTER ROLE rose REPLICATION");
    assert_refused(
        as_rose(&primary, "password=wrong").run(),
        "password authentication failed",
        "Check the password",
    );
    assert_refused(as_rose(&primary, "").run(), "no password supplied", "PGPASSWORD");
    let passfile = primary.dir().file("open.pgpass", 0o644, "*:*:*:*:right\n");
    let outcome = as_rose(&primary, &format!("passfile={}", passfile.display())).run();
    assert!(outcome.stderr.contains("has group or world access"), "{outcome}");
    assert_refused(outcome, "no password supplied", "PGPASSWORD");
    std::fs::remove_file(passfile).unwrap();
    let walter = as_rose(&primary, "user=walter");
    primary.create_role("walter", "REPLICATION", None);
    assert_refused(walter.run(), "pg_hba.conf", "host replication");
    assert_eq!(beside_the_primary(&primary), before);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    require_server!();
    let primary = Cluster::new();
    primary.stop(Stop::Fast);
    let before = beside_the_primary(&primary);
    let outcome = as_rose(&primary, "").run();
    assert!(outcome.stderr.contains(&format!("port {} failed: ", primary.port())), "{outcome}");
    assert_refused(outcome, "Connection refused", "Nothing listens there");
    let socket = Tool::pgwake()
        .args(["standby", "create", "-h", "/nonexistent", "--slot", "a", "-D"])
        .arg(primary.dir().join("standby"))
        .by_server_user()
        .run();
    socket.exited(1).complains("connection to server on socket \"/nonexistent/.s.PGSQL.5432\" failed");
    assert_eq!(beside_the_primary(&primary), before);
}

#[test]
fn a_tablespace_on_the_same_host_is_to_be_mapped() {
    require_server!();
    let primary = Cluster::new();
    let there = primary.dir().subdir("there", 0o700);
    primary.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    let outcome = create(&primary, &primary.dir().join("standby")).run();
    assert_refused(outcome, "is not empty", &format!("--tablespace-mapping {}=NEWDIR", there.display()));
}

#[test]
fn a_directory_that_is_in_use_is_left_alone() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().subdir("standby", 0o700);
    primary.dir().file("standby/precious", 0o600, "x");
    let before = beside_the_primary(&primary);
    assert_refused(create(&primary, &directory).run(), "exists but is not empty", "Choose a directory");
    let file = directory.join("precious");
    create(&primary, &file).run().exited(1).complains("is not a directory");
    assert_eq!(beside_the_primary(&primary), before);
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn slots_are_told_apart() {
    require_server!();
    let primary =
        Cluster::builder().setting("wal_level", "logical").setting("max_replication_slots", "2").start();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    primary.psql("SELECT pg_create_physical_replication_slot('standby1', true)");
    assert_refused(create(&primary, &directory).run(), "already exists", "--use-existing-slot");
    let receiving = primary.dir().subdir("socket_wal", 0o700);
    let receiver = Tool::pgwake()
        // a server before 15 does not say where its slot begins
        .args(["receive", "-d", &primary.conninfo(), "--slot", "standby1", "--start", "current", "-D"])
        .arg(&receiving)
        .by_server_user()
        .spawn();
    primary.wait_for("SELECT active FROM pg_replication_slots", "t");
    let outcome = create(&primary, &directory).arg("--use-existing-slot").run();
    assert_refused(outcome, "is in use on the server by process", "Choose another slot name");
    receiver.terminate();
    receiver.wait().exited(0);
    primary.wait_for("SELECT active FROM pg_replication_slots", "f");
    primary.psql("SELECT pg_drop_replication_slot('standby1'); SELECT pg_create_logical_replication_slot('standby1', 'test_decoding')");
    let outcome = create(&primary, &directory).arg("--use-existing-slot").run();
    assert_refused(outcome, "it is logical", "Choose another slot name");
    primary.psql("SELECT pg_drop_replication_slot('standby1')");
    primary.psql(
        "SELECT pg_create_physical_replication_slot('a'); SELECT pg_create_physical_replication_slot('b')",
    );
    assert_refused(
        create(&primary, &directory).run(),
        "no replication slot is free",
        "max_replication_slots = 4",
    );
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "2");
    primary
        .psql("SELECT pg_drop_replication_slot('b'); SELECT pg_create_physical_replication_slot('standby1')");
    // what the standby needs between the copy and its start would be held by nobody
    let outcome = create(&primary, &directory).arg("--use-existing-slot").run();
    assert_refused(outcome, "it holds no WAL until somebody has streamed from it", "it is made anew");
    let reserved = "SELECT pg_drop_replication_slot('standby1'); SELECT pg_create_physical_replication_slot('standby1', true)";
    primary.psql(reserved);
    assert_eq!(beside_the_primary(&primary).len(), before.len(), "{:?}", beside_the_primary(&primary));
    create(&primary, &directory).arg("--use-existing-slot").run().succeeded();
    assert_eq!(
        primary.psql("SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'standby1'"),
        "t"
    );
}

/// Who owns a database sets its `search_path`, and whoever connects to it, a superuser perhaps, finds those names first.
#[test]
fn the_owner_of_a_database_does_not_choose_what_is_called() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("mallory", "CREATEDB", None);
    primary.psql("SELECT pg_create_physical_replication_slot('other')");
    primary.psql("SET ROLE mallory; CREATE DATABASE trap");
    let trap = primary
        .server_tool("psql")
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-d"])
        .arg(format!("{} dbname=trap", primary.conninfo()));
    trap.args(["-c", "SET ROLE mallory", "-c", "CREATE SCHEMA trap", "-c",
        "CREATE FUNCTION trap.spring() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN true; END $$",
        "-c", "CREATE VIEW trap.pg_replication_slots AS SELECT * FROM pg_catalog.pg_replication_slots WHERE trap.spring()",
        "-c", "ALTER DATABASE trap SET search_path = trap, pg_catalog",
    ]).run().succeeded();
    let conninfo = format!("{} dbname=trap", primary.conninfo());
    let tool = Tool::pgwake().args([
        "standby",
        "create",
        "-w",
        "-d",
        &conninfo,
        "--slot",
        "standby1",
        "--dry-run",
        "-D",
    ]);
    tool.arg(primary.dir().join("standby")).by_server_user().run().succeeded();
    assert_eq!(primary.psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), "f");
}

#[test]
fn a_primary_that_cannot_feed_a_standby_is_told_how_to() {
    require_server!();
    let minimal = Cluster::builder().setting("wal_level", "minimal").setting("max_wal_senders", "0").start();
    assert_refused(create(&minimal, &minimal.dir().join("s")).run(), "could not connect", "max_wal_senders");
    // one for the question, and none for the WAL
    let narrow = Cluster::builder().setting("max_wal_senders", "1").start();
    let outcome = create(&narrow, &narrow.dir().join("s")).run();
    assert_refused(outcome, "no replication connection is free", "max_wal_senders");
    assert_eq!(narrow.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert!(!narrow.dir().join("s").exists());
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for args in [
        &["standby", "create"][..],
        &["standby", "create", "-D", "/x", "--slot", "Bad-Name"],
        &["standby", "create", "-D", "/x", "--slot", "a", "-T", "nonsense"],
        &["standby", "create", "-D", "/x", "--slot", "a", "-T", "relative=/x"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--waldir", "relative"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--max-rate", "1"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--set", "no value"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--set", "a b=c"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--set", "a=b\nc=d"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--label", "a\nSTART TIMELINE: 7"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--application-name", "Größe"],
        &["standby", "create", "-D", "/x", "--slot", "a", "-d", "hots=typo"],
        &["standby", "create", "-D", "/x", "--slot", "a", "-d", "sslmode=maybe"],
        &["standby", "create", "-D", "/x", "--slot", "a", "-d", "gssencmode=require"],
        &["receive"],
        &["receive", "-D", "/x", "--start", "yesterday"],
        &["receive", "-D", "/x", "--create-slot"],
        &["nonsense"],
        &[],
    ] {
        let outcome = Tool::pgwake().args(args).run();
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{args:?}: {outcome}");
    }
}

#[test]
fn a_position_that_cannot_be_had_is_told_and_not_waited_for() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().subdir("socket_wal", 0o700);
    let receive = |more: &[&str]| {
        let tool = Tool::pgwake().args(["receive", "-d", &primary.conninfo(), "-D"]).arg(&directory);
        tool.args(more).by_server_user().run()
    };
    assert_refused(receive(&["--start", "F/0"]), "cannot start at F/0", "--start current");
    let outcome = receive(&["--start", "current", "--endpos", "0/100", "--json"]).exited(0);
    let outcome = outcome.complains("nothing was received: the end position 0/100 lies before");
    assert!(!outcome.stderr.contains("durable"), "{outcome}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(report["warning"].as_str().unwrap().starts_with("nothing was received"), "{outcome}");
    // the same end, reached, is worth no warning
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let outcome = receive(&["--start", "current", "--endpos", &end]).exited(0);
    outcome.complains("all of it is durable");
}

#[test]
fn help_and_version_are_answers() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["standby", "--help"],
        &["standby", "create", "--help"],
        &["check", "--help"],
        &["receive", "--help"],
    ] {
        let outcome = Tool::pgwake().args(args).run();
        assert!(
            outcome.code == Some(0) && outcome.stderr.is_empty() && !outcome.stdout.is_empty(),
            "{outcome}"
        );
    }
}

#[test]
fn json_says_the_same_to_a_program() {
    require_server!();
    let primary = Cluster::new();
    primary.psql("SELECT pg_create_physical_replication_slot('standby1', true)");
    let outcome = create(&primary, &primary.dir().join("standby")).arg("--json").run().exited(1);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["error"]["exit_code"], 1);
    assert!(report["error"]["hint"].as_str().unwrap().contains("--use-existing-slot"), "{outcome}");
    let outcome = create(&primary, &primary.dir().join("standby"))
        .args(["--json", "--use-existing-slot"])
        .run()
        .succeeded();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((report["slot"].as_str(), report["timeline"].as_u64()), (Some("standby1"), Some(1)));
}

#[test]
fn a_newer_major_is_tried_with_a_warning() {
    require_server!();
    let primary = Cluster::new();
    let Some(old) = primary.psql("SHOW server_version").get(..2).map(str::to_owned) else { return };
    if old.parse::<u32>().is_ok_and(|major| major < 15) {
        return; // a server that says it is newer must speak the newer language
    }
    let port = crate::support::rewriting::front(
        primary.port(),
        format!("server_version\0{old}"),
        "server_version\x0099".to_owned(),
    );
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres sslmode=disable");
    let outcome = Tool::pgwake()
        .args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "-D"])
        .arg(primary.dir().join("standby"))
        .by_server_user()
        .run()
        .succeeded();
    assert!(outcome.stderr.contains("is newer than any that pgwake has been tested with"), "{outcome}");
}
