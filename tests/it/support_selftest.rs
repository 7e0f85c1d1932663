//! The tests' own tools do what they say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{
    Cluster, Direction, Ending, Outcome, Proxy, Stop, TestDir, Tool, faults, process, tree, wait_until,
};
use crate::{require_program, require_root, require_server};

#[tokio::test]
async fn a_cluster_lives_is_killed_and_lives_again() {
    require_server!();
    let cluster =
        Cluster::builder().wal_segsize(1).group_access().data_checksums().setting("work_mem", "5MB").start();
    assert_eq!(cluster.psql("SHOW wal_segment_size; SHOW data_checksums; SHOW work_mem"), "1MB\non\n5MB");
    assert_eq!(cluster.psql("SHOW server_version_num")[..2], cluster.major().to_string());
    cluster.create_role("rose", "REPLICATION", Some("it's"));
    assert_eq!(
        cluster.sql("SELECT rolname, rolreplication FROM pg_roles WHERE oid >= 16384").await,
        "rose|t"
    );
    assert!(
        tree(cluster.data_dir()).contains("f 0640 8192 global/pg_control\n"),
        "{}",
        tree(cluster.data_dir())
    );

    cluster.kill9();
    assert!(!cluster.is_running());
    cluster.start();
    assert!(cluster.log().contains("database system was not properly shut down"), "{}", cluster.log());
    cluster.restart();
    cluster.wait_for("SELECT pg_is_in_recovery()", "f");

    let path = cluster.dir().path().to_owned();
    let postmaster = cluster.postmaster_pid().expect("a server that runs");
    drop(cluster);
    assert!(!path.exists() && process::is_gone(postmaster));
}

#[test]
fn a_server_that_nobody_stopped_goes_with_its_directory() {
    require_server!();
    let cluster = Cluster::new();
    let clone = cluster.adopt(cluster.dir().join("clone"));
    cluster.stop(Stop::Fast);
    Tool::new("/bin/cp")
        .arg("-a")
        .arg(cluster.data_dir())
        .arg(clone.data_dir())
        .by_server_user()
        .run()
        .succeeded();
    clone.start();
    cluster.start();
    assert_ne!(clone.psql("SHOW port"), cluster.psql("SHOW port"));
    let postmaster = clone.postmaster_pid().expect("a server that runs");
    drop((cluster, clone));
    assert!(process::is_gone(postmaster));
}

#[test]
fn tls_is_checked_by_the_certificates_we_issue() {
    require_server!();
    let cluster = Cluster::builder()
        .tls()
        .hba("hostssl all walter 127.0.0.1/32 cert")
        .hba("hostssl all rose 127.0.0.1/32 scram-sha-256")
        .hba("host all rose 127.0.0.1/32 reject")
        .start();
    cluster.create_role("walter", "", None);
    cluster.create_role("rose", "", Some("secret"));
    let psql = |conninfo: String| -> Outcome {
        let sql = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Tool::psql().args(["-XAtw", "-c", sql, "-d", &conninfo]).run()
    };
    let base = format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres", cluster.port());
    let verified = format!("{base} sslmode=verify-full sslrootcert={}", cluster.root_cert().display());
    assert_eq!(psql(format!("{verified} user=rose password=secret")).succeeded().stdout, "rose|t\n");
    psql(format!("{verified} user=rose password=wrong"))
        .exited(2)
        .complains("password authentication failed");
    psql(format!("{base} user=rose password=secret sslmode=disable"))
        .exited(2)
        .complains("pg_hba.conf rejects");

    let (cert, key) = cluster.credentials("walter");
    let with_cert = format!("{verified} user=walter sslcert={} sslkey={}", cert.display(), key.display());
    assert_eq!(psql(with_cert).succeeded().stdout, "walter|t\n");
    psql(format!("{verified} user=walter")).exited(2).complains("certificate");

    let other = crate::support::Authority::new("somebody else");
    let other = cluster.dir().file("other.crt", 0o644, other.cert_pem());
    psql(format!("{base} user=postgres sslmode=verify-ca sslrootcert={}", other.display()))
        .exited(2)
        .complains("certificate verify failed");
}

#[test]
fn the_proxy_cuts_at_the_byte_and_counts() {
    let echo = EchoServer::start();
    let proxy = Proxy::tcp(echo.addr);
    proxy.split(Direction::ToClient, 3);
    proxy.cut_after(Direction::ToClient, 1000, Ending::Close);
    let mut stream = TcpStream::connect(proxy.addr()).expect("connect through the proxy");
    stream.write_all(&[7; 4000]).expect("send");
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).expect("read to the cut");
    assert_eq!((echoed.len(), proxy.bytes(Direction::ToClient)), (1000, 1000));
    assert_eq!(proxy.bytes(Direction::ToServer), 4000);

    proxy.cut_after(Direction::ToClient, 5, Ending::Reset);
    let mut stream = TcpStream::connect(proxy.addr()).expect("the next connection lives");
    stream.write_all(&[7; 10]).expect("send");
    let mut echoed = Vec::new();
    let error = stream.read_to_end(&mut echoed).expect_err("a reset");
    assert_eq!((error.kind(), echoed.len() <= 5), (std::io::ErrorKind::ConnectionReset, true));
    assert_eq!(proxy.connection_count(), 2);
}

#[test]
fn the_proxy_stalls_delays_and_refuses() {
    let echo = EchoServer::start();
    let proxy = Proxy::tcp(echo.addr);
    let mut stream = TcpStream::connect(proxy.addr()).expect("connect through the proxy");
    let mut byte = [0];
    proxy.stall(Direction::ToClient);
    stream.write_all(b"x").expect("send");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set a timeout");
    assert!(stream.read(&mut byte).is_err(), "nothing comes through");
    proxy.resume(Direction::ToClient);
    stream.set_read_timeout(None).expect("set no timeout");
    stream.read_exact(&mut byte).expect("the byte comes after all");

    proxy.delay(Direction::ToServer, Duration::from_millis(80));
    let start = Instant::now();
    stream.write_all(b"y").expect("send");
    stream.read_exact(&mut byte).expect("the byte comes late");
    assert!(start.elapsed() >= Duration::from_millis(80));

    proxy.refuse();
    let refused = TcpStream::connect(proxy.addr()).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.accept();
    TcpStream::connect(proxy.addr()).expect("somebody listens");
    proxy.cut_now(Ending::Close);
    assert_eq!(stream.read(&mut byte).expect("the end of the stream"), 0);
}

#[test]
fn sql_goes_through_a_proxy_in_tiny_pieces() {
    require_server!();
    let cluster = Cluster::new();
    for proxy in
        [Proxy::to(&cluster), Proxy::unix(cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port())))]
    {
        proxy.split(Direction::ToClient, 1);
        proxy.split(Direction::ToServer, 2);
        let psql = Tool::psql().args(["-XAtc", "SELECT 6 * 7", "-d", &proxy.conninfo()]);
        assert_eq!(psql.run().succeeded().stdout, "42\n");
    }
}

#[test]
fn programs_run_clean_and_can_be_signalled() {
    let env = Tool::new("/usr/bin/env").env("GREETING", "hello").run().succeeded().stdout;
    assert!(env.contains("GREETING=hello\n") && !env.contains("CARGO"), "{env}");
    let script = "trap 'echo caught; exit 7' INT; echo ready >&2; while :; do sleep 0.02; done";
    let mut running = Tool::new("/bin/sh").args(["-c", script]).spawn();
    running.wait_for_stderr("ready");
    running.interrupt();
    assert_eq!(running.wait().exited(7).stdout, "caught\n");
    let held = Tool::new("/bin/sh").args(["-c", "sleep 5 & exit 0"]).run();
    assert!(held.output_held_open);
    assert_eq!(Tool::new("/bin/cat").stdin("through").run().succeeded().stdout, "through");
    Tool::pgwake().by_server_user().run();
}

#[test]
fn a_listing_has_kinds_modes_sizes_and_targets() {
    let dir = TestDir::new();
    dir.subdir("b", 0o750);
    dir.file("b/file", 0o640, "12345");
    std::os::unix::fs::symlink("/nowhere", dir.join("a")).expect("a link");
    assert_eq!(tree(dir.path()), "l a -> /nowhere\nd 0750 b\nf 0640 5 b/file\n");
}

#[test]
fn a_small_disk_fills_up() {
    require_root!();
    let dir = TestDir::new();
    let disk = faults::SmallDisk::mount(&dir, "disk", 1 << 20);
    let error = std::fs::write(disk.path().join("big"), vec![0; 2 << 20]).expect_err("no space");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    std::fs::remove_file(disk.path().join("big")).expect("remove the file");
    let ballast = disk.fill(8192);
    assert!(std::fs::write(disk.path().join("small"), vec![0; 20_000]).is_err());
    std::fs::remove_file(ballast).expect("remove the ballast");
    std::fs::write(disk.path().join("small"), vec![0; 20_000]).expect("there is space again");
    let path = dir.path().to_owned();
    std::mem::forget(disk); // a test that was killed
    drop(dir);
    wait_until("the sweeper has unmounted it", || !path.exists());
}

#[test]
fn system_calls_fail_on_demand() {
    require_program!("strace");
    let dir = TestDir::new();
    let file = dir.join("file").display().to_string();
    let sync = Tool::new("/bin/sync").arg(dir.file("file", 0o644, "x"));
    faults::injecting(sync.clone(), &["fsync:error=EIO:when=1"]).run().exited(1).complains(&file);
    sync.run().succeeded();
}

/// Sends back whatever it is sent.
struct EchoServer {
    addr: std::net::SocketAddr,
}

impl EchoServer {
    fn start() -> EchoServer {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
        let addr = listener.local_addr().expect("the echo server's address");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut writer = stream.try_clone().expect("clone a stream");
                    std::io::copy(&mut stream, &mut writer)
                });
            }
        });
        EchoServer { addr }
    }
}
