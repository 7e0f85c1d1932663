//! What is measured is what is.

use std::time::{Duration, Instant};

use super::contrib;
use super::harness::{Scrape, directory, measured, primary, started, streaming};
use crate::support::faults::injecting;
use crate::support::{Cluster, Ending, Proxy, Tool, wait_until};
use crate::{require_program, require_server};

/// The primary's position in bytes.
fn position(primary: &Cluster) -> f64 {
    primary.psql("SELECT (pg_current_wal_flush_lsn() - '0/0')::text").parse().expect("a position")
}

fn make_wal(primary: &Cluster, megabytes: u32) {
    primary.psql(&format!(
        "SELECT count(pg_logical_emit_message(false, 'filler', repeat(md5(i::text), 32768))) \
         FROM generate_series(1, {megabytes}) i; SELECT pg_logical_emit_message(true, 'end', '')"
    ));
}

#[test]
fn under_load_and_at_rest() {
    require_server!();
    let primary = primary().setting("max_slot_wal_keep_size", "512MB").start();
    let received = directory(&primary, "received");
    let url = format!("file://{}", primary.dir().subdir("archive", 0o700).display());
    let tool = measured(&primary.conninfo(), &received).args(["--archive", &url, "--archive-delay", "0"]);
    let measured = streaming(&tool.args(["--archive-slot", "meter_archive"]));
    let before = measured.scrape();
    make_wal(&primary, 8);
    let end = position(&primary);
    wait_until("all is durable", || {
        let now = measured.scrape();
        let flushed = now.find("flushed_lsn_bytes").unwrap_or(0.0);
        let [written, received] = ["written_lsn_bytes", "received_lsn_bytes"].map(|name| now.value(name));
        assert!(flushed <= written && written <= received, "{now:?}");
        flushed >= end
    });
    wait_until("all is archived", || measured.scrape().find("archived_lsn_bytes").unwrap_or(0.0) >= end);
    let now = measured.scrape();
    for name in [
        "archived_lsn_bytes",
        "received_lsn_bytes",
        "written_lsn_bytes",
        "flushed_lsn_bytes",
        "server_lsn_bytes",
    ] {
        let value = now.value(name);
        assert!(value >= end && value <= position(&primary), "{name} {value}, the server {end}");
    }
    for name in [
        "receive_lag_bytes",
        "flush_lag_bytes",
        "flush_lag_seconds",
        "archive_lag_bytes",
        "archive_lag_seconds",
        "archive_failures_total",
        "unflushed_seconds",
        "disconnected_seconds",
    ] {
        assert_eq!(now.value(name), 0.0, "{name}");
    }
    let grown = |name: &str| now.value(name) - before.value(name);
    assert!(grown("wal_bytes_total") >= f64::from(8 << 20), "{now:?}");
    assert!(grown("segments_total") >= 8.0 && grown("messages_total") >= 8.0, "{now:?}");
    assert_histogram(&now, "acknowledgement_seconds", "");
    assert_histogram(&now, "fsync_seconds", "of=\"data\",");
    assert_histogram(&now, "fsync_seconds", "of=\"directory\",");
    for (name, value) in [
        ("timeline", 1.0),
        ("archive_writer", 1.0),
        ("streaming", 1.0),
        ("healthy", 1.0),
        ("streams_total", 1.0),
    ] {
        assert_eq!(now.value(name), value, "{name}");
    }
    // one machine has one clock
    let transit = now.value("transit_seconds");
    assert!((-0.1..10.0).contains(&transit), "{transit}");
    let (status, told) = measured.ask("/healthz");
    assert!(status == 200 && told.starts_with("idle, heard of the server "), "{status} {told}");
    assert_eq!(now.value(&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    // asked for at the beginning, on a connection of its own
    wait_until("the slot was looked at", || measured.scrape().find("slot_lost").is_some());
    let now = measured.scrape();
    assert_eq!(now.value("slot_lost"), 0.0);
    assert!(
        now.value("slot_safe_bytes") > f64::from(400 << 20) && now.value("slot_held_bytes") >= 0.0,
        "{now:?}"
    );
    wait_until("the archive's slot was looked at", || measured.scrape().find("archive_slot_lost").is_some());
    let now = measured.scrape();
    assert_eq!(now.value("archive_slot_lost"), 0.0);
    assert!(now.value("archive_slot_safe_bytes") > f64::from(400 << 20), "{now:?}");
    contrib::assert_known(&now);
    measured.end();
}

/// Counts grow with the bounds, all are in the last one, and something was counted.
#[track_caller]
fn assert_histogram(scrape: &Scrape, name: &str, labels: &str) {
    let bucket = format!("pgwake_{name}_bucket{{{labels}le=");
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (sample, count) in &scrape.0 {
        if let Some(bound) = sample.strip_prefix(&bucket) {
            let bound = bound.trim_matches(['"', '}']).parse().expect("a bound");
            buckets.push((bound, *count));
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(buckets.len() > 10 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{buckets:?}");
    let labels = labels.trim_end_matches(',');
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let count = scrape.value(&format!("{name}_count{labels}"));
    assert!(count > 0.0 && buckets.last() == Some(&(f64::INFINITY, count)), "{count} {buckets:?}");
    assert!(scrape.value(&format!("{name}_sum{labels}")) > 0.0);
}

#[test]
fn without_a_server_for_too_long_it_is_not_well() {
    require_server!();
    let primary = primary().start();
    let received = directory(&primary, "received");
    let proxy = Proxy::to(&primary);
    proxy.refuse();
    let tool = measured(&proxy.conninfo(), &received).args(["--stuck-after", "2"]);
    // answers before there is a server to receive from
    let mut measured = started(&tool);
    let started_at = Instant::now();
    let (status, told) = measured.ask("/healthz");
    assert!(status == 200 && told.starts_with("connecting for"), "{status} {told}");
    assert_eq!(measured.ask("/readyz").0, 503);
    wait_until("it is not well", || measured.ask("/healthz").0 == 503);
    assert!(started_at.elapsed() > Duration::from_millis(1500), "{:?}", started_at.elapsed());
    assert!(measured.scrape().value("errors_total{class=\"transient\"}") > 0.0);

    proxy.accept();
    measured.running.wait_for_stderr("streaming started");
    wait_until("it is well", || measured.ask("/readyz").0 == 200 && measured.ask("/healthz").0 == 200);
    make_wal(&primary, 2);
    let end = position(&primary);
    wait_until("all is durable", || {
        measured.scrape().find("flushed_lsn_bytes").is_some_and(|lsn| lsn >= end)
    });

    let before = measured.scrape();
    proxy.refuse();
    proxy.cut_now(Ending::Reset);
    wait_until("it is not well", || measured.ask("/healthz").0 == 503);
    let (_, told) = measured.ask("/healthz");
    assert!(told.starts_with("no server has been streaming for"), "{told}");
    let now = measured.scrape();
    assert!(now.value("disconnected_seconds") >= 2.0 && now.value("streaming") == 0.0, "{now:?}");
    assert!(now.value("disconnections_total") > before.value("disconnections_total"));
    assert!(now.value("last_error_timestamp_seconds") > now.value("start_time_seconds"));
    assert!(now.value("flushed_lsn_bytes") >= end, "what is durable stays so");

    proxy.accept();
    wait_until("it is well again", || measured.ask("/healthz").0 == 200 && measured.ask("/readyz").0 == 200);
    wait_until("nothing is behind", || measured.scrape().value("flush_lag_bytes") == 0.0);
    let now = measured.scrape();
    assert_eq!((now.value("disconnected_seconds"), now.value("streams_total")), (0.0, 2.0));
    measured.end();
}

#[test]
fn a_disk_that_hangs_is_told_from_a_server_that_is_idle() {
    require_server!();
    require_program!("strace");
    let primary = primary().start();
    let received = directory(&primary, "received");
    let tool = measured(&primary.conninfo(), &received).args(["--stuck-after", "1"]);
    let measured = streaming(&injecting(tool, &["fdatasync:delay_exit=1800000"]));
    make_wal(&primary, 1);
    let mut told = String::new();
    wait_until("it is not well", || {
        let (status, text) = measured.ask("/healthz");
        told = text;
        status == 503
    });
    let now = measured.scrape();
    assert!(told.starts_with("WAL that has arrived is not durable since"), "{told}");
    assert!(now.value("unflushed_seconds") >= 1.0 && now.value("flush_lag_seconds") >= 1.0, "{now:?}");
    assert!(now.value("flush_lag_bytes") > 0.0 && now.value("streaming") == 1.0, "{now:?}");
    // the disk got there in the end
    wait_until("it is well", || measured.ask("/healthz").1.starts_with("idle"));
    let now = measured.scrape();
    for name in ["fsync_seconds_bucket{of=\"data\",le=\"1\"}", "acknowledgement_seconds_bucket{le=\"1\"}"] {
        let all = name.replace("le=\"1\"", "le=\"+Inf\"");
        assert!(now.value(name) < now.value(&all), "{name}: {now:?}");
    }
    measured.end();
}

#[test]
fn a_role_that_may_only_replicate_is_measured_without_the_slot() {
    require_server!();
    let primary = primary().hba("local replication rep trust").hba("local all rep reject").start();
    primary.create_role("rep", "REPLICATION", None);
    let received = directory(&primary, "received");
    let conninfo = format!("{} user=rep", primary.conninfo());
    let mut measured = streaming(&measured(&conninfo, &received));
    measured.running.wait_for_stderr("the metrics are without the slot");
    make_wal(&primary, 1);
    let end = position(&primary);
    wait_until("all is durable", || {
        measured.scrape().find("flushed_lsn_bytes").is_some_and(|lsn| lsn >= end)
    });
    let now = measured.scrape();
    assert!(
        now.find("slot_lost").is_none() && now.value("errors_total{class=\"operator\"}") == 0.0,
        "{now:?}"
    );
    measured.end();
}

#[test]
fn a_place_that_is_taken_is_an_error_at_once() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("listen");
    let addr = taken.local_addr().expect("an address").to_string();
    let dir = crate::support::TestDir::new();
    let received = dir.subdir("received", 0o700);
    let tool = Tool::pgwake().args(["receive", "-d", "host=127.0.0.1 port=1", "-D"]).arg(&received);
    let outcome = tool.args(["--metrics", &addr]).run().exited(1);
    let outcome = outcome.complains(&format!("could not listen on \"{addr}\""));
    outcome.complains("hint: ");
}

#[test]
fn a_unix_socket_is_taken_over_from_the_dead_and_taken_away_at_the_end() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    require_server!();
    let primary = primary().start();
    let received = directory(&primary, "received");
    let socket = primary.dir().subdir("run", 0o700).join("metrics.sock");
    let tool = Tool::pgwake().args(["receive", "-w", "-d", &primary.conninfo(), "--start", "current", "-D"]);
    let tool = tool.arg(&received).arg("--metrics").arg(&socket).by_server_user();
    for round in 0..2 {
        let mut running = tool.spawn();
        running.wait_for_stderr("streaming started");
        let mut stream = UnixStream::connect(&socket).expect("connect to the socket");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("\npgwake_streaming "), "{answer}");
        if round == 0 {
            running.kill9();
            running.wait();
            assert!(socket.exists(), "nobody could take it away");
        } else {
            running.terminate();
            running.wait().succeeded();
            assert!(!socket.exists());
        }
    }
}
