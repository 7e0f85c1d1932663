//! What depends on the server: tablespaces, group access, incremental backups, checksums that are wrong.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::compare::members;
use super::{leading_to, original, ours};
use crate::cloning::hash_of_everything;
use crate::support::scripted::{Script, message, ready, report, welcome};
use crate::support::servers::default_major;
use crate::support::{Cluster, TestDir, Tool, tree, wait_until};

fn both(cluster: &Cluster, dir: &TestDir) -> [(&'static str, Tool); 2] {
    [("original", original(cluster)), ("ours", ours(dir))]
        .map(|(name, tool)| (name, leading_to(tool, cluster).timeout(Duration::from_secs(60))))
}

/// Names and modes, without those of WAL.
fn names(directory: &Path) -> String {
    let lines = tree(directory);
    let lines = lines.lines().filter(|line| !line.contains("pg_wal/"));
    lines
        .map(|line| {
            line.split(' ')
                .filter(|word| word.parse::<u64>().is_err() || word.starts_with('0'))
                .collect::<Vec<_>>()
                .join(" ")
                + "\n"
        })
        .collect()
}

#[test]
fn tablespaces_are_mapped_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let there = cluster.dir().subdir("socket_there", 0o700);
    cluster.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    cluster.psql("CREATE TABLE distant TABLESPACE far AS SELECT generate_series(1, 1000) i; CHECKPOINT");
    let dir = TestDir::new();
    let run = |args: &str| {
        both(&cluster, &dir).map(|(name, tool)| {
            let place = dir.subdir(&format!("{name}-{:08x}", fastrand::u32(..)), 0o700);
            let shown = place.display().to_string();
            let words = args.replace("RUN", &shown).replace("THERE", &there.display().to_string());
            let outcome = tool.args(["-c", "fast", "-N"]).args(words.split(' ')).run();
            let stderr = outcome.stderr.replace(&shown, "RUN");
            let listing = names(&place).replace(&shown, "RUN");
            format!("{:?}\n{stderr}\n{listing}", outcome.code)
        })
    };
    for args in [
        "-D RUN/data -T THERE=RUN/far",
        "-D RUN/data -T THERE/=RUN/deeper//far/",
        "-D RUN/data",
        "-D RUN/archives -Ft",
        "-D - -Ft -X none",
    ] {
        let [original, ours] = run(args);
        assert_eq!(original, ours, "{args}");
    }
    // what was mapped starts
    let data = cluster.dir().join("mapped");
    let mapping = format!("{}={}", there.display(), cluster.dir().join("mapped_far").display());
    let tool = leading_to(ours(&dir), &cluster).args(["-c", "fast", "-T", &mapping, "-D"]).arg(&data);
    tool.by_server_user().run().succeeded();
    let copy = cluster.adopt(&data);
    copy.start();
    assert_eq!(hash_of_everything(&copy), hash_of_everything(&cluster));
    copy.stop(crate::support::Stop::Immediate);
}

/// Both connections, so that whoever looks at the server knows whose they are.
#[test]
fn the_application_is_named_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CHECKPOINT");
    let dir = TestDir::new();
    let (host, port) = (cluster.socket_dir().display().to_string(), cluster.port());
    let conninfo = format!("host={host} port={port} user=postgres application_name=given");
    let ways: [(&[&str], Option<&str>, &str); 3] = [
        (&[], None, "pg_basebackup"),
        (&[], Some("mine"), "mine"),
        (&["-d", &conninfo], Some("mine"), "given"),
    ];
    for (args, environment, expected) in ways {
        // ours first: the stream of an original that is told to stop lives on
        for (name, tool) in both(&cluster, &dir).into_iter().rev() {
            let tool = environment.iter().fold(tool, |tool, name| tool.env("PGAPPNAME", name));
            let directory = dir.join(&format!("{name}-{expected}"));
            let running = tool.args(["-c", "fast", "-N", "-r", "8M", "-D"]).arg(directory).args(args).spawn();
            let states = format!(
                "SELECT string_agg(state, ' ' ORDER BY state) FROM pg_stat_replication WHERE application_name = '{expected}'"
            );
            cluster.wait_for(&states, "backup streaming");
            running.terminate();
            running.wait();
        }
    }
}

/// Everything that can be said behind `-Z` and a colon, on either side; what comes is whole.
#[test]
fn every_detail_of_compression_is_understood() {
    let cluster = Cluster::builder().setting("autovacuum", "off").wal_segsize(1).start();
    let dir = TestDir::new();
    let mut taken = 0;
    for method in [
        "gzip:level=3",
        "lz4:9",
        "zstd:19",
        "zstd:level=3,workers=2",
        "zstd:long",
        "zstd:workers=2,long=yes",
        "zstd:level=1,long=0",
        "zstd:-5",
        "client-zstd:1",
        "server-gzip:9",
        "server-lz4:level=5",
        "server-zstd:workers=2",
        "server-zstd:level=2,long=1",
    ] {
        let has_long = cluster.major() >= 16 || !method.contains("long");
        let has_method = cluster.major() != 16 || method.contains("gzip");
        if method.starts_with("server") && !(cluster.major() >= 15 && has_long && has_method) {
            continue;
        }
        let directory = dir.join("backup");
        let tool = leading_to(ours(&dir), &cluster).args(["-c", "fast", "-N", "-F", "t", "-Z", method, "-D"]);
        tool.arg(&directory).run().succeeded();
        Tool::pgwake().args(["pg_verifybackup", "-q"]).arg(&directory).run().succeeded();
        fs::remove_dir_all(&directory).expect("remove a backup");
        taken += 1;
    }
    assert!(taken >= 9, "only {taken} were taken");
}

#[test]
fn group_access_is_kept_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").group_access().start();
    let dir = TestDir::new();
    for args in ["-F p", "-F t", "-F p -X fetch"] {
        let [original, ours] = both(&cluster, &dir).map(|(name, tool)| {
            let directory = dir.join(&format!("{name}{args}").replace(' ', ""));
            tool.args(["-c", "fast", "-N", "-D"]).arg(&directory).args(args.split(' ')).run().succeeded();
            names(&directory)
        });
        assert_eq!(original, ours, "{args}");
    }
}

/// Before anything is made, and in words that say why.
#[test]
fn servers_that_are_too_old_are_refused() {
    let old = |client: &mut std::net::TcpStream| {
        let parameter = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
        let welcome = [message(b'R', &[0; 4]), parameter("server_version", "9.6.24"), ready()].concat();
        client.write_all(&welcome)
    };
    let primary = Script::new().greeting(old).perform();
    let dir = TestDir::new();
    for format in ["p", "t"] {
        let directory = dir.join("backup");
        let tool = ours(&dir).args(["-F", format, "-d", &primary.conninfo(), "-D"]).arg(&directory);
        let outcome = tool.run().exited(1).complains("pg_basebackup: error: incompatible server version 9.6");
        outcome.complains("pg_basebackup: hint: Servers before version 10");
        assert!(!directory.exists());
    }
    assert_eq!(primary.commands(), Vec::<String>::new());
}

/// One that nobody has seen yet is tried, and that is said.
#[test]
fn servers_that_are_newer_are_tried_with_a_warning() {
    let new = |client: &mut std::net::TcpStream| {
        let parameter = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
        let welcome = [message(b'R', &[0; 4]), parameter("server_version", "20devel"), ready()].concat();
        client.write_all(&welcome)
    };
    let refusal = [report(b'E', "ERROR", "42501", "no"), ready()].concat();
    let primary = Script::new().greeting(new).says("BASE_BACKUP", refusal).perform();
    let dir = TestDir::new();
    let tool = ours(&dir).args(["-d", &primary.conninfo(), "-D"]).arg(dir.join("backup"));
    let outcome = tool.run().exited(1).complains("could not initiate base backup: ERROR:  no");
    outcome.complains("pg_basebackup: warning: server version 20");
}

/// Whoever has typed a password can still give up.
#[test]
fn a_server_that_is_silent_after_the_password_can_be_left() {
    let silent = |client: &mut std::net::TcpStream| client.read_exact(&mut [0]);
    let dir = TestDir::new();
    for signal in ["SIGINT", "SIGTERM"] {
        let primary = Script::new().greeting(silent).perform();
        let tool = ours(&dir).args(["-W", "-d", &primary.conninfo(), "-D"]).arg(dir.join("backup"));
        let run = tool.stdin("secret\n").timeout(Duration::from_secs(20)).spawn();
        wait_until("it has connected", || primary.connection_count() > 0);
        if signal == "SIGINT" {
            run.interrupt();
        } else {
            run.terminate();
        }
        run.wait().exited(1).complains(&format!("pg_basebackup: error: interrupted by {signal}"));
    }
}

/// Some servers have something to say before the first command.
#[test]
fn what_a_server_says_first_is_told() {
    let wordy = |client: &mut std::net::TcpStream| {
        let notice = report(b'N', "WARNING", "01000", "role password will expire soon");
        let welcome = welcome();
        let before_ready = welcome.len() - ready().len();
        client.write_all(&[&welcome[..before_ready], &notice, &ready()].concat())
    };
    let refusal = [report(b'E', "ERROR", "42501", "no"), ready()].concat();
    let primary = Script::new().greeting(wordy).says("BASE_BACKUP", refusal).perform();
    let dir = TestDir::new();
    let tool = ours(&dir).args(["-d", &primary.conninfo(), "-D"]).arg(dir.join("backup"));
    let outcome = tool.run().exited(1);
    assert!(outcome.stderr.starts_with("WARNING:  role password will expire soon\n"), "{outcome}");
    assert_eq!(outcome.stderr.matches("WARNING").count(), 1, "{outcome}");
}

/// From 19 on whoever logs in with an MD5 password is warned; each of the two connections is.
#[test]
fn warnings_of_the_startup_are_told_alike() {
    let hba = "host replication old 127.0.0.1/32 md5";
    let cluster = Cluster::builder().setting("autovacuum", "off").hba(hba).start();
    cluster.psql("SET password_encryption = 'md5'; CREATE ROLE old LOGIN REPLICATION PASSWORD 'secret'");
    let dir = TestDir::new();
    let [original, ours] = both(&cluster, &dir).map(|(name, tool)| {
        let tool = tool.env("PGHOST", "127.0.0.1").env("PGUSER", "old").env("PGPASSWORD", "secret");
        let tool = tool.args(["-c", "fast", "-N", "-D"]).arg(dir.join(name));
        tool.run().succeeded().stderr
    });
    assert_eq!(original, ours);
    assert_eq!(ours.matches("WARNING:  ").count(), if default_major() >= 19 { 2 } else { 0 }, "{ours}");
}

/// The backup stays, for somebody to look at, and says nothing of it.
#[test]
fn wrong_checksums_are_told_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").data_checksums().start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i; CHECKPOINT");
    let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    let file = fs::OpenOptions::new().write(true).open(file).expect("open a table");
    file.write_all_at(b"damage", 8192 + 5000).expect("damage a table");
    let dir = TestDir::new();
    for args in ["-F p", "-F t -X none", "-F p --no-verify-checksums"] {
        let [original, ours] = both(&cluster, &dir).map(|(name, tool)| {
            let directory = dir.join(&format!("{name}{args}").replace(' ', ""));
            let outcome = tool.args(["-c", "fast", "-N", "-D"]).arg(&directory).args(args.split(' ')).run();
            let stderr = outcome.stderr.replace(&directory.display().to_string(), "DIR");
            format!("{:?}\n{stderr}\n{}", outcome.code, names(&directory))
        });
        assert_eq!(original, ours, "{args}");
    }
}

/// From 17 on: the same files as the original's, stubs included, and together with the full one they verify.
#[test]
fn incremental_backups_are_alike() {
    if default_major() < 17 {
        let cluster = Cluster::new();
        let dir = TestDir::new();
        let tool = leading_to(ours(&dir), &cluster).args(["-c", "fast", "-i", "/nonexistent", "-D"]);
        let outcome = tool.arg(dir.join("backup")).run().exited(1);
        outcome.complains("pg_basebackup: error: server does not support incremental backup");
        return;
    }
    let cluster = Cluster::builder().setting("autovacuum", "off").setting("summarize_wal", "on").start();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CHECKPOINT");
    let dir = TestDir::new();
    let full = dir.join("full");
    let fast = ["-c", "fast", "-N"];
    leading_to(ours(&dir), &cluster).args(fast).arg("-D").arg(&full).run().succeeded();
    cluster.psql("UPDATE t SET i = 0 WHERE i % 10000 = 0; CHECKPOINT");
    let manifest = full.join("backup_manifest").display().to_string();
    for (args, verified) in [("-F p", true), ("-F p -Z server-gzip", true), ("-F t -X fetch", false)] {
        let [original, ours] = both(&cluster, &dir).map(|(name, tool)| {
            let directory = dir.join(&format!("{name}{args}").replace(' ', ""));
            let tool = tool.args(fast).args(["-i", &manifest, "-D"]).arg(&directory);
            tool.args(args.split(' ')).run().succeeded();
            if verified {
                let verify = Tool::client(cluster.major(), "pg_verifybackup").args(["-n", "-q"]);
                verify.arg(&directory).run().succeeded();
                Tool::pgwake().args(["pg_verifybackup", "-q"]).arg(&directory).run().succeeded();
            }
            let archive = directory.join("base.tar");
            match archive.exists() {
                true => members(&fs::read(archive).expect("read an archive"))
                    .lines()
                    .filter(|line| !line.contains("pg_wal"))
                    .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned() + "\n")
                    .collect(),
                false => names(&directory),
            }
        });
        assert_eq!(original, ours, "{args}");
        assert!(ours.contains("INCREMENTAL."), "{ours}");
    }
    // ours upon ours, and what they make up starts with every row
    let (combined, pieces) = (cluster.dir().join("combined"), [full, dir.join("ours-Fp")]);
    Tool::pgwake().args(["pg_combinebackup", "-o"]).arg(&combined).args(pieces).run().succeeded();
    Tool::pgwake().args(["pg_verifybackup", "-q"]).arg(&combined).run().succeeded();
    crate::support::dir::own_all(&combined);
    let combined = cluster.adopt(&combined);
    combined.start();
    assert_eq!(hash_of_everything(&combined), hash_of_everything(&cluster));
    combined.stop(crate::support::Stop::Immediate);
    for (args, complaint) in [
        (vec!["-i", "/nonexistent"], "could not open file \"/nonexistent\": No such file or directory"),
        (vec!["-i", "/etc/passwd"], "could not upload manifest: ERROR:  could not parse backup manifest"),
    ] {
        for (name, tool) in both(&cluster, &dir) {
            let directory = dir.join(&format!("refused-{name}-{:08x}", fastrand::u32(..)));
            let outcome = tool.args(fast).args(&args).arg("-D").arg(&directory).run().exited(1);
            outcome.complains(&format!("pg_basebackup: error: {complaint}"));
        }
    }
}
