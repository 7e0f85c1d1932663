//! Incremental backups, from 17 on: their files hold what has changed, and are files of the backup like all others. Where only
//! older majors are tested, 17 stands in.

use std::fs;
use std::path::Path;

use super::backups::{basebackup, edit};
use super::table::Order;
use super::{essence, original, ours};
use crate::require_server;
use crate::support::servers::majors;
use crate::support::{Cluster, TestDir, Tool, tree};

type Damage = fn(&Path, &str);

/// What is done to a copy of the backup, and to the largest of its incremental files.
const DAMAGE: [(&str, Damage); 7] = [
    ("none", |_, _| {}),
    ("a byte", |backup, file| edit(&backup.join(file), |bytes| bytes[20] ^= 1)),
    ("cut short", |backup, file| edit(&backup.join(file), |bytes| bytes.truncate(100))),
    ("missing", |backup, file| fs::remove_file(backup.join(file)).expect("remove a file")),
    ("of a whole file's name", |backup, file| {
        fs::rename(backup.join(file), backup.join(file.replace("INCREMENTAL.", ""))).expect("rename a file");
    }),
    ("one too many", |backup, file| {
        fs::copy(backup.join(file), backup.join(format!("{file}0"))).expect("copy a file");
    }),
    ("a whole one beside it", |backup, file| {
        fs::copy(backup.join(file), backup.join(file.replace("INCREMENTAL.", ""))).expect("copy a file");
    }),
];

#[test]
fn incremental_backups_are_told_the_same() {
    let tested: Vec<u32> = majors().into_iter().filter(|major| *major >= 17).collect();
    for major in if tested.is_empty() { vec![17] } else { tested } {
        require_server!(major);
        let Some(tool) = original(major) else { continue };
        let builder = Cluster::builder().major(major).wal_segsize(1).setting("summarize_wal", "on");
        let cluster = builder.start();
        cluster.psql("CREATE TABLE t AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g; VACUUM");
        let dir = TestDir::in_memory();
        let (full, incremental) = (dir.join("full"), dir.join("incremental"));
        basebackup(&cluster, &["-D"]).arg(&full).run().succeeded();
        cluster.psql("UPDATE t SET g = -g WHERE g % 1000 = 0");
        let before = basebackup(&cluster, &["-i"]).arg(full.join("backup_manifest"));
        before.arg("-D").arg(&incremental).run().succeeded();
        let file = largest_incremental(&incremental);
        let ours = ours(&dir);
        for (damage, apply) in DAMAGE {
            let copy = dir.join("copy");
            Tool::new("/bin/cp").arg("-al").arg(&incremental).arg(&copy).run().succeeded();
            apply(&copy, &file);
            let [its, our] = [&tool, &ours].map(|tool| {
                let outcome = tool.clone().arg(&copy).run();
                let is_whole = damage == "none";
                assert_eq!(outcome.code, Some(i32::from(!is_whole)), "{damage} on {major}\n{outcome}");
                essence(&outcome, &tool.to_string(), Order::Any)
            });
            assert_eq!(its, our, "{damage} on {major}");
            fs::remove_dir_all(&copy).expect("remove a copy");
        }
    }
}

/// Its path below the backup.
fn largest_incremental(backup: &Path) -> String {
    let listing = tree(backup);
    let files = listing.lines().filter(|line| line.contains("/INCREMENTAL."));
    let with_len = files.filter_map(|line| {
        let mut words = line.split(' ').skip(2);
        Some((words.next()?.parse::<u64>().ok()?, words.next()?.to_owned()))
    });
    with_len.max().expect("a file with what has changed").1
}
