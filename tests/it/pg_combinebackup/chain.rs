//! A full backup and three incremental ones, taken by the server's own `pg_basebackup` while much changes in between.

use std::path::PathBuf;

use crate::support::Cluster;

/// The backups' names, which are also their directories'.
pub(super) const NAMES: [&str; 4] = ["full", "inc1", "inc2", "inc3"];

/// Backups of a cluster that goes on running.
pub(super) struct Chain {
    pub(super) cluster: Cluster,
    /// What each table held when each backup was taken.
    pub(super) rows: Vec<String>,
}

/// What happens before each backup. Between them: relations that grow, shrink, vanish, come back under the same name, are
/// rewritten; databases and a tablespace that the full backup does not have.
const CHANGES: [&[&str]; 4] = [
    &[
        "CREATE TABLE kept AS SELECT i, md5(i::text) t FROM generate_series(1, 20000) i",
        "CREATE INDEX ON kept (t)",
        "CREATE TABLE shrinking AS SELECT i, md5(i::text) t FROM generate_series(1, 20000) i",
        "CREATE TABLE recreated AS SELECT i FROM generate_series(1, 5000) i",
        "CREATE TABLE growing AS SELECT 1 i",
        "CREATE TABLE elsewhere TABLESPACE ts AS SELECT i, md5(i::text) t FROM generate_series(1, 20000) i",
        "CREATE TABLE inside TABLESPACE inside AS SELECT i, md5(i::text) t FROM generate_series(1, 5000) i",
        "CREATE TABLE untouched AS SELECT i FROM generate_series(1, 5000) i",
        "VACUUM",
    ],
    &[
        "UPDATE kept SET t = 'x' || t WHERE i % 997 = 0",
        "DELETE FROM shrinking WHERE i > 100",
        "VACUUM shrinking",
        "DROP TABLE recreated",
        "CREATE TABLE recreated AS SELECT -i i FROM generate_series(1, 500) i",
        "INSERT INTO growing SELECT i FROM generate_series(1, 30000) i",
        "UPDATE elsewhere SET t = 'y' WHERE i < 300",
        "CREATE DATABASE second",
    ],
    &[
        "VACUUM FULL kept",
        "UPDATE inside SET t = 'z' WHERE i % 50 = 0",
        "CREATE TABLE late TABLESPACE late AS SELECT i FROM generate_series(1, 3000) i",
        "TRUNCATE elsewhere",
        "INSERT INTO elsewhere SELECT i, 'new' FROM generate_series(1, 9000) i",
        "INSERT INTO shrinking SELECT i, 'again' FROM generate_series(1, 7000) i",
    ],
    &[
        "DROP DATABASE second",
        "CREATE DATABASE third STRATEGY file_copy",
        "UPDATE late SET i = i + 1 WHERE i % 11 = 0",
        "UPDATE kept SET t = 'last' WHERE i BETWEEN 5000 AND 5100",
        "DELETE FROM growing WHERE i > 10000",
        "VACUUM growing",
        "CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 1000) i",
    ],
];

const TABLES: [&str; 8] =
    ["kept", "shrinking", "recreated", "growing", "elsewhere", "inside", "untouched", "late"];

impl Chain {
    /// Makes the cluster and the backups.
    pub(super) fn make(major: u32) -> Chain {
        let cluster = Cluster::builder()
            .major(major)
            .in_memory()
            .data_checksums()
            .setting("summarize_wal", "on")
            .setting("wal_keep_size", "512MB")
            .setting("allow_in_place_tablespaces", "on")
            .start();
        let mut chain = Chain { cluster, rows: Vec::new() };
        chain.make_tablespace("ts");
        chain.cluster.psql("CREATE TABLESPACE inside LOCATION ''");
        for (number, changes) in CHANGES.into_iter().enumerate() {
            if number == 2 {
                chain.make_tablespace("late");
            }
            changes.iter().for_each(|sql| drop(chain.cluster.psql(sql)));
            chain.back_up(number);
            chain.rows.push(rows(&chain.cluster));
        }
        chain
    }

    pub(super) fn backup(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// The tablespaces that lie elsewhere, in one of the backups.
    pub(super) fn tablespaces(&self, backup: usize) -> Vec<(&'static str, PathBuf)> {
        let names: &[&str] = if backup < 2 { &["ts"] } else { &["ts", "late"] };
        let place = |name: &&'static str| (*name, self.tablespace(name, NAMES[backup]));
        names.iter().map(place).collect()
    }

    fn tablespace(&self, name: &str, backup: &str) -> PathBuf {
        self.cluster.dir().join(&format!("{name}.{backup}"))
    }

    fn make_tablespace(&self, name: &str) {
        let directory = self.cluster.dir().subdir(name, 0o700);
        self.cluster.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", directory.display()));
    }

    fn back_up(&self, number: usize) {
        let (host, port) = (self.cluster.socket_dir(), self.cluster.port().to_string());
        let mut tool = self.cluster.server_tool("pg_basebackup").arg("-h").arg(host);
        tool = tool.args(["-p", &port, "-U", "postgres", "-c", "fast", "-N", "-D"]);
        tool = tool.arg(self.backup(NAMES[number]));
        for name in ["ts", "late"] {
            let (old, new) = (self.cluster.dir().join(name), self.tablespace(name, NAMES[number]));
            tool = tool.arg("-T").arg(format!("{}={}", old.display(), new.display()));
        }
        if let Some(before) = number.checked_sub(1) {
            tool = tool.arg("-i").arg(self.backup(NAMES[before]).join("backup_manifest"));
        }
        tool.run().succeeded();
    }
}

/// A hash of each table that there is, and the databases.
pub(super) fn rows(cluster: &Cluster) -> String {
    let mut all = cluster.psql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database");
    for table in TABLES {
        let hash = format!("SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t");
        let exists = cluster.psql(&format!("SELECT to_regclass('{table}') IS NOT NULL")) == "t";
        let found = if exists { cluster.psql(&hash) } else { "none".to_owned() };
        all.push_str(&format!("\n{table} {found}"));
    }
    all
}
