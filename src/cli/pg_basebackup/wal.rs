//! The WAL of a backup, on a connection of its own (`StartLogStreamer`).

use std::path::PathBuf;

use tokio::sync::{oneshot, watch};

use super::options::{Destination, Options, SlotPlan};
use super::receiving::Run;
use super::sink::now;
use super::slot::{OwnSlot, SlotCreation};
use crate::ErrorClass;
use crate::backup::confined::FileError;
use crate::backup::{DirectoryModes, SyncMethod, WalArchive, WalArchiveOptions};
use crate::cli::pg_tool::connection::{command_failed, show_notices, with_causes};
use crate::cli::pg_tool::slots::{SlotUse, slot_name};
use crate::cli::pg_tool::streaming::describe;
use crate::cli::pg_tool::{Failed, Invocation};
use crate::client::conninfo::Settings;
use crate::client::{BackupEnd, BackupStart, ClientError, Connection, OpenError, Purpose, open};
use crate::pg::{ServerVersion, SlotName, SystemIdentifier};
use crate::sink::RecordCheck;
use crate::stream::{
    BackgroundReceive, BackgroundRequest, ConnectFailure, Connector, FlushPolicy, ReceiveError,
    StreamOptions, WalAcknowledgement, WalDurability,
};
use crate::wire::command::{self, SlotPersistence, WalReservation};

/// WAL that comes beside a backup.
#[derive(Debug)]
pub(super) struct WalBeside {
    receive: BackgroundReceive,
    archive: Option<WalArchive>,
}

/// What it takes to begin.
#[derive(Debug)]
pub(super) struct WalRequest<'a> {
    pub(super) tool: &'a Invocation,
    pub(super) options: &'a Options,
    /// They lead to the server that the backup comes from.
    pub(super) settings: Settings,
    pub(super) version: ServerVersion,
    pub(super) modes: DirectoryModes,
    pub(super) system_identifier: SystemIdentifier,
    pub(super) start: BackupStart,
}

/// The slot that a stream was begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SlotChoice {
    None,
    Temporary,
    Existing(SlotName),
    Create(SlotName),
}

impl WalBeside {
    /// Connects, makes the slot, and begins. In `run` is left what has to be looked after should this be broken off.
    pub(super) async fn start(
        request: WalRequest<'_>,
        plan: &SlotPlan,
        run: &mut Run,
    ) -> Result<Self, Failed> {
        let WalRequest { tool, options, version, .. } = request;
        let choice = choose_slot(tool, plan, version)?;
        let (sender, ready) = oneshot::channel();
        let creation = match &choice {
            SlotChoice::Create(name) => {
                let (slot, creation) = OwnSlot::new(name.clone());
                run.slot = Some(slot);
                Some(creation)
            }
            SlotChoice::None | SlotChoice::Temporary | SlotChoice::Existing(_) => None,
        };
        let connector = SlotConnector {
            tool: tool.clone(),
            settings: request.settings.clone(),
            choice: choice.clone(),
            ready: Some(sender),
            created: None,
            creation,
        };
        let archive = match &options.destination {
            Destination::Tar { directory, compression } => {
                let (modes, sync, compression) = (request.modes, options.sync, *compression);
                let archive_options = WalArchiveOptions { modes, sync, compression, now: now() };
                let archive = WalArchive::start(directory, archive_options);
                Some(archive.map_err(|error| tool.error(with_causes(&error)))?)
            }
            _ => None,
        };
        let background = background_request(&request, &choice, archive.as_ref());
        let receive = BackgroundReceive::start(connector, background);
        let receive = receive.map_err(|error| tool.error(describe(&error)))?;
        // it goes on when this is broken off, so that the server's answer is heard
        let starting = run.starting.insert(receive);
        match ready.await {
            Ok(Ok(slot)) => {
                if let Some(slot) = slot.filter(|_| options.verbose) {
                    let kind = if choice == SlotChoice::Temporary { "temporary " } else { "" };
                    tool.info(format!("created {kind}replication slot \"{slot}\""));
                }
            }
            Ok(Err(failure)) => return Err(tool.error(&failure)),
            // the stream ended before it connected: it says why
            Err(_) => return Err(tool.error(describe(&starting.ended().await))),
        }
        let receive = run.starting.take();
        Ok(WalBeside { receive: receive.expect("nobody else takes it"), archive })
    }

    /// Resolves when the stream, or the archive that it goes into, has ended before the backup, which ends the backup too.
    /// Cancel-safe.
    pub(super) async fn ended(&mut self) -> WalFailure {
        let WalBeside { receive, archive } = self;
        let archive_failed = async {
            match archive {
                Some(archive) => archive.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = archive_failed => WalFailure::Archive(error),
            error = receive.ended() => WalFailure::Stream(error),
        }
    }

    /// The backup has ended: waits for the last of its WAL. The archive, if there is one, wants to be finished.
    pub(super) async fn finish(
        self,
        tool: &Invocation,
        end: BackupEnd,
    ) -> Result<Option<WalArchive>, Failed> {
        match self.receive.finish(end.lsn).await {
            Ok(_) => Ok(self.archive),
            Err(error) => {
                say_failure(tool, &error);
                Err(tool.error("child process exited with exit code 1"))
            }
        }
    }
}

/// Why WAL does not come any more.
#[derive(Debug)]
pub(super) enum WalFailure {
    Stream(ReceiveError),
    Archive(FileError),
}

impl WalFailure {
    pub(super) fn say(&self, tool: &Invocation) {
        match self {
            WalFailure::Stream(error) => say_failure(tool, error),
            WalFailure::Archive(error) => {
                let _ = tool.error(with_causes(error));
            }
        }
    }
}

/// Why a stream ended.
fn say_failure(tool: &Invocation, error: &ReceiveError) {
    let _ = tool.error(match error {
        ReceiveError::SystemChanged { .. } => {
            "system identifier does not match between base backup and streaming connection".to_owned()
        }
        ReceiveError::NoSlot(slot) => format!(
            "could not send replication command \"START_REPLICATION\": ERROR:  replication slot \"{slot}\" does not exist"
        ),
        error => describe(error),
    });
}

/// Servers before 10 have no temporary slots, and need none.
fn choose_slot(tool: &Invocation, plan: &SlotPlan, version: ServerVersion) -> Result<SlotChoice, Failed> {
    // as the original writes them, spaces and all: the command is in its messages
    let options = if version.has_slot_option_list() { " ( RESERVE_WAL)" } else { "  RESERVE_WAL" };
    Ok(match plan {
        SlotPlan::Temporary if version.has_temporary_slots() => SlotChoice::Temporary,
        SlotPlan::None | SlotPlan::Temporary => SlotChoice::None,
        SlotPlan::Create(name) => SlotChoice::Create(slot_name(tool, SlotUse::Create { options }, name)?),
        SlotPlan::Existing(name) => {
            let name = slot_name(tool, SlotUse::Backup, name);
            SlotChoice::Existing(name.map_err(|_| tool.error("background process terminated unexpectedly"))?)
        }
    })
}

fn background_request(
    request: &WalRequest<'_>,
    choice: &SlotChoice,
    archive: Option<&WalArchive>,
) -> BackgroundRequest {
    let WalRequest { options, version, modes, system_identifier, start, .. } = *request;
    let directory = match (&options.destination, archive) {
        (_, Some(archive)) => archive.arrival().to_owned(),
        (Destination::Plain { wal_directory: Some(directory), .. }, None) => directory.clone(),
        (destination, None) => destination.directory().map_or_else(PathBuf::new, |base| base.join("pg_wal")),
    };
    // a slot moves on as far as WAL is durable, so that a long backup does not fill the server's disk
    let has_slot = *choice != SlotChoice::None;
    let synced = has_slot || (archive.is_none() && options.sync == SyncMethod::Fsync);
    // a version that nobody has seen may write its WAL in another way
    let record_check = match version.is_supported() && !version.is_newer_than_tested() {
        true => RecordCheck::On,
        false => RecordCheck::Off,
    };
    BackgroundRequest {
        stream: StreamOptions {
            slot: if let SlotChoice::Existing(slot) = choice { Some(slot.clone()) } else { None },
            status_interval: options.status_interval,
            record_check,
            flush_policy: if has_slot { FlushPolicy::Lazy } else { FlushPolicy::Unreported },
            ..StreamOptions::default()
        },
        system_identifier,
        timeline: start.timeline,
        start_lsn: start.lsn,
        held: directory.clone(),
        directory,
        file_mode: if archive.is_some() { 0o600 } else { modes.default_file_mode() },
        owner: None,
        durability: if synced { WalDurability::Synced } else { WalDurability::LeftToOthers },
        acknowledgement: if has_slot { WalAcknowledgement::Durable } else { WalAcknowledgement::Nothing },
    }
}

/// Opens the stream's connection, makes its slot, and says so.
struct SlotConnector {
    tool: Invocation,
    settings: Settings,
    choice: SlotChoice,
    ready: Option<oneshot::Sender<Result<Option<SlotName>, StartFailure>>>,
    created: Option<SlotName>,
    /// Where a slot that outlives the connection is told of.
    creation: Option<watch::Sender<SlotCreation>>,
}

/// Why a stream could not be begun.
#[derive(Debug, thiserror::Error)]
enum StartFailure {
    #[error("{}", with_causes(.0))]
    Connect(OpenError),
    #[error("{}", command_failed(.command, .source))]
    Slot { command: String, source: ClientError },
}

impl Connector for SlotConnector {
    type Upstream = Connection;

    async fn connect(&mut self) -> Result<Connection, ConnectFailure> {
        let started = self.open().await;
        let (told, result) = match started {
            Ok(connection) => (Ok(self.created.clone()), Ok(connection)),
            Err(failure) => {
                let source = "the stream's connection could not be set up".into();
                (Err(failure), Err(ConnectFailure { class: ErrorClass::Operator, source }))
            }
        };
        if let Some(ready) = self.ready.take() {
            // nobody listens any more when the run was given up
            let _ = ready.send(told);
        }
        result
    }

    fn created_slot(&self) -> Option<SlotName> {
        self.created.clone()
    }
}

impl SlotConnector {
    async fn open(&mut self) -> Result<Connection, StartFailure> {
        let connection = open(&self.settings, Purpose::PhysicalReplication).await;
        let mut connection = connection.map_err(StartFailure::Connect)?;
        show_notices(&self.tool, &mut connection);
        let (name, persistence) = match &self.choice {
            SlotChoice::None | SlotChoice::Existing(_) => return Ok(connection),
            SlotChoice::Create(name) => (name.clone(), SlotPersistence::Permanent),
            SlotChoice::Temporary => {
                // servers tell it always
                let pid = connection.backend_pid().unwrap_or_default();
                let name = format!("{}_{pid}", self.tool.name).parse();
                (name.expect("the tool's name and a number name a slot"), SlotPersistence::Temporary)
            }
        };
        let reservation = WalReservation::Immediate;
        self.tell(SlotCreation::Asked);
        let created = connection.create_physical_slot(&name, persistence, reservation).await;
        match &created {
            Ok(_) => self.tell(SlotCreation::Made),
            Err(error) if error.sqlstate().is_some() => self.tell(SlotCreation::NotMade),
            // the server may have made it all the same: it has not refused
            Err(_) => {}
        }
        created.map_err(|source| {
            let command =
                command::create_physical_slot(connection.version(), &name, persistence, reservation);
            // as the original spells it, blanks and all
            let command = command.replace(" (RESERVE", " ( RESERVE").replace("L RESERVE", "L  RESERVE");
            StartFailure::Slot { command, source }
        })?;
        self.created = Some(name);
        Ok(connection)
    }

    fn tell(&self, how_far: SlotCreation) {
        if let Some(creation) = &self.creation {
            creation.send_replace(how_far);
        }
    }
}
