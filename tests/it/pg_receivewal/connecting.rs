//! Connections that fail, passwords, the environment: in the same words.

use std::net::TcpListener;

use super::compare::{Comparison, assert_same};
use super::original_major;
use crate::require_server;
use crate::support::{Cluster, Port, Tool};

/// Command line and environment; `_` is a blank within a word.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("-p 1", &[]),
    ("-h /nonexistent", &[]),
    ("-h /nonexistent -n -v", &[]),
    ("-h 127.0.0.1 -p REFUSED", &[]),
    ("-h localhost -p REFUSED", &[]),
    ("-h no.such.host.invalid", &[]),
    ("-h 127.0.0.1,/nonexistent,no.such.host.invalid -p REFUSED,2,3", &[]),
    ("-h 127.0.0.1 -p SILENT", &[("PGCONNECT_TIMEOUT", "2")]),
    ("-U nosuch", &[]),
    ("-U nosuch -h 127.0.0.1", &[]),
    ("-U plain", &[]),
    ("-U rejected", &[]),
    ("-U rejected -h 127.0.0.1", &[]),
    ("-U unlisted", &[]),
    ("-U unlisted -h 127.0.0.1", &[]),
    ("-h 127.0.0.1 -d sslmode=require", &[]),
    ("-U secret -w", &[]),
    ("-U secret -w -h 127.0.0.1", &[]),
    ("-U secret", &[("PGPASSWORD", "wrong")]),
    ("-U secret -h 127.0.0.1", &[("PGPASSWORD", "wrong")]),
    ("-U secret -v", &[("PGPASSWORD", "hush")]),
    // 19 warns of what is kept as MD5
    ("-U old", &[("PGPASSWORD", "hush")]),
    ("-U old -h 127.0.0.1 -v", &[("PGPASSWORD", "hush")]),
    ("-d user=secret_password=hush", &[]),
    ("-d user=secret_password=wrong", &[]),
    ("-U secret -w", &[("PGPASSFILE", "/etc/passwd")]),
    ("-d port=1_host=/nonexistent -p PORT -h SOCKET -U postgres", &[]),
    ("-d dbname=foo_replication=database_user=postgres", &[]),
    ("-d replication=false", &[]),
    ("-d postgresql://postgres@/foo", &[]),
    ("-d postgresql://postgres@/foo?nosuch=1", &[]),
    ("-d postgres://[::1", &[]),
    ("-d fallback_application_name=x", &[]),
    ("", &[("PGPORT", "abc")]),
    ("", &[("PGHOST", "/nonexistent"), ("PGPORT", "7")]),
    ("", &[("PGUSER", "nosuch")]),
    ("", &[("PGDATABASE", "nosuch")]),
    ("", &[("PGSSLMODE", "never")]),
    ("", &[("PGSERVICE", "nosuch")]),
    ("", &[("PGOPTIONS", "-c work_mem=1MB")]),
    ("", &[("PGTARGETSESSIONATTRS", "standby")]),
    ("", &[("PGTARGETSESSIONATTRS", "primary")]),
    ("", &[("PGTARGETSESSIONATTRS", "foo")]),
    ("", &[("PGCLIENTENCODING", "LATIN1")]),
    ("-v", &[("PG_COLOR", "always")]),
    ("-U nosuch", &[("PG_COLOR", "always")]),
    ("-Z", &[("PG_COLOR", "always")]),
    ("-s x", &[("PG_COLOR", "always"), ("PG_COLORS", "error=7:locus=4:foo")]),
    ("a", &[("PG_COLOR", "always"), ("PG_COLORS", "")]),
    ("a", &[("PG_COLOR", "auto")]),
];

fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .hba("local replication secret scram-sha-256")
        .hba("host replication secret 127.0.0.1/32 scram-sha-256")
        .hba("local replication old md5")
        .hba("host replication old 127.0.0.1/32 md5")
        .hba("local replication rejected reject")
        .hba("host replication rejected 127.0.0.1/32 reject")
        .start();
    for (role, password) in [("secret", Some("hush")), ("rejected", None), ("unlisted", None)] {
        cluster.create_role(role, "REPLICATION", password);
    }
    cluster.create_role("plain", "", None);
    cluster.psql("SET password_encryption = 'md5'; CREATE ROLE old LOGIN REPLICATION PASSWORD 'hush'");
    // from here on nobody is let in who is not named
    let path = cluster.data_dir().join("pg_hba.conf");
    let hba = std::fs::read_to_string(&path).expect("read pg_hba.conf");
    let named = "all,replication postgres,plain,nosuch";
    let (listed, _) = hba.split_once("# TYPE").expect("initdb's comment before its own lines");
    let lines = format!("{listed}\nlocal {named} trust\nhost {named} 127.0.0.1/32 trust\n");
    std::fs::write(&path, lines).expect("write pg_hba.conf");
    cluster.reload();
    cluster
}

#[test]
fn connections_fail_in_the_same_words() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    let refused = Port::reserve();
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen, and never answer");
    let silent_port = silent.local_addr().expect("an address").port().to_string();
    for (number, (line, environment)) in CASES.iter().enumerate() {
        let word = |word: &str| {
            word.replace('_', " ")
                .replace("REFUSED", &refused.number().to_string())
                .replace("SILENT", &silent_port)
                .replace("PORT", &cluster.port().to_string())
                .replace("SOCKET", &cluster.socket_dir().display().to_string())
                .replace("fallback application name", "fallback_application_name")
        };
        let runs = comparison.run(
            &format!("case{number}"),
            |mut tool, directory| {
                for (name, value) in *environment {
                    tool = tool.env(name, value);
                }
                tool.args(["-E", "0/1", "-D"]).arg(directory).args(line.split_terminator(' ').map(word))
            },
            |_| {},
            |_, _| {},
        );
        if runs[0].stderr.contains("when SSL support is not compiled in") {
            // so is this build of the original; ours always has TLS
            assert!(runs[1].stderr.ends_with("server does not support SSL, but SSL was required\n"));
            assert_eq!(runs[0].code, runs[1].code);
            continue;
        }
        let asks = environment.iter().any(|(name, value)| *name == "PGTARGETSESSIONATTRS" && *value != "foo");
        if cluster.major() < 14 && asks {
            // these servers must be asked, which a replication connection cannot: the same reason in another order
            let reason = "cannot execute SQL commands in WAL sender for physical replication";
            assert!(runs.iter().all(|run| run.code == Some(1) && run.stderr.contains(reason)));
            continue;
        }
        assert_same(&format!("{line} {environment:?}"), &runs[0].shown(), &runs[1].shown());
    }
}

#[test]
fn no_room_for_a_wal_sender_is_told_alike() {
    require_server!();
    let cluster = Cluster::builder().setting("max_wal_senders", "1").start();
    let comparison = Comparison::new(&cluster);
    let directory = cluster.dir().subdir("first", 0o700);
    let first =
        Tool::client(original_major(&cluster), "pg_receivewal").args(["-d", &cluster.conninfo(), "-D"]);
    let running = first.arg(directory).by_server_user().spawn();
    cluster.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    let runs = comparison.run("full", |tool, directory| tool.arg("-D").arg(directory), |_| {}, |_, _| {});
    assert_same("the only place is taken", &runs[0].shown(), &runs[1].shown());
    assert_eq!(runs[1].code, Some(1));
    drop(running);
}

/// Without a terminal the question goes to standard error, the answer comes from standard input.
#[test]
fn passwords_are_asked_for_alike() {
    require_server!();
    crate::require_program!("setsid");
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    for (number, (line, typed)) in [
        ("-U secret", "hush\n"),
        ("-U secret", "hush\r\n"),
        ("-U secret", "hush"),
        ("-U secret", "\n\nhush\n"),
        ("-U secret", "wrong\n"),
        ("-U secret -W", "hush\n"),
        ("-U secret -W", "\nhush\n"),
        ("-U secret --password", "wrong\nhush\n"),
        ("-W", "unneeded\n"),
        ("-W", "\n"),
        ("-w -W -U secret", "hush\n"),
    ]
    .iter()
    .enumerate()
    {
        let runs = comparison.run(
            &format!("case{number}"),
            |tool, directory| {
                let tool = tool.args(["-E", "0/1", "-D"]).arg(directory).args(line.split(' ')).stdin(*typed);
                tool.under("setsid", ["-w".into()])
            },
            |_| {},
            |_, _| {},
        );
        assert_same(&format!("{line} {typed:?}"), &runs[0].shown(), &runs[1].shown());
        assert!(runs[1].stderr.starts_with("Password: \n"), "{}", runs[1].shown());
    }
    // nobody there: the original asks for ever
    let tool = super::ours(cluster.dir()).args(["-U", "secret", "-D", "/tmp", "-d", &cluster.conninfo()]);
    let outcome = tool.under("setsid", ["-w".into()]).run().exited(1);
    assert!(
        outcome.stderr.starts_with("Password: \n") && outcome.stderr.contains("no password supplied"),
        "{outcome}"
    );
}

/// `PGAPPNAME` is above the tool's name, and below a connection string's.
#[test]
fn the_server_sees_the_same_name() {
    require_server!();
    let cluster = cluster();
    let comparison = Comparison::new(&cluster);
    for (number, (line, environment, name)) in [
        ("-n", None, "pg_receivewal"),
        ("-n", Some("from_environment"), "from_environment"),
        ("-d application_name=written", Some("from_environment"), "written"),
    ]
    .into_iter()
    .enumerate()
    {
        comparison.run(
            &format!("case{number}"),
            |tool, directory| {
                let tool = environment.iter().fold(tool, |tool, name| tool.env("PGAPPNAME", name));
                tool.args(line.split(' ')).arg("-D").arg(directory)
            },
            |_| cluster.wait_for("SELECT count(*) FROM pg_stat_replication", "0"),
            |running, _| {
                cluster.wait_for("SELECT application_name FROM pg_stat_replication", name);
                running.interrupt();
            },
        );
    }
}
