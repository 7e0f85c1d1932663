//! `pgwake receive`.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::connection::{ConnectionArgs, ConnectionArgsError};
use super::exit::Exit;
use super::report;
use super::signals::Signals;
use crate::ErrorClass;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, OpenError, Purpose};
use crate::pg::{Lsn, SlotName};
use crate::stream::{
    Progress, ReceiveError, ReceiveOptions, Reconnect, ServerConnector, StartChoice, StreamOptions,
    receive_into,
};
use crate::wire::command::{SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// Receive WAL into a directory, durably, and tell the primary how far
///
/// Writes segments as the primary does, the one in progress with .partial behind its name, and timeline histories.
/// Reports as written what has arrived, as flushed what is durable here, and nothing as applied. Goes on after the loss
/// of the connection, and after a failover on the new timeline. Ends with exit code 0 on SIGINT and SIGTERM.
#[derive(Debug, Args)]
pub(super) struct ReceiveArgs {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// Where the WAL goes; made if it does not exist
    #[arg(short = 'D', long, value_name = "DIR")]
    directory: PathBuf,

    /// The replication slot that keeps WAL on the primary until it is durable here
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: Option<SlotName>,

    /// Make the slot if it does not exist
    #[arg(long, requires = "slot")]
    create_slot: bool,

    /// Where to begin in an empty directory when there is no slot: "current", or an LSN
    #[arg(long, value_name = "WHERE", value_parser = parse_start)]
    start: Option<StartChoice>,

    /// Stop when everything before this LSN is durable
    #[arg(short = 'E', long, value_name = "LSN")]
    endpos: Option<Lsn>,

    /// End with an error when the connection is lost, or cannot be had
    #[arg(short = 'n', long)]
    no_loop: bool,

    /// The longest silence towards the primary, in seconds (0: only report progress, and answer)
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    status_interval: u32,

    /// How long the primary may be silent before it is taken for lost, in seconds (0: for ever)
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    receive_timeout: u32,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What was typed, and cannot be meant; or what failed before anything was received.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Connection(#[from] ConnectionArgsError),
    #[error("could not connect to the server")]
    Open(#[from] OpenError),
    #[error("could not create replication slot \"{slot}\"")]
    CreateSlot { slot: SlotName, source: ClientError },
    #[error("could not create directory \"{}\"", .path.display())]
    CreateDirectory { path: PathBuf, source: std::io::Error },
    #[error("could not set up the program")]
    Setup(#[source] std::io::Error),
}

impl SetupError {
    fn class(&self) -> ErrorClass {
        match self {
            SetupError::Open(error) => error.class(),
            SetupError::CreateSlot { source, .. } => source.class(),
            _ => ErrorClass::Operator,
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &ReceiveArgs) -> Exit {
    let settings = match args.connection.settings("pgwake") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&SetupError::Setup(error), ErrorClass::Operator, args.json),
    };
    runtime.block_on(drive(args, settings))
}

async fn drive(args: &ReceiveArgs, mut settings: Settings) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report::failure(&SetupError::Setup(error), ErrorClass::Operator, args.json),
    };
    let prepared = tokio::select! {
        _signal = signals.received() => return Exit::Done,
        prepared = prepare(args, &mut settings) => prepared,
    };
    if let Err(error) = prepared {
        return report::failure(&error, error.class(), args.json);
    }
    let (sender, progress) = watch::channel(Progress::default());
    let mut connector = ServerConnector::new(settings);
    let shutdown = async {
        let signal = signals.received().await;
        tracing::info!("received {signal}, stopping");
    };
    let received = receive_into(&args.options(), &args.directory, &mut connector, &sender, shutdown).await;
    let progress = *progress.borrow();
    match received {
        Ok(_) => print_outcome(&progress, args.json),
        Err(error) => fail(&error, args.json),
    }
}

fn fail(error: &ReceiveError, json: bool) -> Exit {
    report::failure(error, error.class(), json)
}

/// What is done once, before the first stream: the password is asked for, the slot made.
async fn prepare(args: &ReceiveArgs, settings: &mut Settings) -> Result<(), SetupError> {
    create_directory(&args.directory)
        .map_err(|source| SetupError::CreateDirectory { path: args.directory.clone(), source })?;
    let Some(slot) = args.slot.as_ref().filter(|_| args.create_slot) else {
        return args.connection.ask_password_if_needed(settings).await.or_else(|error| match error.class() {
            // receiving tries again for as long as it takes
            ErrorClass::Transient if !args.no_loop => Ok(()),
            _ => Err(error.into()),
        });
    };
    let mut connection = args.connection.connect(settings, Purpose::PhysicalReplication).await?;
    let created =
        connection.create_physical_slot(slot, SlotPersistence::Permanent, WalReservation::Immediate).await;
    connection.close().await;
    match created {
        Ok(()) => {
            tracing::info!("created replication slot \"{slot}\"");
            Ok(())
        }
        Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => Ok(()),
        Err(source) => Err(SetupError::CreateSlot { slot: slot.clone(), source }),
    }
}

/// Makes it durably, for its owner alone, unless it is there.
fn create_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        }
    }
}

fn print_outcome(progress: &Progress, json: bool) -> Exit {
    if json {
        report::print_json(&serde_json::json!({
            "timeline": progress.timeline,
            "received_lsn": progress.received_lsn,
            "flush_lsn": progress.flush_lsn,
        }));
    } else if let Some(timeline) = progress.timeline {
        tracing::info!("stopped at {} on timeline {timeline}; all of it is durable", progress.flush_lsn);
    }
    Exit::Done
}

impl ReceiveArgs {
    fn options(&self) -> ReceiveOptions {
        ReceiveOptions {
            stream: StreamOptions {
                slot: self.slot.clone(),
                status_interval: Duration::from_secs(self.status_interval.into()),
                receive_timeout: Duration::from_secs(self.receive_timeout.into()),
                ..StreamOptions::default()
            },
            start: self.start.unwrap_or_default(),
            stop_lsn: self.endpos,
            reconnect: if self.no_loop { Reconnect::Never } else { Reconnect::Always },
            seed: fastrand::u64(..),
            ..ReceiveOptions::default()
        }
    }
}

fn parse_start(text: &str) -> Result<StartChoice, String> {
    match text {
        "current" => Ok(StartChoice::Current),
        lsn => lsn
            .parse()
            .map(StartChoice::At)
            .map_err(|_| "neither \"current\" nor an LSN such as 0/3000000".to_owned()),
    }
}
