//! `pgwake bench backup`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::fsync::{Disk, FsyncArgs, FsyncOutcome};
use super::{BenchError, SpanOutcome};
use crate::cli::connection::ConnectionArgs;
use crate::cli::exit::Exit;
use crate::cli::signals::Signals;
use crate::cli::standby_create::CheckpointArg;
use crate::cli::table::{Column, table};
use crate::cli::values::{parse_duration, parse_label, parse_rate, parse_size};
use crate::cli::{human, report};
use crate::client::conninfo::Settings;
use crate::measure::{BackupMeasured, BackupRequest, Ended, Span, measure_backup};
use crate::pg::{ChecksumAlgorithm, Lsn, ParseChecksumAlgorithmError, TimelineId};
use crate::wire::command::{BaseBackup, ManifestOptions, ServerCompression, ServerTarget};

/// Measure how fast a server sends a base backup, with nothing written here
///
/// Takes a whole one, unless --duration or --max-bytes ends it before, and drops what comes. With --target blackhole the
/// server reads all of it and sends nothing: what its disks alone can do. The server works as for any base backup:
/// --max-rate spares it, and --checkpoint spread its checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake bench backup -d \"host=db1 user=rep\" --compression zstd:1

JSON: server_version, timeline, start_lsn, end_lsn (null if it was broken off),
ended (complete, duration, max_bytes, signal), seconds_until_start, transfer
(seconds, bytes, bytes_per_second, messages, bytes_per_message,
client_cpu_seconds, server_cpu_seconds), source_bytes and
source_bytes_per_second (what the server has read; the rate null if it was too
little to tell), archives, files and
files_per_second (null where they come compressed, or not), manifest_bytes,
server_cpu_hidden, fsync (see \"pgwake bench wal\").")]
pub(in crate::cli) struct BackupArgs {
    /// Let the server send it nowhere (15): only what it reads is measured
    #[arg(long, value_name = "TARGET", value_enum)]
    target: Option<TargetArg>,

    /// Let the server compress it (15): gzip, lz4 or zstd, with a level or more behind a colon
    #[arg(long, value_name = "METHOD[:DETAIL]", value_parser = parse_compression)]
    compression: Option<ServerCompression>,

    /// Let the server send at most this much a second: 32k to 1024M
    #[arg(short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u32>,

    /// How fast the server makes the checkpoint that comes first
    #[arg(short, long, value_name = "SPEED", value_enum, default_value_t = CheckpointArg::Fast)]
    checkpoint: CheckpointArg,

    /// Break it off after so long
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    duration: Option<Duration>,

    /// Break it off when so many bytes have come: 512M, 10G …
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bytes: Option<u64>,

    #[command(flatten)]
    fsync: FsyncArgs,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Ask for a manifest with these checksums: none, crc32c, sha224, sha256, sha384, sha512 [default: no manifest]
    #[arg(help_heading = "More options", long, value_name = "ALGORITHM", value_parser = parse_checksums)]
    manifest_checksums: Option<ChecksumAlgorithm>,

    /// Let the server check no page checksums
    #[arg(help_heading = "More options", long)]
    no_verify_checksums: bool,

    /// Label of the base backup
    #[arg(help_heading = "More options", short, long, value_name = "TEXT", hide_default_value = true, default_value = "pgwake bench backup", value_parser = parse_label)]
    label: String,

    /// Print the result as JSON, and no progress
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TargetArg {
    Blackhole,
}

fn parse_checksums(text: &str) -> Result<ChecksumAlgorithm, ParseChecksumAlgorithmError> {
    text.parse()
}

/// What the server makes of it is the server's.
fn parse_compression(text: &str) -> Result<ServerCompression, &'static str> {
    let (algorithm, detail) = match text.split_once(':') {
        Some((algorithm, detail)) => (algorithm, Some(detail.to_owned())),
        None => (text, None),
    };
    if algorithm.is_empty() || text.contains(char::is_control) {
        return Err("must be a method, such as zstd or zstd:3");
    }
    Ok(ServerCompression { algorithm: algorithm.to_owned(), detail })
}

/// Runs the command.
pub(in crate::cli) fn run(args: BackupArgs) -> Exit {
    let json = args.json;
    let settings = match args.connection.settings("pgwake bench") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&error, json),
    };
    crate::cli::block_on(json, async {
        match drive(args, settings).await {
            Ok(outcome) if json => report::print_json(&outcome),
            Ok(outcome) => report::print(&outcome.to_text()),
            Err(error) => error.report(json),
        }
    })
}

async fn drive(args: BackupArgs, mut settings: Settings) -> Result<BackupOutcome, BenchError> {
    let mut signals = Signals::listen().map_err(BenchError::Signals)?;
    let disk = args.fsync.prepare(args.duration)?;
    let connected = super::connect(&args.connection, &mut settings);
    let mut connection = super::unless_interrupted(&mut signals, connected).await?;
    let server_version = connection.version().to_string();
    let (progress, display) = super::show_progress(args.json);
    let request = args.request();
    let measured = measure_backup(&mut connection, &request, &progress, signals.received()).await?;
    if measured.ended == Ended::Complete {
        connection.close().await;
    } else {
        // the server notices that nobody listens any more
        drop(connection);
    }
    let interrupted = matches!(measured.ended, Ended::Interrupted(_));
    let fsync = match disk.filter(|_| !interrupted) {
        Some(disk) => Some(Disk::measure(disk, &mut signals, &progress).await?),
        None => None,
    };
    drop(display);
    Ok(BackupOutcome::new(server_version, &request, &measured, fsync))
}

impl BackupArgs {
    fn request(&self) -> BackupRequest {
        let command = BaseBackup {
            label: self.label.clone(),
            estimate_size: true,
            checkpoint: self.checkpoint.into(),
            include_wal: false,
            // nobody is going to recover from it
            wait_for_archive: false,
            max_rate_kb: self.max_rate,
            // as pg_basebackup -Ft
            tablespace_map: true,
            verify_checksums: !self.no_verify_checksums,
            manifest: self.manifest_checksums.map(ManifestOptions::with_checksums),
            incremental: false,
            target: self
                .target
                .map(|TargetArg::Blackhole| ServerTarget { name: "blackhole".to_owned(), detail: None }),
            compression: self.compression.clone(),
        };
        BackupRequest { command, duration: self.duration, max_bytes: self.max_bytes }
    }
}

/// What was measured, for people and programs.
#[derive(Debug, Serialize)]
struct BackupOutcome {
    server_version: String,
    timeline: TimelineId,
    start_lsn: Lsn,
    end_lsn: Option<Lsn>,
    ended: &'static str,
    seconds_until_start: f64,
    transfer: SpanOutcome,
    source_bytes: u64,
    source_bytes_per_second: Option<f64>,
    archives: u64,
    files: Option<u64>,
    files_per_second: Option<f64>,
    manifest_bytes: u64,
    server_cpu_hidden: Option<&'static str>,
    fsync: Option<FsyncOutcome>,
    #[serde(skip)]
    why: String,
    #[serde(skip)]
    span: Span,
    /// Whether it was sent elsewhere.
    #[serde(skip)]
    targeted: bool,
}

impl BackupOutcome {
    fn new(
        server_version: String,
        request: &BackupRequest,
        measured: &BackupMeasured,
        fsync: Option<FsyncOutcome>,
    ) -> Self {
        let span = measured.transfer;
        BackupOutcome {
            server_version,
            timeline: measured.start.timeline,
            start_lsn: measured.start.lsn,
            end_lsn: measured.end.map(|end| end.lsn),
            ended: super::ended(measured.ended),
            seconds_until_start: measured.until_start.as_secs_f64(),
            transfer: SpanOutcome::from(&span),
            source_bytes: measured.source_bytes,
            source_bytes_per_second: measured.source_rate,
            archives: measured.archives,
            files: measured.files,
            files_per_second: measured.files.and_then(|files| span.per_second(files)),
            manifest_bytes: measured.manifest_bytes,
            server_cpu_hidden: measured.hidden_cpu.map(super::hidden),
            fsync,
            why: super::why(measured.ended),
            span,
            targeted: request.command.target.is_some(),
        }
    }

    fn to_text(&self) -> String {
        let BackupOutcome { server_version, timeline, start_lsn, why, span, .. } = self;
        let mut text =
            format!("base backup from {start_lsn} on timeline {timeline}, server {server_version}; {why}\n");
        if self.targeted {
            text.push_str("the time is that of the checkpoint, too\n");
        } else {
            let seconds = self.seconds_until_start;
            text.push_str(&format!(
                "began after {seconds:.1} s, with a checkpoint and a look at the sizes of all files\n"
            ));
        }
        let row = |name: &str, amount: String, by_second: String| vec![name.to_owned(), amount, by_second];
        let count = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.0}/s"));
        let percent = |busy: Option<Duration>| super::cpu(busy, span.elapsed);
        let mut rows = vec![
            row("time", human::duration(span.elapsed), String::new()),
            row("received", human::bytes(span.bytes), super::rate(span.bytes, span.elapsed)),
            row(
                "read by the server",
                human::bytes(self.source_bytes),
                self.source_bytes_per_second.map_or_else(
                    || "too little to tell".to_owned(),
                    |rate| format!("{}/s", human::bytes(rate as u64)),
                ),
            ),
            row("messages", span.messages.to_string(), count(span.per_second(span.messages))),
        ];
        if let Some(files) = self.files {
            rows.push(row("files", files.to_string(), count(self.files_per_second)));
        }
        rows.push(row("archives", self.archives.to_string(), String::new()));
        if self.manifest_bytes > 0 {
            rows.push(row("manifest", human::bytes(self.manifest_bytes), String::new()));
        }
        rows.push(row("server CPU", percent(span.server_cpu), String::new()));
        rows.push(row("client CPU", percent(span.client_cpu), String::new()));
        text.push_str(&table(&[Column::Text(""), Column::Number(""), Column::Number("")], &rows, None));
        if let Some(hidden) = self.server_cpu_hidden {
            text.push_str(&format!("server CPU is not known: {hidden}\n"));
        }
        text + &self.fsync.as_ref().map_or_else(String::new, FsyncOutcome::to_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_passed_on_as_it_is() {
        let parsed = parse_compression("zstd:level=3,workers=2").unwrap();
        assert_eq!(
            (parsed.algorithm.as_str(), parsed.detail.as_deref()),
            ("zstd", Some("level=3,workers=2"))
        );
        assert_eq!(parse_compression("lz4").unwrap().detail, None);
        assert!(parse_compression(":3").is_err() && parse_compression("").is_err());
        assert!(parse_compression("a\nb").is_err());
    }
}
