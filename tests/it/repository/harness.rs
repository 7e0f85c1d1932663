//! Archives in a directory, what is in them, and how to change it behind everybody's back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Cluster, Running, Tool};

/// An archive in a directory of its own.
pub(super) struct Archive {
    pub(super) url: String,
    pub(super) root: PathBuf,
}

impl Archive {
    pub(super) fn beside(cluster: &Cluster) -> Archive {
        let root = cluster.dir().subdir("archive", 0o755);
        Archive { url: format!("file://{}", root.display()), root }
    }

    pub(super) fn tool(&self, command: &str) -> Tool {
        let tool = Tool::pgwake().args([command, "--archive", &self.url]);
        tool.by_server_user().timeout(Duration::from_secs(180))
    }

    /// `pgwake backup` of a server.
    pub(super) fn backup(&self, cluster: &Cluster) -> Tool {
        self.tool("backup").args(["-w", "-d", &cluster.conninfo()])
    }

    /// Takes a backup; what `--json` says of it.
    #[track_caller]
    pub(super) fn take(&self, cluster: &Cluster, args: &[&str]) -> Value {
        json(&self.backup(cluster).args(args).arg("--json"))
    }

    pub(super) fn list(&self) -> Value {
        json(&self.tool("list").arg("--json"))
    }

    /// The names of the backups that are listed.
    pub(super) fn names(&self) -> Vec<String> {
        let listed = self.list();
        let backups = listed["backups"].as_array().expect("backups");
        backups.iter().map(|backup| text(&backup["name"])).collect()
    }

    /// The objects below a key, by their paths.
    pub(super) fn objects(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.root.join(below), &mut found);
        found.sort();
        found
    }

    /// `pgwake receive --archive`, streaming.
    #[track_caller]
    pub(super) fn receiver(&self, cluster: &Cluster) -> Running {
        let received = cluster.dir().join("received");
        let mut tool = Tool::pgwake().args(["receive", "-w", "--slot", "witness", "-d", &cluster.conninfo()]);
        if !received.exists() {
            cluster.dir().subdir("received", 0o700);
            tool = tool.arg("--create-slot");
        }
        let tool = tool.args(["--archive", &self.url, "--archive-delay", "0", "-D"]).arg(&received);
        let mut running = tool.by_server_user().timeout(Duration::from_secs(300)).spawn();
        running.wait_for_stderr("streaming started");
        running
    }
}

#[track_caller]
pub(super) fn json(tool: &Tool) -> Value {
    let outcome = tool.run().succeeded();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

#[track_caller]
pub(super) fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect(&path, found),
            false => found.push(path),
        }
    }
}

/// Rows that take some megabytes, and do not compress to nothing.
pub(super) fn fill(cluster: &Cluster, table: &str, rows: u32) {
    cluster.psql(&format!(
        "CREATE TABLE IF NOT EXISTS {table} (id int, note text); \
         INSERT INTO {table} SELECT i, md5(random()::text) || md5(i::text) FROM generate_series(1, {rows}) i"
    ));
}

/// What must be the same on both sides.
pub(super) fn fingerprint(cluster: &Cluster, table: &str) -> String {
    cluster.psql(&format!("SELECT count(*), md5(string_agg(id || note, ',' ORDER BY id, note)) FROM {table}"))
}
