//! A cluster comes back: to the end, to a position, a moment, a restore point, as a standby, from a chain.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Archive, fill, fingerprint, json, text};
use crate::cloning::{catch_up, create};
use crate::documented_json::assert_as_documented;
use crate::require_server;
use crate::support::object_store::{self, ObjectStore};
use crate::support::{Cluster, Stop, Tool, servers, wait_until};

/// `pgwake restore` into a new directory, as whoever runs the tests: root's files go to the server's user.
fn restore(archive: &Archive, cluster: &Cluster, name: &str) -> Tool {
    let directory = cluster.dir().join(name);
    Tool::pgwake()
        .args(["restore", "--archive", &archive.url, "-D"])
        .arg(&directory)
        .timeout(std::time::Duration::from_secs(180))
}

/// Starts a restored directory, and waits until it takes writes.
#[track_caller]
fn recovered(cluster: &Cluster, name: &str) -> Cluster {
    let server = cluster.adopt(cluster.dir().join(name));
    server.start();
    wait_until("recovery has ended", || server.psql("SELECT pg_is_in_recovery()") == "f");
    server
}

fn everything_belongs_to(directory: &Path, owner: u32) {
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        assert_eq!(path.symlink_metadata().expect("examine").uid(), owner, "{}", path.display());
        if path.is_dir() && !path.is_symlink() {
            pending.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        }
    }
}

/// One cluster, one archive, and every target.
#[test]
fn every_target_is_reached_and_what_cannot_be_is_refused() {
    for major in servers::majors() {
        require_server!(major);
        let primary = Cluster::builder().major(major).wal_segsize(1).start();
        let archive = Archive::beside(&primary);
        let receiver = archive.receiver(&primary);
        fill(&primary, "t", 5000);
        let first = archive.take(&primary, &[]);
        let bench = primary.pgbench(&["-i", "-q"]).run();
        bench.succeeded();
        primary.pgbench(&["-T", "2", "-n"]).run().succeeded();
        let (lsn, at_lsn) = (primary.psql("SELECT pg_current_wal_insert_lsn()"), fingerprint(&primary, "t"));
        fill(&primary, "t", 1000);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let moment = primary
            .psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'");
        let at_moment = fingerprint(&primary, "t");
        std::thread::sleep(std::time::Duration::from_millis(50));
        fill(&primary, "t", 1000);
        let at_name = fingerprint(&primary, "t");
        primary.psql("SELECT pg_create_restore_point('before the accident')");
        fill(&primary, "t", 1000);
        let second = archive.take(&primary, &[]);
        fill(&primary, "t", 1000);
        let (end, at_end) = (primary.psql("SELECT pg_current_wal_flush_lsn()"), fingerprint(&primary, "t"));
        wait_until("all of it is archived", || {
            let reached = text(&archive.list()["windows"][0]["to_lsn"]);
            primary.psql(&format!("SELECT '{reached}'::pg_lsn >= '{end}'::pg_lsn")) == "t"
        });
        receiver.terminate();
        receiver.wait().succeeded();
        primary.stop(Stop::Immediate);
        let owner = primary.data_dir().metadata().expect("examine").uid();

        let wal = primary.dir().join("latest_wal");
        let latest = json(&restore(&archive, &primary, "latest").arg("--json").arg("--waldir").arg(&wal));
        assert_as_documented("pgwake restore", latest.clone());
        assert_eq!(latest["backups"], Value::from(vec![text(&second["name"])]));
        everything_belongs_to(&primary.dir().join("latest"), owner);
        everything_belongs_to(&wal, owner);
        assert_eq!(fs::read_link(primary.dir().join("latest/pg_wal")).expect("a link"), wal);
        Tool::client(major, "pg_verifybackup")
            .args(["-n"])
            .arg(primary.dir().join("latest"))
            .run()
            .succeeded();
        let server = recovered(&primary, "latest");
        assert_eq!(fingerprint(&server, "t"), at_end, "{major}");
        server.psql("INSERT INTO t VALUES (0, 'afterwards')");
        server.stop(Stop::Fast);

        for (name, target, value, expected) in [
            ("lsn", "--target-lsn", lsn.as_str(), &at_lsn),
            ("time", "--target-time", moment.as_str(), &at_moment),
            ("point", "--target-name", "before the accident", &at_name),
        ] {
            let tool = restore(&archive, &primary, name).args([
                target,
                value,
                "--target-action",
                "promote",
                "--json",
            ]);
            assert_eq!(json(&tool)["backups"], Value::from(vec![text(&first["name"])]), "{major} {name}");
            let server = recovered(&primary, name);
            assert_eq!(&fingerprint(&server, "t"), expected, "{major} {name}");
            server.stop(Stop::Fast);
        }

        let refused = |args: &[&str], words: &str| {
            restore(&archive, &primary, "refused").args(args).run().exited(1).complains(words);
            assert!(!primary.dir().join("refused").exists());
        };
        refused(&["--target-lsn", "0/100"], "is before");
        refused(&["--target-lsn", "FF/0"], "is not in the archive");
        refused(&["--target-time", "2020-01-01 00:00Z"], "is before");
        refused(&["--target-time", "2099-01-01 00:00Z"], "nothing was committed after");
        refused(&["--target-name", "nothing of the kind"], "there is no restore point");
        refused(&["--target-timeline", "7"], "no history of timeline 7");
        refused(&["--backup", "20200101T000000Z-00000000"], "pgwake list");
        let (name, before) = (text(&second["name"]), text(&first["stop_lsn"]));
        refused(&["--backup", &name, "--target-lsn", &before], "is before");
        restore(&archive, &primary, "refused").args(["--target-time", "2026-01-01 00:00"]).run().exited(2);
        let dry = restore(&archive, &primary, "refused").args(["--dry-run", "--target-lsn", &lsn]).run();
        dry.succeeded().says("nothing was made").says(&text(&first["name"]));
        assert!(!primary.dir().join("refused").exists());
    }
}

#[test]
fn a_chain_of_incremental_backups_becomes_one_cluster() {
    for major in [17, 18] {
        require_server!(major);
        let primary = Cluster::builder().major(major).wal_segsize(1).setting("summarize_wal", "on").start();
        let archive = Archive::beside(&primary);
        let space = primary.dir().subdir("space", 0o700);
        Tool::new("chown").args(["--reference"]).arg(primary.data_dir()).arg(&space).run().succeeded();
        primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        primary.psql("CREATE TABLE spaced (id int, note text) TABLESPACE space");
        fill(&primary, "spaced", 20_000);
        fill(&primary, "t", 50_000);
        let mut chain = vec![text(&archive.take(&primary, &[])["name"])];
        for round in 1..=3 {
            primary.psql(&format!("UPDATE t SET note = 'round {round}' WHERE id % 1000 = {round}"));
            primary.psql(&format!("UPDATE spaced SET note = 'round {round}' WHERE id % 1000 = {round}"));
            fill(&primary, &format!("new_{round}"), 1000);
            chain.push(text(&archive.take(&primary, &["--incremental"])["name"]));
        }
        let elsewhere = primary.dir().join("elsewhere");
        let mapping = format!("{}={}", space.display(), elsewhere.display());
        let wal = primary.dir().join("combined_wal");
        let restored = restore(&archive, &primary, "combined").args(["-T", &mapping, "--json", "--waldir"]);
        let restored = json(&restored.arg(&wal));
        assert_eq!(restored["backups"], Value::from(chain));
        let owner = primary.data_dir().metadata().expect("examine").uid();
        for directory in ["combined", "elsewhere", "combined_wal"] {
            everything_belongs_to(&primary.dir().join(directory), owner);
        }
        let combined = primary.dir().join("combined");
        assert_eq!(fs::read_link(combined.join("pg_wal")).expect("a link"), wal);
        assert!(wal.join("archive_status").is_dir());
        Tool::client(major, "pg_verifybackup").arg("-n").arg(&combined).run().succeeded();
        let server = recovered(&primary, "combined");
        for table in ["t", "spaced", "new_1", "new_2", "new_3"] {
            assert_eq!(fingerprint(&server, table), fingerprint(&primary, table), "{major} {table}");
        }
        let left: Vec<_> = fs::read_dir(primary.dir().path()).unwrap().flatten().collect();
        assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().contains("pgwake")), "{left:?}");
    }
}

#[test]
fn a_standby_from_the_archive_streams_from_its_primary() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 1000);
    let receiver = archive.receiver(&primary);
    archive.take(&primary, &[]);
    fill(&primary, "t", 1000);
    primary.psql("SELECT pg_create_physical_replication_slot('replica', true)");
    let directory = primary.dir().join("replica");
    let port = crate::support::Port::reserve();
    let set = format!("port={}", port.number());
    let tool = restore(&archive, &primary, "replica")
        .args(["--standby", "--slot", "replica", "-d", &primary.tcp_conninfo(), "--set", &set, "--start"])
        .args(["--bindir", primary.bin_dir().to_str().expect("a path"), "--start-timeout", "60"]);
    tool.run().succeeded().says("started; it answers");
    let standby = primary.adopt(&directory);
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE application_name = 'replica'", "streaming");
    primary.psql("INSERT INTO t VALUES (0, 'through the stream')");
    primary.wait_for("SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication WHERE application_name = 'replica'", "t");
    drop(standby);
    receiver.terminate();
    receiver.wait().succeeded();
    // a store that is away is no reason to go down
    fs::rename(&archive.root, primary.dir().join("away")).expect("take the archive away");
    primary.restart();
    let log = directory.join("log/startup.log");
    wait_until("the standby asks the archive", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("as an archive: directory"))
    });
    primary.wait_for("SELECT state FROM pg_stat_replication WHERE application_name = 'replica'", "streaming");
    let pg_ctl = primary.server_tool("pg_ctl").args(["stop", "-m", "fast", "-D"]).arg(&directory);
    pg_ctl.run().succeeded();
}

/// What says where recovery goes counts for that recovery, and not for standbys that are made from there.
#[test]
fn a_restored_cluster_can_have_standbys() {
    require_server!();
    let primary = Cluster::builder().setting("synchronous_standby_names", "nobody").start();
    let archive = Archive::beside(&primary);
    primary.psql("SET synchronous_commit = local; CREATE TABLE t (id int, note text)");
    archive.take(&primary, &[]);
    primary.stop(Stop::Fast);
    let tool = restore(&archive, &primary, "restored").run().succeeded();
    tool.complains("every commit will wait").complains("ALTER SYSTEM SET synchronous_standby_names = ''");
    let server = primary.adopt(primary.dir().join("restored"));
    server.start();
    server.wait_for("SELECT pg_is_in_recovery()", "f");
    server.psql("SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''");
    server.reload();
    assert_eq!(server.psql("SHOW recovery_target_timeline"), "1");
    let directory = primary.dir().join("standby");
    create(&server, &directory).run().succeeded().complains("keeps its primary's restore_command");
    let standby = primary.adopt(&directory);
    catch_up(&server, &standby);
    assert_eq!(standby.psql("SHOW recovery_target_timeline"), "latest");
    standby.stop(Stop::Fast);
    server.stop(Stop::Fast);

    // one that was seen to get there has forgotten it
    let port = crate::support::Port::reserve();
    let started = restore(&archive, &primary, "started")
        .args(["--set", &format!("port={}", port.number()), "--set", "synchronous_standby_names="])
        .args(["--target-timeline", "1", "--start", "--bindir", primary.bin_dir().to_str().expect("a path")])
        .run()
        .succeeded();
    assert!(!started.stderr.contains("every commit will wait"), "{started}");
    let directory = primary.dir().join("started");
    primary.server_tool("pg_ctl").args(["stop", "-m", "fast", "-D"]).arg(&directory).run().succeeded();
    let settings = fs::read_to_string(directory.join("postgresql.auto.conf")).expect("read the settings");
    assert!(settings.contains("recovery_target_timeline = 'latest'"), "{settings}");
}

/// The archive has the segment that is being written up to where its receiver was stopped; the standby has more of it, and
/// nobody else has.
#[test]
fn a_standby_keeps_what_it_has_received_and_the_archive_has_not() {
    require_server!();
    let primary = Cluster::builder().start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 1000);
    let receiver = archive.receiver(&primary);
    archive.take(&primary, &[]);
    fill(&primary, "t", 10);
    restore(&archive, &primary, "replica")
        .args(["--standby", "-d", &primary.tcp_conninfo()])
        .run()
        .succeeded();
    let standby = primary.adopt(primary.dir().join("replica"));
    standby.start();
    let replayed = "SELECT count(*) FROM pg_stat_replication \
         WHERE application_name <> 'pgwake' AND replay_lsn = pg_current_wal_lsn()";
    primary.wait_for(replayed, "1");
    receiver.terminate();
    receiver.wait().succeeded();
    fill(&primary, "t", 1000);
    primary.wait_for(replayed, "1");
    let expected = fingerprint(&primary, "t");
    primary.kill9();
    // it asks for the segment, and gets none
    standby.restart();
    standby.promote();
    wait_until("recovery has ended", || standby.psql("SELECT pg_is_in_recovery()") == "f");
    assert_eq!(fingerprint(&standby, "t"), expected);
    standby.stop(Stop::Fast);
}

/// A backup that carries its WAL, and an archive that was begun later.
#[test]
fn what_begins_behind_a_gap_is_not_taken_for_the_end() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 1000);
    assert_eq!(archive.take(&primary, &[])["wal_included"], true);
    let expected = fingerprint(&primary, "t");
    fill(&primary, "u", 40_000);
    primary.psql("CHECKPOINT");
    let receiver = archive.receiver(&primary);
    fill(&primary, "u", 1000);
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    primary.wait_for(&format!("SELECT replay_lsn >= '{end}' FROM pg_stat_replication"), "t");
    receiver.terminate();
    receiver.wait().succeeded();
    primary.stop(Stop::Fast);
    let refused = restore(&archive, &primary, "refused").run().exited(3);
    refused.complains("recovery would end in a gap").complains("--end-at-gap");
    assert!(!primary.dir().join("refused").exists());
    restore(&archive, &primary, "restored").arg("--end-at-gap").run().succeeded();
    let server = recovered(&primary, "restored");
    assert_eq!(fingerprint(&server, "t"), expected);
    server.stop(Stop::Fast);
}

/// Started until it is a primary, out of a real object store.
#[test]
fn a_cluster_comes_back_from_an_object_store() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = Cluster::builder().wal_segsize(1).start();
    let store = ObjectStore::start(primary.dir());
    let url = store.url("db1");
    fill(&primary, "t", 100_000);
    let tool = |command: &str| ObjectStore::credentials(Tool::pgwake().args([command, "--archive", &url]));
    tool("backup").args(["-w", "-d", &primary.conninfo()]).run().succeeded();
    tool("verify").run().succeeded().says("nothing is wrong");
    let expected = fingerprint(&primary, "t");
    primary.stop(Stop::Fast);
    let directory = primary.dir().join("restored");
    let port = crate::support::Port::reserve();
    let set = format!("port={}", port.number());
    let restored = tool("restore")
        .args(["--start", "--set", &set, "--bindir", primary.bin_dir().to_str().expect("a path"), "-D"])
        .arg(&directory)
        .run();
    restored.succeeded().says("it is a primary");
    let conninfo = format!(
        "host={} port={} user=postgres dbname=postgres",
        primary.socket_dir().display(),
        port.number()
    );
    let question = "SELECT count(*), md5(string_agg(id || note, ',' ORDER BY id, note)) FROM t";
    let found = Tool::psql().args(["-XAt", "-d", &conninfo, "-c", question]).run().succeeded();
    assert_eq!(found.stdout.trim(), expected);
    primary.server_tool("pg_ctl").args(["stop", "-m", "fast", "-D"]).arg(&directory).run().succeeded();
}

#[test]
fn what_is_broken_off_leaves_nothing_behind() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 400_000);
    archive.take(&primary, &[]);
    let beside = || {
        let entries = fs::read_dir(primary.dir().path()).expect("list").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = beside();
    for (round, signal) in [Signal::INT, Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let run = restore(&archive, &primary, "restored").spawn();
        let begun = primary.dir().join(".restored.pgwake/data/base");
        wait_until("files are written", || begun.exists());
        run.signal(signal);
        let outcome = run.wait();
        if round < 2 {
            outcome.exited(1).complains("everything that this run made has been removed");
            assert_eq!(beside(), before);
        }
        assert!(!primary.dir().join("restored").exists());
    }
    // what the killed one left is taken away by the next
    restore(&archive, &primary, "restored").run().succeeded().complains("an earlier run was interrupted");
    assert!(!primary.dir().join(".restored.pgwake").exists());
    let expected = fingerprint(&primary, "t");
    primary.stop(Stop::Fast);
    assert_eq!(fingerprint(&recovered(&primary, "restored"), "t"), expected);
}
