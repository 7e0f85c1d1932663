//! What can break on the way, and what then holds: cut and silent connections, disks that fail, fill up or are slow.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{
    Ledger, SLOT_POSITION, Sampler, assert_never_back, assert_same_as, caught_up, directory, from_slot,
    keeping_wal, make_wal, peak_memory, receive, streaming, wal_files, without_slot,
};
use crate::support::faults::{SmallDisk, injecting};
use crate::support::{Direction, Ending, Proxy, TestDir};
use crate::{require_program, require_root, require_server};

#[test]
fn a_connection_may_be_cut_anywhere() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let proxy = Proxy::to(&primary);
    let positions = {
        receive(&primary.conninfo(), &received).args(["--endpos", "0/1"]).run().succeeded();
        Sampler::begin(&primary, SLOT_POSITION)
    };
    let tool = from_slot(receive(&proxy.conninfo(), &received), &primary, "witness");
    let mut receiver = streaming(&tool);
    for round in 0..24 {
        let (direction, count) = match round % 3 {
            // in the startup, in the answers, within WAL
            0 => (Direction::ToClient, fastrand::u64(1..700)),
            1 => (Direction::ToClient, fastrand::u64(700..900_000)),
            _ => (Direction::ToServer, fastrand::u64(1..700)),
        };
        let ending = if round % 2 == 0 { Ending::Close } else { Ending::Reset };
        let connections = proxy.connection_count();
        proxy.cut_after(direction, count, ending);
        if round % 3 == 0 {
            proxy.cut_now(ending);
        }
        make_wal(&primary, 1);
        crate::support::wait_until("the next connection", || {
            if round % 3 == 2 {
                // only answers go that way, and only WAL brings them
                primary.psql("SELECT pg_logical_emit_message(true, 'more', '')");
            }
            proxy.connection_count() > connections
        });
        assert!(receiver.is_running());
    }
    caught_up(&primary);
    assert_never_back(&positions.end());
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(assert_same_as(&[&primary], &received).len() >= 20);
}

/// Who cancels what runs long on a server means somebody else; who ends it, and a crash, mean everybody.
#[test]
fn what_passes_on_the_server_is_waited_for() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let mut receiver = streaming(&receive(&primary.conninfo(), &received));
    for interference in ["pg_cancel_backend", "pg_terminate_backend"] {
        make_wal(&primary, 1);
        caught_up(&primary);
        let seen = receiver.stderr_so_far().matches("streaming started").count();
        primary.psql(&format!("SELECT {interference}(pid) FROM pg_stat_replication"));
        crate::support::wait_until("it streams again", || {
            receiver.stderr_so_far().matches("streaming started").count() > seen || !receiver.is_running()
        });
        assert!(receiver.is_running(), "{interference}: {}", receiver.stderr_so_far());
    }
    make_wal(&primary, 1);
    caught_up(&primary);
    receiver.terminate();
    receiver.wait().succeeded();
    assert_same_as(&[&primary], &received);
}

/// What an earlier run has not synced, and what somebody has copied there, is made durable before it is counted on.
#[test]
fn what_was_there_is_synced_before_anything_is_acknowledged() {
    require_server!();
    require_program!("strace");
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received).args(["-n"]);
    // the second acknowledgement would come after a sync that fails
    let tool = injecting(tool, &["syncfs:error=EIO:when=1"]);
    let outcome = tool.spawn();
    make_wal(&primary, 1);
    outcome.wait().exited(1).complains("could not fsync directory");
    let acknowledged = primary
        .psql("SELECT restart_lsn IS NULL OR restart_lsn <= pg_lsn '0/3000000' FROM pg_replication_slots");
    assert_eq!(acknowledged, "t", "nothing was acknowledged");
}

/// A directory that somebody removes, under a receiver that could go on writing into what nobody finds any more.
#[test]
fn a_directory_that_is_removed_ends_it() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let receiver = streaming(&receive(&primary.conninfo(), &received).args(["-n"]));
    make_wal(&primary, 1);
    caught_up(&primary);
    fs::remove_dir_all(&received).expect("remove the directory");
    let before = primary.psql("SELECT pg_current_wal_flush_lsn()");
    make_wal(&primary, 1);
    let outcome = receiver.wait().exited(1);
    assert!(
        outcome.stderr.contains("somebody removed the file") || outcome.stderr.contains("could not open"),
        "{outcome}"
    );
    let late = format!("SELECT count(*) FROM pg_replication_slots WHERE restart_lsn > '{before}'");
    assert_eq!(primary.psql(&late), "0", "what nobody can find was acknowledged");
}

#[test]
fn a_silent_server_is_noticed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let proxy = Proxy::to(&primary);
    let tool = receive(&proxy.conninfo(), &received).args(["--receive-timeout", "2"]);
    let receiver = streaming(&tool);
    for (round, direction) in [Direction::ToClient, Direction::ToServer].into_iter().enumerate() {
        make_wal(&primary, 1);
        caught_up(&primary);
        let started = Instant::now();
        proxy.stall(direction);
        let seen = receiver.stderr_so_far().len();
        crate::support::wait_until("the silence is noticed", || {
            receiver.stderr_so_far()[seen..].contains("server was silent for 2 s")
        });
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(round > 0 || started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
        proxy.resume(direction);
        // what was stalled halfway is of no use to anybody
        proxy.cut_now(Ending::Close);
        caught_up(&primary);
    }
    // while it connects, too; and a signal is heard all the same
    proxy.stall(Direction::ToClient);
    proxy.cut_now(Ending::Close);
    let seen = receiver.stderr_so_far().len();
    crate::support::wait_until("the silence is noticed", || {
        receiver.stderr_so_far()[seen..].contains("timeout expired")
    });
    receiver.terminate();
    receiver.wait().succeeded();
    assert_same_as(&[&primary], &received);
}

#[test]
fn an_idle_stream_is_not_taken_for_a_dead_one() {
    require_server!();
    let primary = keeping_wal(1).setting("wal_sender_timeout", "2s").start();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    let receivers = [
        streaming(&tool.args(["--receive-timeout", "2", "--status-interval", "0"])),
        streaming(&without_slot(&primary.conninfo(), &primary.dir().subdir("other", 0o700)).args([
            "--start",
            "current",
            "--receive-timeout",
            "0",
            "--status-interval",
            "0",
        ])),
    ];
    std::thread::sleep(Duration::from_secs(5));
    for receiver in receivers {
        receiver.terminate();
        let outcome = receiver.wait().succeeded();
        assert!(!outcome.stderr.contains("disconnected"), "{outcome}");
    }
    assert!(!primary.log().contains("terminating walsender process"), "{}", primary.log());
}

#[test]
fn after_a_failed_fsync_nothing_more_is_acknowledged() {
    require_server!();
    require_program!("strace");
    let primary = keeping_wal(1).setting("synchronous_standby_names", "pgwake").start();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    tool.clone().args(["--endpos", "0/1"]).run().succeeded();
    let tool = from_slot(tool, &primary, "witness");
    let position = || primary.psql(SLOT_POSITION);
    for fault in [
        "fdatasync:error=EIO:when=1+",
        "fdatasync:error=EIO:when=4+",
        // once, and the next would succeed
        "fdatasync:error=EIO:when=3",
        "fsync:error=EIO:when=1+",
        "fsync:error=ENOSPC:when=3+",
    ] {
        let before = position();
        let receiver = injecting(tool.clone(), &[fault]).spawn();
        make_wal(&primary, 2);
        let ledger = Ledger::begin(&primary, "on");
        let outcome = receiver.wait().exited(1).complains("error: could not store WAL");
        assert!(outcome.stderr.contains("could not fsync"), "{fault}: {outcome}");
        let acknowledged = ledger.end();
        if fault.ends_with("when=1+") {
            assert_eq!(position(), before, "{fault}");
            assert!(acknowledged.is_empty(), "{fault}: {acknowledged:?}");
        }
        // a commit that still waits for a receiver holds its lock
        let clients = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        primary.wait_for(clients, "0");
        primary.psql("SET synchronous_commit = local; DROP TABLE ledger");
        let healed = streaming(&tool);
        caught_up(&primary);
        healed.terminate();
        healed.wait().succeeded();
        assert_same_as(&[&primary], &received);
    }
}

#[test]
fn a_full_disk_ends_it_and_room_heals_it() {
    require_server!();
    require_root!();
    let primary = keeping_wal(1).start();
    let disk = SmallDisk::mount(primary.dir(), "small", 32 << 20);
    let received = disk.path().to_owned();
    // one that shall not wait
    let tool = receive(&primary.conninfo(), &received).arg("-n");
    let receiver = streaming(&tool);
    caught_up(&primary);
    // an odd size, in the middle of a page
    let ballast = disk.fill((2 << 20) + 12 * 4096);
    make_wal(&primary, 6);
    let outcome = receiver.wait().exited(1).complains("No space left on device");
    assert!(outcome.stderr.contains("error: could not store WAL"), "{outcome}");
    assert!(outcome.stderr.contains("hint: Make room"), "{outcome}");
    let partial = wal_files(&received).into_iter().find(|name| name.ends_with(".partial")).unwrap();
    let len = fs::metadata(received.join(&partial)).unwrap().len();
    assert!(0 < len && len < 1 << 20, "{partial}: {len}");
    // still full: the same end, and nothing is lost
    let again = tool.run().exited(1).complains("No space left on device");
    assert!(again.elapsed < Duration::from_secs(20), "{again}");
    fs::remove_file(ballast).unwrap();
    let healed = streaming(&tool);
    caught_up(&primary);
    healed.terminate();
    healed.wait().succeeded();
    assert!(assert_same_as(&[&primary], &received).len() >= 6);
}

#[test]
fn unfinished_files_of_any_size_are_healed() {
    require_server!();
    let primary = keeping_wal(1).start();
    let received = directory(&primary);
    let tool = receive(&primary.conninfo(), &received);
    streaming(&tool).terminate();
    let tool = from_slot(tool, &primary, "witness");
    for len in [0, 1, 8191, 8193, 1 << 20] {
        let receiver = streaming(&tool);
        make_wal(&primary, 1);
        caught_up(&primary);
        receiver.terminate();
        receiver.wait().succeeded();
        let partial = wal_files(&received).into_iter().next_back().unwrap();
        assert!(partial.ends_with(".partial"), "{partial}");
        // what a power cut may leave: shorter than acknowledged, or as long as a segment, with zeros at its end
        let file = fs::OpenOptions::new().write(true).open(received.join(&partial)).unwrap();
        file.set_len(len).unwrap();
        let position = primary.psql(SLOT_POSITION);
        let receiver = streaming(&tool);
        caught_up(&primary);
        assert!(primary.psql(SLOT_POSITION).parse::<u64>().unwrap() >= position.parse().unwrap());
        receiver.terminate();
        receiver.wait().succeeded();
        if len < 1 << 20 {
            assert_same_as(&[&primary], &received);
        }
    }
}

#[test]
fn memory_stays_small_while_the_disk_is_slow() {
    require_server!();
    require_program!("strace");
    let primary = keeping_wal(16).start();
    let received = directory(&primary);
    catch_up_slowly(&primary, &received, 96, "fdatasync:delay_exit=250000");
}

#[test]
#[ignore = "a gigabyte of WAL; run by make torture"]
fn memory_stays_small_over_a_gigabyte() {
    require_server!();
    require_program!("strace");
    let primary = keeping_wal(16).start();
    let received = directory(&primary);
    catch_up_slowly(&primary, &received, 1024, "fdatasync:delay_exit=200000");
}

fn catch_up_slowly(primary: &crate::support::Cluster, received: &Path, megabytes: u32, fault: &str) {
    let tool = receive(&primary.conninfo(), received);
    tool.clone().args(["--endpos", "0/1"]).run().succeeded();
    let tool = from_slot(tool, primary, "witness");
    make_wal(primary, megabytes);
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let mut receiver = injecting(tool.args(["--endpos", &end]), &[fault]).spawn();
    let mut peak = 0;
    while receiver.is_running() {
        peak = peak.max(peak_memory(&receiver).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    receiver.wait().succeeded();
    assert!(peak > 1 << 20 && peak < 64 << 20, "{} MiB", peak >> 20);
    assert_same_as(&[primary], received);
}

#[test]
fn a_server_that_lets_us_in_and_says_no_more_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut received = [0; 4096];
            let _ = stream.read(&mut received);
            let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0017.0\0Z\0\0\0\x05I");
            while stream.read(&mut received).is_ok_and(|len| len > 0) {}
        }
    });
    let directory = TestDir::new();
    let received = directory.subdir("received", 0o700);
    let conninfo = format!("host=127.0.0.1 port={port} user=u sslmode=disable");
    for (more, doing) in
        [(&["--create-slot"][..], "ask the server where its WAL ends"), (&[], "identify the server")]
    {
        let tool = without_slot(&conninfo, &received).args(["--slot", "s"]);
        let outcome = tool.args(["--receive-timeout", "1", "-n"]).args(more).run().exited(1);
        assert!(outcome.stderr.contains(doing), "{outcome}");
        assert!(outcome.stderr.contains("server was silent for 1 s"), "{outcome}");
    }
}
