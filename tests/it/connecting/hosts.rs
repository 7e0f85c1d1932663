//! Several hosts, and which of them will do.

use std::time::{Duration, Instant};

use pgwake::client::Purpose;

use super::harness::{Lab, Row, connects, fails};
use crate::require_server;
use crate::support::{Cluster, Direction, Port, Proxy};

/// A primary and a standby of it.
fn pair(major: u32, hot_standby: &str) -> (Cluster, Cluster) {
    let primary = Cluster::builder().major(major).setting("cluster_name", "primary").start();
    let clone = primary.dir().join("standby");
    primary
        .server_tool("pg_basebackup")
        .args(["-X", "stream", "-c", "fast", "-R", "-d", &primary.conninfo(), "-D"])
        .arg(&clone)
        .run()
        .succeeded();
    let standby = primary.adopt(clone);
    standby.append_settings(&format!("cluster_name = 'standby'\nhot_standby = {hot_standby}"));
    (primary, standby)
}

#[test]
fn target_session_attributes() {
    require_server!();
    let (primary, standby) = pair(crate::support::servers::default_major(), "on");
    standby.start();
    standby.wait_for("SELECT pg_is_in_recovery()", "t");
    let mut lab = Lab::new();
    let (a, b) = (primary.port(), standby.port());
    let dead = Port::reserve();
    let dead = dead.number();
    let to = |ports: &str, attributes: &str| {
        let hosts = vec!["127.0.0.1"; ports.split(',').count()].join(",");
        format!("host={hosts} port={ports} dbname=postgres user=postgres target_session_attrs={attributes}")
    };
    const PRIMARY: &str = "postgres plain primary";
    const STANDBY: &str = "postgres plain standby";
    let both = format!("{a},{b}");
    let reversed = format!("{b},{a}");
    for (attributes, first, second) in [
        ("any", PRIMARY, STANDBY),
        ("read-write", PRIMARY, PRIMARY),
        ("read-only", STANDBY, STANDBY),
        ("primary", PRIMARY, PRIMARY),
        ("standby", STANDBY, STANDBY),
        ("prefer-standby", STANDBY, STANDBY),
    ] {
        lab.check([
            connects(to(&both, attributes), first),
            connects(to(&reversed, attributes), second),
            connects(to(&format!("{dead},{both}"), attributes), first),
            connects(to(&both, attributes), "walsender").physical(),
        ]);
    }
    lab.check([
        connects(to(&a.to_string(), "prefer-standby"), PRIMARY),
        connects(to(&format!("{dead},{a}"), "prefer-standby"), PRIMARY),
        fails(to(&a.to_string(), "standby"), "server is not in hot standby mode"),
        fails(to(&b.to_string(), "primary"), "server is in hot standby mode"),
        fails(to(&b.to_string(), "read-write"), "session is read-only"),
        fails(to(&a.to_string(), "read-only"), "session is not read-only"),
        fails(to(&b.to_string(), "primary"), "server is in hot standby mode").physical(),
        connects(to(&a.to_string(), "read-only"), PRIMARY)
            .variable("PGOPTIONS", "-c default_transaction_read_only=on"),
        fails(to(&dead.to_string(), "any"), "Connection refused"),
        // whoever refuses us is not passed over
        fails(to(&both, "any").replace("user=postgres", "user=nobody"), "role \"nobody\" does not exist"),
    ]);
    lab.verdict();
}

#[test]
fn hosts_in_turn() {
    require_server!();
    let cluster = Cluster::builder().setting("cluster_name", "t").start();
    let mut lab = Lab::new();
    const OK: &str = "postgres plain t";
    let port = cluster.port();
    let dead = Port::reserve();
    let dead = dead.number();
    let rest = "dbname=postgres user=postgres";
    let socket_dir = cluster.socket_dir().display().to_string();
    let server_user = crate::support::servers::server_user().map_or("", |_| "postgres");
    lab.check([
        connects(format!("host=127.0.0.1,127.0.0.1 port={dead},{port} {rest}"), OK),
        connects(format!("host=/nowhere,{socket_dir} port={port} {rest}"), OK),
        connects(format!("host={socket_dir},127.0.0.1 port={port},{dead} {rest}"), OK),
        connects(format!("host=no.such.host.invalid,127.0.0.1 port={port} {rest}"), OK),
        connects(format!("postgres://postgres@127.0.0.1:{dead},127.0.0.1:{port}/postgres"), OK),
        connects(format!("host=localhost port={port} {rest}"), OK),
        connects(format!("host=whatever hostaddr=127.0.0.1 port={port} {rest}"), OK),
        fails(format!("host=no.such.host.invalid port={port} {rest}"), "could not translate host name \"no.such.host.invalid\" to address"),
        fails(format!("host=/nowhere port={port} {rest}"), &format!("connection to server on socket \"/nowhere/.s.PGSQL.{port}\" failed: No such file or directory")),
        fails(format!("host=127.0.0.1 port={dead} {rest}"), &format!("connection to server at \"127.0.0.1\", port {dead} failed: Connection refused")),
        fails(format!("host=localhost hostaddr=127.0.0.1,127.0.0.1 port={port} {rest}"), "could not match 1 host names to 2 hostaddr values"),
        fails(format!("host=localhost port={port},{port} {rest}"), "could not match 2 port numbers to 1 hosts"),
        fails(format!("host=/{} port={port} {rest}", "x".repeat(107)), "is too long (maximum 107 bytes)"),
        fails(format!("hostaddr=localhost port={port} {rest}"), "could not parse network address \"localhost\""),
        fails(format!("host={socket_dir} port={port} {rest} requirepeer=daemon"), "requirepeer specifies \"daemon\", but actual peer user name is"),
        connects(format!("host=127.0.0.1 port={port} {rest} requirepeer=daemon"), OK),
        fails(format!("host=127.0.0.1 port={port} {rest} connect_timeout=''"), "invalid integer value"),
    ]);
    if !server_user.is_empty() {
        lab.check([connects(format!("host={socket_dir} port={port} {rest} requirepeer={server_user}"), OK)]);
    }
    lab.check([
        connects(format!("host=127.0.0.1,127.0.0.1 port={dead},{port} {rest} load_balance_hosts=random"), OK)
            .newer(),
        fails(
            format!("host=127.0.0.1 port={port} {rest} load_balance_hosts=yes"),
            "invalid load_balance_hosts value",
        )
        .newer(),
    ]);
    lab.verdict();
}

#[test]
fn a_server_that_does_not_accept_connections_gives_way() {
    require_server!();
    let (primary, standby) = pair(crate::support::servers::default_major(), "off");
    // without hot_standby pg_ctl cannot see when it is up
    let _ = standby.try_start();
    let mut lab = Lab::new();
    let both = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} dbname=postgres user=postgres",
        standby.port(),
        primary.port()
    );
    lab.check([
        fails(
            both.replace(&format!(",{} ", primary.port()), &format!(",{} ", standby.port())),
            "the database system is not accepting connections",
        ),
        connects(both.clone(), "postgres plain primary"),
        connects(format!("{both} sslmode=disable"), "postgres plain primary"),
    ]);
    lab.verdict();
}

#[tokio::test]
async fn a_silent_server_gives_way_when_time_is_up() {
    require_server!();
    let cluster = Cluster::new();
    let proxy = Proxy::to(&cluster);
    proxy.stall(Direction::ToClient);
    let lab = Lab::new();
    let conninfo = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} dbname=postgres user=postgres connect_timeout=1",
        proxy.port(),
        cluster.port()
    );
    let begun = Instant::now();
    let connected = lab.connect(&conninfo, &[], Purpose::PhysicalReplication).await.expect("the second host");
    assert_eq!(connected.host.port, cluster.port());
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    let silent = conninfo.replace(&format!(",{}", cluster.port()), &format!(",{}", proxy.port()));
    let error = lab.connect(&silent, &[], Purpose::Sql).await.expect_err("nobody answers");
    assert_eq!(error.matches("failed: timeout expired").count(), 2, "{error}");
}

#[test]
fn old_servers_are_asked_what_they_are() {
    require_server!(13);
    let (primary, standby) = pair(13, "on");
    standby.start();
    standby.wait_for("SELECT pg_is_in_recovery()", "t");
    let mut lab = Lab::new();
    let to = |attributes: &str| {
        format!(
            "host=127.0.0.1,127.0.0.1 port={},{} dbname=postgres user=postgres target_session_attrs={attributes}",
            primary.port(),
            standby.port()
        )
    };
    lab.check([
        connects(to("standby"), "postgres plain standby"),
        connects(to("primary"), "postgres plain primary"),
        connects(to("read-only"), "postgres plain standby"),
        connects(to("read-write"), "postgres plain primary"),
        connects(to("prefer-standby"), "postgres plain standby"),
        connects(to("read-only"), "walsender").physical(),
        connects(to("prefer-standby"), "walsender").physical(),
        fails(to("primary"), "\"SELECT pg_catalog.pg_is_in_recovery()\" failed").physical(),
    ]);
    lab.verdict();
}

#[test]
fn protocol_versions() {
    require_server!(15);
    require_server!(18);
    let old = Cluster::builder().major(15).setting("cluster_name", "old").start();
    let new = Cluster::builder().major(18).setting("cluster_name", "new").start();
    let mut lab = Lab::new();
    let rows = [
        connects(new.tcp_conninfo() + " min_protocol_version=3.2", "postgres plain new"),
        connects(new.tcp_conninfo() + " max_protocol_version=latest", "postgres plain new"),
        connects(old.tcp_conninfo() + " max_protocol_version=3.2", "postgres plain old"),
        fails(old.tcp_conninfo() + " min_protocol_version=3.2", "server only supports protocol version 3.0"),
        connects(new.tcp_conninfo() + " max_protocol_version=3.0", "postgres plain new"),
        fails(
            new.tcp_conninfo() + " max_protocol_version=3.1",
            "invalid max_protocol_version value: \"3.1\"",
        ),
    ];
    lab.check(rows.map(Row::newer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let conninfo = new.tcp_conninfo() + " min_protocol_version=3.2";
    let connected = runtime.block_on(lab.connect(&conninfo, &[], Purpose::Sql)).expect("connect");
    assert_eq!(connected.backend_key.map(|key| key.secret.len()), Some(32));
    lab.verdict();
}
