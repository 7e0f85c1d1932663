//! No false alarm: backups of every major, in every form, checksum and compression, as the originals make them.

use std::fs;
use std::path::Path;

use super::backups::basebackup;
use super::ours;
use crate::require_server;
use crate::support::servers::majors;
use crate::support::{Cluster, TestDir};

#[track_caller]
fn verified(dir: &TestDir, backup: &Path) {
    let outcome = ours(dir).arg(backup).run().succeeded();
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("backup successfully verified\n", ""), "{outcome}");
}

#[test]
fn what_the_originals_make_is_whole() {
    for major in majors() {
        require_server!(major);
        let cluster = Cluster::builder().major(major).wal_segsize(1).start();
        cluster.psql("CREATE TABLE t AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g");
        let dir = TestDir::in_memory();
        let pg_basebackup = basebackup(&cluster, &[]);
        let mut ways: Vec<Vec<&str>> = vec![
            vec!["-X", "none"],
            vec!["-X", "fetch"],
            vec!["-X", "stream", "--manifest-checksums=NONE"],
            vec!["-X", "stream", "--manifest-checksums=SHA224", "--manifest-force-encode"],
            vec!["-X", "stream", "--manifest-checksums=SHA256"],
            vec!["-X", "stream", "--manifest-checksums=SHA384", "-R"],
            vec!["-X", "fetch", "--manifest-checksums=SHA512", "-Ft"],
            vec!["-X", "stream", "-Ft", "-z"],
            vec!["-X", "fetch", "-Ft", "-z"],
        ];
        // what compresses on a server without a library fails, and is left out
        ways.extend(
            [["-Zserver-lz4"], ["-Zserver-zstd"], ["-Zclient-lz4"], ["-Zclient-zstd"]]
                .map(|method| vec!["-X", "stream", "-Ft", method[0]]),
        );
        let mut count = 0;
        for (number, way) in ways.iter().enumerate() {
            let backup = dir.join(&number.to_string());
            // something happens meanwhile, and the WAL of some backups spans segments
            let load = cluster.pgbench(&["-i", "-s", "1", "-q"]).spawn();
            let taken = pg_basebackup.clone().args(way).arg("-D").arg(&backup).run();
            load.wait().succeeded();
            if way[way.len() - 1].starts_with("-Z") && taken.code != Some(0) {
                continue;
            }
            taken.succeeded();
            count += 1;
            if way[1] == "none" {
                // its WAL is in the server's directory
                let wal = cluster.data_dir().join("pg_wal");
                ours(&dir).arg(&backup).arg("-w").arg(wal).run().succeeded();
                ours(&dir).arg(&backup).run().exited(1).complains("WAL parsing failed for timeline 1");
            } else {
                verified(&dir, &backup);
            }
            fs::remove_dir_all(&backup).expect("remove a backup");
        }
        assert!(count >= 9, "only {count} backups of {major}");
    }
}

/// From a standby whose upstream is promoted meanwhile: WAL on two timelines. And from the one that was promoted.
#[test]
fn backups_that_span_timelines_are_whole() {
    for major in majors() {
        require_server!(major);
        let primary =
            Cluster::builder().major(major).wal_segsize(1).setting("wal_keep_size", "256MB").start();
        primary.psql("CREATE TABLE t (i int)");
        let standby = |server: &Cluster, name: &str| {
            let data = primary.dir().join(name);
            basebackup(server, &["-X", "stream", "-R", "-D"]).arg(&data).run().succeeded();
            let standby = primary.adopt(data);
            standby.start();
            standby
        };
        let first = standby(&primary, "first");
        let second = standby(&first, "second");
        let dir = TestDir::in_memory();
        let mut running = Vec::new();
        for (number, args) in [&["-X", "stream"][..], &["-X", "stream", "-Ft", "-z"], &["-X", "fetch", "-Ft"]]
            .iter()
            .enumerate()
        {
            let backup = dir.join(&number.to_string());
            let slow = basebackup(&second, &["-r", "6M"]).args(*args).arg("-D").arg(&backup);
            running.push((slow.spawn(), backup));
        }
        let streaming =
            "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'";
        second.wait_for(streaming, "3");
        first.promote();
        first.psql("INSERT INTO t SELECT generate_series(1, 10000); CHECKPOINT");
        let position = first.psql("SELECT pg_current_wal_lsn()");
        second.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"), "t");
        // from here on a recovery has to come as far
        second.psql("CHECKPOINT");
        for (running, backup) in running {
            running.wait().succeeded();
            let manifest = fs::read_to_string(backup.join("backup_manifest")).expect("a manifest");
            assert_eq!(manifest.matches("\"Timeline\"").count(), 2, "WAL on two timelines");
            verified(&dir, &backup);
        }
        for (number, args) in [["-X", "fetch"], ["-X", "stream"]].iter().enumerate() {
            let backup = dir.join(&format!("promoted-{number}"));
            basebackup(&first, args).arg("-D").arg(&backup).run().succeeded();
            verified(&dir, &backup);
        }
    }
}
