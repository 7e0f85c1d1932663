//! Promise: a file says what the command line says, no secret is in it, and whoever reads logs by program reads all of them.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::command_line::under_python;
use crate::support::{Cluster, TestDir, Tool, wait_until};
use crate::{require_program, require_server};

fn objects(text: &str) -> Vec<Value> {
    let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(object).collect()
}

#[test]
fn a_receiver_takes_everything_from_a_file_and_goes_on_after_sighup() {
    require_server!();
    require_program!("python3");
    let primary = Cluster::builder()
        .hba("host all rose 127.0.0.1/32 scram-sha-256")
        .hba("host replication rose 127.0.0.1/32 scram-sha-256")
        .start();
    primary.create_role("rose", "REPLICATION", Some("right"));
    let received = primary.dir().subdir("received", 0o700);
    let password = primary.dir().file("password", 0o600, "right\n");
    let config = format!(
        "dbname = \"host=127.0.0.1 port={} user=rose\"\npassword-file = {password:?}\nlog-format = \"json\"\n\
         [receive]\ndirectory = {received:?}\nslot = \"filed\"\ncreate-slot = true\nmetrics = \"127.0.0.1:0\"\n",
        primary.port()
    );
    let config = primary.dir().file("pgwake.toml", 0o644, config);
    let tool = Tool::pgwake().args(["receive", "--config"]).arg(&config).by_server_user();
    // without a terminal, as a service
    let script =
        "import os, sys; os.getpgrp() == os.getpid() or os.setsid(); os.execv(sys.argv[1], sys.argv[1:])";
    let mut running = under_python(tool, script).spawn();
    running.wait_for_stderr("streaming started");
    wait_until("it uses the slot", || {
        primary.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'filed'") == "t"
    });
    running.signal(Signal::HUP);
    running.wait_for_stderr("received SIGHUP");
    assert!(running.is_running());
    running.terminate();
    let outcome = running.wait().succeeded();
    let lines = objects(&outcome.stderr);
    assert!(lines.len() >= 3 && lines.iter().all(|line| line["level"] == "INFO"), "{outcome}");
    assert!(!outcome.stderr.contains("right"), "{outcome}");

    // a password that a command prints; the environment counts more than the file, the command line more than both
    let conninfo = format!("host=127.0.0.1 port={} user=rose dbname=postgres", primary.port());
    let status = || Tool::pgwake().args(["slot", "list", "--json", "-d", &conninfo]).by_server_user();
    status().args(["--password-command", "echo right"]).run().succeeded().says("filed");
    status().args(["--password-command", "echo wrong"]).run().exited(1);
    status()
        .args(["--password-command", "exit 7"])
        .run()
        .exited(2)
        .complains("password command failed: exit status: 7");
    let list = || Tool::pgwake().args(["slot", "list", "--json", "--config"]).arg(&config).by_server_user();
    list().env("PGDATABASE", "postgres").run().succeeded().says("filed");
    list().env("PGPASSWORD", "wrong").run().exited(1);
    list().env("PGPORT", "1").run().exited(1).complains("port 1");
    list().args(["-p", "2"]).env("PGPORT", "1").run().exited(1).complains("port 2");
}

#[test]
fn a_terminal_that_goes_away_ends_a_receiver_well() {
    require_server!();
    require_program!("python3");
    let primary = Cluster::new();
    let received = primary.dir().subdir("received", 0o700);
    let script = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
while b"streaming started" not in shown:
    shown += os.read(terminal, 1024)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let tool = Tool::pgwake().args(["receive", "-d", &primary.conninfo(), "--start", "current", "-D"]);
    let tool = tool.arg(&received).by_server_user();
    let outcome = under_python(tool, script).run().succeeded();
    assert_eq!(outcome.stdout.trim(), "0", "{outcome}");
}

#[test]
fn every_error_is_an_object_where_the_log_is_json() {
    let dir = TestDir::new();
    let received = dir.subdir("received", 0o700);
    let json = |args: &[&str]| Tool::pgwake().args(["--log-format", "json"]).args(args).run();
    let only = |stderr: &str| {
        let lines = objects(stderr);
        assert_eq!(lines.len(), 1, "{stderr}");
        lines[0].clone()
    };
    let directory = received.to_str().expect("a path");
    let outcome = json(&["receive", "-n", "-d", "host=127.0.0.1 port=1 user=x", "-D", directory]).exited(1);
    let error = objects(&outcome.stderr).pop().expect("an error");
    assert_eq!((&error["level"], &error["exit_code"]), (&"ERROR".into(), &1.into()), "{outcome}");
    assert!(error["caused_by"].as_str().is_some_and(|text| text.contains("refused")), "{outcome}");
    let error = only(&json(&["receive"]).exited(2).stderr);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("--directory")), "{error}");
    let error = only(&json(&["receive", "-D", directory, "-d", "hots=a"]).exited(2).stderr);
    assert_eq!(error["exit_code"], 2, "{error}");
    let error = only(&json(&["--config", "/does/not/exist", "status"]).exited(2).stderr);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("could not read")), "{error}");
}

#[test]
fn mistakes_in_a_file_are_told_with_the_line_and_without_the_secret() {
    let dir = TestDir::new();
    let told = |text: &str| {
        let config = dir.file("pgwake.toml", 0o600, text);
        Tool::pgwake().args(["receive", "-D", "/nowhere", "--config"]).arg(&config).run().exited(2)
    };
    let outcome = told("[receive]\nslto = \"a\"\n").complains("line 2").complains("unknown key \"slto\"");
    outcome.complains("hint: The keys are the options of pgwake receive --help");
    let outcome = told("password = \"hunter2\"\n").complains("does not belong into this file");
    assert!(!outcome.complains("hint: ").stderr.contains("hunter2"));
    // what clap finds has a line, too
    let outcome = told("\n[receive]\nstatus-interval = \"soon\"\n").complains("--status-interval");
    outcome.complains("hint: \"status-interval\" comes from \"").complains("line 3.");
    let config = dir.file("open.toml", 0o600, "quiet = true\n");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).expect("open it to all");
    let tool = Tool::pgwake().args(["status"]).env("PGWAKE_CONFIG", &config);
    tool.run().exited(2).complains("everybody may write to it");
    // help does not need it to be right
    Tool::pgwake().args(["status", "--help"]).env("PGWAKE_CONFIG", &config).run().succeeded();
}
