//! The job itself: from segment to segment, connection to connection, with the original's words.

use std::time::Duration;

use tokio::sync::watch;

use super::options::{Durability, Options, Receive, WhenLost};
use super::slot_name;
use crate::ErrorClass;
use crate::cli::hints;
use crate::cli::pg_tool::connection::{command_failed, libpq_text, with_causes};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::cli::signals::Signals;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Connection};
use crate::pg::{Lsn, ServerVersion, TimelineId, WalFileName, WalSegmentSize};
use crate::sink::{Layout, RealDisk, RecordCheck};
use crate::stream::{
    ConnectFailure, Connector, FlushPolicy, Observer, Progress, ReceiveError, ReceiveOptions, Reconnect,
    ServerConnector, StartChoice, StreamOptions, open_sink, receive_observed,
};

/// The waits between attempts.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The longest silence of the server's: PostgreSQL's `wal_receiver_timeout`. The original waits for ever.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Receives until it is told to stop, or cannot go on.
pub(super) async fn receive(
    tool: &Invocation,
    options: &Options,
    receive: &Receive,
    settings: Settings,
    mut connection: Connection,
    file_mode: u32,
) -> Result<(), Failed> {
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
    let mut sink =
        open_sink(disk, Layout::PaddedArchive, wanted.stream.record_check, options.compression.compression())
            .map_err(|error| tool.error(with_causes(&error)))?;
    let mut connector = FirstOpened { opened: Some(connection), then: ServerConnector::new(settings) };
    let mut words = Words {
        tool,
        verbose: options.verbose,
        suffix: options.compression.method.suffix(),
        start_lsn: None,
        last: None,
    };
    let (sender, progress) = watch::channel(Progress::default());
    let mut interrupted = false;
    let shutdown = async {
        signals.received().await;
        interrupted = true;
        if options.verbose && progress.borrow().timeline.is_some() {
            tool.info("received interrupt signal, exiting");
        }
    };
    let result = receive_observed(&wanted, &mut connector, &mut sink, &sender, &mut words, shutdown).await;
    let progress = *progress.borrow();
    match result {
        Ok(_) => {
            words.say_farewell(&progress, segment_size, interrupted);
            Ok(())
        }
        Err(error) => {
            tool.error(describe(&error));
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
    let slot = receive.slot.as_deref().map(|slot| slot_name(tool, "START_REPLICATION SLOT", slot, ""));
    let slot = slot.transpose()?;
    let flush_policy = match (receive.durability, &slot) {
        (Durability::Synchronous, _) => FlushPolicy::Prompt,
        (_, Some(_)) => FlushPolicy::Lazy,
        (_, None) => FlushPolicy::Unreported,
    };
    Ok(ReceiveOptions {
        stream: StreamOptions {
            slot,
            status_interval: receive.status_interval,
            receive_timeout: RECEIVE_TIMEOUT,
            record_check: if version.is_supported() { RecordCheck::On } else { RecordCheck::Off },
            flush_policy,
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
struct FirstOpened {
    opened: Option<Connection>,
    then: ServerConnector,
}

impl Connector for FirstOpened {
    type Upstream = Connection;

    async fn connect(&mut self) -> Result<Connection, ConnectFailure> {
        match self.opened.take() {
            Some(connection) => Ok(connection),
            None => self.then.connect().await,
        }
    }
}

/// What happens, as the original tells it.
struct Words<'a> {
    tool: &'a Invocation,
    verbose: bool,
    suffix: &'static str,
    start_lsn: Option<Lsn>,
    last: Option<TimelineId>,
}

impl Observer for Words<'_> {
    fn stream_starting(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        // on one connection only the first stream is announced
        if self.verbose && self.last != Some(timeline) {
            self.tool.info(format!("starting log streaming at {start_lsn} (timeline {timeline})"));
        }
        self.start_lsn.get_or_insert(start_lsn);
        self.last = None;
    }

    fn segment_finished(&mut self, timeline: TimelineId, end_lsn: Lsn) {
        if self.verbose {
            self.tool.info(format!("finished segment at {end_lsn} (timeline {timeline})"));
        }
    }

    fn timeline_switched(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        if self.verbose {
            self.tool.info(format!("switched to timeline {timeline} at {switch_lsn}"));
        }
        self.last = Some(timeline);
    }

    fn disconnected(&mut self, error: &ReceiveError, wait: Duration) {
        self.tool.error(describe(error));
        let seconds = wait.as_secs_f64().ceil();
        self.tool.info(format!("disconnected; waiting {seconds} seconds to try again"));
    }
}

impl Words<'_> {
    fn say_farewell(&self, progress: &Progress, segment_size: WalSegmentSize, interrupted: bool) {
        let Some(timeline) = progress.timeline else { return };
        let end_lsn = progress.received_lsn;
        let say_end = || {
            let stopped = format!("stopped log streaming at {end_lsn} (timeline {timeline})");
            match (self.verbose, interrupted) {
                (false, _) => {}
                (true, true) => self.tool.info("received interrupt signal, exiting"),
                (true, false) => self.tool.info(stopped),
            }
        };
        if !interrupted {
            say_end();
        }
        if self.start_lsn == Some(end_lsn) {
            return;
        }
        if segment_size.offset_of(end_lsn) != 0 {
            let segment = segment_size.segment_at(end_lsn);
            let suffix = self.suffix;
            let name = WalFileName { timeline, segment };
            self.tool.info(format!("not renaming \"{name}{suffix}.partial\", segment is not complete"));
        }
        say_end();
    }
}

/// An error in the original's words, where it has some.
fn describe(error: &ReceiveError) -> String {
    match error {
        ReceiveError::Connect { source, .. } => with_causes(&**source),
        ReceiveError::Start { source, .. } => command_failed("START_REPLICATION", source),
        ReceiveError::Client { source: ClientError::ShuttingDown, .. } => {
            "replication stream was terminated before stop point".to_owned()
        }
        ReceiveError::Client { during: "receive WAL", source: source @ ClientError::Server(_) } => {
            format!("unexpected termination of replication stream: {}", libpq_text(source))
        }
        ReceiveError::Client { during: "receive WAL", source } => {
            format!("could not receive data from WAL stream: {}", libpq_text(source))
        }
        ReceiveError::Client { during, source } => {
            let command = match *during {
                "identify the server" => "IDENTIFY_SYSTEM",
                "read the replication slot" => "READ_REPLICATION_SLOT",
                "fetch a timeline history" => "TIMELINE_HISTORY",
                other => other,
            };
            command_failed(command, source)
        }
        error => with_causes(error),
    }
}

fn hint(error: &ReceiveError) -> Option<String> {
    let chain: Vec<_> =
        std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
            .collect();
    hints::hints(&chain).into_iter().next()
}
