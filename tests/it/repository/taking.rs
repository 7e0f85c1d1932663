//! Taking backups: what is put there, what is listed, and what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Archive, fill, fingerprint, json, text};
use crate::cloning::{catch_up, create};
use crate::documented_json::assert_as_documented;
use crate::support::{Cluster, Tool, servers, wait_until};
use crate::{require_program, require_server};

/// The documentation is enough: nothing but `zstd`, `tar`, `sha256sum` and a JSON reader.
fn restore_by_hand(archive: &Archive, name: &str, target: &Path) {
    let backups = archive.root.join("backups");
    let record: Value =
        serde_json::from_slice(&fs::read(backups.join(format!("{name}.json"))).expect("a record"))
            .expect("JSON");
    let data = backups.join(name);
    Tool::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .dir(&data)
        .run()
        .succeeded();
    let sum = Tool::new("sha256sum").arg(data.join("SHA256SUMS")).run().succeeded();
    assert_eq!(sum.stdout.split_whitespace().next(), record["sha256sums"].as_str());
    let shell = |command: String| drop(Tool::new("sh").args(["-c", &command]).run().succeeded());
    fs::create_dir(target).expect("make the directory");
    for archived in record["archives"].as_array().expect("archives") {
        let name = archived["name"].as_str().expect("a name");
        let place = match archived["location"].as_str() {
            Some(location) => {
                // where it was, or wherever the link is made to lead
                let place = target.with_extension(name);
                fs::create_dir(&place).expect("make the directory");
                assert!(location.starts_with('/'));
                place
            }
            None => target.to_owned(),
        };
        shell(format!("cat {}/{name}.*.zst | zstd -dc | tar -x -C {}", data.display(), place.display()));
    }
    shell(format!(
        "cat {0}/backup_manifest.*.zst | zstd -dc > {1}/backup_manifest",
        data.display(),
        target.display()
    ));
    for archived in record["archives"].as_array().expect("archives") {
        if let Some(oid) = archived["tablespace"].as_u64() {
            let link = target.join(format!("pg_tblspc/{oid}"));
            assert_eq!(fs::read_link(&link).expect("a link").to_str(), archived["location"].as_str());
            fs::remove_file(&link).expect("remove the link");
            std::os::unix::fs::symlink(target.with_extension(format!("{oid}.tar")), &link).expect("link");
        }
    }
}

fn give_to_server(path: &Path) {
    Tool::new("chown")
        .args(["-R", "--reference"])
        .arg(path.parent().expect("a parent"))
        .arg(path)
        .run()
        .succeeded();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn a_backup_carries_its_wal_where_nobody_archives_and_can_be_read_without_pgwake() {
    require_program!("zstd");
    for major in servers::majors() {
        require_server!(major);
        let primary = Cluster::builder().major(major).wal_segsize(1).start();
        let archive = Archive::beside(&primary);
        let place = primary.dir().subdir("space", 0o700);
        give_to_server(&place);
        primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", place.display()));
        primary.psql("CREATE TABLE spaced (id int, note text) TABLESPACE space");
        fill(&primary, "spaced", 20_000);
        fill(&primary, "t", 250_000);
        let taken = archive.take(&primary, &["--label", "first \"one\""]);
        let name = text(&taken["name"]);
        assert_eq!(taken["wal_included"], true, "{taken}");
        assert_eq!((&taken["parent"], &taken["tablespaces"]), (&Value::Null, &1.into()), "{taken}");
        assert_eq!(archive.names(), std::slice::from_ref(&name));
        let listed = archive.list();
        assert_as_documented("pgwake backup", taken);
        assert_eq!(listed["windows"][0]["to_lsn"], listed["backups"][0]["stop_lsn"]);
        assert!(listed["backups"][0]["stored_bytes"].as_u64() < listed["backups"][0]["bytes"].as_u64());
        assert!(
            archive
                .objects("backups")
                .iter()
                .filter(|path| path.to_string_lossy().contains("base.tar"))
                .count()
                > 1
        );

        let target = primary.dir().join("by_hand");
        restore_by_hand(&archive, &name, &target);
        Tool::client(major, "pg_verifybackup").arg(&target).run().succeeded();
        for path in [
            target.clone(),
            target.with_extension(format!(
                "{}.tar",
                primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'")
            )),
        ] {
            give_to_server(&path);
        }
        let restored = primary.adopt(&target);
        restored.start();
        for table in ["t", "spaced"] {
            assert_eq!(fingerprint(&restored, table), fingerprint(&primary, table), "{major} {table}");
        }
        let shown = archive.tool("list").run().succeeded();
        shown.says(&name).says("can be restored on timeline 1");
    }
}

#[test]
fn a_backup_waits_for_the_archive_where_somebody_archives() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 1000);
    let receiver = archive.receiver(&primary);
    let taken = archive.take(&primary, &[]);
    assert_eq!(taken["wal_included"], false, "{taken}");
    assert_as_documented("pgwake list", archive.list());
    let window = archive.list()["windows"][0].clone();
    let stop = text(&taken["stop_lsn"]);
    assert_eq!(
        primary.psql(&format!("SELECT '{}'::pg_lsn >= '{stop}'::pg_lsn", text(&window["to_lsn"]))),
        "t"
    );

    // nobody does any more
    receiver.terminate();
    receiver.wait().succeeded();
    primary.psql("SELECT pg_switch_wal()");
    let refused = archive.backup(&primary).args(["--wal", "archive", "--wal-timeout", "1"]).run();
    refused
        .exited(1)
        .complains("the archive has the backup's WAL on timeline 1 only up to")
        .complains("--wal include");
    assert_eq!(archive.names().len(), 1);
    assert_eq!(archive.list()["unfinished_backups"].as_array().map(Vec::len), Some(1));
    assert_eq!(archive.take(&primary, &[])["wal_included"], true);
}

/// Wherever it is broken off, nothing is listed.
#[test]
fn what_is_broken_off_is_not_listed() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 300_000);
    primary.psql("CHECKPOINT");
    let slowly = archive.backup(&primary).args(["--wal", "include", "--max-rate", "16M"]);
    for (round, signal) in [Signal::INT, Signal::TERM, Signal::KILL, Signal::KILL].into_iter().enumerate() {
        let mut run = slowly.spawn();
        run.wait_for_stderr("starts at");
        if round != 2 {
            let before = round;
            wait_until("a piece is put up", || {
                let objects = archive.objects("backups");
                objects
                    .iter()
                    .filter(|path| path.to_string_lossy().ends_with("base.tar.00000001.zst"))
                    .count()
                    > before.min(2) - usize::from(round == 3)
            });
        }
        run.signal(signal);
        let outcome = run.wait();
        if signal != Signal::KILL {
            outcome.exited(1).complains("interrupted by").complains("pgwake prune");
        }
        assert!(archive.names().is_empty());
        assert_eq!(archive.list()["unfinished_backups"].as_array().map(Vec::len), Some(round + 1));
        primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0");
    }
    let taken = archive.take(&primary, &["--wal", "include"]);
    assert_eq!(archive.names(), [text(&taken["name"])]);
}

#[test]
fn an_incremental_backup_builds_upon_the_latest() {
    require_server!(17);
    let primary = Cluster::builder().major(17).wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    let incremental = || archive.backup(&primary).arg("--incremental").run();
    incremental().exited(1).complains("keeps no WAL summaries").complains("summarize_wal = on");
    primary.psql("ALTER SYSTEM SET summarize_wal = on");
    primary.reload();
    incremental().exited(1).complains("no backup in the archive").complains("Take a full one first");
    fill(&primary, "t", 200_000);
    let full = archive.take(&primary, &[]);
    let mut parent = text(&full["name"]);
    for round in 1..3 {
        primary.psql(&format!("UPDATE t SET note = 'round {round}' WHERE id % 10000 = {round}"));
        let taken = archive.take(&primary, &["--incremental"]);
        assert_eq!(text(&taken["parent"]), parent);
        assert!(taken["stored_bytes"].as_u64() < full["stored_bytes"].as_u64().map(|len| len / 2), "{taken}");
        parent = text(&taken["name"]);
    }
    let listed = archive.list();
    assert!(listed["backups"].as_array().unwrap().iter().all(|backup| backup["restorable"] == true));
    // without its parent it is of no use, and is said to be
    fs::remove_file(archive.root.join(format!("backups/{}.json", text(&full["name"]))))
        .expect("lose a record");
    let listed = archive.list();
    assert!(listed["backups"].as_array().unwrap().iter().all(|backup| backup["restorable"] == false));
    archive.tool("list").run().succeeded().says("which is not in the archive");
    incremental().exited(1).complains("no backup in the archive");

    let old = Cluster::builder().major(servers::default_major().min(16)).start();
    if old.major() < 17 {
        let there = Archive::beside(&old);
        there.backup(&old).arg("--incremental").run().exited(1).complains("no incremental backups");
    }
}

#[test]
fn an_archive_is_one_clusters() {
    require_server!();
    let (primary, other) = (Cluster::new(), Cluster::new());
    let archive = Archive::beside(&primary);
    archive.take(&primary, &[]);
    let refused = archive.backup(&other).run();
    refused.exited(3).complains("holds the WAL of system");
    assert_eq!(archive.names().len(), 1);
    Tool::pgwake().args(["backup", "-d", "host=/nowhere"]).run().exited(2);
    let listed = json(&archive.tool("list").arg("--json").timeout(Duration::from_secs(20)));
    assert_eq!(listed["unfinished_backups"].as_array().map(Vec::len), Some(0));
}

/// There the last segment goes on behind the backup's end, with what came before in the file.
#[test]
fn a_standbys_backup_carries_its_wal_too() {
    for major in servers::majors() {
        require_server!(major);
        let primary = Cluster::builder().major(major).wal_segsize(1).start();
        let archive = Archive::beside(&primary);
        let directory = primary.dir().join("standby");
        create(&primary, &directory).run().succeeded();
        let standby = primary.adopt(&directory);
        catch_up(&primary, &standby);
        for round in 0..3 {
            fill(&primary, "t", 30_000);
            primary.psql("CHECKPOINT");
            let lsn = primary.psql("SELECT pg_current_wal_lsn()");
            standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
            let taken = archive.take(&standby, &["--wal", "include"]);
            assert_eq!(taken["wal_included"], true, "{major} {round}: {taken}");
        }
        archive.tool("verify").run().succeeded().says("nothing is wrong");
    }
}
