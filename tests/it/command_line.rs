//! What a shell, a terminal or a script may do to the program, and what it can rely on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::cloning::{beside_the_primary, create};
use crate::support::servers::{find_program, open_to_all};
use crate::support::{Cluster, TestDir, Tool, wait_until};
use crate::{require_program, require_server};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// A primary whose copy takes some seconds with [`slowly`].
fn primary() -> Cluster {
    let cluster = Cluster::new();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i; CHECKPOINT");
    cluster
}

fn slowly(primary: &Cluster, directory: &Path) -> Tool {
    create(primary, directory).args(["--max-rate", "8M"])
}

#[test]
fn a_hangup_and_a_quit_take_everything_back() {
    require_server!();
    let primary = primary();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::QUIT, "SIGQUIT")] {
        let mut run = slowly(&primary, &directory).spawn();
        run.wait_for_stderr("base backup starts");
        run.signal(signal);
        run.wait().exited(1).complains(&format!("interrupted by {name}"));
        assert_eq!(primary.psql(SLOTS), "0", "{name}");
        assert_eq!(beside_the_primary(&primary), before, "{name}");
    }
}

#[test]
fn a_terminal_that_goes_away_takes_everything_back() {
    require_server!();
    require_program!("python3");
    let primary = primary();
    let directory = primary.dir().join("standby");
    let before = beside_the_primary(&primary);
    // the terminal is closed under the program; its end is waited for, and shown
    let script = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
while b"base backup starts" not in shown:
    shown += os.read(terminal, 1024)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let outcome = under_python(slowly(&primary, &directory), script).run().succeeded();
    assert_eq!(outcome.stdout.trim(), "1", "{outcome}");
    assert_eq!(primary.psql(SLOTS), "0");
    assert_eq!(beside_the_primary(&primary), before);
}

#[test]
fn nohup_is_heeded() {
    require_server!();
    require_program!("nohup");
    let primary = primary();
    let directory = primary.dir().join("standby");
    let mut run = slowly(&primary, &directory).under(find_program("nohup").unwrap(), []).spawn();
    run.wait_for_stderr("base backup starts");
    run.signal(Signal::HUP);
    run.wait().succeeded();
    assert!(directory.join("PG_VERSION").exists());
}

#[test]
fn an_interruption_does_not_wait_for_pg_ctl() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().join("standby");
    let programs = primary.dir().subdir("socket_bin", 0o755);
    std::os::unix::fs::symlink(primary.bin_dir().join("postgres"), programs.join("postgres")).unwrap();
    primary.dir().file("socket_bin/pg_ctl", 0o755, "#!/bin/sh\ntouch $0.began\nexec sleep 20\n");
    let run = create(&primary, &directory).args(["--start", "--bindir"]).arg(&programs).spawn();
    let began = programs.join("pg_ctl.began");
    wait_until("pg_ctl runs", || began.exists());
    let asked = std::time::Instant::now();
    run.interrupt();
    run.wait().exited(1).complains("interrupted by SIGINT; the standby in");
    assert!(asked.elapsed().as_secs() < 10, "it took {:?}", asked.elapsed());
    assert!(directory.join("PG_VERSION").exists());
}

#[test]
fn a_password_prompt_can_be_answered_and_left() {
    require_server!();
    require_program!("python3");
    let primary = Cluster::builder()
        .hba("host replication rose 127.0.0.1/32 scram-sha-256")
        .hba("host all rose 127.0.0.1/32 reject")
        .start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    let conninfo = format!("host=127.0.0.1 port={} user=rose", primary.port());
    let clone = |more: &[&str]| {
        let tool = Tool::pgwake().args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "-D"]);
        tool.arg(primary.dir().join("standby")).args(more).by_server_user()
    };
    let receive = |more: &[&str]| {
        let tool = Tool::pgwake().args(["receive", "-d", &conninfo, "-D"]);
        tool.arg(primary.dir().join("received")).args(more).by_server_user()
    };
    // how it ended, and whether the terminal shows again what is typed
    for (tool, typed, ended) in [
        (clone(&["--dry-run"]), "right\\n", "0 True"),
        (clone(&["--dry-run", "-W"]), "right\\n", "0 True"),
        (clone(&["--dry-run"]), "\\x03", "1 True"),
        (clone(&["-W"]), "hal\\x03", "1 True"),
        (clone(&["-W"]), "\\x1c", "1 True"),
        (clone(&["-W"]), "\\x04", "1 True"),
        (receive(&[]), "\\x03", "1 True"),
        (receive(&["-W"]), "\\x03", "1 True"),
    ] {
        let script = r#"
import fcntl, os, sys, termios
terminal, kept = os.openpty()
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(kept, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(kept, fd)
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
while b"Password for user rose: " not in shown:
    shown += os.read(terminal, 1024)
while termios.tcgetattr(kept)[3] & termios.ECHO:
    pass
os.write(terminal, b"TYPED")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(code, bool(termios.tcgetattr(kept)[3] & termios.ECHO))
os.close(kept)
try:
    while shown := os.read(terminal, 4096):
        sys.stderr.buffer.write(shown)
except OSError:
    pass # that is how a terminal ends
"#;
        let outcome = under_python(tool, &script.replace("TYPED", typed)).run().succeeded();
        assert_eq!(outcome.stdout.trim(), ended, "{typed}: {outcome}");
        let interrupted = typed.ends_with("x03") || typed.ends_with("x1c");
        assert_eq!(outcome.stderr.contains("while a password was asked for"), interrupted, "{outcome}");
        assert!(!outcome.stderr.contains("hal") && !outcome.stderr.contains("right"), "{outcome}");
    }
}

#[test]
fn nobody_need_read_what_it_says() {
    require_server!();
    require_program!("sh");
    let primary = Cluster::new();
    for more in [&["--dry-run"][..], &["--dry-run", "--json"], &[]] {
        let closed = ["-c", "exec 9>&1; { \"$@\"; echo $? >&9; } | true", "sh"].map(Into::into);
        let tool = create(&primary, &primary.dir().join("standby")).args(more);
        let outcome = tool.under(find_program("sh").unwrap(), closed).run();
        assert_eq!(outcome.stdout.trim(), "0", "{more:?}: {outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{more:?}: {outcome}");
    }
    // but who counts on the answer has to hear that it is not there
    for args in [
        &["status", "-d", &primary.conninfo()][..],
        &["slot", "list", "--json", "-d", &primary.conninfo()],
        &["--help"],
    ] {
        let full = ["-c", "exec \"$@\" >/dev/full", "sh"].map(Into::into);
        let outcome = Tool::pgwake().args(args).under(find_program("sh").unwrap(), full).run().exited(1);
        let outcome = outcome.complains("error: could not write to standard output\n");
        outcome.complains("  caused by: No space left on device");
    }
    // no log line is worth more than the work
    std::fs::remove_dir_all(primary.dir().join("standby")).unwrap();
    let deaf = ["-c", "exec 2>/dev/full; exec \"$@\"", "sh"].map(Into::into);
    let tool = create(&primary, &primary.dir().join("standby")).arg("--use-existing-slot");
    tool.under(find_program("sh").unwrap(), deaf).run().succeeded();
}

#[test]
fn a_path_that_is_not_utf_8_is_told_as_json() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().path().join(OsStr::from_bytes(b"n\xff"));
    for more in [&["--dry-run"][..], &[]] {
        let outcome = create(&primary, &directory).arg("--json").args(more).run().succeeded();
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert!(report["directory"].as_str().unwrap().ends_with("n\u{fffd}"), "{outcome}");
    }
}

#[test]
fn a_program_hears_of_a_usage_error() {
    for args in [
        &["standby", "create", "--json"][..],
        &["standby", "create", "-D", "/x", "--slot", "a", "--waldir", "relative", "--json"],
        &["standby", "create", "-D", "/x", "--slot", "a", "--json", "-d", "hots=typo"],
        &["receive", "--json", "-D", "/x", "-d", "sslmode=maybe"],
        &["receive", "-D", "/x", "--start", "yesterday", "--json"],
    ] {
        let outcome = Tool::pgwake().args(args).run().exited(2);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(report["error"]["exit_code"], 2, "{outcome}");
        let message = report["error"]["message"].as_str().unwrap();
        assert!(outcome.stderr.starts_with(&format!("error: {message}\n")), "{outcome}");
    }
}

#[test]
fn help_fits_a_terminal_and_begins_with_what_is_needed() {
    for (command, needed) in [
        (&["standby", "create"][..], &["--pgdata", "--slot", "--start", "--set", "--dry-run"][..]),
        (&["receive"], &["--directory", "--slot", "--create-slot", "--start"]),
        (&["slot", "list"], &["--json", "--dbname"]),
        (&["slot", "create"], &["--no-reserve", "--json", "--dbname"]),
        (&["slot", "drop"], &["--wait", "--json", "--dbname"]),
        (&["status"], &["--watch", "--json", "--dbname"]),
        (&[], &["--verbose"]),
    ] {
        let help = Tool::pgwake().args(command).arg("--help").env("COLUMNS", "80").run().succeeded().stdout;
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let names: Vec<_> = options
            .filter_map(|line| line.split([' ', '.', '[']).find(|word| word.starts_with("--")))
            .collect();
        assert!(names.starts_with(needed), "{names:?}");
    }
}

/// A Python script with the program's command line as its arguments.
/// Shells and `man` get their knowledge from the same definitions as the parser.
#[test]
fn completions_complete_and_every_command_has_a_manual_page() {
    let dir = TestDir::new();
    let completions =
        dir.file("pgwake.bash", 0o600, Tool::pgwake().args(["completions", "bash"]).run().succeeded().stdout);
    let script = r#"source "$1"; COMP_WORDS=(pgwake receive --sl); COMP_CWORD=2; _pgwake pgwake --sl receive; echo "${COMPREPLY[@]}""#;
    let bash = Tool::new("bash").args(["-c", script, "bash"]).arg(&completions);
    assert_eq!(bash.run().succeeded().stdout.trim(), "--slot");
    let pages = dir.subdir("man1", 0o700);
    Tool::pgwake().arg("manual").arg(&pages).run().succeeded();
    for (page, says) in [
        ("pgwake.1", "standby"),
        ("pgwake-receive.1", "Replication slot"),
        ("pgwake-standby-create.1", "primary_conninfo"),
        ("pgwake-wal-verify.1", "timeline"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).expect("a manual page");
        assert!(text.starts_with(".ie") && text.contains(says), "{page}: {text}");
    }
    Tool::pgwake()
        .arg("manual")
        .arg(dir.join("missing"))
        .run()
        .exited(1)
        .complains("could not write manual page");
}

pub(crate) fn under_python(tool: Tool, script: &str) -> Tool {
    // one that the servers' user can run too
    let path = std::env::var_os("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&path).map(|directory| directory.join("python3"));
    let python = pythons.filter(|python| python.is_file()).find(|python| open_to_all(python));
    tool.under(python.unwrap_or_else(|| "python3".into()), ["-c".into(), script.into()])
}
