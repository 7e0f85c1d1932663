//! `postmaster.pid`: whether a server runs on a data directory, and where it listens.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::backup::confined::FileError;

/// A server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postmaster {
    /// Its process.
    pub pid: i32,
    /// Where a client on this machine finds it; `None` while it starts.
    pub address: Option<PostmasterAddress>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostmasterAddress {
    /// Its socket's directory, or else an address of this machine.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The longest content taken, in bytes: eight short lines.
const MAX_LEN: usize = 8 << 10;

/// The server on `directory`; `None` when none runs. What a server that was killed left behind counts for nothing.
pub fn running(directory: &Path) -> Result<Option<Postmaster>, FileError> {
    let path = directory.join("postmaster.pid");
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new("read file", path, error)),
    };
    let text = String::from_utf8_lossy(&content[..content.len().min(MAX_LEN)]);
    Ok(parse(&text).filter(|postmaster| is_alive(postmaster.pid, directory)))
}

/// Lines: process, directory, start time, port, socket directory, listening address, shared memory, state.
fn parse(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // a single-user server has a negative number
    let pid = lines.first()?.parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 0)?;
    let host = match (lines.get(4), lines.get(5)) {
        (Some(directory), _) if !directory.is_empty() => Some((*directory).to_owned()),
        (_, Some(&("*" | "0.0.0.0"))) => Some("127.0.0.1".to_owned()),
        (_, Some(&"::")) => Some("::1".to_owned()),
        (_, Some(address)) if !address.is_empty() => Some((*address).to_owned()),
        _ => None,
    };
    let port = lines.get(3).and_then(|port| port.parse().ok());
    let address = host.zip(port).map(|(host, port)| PostmasterAddress { host, port });
    Some(Postmaster { pid, address })
}

/// Whether the process is there, and is this directory's: its number may be another's by now.
fn is_alive(pid: i32, directory: &Path) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    if !matches!(test_kill_process(process), Ok(()) | Err(Errno::PERM)) {
        return false;
    }
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
    match (works_in, directory.canonicalize()) {
        (Ok(works_in), Ok(directory)) => works_in == directory,
        // who may not look believes the file
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<(String, u16)> {
        parse(text)?.address.map(|address| (address.host, address.port))
    }

    #[test]
    fn a_socket_comes_before_an_address() {
        let text = "77\n/data\n1795350744\n5433\n/run/postgresql\n*\n 10010709   9338942\nready   \n";
        assert_eq!(parse(text).unwrap().pid, 77);
        assert_eq!(address(text), Some(("/run/postgresql".to_owned(), 5433)));
        assert_eq!(address("77\n/data\n1\n5433\n\n*\n"), Some(("127.0.0.1".to_owned(), 5433)));
        assert_eq!(address("77\n/data\n1\n5433\n\ndb1\n"), Some(("db1".to_owned(), 5433)));
        // while it starts
        assert_eq!(address("77\n/data\n1\n5433\n"), None);
        assert_eq!(parse("-77\n").unwrap().pid, 77);
        for text in ["", "x", "0", "-2147483648"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_was_left_behind_is_no_server() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(running(directory.path()).unwrap(), None);
        let path = directory.path().join("postmaster.pid");
        // this process lives, and works elsewhere
        std::fs::write(&path, format!("{}\n/data\n1\n5433\n/tmp\n\n", std::process::id())).unwrap();
        assert_eq!(running(directory.path()).unwrap(), None);
        std::fs::write(&path, "2147483646\n/data\n1\n5433\n/tmp\n\n").unwrap();
        assert_eq!(running(directory.path()).unwrap(), None);
    }
}
