//! Prometheus' text format, version 0.0.4.
//!
//! Written here and not by a crate: the metrics are a fixed list, their values are atomics of ours (a library's histogram
//! would bring a lock onto the receiver's path), and what is left is a name, a help text and a number a line. No label has a
//! value from outside, so nothing needs escaping, and no secret can get into one.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::histogram::{BOUNDS_MICROS, HistogramSnapshot};
use super::snapshot::Snapshot;
use super::{ERROR_CLASSES, Phase};

pub(super) fn write(now: &Snapshot) -> String {
    let mut text = Text(String::with_capacity(8192));
    text.build_info();
    process(&mut text, now);
    positions(&mut text, now);
    durations(&mut text, now);
    errors(&mut text, now);
    slot(&mut text, now);
    archive(&mut text, now);
    archive_slot(&mut text, now);
    text.0
}

fn process(text: &mut Text, now: &Snapshot) {
    text.gauge(
        "start_time_seconds",
        "When the receiver was started, in seconds since 1970.",
        Some(now.started_at_seconds),
    );
    text.gauge(
        "healthy",
        "1 when /healthz answers 200, 0 when somebody should look.",
        Some(u8::from(now.healthy)),
    );
    text.gauge(
        "streaming",
        "1 while a server streams, or has nothing to send.",
        Some(u8::from(now.phase == Phase::Streaming)),
    );
    text.gauge(
        "disconnected_seconds",
        "How long no server has been streaming; 0 while one does.",
        Some(seconds(now.away)),
    );
    text.gauge(
        "silence_seconds",
        "How long nothing has come from the server, keepalives included.",
        now.silent.map(|silent| silent.as_secs_f64()),
    );
    text.gauge("timeline", "The timeline that is received.", now.timeline);
}

fn positions(text: &mut Text, now: &Snapshot) {
    text.gauge("received_lsn_bytes", "What has arrived, as a WAL position in bytes.", lsn(now.received_lsn));
    text.gauge(
        "written_lsn_bytes",
        "What the operating system has, and the server hears of as written, as a WAL position in bytes.",
        lsn(now.written_lsn),
    );
    text.gauge(
        "flushed_lsn_bytes",
        "What is durable here, as a WAL position in bytes.",
        lsn(now.flushed_lsn),
    );
    text.gauge(
        "server_lsn_bytes",
        "The furthest WAL position that the server has spoken of.",
        lsn(now.server_lsn),
    );
    text.gauge("receive_lag_bytes", "WAL that the server has and that has not arrived.", now.receive_lag);
    text.gauge("flush_lag_bytes", "WAL that the server has and that is not durable here.", now.flush_lag);
    text.gauge(
        "flush_lag_seconds",
        "How long the server has been known to have WAL that is not durable here; 0 when all is.",
        Some(seconds(now.behind)),
    );
    text.gauge(
        "unflushed_seconds",
        "How long the oldest WAL that is not durable has been here; 0 when all is.",
        Some(seconds(now.unflushed)),
    );
    text.gauge(
        "transit_seconds",
        "From the server's clock when it sent its last message to this machine's when that came; \
         clocks that differ show, too.",
        now.transit_seconds,
    );
    text.counter(
        "wal_bytes_total",
        "WAL received, what was fetched again after a reconnection included.",
        now.wal_len,
    );
    text.counter("messages_total", "Replication messages received.", now.message_count);
    text.counter(
        "segments_total",
        "Segments finished: complete, durable, under their final names.",
        now.segment_count,
    );
}

fn durations(text: &mut Text, now: &Snapshot) {
    text.histogram_head("acknowledgement_seconds", "From the arrival of WAL until it is durable.");
    text.histogram("acknowledgement_seconds", "", &now.acknowledgement);
    text.histogram_head(
        "fsync_seconds",
        "How long the disk takes to make durable a file's bytes, or a directory's names.",
    );
    text.histogram("fsync_seconds", "of=\"data\"", &now.data_syncs);
    text.histogram("fsync_seconds", "of=\"directory\"", &now.directory_syncs);
}

fn errors(text: &mut Text, now: &Snapshot) {
    text.counter(
        "streams_total",
        "Streams asked for, one a connection and one a timeline.",
        now.stream_count,
    );
    text.counter(
        "disconnections_total",
        "Connections that were lost, or could not be had.",
        now.disconnect_count,
    );
    text.counter(
        "timeline_switches_total",
        "Timelines that were followed onto the next one.",
        now.switch_count,
    );
    text.head(
        "errors_total",
        "Errors: what may pass, what an operator can mend, data that is not what it must be, defects.",
        "counter",
    );
    for ((_, class), count) in ERROR_CLASSES.iter().zip(now.error_counts) {
        text.sample("errors_total", &format!("class=\"{class}\""), count);
    }
    text.gauge(
        "last_error_timestamp_seconds",
        "When the last error was, in seconds since 1970; absent before the first.",
        now.last_error_at_seconds,
    );
}

fn slot(text: &mut Text, now: &Snapshot) {
    let slot = now.slot.as_ref();
    text.gauge(
        "slot_held_bytes",
        "WAL that the slot holds back on the server.",
        slot.and_then(|slot| slot.held_bytes),
    );
    text.gauge(
        "slot_safe_bytes",
        "WAL that may still be written before the slot may be lost; absent without a bound.",
        slot.and_then(|slot| slot.safe_wal_size),
    );
    text.gauge(
        "slot_lost",
        "1 when the server no longer has the WAL that the slot claims.",
        slot.map(|slot| u8::from(slot.lost)),
    );
}

fn archive(text: &mut Text, now: &Snapshot) {
    let Some(archive) = &now.archive else { return };
    text.gauge(
        "archived_lsn_bytes",
        "What is in the archive, as a WAL position in bytes; reported to the server as applied.",
        lsn(archive.archived_lsn),
    );
    text.gauge(
        "archive_lag_bytes",
        "WAL that is durable here and not in the archive.",
        Some(archive.behind_bytes),
    );
    text.gauge(
        "archive_lag_seconds",
        "How long the oldest WAL that is not in the archive has been durable here; 0 when all is there.",
        Some(seconds(archive.oldest_age)),
    );
    text.gauge(
        "archive_writer",
        "1 while this receiver is the one that writes to the archive.",
        Some(u8::from(archive.is_writer)),
    );
    text.counter(
        "archive_failures_total",
        "Requests that the archive's store has failed.",
        archive.failure_count,
    );
}

fn archive_slot(text: &mut Text, now: &Snapshot) {
    let slot = now.archive_slot.as_ref();
    text.gauge(
        "archive_slot_held_bytes",
        "WAL that the slot which follows the archive holds back on the server.",
        slot.and_then(|slot| slot.held_bytes),
    );
    text.gauge(
        "archive_slot_safe_bytes",
        "WAL that may still be written before that slot may be lost; absent without a bound.",
        slot.and_then(|slot| slot.safe_wal_size),
    );
    text.gauge(
        "archive_slot_lost",
        "1 when the server no longer has the WAL that this slot claims, or does not have the slot.",
        slot.map(|slot| u8::from(slot.lost)),
    );
}

fn lsn(lsn: Option<crate::pg::Lsn>) -> Option<u64> {
    lsn.map(crate::pg::Lsn::as_u64)
}

fn seconds(span: Option<Duration>) -> f64 {
    span.unwrap_or_default().as_secs_f64()
}

/// Lines of the format.
struct Text(String);

impl Text {
    fn build_info(&mut self) {
        self.head("build_info", "1, with the version of the program.", "gauge");
        self.sample("build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP pgwake_{name} {help}\n# TYPE pgwake_{name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.line(format_args!("pgwake_{name} {value}\n")),
            labels => self.line(format_args!("pgwake_{name}{{{labels}}} {value}\n")),
        }
    }

    /// Nothing at all where there is no value: an invented one would raise an alarm, or hide one.
    fn gauge(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.head(name, help, "gauge");
            self.sample(name, "", value);
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.sample(name, "", value);
    }

    fn histogram_head(&mut self, name: &str, help: &str) {
        self.head(name, help, "histogram");
    }

    fn histogram(&mut self, name: &str, labels: &str, values: &HistogramSnapshot) {
        let separator = if labels.is_empty() { "" } else { "," };
        let bounds = BOUNDS_MICROS.iter().map(|micros| (*micros as f64 / 1e6).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        for (bound, count) in bounds.zip(values.cumulative) {
            self.sample(&bucket, &format!("{labels}{separator}le=\"{bound}\""), count);
        }
        self.sample(&format!("{name}_sum"), labels, values.sum_seconds);
        self.sample(&format!("{name}_count"), labels, values.cumulative[BOUNDS_MICROS.len()]);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // a String takes everything
        let _ = self.0.write_fmt(line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HealthLimits, ReceiverMetrics};
    use super::*;

    fn fresh() -> Snapshot {
        let limits = HealthLimits { stuck_after: Duration::from_secs(60), receive_timeout: Duration::ZERO };
        ReceiverMetrics::new(limits).snapshot()
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let text = write(&fresh());
        for absent in ["archive", "slot_", "lsn_bytes", "lag_bytes", "last_error", "transit", "timeline "] {
            assert!(!text.contains(&format!("pgwake_{absent}")), "{absent}: {text}");
        }
        assert!(text.contains("\npgwake_errors_total{class=\"integrity\"} 0\n"), "{text}");
    }

    #[test]
    fn every_line_is_one_of_the_format() {
        let mut now = fresh();
        now.slot =
            Some(super::super::SlotReading { held_bytes: Some(1), safe_wal_size: Some(-2), lost: true });
        now.archive_slot = now.slot;
        now.archive = Some(super::super::ArchiveReading::default());
        now.transit_seconds = Some(-0.25);
        let text = write(&now);
        let mut last_head = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["#", "HELP", name, ..] = words[..] {
                last_head = name.to_owned();
                continue;
            }
            if let ["#", "TYPE", name, kind] = words[..] {
                assert!(name == last_head && ["gauge", "counter", "histogram"].contains(&kind), "{line}");
                continue;
            }
            let [sample, value] = words[..] else { panic!("{line}") };
            let name = sample.split('{').next().unwrap();
            assert!(name.starts_with(&last_head) && value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        }
        assert!(text.contains("\npgwake_slot_safe_bytes -2\n") && text.ends_with('\n'), "{text}");
    }
}
