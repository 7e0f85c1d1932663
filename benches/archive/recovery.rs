//! How fast a recovering server gets its WAL.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Stop, Tool, process, wait_until};
use crate::{end, local_archive, primary, receive};

pub(crate) fn measure(size_mb: u64) {
    let primary = primary(false);
    let directory = primary.dir().subdir("received", 0o700);
    let url = local_archive(&primary, "archive");
    let tool = receive(&primary, &directory).args(["--slot", "bench", "--create-slot", "--archive", &url]);
    let running = tool.spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    let backups: Vec<PathBuf> = ["without", "ahead", "copied"].map(|name| primary.dir().join(name)).to_vec();
    for backup in &backups {
        let copy = Tool::client(primary.major(), "pg_basebackup").args(["-X", "none", "-c", "fast", "-d"]);
        copy.arg(primary.conninfo()).arg("-D").arg(backup).by_server_user().run().succeeded();
    }
    let before = primary.psql("SELECT pg_current_wal_flush_lsn()");
    // of real tables, for its content's sake, in records that take no time to replay
    for _ in 0..size_mb.div_ceil(64) {
        primary.psql(
            "SELECT count(pg_logical_emit_message(false, 'filler', \
             (SELECT string_agg(md5(j::text || i) || repeat(' ', 48), '') FROM generate_series(1, 6500) j))) \
             FROM generate_series(1, 128) i; SELECT pg_logical_emit_message(true, 'end', '')",
        );
    }
    primary.psql("SELECT pg_switch_wal(); SELECT txid_current()");
    let end_lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let segments = format!("SELECT ('{end_lsn}'::pg_lsn - '{before}'::pg_lsn)::bigint / 16777216");
    let segments: f64 = primary.psql(&segments).parse().expect("a count");
    let applied = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{end_lsn}'");
    primary.wait_for(&applied, "1");
    end(running);
    primary.stop(Stop::Fast);
    let program = Tool::pgwake().by_server_user().program().display().to_string();
    println!("\nrecovery of {segments:.0} segments");
    let fetch =
        |prefetch: &str| format!("{program} --quiet wal fetch --prefetch {prefetch} --archive {url} %f %p");
    let ways = [
        ("wal fetch --prefetch 0", fetch("0")),
        ("wal fetch --prefetch 8", fetch("8")),
        ("cp from the directory", format!("cp {}/%f %p", directory.display())),
    ];
    for (backup, (name, command)) in backups.iter().zip(ways) {
        let server = primary.adopt(backup.clone());
        server.append_settings(&format!("restore_command = '{command}'\nhot_standby = off\n"));
        let signal = primary.dir().file("socket_signal", 0o600, "");
        std::fs::rename(signal, backup.join("recovery.signal")).expect("ask for recovery");
        let (began, mut commands) = (Instant::now(), Duration::ZERO);
        server.start();
        wait_until("recovery has ended", || {
            commands = commands.max(cpu_of_commands(&server));
            server.try_psql("SELECT pg_is_in_recovery()").stdout.trim() == "f"
        });
        let took = began.elapsed().as_secs_f64();
        let (ahead, window) =
            (cpu_of_prefetcher(&backup.display().to_string()), restoring_time(&server.log()));
        let cpu = (commands + ahead).as_secs_f64();
        println!(
            "  {name:<24} {:.0} segments/s from the first to the last, {took:.2} s with the server's start and end; \
             {:.1} ms of CPU a segment, {:.0} segments/s for each processor",
            (segments - 1.0) / window,
            cpu * 1e3 / segments,
            segments / cpu
        );
        server.stop(Stop::Fast);
    }
}

/// What the commands have taken that the server's startup process has run and waited for, all that they started and waited for
/// included.
fn cpu_of_commands(server: &Cluster) -> Duration {
    let children = server.postmaster_pid().map_or_else(Vec::new, process::children_of);
    let cpu = children.into_iter().map(|child| cpu_of(child, [13, 14]));
    cpu.max().unwrap_or_default()
}

/// What the process has taken that fetches ahead, in the directory of WAL below `data`; it waits a while for more to do.
fn cpu_of_prefetcher(data: &str) -> Duration {
    let pids = std::fs::read_dir("/proc").expect("list processes").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ahead = |pid: &i32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|word| word == b"--ahead") && directory.ends_with(data)
    };
    pids.filter(is_ahead).map(|pid| cpu_of(pid, [11, 12])).sum()
}

/// Two of the times in proc_pid_stat(5), counted behind the name, in ticks of 10 ms.
fn cpu_of(pid: i32, fields: [usize; 2]) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let words: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    fields.into_iter().map(|index| Duration::from_millis(ticks(index) * 10)).sum()
}

/// From the first to the last segment that the server says to have got, in seconds.
fn restoring_time(log: &str) -> f64 {
    let told = log.lines().filter(|line| line.contains("restored log file"));
    // 2026-11-26 16:17:40.123 UTC
    let seconds = told.filter_map(|line| {
        let mut parts = line.split_whitespace().nth(1)?.split(':').map(|part| part.parse::<f64>().ok());
        Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
    });
    let seconds: Vec<f64> = seconds.collect();
    seconds.last().zip(seconds.first()).map_or(f64::NAN, |(last, first)| last - first)
}
