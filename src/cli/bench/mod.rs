//! `pgwake bench`: what a server can send and what a disk acknowledges, in numbers.

pub(super) mod backup;
mod fsync;
pub(super) mod wal;

use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::connection::{ConnectError, ConnectionArgs};
use super::exit::Exit;
use super::signals::Signals;
use super::{human, report};
use crate::ErrorClass;
use crate::client::conninfo::Settings;
use crate::client::{Connection, Purpose};
use crate::measure::{DiskError, Ended, HiddenCpu, MeasureError, Span};
use crate::observe::progress::{CopyProgress, ProgressDisplay, ProgressMode};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    Wal(Box<wal::WalArgs>),
    Backup(Box<backup::BackupArgs>),
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not measure the server")]
    Measure(#[source] MeasureError),
    #[error("could not measure the disk")]
    Disk(#[from] DiskError),
    #[error("interrupted by {0} before anything was measured")]
    Interrupted(&'static str),
}

impl From<MeasureError> for BenchError {
    fn from(error: MeasureError) -> Self {
        match error {
            MeasureError::Interrupted(signal) => BenchError::Interrupted(signal),
            error => BenchError::Measure(error),
        }
    }
}

impl BenchError {
    fn report(&self, json: bool) -> Exit {
        let class = match self {
            BenchError::Connect(error) => error.class(),
            BenchError::Measure(error) => error.class(),
            BenchError::Signals(_) | BenchError::Disk(_) | BenchError::Interrupted(_) => ErrorClass::Operator,
        };
        report::failure(self, class, json)
    }
}

/// How long the server may be silent where it has nothing to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The replication connection to be measured.
async fn connect(args: &ConnectionArgs, settings: &mut Settings) -> Result<Connection, ConnectError> {
    args.ask_password_if_told(settings).await?;
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let mut connection = args.connect(settings, Purpose::PhysicalReplication).await?;
    connection.set_answer_timeout(Some(ANSWER_TIMEOUT));
    Ok(connection)
}

/// `work`, unless a signal comes first. A prompt hears of a signal too, and says more.
async fn unless_interrupted<T, E: Into<BenchError>>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, BenchError> {
    tokio::select! {
        biased;
        done = work => done.map_err(Into::into),
        signal = signals.received() => Err(BenchError::Interrupted(signal)),
    }
}

/// Progress on standard error, unless the result is for a program.
fn show_progress(json: bool) -> (Arc<CopyProgress>, ProgressDisplay) {
    let progress = Arc::new(CopyProgress::default());
    let mode = if json { ProgressMode::Hidden } else { ProgressMode::Automatic };
    let display = ProgressDisplay::start(Arc::clone(&progress), mode);
    (progress, display)
}

/// A span as a program gets it.
#[derive(Debug, Serialize)]
struct SpanOutcome {
    seconds: f64,
    bytes: u64,
    bytes_per_second: Option<f64>,
    messages: u64,
    bytes_per_message: Option<f64>,
    client_cpu_seconds: Option<f64>,
    server_cpu_seconds: Option<f64>,
}

impl From<&Span> for SpanOutcome {
    fn from(span: &Span) -> Self {
        SpanOutcome {
            seconds: span.elapsed.as_secs_f64(),
            bytes: span.bytes,
            bytes_per_second: span.per_second(span.bytes),
            messages: span.messages,
            bytes_per_message: (span.messages > 0).then(|| span.bytes as f64 / span.messages as f64),
            client_cpu_seconds: span.client_cpu.map(|cpu| cpu.as_secs_f64()),
            server_cpu_seconds: span.server_cpu.map(|cpu| cpu.as_secs_f64()),
        }
    }
}

/// Bytes by the second, for people.
fn rate(bytes: u64, elapsed: Duration) -> String {
    match elapsed.as_secs_f64() {
        seconds if seconds > 0.0 => format!("{}/s", human::bytes((bytes as f64 / seconds) as u64)),
        _ => String::new(),
    }
}

/// The time of a processor, and how much of one that is.
fn cpu(busy: Option<Duration>, elapsed: Duration) -> String {
    let (Some(busy), false) = (busy, elapsed.is_zero()) else { return "not known".to_owned() };
    let percent = 100.0 * busy.as_secs_f64() / elapsed.as_secs_f64();
    format!("{:.2} s, {percent:.0} %", busy.as_secs_f64())
}

/// Bytes by the message.
fn each(bytes: u64, messages: u64) -> String {
    bytes.checked_div(messages).map_or_else(String::new, human::bytes)
}

fn ended(ended: Ended) -> &'static str {
    match ended {
        Ended::Complete => "complete",
        Ended::Duration => "duration",
        Ended::MaxBytes => "max_bytes",
        Ended::Interrupted(_) => "signal",
        Ended::ShuttingDown => "shutdown",
        Ended::WalRemoved => "wal_removed",
    }
}

/// Why it ended, within a sentence.
fn why(ended: Ended) -> String {
    match ended {
        Ended::Complete => "complete".to_owned(),
        Ended::Duration => "ended when time was over".to_owned(),
        Ended::MaxBytes => "ended when enough had come".to_owned(),
        Ended::Interrupted(signal) => format!("interrupted by {signal}"),
        Ended::ShuttingDown => "ended because the server shuts down".to_owned(),
        Ended::WalRemoved => "ended because the server removed WAL before it was sent".to_owned(),
    }
}

/// Why the server's processor time is not known.
fn hidden(hidden: HiddenCpu) -> &'static str {
    match hidden {
        HiddenCpu::OtherHost => "the server is on another host",
        HiddenCpu::NotTold => "the server did not say which process it is",
        HiddenCpu::NotSeen => {
            "the server's process is not seen here: a container, or something that passes connections on"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_to_programs_in_seconds_and_bytes() {
        let span = Span {
            elapsed: Duration::from_millis(500),
            bytes: 1 << 20,
            messages: 8,
            client_cpu: Some(Duration::from_millis(250)),
            server_cpu: None,
        };
        let outcome = serde_json::to_value(SpanOutcome::from(&span)).unwrap();
        let expected = serde_json::json!({
            "seconds": 0.5, "bytes": 1 << 20, "bytes_per_second": 2097152.0, "messages": 8,
            "bytes_per_message": 131072.0, "client_cpu_seconds": 0.25, "server_cpu_seconds": null,
        });
        assert_eq!(outcome, expected);
        let nothing = serde_json::to_value(SpanOutcome::from(&Span::default())).unwrap();
        assert!(nothing["bytes_per_second"].is_null() && nothing["bytes_per_message"].is_null());
    }

    #[test]
    fn people_get_rates_with_units() {
        assert_eq!(rate(3 << 20, Duration::from_secs(2)), "1.50 MiB/s");
        assert_eq!(rate(0, Duration::ZERO), "");
        assert_eq!(cpu(Some(Duration::from_millis(1500)), Duration::from_secs(2)), "1.50 s, 75 %");
        assert_eq!(cpu(None, Duration::from_secs(2)), "not known");
        assert_eq!((each(1 << 20, 8), each(0, 0)), ("128.00 KiB".to_owned(), String::new()));
    }
}
