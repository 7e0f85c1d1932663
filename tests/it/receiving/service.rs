//! Promise: a service manager knows how a receiver is.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{caught_up, directory, keeping_wal, make_wal, receive};
use crate::support::Tool;
use crate::{require_program, require_server};

/// Messages until one says `wanted`; what was said before is returned with it.
#[track_caller]
fn told(socket: &UnixDatagram, wanted: &str) -> String {
    let (started_at, mut said) = (Instant::now(), String::new());
    let mut buffer = [0; 4096];
    while started_at.elapsed() < Duration::from_secs(30) {
        if let Ok(len) = socket.recv(&mut buffer) {
            said.push_str(&String::from_utf8_lossy(&buffer[..len]));
            if said.contains(wanted) {
                return said;
            }
        }
    }
    panic!("never said {wanted:?}, but\n{said}");
}

#[test]
fn it_is_ready_says_how_far_it_is_that_it_lives_and_that_it_ends() {
    require_server!();
    let primary = keeping_wal(1).start();
    let directory = directory(&primary);
    let path = primary.dir().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind the manager's socket");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("open it to all");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set a timeout");
    let tool =
        receive(&primary.conninfo(), &directory).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let running = tool.spawn();
    told(&socket, "READY=1");
    make_wal(&primary, 2);
    caught_up(&primary);
    let said = told(&socket, "0 B behind");
    assert!(said.contains("STATUS=timeline 1: received 0/"), "{said}");
    told(&socket, "WATCHDOG=1");
    told(&socket, "WATCHDOG=1");
    running.terminate();
    told(&socket, "STOPPING=1");
    running.wait().exited(0);
}

/// The unit is one that systemd takes.
#[test]
fn the_unit_is_well_formed() {
    require_program!("systemd-analyze");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/pgwake-receive@.service");
    let text = std::fs::read_to_string(&unit).expect("read the unit");
    let dir = crate::support::TestDir::new();
    // an instance, with a program that exists
    let text = text.replace("/usr/bin/pgwake", env!("CARGO_BIN_EXE_pgwake"));
    let instance = dir.file("pgwake-receive@main.service", 0o644, text);
    let outcome = Tool::new("systemd-analyze").args(["verify", "--man=no"]).arg(&instance).run();
    let about_it: Vec<_> = outcome.stderr.lines().filter(|line| line.contains("pgwake-receive")).collect();
    assert!(outcome.code == Some(0) && about_it.is_empty(), "{outcome}");
}
