//! A throw-away PostgreSQL server: its own directory, socket and port, gone when it is dropped.
//!
//! ```ignore
//! let primary = Cluster::builder().wal_segsize(1).setting("wal_keep_size", "64MB").start();
//! primary.psql("CREATE TABLE t (n int)");
//! Tool::pgwake().args(["receive", "-d", &primary.conninfo(), …]).run().succeeded();
//! ```
//!
//! Most methods block. In an async test that runs a receiver in the same (current-thread) runtime use
//! [`Cluster::sql`], which does not.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::own;
use super::process::{children_of, is_gone, reap};
use super::servers::{Port, bin_dir, default_major, program};
use super::tls::{Authority, Credentials};
use super::tool::{Outcome, Tool};
use super::{TestDir, template, wait_until};

/// A PostgreSQL server made for one test.
///
/// The superuser is `postgres`, trusted from anywhere that the server listens: its Unix socket and 127.0.0.1.
#[derive(Debug)]
pub(crate) struct Cluster {
    major: u32,
    data_dir: PathBuf,
    log: PathBuf,
    port: Port,
    authority: Option<Authority>,
    dir: Arc<TestDir>,
}

/// How a server is asked to stop: `pg_ctl stop -m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Smart,
    Fast,
    Immediate,
}

/// What kind of cluster to make.
#[derive(Debug)]
pub(crate) struct Builder {
    major: u32,
    initdb: Vec<String>,
    checksums: bool,
    fsync: bool,
    in_memory: bool,
    tls: bool,
    settings: String,
    hba: String,
}

impl Builder {
    /// The server's major version; `servers::default_major()` unless set. See `require_server!`.
    pub(crate) fn major(mut self, major: u32) -> Builder {
        self.major = major;
        self
    }

    /// The size of a WAL segment, in MB.
    pub(crate) fn wal_segsize(mut self, megabytes: u32) -> Builder {
        self.initdb.push(format!("--wal-segsize={megabytes}"));
        self
    }

    /// Lets the group read the data directory (mode 0750).
    pub(crate) fn group_access(self) -> Builder {
        self.initdb_arg("--allow-group-access")
    }

    /// Turns data checksums on; they are off otherwise, whatever the version's default.
    pub(crate) fn data_checksums(mut self) -> Builder {
        self.checksums = true;
        self
    }

    /// Any other argument for `initdb`.
    pub(crate) fn initdb_arg(mut self, arg: &str) -> Builder {
        self.initdb.push(arg.to_owned());
        self
    }

    /// Makes the server sync its files, for tests about durability. Off otherwise, for speed.
    pub(crate) fn fsync(mut self) -> Builder {
        self.fsync = true;
        self
    }

    /// Puts it, and what is made in its directory, into memory: see [`TestDir::in_memory`].
    pub(crate) fn in_memory(mut self) -> Builder {
        self.in_memory = true;
        self
    }

    /// A line for `postgresql.conf`; the value is quoted here.
    pub(crate) fn setting(mut self, name: &str, value: &str) -> Builder {
        let _ = writeln!(self.settings, "{name} = '{}'", value.replace('\'', "''"));
        self
    }

    /// A line for `pg_hba.conf`, before those that trust everybody.
    pub(crate) fn hba(mut self, line: &str) -> Builder {
        let _ = writeln!(self.hba, "{line}");
        self
    }

    /// Turns TLS on, with a certificate for `localhost` and `127.0.0.1`, and accepts client certificates. See
    /// [`Cluster::authority`] and [`Cluster::credentials`].
    pub(crate) fn tls(mut self) -> Builder {
        self.tls = true;
        self
    }

    /// Makes the cluster and starts it.
    #[track_caller]
    pub(crate) fn start(self) -> Cluster {
        let cluster = self.create();
        cluster.start();
        cluster
    }

    /// Makes the cluster but leaves it stopped.
    #[track_caller]
    pub(crate) fn create(self) -> Cluster {
        let dir = Arc::new(if self.in_memory { TestDir::in_memory() } else { TestDir::new() });
        let mut cluster = Cluster {
            major: self.major,
            data_dir: dir.join("data"),
            log: dir.join("data.log"),
            port: Port::reserve(),
            authority: None,
            dir,
        };
        cluster.dir.subdir("socket", 0o755);
        let checksums = match (self.checksums, self.major) {
            (true, _) => Some("--data-checksums"),
            (false, 18..) => Some("--no-data-checksums"),
            (false, _) => None,
        };
        let initdb = cluster.server_tool("initdb");
        let mut args = ["--auth=trust", "--username=postgres", "--no-sync", "--locale=C", "--encoding=UTF8"]
            .map(String::from)
            .to_vec();
        args.extend(checksums.map(String::from));
        args.extend(self.initdb);
        let template = template::place(self.major, &cluster.bin_dir().join("initdb"), &args);
        if !template::copy(&template, &cluster.data_dir) {
            initdb.args(&args).arg("-D").arg(&cluster.data_dir).run().succeeded();
            template::keep(&cluster.data_dir, &template);
        }
        let tls = if self.tls { cluster.set_up_tls() } else { "" };
        let fsync = if self.fsync { "on" } else { "off" };
        let (port, socket_dir) = (cluster.port.number(), cluster.socket_dir().display().to_string());
        cluster.append_settings(&format!(
            "port = {port}\nunix_socket_directories = '{socket_dir}'\nlisten_addresses = '127.0.0.1'\nfsync = {fsync}\n\
             shared_buffers = 16MB\nmax_connections = 50\nmax_wal_senders = 20\nmax_replication_slots = 20\n\
             log_line_prefix = '%m [%p] %q%a '\nlog_replication_commands = on\n\
             password_encryption = 'scram-sha-256'\n{tls}{}",
            self.settings
        ));
        cluster.prepend_hba(&self.hba);
        cluster
    }
}

impl Cluster {
    pub(crate) fn builder() -> Builder {
        Builder {
            major: default_major(),
            initdb: Vec::new(),
            checksums: false,
            fsync: false,
            in_memory: false,
            tls: false,
            settings: String::new(),
            hba: String::new(),
        }
    }

    /// A cluster with nothing special, started.
    #[track_caller]
    pub(crate) fn new() -> Cluster {
        Cluster::builder().start()
    }

    /// A data directory that was made from this cluster (below [`Cluster::dir`], or anywhere else that is cleaned
    /// up), as a cluster of its own on another port; not started.
    pub(crate) fn adopt(&self, data_dir: impl Into<PathBuf>) -> Cluster {
        let data_dir = data_dir.into();
        let mut log = data_dir.clone().into_os_string();
        log.push(".log");
        Cluster {
            major: self.major,
            data_dir,
            log: PathBuf::from(log),
            port: Port::reserve(),
            authority: None,
            dir: Arc::clone(&self.dir),
        }
    }

    // ---- what it is ----

    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// The directory that goes away with the cluster: a place for a test's own files.
    pub(crate) fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// Over the Unix socket, as the superuser.
    pub(crate) fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port())
    }

    /// Over TCP, as the superuser.
    pub(crate) fn tcp_conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// Who signed the server's certificate, and can sign more. With [`Builder::tls`] only.
    #[track_caller]
    pub(crate) fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a cluster built with tls()")
    }

    /// The authority's certificate in a file: for `sslrootcert`.
    #[track_caller]
    pub(crate) fn root_cert(&self) -> PathBuf {
        self.authority();
        self.dir.join("root.crt")
    }

    /// A client certificate and key for `role`, in files that this process can read: for `sslcert` and `sslkey`.
    #[track_caller]
    pub(crate) fn credentials(&self, role: &str) -> (PathBuf, PathBuf) {
        let Credentials { cert_pem, key_pem, .. } = self.authority().issue(role, &[]);
        let (cert, key) = (self.dir.join(&format!("{role}.crt")), self.dir.join(&format!("{role}.key")));
        fs::write(&cert, cert_pem).expect("write a client certificate");
        fs::write(&key, key_pem).expect("write a client key");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("keep a client key private");
        (cert, key)
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    // ---- running ----

    #[track_caller]
    pub(crate) fn start(&self) {
        let outcome = self.try_start();
        assert!(outcome.code == Some(0), "the server did not start\n{outcome}\n--- log\n{}", self.log());
    }

    /// As [`Cluster::start`], for tests in which it may fail.
    #[track_caller]
    pub(crate) fn try_start(&self) -> Outcome {
        self.postmaster_pid().into_iter().for_each(reap);
        let options =
            format!("-c port={} -c unix_socket_directories={}", self.port(), self.socket_dir().display());
        self.pg_ctl(&["start", "-w", "-l", &self.log.display().to_string(), "-o", &options])
    }

    #[track_caller]
    pub(crate) fn stop(&self, mode: Stop) {
        let mode = match mode {
            Stop::Smart => "smart",
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.pg_ctl(&["stop", "-w", "-t", "150", "-m", mode]).succeeded();
    }

    #[track_caller]
    pub(crate) fn restart(&self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Makes the server read its configuration again.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.pg_ctl(&["reload"]).succeeded();
    }

    #[track_caller]
    pub(crate) fn promote(&self) {
        self.pg_ctl(&["promote", "-w"]).succeeded();
    }

    /// Kills the postmaster and every process of the server with SIGKILL, as a power cut would.
    #[track_caller]
    pub(crate) fn kill9(&self) {
        let postmaster = self.postmaster_pid().expect("a server that runs");
        // the postmaster first: it would restart the others
        let mut doomed = vec![postmaster];
        doomed.extend(children_of(postmaster));
        for &pid in &doomed {
            let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        wait_until("the killed server is gone", || doomed.iter().all(|&pid| is_gone(pid)));
        doomed.into_iter().for_each(reap);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.postmaster_pid().is_some_and(|pid| !is_gone(pid))
    }

    pub(crate) fn postmaster_pid(&self) -> Option<i32> {
        fs::read_to_string(self.data_dir.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()
    }

    // ---- configuration, from the next start or reload on ----

    pub(crate) fn append_settings(&self, lines: &str) {
        let path = self.data_dir.join("postgresql.conf");
        let conf = fs::read_to_string(&path).expect("read postgresql.conf");
        fs::write(&path, format!("{conf}\n{lines}\n")).expect("write postgresql.conf");
    }

    /// Puts lines before those that are there, for the first match counts.
    pub(crate) fn prepend_hba(&self, lines: &str) {
        let path = self.data_dir.join("pg_hba.conf");
        let hba = fs::read_to_string(&path).expect("read pg_hba.conf");
        fs::write(&path, format!("{lines}\n{hba}")).expect("write pg_hba.conf");
    }

    // ---- asking it ----

    /// Runs SQL through the real `psql`. Rows are lines, columns are separated by `|`, without the last newline.
    #[track_caller]
    pub(crate) fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).succeeded().stdout.trim_end_matches('\n').to_owned()
    }

    /// As [`Cluster::psql`], for SQL that may fail.
    #[track_caller]
    pub(crate) fn try_psql(&self, sql: &str) -> Outcome {
        let args = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.conninfo()];
        // on standard input each statement is a transaction of its own
        Tool::psql().args(args).stdin(sql).run()
    }

    /// A connection for SQL, for async tests.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port()).user("postgres").dbname("postgres");
        let (client, connection) =
            config.connect(tokio_postgres::NoTls).await.expect("connect to the cluster");
        tokio::spawn(connection);
        client
    }

    /// As [`Cluster::psql`], without blocking: over a connection of its own.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        let answers = self.client().await.simple_query(sql).await;
        let answers = answers.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rows = answers.iter().filter_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let line = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect::<Vec<_>>().join("|")
        };
        rows.map(line).collect::<Vec<_>>().join("\n")
    }

    /// Asks again and again until the answer to `sql` is `expected`. A server that does not answer counts as "not yet".
    #[track_caller]
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        wait_until(&format!("{sql} answers {expected}"), || {
            let outcome = self.try_psql(sql);
            outcome.code == Some(0) && outcome.stdout.trim_end() == expected
        });
    }

    /// The position up to which the server has flushed its WAL (on a standby: replayed), as text.
    #[track_caller]
    pub(crate) fn wal_position(&self) -> String {
        self.psql(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END",
        )
    }

    /// A login role; `attributes` such as `REPLICATION` or `SUPERUSER`, possibly none.
    #[track_caller]
    pub(crate) fn create_role(&self, name: &str, attributes: &str, password: Option<&str>) {
        let password =
            password.map(|text| format!("PASSWORD '{}'", text.replace('\'', "''"))).unwrap_or_default();
        self.psql(&format!("CREATE ROLE \"{name}\" LOGIN {attributes} {password}"));
    }

    /// `pgbench` on this cluster: `pgbench(&["-i", "-s", "1"])`, then `run()` or `spawn()`.
    pub(crate) fn pgbench(&self, args: &[&str]) -> Tool {
        let (host, port) = (self.socket_dir().display().to_string(), self.port().to_string());
        Tool::client(self.major, "pgbench")
            .args(["-h", &host, "-p", &port, "-U", "postgres"])
            .args(args)
            .arg("postgres")
    }

    /// One of this server's own programs (`pg_waldump`, `pg_verifybackup` …), run as the servers' user. Panics when
    /// this build does not have it.
    #[track_caller]
    pub(crate) fn server_tool(&self, name: &str) -> Tool {
        let path = program(self.major, name)
            .unwrap_or_else(|| panic!("PostgreSQL {} has no {name} here", self.major));
        Tool::new(path).by_server_user().dir(self.dir.path())
    }

    /// Where this server's programs are.
    pub(crate) fn bin_dir(&self) -> PathBuf {
        bin_dir(self.major).expect("a cluster's server programs")
    }

    #[track_caller]
    fn pg_ctl(&self, args: &[&str]) -> Outcome {
        let tool = self.server_tool("pg_ctl").arg("-D").arg(&self.data_dir).args(args);
        tool.timeout(std::time::Duration::from_secs(160)).run()
    }

    fn set_up_tls(&mut self) -> &'static str {
        let authority = Authority::new("pgwake test authority");
        let server = authority.issue("localhost", &["localhost", "127.0.0.1"]);
        self.dir.file("root.crt", 0o644, authority.cert_pem());
        let files = [
            ("root.crt", authority.cert_pem()),
            ("server.crt", server.cert_pem),
            ("server.key", server.key_pem),
        ];
        for (name, pem) in files {
            let path = self.dir.file("tls.tmp", 0o600, pem);
            let place = self.data_dir.join(name);
            fs::rename(path, &place).expect("put a certificate into the data directory");
            own(&place);
        }
        self.authority = Some(authority);
        "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'root.crt'\n"
    }
}
