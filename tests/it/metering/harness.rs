//! Receivers that are measured, and a client that asks them.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::cluster::Builder;
use crate::support::{Cluster, Running, Tool, wait_until};

/// A primary whose WAL is worth measuring.
pub(super) fn primary() -> Builder {
    Cluster::builder().wal_segsize(1).setting("wal_keep_size", "1GB").setting("wal_sender_timeout", "20s")
}

pub(super) fn directory(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().subdir(name, 0o700)
}

/// `pgwake receive` with a slot and metrics, somewhere on loopback.
pub(super) fn measured(conninfo: &str, directory: &Path) -> Tool {
    let tool = Tool::pgwake().args(["receive", "-w", "-d", conninfo, "--slot", "meter", "--create-slot"]);
    let tool = tool.args(["--metrics", "127.0.0.1:0", "-D"]).arg(directory);
    tool.by_server_user().timeout(Duration::from_secs(120))
}

/// A receiver, and where it answers.
pub(super) struct Measured {
    pub(super) running: Running,
    pub(super) port: u16,
}

/// Starts it and waits until it streams.
#[track_caller]
pub(super) fn streaming(tool: &Tool) -> Measured {
    let mut measured = started(tool);
    measured.running.wait_for_stderr("streaming started");
    // that is said when the server is asked for it
    wait_until("a server streams", || measured.ask("/readyz").0 == 200);
    measured
}

/// Starts it and waits until it answers.
#[track_caller]
pub(super) fn started(tool: &Tool) -> Measured {
    let mut running = tool.spawn();
    running.wait_for_stderr("/metrics");
    let said = running.stderr_so_far();
    let (_, port) = said.split_once("http://127.0.0.1:").expect("where the metrics are");
    let port = port.split('/').next().and_then(|port| port.parse().ok()).expect("a port");
    Measured { running, port }
}

impl Measured {
    /// Status and body.
    #[track_caller]
    pub(super) fn ask(&self, path: &str) -> (u16, String) {
        let answer = exchange(self.port, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let answer = answer.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    #[track_caller]
    pub(super) fn scrape(&self) -> Scrape {
        let (status, body) = self.ask("/metrics");
        assert_eq!(status, 200, "{body}");
        Scrape::parse(&body)
    }

    /// Ends it well.
    #[track_caller]
    pub(super) fn end(self) {
        self.running.terminate();
        self.running.wait().succeeded();
    }
}

/// Sends bytes, and reads until the other side has had enough.
pub(super) fn exchange(port: u16, request: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The samples of a scrape, by name and labels.
#[derive(Debug)]
pub(super) struct Scrape(pub(super) BTreeMap<String, f64>);

impl Scrape {
    #[track_caller]
    fn parse(text: &str) -> Scrape {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let before = samples.insert(name.to_owned(), value.parse().expect("a number"));
            assert_eq!(before, None, "{name} is there twice");
        }
        Scrape(samples)
    }

    #[track_caller]
    pub(super) fn value(&self, name: &str) -> f64 {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    pub(super) fn find(&self, name: &str) -> Option<f64> {
        self.0.get(&format!("pgwake_{name}")).copied()
    }
}
