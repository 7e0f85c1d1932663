//! Whatever is wrong with a server: each of the operator's commands says it in one clear sentence, in time, with what to
//! type next, and repeats no password.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::require_server;
use crate::support::proxy::{Direction, Proxy};
use crate::support::{Cluster, Outcome, Stop, Tool};

/// The commands, without whom they are about.
const COMMANDS: [&[&str]; 9] = [
    &["check"],
    &["status"],
    &["slot", "create", "troubled"],
    &["slot", "list"],
    &["slot", "drop", "troubled"],
    &["standby", "status"],
    &["standby", "promote"],
    &["standby", "follow"],
    &["standby", "wait", "--lsn", "7F/0", "--timeout", "2"],
];

/// A primary and its standby, which run.
struct Scene {
    primary: Cluster,
    standby: Cluster,
}

impl Scene {
    fn new() -> Scene {
        let primary = Cluster::builder()
            .hba("host all,replication rose 127.0.0.1/32 scram-sha-256")
            .hba("host all,replication nobody 127.0.0.1/32 trust")
            .start();
        primary.create_role("rose", "REPLICATION", Some("right"));
        primary.create_role("nobody", "", None);
        let directory = primary.dir().join("standby1");
        let create =
            Tool::pgwake().args(["standby", "create", "--slot", "standby1", "-d", &primary.conninfo(), "-D"]);
        create.arg(&directory).by_server_user().run().succeeded();
        let standby = primary.adopt(&directory);
        standby.start();
        let streaming = "SELECT application_name, state FROM pg_stat_replication";
        primary.wait_for(streaming, "standby1|streaming");
        Scene { primary, standby }
    }

    /// A command about the server that `conninfo` leads to; `follow` is the standby's.
    fn tool(&self, command: &[&str], conninfo: &str) -> Tool {
        let tool = Tool::pgwake().args(command).args(["-w", "-d", conninfo]).by_server_user();
        match command {
            ["standby", "follow"] => tool.arg("-D").arg(self.standby.data_dir()),
            _ => tool,
        }
    }

    /// All commands at once.
    #[track_caller]
    fn all_say(&self, conninfo: &str, causes: &[&str], within: Duration) {
        let running = COMMANDS.map(|command| self.tool(command, conninfo).spawn());
        for outcome in running.map(|running| running.wait()) {
            assert_told(&outcome, causes, within);
        }
        self.assert_unchanged();
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert_eq!(self.standby.psql("SELECT pg_is_in_recovery()"), "t");
        assert_eq!(self.primary.psql("SELECT slot_name FROM pg_replication_slots"), "standby1");
    }
}

/// One error, one of its causes, one thing to do, and that in time.
#[track_caller]
fn assert_told(outcome: &Outcome, causes: &[&str], within: Duration) {
    let of = |start: &str| outcome.stderr.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert_eq!((of("error: "), of("hint: ")), (1, 1), "{outcome}");
    assert!(causes.iter().any(|cause| outcome.stderr.contains(cause)), "none of {causes:?}\n{outcome}");
    assert!(outcome.stderr.lines().count() <= 5, "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
    assert!(outcome.elapsed < within, "{outcome}");
    assert!(!outcome.stderr.contains("wrong7"), "{outcome}");
}

/// What needs no waiting may still take a while on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn over_tcp(port: u16, more: &str) -> String {
    format!("host=127.0.0.1 port={port} dbname=postgres {more}")
}

#[test]
fn a_wrong_password() {
    require_server!();
    let scene = Scene::new();
    let cause = ["password authentication failed for user \"rose\""];
    for server in [&scene.primary, &scene.standby] {
        scene.all_say(&over_tcp(server.port(), "user=rose password=wrong7"), &cause, SOON);
    }
    let none = over_tcp(scene.primary.port(), "user=rose");
    scene.all_say(&none, &["no password supplied"], SOON);
}

#[test]
fn a_server_that_is_not_there() {
    require_server!();
    let scene = Scene::new();
    let port = crate::support::Port::reserve();
    let nobody = over_tcp(port.number(), "user=postgres");
    scene.all_say(&nobody, &["Connection refused"], SOON);
    scene.all_say("host=/nonexistent user=postgres", &["No such file or directory"], SOON);
    scene.all_say("host=no.such.host.invalid user=postgres", &["could not translate host name"], SOON);
}

/// An address that swallows what is sent there: a listener whose queue is full.
struct BlackHole {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
    addr: SocketAddr,
}

impl BlackHole {
    fn new() -> BlackHole {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
        rustix::net::listen(&listener, 0).expect("a short queue");
        let addr = listener.local_addr().expect("an address");
        let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(300));
        let queued: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).take(100).collect();
        assert!(queued.len() < 100, "the queue is never full");
        BlackHole { _listener: listener, _queued: queued, addr }
    }
}

#[test]
fn an_address_that_swallows_everything() {
    require_server!();
    let scene = Scene::new();
    let hole = BlackHole::new();
    let conninfo = over_tcp(hole.addr.port(), "user=postgres connect_timeout=2");
    scene.all_say(&conninfo, &["timeout expired", "did not answer", "no answer"], SOON);
    // and with no timeout that somebody had thought of
    scene.all_say(
        &over_tcp(hole.addr.port(), "user=postgres"),
        &["timeout expired", "did not answer", "no answer"],
        Duration::from_secs(45),
    );
}

#[test]
fn a_server_that_hangs_when_one_comes() {
    require_server!();
    let scene = Scene::new();
    let proxy = Proxy::to(&scene.primary);
    proxy.stall(Direction::ToClient);
    let conninfo = over_tcp(proxy.port(), "user=postgres connect_timeout=2");
    scene.all_say(&conninfo, &["timeout expired", "did not answer"], SOON);
}

/// At several places of what the server has to say: in its greeting, in the first answer, in a later one.
#[test]
fn a_server_that_hangs_in_the_middle() {
    require_server!();
    let scene = Scene::new();
    let places = [100, 500, 700, 1000, 1800];
    let proxies = places.map(|place| {
        let proxy = Proxy::to(&scene.primary);
        proxy.stall_after(Direction::ToClient, place);
        proxy
    });
    let mut running = Vec::new();
    for proxy in &proxies {
        let conninfo = over_tcp(proxy.port(), "user=postgres connect_timeout=2");
        running.extend(COMMANDS.map(|command| self::Scene::tool(&scene, command, &conninfo).spawn()));
    }
    let mut hung = 0;
    for outcome in running.into_iter().map(|running| running.wait()) {
        assert!(outcome.elapsed < Duration::from_secs(45), "{outcome}");
        // a command may have heard all that it needs by then
        let silent = ["silent for", "did not answer", "timeout expired"];
        if silent.iter().any(|word| outcome.stderr.contains(word)) {
            hung += 1;
            let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
            assert!(errors <= 1 && outcome.code.is_some_and(|code| code <= 1), "{outcome}");
        }
    }
    assert!(hung > 2 * COMMANDS.len(), "only {hung} have met the silence");
    assert_eq!(scene.standby.psql("SELECT pg_is_in_recovery()"), "t");
}

/// In recovery, and without hot standby: nobody is let in.
#[test]
fn a_server_in_recovery_that_lets_nobody_in() {
    require_server!();
    let scene = Scene::new();
    let directory = scene.primary.dir().join("cold");
    let create =
        Tool::pgwake().args(["standby", "create", "--slot", "cold", "-d", &scene.primary.conninfo()]);
    create.args(["--set", "hot_standby=off", "-D"]).arg(&directory).by_server_user().run().succeeded();
    let cold = scene.primary.adopt(&directory);
    cold.start();
    let conninfo = over_tcp(cold.port(), "user=postgres");
    let running = COMMANDS.map(|command| scene.tool(command, &conninfo).spawn());
    for outcome in running.map(|running| running.wait()) {
        assert_told(&outcome, &["FATAL:  the database system is not"], SOON);
    }
    cold.stop(Stop::Fast);
    scene.primary.psql("SELECT pg_drop_replication_slot('cold')");
    scene.assert_unchanged();
}

/// What each command says of a server in recovery that lets everybody in, and of a primary where it wants a standby.
#[test]
fn a_server_of_the_other_kind() {
    require_server!();
    let scene = Scene::new();
    let (primary, standby) = (scene.primary.conninfo(), scene.standby.conninfo());
    let run = |command: &[&str], conninfo: &str| scene.tool(command, conninfo).run();
    run(&["check"], &standby).says("a standby");
    run(&["check", "--for", "synchronous"], &standby).exited(1).says("connect there");
    run(&["status"], &standby).succeeded().says("standby");
    run(&["slot", "create", "troubled"], &standby).succeeded().says("holds WAL from");
    run(&["slot", "list"], &standby).succeeded().says("troubled");
    run(&["slot", "drop", "troubled"], &standby).succeeded();
    run(&["standby", "status"], &primary).says("no: this is a primary");
    assert_told(
        &run(&["standby", "promote"], &primary),
        &["this server is no standby: it is a primary"],
        SOON,
    );
    assert_told(&run(&["standby", "promote"], &standby), &["is alive and writable"], SOON);
    assert_told(&run(&["standby", "follow"], &standby), &["leads to the standby itself"], SOON);
    let far = ["standby", "wait", "--lsn", "7F/0", "--timeout", "0.2"];
    assert_told(&run(&far, &standby), &["was not replayed within 0.2 s"], SOON);
    assert_told(&run(&far, &primary), &["was not flushed within 0.2 s"], SOON);
    scene.assert_unchanged();
}

/// A role that may log in, and nothing else.
#[test]
fn a_role_that_may_do_nothing() {
    require_server!();
    let scene = Scene::new();
    let primary = over_tcp(scene.primary.port(), "user=nobody");
    let standby = over_tcp(scene.standby.port(), "user=nobody");
    let run = |command: &[&str], conninfo: &str| scene.tool(command, conninfo).run();
    run(&["check"], &primary).exited(1).says("\"nobody\"").says("ALTER ROLE");
    run(&["status"], &primary).succeeded().says("primary");
    run(&["slot", "list"], &primary).succeeded().says("standby1");
    run(&["standby", "status"], &standby).succeeded().says("in recovery");
    run(&["standby", "wait", "--lsn", "0/1"], &standby).succeeded();
    for command in
        [&["slot", "create", "troubled"][..], &["slot", "drop", "standby1"], &["standby", "follow"]]
    {
        let outcome = run(command, &primary);
        assert_told(&outcome, &["role to start walsender", "permission denied to start WAL sender"], SOON);
        assert!(outcome.stderr.contains("ALTER ROLE"), "{outcome}");
    }
    let outcome = run(&["standby", "promote"], &standby).exited(1);
    outcome.complains("this role may not see it").complains("its upstream seems to be alive");
    scene.assert_unchanged();
}
