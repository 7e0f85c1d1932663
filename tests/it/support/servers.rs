//! Which PostgreSQL servers there are, who runs them, and what happens when one is missing.
//!
//! - `PGWAKE_TEST_MAJORS=13,17`: the majors to test against (15 unless set). Tests that name no major use the first.
//! - `PGWAKE_TEST_PG17=/path/to/bin`: where the programs of a major are. Otherwise `scripts/postgres --present`
//!   knows; a test never downloads a server.
//! - `PGWAKE_REQUIRE=15,17,root,strace`: a missing component of these is a failure; of others, a visible skip. With
//!   `CI` set and no list, everything is required.
//! - `PGWAKE_SKIPS=/path`: a file to which each skip is appended, for a summary at the end of a run.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Skips the test, visibly, unless that server is there: `require_server!(17)`; without a number, the default one.
#[macro_export]
macro_rules! require_server {
    () => {
        $crate::require_server!($crate::support::servers::default_major())
    };
    ($major:expr) => {
        let major: u32 = $major;
        if $crate::support::servers::bin_dir(major).is_none() {
            let hint = format!("get it with scripts/postgres {major}");
            $crate::support::servers::missing(&major.to_string(), "PostgreSQL", &hint);
            return;
        }
    };
}

/// Skips the test, visibly, unless the server says where a slot begins, as 15 and later do.
#[macro_export]
macro_rules! require_slot_positions {
    () => {
        $crate::require_server!();
        if $crate::support::servers::default_major() < 15 {
            $crate::support::servers::skipped("a server that says where a slot begins: 15 or later");
            return;
        }
    };
}

/// Skips the test, visibly, unless it runs as root.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::support::servers::is_root() {
            $crate::support::servers::missing("root", "to be", "mounting and changing users need it");
            return;
        }
    };
}

/// Skips the test, visibly, unless the program is in `PATH`: `require_program!("strace")`.
#[macro_export]
macro_rules! require_program {
    ($name:expr) => {
        if $crate::support::servers::find_program($name).is_none() {
            $crate::support::servers::missing($name, "the program", "install it");
            return;
        }
    };
}

/// The majors to test against.
pub(crate) fn majors() -> Vec<u32> {
    let list = std::env::var("PGWAKE_TEST_MAJORS").unwrap_or_else(|_| "15".to_owned());
    let parse = |word: &str| word.parse().unwrap_or_else(|_| panic!("PGWAKE_TEST_MAJORS: {word:?}"));
    list.split([',', ' ']).filter(|word| !word.is_empty()).map(parse).collect()
}

/// The major for a test that names none.
pub(crate) fn default_major() -> u32 {
    majors().first().copied().expect("PGWAKE_TEST_MAJORS names a major")
}

/// Where `initdb`, `pg_ctl` and `postgres` of a major are, if they are here.
pub(crate) fn bin_dir(major: u32) -> Option<PathBuf> {
    static KNOWN: OnceLock<Mutex<HashMap<u32, Option<PathBuf>>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().expect("no panic while looking for servers");
    known.entry(major).or_insert_with(|| look_for(major)).clone()
}

fn look_for(major: u32) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(format!("PGWAKE_TEST_PG{major}")) {
        return Some(PathBuf::from(dir));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres");
    let output = Command::new(script).args(["--present", &major.to_string()]).output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(dir.trim()))
}

/// One of PostgreSQL's programs, of exactly this major. Some builds of 14 have the server programs only.
pub(crate) fn program(major: u32, name: &str) -> Option<PathBuf> {
    bin_dir(major).map(|dir| dir.join(name)).filter(|path| path.exists())
}

/// A client program (`psql`, `pgbench`, `pg_basebackup` …), of this major or a newer one that can talk to it.
pub(crate) fn client_program(major: u32, name: &str) -> PathBuf {
    (major..=19)
        .find_map(|major| program(major, name))
        .or_else(|| find_program(name))
        .unwrap_or_else(|| panic!("no {name} that can talk to PostgreSQL {major}"))
}

/// A program in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// The `psql` of this system. Debian's is a Perl script that looks for the real one, which takes longer than most of what it is
/// asked here.
pub(crate) fn system_psql() -> Option<PathBuf> {
    let found = find_program("psql")?;
    if std::fs::canonicalize(&found).is_ok_and(|program| program.ends_with("pg_wrapper")) {
        let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let majors = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let programs = majors.map(|major| (major, format!("/usr/lib/postgresql/{major}/bin/psql").into()));
        let newest = programs.filter(|(_, program): &(u32, PathBuf)| program.is_file()).max();
        return newest.map(|(_, program)| program).or(Some(found));
    }
    Some(found)
}

/// Says that a test is skipped, or panics where the component is required. Used by the `require_…!` macros.
pub(crate) fn missing(component: &str, kind: &str, hint: &str) {
    let required = match std::env::var("PGWAKE_REQUIRE") {
        Ok(list) => list.split([',', ' ']).any(|word| word == component),
        Err(_) => std::env::var_os("CI").is_some(),
    };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(!required, "{test} needs {kind} {component}, and it is required here: {hint}");
    skipped(&format!("{kind} {component} ({hint})"));
}

/// Says that a test is skipped, for want of what the server that was chosen never has.
pub(crate) fn skipped(needs: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED: {test}: needs {needs}\n");
    // not eprint!, which the test harness keeps to itself when a test passes
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("PGWAKE_SKIPS") {
        let opened = OpenOptions::new().append(true).create(true).open(file);
        let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// The user that runs servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `postgres` when we are root, for a server refuses to run as root; nobody else (so: ourselves) otherwise.
pub(crate) fn server_user() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    *USER.get_or_init(|| is_root().then(|| lookup("postgres").expect("a user named postgres")))
}

fn lookup(name: &str) -> Option<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields =
        passwd.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    Some(User { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// A TCP port that no other test has, in this process or another, until it is dropped.
///
/// Ports lie below the range from which outgoing connections take theirs. The claim is the name of an abstract
/// socket, which the kernel frees with the process.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    pub(crate) fn reserve() -> Port {
        for _ in 0..10_000 {
            let number = fastrand::u16(20_000..32_000);
            let name = SocketAddr::from_abstract_name(format!("pgwake-test-port-{number}"));
            let claim = UnixListener::bind_addr(&name.expect("an abstract socket's name"));
            // nobody else on the machine listens there either
            if let (Ok(claim), Ok(_)) = (claim, TcpListener::bind(("127.0.0.1", number))) {
                return Port { number, _claim: claim };
            }
        }
        panic!("no free port between 20000 and 32000");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Whether anybody may read (or run) this file: every directory above it is open.
pub(crate) fn open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.permissions().mode());
    mode(path) & 0o005 == 0o005
        && path.ancestors().skip(1).all(|dir| dir.as_os_str().is_empty() || mode(dir) & 0o001 != 0)
}
