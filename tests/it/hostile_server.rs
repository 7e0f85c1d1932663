//! P6: a server that sends what no server sends. Every run ends in time, with a sentence and the exit code that says
//! "do not trust this" (3) or "this failed" (1), in little memory, with nothing outside of its target.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::require_program;
use crate::support::faults::injecting;
use crate::support::scripted::{
    Script, ScriptedPrimary, WAL_END, answer, columns, complete, copy_both, copy_data, copy_done, copy_out,
    header, keepalive, message, ready, report, result, row, wal,
};
use crate::support::{Outcome, TestDir, Tool, tree};

/// What a run may have in memory, in bytes: 64 MiB, and what a build without optimization has more.
const MAX_MEMORY: u64 = 80 << 20;

/// How long a run may take that is not told to wait for anything.
const MAX_TIME: Duration = Duration::from_secs(20);

/// `pgwake receive`, once, from the end of the scripted WAL on.
fn receive(primary: &ScriptedPrimary, dir: &TestDir) -> Tool {
    patient(primary, dir).args(["--receive-timeout", "2"])
}

/// The same, which waits for longer than any test.
fn patient(primary: &ScriptedPrimary, dir: &TestDir) -> Tool {
    let directory = dir.subdir(&format!("received_{}", fastrand::u32(..)), 0o700);
    Tool::pgwake()
        .args(["receive", "-n", "-w", "--start", "0/400000", "-d"])
        .args([&primary.conninfo(), "-D"])
        .arg(directory)
        .by_server_user()
}

/// Runs it to its end and watches its memory.
#[track_caller]
fn survive(tool: &Tool, name: &str) -> Outcome {
    let mut running = tool.spawn();
    let started = Instant::now();
    let mut peak = 0;
    while running.is_running() && started.elapsed() < MAX_TIME {
        peak = peak.max(memory_of(running.pid()));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(!running.is_running(), "{name}: still running\n{}", running.stderr_so_far());
    assert!(peak < MAX_MEMORY, "{name}: {} MiB\n{}", peak >> 20, end_of(&running.stderr_so_far()));
    running.wait()
}

fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes =
        peak.and_then(|text| text.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(2000);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[track_caller]
fn assert_ends(outcome: &Outcome, name: &str, code: i32, sentence: &str) {
    let stderr = end_of(&outcome.stderr);
    assert!(outcome.code == Some(code), "{name}: exit code {:?} instead of {code}\n{stderr}", outcome.code);
    assert!(stderr.contains(sentence), "{name}: no {sentence:?}\n{stderr}");
    assert!(stderr.contains("error: ") && !stderr.contains("panicked"), "{name}\n{stderr}");
}

fn chain(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_stream_of_lies_is_broken_off() {
    let dir = TestDir::new();
    let stream = |bytes: &[Vec<u8>]| chain(&[&[copy_both()], bytes].concat());
    let next = |timeline: &str, lsn: &str| {
        chain(&[copy_both(), copy_done(), result(&[Some(timeline), Some(lsn)]), complete(), ready()])
    };
    let early_end =
        [&b"w"[..], &WAL_END.to_be_bytes(), &(WAL_END + 1).to_be_bytes(), &[0; 8], b"four"].concat();
    for (name, bytes, code, sentence) in [
        ("huge frame", stream(&[header(b'd', 0x7FFF_FFFF, b"w")]), 3, "is too long"),
        ("largest frame", stream(&[header(b'd', u32::MAX, b"w")]), 3, "is too long"),
        ("frame without length", stream(&[header(b'd', 3, b"")]), 3, "invalid length"),
        ("long short message", stream(&[header(b'Z', 1 << 20, b"I")]), 3, "is too long"),
        ("unknown message", stream(&[message(b'!', b"x")]), 3, "could not receive WAL"),
        ("unknown payload", stream(&[copy_data(b"q234567890")]), 3, "could not receive WAL"),
        ("empty payload", stream(&[copy_data(b"")]), 3, "could not receive WAL"),
        ("half a header", stream(&[copy_data(b"w12345678123")]), 3, "could not receive WAL"),
        ("long keepalive", stream(&[copy_data(&[b'k'; 99])]), 3, "could not receive WAL"),
        ("ahead", stream(&[wal(WAL_END + 8, b"x")]), 3, "WAL for 0/400008, but 0/400000 comes next"),
        ("behind", stream(&[wal(WAL_END - 8, b"x")]), 3, "WAL for 0/3FFFF8, but 0/400000 comes next"),
        ("twice", stream(&[wal(WAL_END, b"xx"), wal(WAL_END, b"xx")]), 3, "but 0/400002 comes next"),
        ("gap", stream(&[wal(WAL_END, b"xx"), wal(WAL_END + 3, b"xx")]), 3, "but 0/400002 comes next"),
        ("no WAL", stream(&[wal(WAL_END, b"")]), 3, "invalid length of 0"),
        ("too much WAL", stream(&[wal(WAL_END, &[1; 600_000])]), 3, "invalid length of 600000"),
        ("beyond the last position", stream(&[wal(u64::MAX - 1, b"xxxx")]), 3, "invalid length of 4"),
        ("end before data", stream(&[copy_data(&early_end)]), 3, "but says that its WAL ends at 0/400001"),
        ("sent, not received", stream(&[keepalive(WAL_END + 1, false)]), 3, "but only 0/400000 was reached"),
        ("data after the end", stream(&[copy_done(), wal(WAL_END, b"x")]), 3, "unexpected CopyData"),
        (
            "end without a word",
            chain(&[copy_both(), copy_done(), complete(), ready()]),
            3,
            "named none to go on",
        ),
        ("the same timeline", next("1", "0/400000"), 3, "which is not later"),
        ("an earlier timeline", next("0", "0/400000"), 3, "invalid next timeline"),
        ("a later start", next("2", "0/500000"), 3, "server goes on at 0/500000 on timeline 2"),
        ("no such position", next("2", "0/4000000000"), 3, "invalid next timeline"),
        ("no such history", next("2", "0/400000"), 1, "this primary only plays one"),
        ("ready for more", stream(&[ready()]), 3, "unexpected ReadyForQuery"),
        ("rows", stream(&[row(&[Some("x")])]), 3, "unexpected DataRow"),
        ("shutdown", stream(&[complete()]), 1, "it is shutting down"),
        ("refused", stream(&[report(b'E', "ERROR", "58P01", "no such WAL")]), 1, "no such WAL"),
        ("garbage", stream(&[vec![0; 4096]]), 3, "could not receive WAL"),
        ("silence", copy_both(), 1, "server was silent for 2 s"),
        ("no answer", Vec::new(), 1, "server was silent for 2 s"),
        ("backup instead", copy_out(), 3, "unexpected CopyOutResponse"),
    ] {
        let primary = Script::new().says("START_REPLICATION", bytes).perform();
        assert_ends(&survive(&receive(&primary, &dir), name), name, code, sentence);
    }
    let primary =
        Script::new().on("START_REPLICATION", |client| client.shutdown(std::net::Shutdown::Both)).perform();
    assert_ends(&survive(&receive(&primary, &dir), "gone"), "gone", 1, "server closed the connection");
    assert!(!tree(dir.path()).contains("0000000100000000000000050"), "{}", tree(dir.path()));
}

#[test]
fn answers_of_any_shape_are_refused() {
    let dir = TestDir::new();
    let wide = message(b'T', &[&[0x7F, 0xFF][..], &[0; 40]].concat());
    let two_rows = chain(&[columns(4), row(&[Some("1"); 4]), row(&[Some("1"); 4]), complete(), ready()]);
    let ragged = chain(&[columns(4), row(&[Some("1"); 3]), complete(), ready()]);
    let history = |text: &str| answer(&[Some("00000015.history"), Some(text)]);
    let twenty_one = answer(&[Some("7000000000000000001"), Some("21"), Some("0/400000"), None]);
    for (name, command, bytes, code, sentence) in [
        ("too wide", "IDENTIFY_SYSTEM", wide, 3, "could not identify the server"),
        ("two rows", "IDENTIFY_SYSTEM", two_rows, 3, "not one row"),
        ("no rows", "IDENTIFY_SYSTEM", chain(&[columns(4), complete(), ready()]), 3, "not one row"),
        ("ragged", "IDENTIFY_SYSTEM", ragged, 3, "a row of another width"),
        ("narrow", "IDENTIFY_SYSTEM", answer(&[Some("1")]), 3, "too few columns"),
        ("nonsense", "IDENTIFY_SYSTEM", answer(&[Some("x"); 4]), 3, "could not identify the server"),
        ("nothing", "IDENTIFY_SYSTEM", answer(&[None; 4]), 3, "could not identify the server"),
        ("row only", "IDENTIFY_SYSTEM", chain(&[row(&[None; 4]), ready()]), 3, "unexpected DataRow"),
        (
            "mute",
            "IDENTIFY_SYSTEM",
            Vec::new(),
            1,
            "could not identify the server: server was silent for 2 s",
        ),
        ("segments of 3 MB", "SHOW wal_segment_size", answer(&[Some("3MB")]), 3, "no valid WAL segment size"),
        (
            "segments of nothing",
            "SHOW wal_segment_size",
            answer(&[Some("0")]),
            3,
            "no valid WAL segment size",
        ),
        ("endless segments", "SHOW wal_segment_size", answer(&[Some("99999999999TB")]), 3, "segment size"),
        ("history of nonsense", "TIMELINE_HISTORY", history("x\ty\nz"), 3, "not a timeline history"),
        (
            "backward history",
            "TIMELINE_HISTORY",
            history("3\t0/9\tx\n2\t0/8\ty\n"),
            3,
            "could not fetch a timeline history",
        ),
        ("own ancestor", "TIMELINE_HISTORY", history("21\t0/9\tx\n"), 3, "not a timeline history"),
        (
            "history elsewhere",
            "TIMELINE_HISTORY",
            answer(&[Some("../pgwake-hostile"), Some("")]),
            3,
            "another timeline",
        ),
        ("no history", "TIMELINE_HISTORY", answer(&[None, None]), 3, "could not fetch a timeline history"),
        ("long history", "TIMELINE_HISTORY", header(b'D', 17 << 20, b"x"), 3, "is too long"),
    ] {
        let mut script = Script::new();
        if command == "TIMELINE_HISTORY" {
            script = script.says("IDENTIFY_SYSTEM", twenty_one.clone());
        }
        let primary = script.says(command, bytes).perform();
        assert_ends(&survive(&receive(&primary, &dir), name), name, code, sentence);
    }
    assert!(!tree(dir.path()).contains("pgwake-hostile"), "{}", tree(dir.path()));
}

#[test]
fn what_never_ends_is_bounded() {
    let dir = TestDir::new();
    let rows = Script::new().on("IDENTIFY_SYSTEM", |client| {
        client.write_all(&columns(4))?;
        let thousand = row(&[Some("1"); 4]).repeat(1000);
        loop {
            client.write_all(&thousand)?;
        }
    });
    let wide_rows = Script::new().on("IDENTIFY_SYSTEM", |client| {
        client.write_all(&columns(4))?;
        let long = "x".repeat(1 << 20);
        loop {
            client.write_all(&row(&[Some(long.as_str()); 4]))?;
        }
    });
    let sets = Script::new().on("IDENTIFY_SYSTEM", |client| {
        let thousand = chain(&[columns(1000), complete()]).repeat(10);
        loop {
            client.write_all(&thousand)?;
        }
    });
    for (name, script) in [("rows", rows), ("wide rows", wide_rows), ("result sets", sets)] {
        let primary = script.perform();
        assert_ends(&survive(&receive(&primary, &dir), name), name, 3, "could not identify the server");
    }
    let notices = Script::new().on("START_REPLICATION", |client| {
        client.write_all(&copy_both())?;
        let notice = report(b'N', "NOTICE", "00000", &"nothing ".repeat(500));
        loop {
            client.write_all(&notice)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let parameters = Script::new().on("START_REPLICATION", |client| {
        client.write_all(&copy_both())?;
        for count in 0u64.. {
            let value = "x".repeat(20_000);
            client.write_all(&message(b'S', format!("name{count}\0{value}\0").as_bytes()))?;
        }
        Ok(())
    });
    let mute_parameters = Script::new().on("IDENTIFY_SYSTEM", |client| {
        for count in 0u64.. {
            client.write_all(&message(b'S', format!("name{count}\0value\0").as_bytes()))?;
        }
        Ok(())
    });
    for (name, script) in
        [("notices", notices), ("parameters", parameters), ("mute parameters", mute_parameters)]
    {
        let primary = script.perform();
        assert_ends(&survive(&receive(&primary, &dir), name), name, 1, "server was silent for 2 s");
    }
}

#[test]
fn a_startup_that_never_ends_is_given_up() {
    let dir = TestDir::new();
    let parameters = Script::new().greeting(|client| {
        client.write_all(&message(b'R', &[0; 4]))?;
        for count in 0u64.. {
            client.write_all(&message(b'S', format!("name{count}\0{}\0", "x".repeat(1000)).as_bytes()))?;
        }
        Ok(())
    });
    let notices = Script::new().greeting(|client| {
        let notice = report(b'N', "NOTICE", "00000", &"nothing ".repeat(500));
        loop {
            client.write_all(&notice)?;
        }
    });
    let mute = Script::new().greeting(|_| Ok(()));
    for (name, script) in [("parameters", parameters), ("notices", notices), ("mute", mute)] {
        let primary = script.perform();
        assert_ends(&survive(&receive(&primary, &dir), name), name, 1, "timeout expired");
        let create = create(&format!("{} connect_timeout=2", primary.conninfo()), &dir);
        assert_ends(&survive(&create, name), name, 1, "timeout expired");
    }
    let long = Script::new().greeting(|client| client.write_all(&header(b'S', 1 << 30, b"x")));
    let primary = long.perform();
    assert_ends(&survive(&receive(&primary, &dir), "long"), "long", 3, "is too long");
}

/// A client that is asked and asked, and whose answers nobody reads.
#[test]
fn pings_without_end_do_not_pile_up_answers() {
    let dir = TestDir::new();
    let script = Script::new().on("START_REPLICATION", |client| {
        client.write_all(&copy_both())?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(4) {
            client.write_all(&keepalive(WAL_END, true))?;
        }
        client.shutdown(std::net::Shutdown::Both)
    });
    let primary = script.perform();
    let outcome = survive(&receive(&primary, &dir), "pings");
    assert_ends(&outcome, "pings", 1, "could not receive WAL");
}

/// Each byte of WAL comes in a message of its own, or behind megabytes of something else, and the disk is slow.
#[test]
fn wal_in_crumbs_does_not_pile_up_before_a_slow_disk() {
    require_program!("strace");
    let dir = TestDir::new();
    for (name, between) in [("crumbs", 0), ("crumbs in large loaves", 1 << 20)] {
        let script = Script::new().on("START_REPLICATION", move |client| {
            client.write_all(&copy_both())?;
            let started = Instant::now();
            let loaf = report(b'N', "DEBUG", "00000", "").repeat(between / 40);
            let mut lsn = WAL_END;
            while started.elapsed() < Duration::from_secs(2) {
                let crumbs: Vec<u8> = (0..if between == 0 { 4096 } else { 1 })
                    .flat_map(|count| [wal(lsn + count, b"x"), loaf.clone()].concat())
                    .collect();
                lsn += if between == 0 { 4096 } else { 1 };
                client.write_all(&crumbs)?;
            }
            client.shutdown(std::net::Shutdown::Both)
        });
        let primary = script.perform();
        // it is no WAL, and would be refused at once
        let tool = patient(&primary, &dir).args(["--quiet", "--no-verify-records"]);
        let outcome = survive(&injecting(tool, &["fdatasync:delay_exit=700000"]), name);
        assert_ends(&outcome, name, 1, "could not receive WAL");
    }
}

// ---- pgwake standby create ----

fn create(conninfo: &str, dir: &TestDir) -> Tool {
    let directory: PathBuf = dir.join("standby");
    Tool::pgwake()
        .args(["standby", "create", "-w", "--slot", "standby1", "-d", conninfo, "-D"])
        .arg(directory)
        .by_server_user()
}

/// The beginning of a backup, up to its copy.
fn backup_start() -> Vec<u8> {
    chain(&[
        result(&[Some("0/400028"), Some("1")]),
        result(&[None, None, Some("1000")]),
        copy_out(),
        copy_data(b"nbase.tar\0\0"),
    ])
}

/// A member with any name at all.
fn member(name: &str, kind: u8, link: &str, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o600);
    header.set_size(size);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn data(bytes: &[u8]) -> Vec<u8> {
    copy_data(&[b"d", bytes].concat())
}

#[test]
fn a_hostile_backup_leaves_nothing_and_reaches_nothing() {
    let dir = TestDir::new();
    let outside = dir.subdir("outside", 0o777);
    let sentinel = dir.file("outside/sentinel", 0o600, "untouched");
    let absolute = outside.join("x").display().to_string();
    let file = |name: &str| data(&member(name, b'0', "", 4, b"evil"));
    let with = |bytes: &[Vec<u8>]| chain(&[&[backup_start()], bytes].concat());
    let tablespaces = |rows: &[Vec<u8>]| {
        chain(
            &[&[result(&[Some("0/400028"), Some("1")]), columns(3)], rows, &[complete(), copy_out()]]
                .concat(),
        )
    };
    let manifest = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n\"WAL-Ranges\": [\n],\n\
                    \"Manifest-Checksum\": \"0000000000000000000000000000000000000000000000000000000000000000\"}\n";
    let label = "START WAL LOCATION: 0/400028 (file 000000010000000000000004)\nCHECKPOINT LOCATION: 0/400060\n\
                 BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-01-01 00:00:00 UTC\nLABEL: x\n\
                 START TIMELINE: 1\n";
    let label = data(&member("backup_label", b'0', "", label.len() as u64, label.as_bytes()));
    let close = chain(&[
        data(&member("global", b'5', "", 0, b"")),
        data(&member("global/pg_control", b'0', "", 8192, &[0; 8192])),
        data(&[0; 1024]),
    ]);
    let end = chain(&[
        copy_done(),
        result(&[Some("0/400100"), Some("1")]),
        message(b'C', b"BASE_BACKUP\0"),
        ready(),
    ]);
    for (name, bytes, code, sentence) in [
        ("parent", with(&[file("../outside/x")]), 3, "archive \"base.tar\""),
        ("absolute", with(&[file(&absolute)]), 3, "archive \"base.tar\""),
        (
            "link",
            with(&[data(&member("escape", b'2', "../outside", 0, b""))]),
            3,
            "symbolic links are accepted",
        ),
        (
            "through a link",
            with(&[
                data(&member("pg_tblspc", b'5', "", 0, b"")),
                data(&member("pg_tblspc/1", b'2', &outside.display().to_string(), 0, b"")),
                file("pg_tblspc/1/x"),
            ]),
            3,
            "unacceptable member \"pg_tblspc/1/x\" in archive",
        ),
        ("hard link", with(&[data(&member("x", b'1', "/etc/passwd", 0, b""))]), 3, "archive \"base.tar\""),
        ("device", with(&[data(&member("x", b'3', "", 0, b""))]), 3, "archive \"base.tar\""),
        ("garbage", with(&[data(&[0x41; 4096])]), 3, "could not read archive"),
        (
            "negative size",
            with(&[data(&member("x", b'0', "", u64::MAX >> 1, b""))]),
            3,
            "archive \"base.tar\"",
        ),
        ("hostile archive", with(&[copy_data(b"n../../x.tar\0\0")]), 3, "x.tar"),
        ("hidden archive", with(&[copy_data(b"n.tar\0\0")]), 3, "archive name"),
        (
            "unannounced archive",
            with(&[copy_data(b"n16385.tar\0/srv/x\0")]),
            3,
            "archive after the one of the data directory",
        ),
        ("unknown payload", with(&[copy_data(b"?")]), 3, "could not read the base backup"),
        (
            "wrong manifest",
            with(&[label.clone(), close.clone(), copy_data(b"m"), data(manifest.as_bytes())])
                .into_iter()
                .chain(end.clone())
                .collect(),
            3,
            "backup manifest is not acceptable",
        ),
        ("no manifest", with(&[label, close, end]), 3, "backup manifest is missing"),
        (
            "two data directories",
            tablespaces(&[row(&[None; 3]), row(&[None; 3])]),
            3,
            "not one data directory",
        ),
        ("half a tablespace", tablespaces(&[row(&[Some("1"), None, None])]), 3, "invalid tablespace"),
        ("start at nothing", chain(&[result(&[Some("x"), Some("1")])]), 3, "invalid start"),
        ("refused", chain(&[report(b'E', "ERROR", "42501", "not for you"), ready()]), 1, "not for you"),
    ] {
        let primary = Script::new().says("BASE_BACKUP", bytes).perform();
        let outcome = survive(&create(&primary.conninfo(), &dir), name);
        assert_ends(&outcome, name, code, sentence);
        assert_eq!(std::fs::read_to_string(&sentinel).unwrap(), "untouched", "{name}");
        assert_eq!(tree(dir.path()), "d 0777 outside\nf 0600 9 outside/sentinel\n", "{name}");
        let dropped = primary.commands().iter().any(|command| command.starts_with("DROP_REPLICATION_SLOT"));
        assert!(dropped, "{name}: {:?}", primary.commands());
    }
}

#[test]
fn a_backup_whose_tablespaces_never_end_is_bounded() {
    let dir = TestDir::new();
    let script = Script::new().on("BASE_BACKUP", |client| {
        client.write_all(&result(&[Some("0/400028"), Some("1")]))?;
        client.write_all(&columns(3))?;
        let long = format!("/{}", "x".repeat(1 << 20));
        loop {
            client.write_all(&row(&[Some("16385"), Some(&long), Some("1")]))?;
        }
    });
    let primary = script.perform();
    assert_ends(&survive(&create(&primary.conninfo(), &dir), "tablespaces"), "tablespaces", 3, "BASE_BACKUP");
}

#[test]
fn wal_of_another_cluster_is_not_taken_with_a_backup() {
    let dir = TestDir::new();
    let asked = AtomicUsize::new(0);
    let script = Script::new().says("BASE_BACKUP", backup_start()).on("IDENTIFY_SYSTEM", move |client| {
        let identifier = match asked.fetch_add(1, Ordering::Relaxed) {
            0 => "7000000000000000001",
            _ => "7000000000000000002",
        };
        client.write_all(&answer(&[Some(identifier), Some("1"), Some("0/400000"), None]))
    });
    let primary = script.perform();
    let outcome = survive(&create(&primary.conninfo(), &dir), "another cluster");
    assert_ends(&outcome, "another cluster", 3, "7000000000000000002");
    assert_eq!(tree(dir.path()), "");
}

#[test]
fn a_backup_that_hangs_can_be_interrupted() {
    let dir = TestDir::new();
    for (round, bytes) in
        [Vec::new(), result(&[Some("0/400028"), Some("1")]), backup_start()].into_iter().enumerate()
    {
        let primary = Script::new().says("BASE_BACKUP", bytes).perform();
        let mut running = create(&primary.conninfo(), &dir).spawn();
        running.wait_for_stderr("created replication slot");
        crate::support::wait_until("the backup was asked for", || {
            primary.commands().iter().any(|command| command.starts_with("BASE_BACKUP"))
        });
        let started = Instant::now();
        running.interrupt();
        let outcome = running.wait();
        assert!(started.elapsed() < Duration::from_secs(10), "{round}: {:?}", started.elapsed());
        assert_ends(&outcome, "interrupted", 1, "interrupted by SIGINT");
        assert_eq!(tree(dir.path()), "", "{round}");
    }
}
