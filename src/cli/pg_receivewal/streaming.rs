//! The job itself: from segment to segment, connection to connection, with the original's words.

use std::time::Duration;

use tokio::sync::watch;

use super::options::{Durability, Options, Receive, WhenLost};
use super::words::Words;
use crate::ErrorClass;
use crate::cli::hints;
use crate::cli::pg_tool::connection::{command_failed, show_notices, with_causes};
use crate::cli::pg_tool::slots::{SlotUse, slot_name};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::cli::signals::Signals;
use crate::client::Connection;
use crate::client::conninfo::Settings;
use crate::handover::Handover;
use crate::pg::ServerVersion;
use crate::sink::{Layout, RealDisk, RecordCheck};
use crate::stream::{
    ConnectFailure, Connector, FlushMeaning, FlushPolicy, MissingSlot, Progress, ReceiveError,
    ReceiveOptions, Reconnect, ServerConnector, StartChoice, StreamOptions, open_sink, receive_observed,
};

/// The waits between attempts.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The longest silence of the server's: PostgreSQL's `wal_receiver_timeout`. The original waits for ever.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Receives until it is told to stop, or cannot go on.
pub(super) async fn receive(
    tool: &Invocation,
    options: &Options,
    receive: &Receive,
    mut settings: Settings,
    mut connection: Connection,
    file_mode: u32,
    handover: &Handover,
) -> Result<(), Failed> {
    // later connections: a server that lets nobody in and says nothing is lost, too
    settings.connect_timeout = settings.connect_timeout.or(Some(RECEIVE_TIMEOUT));
    let mut signals = Signals::listen()
        .map_err(|error| tool.error(format!("could not set up signal handling: {error}")))?;
    let segment_size = connection.wal_segment_size().await;
    let segment_size =
        segment_size.map_err(|error| tool.error(command_failed("SHOW wal_segment_size", &error)))?;
    let wanted = receive_options(tool, receive, connection.version())?;
    let mut disk = RealDisk::new(&receive.directory).with_file_mode(file_mode);
    // what is never reported to the server may be left to the operating system
    if receive.durability == Durability::None && receive.slot.is_none() {
        disk = disk.without_sync();
    }
    let sink =
        open_sink(disk, Layout::PaddedArchive, wanted.stream.record_check, options.compression.compression())
            .map_err(|error| tool.error(with_causes(&error)))?;
    let mut sink = sink.with_handover(Some(handover.clone()));
    let (sender, progress) = watch::channel(Progress::default());
    let mut words = Words {
        tool,
        verbose: options.verbose,
        pads_lsns: connection.version().pads_lsns(),
        suffix: options.compression.method.suffix(),
        segment_size,
        progress: progress.clone(),
        stream_start_lsn: None,
        switched_to: None,
    };
    let mut connector = FirstOpened { tool, opened: Some(connection), then: ServerConnector::new(settings) };
    let mut interrupted = false;
    let shutdown = async {
        signals.received().await;
        interrupted = true;
        if options.verbose && progress.borrow().timeline.is_some() {
            tool.info("received interrupt signal, exiting");
        }
    };
    let result = receive_observed(&wanted, &mut connector, &mut sink, &sender, &mut words, shutdown).await;
    match result {
        Ok(_) => {
            words.say_farewell(interrupted);
            Ok(())
        }
        Err(error) => {
            words.say_failure(&error);
            if receive.when_lost == WhenLost::Fail && error.class() == ErrorClass::Transient {
                return Err(tool.error("disconnected"));
            }
            if let Some(hint) = hint(&error) {
                tool.hint(hint);
            }
            Err(if receive.when_lost == WhenLost::Fail { tool.error("disconnected") } else { Failed })
        }
    }
}

fn receive_options(
    tool: &Invocation,
    receive: &Receive,
    version: ServerVersion,
) -> Result<ReceiveOptions, Failed> {
    let slot = receive.slot.as_deref().map(|slot| slot_name(tool, SlotUse::Stream, slot)).transpose();
    let slot = slot.map_err(|failed| match receive.when_lost {
        WhenLost::Fail => tool.error("disconnected"),
        WhenLost::Reconnect => failed,
    })?;
    let flush_policy = match (receive.durability, &slot) {
        (Durability::Synchronous, _) => FlushPolicy::Prompt,
        (_, Some(_)) => FlushPolicy::Lazy,
        (_, None) => FlushPolicy::Unreported,
    };
    Ok(ReceiveOptions {
        stream: StreamOptions {
            slot,
            missing_slot: MissingSlot::Refuse,
            status_interval: receive.status_interval,
            receive_timeout: RECEIVE_TIMEOUT,
            record_check: if version.is_supported() { RecordCheck::On } else { RecordCheck::Off },
            flush_policy,
            flush_meaning: FlushMeaning::Durable,
        },
        start: StartChoice::Current,
        stop_lsn: receive.endpos,
        reconnect: match receive.when_lost {
            WhenLost::Fail => Reconnect::Never,
            WhenLost::Reconnect => Reconnect::AfterFirst,
        },
        first_wait: FIRST_WAIT,
        longest_wait: LONGEST_WAIT,
        seed: fastrand::u64(..),
    })
}

/// Hands out the connection that is open already, and opens the others.
struct FirstOpened<'a> {
    tool: &'a Invocation,
    opened: Option<Connection>,
    then: ServerConnector,
}

impl Connector for FirstOpened<'_> {
    type Upstream = Connection;

    async fn connect(&mut self) -> Result<Connection, ConnectFailure> {
        if let Some(connection) = self.opened.take() {
            return Ok(connection);
        }
        let mut connection = self.then.connect().await?;
        show_notices(self.tool, &mut connection);
        Ok(connection)
    }
}

fn hint(error: &ReceiveError) -> Option<String> {
    let chain: Vec<_> =
        std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
            .collect();
    hints::hints(&chain).into_iter().next()
}
