//! The log, on standard error.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::observe::progress::LogWriter;

#[derive(Debug, Args)]
#[command(next_help_heading = "General options")]
pub(super) struct LoggingArgs {
    /// Say more (twice: much more)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 900)]
    verbose: u8,

    /// Say nothing but warnings and errors
    #[arg(short, long, conflicts_with = "verbose", global = true, display_order = 901)]
    quiet: bool,

    /// Log lines as text, or as JSON objects
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true, display_order = 902)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Whether every line on standard error is to be a JSON object.
static IS_JSON: AtomicBool = AtomicBool::new(false);

pub(super) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// For arguments that could not be read: what they say of the log's format is heeded all the same.
pub(super) fn init_as_typed(arguments: &[OsString]) {
    let pairs = arguments.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    let is_json = pairs || arguments.iter().any(|argument| argument == "--log-format=json");
    let log_format = if is_json { LogFormat::Json } else { LogFormat::Text };
    init(&LoggingArgs { verbose: 0, quiet: false, log_format });
}

pub(super) fn init(args: &LoggingArgs) {
    IS_JSON.store(args.log_format == LogFormat::Json, Ordering::Relaxed);
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
        LogFormat::Json => {
            std::panic::set_hook(Box::new(log_panic));
            layer.json().flatten_event(true).boxed()
        }
    };
    // fails only when a log is set up already, which is what is wanted
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
}

/// A defect of ours is told as everything else is.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message =
        message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(location, thread = thread.name(), "panicked: {message}");
}
