//! `pgwake status` shows a topology as it is: who follows whom, how far behind, what is down, and what may not be seen.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::servers::open_to_all;
use crate::support::{Cluster, Outcome, Port, Running, Tool, wait_until};
use crate::{require_program, require_server};

/// A primary, a standby, a standby of that one, and a receiver.
struct Topology {
    primary: Cluster,
    standby: Cluster,
    cascaded: Cluster,
    receiver: Running,
}

impl Topology {
    fn start() -> Topology {
        let primary = Cluster::new();
        let standby = standby_of(&primary, &primary, "standby1");
        let cascaded = standby_of(&primary, &standby, "standby2");
        let directory = primary.dir().subdir("received", 0o700);
        let receive =
            ["receive", "-w", "-d", &primary.tcp_conninfo(), "--slot", "archive1", "--create-slot", "-D"];
        let mut receiver = Tool::pgwake().args(receive).arg(directory).by_server_user().spawn();
        receiver.wait_for_stderr("streaming started");
        primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "2");
        standby.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1");
        Topology { primary, standby, cascaded, receiver }
    }

    /// All three, the lowest first, and one where nobody is.
    fn conninfo(&self, nobody: &Port) -> String {
        let ports = [self.cascaded.port(), self.primary.port(), self.standby.port(), nobody.number()];
        hosts(&ports)
    }
}

fn hosts(ports: &[u16]) -> String {
    let list = |text: Vec<String>| text.join(",");
    format!(
        "host={} port={} user=postgres dbname=postgres",
        list(ports.iter().map(|_| "127.0.0.1".to_owned()).collect()),
        list(ports.iter().map(ToString::to_string).collect())
    )
}

fn standby_of(home: &Cluster, upstream: &Cluster, name: &str) -> Cluster {
    let directory = home.dir().join(name);
    let create = ["standby", "create", "-d", &upstream.tcp_conninfo(), "--slot", name, "-D"];
    Tool::pgwake().args(create).arg(&directory).by_server_user().run().succeeded();
    let standby = home.adopt(&directory);
    standby.start();
    let streams = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{name}'");
    upstream.wait_for(&streams, "streaming");
    standby
}

fn status(conninfo: &str, more: &[&str]) -> Tool {
    Tool::pgwake().args(["status", "-w", "-d", conninfo]).args(more)
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// The one host's object.
fn only_server(conninfo: &str) -> Value {
    let mut all = json(&status(conninfo, &["--json"]).run().succeeded());
    assert_eq!(all["servers"].as_array().map(Vec::len), Some(1));
    all["servers"][0].take()
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = list.as_array().and_then(|list| list.iter().find(|row| row[key] == name));
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[test]
fn a_cascade_is_seen_as_what_it_is() {
    require_server!();
    let topology = Topology::start();
    let nobody = Port::reserve();
    let conninfo = topology.conninfo(&nobody);
    let all = json(&status(&conninfo, &["--json"]).run().succeeded());
    let [cascaded, primary, standby, down] = [0, 1, 2, 3].map(|index| &all["servers"][index]);

    assert_eq!(
        (&primary["in_recovery"], &primary["upstream_server"]),
        (&false.into(), &Value::Null),
        "{primary}"
    );
    assert_eq!(
        (&standby["in_recovery"], &standby["upstream_server"]),
        (&true.into(), &1.into()),
        "{standby}"
    );
    assert_eq!(
        (&cascaded["in_recovery"], &cascaded["upstream_server"]),
        (&true.into(), &2.into()),
        "{cascaded}"
    );
    assert!(primary["version"].as_str().unwrap().starts_with(&topology.primary.major().to_string()));
    for server in [primary, standby, cascaded] {
        assert_eq!(server["error"], Value::Null);
        assert_eq!(server["system_identifier"], primary["system_identifier"]);
        assert_eq!((&server["timeline"], &server["sees_all_statistics"]), (&1.into(), &true.into()));
        assert!(server["lsn"].is_string() && server["wal_bytes_per_second"].is_u64(), "{server}");
    }
    assert!(down["error"].as_str().unwrap().contains("refused"), "{down}");
    assert_eq!((&down["version"], &down["downstreams"]), (&Value::Null, &Value::Array(vec![])));

    let row = named(&primary["downstreams"], "application_name", "standby1");
    assert_eq!(
        (&row["state"], &row["sync_state"], &row["server"]),
        (&"streaming".into(), &"async".into(), &2.into())
    );
    assert_eq!((&row["address"], &row["sync_priority"]), (&"127.0.0.1".into(), &0.into()));
    assert!(
        ["sent_lsn", "write_lsn", "flush_lsn", "replay_lsn"].iter().all(|lsn| row[lsn].is_string()),
        "{row}"
    );
    assert!(row["behind_bytes"].is_u64(), "{row}");
    let receiver = named(&primary["downstreams"], "application_name", "pgwake");
    assert_eq!((&receiver["replay_lsn"], &receiver["server"]), (&Value::Null, &Value::Null), "{receiver}");
    assert_eq!(named(&standby["downstreams"], "application_name", "standby2")["server"], 0);
    assert_eq!(standby["receiver"]["slot"], "standby1");
    assert_eq!(standby["replay"]["paused"], false);
    assert_eq!(named(&primary["slots"], "name", "archive1")["used_by"]["application_name"], "pgwake");

    let text = status(&conninfo, &[]).run().succeeded();
    let lines: Vec<&str> = text.stdout.lines().collect();
    let at = |begin: &str| {
        let found = lines.iter().position(|line| line.starts_with(begin));
        found.unwrap_or_else(|| panic!("no line begins with {begin:?}: {text}"))
    };
    let (first, second, third) = (
        at(&format!("127.0.0.1:{} ", topology.primary.port())),
        at(&format!("└ 127.0.0.1:{} ", topology.standby.port())),
        at(&format!("  └ 127.0.0.1:{} ", topology.cascaded.port())),
    );
    assert_eq!((second, third), (first + 1, first + 2), "{text}");
    assert_eq!(at("└ standby2 "), at("standby1 ") + 1, "{text}");
    assert!(lines[at(&format!("127.0.0.1:{} ", nobody.number()))].contains("no answer"), "{text}");
}

#[test]
fn a_standby_whose_primary_is_gone_says_whom_it_should_follow() {
    require_server!();
    let topology = Topology::start();
    let Topology { primary, standby, receiver, .. } = &topology;
    receiver.terminate();
    primary.stop(crate::support::Stop::Immediate);
    standby.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0");
    let conninfo = hosts(&[primary.port(), standby.port()]);
    let all = json(&status(&conninfo, &["--json"]).run().succeeded());
    assert!(all["servers"][0]["error"].is_string(), "{all}");
    assert_eq!(all["servers"][1]["upstream_server"], 0, "{all}");
    assert_eq!(all["servers"][1]["configured_upstream"]["port"], primary.port(), "{all}");
    let text = status(&conninfo, &[]).run().succeeded();
    text.says(&format!("127.0.0.1:{} (not connected)", primary.port()));
}

#[test]
fn a_role_sees_what_it_may_and_is_told_of_the_rest() {
    require_server!();
    let topology = Topology::start();
    let primary = &topology.primary;
    primary.create_role("rose", "", None);
    primary.create_role("watcher", "", None);
    primary.psql("GRANT pg_monitor TO watcher");
    let conninfo = |role: &str| format!("host=127.0.0.1 port={} user={role} dbname=postgres", primary.port());

    let watched = only_server(&conninfo("watcher"));
    assert_eq!((&watched["sees_all_statistics"], &watched["may_not_see"]), (&true.into(), &Value::Null));
    assert_eq!(named(&watched["downstreams"], "application_name", "standby1")["state"], "streaming");

    let blind = only_server(&conninfo("rose"));
    assert_eq!(blind["sees_all_statistics"], false);
    assert!(blind["may_not_see"].as_str().unwrap().contains("GRANT pg_monitor TO \"rose\";"), "{blind}");
    let row = named(&blind["downstreams"], "application_name", "standby1");
    assert!(row["pid"].is_number() && row["state"].is_null() && row["address"].is_null(), "{row}");
    assert!(
        blind["lsn"].is_string() && blind["system_identifier"].is_string()
            || blind["system_identifier"].is_number()
    );
    let text =
        status(&conninfo("rose"), &[]).run().succeeded().says("note: role \"rose\" may not see addresses");
    assert!(text.stdout.contains("\nstandby1"), "{text}");
}

#[test]
fn commits_that_wait_are_explained() {
    require_server!();
    let primary = Cluster::builder().setting("synchronous_standby_names", "ANY 1 (witness)").start();
    let server = only_server(&primary.conninfo());
    assert_eq!(server["synchronous_standbys_missing"], 1, "{server}");
    status(&primary.conninfo(), &[]).run().succeeded().says("warning: commits wait").says("ANY 1 (witness)");
    let directory = primary.dir().subdir("received", 0o700);
    let conninfo = format!("{} application_name=witness", primary.conninfo());
    let receive = ["receive", "-w", "-d", &conninfo, "--start", "current", "-D"];
    let _receiver = Tool::pgwake().args(receive).arg(directory).by_server_user().spawn();
    primary.wait_for("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'", "quorum");
    let server = only_server(&primary.conninfo());
    assert_eq!(server["synchronous_standbys_missing"], 0, "{server}");
    let text = status(&primary.conninfo(), &[]).run().succeeded().says("quorum 1");
    assert!(!text.stdout.contains("commits wait"), "{text}");
}

#[test]
fn base_backups_are_shown_while_they_run() {
    require_server!();
    let primary = Cluster::new();
    primary.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CHECKPOINT");
    let create =
        ["standby", "create", "-d", &primary.conninfo(), "--slot", "standby1", "--max-rate", "1M", "-D"];
    let mut run = Tool::pgwake().args(create).arg(primary.dir().join("standby")).by_server_user().spawn();
    run.wait_for_stderr("base backup starts");
    primary.wait_for("SELECT phase FROM pg_stat_progress_basebackup", "streaming database files");
    let server = only_server(&primary.conninfo());
    let backup = &server["base_backups"][0];
    assert_eq!(backup["phase"], "streaming database files");
    assert!(backup["streamed_bytes"].is_u64(), "{backup}");
    status(&primary.conninfo(), &[]).run().succeeded().says("BASE BACKUP").says("streaming database files");
    run.interrupt();
    run.wait().exited(1);
}

#[test]
fn hostile_names_are_printed_harmlessly() {
    require_server!();
    let primary = Cluster::new();
    let directory = primary.dir().subdir("received", 0o700);
    let mut receiver = Tool::pgwake()
        .args(["receive", "-w", "-d"])
        .arg(format!("{} application_name='\x1b]0;owned\x07\u{9b}2J'", primary.conninfo()))
        .args(["--start", "current", "-D"])
        .arg(directory)
        .by_server_user()
        .spawn();
    receiver.wait_for_stderr("streaming started");
    for more in [&[][..], &["--json"]] {
        let outcome = status(&primary.conninfo(), more).run().succeeded();
        assert!(outcome.stdout.contains("streaming") && outcome.stdout.contains("owned"), "{outcome}");
        assert!(outcome.stdout.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", outcome.stdout);
    }
}

#[test]
fn a_server_that_cannot_be_asked_is_an_error_with_a_hint() {
    require_server!();
    let nobody = Port::reserve();
    let other = Port::reserve();
    let one = status(&hosts(&[nobody.number()]), &["--json"]).run().exited(1);
    let error = &json(&one)["error"];
    assert_eq!(error["message"], "could not look at the server");
    assert!(error["hint"].as_str().unwrap().contains("Nothing listens there"), "{one}");
    let two = status(&hosts(&[nobody.number(), other.number()]), &[]).run().exited(1);
    two.complains("could not look at any of the 2 hosts").complains("hint: ");
    status("hots=typo", &[]).run().exited(2);
    status(&hosts(&[nobody.number()]), &["--watch", "0"]).run().exited(2).complains("between 0.1 and 3600");
}

#[test]
fn a_server_that_hangs_is_said_to_within_the_timeout() {
    require_server!();
    let primary = Cluster::new();
    // accepts, and never says a word
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = silent.local_addr().expect("its address").port();
    let conninfo = format!("{} connect_timeout=2", hosts(&[port, primary.port()]));
    let outcome = status(&conninfo, &[]).run().succeeded();
    assert!(outcome.elapsed < Duration::from_secs(20), "{outcome}");
    let outcome = outcome.says("timeout expired");
    assert!(outcome.stdout.contains(&format!("127.0.0.1:{} ", primary.port())), "{outcome}");
}

#[test]
fn watching_without_a_terminal_prints_again_and_again() {
    require_server!();
    let primary = Cluster::new();
    let mut plain = status(&primary.conninfo(), &["--watch", "0.2"]).spawn();
    wait_until("there were three tables", || plain.stdout_so_far().matches("SERVER").count() >= 3);
    assert!(plain.is_running() && !plain.stdout_so_far().contains('\x1b'));
    plain.terminate();
    plain.wait().succeeded();

    let mut lines = status(&primary.conninfo(), &["--watch", "0.2", "--json"]).spawn();
    wait_until("there were three lines", || lines.stdout_so_far().lines().count() >= 3);
    let first = lines.stdout_so_far().lines().next().map(serde_json::from_str::<Value>).unwrap();
    assert_eq!(first.unwrap()["servers"][0]["in_recovery"], false);
    // a server that goes away is said to be so, and found again
    primary.stop(crate::support::Stop::Fast);
    wait_until("it is missed", || {
        lines
            .stdout_so_far()
            .lines()
            .last()
            .is_some_and(|line| line.contains("refused") || line.contains("No such file"))
    });
    primary.start();
    wait_until("it is found again", || {
        lines.stdout_so_far().lines().last().is_some_and(|line| line.contains("\"error\":null"))
    });
    assert!(lines.is_running());
    lines.interrupt();
    lines.wait().succeeded();
}

/// Runs the view on a terminal of its own, does something to it, and says how it ended, what was shown, and whether the
/// terminal is as it was.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, signal, struct, sys, termios
terminal, kept = os.openpty()
def size(rows, columns):
    fcntl.ioctl(kept, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
size(40, 80)
before = termios.tcgetattr(kept)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(kept, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(kept, fd)
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
def until(text):
    global shown
    start = len(shown)
    while text not in shown[start:]:
        shown += os.read(terminal, 65536)
until(b"q quits")
assert not termios.tcgetattr(kept)[3] & (termios.ECHO | termios.ICANON)
DEED
os.set_blocking(terminal, False)
code = None
while code is None:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        code = os.waitstatus_to_exitcode(status)
    try:
        shown += os.read(terminal, 65536)
    except BlockingIOError:
        pass
left = shown.rstrip().endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l") and b"\x1b[?1049h" in shown
print(code, left, termios.tcgetattr(kept) == before)
"#;

#[test]
fn the_view_gives_the_terminal_back_however_it_ends() {
    require_server!();
    require_program!("python3");
    let primary = Cluster::new();
    for (deed, ended) in [
        ("os.write(terminal, b'xq')", "0 True True"),
        ("os.write(terminal, b'\\x03')", "0 True True"),
        ("os.kill(pid, signal.SIGTERM)", "0 True True"),
        ("os.kill(pid, signal.SIGHUP)", "0 True True"),
        // Ctrl-Z does not leave a half-drawn screen behind
        ("os.write(terminal, b'\\x1a'); until(b'q quits'); os.write(terminal, b'q')", "0 True True"),
        // drawn anew for another size, before the next look
        ("size(20, 30); until(b'q quits'); os.write(terminal, b'q')", "0 True True"),
    ] {
        let every = if deed.contains("size") { "600" } else { "0.2" };
        let tool = status(&primary.conninfo(), &["--watch", every]);
        let outcome = under_python(tool, &ON_A_TERMINAL.replace("DEED", deed)).run().succeeded();
        assert_eq!(outcome.stdout.trim(), ended, "{deed}: {outcome}");
    }
}

/// A Python script with the program's command line as its arguments.
fn under_python(tool: Tool, script: &str) -> Tool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&path).map(|directory| directory.join("python3"));
    let python = pythons.filter(|python| python.is_file()).find(|python| open_to_all(Path::new(python)));
    tool.under(python.unwrap_or_else(|| "python3".into()), ["-c".into(), script.into()])
}
