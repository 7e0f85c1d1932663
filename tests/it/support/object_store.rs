//! A real S3-compatible server on loopback, with a bucket called `wal`.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::servers::{Port, find_program};
use super::{Running, TestDir, Tool, wait_until};

const ACCESS_KEY: &str = "AKIAPGWAKE";
const SECRET_KEY: &str = "not-a-secret";

/// The server; it ends when this is dropped.
pub(crate) struct ObjectStore {
    root: PathBuf,
    port: Port,
    running: Option<Running>,
}

/// The program, wherever `scripts/setup-tests` has put it.
pub(crate) fn program() -> Option<PathBuf> {
    let cache =
        std::env::var_os("PGWAKE_CACHE").map_or_else(|| PathBuf::from("/var/cache/pgwake"), PathBuf::from);
    let built = cache.join("s3s-fs/bin/s3s-fs");
    if built.is_file() { Some(built) } else { find_program("s3s-fs") }
}

impl ObjectStore {
    /// Starts one that keeps its objects in `dir`.
    #[track_caller]
    pub(crate) fn start(dir: &TestDir) -> ObjectStore {
        let root = dir.subdir("objects", 0o755);
        std::fs::create_dir(root.join("wal")).expect("make a bucket");
        let mut store = ObjectStore { root, port: Port::reserve(), running: None };
        store.resume();
        store
    }

    /// Starts it again.
    #[track_caller]
    pub(crate) fn resume(&mut self) {
        let tool = Tool::new(program().expect("s3s-fs is there"))
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, "--host", "127.0.0.1", "--port"])
            .arg(self.port.number().to_string())
            .arg(&self.root);
        self.running = Some(tool.timeout(std::time::Duration::from_secs(300)).spawn());
        let port = self.port.number();
        wait_until("the object store listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill9();
            running.wait();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its buckets are.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        let port = self.port.number();
        format!("s3://wal/{prefix}?endpoint=http://127.0.0.1:{port}&region=us-east-1")
    }

    /// What a program needs in its environment.
    pub(crate) fn variables() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }

    /// The same, for a shell.
    pub(crate) fn environment() -> String {
        format!("AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}")
    }

    /// What a program needs in its environment.
    pub(crate) fn credentials(tool: Tool) -> Tool {
        Self::variables().into_iter().fold(tool, |tool, (name, value)| tool.env(name, value))
    }
}
