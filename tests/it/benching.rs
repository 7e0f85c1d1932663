//! `pgwake bench`: the numbers are those of what came, and nobody suffers from it.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::require_server;
use crate::support::{Cluster, Outcome, Running, Stop, Tool};

fn bench(conninfo: &str, what: &str, more: &[&str]) -> Tool {
    Tool::pgwake().args(["bench", what, "-w", "-d", conninfo]).args(more)
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Segments of 1 MB, of which some remain.
fn with_wal() -> Cluster {
    let cluster = Cluster::builder().wal_segsize(1).setting("wal_keep_size", "64MB").start();
    make_wal(&cluster, 8);
    cluster
}

fn make_wal(cluster: &Cluster, megabytes: u32) {
    cluster.psql(&format!(
        "SELECT count(pg_logical_emit_message(true, 'test', repeat(md5(n::text), 2100))) FROM generate_series(1, {}) n",
        megabytes * 16
    ));
}

fn lsn(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("no LSN: {value}"));
    let (high, low) = text.split_once('/').expect("an LSN");
    let digits = |text| u64::from_str_radix(text, 16).expect("hexadecimal digits");
    digits(high) << 32 | digits(low)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A stream that is measured until somebody ends it, and has caught up.
fn measuring(cluster: &Cluster, more: &[&str]) -> Running {
    let running = bench(&cluster.conninfo(), "wal", &["--json", "--duration", "50"]).args(more).spawn();
    cluster.wait_for(
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sent_lsn = pg_current_wal_flush_lsn()",
        "1",
    );
    running
}

const STREAMING: &str = "SELECT count(*) FROM pg_stat_replication";

#[test]
fn the_bytes_are_those_between_the_positions() {
    require_server!();
    let cluster = with_wal();
    let end = cluster.wal_position();
    let oldest = cluster.psql("SELECT right(min(name), 8) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'");
    let directory = cluster.dir().subdir("disk", 0o755);
    let options = ["--duration", "1.5", "--verify", "--json", "--fsync"];
    let tool = bench(&cluster.conninfo(), "wal", &options).arg(&directory);
    let mut running = tool.spawn();
    cluster.wait_for(STREAMING, "1");
    make_wal(&cluster, 1);
    assert!(running.is_running());
    let outcome = running.wait().succeeded();
    let told = json(&outcome);
    assert_eq!(
        keys(&told),
        [
            "backlog",
            "check",
            "end_lsn",
            "ended",
            "fsync",
            "live",
            "server_cpu_hidden",
            "server_version",
            "start_lsn",
            "system_identifier",
            "timeline",
            "warnings"
        ]
    );
    assert_eq!(told["ended"], "duration");
    let (backlog, live) = (&told["backlog"], &told["live"]);
    let span = [
        "bytes",
        "bytes_per_message",
        "bytes_per_second",
        "client_cpu_seconds",
        "messages",
        "seconds",
        "server_cpu_seconds",
    ];
    assert_eq!((keys(backlog), keys(live)), (span.to_vec(), span.to_vec()));
    // the oldest segment is the beginning, and what was written meanwhile came too
    assert_eq!(lsn(&told["start_lsn"]), u64::from_str_radix(&oldest, 16).unwrap() << 20);
    let bytes = |span: &Value| span["bytes"].as_u64().expect("a number");
    assert_eq!(bytes(backlog) + bytes(live), lsn(&told["end_lsn"]) - lsn(&told["start_lsn"]));
    assert!(lsn(&told["start_lsn"]) + bytes(backlog) >= lsn(&Value::from(end)), "{outcome}");
    assert!(bytes(backlog) > 8 << 20 && bytes(live) >= 1 << 20, "{outcome}");
    // a few hundredths of a second, of which some may be none; but they are seen
    assert!(told["server_cpu_hidden"].is_null(), "{outcome}");
    for cpu in [&backlog["server_cpu_seconds"], &backlog["client_cpu_seconds"]] {
        assert!((0.0..=1.5).contains(&cpu.as_f64().expect("a number")), "{outcome}");
    }
    let messages = backlog["messages"].as_u64().expect("a number");
    assert!((bytes(backlog) >> 17..bytes(backlog) >> 10).contains(&messages), "{outcome}");
    let checked = lsn(&told["check"]["checked_lsn"]);
    assert!(checked > lsn(&told["end_lsn"]) - (1 << 20) && checked <= lsn(&told["end_lsn"]), "{outcome}");
    assert!(
        told["warnings"][0].as_str().expect("a warning").contains("too little to tell a rate"),
        "{outcome}"
    );
    // the disk
    let fsync = &told["fsync"];
    assert_eq!(keys(fsync), ["directory", "seconds", "writes", "zero_fill_seconds"]);
    let writes = fsync["writes"].as_array().expect("writes");
    assert_eq!(writes.len(), 4, "{outcome}");
    for write in writes {
        let span = |name: &str| write[name].as_f64().expect("a number");
        assert!(span("p50_seconds") > 0.0 && span("p50_seconds") <= span("p90_seconds"), "{outcome}");
        assert!(span("p90_seconds") <= span("p99_seconds") && span("p99_seconds") <= span("max_seconds"));
        assert!(write["count"].as_u64().expect("a number") > 0);
    }
    // nothing is left, here or there
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    cluster.wait_for(STREAMING, "0");
}

#[test]
fn it_ends_when_enough_has_come_and_begins_where_it_is_told() {
    require_server!();
    let cluster = with_wal();
    let start = cluster.wal_position();
    make_wal(&cluster, 4);
    let options = ["--start-lsn", &start, "--max-bytes", "2M", "--json"];
    let told = json(&bench(&cluster.tcp_conninfo(), "wal", &options).run().succeeded());
    assert_eq!(lsn(&told["start_lsn"]), lsn(&Value::from(start)) >> 20 << 20);
    assert_eq!((&told["ended"], &told["live"]), (&Value::from("max_bytes"), &Value::Null));
    let bytes = told["backlog"]["bytes"].as_u64().expect("a number");
    assert!((2 << 20..=(2 << 20) + (128 << 10)).contains(&bytes), "{told}");
    assert!(told["server_cpu_hidden"].is_null(), "TCP within a host hides nothing: {told}");
    // for people
    let table = bench(&cluster.conninfo(), "wal", &["--max-bytes", "1M"]).run().succeeded();
    for word in ["BACKLOG", "server CPU", "client CPU", "MiB/s", "ended when enough had come"] {
        assert!(table.stdout.contains(word), "{word}: {table}");
    }
}

#[test]
fn a_slot_is_read_and_not_moved_nor_taken_from_who_uses_it() {
    require_server!();
    let cluster = with_wal();
    cluster.psql("SELECT pg_create_physical_replication_slot('witness', true)");
    let state = "SELECT restart_lsn, active, active_pid IS NULL FROM pg_replication_slots";
    let before = cluster.psql(state);
    let restart_lsn = before.split('|').next().unwrap().to_owned();
    make_wal(&cluster, 3);
    let mut running = measuring(&cluster, &["--slot", "witness"]);
    assert_eq!(cluster.psql(state), before);
    // who uses it comes while it is read
    let received = cluster.dir().subdir("received", 0o700);
    let receive = ["receive", "-w", "-d", &cluster.conninfo(), "--slot", "witness", "-D"];
    let mut receiver = Tool::pgwake().args(receive).arg(&received).spawn();
    receiver.wait_for_stderr("streaming started");
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(running.is_running());
    running.interrupt();
    let told = json(&running.wait().succeeded());
    assert_eq!(told["ended"], "signal");
    assert_eq!(lsn(&told["start_lsn"]), lsn(&Value::from(restart_lsn)) >> 20 << 20);
    assert!(told["backlog"]["bytes"].as_u64().expect("a number") >= 3 << 20, "{told}");
    bench(&cluster.conninfo(), "wal", &["--slot", "none"])
        .run()
        .exited(1)
        .complains("replication slot \"none\" does not exist")
        .complains("pgwake slot list");
    cluster.psql("SELECT pg_create_physical_replication_slot('empty')");
    bench(&cluster.conninfo(), "wal", &["--slot", "empty"]).run().exited(1).complains("holds no WAL");
}

#[test]
fn no_commit_counts_on_it_and_no_shutdown_waits_for_it() {
    require_server!();
    let cluster = Cluster::builder().wal_segsize(1).setting("wal_keep_size", "64MB").start();
    cluster.psql("CREATE TABLE t (i int)");
    let names = "ANY 1 (other, \"pgwake bench\")".replace('\'', "''");
    cluster.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
    cluster.reload();
    cluster.wait_for("SHOW synchronous_standby_names", &names);
    let mut running = measuring(&cluster, &[]);
    assert!(
        running.stderr_so_far().contains("choose another application_name"),
        "{}",
        running.stderr_so_far()
    );
    let insert = "INSERT INTO t VALUES (1)";
    let waiting = Tool::psql().args(["-XAtq", "-d", &cluster.conninfo(), "-c", insert]).spawn();
    cluster.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
    cluster.wait_for("SELECT sent_lsn = pg_current_wal_flush_lsn() FROM pg_stat_replication", "t");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        cluster.psql("SELECT sync_state, flush_lsn IS NULL, replay_lsn IS NULL FROM pg_stat_replication"),
        "async|t|t"
    );
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "1");
    cluster.psql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    waiting.wait().succeeded().complains("canceling wait for synchronous replication");

    assert!(running.is_running());
    let started = Instant::now();
    cluster.stop(Stop::Fast);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let told = json(&running.wait().succeeded());
    assert_eq!(told["ended"], "shutdown");
    let warnings = told["warnings"].as_array().expect("warnings");
    assert!(warnings.iter().any(|warning| warning == "it ended because the server shuts down"), "{told}");
}

#[test]
fn a_signal_ends_it_with_what_was_measured_and_nothing_left() {
    require_server!();
    let cluster = with_wal();
    let directory = cluster.dir().subdir("disk", 0o755);
    let options = ["--fsync", &directory.display().to_string()];
    for signal in [Signal::INT, Signal::TERM] {
        let running = measuring(&cluster, &options);
        running.signal(signal);
        let told = json(&running.wait().succeeded());
        assert_eq!((&told["ended"], &told["fsync"]), (&Value::from("signal"), &Value::Null));
        assert!(told["backlog"]["bytes"].as_u64().expect("a number") > 8 << 20, "{told}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
    // while the disk is measured
    let options = ["--max-bytes", "1M", "--duration", "50", "--fsync", &directory.display().to_string()];
    let mut running = bench(&cluster.conninfo(), "wal", &options).spawn();
    running.wait_for_stderr("measuring the disk");
    running.interrupt();
    running.wait().succeeded().says("zero-filled").says("ended when enough had come");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_measured_is_told_with_what_to_do() {
    require_server!();
    let cluster = Cluster::builder()
        .wal_segsize(1)
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .hba("host all rep 127.0.0.1/32 reject")
        .start();
    cluster.create_role("rep", "REPLICATION", None);
    cluster.create_role("rose", "", None);
    for _ in 0..3 {
        make_wal(&cluster, 2);
        cluster.psql("SELECT pg_switch_wal(); CHECKPOINT");
    }
    let as_role = |role: &str| format!("host=127.0.0.1 port={} user={role}", cluster.port());
    bench(&as_role("rose"), "wal", &[]).run().exited(1).complains("hint: ").complains("REPLICATION");
    let gone = bench(&cluster.conninfo(), "wal", &["--start-lsn", "0/100000"]).run().exited(1);
    gone.complains("there is no WAL to read at 0/100000 on timeline 1").complains("wal_keep_size");
    bench(&cluster.conninfo(), "wal", &["--start-lsn", "FF/0"])
        .run()
        .exited(1)
        .complains("beyond the end of the server's WAL");
    bench(&cluster.conninfo(), "wal", &["--duration", "0"]).run().exited(2);
    bench(&cluster.conninfo(), "wal", &["--fsync", "/nonexistent/directory"])
        .run()
        .exited(1)
        .complains("could not measure the disk");
    let refused = bench(&cluster.conninfo(), "wal", &["--start-lsn", "FF/0", "--json"]).run().exited(1);
    assert!(json(&refused)["error"]["hint"].as_str().expect("a hint").contains("--start-lsn"), "{refused}");
    // a role that may only replicate sees less, and begins with what is certainly there
    let told = json(&bench(&as_role("rep"), "wal", &["--duration", "0.3", "--json"]).run().succeeded());
    assert!(lsn(&told["end_lsn"]) - lsn(&told["start_lsn"]) <= 1 << 20, "{told}");
    // all walsenders are taken
    cluster.append_settings("max_wal_senders = 1");
    cluster.restart();
    let other = measuring(&cluster, &[]);
    bench(&cluster.conninfo(), "wal", &[]).run().exited(1).complains("raise max_wal_senders");
    bench(&cluster.conninfo(), "backup", &[]).run().exited(1).complains("raise max_wal_senders");
    other.interrupt();
    other.wait().succeeded();
}

#[test]
fn a_base_backup_is_counted_byte_by_byte() {
    require_server!();
    let cluster = Cluster::new();
    let told = json(&bench(&cluster.conninfo(), "backup", &["--json"]).run().succeeded());
    assert_eq!(
        keys(&told),
        [
            "archives",
            "end_lsn",
            "ended",
            "files",
            "files_per_second",
            "fsync",
            "manifest_bytes",
            "seconds_until_start",
            "server_cpu_hidden",
            "server_version",
            "source_bytes",
            "source_bytes_per_second",
            "start_lsn",
            "timeline",
            "transfer"
        ]
    );
    assert_eq!((&told["ended"], &told["archives"]), (&Value::from("complete"), &Value::from(1)));
    assert!(lsn(&told["end_lsn"]) > lsn(&told["start_lsn"]), "{told}");
    // the original's archive is as long, but for what ends it in older versions
    let original = cluster.dir().subdir("original", 0o777);
    let args =
        ["-d", &cluster.conninfo(), "-Ft", "-X", "none", "-c", "fast", "--no-sync", "--no-manifest", "-D"];
    Tool::client(cluster.major(), "pg_basebackup").args(args).arg(&original).run().succeeded();
    let len = fs::metadata(original.join("base.tar")).unwrap().len();
    let bytes = told["transfer"]["bytes"].as_u64().expect("a number");
    let missing_end = if cluster.major() < 15 { 1024 } else { 0 };
    assert_eq!(bytes + missing_end, len, "{told}");
    let members =
        Tool::new("/usr/bin/env").args(["tar", "-tf"]).arg(original.join("base.tar")).run().succeeded();
    let files = members.stdout.lines().filter(|name| !name.ends_with('/')).count();
    assert_eq!(told["files"], files);

    let options = ["--manifest-checksums", "sha256", "--max-rate", "1024M", "--no-verify-checksums"];
    let table = bench(&cluster.conninfo(), "backup", &options).run().succeeded();
    for word in ["complete", "manifest", "files", "read by the server", "server CPU"] {
        assert!(table.stdout.contains(word), "{word}: {table}");
    }
    let options = ["--max-bytes", "1M", "--json"];
    let told = json(&bench(&cluster.conninfo(), "backup", &options).run().succeeded());
    assert_eq!((&told["ended"], &told["end_lsn"]), (&Value::from("max_bytes"), &Value::Null));
    cluster.wait_for("SELECT count(*) FROM pg_stat_progress_basebackup", "0");
}

#[test]
fn a_server_can_compress_it_or_send_it_nowhere() {
    require_server!();
    let cluster = Cluster::new();
    let (gzip, blackhole) = (["--compression", "gzip:1", "--json"], ["--target", "blackhole", "--json"]);
    if cluster.major() < 15 {
        for options in [gzip, blackhole] {
            bench(&cluster.conninfo(), "backup", &options).run().exited(1).complains("does not support");
        }
        return;
    }
    let told = json(&bench(&cluster.conninfo(), "backup", &gzip).run().succeeded());
    let (came, read) = (told["transfer"]["bytes"].as_u64().unwrap(), told["source_bytes"].as_u64().unwrap());
    assert!(came > 0 && came < read / 2 && read > 20 << 20, "{told}");
    assert!(told["files"].is_null(), "{told}");
    let told = json(&bench(&cluster.conninfo(), "backup", &blackhole).run().succeeded());
    assert_eq!((&told["ended"], &told["transfer"]["bytes"]), (&Value::from("complete"), &Value::from(0)));
    assert!(told["source_bytes"].as_u64().unwrap().abs_diff(read) < 1 << 20, "{told}");
    bench(&cluster.conninfo(), "backup", &["--compression", "brotli"])
        .run()
        .exited(1)
        .complains("could not begin a base backup");
}

#[test]
fn a_standby_is_measured_too_and_timelines_are_followed() {
    require_server!();
    let primary = with_wal();
    let directory = primary.dir().join("standby");
    let args = ["standby", "create", "-w", "-d", &primary.conninfo(), "--slot", "standby1", "-D"];
    Tool::pgwake().args(args).arg(&directory).by_server_user().run().succeeded();
    let standby = primary.adopt(&directory);
    standby.start();
    primary.wait_for(STREAMING, "1");
    make_wal(&primary, 2);
    let written = primary.wal_position();
    standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t");
    let mut running = bench(&standby.conninfo(), "wal", &["--json", "--duration", "50"]).spawn();
    standby.wait_for(STREAMING, "1");
    standby.promote();
    make_wal(&standby, 1);
    let end = standby.wal_position();
    standby.wait_for(
        &format!("SELECT write_lsn >= '{end}' OR sent_lsn >= '{end}' FROM pg_stat_replication"),
        "t",
    );
    assert!(running.is_running());
    running.interrupt();
    let told = json(&running.wait().succeeded());
    assert_eq!(told["timeline"], 2);
    assert!(lsn(&told["end_lsn"]) >= lsn(&Value::from(end)), "{told}");
    // from before the fork
    let start = format!("{:X}/{:X}", lsn(&told["start_lsn"]) >> 32, lsn(&told["start_lsn"]) as u32);
    let options = ["--json", "--duration", "1", "--verify", "--start-lsn", &start];
    let told = json(&bench(&standby.conninfo(), "wal", &options).run().succeeded());
    assert_eq!(told["timeline"], 2);
}
