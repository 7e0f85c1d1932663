//! `pgwake bench wal`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::fsync::{Disk, FsyncArgs, FsyncOutcome};
use super::{BenchError, SpanOutcome};
use crate::cli::connection::{ConnectionArgs, open_sql};
use crate::cli::exit::Exit;
use crate::cli::signals::Signals;
use crate::cli::table::{Column, table};
use crate::cli::values::{parse_duration, parse_size};
use crate::cli::{human, report};
use crate::client::conninfo::Settings;
use crate::client::{Connection, Sql};
use crate::inspect::sync_standbys::SyncStandbys;
use crate::measure::{
    CheckCost, Ended, MeasureError, SourceServer, Span, WalMeasured, WalRequest, WalStart, find_starts,
    measure_wal,
};
use crate::pg::{Lsn, SlotName, SystemIdentifier, TimelineId};
use crate::sink::RecordCheck;

/// Measure how fast a server sends WAL, with nothing written here
///
/// Reads the oldest WAL that the server still has, and what it writes meanwhile once that is read. Nothing of it is kept or
/// reported as durable: no slot is used or moved, no commit counts on it, and the server can shut down at any time. What
/// it takes is a walsender, the network, and reads of the server's disk.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake bench wal -d \"host=db1 user=rep\" --duration 30 --fsync /srv/wal

JSON: server_version, system_identifier, timeline, start_lsn, end_lsn, ended
(duration, max_bytes, signal, shutdown, wal_removed), backlog and live (null if
the backlog never ended), each with seconds, bytes, bytes_per_second, messages,
bytes_per_message, client_cpu_seconds and server_cpu_seconds (null where it is
not seen), server_cpu_hidden (why), check (null without --verify: seconds,
checked_lsn), fsync (null without it: directory, seconds, zero_fill_seconds,
writes: write_bytes, file, count, p50_seconds, p90_seconds, p99_seconds,
max_seconds), warnings.")]
pub(in crate::cli) struct WalArgs {
    /// Begin with the segment that holds this LSN [default: the oldest WAL that is there]
    #[arg(long, value_name = "LSN")]
    start_lsn: Option<Lsn>,

    /// Begin with the WAL that this physical slot holds; who uses it is not disturbed
    #[arg(short = 'S', long, value_name = "NAME", conflicts_with = "start_lsn")]
    slot: Option<SlotName>,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration, default_value = "10")]
    duration: Duration,

    /// Stop when so many bytes have come: 512M, 10G …
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bytes: Option<u64>,

    /// Check page headers and record checksums meanwhile, as "receive" does
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    fsync: FsyncArgs,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Print the result as JSON, and no progress
    #[arg(help_heading = "More options", long)]
    json: bool,
}

/// A backlog that is shorter is over before a rate can be told from it.
const TELLING_BACKLOG: u64 = 64 << 20;

/// Runs the command.
pub(in crate::cli) fn run(args: &WalArgs) -> Exit {
    let settings = match args.connection.settings("pgwake bench") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&error, args.json),
    };
    crate::cli::block_on(args.json, async {
        match drive(args, settings).await {
            Ok(outcome) if args.json => report::print_json(&outcome),
            Ok(outcome) => report::print(&outcome.to_text()),
            Err(error) => error.report(args.json),
        }
    })
}

async fn drive(args: &WalArgs, mut settings: Settings) -> Result<WalOutcome, BenchError> {
    let mut signals = Signals::listen().map_err(BenchError::Signals)?;
    let disk = args.fsync.prepare(Some(args.duration))?;
    let connected = super::connect(&args.connection, &mut settings);
    let mut connection = super::unless_interrupted(&mut signals, connected).await?;
    let prepared = prepare(args, &mut connection, &settings);
    let Prepared { server, request, mut warnings } =
        super::unless_interrupted(&mut signals, prepared).await?;
    let server_version = connection.version().to_string();
    let (progress, display) = super::show_progress(args.json);
    let measured = measure_wal(&mut connection, &server, &request, &progress, signals.received()).await;
    connection.close().await;
    let measured = measured?;
    let interrupted = matches!(measured.ended, Ended::Interrupted(_));
    let fsync = match disk.filter(|_| !interrupted) {
        Some(disk) => Some(Disk::measure(disk, &mut signals, &progress).await?),
        None => None,
    };
    drop(display);
    if measured.backlog.bytes < TELLING_BACKLOG && measured.live.is_some() {
        warn(
            &mut warnings,
            format!(
                "the server had only {} of WAL to send at once, too little to tell a rate from: begin further back with \
             --start-lsn or --slot, if it still has older WAL",
                human::bytes(measured.backlog.bytes)
            ),
        );
    }
    if matches!(measured.ended, Ended::ShuttingDown | Ended::WalRemoved) {
        warn(&mut warnings, format!("it {}", super::why(measured.ended)));
    }
    Ok(WalOutcome::new(&server, server_version, &measured, fsync, warnings))
}

fn warn(warnings: &mut Vec<String>, warning: String) {
    tracing::warn!("{warning}");
    warnings.push(warning);
}

/// What is known before the stream begins.
struct Prepared {
    server: SourceServer,
    request: WalRequest,
    warnings: Vec<String>,
}

async fn prepare(
    args: &WalArgs,
    connection: &mut Connection,
    settings: &Settings,
) -> Result<Prepared, MeasureError> {
    let server = SourceServer::ask(connection).await?;
    let mut warnings = Vec::new();
    if let Some(warning) = listed_as_synchronous(connection, settings).await? {
        warn(&mut warnings, warning);
    }
    let start = match (args.start_lsn, &args.slot) {
        (Some(lsn), _) => WalStart::At(lsn),
        (None, Some(slot)) => WalStart::Slot(slot.clone()),
        (None, None) => WalStart::Oldest,
    };
    let sql = match start {
        WalStart::At(_) => None,
        WalStart::Slot(_) | WalStart::Oldest => ordinary(connection, settings).await,
    };
    let starts = find_starts(connection, sql.as_ref(), &server, &start).await?;
    if let Some(sql) = sql {
        sql.close().await;
    }
    let request = WalRequest {
        starts,
        duration: args.duration,
        max_bytes: args.max_bytes,
        record_check: if args.verify { RecordCheck::On } else { RecordCheck::Off },
    };
    Ok(Prepared { server, request, warnings })
}

/// A commit never waits for what reports nothing as flushed; but who reads the list should know.
async fn listed_as_synchronous(
    connection: &mut Connection,
    settings: &Settings,
) -> Result<Option<String>, MeasureError> {
    let shown = connection.show("synchronous_standby_names").await;
    let shown =
        shown.map_err(|source| MeasureError::Client { during: "read synchronous_standby_names", source })?;
    let name = settings.application_name.as_deref().unwrap_or_default();
    let listed = shown.parse::<SyncStandbys>().is_ok_and(|list| list.place(name).is_some());
    Ok(listed.then(|| {
        format!(
            "synchronous_standby_names = '{shown}' lists the name of this connection, \"{name}\": no commit waits for it, for \
             it reports nothing as flushed, but choose another application_name"
        )
    }))
}

/// An ordinary connection to the same server, where the role may have one.
async fn ordinary(connection: &Connection, settings: &Settings) -> Option<Sql> {
    match open_sql(&mut settings.pinned_to(connection.host())).await {
        Ok(mut sql) => {
            sql.set_answer_timeout(Some(super::ANSWER_TIMEOUT));
            Some(sql)
        }
        Err(error) => {
            tracing::info!("no ordinary connection to the server, so its oldest WAL is not known");
            tracing::debug!("the reason: {error}");
            None
        }
    }
}

/// What was measured, for people and programs.
#[derive(Debug, Serialize)]
struct WalOutcome {
    server_version: String,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    start_lsn: Lsn,
    end_lsn: Lsn,
    ended: &'static str,
    backlog: SpanOutcome,
    live: Option<SpanOutcome>,
    server_cpu_hidden: Option<&'static str>,
    check: Option<CheckOutcome>,
    fsync: Option<FsyncOutcome>,
    warnings: Vec<String>,
    #[serde(skip)]
    why: String,
    #[serde(skip)]
    spans: Vec<(&'static str, Span)>,
}

#[derive(Debug, Serialize)]
struct CheckOutcome {
    seconds: f64,
    checked_lsn: Lsn,
}

impl From<CheckCost> for CheckOutcome {
    fn from(CheckCost { elapsed, checked_lsn }: CheckCost) -> Self {
        CheckOutcome { seconds: elapsed.as_secs_f64(), checked_lsn }
    }
}

impl WalOutcome {
    fn new(
        server: &SourceServer,
        server_version: String,
        measured: &WalMeasured,
        fsync: Option<FsyncOutcome>,
        warnings: Vec<String>,
    ) -> Self {
        let backlog = ("BACKLOG", measured.backlog);
        WalOutcome {
            server_version,
            system_identifier: server.identity.system_identifier,
            timeline: measured.timeline,
            start_lsn: measured.start_lsn,
            end_lsn: measured.end_lsn,
            ended: super::ended(measured.ended),
            backlog: SpanOutcome::from(&measured.backlog),
            live: measured.live.as_ref().map(SpanOutcome::from),
            server_cpu_hidden: measured.hidden_cpu.map(super::hidden),
            check: measured.check.map(CheckOutcome::from),
            fsync,
            warnings,
            why: super::why(measured.ended),
            spans: [backlog].into_iter().chain(measured.live.map(|live| ("LIVE", live))).collect(),
        }
    }

    fn to_text(&self) -> String {
        let WalOutcome { server_version, timeline, start_lsn, end_lsn, why, .. } = self;
        let mut text = format!(
            "WAL from {start_lsn} to {end_lsn} on timeline {timeline}, server {server_version}; {why}\n"
        );
        let mut columns = vec![Column::Text("")];
        columns.extend(self.spans.iter().map(|(name, _)| Column::Number(name)));
        let row = |name: &str, cell: &dyn Fn(&Span) -> String| {
            let cells = self.spans.iter().map(|(_, span)| cell(span));
            [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
        };
        let rows = [
            row("time", &|span| human::duration(span.elapsed)),
            row("WAL", &|span| human::bytes(span.bytes)),
            row("rate", &|span| super::rate(span.bytes, span.elapsed)),
            row("messages", &|span| span.messages.to_string()),
            row("each", &|span| super::each(span.bytes, span.messages)),
            row("server CPU", &|span| super::cpu(span.server_cpu, span.elapsed)),
            row("client CPU", &|span| super::cpu(span.client_cpu, span.elapsed)),
        ];
        text.push_str(&table(&columns, &rows, None));
        if let Some(hidden) = self.server_cpu_hidden {
            text.push_str(&format!("server CPU is not known: {hidden}\n"));
        }
        if let Some(CheckOutcome { seconds, checked_lsn }) = &self.check {
            text.push_str(&format!(
                "checking pages and records up to {checked_lsn} took {seconds:.2} s of that, on the thread that receives\n"
            ));
        }
        text + &self.fsync.as_ref().map_or_else(String::new, FsyncOutcome::to_text)
    }
}
