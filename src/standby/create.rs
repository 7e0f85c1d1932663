//! From nothing to a standby: every step, in the order in which it can be taken back.
//!
//! ```text
//! claim DIR ─▶ preflight ─▶ slot ─▶ BASE_BACKUP ┬▶ files, checked ─┬▶ configuration ─▶ commit ─▶ start
//!                                               └▶ WAL, 2nd conn. ─┘
//! ```
//!
//! Answers to `BaseBackup` in PostgreSQL's `pg_basebackup.c`. Departures: the slot comes first, so that no WAL can
//! vanish; nothing is seen under the target's name before it is whole; the slot of a failed run is dropped; the password
//! goes to a file of its own. Everything outside of the workspace is in its journal before it is made.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use super::configuration;
use super::copy::{self, Copied, CopyRequest};
use super::directories::resolve;
use super::error::CreateError;
use super::places::Places;
use super::preflight::{ExistingSlot, Preflight, preflight};
use super::programs::Programs;
use super::slot::{self, Presence};
use super::start::start_server;
use super::streaming::{StreamingEvidence, wait_until_streaming};
use super::workspace::{Leftover, Workspace};
use crate::backup::standby_files::Setting;
use crate::backup::{BackupError, FinishedBackup};
use crate::client::conninfo::Settings;
use crate::client::{Connection, Purpose, Sql, open, open_sql};
use crate::observe::progress::CopyProgress;
use crate::pg::{ChecksumAlgorithm, Lsn, SlotName, SystemIdentifier, TimelineId};
use crate::wire::command::{CheckpointMode, SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// What standby to make, and how.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The primary, and how to connect to it.
    pub settings: Settings,
    /// Where the data directory goes: does not exist, or is empty.
    pub directory: PathBuf,
    /// The slot that the standby will stream from.
    pub slot: SlotName,
    /// Whether a slot of that name may be there already.
    pub existing_slot: ExistingSlot,
    /// Where tablespaces go, by where they are on the primary.
    pub tablespace_mappings: Vec<TablespaceMapping>,
    /// Where `pg_wal` shall point to, if it is not to be in the data directory.
    pub wal_directory: Option<PathBuf>,
    /// How the checkpoint at the start is spread.
    pub checkpoint: CheckpointMode,
    /// An upper bound for the rate, in kB/s.
    pub max_rate_kb: Option<u32>,
    /// The backup's label.
    pub label: String,
    /// The name by which the standby is known on the primary.
    pub application_name: String,
    /// The manifest's checksums.
    pub manifest_checksums: ChecksumAlgorithm,
    /// Settings for the standby's `postgresql.auto.conf`.
    pub standby_settings: Vec<Setting>,
    /// Whether, and how, to start it.
    pub start: Option<StartRequest>,
}

/// A tablespace's directory on the primary, and its directory here; both absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// On the primary.
    pub from: PathBuf,
    /// Here.
    pub to: PathBuf,
}

/// How the standby is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// Where the server's programs are; found by themselves if `None`.
    pub programs: Option<PathBuf>,
    /// How long it may take until it streams.
    pub timeout: Duration,
}

/// A standby that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Created {
    /// Its data directory.
    pub directory: PathBuf,
    /// Its slot on the primary.
    pub slot: SlotName,
    /// The cluster it is a copy of.
    pub system_identifier: SystemIdentifier,
    /// The timeline at the backup's end.
    pub timeline: TimelineId,
    /// Where the backup began.
    pub start_lsn: Lsn,
    /// Where it ended: from here on the standby is consistent.
    pub end_lsn: Lsn,
    /// Files received.
    pub file_count: u64,
    /// Their bytes.
    pub byte_count: u64,
    /// How long it took to make, in seconds.
    pub seconds: f64,
    /// What the primary sees of it; `None` if it was not started.
    pub streaming: Option<StreamingEvidence>,
}

/// How long one question about the standby may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a standby.
///
/// `replication` is a physical replication connection to the server that `request.settings` leads to, `sql` an ordinary
/// one where the role may have it. When `interrupted` completes, its result names the reason, and the run is taken back
/// as after an error.
pub async fn create(
    request: CreateRequest,
    replication: Connection,
    sql: Option<Sql>,
    progress: Arc<CopyProgress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Created, CreateError> {
    let started_at = Instant::now();
    let (workspace, leftover) = Workspace::claim(&request.directory)?;
    // all connections of this run lead to the same server; the standby's own may lead to any of them
    let settings = request.settings.pinned_to(replication.host());
    let mut run = Run {
        request,
        settings,
        progress,
        workspace,
        leftover,
        slot: SlotOwnership::NotOurs,
        finishing: None,
        may_use_sql: sql.is_some(),
    };
    tokio::pin!(interrupted);
    let outcome = tokio::select! {
        biased;
        signal = &mut interrupted => Err(CreateError::Interrupted(signal)),
        outcome = run.make(replication, sql) => outcome,
    };
    let made = match outcome {
        Ok(made) => made,
        Err(error) => return Err(run.take_back(error).await),
    };
    run.progress.set_phase("moving the data directory to its place");
    if let Err(source) = run.workspace.commit(made.directory_mode) {
        if run.workspace.is_committed() {
            let directory = run.workspace.target().to_owned();
            return Err(CreateError::Committed { directory, source });
        }
        return Err(run.take_back(source.into()).await);
    }
    let created = Created {
        directory: run.workspace.target().to_owned(),
        slot: run.request.slot.clone(),
        system_identifier: made.preflight.system.system_identifier,
        timeline: made.copied.end.timeline,
        start_lsn: made.copied.start.lsn,
        end_lsn: made.copied.end.lsn,
        file_count: made.copied.file_count,
        byte_count: made.copied.byte_count,
        seconds: started_at.elapsed().as_secs_f64(),
        streaming: None,
    };
    let (Some(start), Some(programs)) = (run.request.start.clone(), made.programs) else {
        return Ok(created);
    };
    // the standby is whole: an interruption ends the wait, and takes nothing back
    tokio::select! {
        signal = &mut interrupted => {
            Err(CreateError::InterruptedAtStart { signal, directory: created.directory })
        }
        seen = run.start(&start, programs) => Ok(Created { streaming: Some(seen?), ..created }),
    }
}

/// Looks at everything that can be looked at without making anything.
pub async fn dry_run(
    request: &CreateRequest,
    replication: &mut Connection,
    sql: Option<&Sql>,
) -> Result<Preflight, CreateError> {
    if let Some(start) = &request.start {
        Programs::find(replication.version().major(), start.programs.as_deref())?;
    }
    Workspace::examine(&request.directory)?;
    let found = preflight(replication, sql, &request.slot, request.existing_slot).await?;
    if let Some(tablespaces) = &found.tablespaces {
        let (target, owner) = (resolve(&request.directory)?, Workspace::owner_of(&request.directory)?);
        let places = Places::decide(request, tablespaces, &target, &target, owner)?;
        places.examine()?;
        places.check_space()?;
    }
    configuration::primary_conninfo(request, &found, None)?;
    Ok(found)
}

/// One run, with what it has to take back.
struct Run {
    request: CreateRequest,
    /// The one server that this run works with.
    settings: Settings,
    progress: Arc<CopyProgress>,
    workspace: Workspace,
    /// What an interrupted run left, until it has been taken away.
    leftover: Option<Leftover>,
    slot: SlotOwnership,
    finishing: Option<JoinHandle<Result<FinishedBackup, BackupError>>>,
    may_use_sql: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotOwnership {
    /// It was there before, or is not there yet.
    NotOurs,
    /// This run has asked for it, and has no answer.
    Unknown,
    /// This run has made it.
    Ours,
}

/// All that the last steps need to know.
struct Made {
    preflight: Preflight,
    copied: Copied,
    programs: Option<Programs>,
    directory_mode: u32,
}

impl Run {
    async fn make(&mut self, mut replication: Connection, sql: Option<Sql>) -> Result<Made, CreateError> {
        self.discard_leftover(&mut replication, sql.as_ref()).await?;
        self.progress.set_phase("looking at the primary");
        let version = replication.version();
        if version.is_newer_than_tested() {
            tracing::warn!("server version {version} is newer than any that pgwake has been tested with");
        }
        let programs = match &self.request.start {
            Some(start) => Some(Programs::find(version.major(), start.programs.as_deref())?),
            None => None,
        };
        configuration::check(&self.request, self.workspace.target())?;
        let (slot, existing_slot) = (self.request.slot.clone(), self.request.existing_slot);
        let preflight = preflight(&mut replication, sql.as_ref(), &slot, existing_slot).await?;
        let files = configuration::primary_conninfo(&self.request, &preflight, None)?.files();
        if let Some(owner) = self.workspace.owner()
            && let Some(file) = configuration::unreadable_file(&files, owner)
        {
            return Err(CreateError::UnreadableFile { file, uid: owner.uid });
        }
        if let Some(tablespaces) = &preflight.tablespaces {
            // seen before the primary makes a slot and a checkpoint for nothing
            let (target, path) = (self.workspace.target().to_owned(), self.workspace.path().to_owned());
            let places = Places::decide(&self.request, tablespaces, &target, &path, self.workspace.owner())?;
            places.examine()?;
            places.check_space()?;
        }
        let identifier = preflight.system.system_identifier;
        self.workspace.record(|journal| journal.system_identifier = identifier.to_string())?;
        if !preflight.slot_exists {
            self.create_slot(&mut replication, sql.as_ref()).await?;
        }
        if let Some(sql) = sql {
            // it would be idle for as long as the copy takes
            sql.close().await;
        }
        let copied = copy::copy(CopyRequest {
            request: &self.request,
            preflight: &preflight,
            replication: &mut replication,
            workspace: &mut self.workspace,
            progress: &self.progress,
            finishing: &mut self.finishing,
        })
        .await?;
        replication.close().await;
        self.progress.set_phase("writing the standby's configuration");
        configuration::write(&self.request, &preflight, &self.workspace)?;
        let directory_mode = if preflight.group_access { 0o750 } else { 0o700 };
        Ok(Made { preflight, copied, programs, directory_mode })
    }

    /// Takes away what an interrupted run left: its slot on the primary, then its directories.
    async fn discard_leftover(
        &mut self,
        replication: &mut Connection,
        sql: Option<&Sql>,
    ) -> Result<(), CreateError> {
        if let Some(leftover) = &self.leftover {
            let directory = self.workspace.target().display();
            tracing::warn!("an earlier run on \"{directory}\" was interrupted; removing what it left behind");
            slot::drop_leftover(replication, sql, &leftover.journal).await?;
            self.workspace.discard_leftover(leftover)?;
        }
        self.leftover = None;
        Ok(())
    }

    /// Made before the copy, so that the primary keeps all WAL that the standby will need.
    async fn create_slot(
        &mut self,
        replication: &mut Connection,
        sql: Option<&Sql>,
    ) -> Result<(), CreateError> {
        let slot = self.request.slot.clone();
        let system =
            replication.identify_system().await.map_err(|source| CreateError::Identify { source })?;
        self.workspace.record(|journal| {
            journal.slot = Some(slot.to_string());
            journal.slot_before_lsn = Some(system.flush_lsn.to_string());
        })?;
        // an interruption may come before the answer: where the slot was seen to be absent, it can only be ours then
        if sql.is_some() || replication.version().has_read_replication_slot() {
            self.slot = SlotOwnership::Unknown;
        }
        let reserve = WalReservation::Immediate;
        match replication.create_physical_slot(&slot, SlotPersistence::Permanent, reserve).await {
            Ok(()) => self.slot = SlotOwnership::Ours,
            // made by somebody else since the preflight, or not seen by it: to be used only where that is allowed
            Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => {
                self.slot = SlotOwnership::NotOurs;
                self.workspace.record(|journal| journal.slot = None)?;
                return match self.request.existing_slot {
                    ExistingSlot::Use => Ok(()),
                    ExistingSlot::Refuse => Err(CreateError::SlotExists(slot)),
                };
            }
            Err(source) => {
                // a refusal made nothing; of a broken connection nobody knows
                if source.server_error().is_some() {
                    self.slot = SlotOwnership::NotOurs;
                }
                return Err(CreateError::CreateSlot { slot, source });
            }
        }
        tracing::info!("created replication slot \"{slot}\"");
        let restart_lsn = slot::restart_lsn(replication, sql, &slot).await;
        let restart_lsn = restart_lsn.map_err(|source| CreateError::Identify { source })?;
        Ok(self
            .workspace
            .record(|journal| journal.slot_restart_lsn = restart_lsn.map(|lsn| lsn.to_string()))?)
    }

    /// Takes everything back, and reports what could not be.
    async fn take_back(mut self, error: CreateError) -> CreateError {
        self.progress.set_phase("taking back what was made");
        if let Some(finishing) = self.finishing.take() {
            // a thread still writes below the workspace
            let _ = finishing.await;
        }
        let directory = self.workspace.target().to_owned();
        if self.leftover.is_some() {
            // what the interrupted run left is still there: its journal is for the next run
            let _ = self.workspace.abandon_files();
            return error;
        }
        if self.slot != SlotOwnership::NotOurs {
            let slot = self.request.slot.clone();
            let presence =
                if self.slot == SlotOwnership::Ours { Presence::Certain } else { Presence::Possible };
            match slot::drop_own(&self.settings, &slot, presence).await {
                Ok(()) => tracing::info!("dropped replication slot \"{slot}\""),
                Err(cause) => {
                    // the journal stays, so that the next run drops it
                    let _ = self.workspace.abandon_files();
                    return CreateError::SlotLeft {
                        slot,
                        directory,
                        cause: Box::new(cause),
                        source: Box::new(error),
                    };
                }
            }
        }
        match self.workspace.abandon() {
            Ok(()) => error,
            Err(cause) => CreateError::FilesLeft { directory, cause, source: Box::new(error) },
        }
    }

    /// Starts the standby, and waits until the primary sees it. All of it within one time limit.
    async fn start(
        &self,
        start: &StartRequest,
        programs: Programs,
    ) -> Result<StreamingEvidence, CreateError> {
        let deadline = Instant::now() + start.timeout;
        self.progress.set_phase("starting the standby");
        let (directory, owner) = (self.workspace.target().to_owned(), self.workspace.owner());
        let (timeout, data_directory) = (start.timeout, directory.clone());
        let server =
            tokio::task::spawn_blocking(move || start_server(&programs, &data_directory, owner, timeout));
        server.await.map_err(CreateError::Panicked)??;
        self.progress.set_phase("waiting until the standby streams");
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen =
                tokio::time::timeout(left.min(QUESTION_TIMEOUT), self.ask_whether_streaming(left)).await;
            match seen {
                Ok(Ok(Some(evidence))) => return Ok(evidence),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(error),
                _ if Instant::now() >= deadline => {
                    return Err(CreateError::NotStreaming { directory, seconds: start.timeout.as_secs() });
                }
                // a connection was lost, or an answer: asked again on new ones
                Ok(Err(error)) => {
                    tracing::debug!("could not ask whether the standby streams: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Ok(Ok(None)) | Err(_) => {}
            }
        }
    }

    /// On connections of its own: those from before the copy have been idle for too long.
    async fn ask_whether_streaming(
        &self,
        timeout: Duration,
    ) -> Result<Option<StreamingEvidence>, CreateError> {
        let settings = &self.settings;
        let mut replication = open(settings, Purpose::PhysicalReplication).await?;
        let sql = if self.may_use_sql { open_sql(settings).await.ok() } else { None };
        let slot = &self.request.slot;
        let seen =
            wait_until_streaming(&mut replication, sql.as_ref(), slot, timeout.min(QUESTION_TIMEOUT)).await;
        seen.map_err(CreateError::AskWhetherStreaming)
    }
}
