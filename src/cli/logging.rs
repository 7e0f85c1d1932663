//! The log, on standard error.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::observe::progress::LogWriter;

#[derive(Debug, Args)]
pub(super) struct LoggingArgs {
    /// Say more (twice: much more)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    /// Say nothing but warnings and errors
    #[arg(short, long, conflicts_with = "verbose", global = true)]
    quiet: bool,

    /// How log lines look
    #[arg(long, value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

pub(super) fn init(args: &LoggingArgs) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let targets = Targets::new().with_default(LevelFilter::WARN).with_target("pgwake", level);
    // a terminal that has gone away must not end what has to be taken back: no panic over a line that is not written
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(LogWriter::default)
        .with_target(false)
        .log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    // fails only when a log is set up already, which is what is wanted
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
}
