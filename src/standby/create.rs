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
use super::error::CreateError;
use super::preflight::{ExistingSlot, Preflight, preflight};
use super::programs::Programs;
use super::start::start_server;
use super::streaming::{StreamingEvidence, wait_until_streaming};
use super::workspace::{Leftover, Workspace};
use crate::backup::standby_files::Setting;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Connection, Purpose, open};
use crate::observe::progress::CopyProgress;
use crate::pg::{Lsn, SlotName, SystemIdentifier, TimelineId};
use crate::wire::command::{
    CheckpointMode, DropWhenActive, ManifestChecksums, SlotPersistence, WalReservation,
};
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
    pub manifest_checksums: ManifestChecksums,
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

/// How long a failed run waits for its slot to become free before it drops it.
const DROP_SLOT_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a standby.
///
/// `replication` is a physical replication connection to the server that `request.settings` leads to, `sql` an ordinary
/// one where the role may have it. When `interrupted` completes, its result names the reason, and the run is taken back
/// as after an error.
pub async fn create(
    request: CreateRequest,
    replication: Connection,
    sql: Option<Connection>,
    progress: Arc<CopyProgress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Created, CreateError> {
    let started_at = Instant::now();
    let (workspace, leftover) = Workspace::claim(&request.directory)?;
    let mut run =
        Run { request, replication, sql, progress, workspace, slot: SlotOwnership::NotOurs, finishing: None };
    tokio::pin!(interrupted);
    let outcome = tokio::select! {
        biased;
        signal = &mut interrupted => Err(CreateError::Interrupted(signal)),
        outcome = run.make(leftover) => outcome,
    };
    let made = match outcome {
        Ok(made) => made,
        Err(error) => return Err(run.take_back(error).await),
    };
    let Run { request, mut replication, mut sql, progress, workspace, .. } = run;
    progress.set_phase("moving the data directory to its place");
    let (target, owner) = (workspace.target().to_owned(), workspace.owner());
    workspace.commit(made.directory_mode)?;
    let mut created = Created {
        directory: target,
        slot: request.slot.clone(),
        system_identifier: made.preflight.system.system_identifier,
        timeline: made.copied.end.timeline,
        start_lsn: made.copied.start.lsn,
        end_lsn: made.copied.end.lsn,
        file_count: made.copied.file_count,
        byte_count: made.copied.byte_count,
        seconds: started_at.elapsed().as_secs_f64(),
        streaming: None,
    };
    let (Some(start), Some(programs)) = (&request.start, made.programs) else { return Ok(created) };
    progress.set_phase("starting the standby");
    let started = async {
        let (directory, timeout) = (created.directory.clone(), start.timeout);
        let server = tokio::task::spawn_blocking(move || start_server(&programs, &directory, owner, timeout));
        server.await.map_err(CreateError::Panicked)??;
        progress.set_phase("waiting until the standby streams");
        let seen = wait_until_streaming(&mut replication, sql.as_mut(), &created.slot, start.timeout).await;
        seen.map_err(CreateError::AskWhetherStreaming)?.ok_or_else(|| CreateError::NotStreaming {
            directory: created.directory.clone(),
            seconds: start.timeout.as_secs(),
        })
    };
    // the standby is whole: an interruption ends the wait, and takes nothing back
    created.streaming = tokio::select! {
        signal = &mut interrupted => return Err(CreateError::InterruptedAtStart { signal, directory: created.directory }),
        seen = started => Some(seen?),
    };
    Ok(created)
}

/// Looks at everything that can be looked at without making anything.
pub async fn dry_run(
    request: &CreateRequest,
    replication: &mut Connection,
    sql: Option<&mut Connection>,
) -> Result<Preflight, CreateError> {
    if let Some(start) = &request.start {
        Programs::find(replication.version().major(), start.programs.as_deref())?;
    }
    Workspace::examine(&request.directory)?;
    let found = preflight(replication, sql, &request.slot, request.existing_slot).await?;
    configuration::primary_conninfo(request, &found, None)?;
    Ok(found)
}

/// One run, with what it has to take back.
struct Run {
    request: CreateRequest,
    replication: Connection,
    sql: Option<Connection>,
    progress: Arc<CopyProgress>,
    workspace: Workspace,
    slot: SlotOwnership,
    finishing: Option<JoinHandle<Result<crate::backup::FinishedBackup, crate::backup::BackupError>>>,
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
    async fn make(&mut self, leftover: Option<Leftover>) -> Result<Made, CreateError> {
        if let Some(leftover) = leftover {
            self.discard(&leftover).await?;
        }
        self.progress.set_phase("looking at the primary");
        let version = self.replication.version();
        if version.is_newer_than_tested() {
            tracing::warn!("server version {version} is newer than any that pgwake has been tested with");
        }
        let programs = match &self.request.start {
            Some(start) => Some(Programs::find(version.major(), start.programs.as_deref())?),
            None => None,
        };
        let (slot, existing_slot) = (self.request.slot.clone(), self.request.existing_slot);
        let preflight = preflight(&mut self.replication, self.sql.as_mut(), &slot, existing_slot).await?;
        configuration::primary_conninfo(&self.request, &preflight, None)?;
        let identifier = preflight.system.system_identifier;
        self.workspace.record(|journal| journal.system_identifier = identifier.to_string())?;
        if !preflight.slot_exists {
            self.create_slot().await?;
        }
        let copied = copy::copy(CopyRequest {
            request: &self.request,
            preflight: &preflight,
            replication: &mut self.replication,
            workspace: &mut self.workspace,
            progress: &self.progress,
            finishing: &mut self.finishing,
        })
        .await?;
        self.progress.set_phase("writing the standby's configuration");
        configuration::write(&self.request, &preflight, &self.workspace)?;
        let directory_mode = if preflight.group_access { 0o750 } else { 0o700 };
        Ok(Made { preflight, copied, programs, directory_mode })
    }

    /// Made before the copy, so that the primary keeps all WAL that the standby will need.
    async fn create_slot(&mut self) -> Result<(), CreateError> {
        let slot = self.request.slot.clone();
        self.workspace.record(|journal| journal.slot = Some(slot.to_string()))?;
        // an interruption may come before the answer: where the slot was seen to be absent, it can only be ours then
        if self.sql.is_some() || self.replication.version().has_read_replication_slot() {
            self.slot = SlotOwnership::Unknown;
        }
        let reserve = WalReservation::Immediate;
        let created = self.replication.create_physical_slot(&slot, SlotPersistence::Permanent, reserve).await;
        match created {
            Ok(()) => {
                self.slot = SlotOwnership::Ours;
                tracing::info!("created replication slot \"{slot}\"");
                Ok(())
            }
            // made by somebody else since the preflight, or not seen by it: to be used only where that is allowed
            Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => {
                self.slot = SlotOwnership::NotOurs;
                self.workspace.record(|journal| journal.slot = None)?;
                match self.request.existing_slot {
                    ExistingSlot::Use => Ok(()),
                    ExistingSlot::Refuse => Err(CreateError::SlotExists(slot)),
                }
            }
            Err(source) => {
                // a refusal made nothing; of a broken connection nobody knows
                if source.server_error().is_some() {
                    self.slot = SlotOwnership::NotOurs;
                }
                Err(CreateError::CreateSlot { slot, source })
            }
        }
    }

    /// Takes away what an interrupted run left: its slot on the primary, then its directories.
    async fn discard(&mut self, leftover: &Leftover) -> Result<(), CreateError> {
        let directory = self.workspace.target().display().to_string();
        tracing::warn!("an earlier run on \"{directory}\" was interrupted; removing what it left behind");
        if let Some(slot) = leftover.journal.slot_name() {
            let system = self.replication.identify_system().await;
            let system = system.map_err(|source| CreateError::Identify { source })?;
            let is_same = leftover.journal.system_identifier == system.system_identifier.to_string();
            if is_same {
                drop_slot_if_there(&mut self.replication, &slot, DropWhenActive::Fail)
                    .await
                    .map_err(|source| CreateError::DropSlot { slot: slot.clone(), source })?;
            } else {
                tracing::warn!(
                    "replication slot \"{slot}\" of the interrupted run is on another cluster ({}): drop it there",
                    leftover.journal.system_identifier
                );
            }
        }
        Ok(self.workspace.discard_leftover(leftover)?)
    }

    /// Takes everything back, and reports what could not be.
    async fn take_back(mut self, error: CreateError) -> CreateError {
        self.progress.set_phase("taking back what was made");
        if let Some(finishing) = self.finishing.take() {
            // a thread still writes below the workspace
            let _ = finishing.await;
        }
        if self.slot != SlotOwnership::NotOurs {
            let slot = self.request.slot.clone();
            match self.drop_own_slot(&slot).await {
                Ok(()) => tracing::info!("dropped replication slot \"{slot}\""),
                Err(cause) => {
                    // the journal stays, so that the next run drops it
                    let cause = Box::new(cause);
                    let directory = self.workspace.target().to_owned();
                    let _ = self.workspace.abandon_files();
                    return CreateError::SlotLeft { slot, directory, cause, source: Box::new(error) };
                }
            }
        }
        let directory = self.workspace.target().to_owned();
        match self.workspace.abandon() {
            Ok(()) => error,
            Err(cause) => CreateError::FilesLeft { directory, cause, source: Box::new(error) },
        }
    }

    /// On a new connection: the old one is in the middle of something. A slot that this run made must be there: a server
    /// that does not have it is another one.
    async fn drop_own_slot(&self, slot: &SlotName) -> Result<(), CreateError> {
        let dropped = async {
            let settings = self.request.settings.pinned_to(self.replication.host());
            let mut connection = open(&settings, Purpose::PhysicalReplication).await?;
            let dropped = match self.slot {
                SlotOwnership::Ours => connection.drop_slot(slot, DropWhenActive::Wait).await,
                _ => drop_slot_if_there(&mut connection, slot, DropWhenActive::Wait).await,
            };
            dropped.map_err(|source| CreateError::DropSlot { slot: slot.clone(), source })
        };
        let dropped = tokio::time::timeout(DROP_SLOT_TIMEOUT, dropped).await;
        dropped.unwrap_or_else(|_| Err(CreateError::DropSlotTimeout { slot: slot.clone() }))
    }
}

async fn drop_slot_if_there(
    connection: &mut Connection,
    slot: &SlotName,
    when_active: DropWhenActive,
) -> Result<(), ClientError> {
    match connection.drop_slot(slot, when_active).await {
        Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_OBJECT) => Ok(()),
        other => other,
    }
}
