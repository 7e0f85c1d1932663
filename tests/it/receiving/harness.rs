//! Receivers, clients that remember what was acknowledged, and the comparison with the primary's own files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::cluster::Builder;
use crate::support::{Cluster, Running, Tool, wait_until};

/// A primary that keeps its WAL, so that what was received can be compared with it.
pub(super) fn keeping_wal(segment_megabytes: u32) -> Builder {
    Cluster::builder()
        .wal_segsize(segment_megabytes)
        .setting("wal_keep_size", "2GB")
        .setting("max_wal_size", "4GB")
        .setting("wal_sender_timeout", "20s")
}

/// The directory that WAL is received into.
pub(super) fn directory(cluster: &Cluster) -> PathBuf {
    cluster.dir().subdir("received", 0o700)
}

/// `pgwake receive` with a slot, which it makes.
pub(super) fn receive(conninfo: &str, directory: &Path) -> Tool {
    without_slot(conninfo, directory).args(["--slot", "witness", "--create-slot"])
}

/// `pgwake receive`, and no more than where from and where to.
pub(super) fn without_slot(conninfo: &str, directory: &Path) -> Tool {
    let tool = Tool::pgwake().args(["receive", "-w", "-d", conninfo, "-D"]).arg(directory);
    tool.by_server_user().timeout(Duration::from_secs(180))
}

/// For an empty directory: begins where the slot does, which servers before 15 do not tell the receiver.
#[track_caller]
pub(super) fn from_slot(tool: Tool, primary: &Cluster, slot: &str) -> Tool {
    if primary.major() >= 15 {
        return tool;
    }
    let question = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{}'".replace("{}", slot);
    tool.args(["--start", &primary.psql(&question)])
}

/// What asks for the primary: which one that is 13 does not tell who comes for replication only.
pub(super) fn primary_kind(major: u32) -> &'static str {
    if major < 14 { "read-write" } else { "primary" }
}

/// Starts it and waits until it streams.
#[track_caller]
pub(super) fn streaming(tool: &Tool) -> Running {
    let mut running = tool.spawn();
    running.wait_for_stderr("streaming started");
    running
}

/// Waits until all that the primary has flushed by now is reported as durable.
#[track_caller]
pub(super) fn caught_up(primary: &Cluster) {
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let flushed = format!(
        "SELECT count(*) > 0 FROM pg_stat_replication WHERE application_name = 'pgwake' AND flush_lsn >= '{lsn}'"
    );
    primary.wait_for(&flushed, "t");
}

/// WAL that leaves nothing else behind, flushed to its end.
#[track_caller]
pub(super) fn make_wal(primary: &Cluster, megabytes: u32) {
    primary.psql(&format!(
        "SET synchronous_commit = local; \
         SELECT count(pg_logical_emit_message(false, 'filler', repeat(md5(i::text), 32768))) \
         FROM generate_series(1, {megabytes}) i; SELECT pg_logical_emit_message(true, 'end', '')"
    ));
}

/// The names of the files, `.partial` ones too.
pub(super) fn wal_files(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("list what was received").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.len() >= 24 && is_segment(&name[..24])).collect()
}

fn is_segment(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

/// Compares what was received with the primaries' own files, byte for byte; returns the finished segments.
///
/// `pgwake wal verify` must find nothing wrong with it. An unfinished segment must be how the primary's begins, but for zeros at its end. No segment may be missing within a timeline.
#[track_caller]
pub(super) fn assert_same_as(primaries: &[&Cluster], directory: &Path) -> BTreeSet<String> {
    let mut finished = BTreeSet::new();
    let mut numbers: Vec<(String, u64)> = Vec::new();
    for name in wal_files(directory) {
        let segment = &name[..24];
        let mut received = fs::read(directory.join(&name)).expect("read what was received");
        if name.ends_with(".partial") {
            received.truncate(received.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        }
        let originals: Vec<Vec<u8>> = primaries
            .iter()
            .filter_map(|primary| fs::read(primary.data_dir().join("pg_wal").join(segment)).ok())
            .collect();
        assert!(!originals.is_empty(), "{name} is on no primary");
        let matches = originals.iter().any(|original| original.starts_with(&received));
        let at = originals[0].iter().zip(&received).position(|(a, b)| a != b);
        assert!(matches, "{name} ({} bytes) differs from the primary's at {at:?}", received.len());
        if name == segment {
            assert_eq!(received.len(), originals[0].len(), "{name}");
            finished.insert(name.clone());
        }
        let per_4g = (1u64 << 32) / originals[0].len() as u64;
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        numbers.push((segment[..8].to_owned(), hex(&segment[8..16]) * per_4g + hex(&segment[16..])));
    }
    for pair in numbers.windows(2) {
        let ((before_tli, before), (after_tli, after)) = (&pair[0], &pair[1]);
        assert!(before_tli != after_tli || before + 1 == *after, "segments are missing: {numbers:?}");
    }
    if !numbers.is_empty() {
        Tool::pgwake().args(["wal", "verify"]).arg(directory).run().succeeded();
    }
    finished
}

/// A client that commits row after row and remembers which commits were acknowledged.
pub(super) struct Ledger {
    ended: Arc<AtomicBool>,
    begun: Arc<AtomicBool>,
    thread: JoinHandle<Vec<i32>>,
}

impl Ledger {
    /// Begins to write, in a table of its own. Each commit waits as `synchronous_commit` says; one that does not
    /// come back is given up with the connection.
    pub(super) fn begin(primary: &Cluster, synchronous_commit: &str) -> Ledger {
        primary.psql(
            "SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS ledger (id int PRIMARY KEY, note text)",
        );
        let mut config = tokio_postgres::Config::new();
        config.host_path(primary.socket_dir()).port(primary.port()).user("postgres").dbname("postgres");
        config.options(format!("-c synchronous_commit={synchronous_commit}"));
        let ended = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicBool::new(false));
        let (wish, first) = (Arc::clone(&ended), Arc::clone(&begun));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(write_rows(&config, &wish, &first))
        });
        Ledger { ended, begun, thread }
    }

    /// Waits until something was acknowledged.
    pub(super) fn wait_for_first(&self) {
        wait_until("a row is acknowledged", || self.begun.load(Ordering::Relaxed));
    }

    /// Stops, and says which rows were acknowledged.
    pub(super) fn end(self) -> Vec<i32> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client ended well")
    }
}

async fn write_rows(config: &tokio_postgres::Config, ended: &AtomicBool, begun: &AtomicBool) -> Vec<i32> {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connect to the primary");
    tokio::spawn(connection);
    let mut acknowledged = Vec::new();
    let wished = async {
        while !ended.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let writing = async {
        for id in 0.. {
            let row = format!("INSERT INTO ledger VALUES ({id}, repeat(md5('{id}'), 40))");
            if client.simple_query(&row).await.is_err() {
                break;
            }
            acknowledged.push(id);
            begun.store(true, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = wished => {}
        () = writing => {}
    }
    acknowledged
}

/// Watches a question's answer while something happens, and keeps what each answer was.
pub(super) struct Sampler {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Sampler {
    pub(super) fn begin(primary: &Cluster, question: &str) -> Sampler {
        let mut config = tokio_postgres::Config::new();
        config.host_path(primary.socket_dir()).port(primary.port()).user("postgres").dbname("postgres");
        let (ended, question) = (Arc::new(AtomicBool::new(false)), question.to_owned());
        let wish = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let (client, connection) =
                    config.connect(tokio_postgres::NoTls).await.expect("connect to the primary");
                tokio::spawn(connection);
                let mut answers: Vec<String> = Vec::new();
                while !wish.load(Ordering::Relaxed) {
                    for message in client.simple_query(&question).await.expect("an answer") {
                        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                            let answer = row.get(0).unwrap_or("NULL").to_owned();
                            if answers.last() != Some(&answer) {
                                answers.push(answer);
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                answers
            })
        });
        Sampler { ended, thread }
    }

    /// The answers, each once as long as it stayed the same.
    pub(super) fn end(self) -> Vec<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler ended well")
    }
}

/// How far the slot is, as a number of bytes.
pub(super) const SLOT_POSITION: &str =
    "SELECT (restart_lsn - '0/0')::text FROM pg_replication_slots WHERE slot_name = 'witness'";

/// Positions that were seen, one after the other, and never went back.
#[track_caller]
pub(super) fn assert_never_back(positions: &[String]) {
    let numbers: Vec<i64> = positions.iter().map(|text| text.parse().expect("a position")).collect();
    assert!(numbers.is_sorted(), "the slot went backwards: {numbers:?}");
}

/// A base backup by the original program, without WAL: recovery depends on what was received.
#[track_caller]
pub(super) fn base_backup(primary: &Cluster, name: &str) -> PathBuf {
    let directory = primary.dir().join(name);
    Tool::client(primary.major(), "pg_basebackup")
        .args(["-d", &primary.conninfo(), "-X", "none", "-c", "fast", "--no-sync", "-D"])
        .arg(&directory)
        .by_server_user()
        .dir(primary.dir().path())
        .run()
        .succeeded();
    directory
}

/// Recovers a base backup from nothing but what was received, the unfinished segment of the latest timeline too,
/// up to its end; the server is promoted then.
#[track_caller]
pub(super) fn recover(primary: &Cluster, backup: &Path, received: &Path) -> Cluster {
    let size = primary.psql("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
    recover_segments(primary, backup, received, size.parse().expect("a segment's size"))
}

/// The same, of a primary that is gone.
#[track_caller]
pub(super) fn recover_segments(
    primary: &Cluster,
    backup: &Path,
    received: &Path,
    segment_len: u64,
) -> Cluster {
    let archive = primary.dir().subdir(&format!("socket_archive_{}", fastrand::u32(..)), 0o755);
    for entry in fs::read_dir(received).expect("list what was received").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if !name.starts_with('.') {
            let place = archive.join(&name);
            fs::copy(entry.path(), &place).expect("copy what was received");
        }
    }
    let last = wal_files(&archive).into_iter().next_back().expect("something was received");
    if let Some(name) = last.strip_suffix(".partial") {
        let place = archive.join(name);
        fs::rename(archive.join(&last), &place).expect("give the unfinished segment its name");
        let file = fs::OpenOptions::new().write(true).open(&place).expect("open the last segment");
        file.set_len(segment_len).expect("fill up the last segment");
    }
    Tool::new("/bin/chmod").args(["-R", "a+rX"]).arg(&archive).run().succeeded();
    recover_with(primary, backup, &format!("cp {}/%f %p", archive.display()))
}

/// Recovers a base backup from what a command brings, up to its end; the server is promoted then.
#[track_caller]
pub(super) fn recover_with(primary: &Cluster, backup: &Path, restore_command: &str) -> Cluster {
    let server = primary.adopt(backup);
    server.append_settings(&format!(
        "restore_command = '{restore_command}'\nrecovery_target_timeline = 'latest'\n\
         synchronous_standby_names = ''\nprimary_conninfo = ''\n",
    ));
    let signal = primary.dir().file("socket_signal", 0o600, "");
    fs::rename(signal, backup.join("recovery.signal")).expect("ask for recovery");
    server.start();
    wait_until("recovery has ended", || server.psql("SELECT pg_is_in_recovery()") == "f");
    server
}

/// Every row that was acknowledged is there.
#[track_caller]
pub(super) fn assert_holds(server: &Cluster, acknowledged: &[i32]) {
    let held: BTreeSet<i32> =
        server.psql("SELECT id FROM ledger").lines().filter_map(|line| line.parse().ok()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !held.contains(id)).collect();
    assert!(!acknowledged.is_empty(), "nothing was ever acknowledged");
    assert!(lost.is_empty(), "{} of {} acknowledged rows are lost: {lost:?}", lost.len(), acknowledged.len());
}

/// The most memory that a process has had so far, in bytes.
pub(super) fn peak_memory(running: &Running) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
