//! What comes out is checked by the server's own tools, starts, and holds the rows that the newest backup held.

use super::chain::{Chain, NAMES, rows};
use super::ours;
use crate::support::{Stop, TestDir, Tool, servers};

pub(super) fn chains_of_every_depth_start_with_every_row(chain: &Chain) {
    let major = chain.cluster.major();
    let cluster = &chain.cluster;
    let dir = TestDir::new();
    let methods = [&["--copy"][..], &["--copy-file-range"], &["--no-sync"], &["--link"]];
    for (newest, method) in methods.into_iter().enumerate() {
        let output = cluster.dir().join(&format!("combined{newest}"));
        let mut tool = ours(&dir).args(method).arg("-o").arg(&output).by_server_user();
        for (name, old) in chain.tablespaces(newest) {
            let new = cluster.dir().join(&format!("{name}.combined{newest}"));
            tool = tool.arg("-T").arg(format!("{}={}", old.display(), new.display()));
        }
        let inputs = NAMES[..=newest].iter().map(|name| chain.backup(name));
        tool.args(inputs).run().succeeded();
        cluster.server_tool("pg_verifybackup").arg(&output).run().succeeded();
        let label = std::fs::read_to_string(output.join("backup_label")).expect("read the label");
        assert!(!label.contains("INCREMENTAL"), "{label}");
        let combined = cluster.adopt(&output);
        combined.start();
        assert_eq!(rows(&combined), chain.rows[newest], "{major}, {method:?}");
        let host = cluster.socket_dir().display().to_string();
        let port = combined.port().to_string();
        let amcheck = Tool::new(servers::program(major, "pg_amcheck").expect("pg_amcheck"));
        let amcheck = amcheck.args(["-h", &host, "-p", &port, "-U", "postgres", "-a", "--install-missing"]);
        amcheck.args(["--heapallindexed"]).run().succeeded();
        combined.stop(Stop::Immediate);
    }
}
