//! How fast a recovering server gets its WAL.

use std::path::PathBuf;
use std::time::Instant;

use crate::support::{Stop, Tool, wait_until};
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
        let began = Instant::now();
        server.start();
        wait_until("recovery has ended", || {
            server.try_psql("SELECT pg_is_in_recovery()").stdout.trim() == "f"
        });
        let took = began.elapsed().as_secs_f64();
        println!(
            "  {name:<24} {took:.2} s with the server's start and end, {:.0} segments/s",
            segments / took
        );
        server.stop(Stop::Fast);
    }
}
