//! P1 to P4 on the real program and a real disk: killed at any system call, refused an fsync, out of room. What was
//! acknowledged is there afterwards, whatever it is compressed with, and receiving goes on to a directory that is the
//! primary's, byte for byte.
//!
//! The WAL is a real server's, recorded once; a scripted primary sends it piece by piece, each when the one before is
//! acknowledged, so that a run makes the same system calls each time. kill -9 does not lose what the operating
//! system has: a loss of power is what `tests/sim` is for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::harness::keeping_wal;
use crate::support::faults::{SmallDisk, injecting};
use crate::support::scripted::{
    Script, ScriptedPrimary, answer, complete, copy_both, copy_done, keepalive, read_message, ready, wal,
};
use crate::support::{Outcome, TestDir, Tool};
use crate::{require_program, require_root, require_server};

#[allow(unreachable_pub, reason = "the simulation has it to itself")]
#[path = "../../sim/plain.rs"]
mod plain;

const FORMATS: [&str; 4] = ["none", "gzip:1", "lz4", "zstd:1"];
const SEGMENT_LEN: u64 = 1 << 20;
/// What the primary sends before it waits for an acknowledgement.
const PIECE_LEN: usize = 90_000;

/// WAL of a real server: a whole segment, and a part of the next.
struct Recording {
    system_identifier: String,
    start: u64,
    bytes: Vec<u8>,
}

impl Recording {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// In the middle of the first segment.
    fn middle(&self) -> u64 {
        self.start + 400_000
    }

    fn between(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.start) as usize..(to - self.start) as usize]
    }
}

fn recording() -> &'static Recording {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    RECORDING.get_or_init(|| {
        let primary = keeping_wal(1).start();
        primary.psql("CREATE TABLE t (a text)");
        primary.psql("SELECT pg_switch_wal()");
        let number = |sql: &str| primary.psql(sql).parse::<u64>().expect("a number");
        let start = number("SELECT (pg_current_wal_lsn() - '0/0')::int8") / SEGMENT_LEN * SEGMENT_LEN;
        while number("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8") < start + SEGMENT_LEN * 5 / 4 {
            primary.psql("INSERT INTO t SELECT md5(random()::text) FROM generate_series(1, 1000)");
        }
        let end = number("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8");
        assert!(end < start + 2 * SEGMENT_LEN, "{end}");
        let file = |lsn| fs::read(primary.data_dir().join("pg_wal").join(segment_name(lsn))).expect("WAL");
        let mut bytes = [file(start), file(start + SEGMENT_LEN)].concat();
        bytes.truncate((end - start) as usize);
        let system_identifier = primary.psql("SELECT system_identifier FROM pg_control_system()");
        Recording { system_identifier, start, bytes }
    })
}

fn segment_name(lsn: u64) -> String {
    format!("00000001{:08X}{:08X}", lsn >> 32, (lsn & 0xFFFF_FFFF) / SEGMENT_LEN)
}

fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// A primary that plays the recording, and remembers what was acknowledged.
struct Player {
    primary: ScriptedPrimary,
    acknowledged: Arc<AtomicU64>,
}

impl Player {
    /// Its slot is where the recording begins.
    fn new(recording: &'static Recording) -> Player {
        Player::acknowledged_up_to(recording, recording.start)
    }

    fn acknowledged_up_to(recording: &'static Recording, lsn: u64) -> Player {
        let acknowledged = Arc::new(AtomicU64::new(lsn));
        let (flush, slot) = (Arc::clone(&acknowledged), Arc::clone(&acknowledged));
        let identity =
            answer(&[Some(&recording.system_identifier), Some("1"), Some(&lsn_text(recording.end())), None]);
        let script = Script::new().says("IDENTIFY_SYSTEM", identity);
        let script = script.on("READ_REPLICATION_SLOT", move |client| {
            let restart = lsn_text(slot.load(Ordering::Relaxed));
            client.write_all(&answer(&[Some("physical"), Some(&restart), Some("1")]))
        });
        let script = script
            .on_command("START_REPLICATION", move |command, client| play(recording, command, client, &flush));
        Player { primary: script.perform(), acknowledged }
    }

    fn receive(&self, directory: &Path, format: &str, end: u64) -> Tool {
        let end = lsn_text(end);
        Tool::pgwake()
            .args(["receive", "-w", "-n", "--slot", "s", "--endpos", &end, "--compress", format])
            .args(["-d", &self.primary.conninfo(), "-D"])
            .arg(directory)
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

fn play(
    recording: &Recording,
    command: &str,
    client: &mut TcpStream,
    acknowledged: &AtomicU64,
) -> io::Result<()> {
    let mut words = command.split([' ', ';']);
    let start = words.find_map(|word| {
        let (high, low) = word.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    });
    let mut sent = start.expect("a position to start at");
    let before = acknowledged.load(Ordering::Relaxed);
    client.write_all(&copy_both())?;
    while sent < recording.end() {
        let piece = (recording.end() - sent).min(PIECE_LEN as u64);
        client.write_all(&wal(sent, recording.between(sent, sent + piece)))?;
        sent += piece;
        // what was acknowledged before is not acknowledged again
        if !hear(client, acknowledged, if sent > before { sent } else { 0 })? {
            return Ok(());
        }
    }
    client.write_all(&keepalive(sent, true))?;
    hear(client, acknowledged, u64::MAX).map(|_| ())
}

/// Takes status updates until all before `wanted` is acknowledged, or the client ends it; `false`: the client did.
fn hear(client: &mut TcpStream, acknowledged: &AtomicU64, wanted: u64) -> io::Result<bool> {
    loop {
        let (tag, body) = read_message(client)?;
        if tag == b'c' {
            client.write_all(&[copy_done(), complete(), ready()].concat())?;
            return Ok(false);
        }
        if tag == b'd' && body.first() == Some(&b'r') {
            let flush = u64::from_be_bytes(body[9..17].try_into().expect("eight bytes"));
            acknowledged.fetch_max(flush, Ordering::Relaxed);
            if flush >= wanted {
                return Ok(true);
            }
        }
    }
}

/// All there is of each segment, whatever it is compressed with; of several files the one that goes furthest. Zeros behind the
/// WAL of an unfinished one are left out.
fn segments(directory: &Path) -> BTreeMap<String, (Vec<u8>, bool)> {
    let mut segments = BTreeMap::<String, (Vec<u8>, bool)>::new();
    for entry in fs::read_dir(directory).expect("list what was received").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if !name.starts_with('0') || name.ends_with(".tmp") {
            continue;
        }
        let content = fs::read(entry.path()).expect("read what was received");
        let mut content = plain::Plain::default().of(&name, &content).to_vec();
        let is_final = !name.ends_with(".partial");
        if !is_final {
            content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        }
        let known = segments.entry(name[..24].to_owned()).or_default();
        if content.len() >= known.0.len() {
            *known = (content, is_final || known.1);
        }
    }
    segments
}

/// P1 and P3, and what `pgwake wal verify` says.
#[track_caller]
fn assert_holds(directory: &Path, acknowledged: u64, what: &str) {
    let recording = recording();
    let segments = segments(directory);
    for (name, (content, is_final)) in &segments {
        let number = u64::from_str_radix(&name[16..], 16).expect("a number");
        let start = (recording.start >> 32 << 32) + number * SEGMENT_LEN;
        let end = (start + content.len() as u64).min(recording.end());
        let expected = recording.between(start, end);
        assert!(content.starts_with(expected), "{what}: {name} is not the primary's");
        assert!(!is_final || content.len() as u64 == SEGMENT_LEN, "{what}: {name} is not complete");
    }
    let mut lsn = recording.start;
    while lsn < acknowledged {
        let end = (lsn + SEGMENT_LEN).min(acknowledged);
        let found = segments.get(&segment_name(lsn)).map_or(&[][..], |(content, _)| content);
        let (len, wanted) = (found.len(), recording.between(lsn, end));
        let (held, left) = wanted.split_at(len.min(wanted.len()));
        let is_held = found.starts_with(held) && left.iter().all(|byte| *byte == 0);
        assert!(is_held, "{what}: {lsn:X} to {end:X} was acknowledged, and {len} bytes are there");
        lsn = end;
    }
    if !segments.is_empty() {
        let outcome = Tool::pgwake().args(["wal", "verify"]).arg(directory).run();
        assert_eq!(outcome.code, Some(0), "{what}: {outcome}");
    }
}

/// What is there when the middle of the first segment was reached, and the receiver stopped.
fn begun(player: &Player, dir: &TestDir, format: &str) -> PathBuf {
    let directory = dir.subdir(&format!("begun-{}", &format[..2]), 0o700);
    player.receive(&directory, format, recording().middle()).run().succeeded();
    assert!(player.acknowledged() >= recording().middle());
    directory
}

fn copied(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir_all(&to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy a file");
    }
    to
}

/// Breaks a run from the middle on with `fault`, checks, and lets another one go on to the end.
fn break_and_heal(dir: &TestDir, begun: &Path, format: &str, fault: &str) -> Outcome {
    let what = format!("{format}, {fault}");
    let directory = copied(begun, dir.join(&format!("{:08x}", fastrand::u32(..))));
    let player = Player::acknowledged_up_to(recording(), recording().middle());
    let outcome = injecting(player.receive(&directory, format, recording().end()), &[fault]).run();
    assert_holds(&directory, player.acknowledged(), &what);
    player.receive(&directory, format, recording().end()).run().succeeded();
    assert!(player.acknowledged() >= recording().end(), "{what}");
    assert_holds(&directory, recording().end(), &what);
    let finished = segments(&directory).remove(&segment_name(recording().start));
    assert!(finished.is_some_and(|(_, is_final)| is_final), "{what}: the first segment is finished");
    let left = fs::read_dir(&directory).expect("list").flatten().map(|entry| entry.file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{what}");
    fs::remove_dir_all(&directory).expect("remove the directory");
    outcome
}

#[test]
fn killed_at_a_system_call_it_has_what_it_acknowledged() {
    require_server!();
    require_program!("strace");
    let dir = TestDir::new();
    for (format, faults) in [
        ("none", ["pwritev:1", "fdatasync:1", "renameat:1", "fsync:1"]),
        ("gzip:1", ["pwritev:2", "ftruncate:1", "renameat:1", "renameat:2"]),
        ("lz4", ["pwritev:1", "fdatasync:2", "fdatasync:7", "fsync:2"]),
        ("zstd:1", ["pwritev:8", "fdatasync:1", "renameat:1", "renameat:2"]),
    ] {
        let begun = begun(&Player::new(recording()), &dir, format);
        let came = faults.iter().filter(|fault| {
            let (call, number) = fault.split_once(':').expect("a call and its number");
            let outcome = break_and_heal(&dir, &begun, format, &format!("{call}:signal=KILL:when={number}"));
            outcome.code != Some(0)
        });
        // calls are counted by thread, and which one writes or syncs depends on how quick the disk is
        let came: Vec<_> = came.collect();
        assert!(!came.is_empty(), "{format}: of {faults:?} none came");
    }
}

/// Every call of each kind, until a run has fewer of them.
fn killed_everywhere(format: &str) {
    let dir = TestDir::new();
    let begun = begun(&Player::new(recording()), &dir, format);
    let calls = [
        "pwritev",
        "pwrite64",
        "fdatasync",
        "fsync",
        "syncfs",
        "renameat",
        "ftruncate",
        "unlinkat",
        "openat",
        "write",
    ];
    // a short recording has no large writes, and not every format cuts off or takes away
    let may_be_absent = ["pwrite64", "ftruncate", "unlinkat"];
    for call in calls {
        let mut count = 0;
        loop {
            let fault = format!("{call}:signal=KILL:when={}", count + 1);
            if break_and_heal(&dir, &begun, format, &fault).code == Some(0) {
                break;
            }
            count += 1;
        }
        println!("{format}: killed at {count} calls of {call}");
        assert!(count > 0 || may_be_absent.contains(&call), "{format}: no {call}");
    }
}

#[test]
#[ignore = "every system call; run by make torture"]
fn killed_at_every_system_call_plain() {
    require_server!();
    require_program!("strace");
    killed_everywhere("none");
}

#[test]
#[ignore = "every system call; run by make torture"]
fn killed_at_every_system_call_gzip() {
    require_server!();
    require_program!("strace");
    killed_everywhere("gzip:1");
}

#[test]
#[ignore = "every system call; run by make torture"]
fn killed_at_every_system_call_lz4() {
    require_server!();
    require_program!("strace");
    killed_everywhere("lz4");
}

#[test]
#[ignore = "every system call; run by make torture"]
fn killed_at_every_system_call_zstd() {
    require_server!();
    require_program!("strace");
    killed_everywhere("zstd:1");
}

#[test]
fn a_failed_fsync_ends_it_in_every_format() {
    require_server!();
    require_program!("strace");
    let dir = TestDir::new();
    for format in FORMATS {
        let begun = begun(&Player::new(recording()), &dir, format);
        for fault in ["fdatasync:error=EIO:when=3+", "fsync:error=EIO:when=1+"] {
            let outcome = break_and_heal(&dir, &begun, format, fault).exited(1);
            assert!(outcome.stderr.contains("could not fsync"), "{format}, {fault}: {outcome}");
        }
    }
}

#[test]
fn a_full_disk_ends_it_and_room_heals_it_in_every_format() {
    require_server!();
    require_root!();
    let dir = TestDir::new();
    let disk = SmallDisk::mount(&dir, "small", 16 << 20);
    for format in FORMATS {
        let player = Player::new(recording());
        let directory = copied(&begun(&player, &dir, format), disk.path().join(&format[..2]));
        // the `.partial` finds no room to be written anew; or it does, and the rest does not
        for room in [60_000, 200_000] {
            let ballast = disk.fill(room);
            let outcome = player.receive(&directory, format, recording().end()).run().exited(1);
            assert!(outcome.stderr.contains("No space left on device"), "{format}: {outcome}");
            assert_holds(&directory, player.acknowledged(), format);
            fs::remove_file(ballast).expect("make room");
        }
        player.receive(&directory, format, recording().end()).run().succeeded();
        assert_holds(&directory, recording().end(), format);
    }
}

/// A format for each run: a segment is finished in the one it was begun in, and nothing acknowledged is hidden.
#[test]
fn the_format_may_change_in_the_middle_of_a_segment() {
    require_server!();
    let dir = TestDir::new();
    let (start, end) = (recording().start, recording().end());
    for first in 0..FORMATS.len() {
        let directory = dir.subdir(&format!("changing-{first}"), 0o700);
        let player = Player::new(recording());
        for (step, stop) in [200_000, 400_000, 600_000, end - start].into_iter().enumerate() {
            let format = FORMATS[(first + step) % FORMATS.len()];
            player.receive(&directory, format, start + stop).run().succeeded();
            assert_holds(&directory, player.acknowledged(), format);
        }
        let suffix = ["", ".gz", ".lz4", ".zst"];
        let expected = [
            format!("{}{}", segment_name(start), suffix[first]),
            format!("{}{}.partial", segment_name(end), suffix[(first + 3) % 4]),
        ];
        let entries = fs::read_dir(&directory).expect("list").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with('0'));
        names.sort();
        assert_eq!(names, expected);
    }
}

/// Status updates do not wait for a compressor that is slower than what comes.
#[test]
fn replies_flow_while_a_slow_level_compresses() {
    const PINGS: usize = 20;
    require_server!();
    let format = "zstd:22";
    let early = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&early);
    let recording = recording();
    let identity =
        answer(&[Some(&recording.system_identifier), Some("1"), Some(&lsn_text(recording.end())), None]);
    let script = Script::new().says("IDENTIFY_SYSTEM", identity);
    let script = script.on_command("START_REPLICATION", move |_, client| {
        // in one go: what comes piece by piece is compressed, and reported, piece by piece
        let mut all = copy_both();
        for piece in recording.bytes.chunks(PIECE_LEN).enumerate() {
            all.extend(wal(recording.start + (piece.0 * PIECE_LEN) as u64, piece.1));
        }
        for _ in 0..PINGS {
            all.extend(keepalive(recording.end(), true));
        }
        client.write_all(&all)?;
        let mut last = None;
        loop {
            let (tag, body) = read_message(client)?;
            if tag == b'c' {
                return client.write_all(&[copy_done(), complete(), ready()].concat());
            }
            if tag == b'd' && body.first() == Some(&b'r') {
                let position = |at: usize| u64::from_be_bytes(body[at..at + 8].try_into().expect("8 bytes"));
                // nothing new to say, but that it lives: not all is compressed and durable
                let now = (position(1), position(9));
                let is_early = now.1 < recording.end() && last.replace(now) == Some(now);
                seen.fetch_add(u64::from(is_early), Ordering::Relaxed);
            }
        }
    });
    let primary = script.perform();
    let dir = TestDir::new();
    let (start, end) = (lsn_text(recording.start), lsn_text(recording.end()));
    Tool::pgwake()
        .args(["receive", "-w", "-n", "--start", &start, "--endpos", &end, "--compress", format])
        .args(["-d", &primary.conninfo(), "-D"])
        .arg(dir.subdir("received", 0o700))
        .run()
        .succeeded();
    assert!(early.load(Ordering::Relaxed) > 0, "{format}: no reply before all was compressed");
}
