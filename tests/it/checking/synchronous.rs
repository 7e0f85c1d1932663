//! Commits that wait: for whom, and what is said of it.

use super::{check, found, level, mend, problems, rose};
use crate::require_server;
use crate::support::{Cluster, Tool};

#[test]
fn names_that_nobody_answers_to_make_commits_wait() {
    require_server!();
    let primary = Cluster::builder().setting("synchronous_standby_names", "ANY 1 (standby1, pgwake)").start();
    let conninfo = primary.conninfo();
    let report = found(&conninfo, &["--for", "synchronous"]);
    assert_eq!(problems(&report), ["synchronous_standby_names"], "{report:#}");
    let outcome = check(&conninfo, &["--for", "synchronous"]);
    let outcome = outcome.says("there: nobody; not there: standby1, pgwake").says("Every commit waits now");
    outcome.says("perhaps: ALTER SYSTEM SET synchronous_standby_names = ''");
    let directory = primary.dir().subdir("socket_wal", 0o700);
    let receive = Tool::pgwake().args(["receive", "-d", &conninfo, "--start", "current", "-D"]);
    let receiver = receive.arg(&directory).by_server_user().spawn();
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE flush_lsn IS NOT NULL", "streaming");
    let report = found(&conninfo, &["--for", "synchronous"]);
    assert_eq!(
        (problems(&report), level(&report, "synchronous_standby_names").as_str()),
        (vec![], "warning")
    );
    assert_eq!(level(&report, "remote_apply"), "warning");
    check(&conninfo, &[]).says("there: pgwake; not there: standby1").says("None can be spared");
    let applying =
        found(&format!("{conninfo} options='-c synchronous_commit=remote_apply'"), &["--for", "synchronous"]);
    assert_eq!(problems(&applying), ["remote_apply"], "{applying:#}");
    // what a role has set for itself is named, and its line mends it
    let local = "SET synchronous_commit = local; ";
    primary.psql(&format!("{local} CREATE ROLE batch; ALTER ROLE batch SET synchronous_commit = off"));
    let reset = "ALTER ROLE \"batch\" RESET synchronous_commit;";
    let outcome = check(&conninfo, &[]).says("off, of role \"batch\"").says(&format!("perhaps: {reset}\n"));
    assert!(outcome.stdout.contains("Some roles or databases have a value of their own."), "{outcome}");
    primary.psql(&format!("{local} {reset}"));
    check(&conninfo, &[]).says("No role and no database has a value of its own.");
    // a role that may not see who is there says that
    primary.psql("SET synchronous_commit = local; CREATE ROLE rose LOGIN REPLICATION");
    assert_eq!(level(&found(&rose(&primary), &[]), "synchronous_standby_names"), "unknown");
    primary.psql("SET synchronous_commit = local; GRANT pg_monitor TO rose");
    assert_eq!(level(&found(&rose(&primary), &[]), "synchronous_standby_names"), "warning");
    receiver.terminate();
    receiver.wait().exited(0);
}

#[test]
fn a_receiver_is_made_synchronous_by_what_is_printed() {
    require_server!();
    let primary = Cluster::builder().setting("synchronous_commit", "local").start();
    let conninfo = primary.conninfo();
    let named = |outcome: &str| outcome.contains("\nALTER SYSTEM SET synchronous_standby_names");
    let lines = check(&conninfo, &["--for", "synchronous", "--fix-sql"]).exited(1).stdout;
    // before anybody streams every commit would wait
    assert!(!named(&lines) && lines.contains("synchronous_standby_names = 'ANY 1 (pgwake)'"), "{lines}");
    let directory = primary.dir().subdir("socket_wal", 0o700);
    let receive = Tool::pgwake().args(["receive", "-d", &conninfo, "--start", "current", "-D"]);
    let receiver = receive.arg(&directory).by_server_user().spawn();
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE flush_lsn IS NOT NULL", "streaming");
    let lines = mend(&primary, &conninfo, &["--for", "synchronous"]);
    assert!(named(&lines), "{lines}");
    primary.wait_for("SELECT sync_state FROM pg_stat_replication", "quorum");
    assert_eq!(found(&conninfo, &["--for", "synchronous"])["fit"], true);
    receiver.terminate();
    receiver.wait().exited(0);
}

#[test]
fn lists_of_names_are_read_as_the_server_reads_them() {
    require_server!();
    let primary = Cluster::new();
    for text in [
        "FIRST 2 (a, b)",
        "ANY 1 (a, b)",
        "2 (a, b)",
        "2(a,b)",
        "a, b",
        "*",
        "\"*\"",
        "\"a b\", \"c\"\"d\"",
        "any",
        "\"any\"",
        "first_one",
        "5",
        "5, 6",
        "12abc",
        "a$b",
        "a-b",
        "$a",
        "0 (a)",
        "1 ()",
        "(a)",
        "ANY (a)",
        "any 1 a",
        "a,",
        ",a",
        "a b",
        "\"a",
        "größe",
        "ANY 1 (*)",
        "1 (\"a,b\")",
        "\"\"",
        "\ta ,\t b ",
        "a;b",
        "'a'",
        " ",
        "1 (a) b",
    ] {
        let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{}'", text.replace('\'', "''"));
        let taken = primary.try_psql(&sql).code == Some(0);
        let read = text.parse::<pgwake::inspect::sync_standbys::SyncStandbys>();
        assert_eq!(read.is_ok(), taken, "{text:?}: {read:?}");
    }
}
