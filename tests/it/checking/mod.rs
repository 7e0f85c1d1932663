//! `pgwake check` finds what is wrong, and the lines that it prints mend it.

mod synchronous;

use serde_json::Value;

use crate::require_server;
use crate::support::{Cluster, Outcome, Stop, Tool, wait_until};

fn rose(cluster: &Cluster) -> String {
    format!("host=127.0.0.1 port={} user=rose", cluster.port())
}

fn check(conninfo: &str, more: &[&str]) -> Outcome {
    Tool::pgwake().args(["check", "-w", "-d", conninfo]).args(more).run()
}

/// What was found, as JSON, and whether the exit code says the same.
#[track_caller]
fn found(conninfo: &str, more: &[&str]) -> Value {
    let outcome = check(conninfo, &[&["--json"], more].concat());
    let report: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    assert!(report["findings"].is_array(), "{outcome}");
    assert_eq!(outcome.code, Some(if report["fit"] == true { 0 } else { 1 }), "{outcome}");
    assert_eq!(outcome.stderr, "", "{outcome}");
    report
}

/// The level of each finding on `check`, and its object.
#[track_caller]
fn levels(report: &Value, check: &str) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().expect("the reported form").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let on = findings.filter(|finding| finding["check"] == check);
    on.map(|finding| (text(&finding["object"]), text(&finding["level"]))).collect()
}

#[track_caller]
fn level(report: &Value, check: &str) -> String {
    let mut levels = levels(report, check);
    assert_eq!(levels.len(), 1, "{check}: {report:#}");
    levels.remove(0).1
}

/// Every problem's subject.
fn problems(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("the reported form").iter();
    findings
        .filter(|found| found["level"] == "problem")
        .map(|found| found["check"].as_str().expect("the reported form"))
        .collect()
}

/// Applies what `--fix-sql` prints, lines for `pg_hba.conf` too, and restarts if that is said to be needed.
#[track_caller]
fn mend(cluster: &Cluster, conninfo: &str, more: &[&str]) -> String {
    let outcome = check(conninfo, &[&["--fix-sql"], more].concat()).exited(1);
    let hba = outcome.stdout.lines().filter(|line| line.starts_with("-- mend: pg_hba.conf"));
    for line in hba {
        let (_, line) =
            line.split_once(": ").and_then(|(_, rest)| rest.split_once(": ")).expect("a place and a line");
        cluster.prepend_hba(line.strip_suffix("  (then reload)").unwrap_or(line));
    }
    cluster.psql(&outcome.stdout);
    if outcome.stdout.contains("-- then restart the server") {
        cluster.restart();
    }
    outcome.stdout
}

#[test]
fn a_fit_primary_is_fit_for_a_role_that_is_no_superuser() {
    require_server!();
    let primary = Cluster::builder().data_checksums().start();
    primary.create_role("rose", "REPLICATION", None);
    let outcome = check(&rose(&primary), &[]).exited(0);
    assert_eq!(outcome.stderr, "", "{outcome}");
    let outcome = outcome.says("as rose for a standby:\n").says("\nok       wal_level: replica\n");
    let outcome = outcome.says("fit for a standby: nothing stands against it\n");
    assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 80), "{outcome}");
    // the rules are for superusers, and for whom they let
    assert!(!outcome.stdout.contains("By line"), "{outcome}");
    primary.psql("GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO rose");
    let report = found(&rose(&primary), &["--for", "archive"]);
    let findings = report["findings"].as_array().unwrap().iter();
    let why: Vec<&Value> =
        findings.filter(|found| found["check"] == "pg_hba.conf").map(|found| &found["why"]).collect();
    let why = why[0].as_str().unwrap();
    assert!(why.starts_with("By line ") && why.contains(": host replication all 127.0.0.1"), "{why}");
    assert_eq!((report["for"].as_str(), report["problems"].as_u64()), (Some("archive"), Some(0)));
    assert_eq!(report["server"]["in_recovery"], false, "{report:#}");
    assert!(report["wal_rate"]["moment"]["bytes_per_second"].is_number(), "{report:#}");
    check(&rose(&primary), &["--fix-sql"]).exited(0);
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_primary_without_wal_for_anybody_is_mended_by_what_is_printed() {
    require_server!();
    let minimal = Cluster::builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("max_replication_slots", "0")
        .setting("hot_standby", "off")
        .setting("full_page_writes", "off")
        .start();
    let report = found(&minimal.tcp_conninfo(), &[]);
    assert_eq!(problems(&report), ["wal_level", "max_wal_senders", "max_replication_slots"], "{report:#}");
    assert_eq!(level(&report, "pg_hba.conf"), "unknown");
    let lines = mend(&minimal, &minimal.tcp_conninfo(), &[]);
    assert!(lines.contains("ALTER SYSTEM SET wal_level = 'replica'; -- needs a restart\n"), "{lines}");
    let report = found(&minimal.tcp_conninfo(), &[]);
    assert_eq!(report["fit"], true, "{report:#}");
    let mended = ["hot_standby", "full_page_writes", "pg_hba.conf"].map(|check| level(&report, check));
    assert_eq!(mended, ["ok", "ok", "ok"]);
}

#[test]
fn a_primary_whose_connections_are_all_taken_says_so() {
    require_server!();
    let primary = Cluster::builder().setting("max_wal_senders", "1").start();
    let directory = primary.dir().subdir("socket_wal", 0o700);
    let receive = Tool::pgwake().args(["receive", "-d", &primary.conninfo(), "--start", "current", "-D"]);
    let receiver = receive.arg(&directory).by_server_user().spawn();
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE flush_lsn IS NOT NULL", "streaming");
    let report = found(&primary.conninfo(), &["--for", "archive"]);
    assert_eq!(problems(&report), ["max_wal_senders"], "{report:#}");
    receiver.terminate();
    receiver.wait().exited(0);
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
    // one is enough for an archive, with none to spare; not for a copy and its WAL
    assert_eq!(level(&found(&primary.conninfo(), &["--for", "archive"]), "max_wal_senders"), "warning");
    mend(&primary, &primary.conninfo(), &[]);
    assert_eq!(level(&found(&primary.conninfo(), &[]), "max_wal_senders"), "ok");
}

const NO_REPLICATION: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\n";

#[test]
fn rules_that_let_nobody_replicate_are_mended_by_a_line() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("rose", "REPLICATION", None);
    std::fs::write(primary.data_dir().join("pg_hba.conf"), NO_REPLICATION).unwrap();
    primary.reload();
    for conninfo in [rose(&primary), primary.tcp_conninfo()] {
        wait_until_refused(&conninfo);
        let report = found(&conninfo, &[]);
        assert_eq!(problems(&report), ["pg_hba.conf"], "{report:#}");
    }
    // a password is asked for by the line that is printed
    primary.psql("ALTER ROLE rose PASSWORD 'right'");
    let conninfo = format!("{} password=right", rose(&primary));
    let lines = mend(&primary, &conninfo, &[]);
    assert!(lines.contains("host replication rose 127.0.0.1/32 scram-sha-256"), "{lines}");
    wait_until("the rules are read", || check(&conninfo, &[]).code == Some(0));
}

#[test]
fn a_role_that_is_let_into_one_database_need_not_name_it() {
    require_server!();
    let primary = Cluster::builder()
        .hba("host replication,postgres rose 127.0.0.1/32 trust")
        .hba("host all all 127.0.0.1/32 reject")
        .start();
    primary.create_role("rose", "REPLICATION", None);
    primary.create_role("walter", "REPLICATION", None);
    assert_eq!(level(&found(&rose(&primary), &[]), "max_wal_senders"), "ok");
    // what is told of one who is let into none is the first answer
    let walter = format!("{} user=walter", rose(&primary));
    let refused = Tool::pgwake().args(["slot", "list", "-w", "-d", &walter]).run().exited(1);
    refused.complains("user \"walter\", database \"walter\"");
}

#[test]
fn a_password_that_is_kept_as_md5_is_let_in_by_the_line_that_is_printed() {
    require_server!();
    let primary = Cluster::builder().setting("password_encryption", "md5").start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    let rules = format!("{NO_REPLICATION}host all rose 127.0.0.1/32 md5\n");
    std::fs::write(primary.data_dir().join("pg_hba.conf"), rules).unwrap();
    primary.reload();
    let conninfo = format!("{} password=right", rose(&primary));
    wait_until_refused(&conninfo);
    let lines = mend(&primary, &conninfo, &[]);
    assert!(lines.contains("host replication rose 127.0.0.1/32 md5"), "{lines}");
    wait_until("the rules are read", || check(&conninfo, &[]).code == Some(0));
}

fn wait_until_refused(conninfo: &str) {
    wait_until("the rules are read", || check(conninfo, &[]).code == Some(1));
}

#[test]
fn rules_that_are_written_and_not_read_are_told_apart() {
    require_server!();
    let primary = Cluster::builder().hba("host replication postgres 127.0.0.1/32 reject").start();
    let conninfo = primary.tcp_conninfo();
    let report = found(&conninfo, &[]);
    assert_eq!(problems(&report), ["pg_hba.conf"], "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let hba = findings.iter().find(|found| found["check"] == "pg_hba.conf").unwrap();
    assert!(hba["why"].as_str().unwrap().contains("Line 1 rejects it"), "{hba:#}");
    assert_eq!(hba["fixes"][0]["before_line"], 1, "{hba:#}");
    primary.prepend_hba("host replication postgres 127.0.0.1/32 trust");
    let outcome = check(&conninfo, &["--fix-sql"]).exited(1);
    assert!(!outcome.stdout.contains("pg_hba.conf"), "{outcome}");
    primary.psql(&outcome.stdout);
    wait_until("the rules are read", || check(&conninfo, &[]).code == Some(0));
    // and the other way round
    primary.prepend_hba("host replication postgres 127.0.0.1/32 reject\nnonsense");
    assert_eq!(levels(&found(&conninfo, &[]), "pg_hba.conf").len(), 2);
    assert!(levels(&found(&conninfo, &[]), "pg_hba.conf").iter().all(|(_, level)| level == "warning"));
}

#[test]
fn a_role_that_may_not_replicate_is_let() {
    require_server!();
    let primary = Cluster::new();
    primary.create_role("rose", "", None);
    let report = found(&rose(&primary), &[]);
    assert_eq!(
        (problems(&report), level(&report, "pg_hba.conf").as_str()),
        (vec!["role"], "ok"),
        "{report:#}"
    );
    let lines = mend(&primary, &rose(&primary), &[]);
    assert!(lines.contains("ALTER ROLE \"rose\" REPLICATION;\n"), "{lines}");
    assert_eq!(found(&rose(&primary), &[])["fit"], true);
}

#[test]
fn a_role_that_may_only_replicate_is_told_what_it_does_not_see() {
    require_server!();
    let primary = Cluster::builder().hba("host all rose 127.0.0.1/32 reject").start();
    primary.create_role("rose", "REPLICATION", None);
    let report = found(&rose(&primary), &[]);
    assert_eq!(report["fit"], true, "{report:#}");
    for (check, expected) in
        [("SQL", "unknown"), ("wal_level", "ok"), ("max_wal_senders", "unknown"), ("role", "ok")]
    {
        assert_eq!(level(&report, check), expected, "{check}");
    }
    primary.psql("ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'");
    primary.reload();
    let read = || check(&rose(&primary), &[]).stdout.contains("max_slot_wal_keep_size: 64.00 MiB\n");
    wait_until("the setting is read", read);
}

#[test]
fn slots_that_are_lost_or_forgotten_are_named() {
    require_server!();
    let primary = Cluster::builder()
        .wal_segsize(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start();
    let conninfo = primary.conninfo();
    primary.psql("SELECT pg_create_physical_replication_slot('forgotten', true), pg_create_physical_replication_slot('unused')");
    let report = found(&conninfo, &[]);
    let slot = |name: &str, level: &str| (name.to_owned(), level.to_owned());
    assert_eq!(levels(&report, "slot"), [slot("forgotten", "warning"), slot("unused", "ok")], "{report:#}");
    assert_eq!(level(&report, "max_slot_wal_keep_size"), "warning");
    let lines = check(&conninfo, &["--fix-sql"]).exited(0).stdout;
    assert!(lines.contains("-- perhaps: SELECT pg_drop_replication_slot('forgotten');\n"), "{lines}");
    primary.psql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
    primary.reload();
    primary.wait_for("SHOW max_slot_wal_keep_size", "1MB");
    wait_until("the slot is lost", || {
        let sql = "CREATE TABLE t (); DROP TABLE t; SELECT pg_switch_wal(); CHECKPOINT; \
                   SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'forgotten'";
        primary.psql(sql).ends_with("lost")
    });
    // nothing is dropped by what is run without a thought
    let lines = check(&conninfo, &["--fix-sql"]).exited(0).stdout;
    assert!(lines.contains("\n-- perhaps: SELECT pg_drop_replication_slot('forgotten');\n"), "{lines}");
    primary.psql(&lines);
    assert_eq!(levels(&found(&conninfo, &[]), "slot"), [slot("forgotten", "warning"), slot("unused", "ok")]);
}

#[test]
fn a_standby_is_checked_as_an_upstream() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().join("standby");
    crate::cloning::create(&primary, &directory).run().succeeded();
    let standby = primary.adopt(&directory);
    standby.start();
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE flush_lsn IS NOT NULL", "streaming");
    let report = found(&standby.conninfo(), &[]);
    assert_eq!(
        (&report["fit"], &report["server"]["in_recovery"]),
        (&true.into(), &true.into()),
        "{report:#}"
    );
    assert!(report["wal_rate"]["moment"].is_object(), "{report:#}");
    let report = found(&standby.conninfo(), &["--for", "synchronous"]);
    assert_eq!(problems(&report), ["synchronous_standby_names"], "{report:#}");
    let report = found(&primary.conninfo(), &[]);
    assert_eq!(levels(&report, "slot"), [("standby1".to_owned(), "ok".to_owned())], "{report:#}");
    standby.stop(Stop::Fast);
}

#[test]
fn protection_is_told_from_the_connection_itself() {
    require_server!();
    let primary =
        Cluster::builder().tls().hba("hostssl all,replication rose 127.0.0.1/32 scram-sha-256").start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    let conninfo = format!("{} password=right sslmode=require", rose(&primary));
    let outcome = check(&conninfo, &[]).exited(0);
    outcome.says("ok       encryption: TLSv1.3\n").says("ok       authentication: SCRAM-SHA-256\n");
}

#[track_caller]
fn assert_failed(outcome: &Outcome, cause: &str, hint: &str) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome}");
    assert!(outcome.stderr.starts_with("error: could not connect to the server\n  caused by: "), "{outcome}");
    assert!(outcome.stderr.contains(cause), "{outcome}");
    let hints = outcome.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default();
    assert!(hints.contains(hint), "{outcome}");
}

#[test]
fn a_server_that_cannot_be_asked_is_a_clear_sentence() {
    require_server!();
    let primary = Cluster::builder()
        .hba("host all,replication rose 127.0.0.1/32 scram-sha-256")
        .hba("host all,replication walter 127.0.0.1/32 reject")
        .start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    primary.create_role("walter", "REPLICATION", None);
    let wrong = check(&format!("{} password=wrong", rose(&primary)), &[]);
    assert_failed(&wrong, "password authentication failed for user \"rose\"", "Check the password");
    assert_failed(&check(&rose(&primary), &[]), "no password supplied", "PGPASSWORD");
    assert_failed(&check(&format!("{} user=walter", rose(&primary)), &[]), "pg_hba.conf", "host replication");
    primary.stop(Stop::Fast);
    assert_failed(&check(&rose(&primary), &[]), "Connection refused", "Nothing listens there");
    let outcome = check(&rose(&primary), &["--json"]).exited(1);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["error"]["message"], "could not connect to the server", "{outcome}");
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let conninfo = format!("host=127.0.0.1 port={port} user=rose connect_timeout=2");
    assert_failed(&check(&conninfo, &[]), "timeout expired", "Nothing answered in time");
}

#[test]
fn a_server_that_falls_silent_is_told() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut startup = [0; 1024];
        assert!(socket.read(&mut startup).unwrap() > 8);
        // authenticated, version 17.0, ready: and then no word more until the other side has left
        socket.write_all(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0017.0\0Z\0\0\0\x05I").unwrap();
        while socket.read(&mut startup).is_ok_and(|len| len > 0) {}
    });
    let conninfo = format!("host=127.0.0.1 port={port} user=rose sslmode=disable connect_timeout=2");
    let outcome = check(&conninfo, &[]).exited(1);
    let outcome = outcome.complains("error: could not ask the server for where its WAL ends\n");
    outcome.complains("caused by: server was silent for 2 s\n");
    server.join().unwrap();
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for args in [&["--for", "fun"][..], &["--fix-sql", "--json"], &["-d", "hots=typo"], &["more"]] {
        let outcome = Tool::pgwake().arg("check").args(args).run();
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome}");
    }
}
