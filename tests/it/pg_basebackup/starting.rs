//! Backups start, hold what the server held, and follow it: whatever went on while they were taken.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{leading_to, ours};
use crate::cloning::hash_of_everything;
use crate::support::{Cluster, TestDir, Tool};

/// What happens while a backup is taken, again and again.
const DISTURBANCE: &str = "\
\\set r random(1, 1000000000)
CREATE TABLE made_:r AS SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i;
CREATE INDEX ON made_:r (i);
DELETE FROM made_:r WHERE i > 100;
VACUUM made_:r;
VACUUM FULL made_:r;
TRUNCATE made_:r;
DROP TABLE made_:r;
CHECKPOINT;
";

/// Another tablespace each time, in place, so that a standby on this machine can have one of the same name.
const TABLESPACES: &str = "\
\\set r random(1, 1000000000)
CREATE TABLESPACE space_:r LOCATION '';
CREATE TABLE in_space_:r TABLESPACE space_:r AS SELECT generate_series(1, 500) i;
DROP TABLE in_space_:r;
DROP TABLESPACE space_:r;
";

/// A server with `rounds` of backups under load; each is started and followed until it holds the same.
fn disturb_and_start(rounds: usize) {
    let builder =
        Cluster::builder().data_checksums().setting("wal_keep_size", "1GB").setting("max_wal_size", "1GB");
    let builder = if crate::support::servers::default_major() >= 15 {
        builder.setting("allow_in_place_tablespaces", "on")
    } else {
        builder
    };
    let primary = builder.start();
    primary.pgbench(&["-i", "-s", "2", "-q"]).run().succeeded();
    primary.psql("CREATE EXTENSION amcheck");
    let dir = primary.dir();
    let mut scripts = vec![dir.file("disturbance.sql", 0o644, DISTURBANCE)];
    if primary.major() >= 15 {
        scripts.push(dir.file("tablespaces.sql", 0o644, TABLESPACES));
    }
    for round in 0..rounds {
        let load = primary.pgbench(&["-n", "-T", "600", "-c", "2"]).timeout(Duration::from_secs(600)).spawn();
        let others: Vec<_> = scripts
            .iter()
            .map(|script| {
                let script = script.display().to_string();
                let tool = primary.pgbench(&["-n", "-T", "600", "-c", "1", "-f", &script]);
                tool.timeout(Duration::from_secs(600)).spawn()
            })
            .collect();
        let plain = dir.join(&format!("plain{round}"));
        back_up(&primary, &plain, &["-R", "-X", "stream"]);
        let archives = dir.join(&format!("archives{round}"));
        back_up(&primary, &archives, &["-R", "-Ft", "-X", if round % 2 == 0 { "stream" } else { "fetch" }]);
        let unpacked = unpack(dir, &archives, &format!("unpacked{round}"));
        for other in others.into_iter().chain([load]) {
            other.terminate();
            let _ = other.wait();
        }
        let standby = started(&primary, &plain);
        // what is backed up there is compared with the primary
        await_replay(&primary, &standby);
        let of_standby = dir.join(&format!("of_standby{round}"));
        back_up(&standby, &of_standby, &["-N"]);
        assert_follows(&primary, &standby);
        drop(standby);
        assert_follows(&primary, &started(&primary, &unpacked));
        let from_standby = primary.adopt(&of_standby);
        crate::support::dir::own(&of_standby);
        // it knows of no other server, and stands on its own
        fs::remove_file(of_standby.join("standby.signal")).expect("it was a standby's");
        from_standby.start();
        assert_eq!(hash_of_everything(&from_standby), hash_of_everything(&primary));
        check(&from_standby);
        from_standby.stop(crate::support::Stop::Immediate);
    }
}

fn back_up(cluster: &Cluster, directory: &Path, args: &[&str]) {
    let tool = leading_to(ours(cluster.dir()), cluster).args(["-c", "fast", "-D"]).arg(directory);
    tool.args(args).by_server_user().timeout(Duration::from_secs(120)).run().succeeded();
}

/// As an operator unpacks a backup in tar format.
fn unpack(dir: &TestDir, archives: &Path, name: &str) -> std::path::PathBuf {
    let directory = dir.subdir(name, 0o700);
    let tar = |archive: &str, directory: &Path| {
        let tar = crate::support::servers::find_program("tar").expect("tar is everywhere");
        Tool::new(tar).arg("xf").arg(archives.join(archive)).arg("-C").arg(directory).by_server_user().run()
    };
    tar("base.tar", &directory).succeeded();
    if archives.join("pg_wal.tar").exists() {
        tar("pg_wal.tar", &directory.join("pg_wal")).succeeded();
    }
    directory
}

/// The standby that a backup with `-R` is.
fn started(primary: &Cluster, directory: &Path) -> Cluster {
    let standby = primary.adopt(directory);
    standby.start();
    standby
}

/// The standby has replayed all that the primary has written by now.
#[track_caller]
fn await_replay(primary: &Cluster, standby: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
}

#[track_caller]
fn assert_follows(primary: &Cluster, standby: &Cluster) {
    await_replay(primary, standby);
    assert_eq!(hash_of_everything(standby), hash_of_everything(primary));
    check(standby);
    standby.stop(crate::support::Stop::Immediate);
}

/// `pg_amcheck` has nothing to say. It came with 14.
#[track_caller]
fn check(cluster: &Cluster) {
    if crate::support::servers::program(cluster.major(), "pg_amcheck").is_none() {
        return;
    }
    let (host, port) = (cluster.socket_dir().display().to_string(), cluster.port().to_string());
    let tool = cluster.server_tool("pg_amcheck");
    tool.args(["-h", &host, "-p", &port, "-U", "postgres", "postgres"]).run().succeeded();
}

/// The server scans `pg_tblspc` before or after that: where it sends a link, recovery makes the directory all the same, and
/// nothing leads to the server's own meanwhile.
#[test]
fn a_tablespace_that_is_created_meanwhile_comes_to_be() {
    let primary = Cluster::builder().setting("autovacuum", "off").setting("wal_keep_size", "1GB").start();
    let dir = primary.dir();
    let location = dir.subdir("meanwhile", 0o700);
    let backup = |name: &str, args: &[&str]| {
        let tool = leading_to(ours(dir), &primary).args(["-c", "fast", "-v", "-r", "8M", "-N", "-D"]);
        let tool = tool.arg(dir.join(name)).args(args).by_server_user();
        let mut running = tool.timeout(Duration::from_secs(120)).spawn();
        running.wait_for_stderr("created temporary replication slot");
        running
    };
    let (plain, archives) = (backup("plain", &[]), backup("archives", &["-Ft"]));
    primary.psql(&format!("CREATE TABLESPACE meanwhile LOCATION '{}'", location.display()));
    primary.psql("CREATE TABLE there TABLESPACE meanwhile AS SELECT i FROM generate_series(1, 5000) i");
    let oid = primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'meanwhile'");
    for running in [plain, archives] {
        running.wait().succeeded();
    }
    let unpacked = unpack(dir, &dir.join("archives"), "unpacked");
    let expected = hash_of_everything(&primary);
    // recovery makes the directory anew, which must be nobody's by then
    primary.stop(crate::support::Stop::Immediate);
    for directory in [dir.join("plain"), unpacked] {
        let link = directory.join("pg_tblspc").join(&oid);
        assert!(link.symlink_metadata().is_err(), "{} is there", link.display());
        let copy = started(&primary, &directory);
        assert_eq!(hash_of_everything(&copy), expected);
        copy.stop(crate::support::Stop::Immediate);
    }
}

#[test]
fn backups_under_load_start_and_follow() {
    disturb_and_start(1);
}

#[test]
#[ignore = "eight rounds; run by make torture"]
fn many_backups_under_load_start_and_follow() {
    disturb_and_start(8);
}
