//! From an archive to a data directory: chosen, fetched, checked, combined, configured, moved into place, started.
//!
//! The directory appears when it is whole, as `standby create` makes it appear: in a
//! [`Workspace`], with a journal of everything outside of it.

mod configuration;
mod error;
mod files;
mod search;
mod start;
mod target;
mod wal_directory;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::{RestoreError, TargetError};
use files::{Placement, Workers};
pub use start::Started;
use target::Candidates;
pub use target::{RecoveryTarget, Selection, TimelineTarget};

use super::listing::BackupListing;
use super::name::BackupName;
use super::reach::WalMap;
use super::record::StreamContent;
use crate::archive::{ArchiveStore, AtGap, Catalog, gap, lease};
use crate::backup::standby_files::Setting;
use crate::client::Tablespace;
use crate::client::conninfo::Settings;
use crate::observe::progress::CopyProgress;
use crate::pg::SlotName;
use crate::standby::create::{StartRequest, TablespaceMapping};
use crate::standby::places::{PlaceRequest, Places};
use crate::standby::programs::Programs;
use crate::standby::workspace::Workspace;

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The archive.
    pub store: ArchiveStore,
    /// Its address, for `restore_command`.
    pub archive_url: String,
    /// More words for `restore_command`.
    pub fetch_options: Vec<String>,
    /// This program, for `restore_command`.
    pub program: PathBuf,
    /// Where the data directory goes: does not exist, or is empty.
    pub directory: PathBuf,
    /// Which backup; the best one for the target if `None`.
    pub backup: Option<BackupName>,
    /// Up to where the log is replayed.
    pub target: RecoveryTarget,
    /// Along which timeline.
    pub timeline: TimelineTarget,
    /// What WAL is taken for that is missing before later WAL, where no target lies before it.
    pub at_gap: AtGap,
    /// What the server does when it is there.
    pub action: TargetAction,
    /// What becomes of it.
    pub role: Role,
    /// Where tablespaces go, by where they were on the server.
    pub tablespace_mappings: Vec<TablespaceMapping>,
    /// Where `pg_wal` goes, unless it is a directory like any other.
    pub wal_directory: Option<PathBuf>,
    /// More settings for `postgresql.auto.conf`.
    pub settings: Vec<Setting>,
    /// Whether, and how, to start it.
    pub start: Option<StartRequest>,
}

/// What becomes of a restored cluster.
#[derive(Debug, Clone)]
pub enum Role {
    /// It recovers, and is a primary then.
    Primary,
    /// It goes on recovering, from the archive and from a primary.
    Standby(Box<StandbyRole>),
}

/// How a standby follows.
#[derive(Debug, Clone)]
pub struct StandbyRole {
    /// The primary.
    pub settings: Settings,
    /// The slot there.
    pub slot: Option<SlotName>,
    /// Its name there.
    pub application_name: Option<String>,
}

/// What a server does at its target (`recovery_target_action`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetAction {
    /// It waits to be looked at.
    #[default]
    Pause,
    /// It becomes a primary.
    Promote,
    /// It shuts down.
    Shutdown,
}

impl TargetAction {
    /// As it stands in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

/// A cluster that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its data directory.
    pub directory: PathBuf,
    /// What it was made of, and up to where the archive leads.
    pub selection: Selection,
    /// How long it took, in seconds, the start left out.
    pub seconds: f64,
    /// How its server does; `None` if it was not started.
    pub started: Option<Started>,
}

/// Looks for the backup that leads to what is wanted, and makes nothing.
pub async fn select(request: &RestoreRequest) -> Result<Selection, TargetError> {
    let store = &request.store;
    let catalog = Catalog::read(store).await?;
    let listing = BackupListing::read(store).await?;
    let map = WalMap::read(store, &catalog).await?;
    let size = catalog.identity.segment_size;
    let candidates = Candidates::find(&listing, &map, request.backup.as_ref(), request.timeline)?;
    let candidate = match &request.target {
        RecoveryTarget::Latest => {
            let candidate = candidates.list[0];
            // a standby goes on with what its primary has
            if matches!(request.role, Role::Primary) && request.at_gap == AtGap::Fail {
                let end = candidate.reached_lsn;
                let timeline = candidates.history().timeline_at(end);
                gap::refuse(store, timeline, end, size).await.map_err(TargetError::of_gap)?;
            }
            if matches!(request.role, Role::Primary) {
                tell_of_more(store).await;
            }
            candidate
        }
        RecoveryTarget::Lsn(target) => candidates.for_lsn(*target)?,
        RecoveryTarget::Name(name) => search::restore_point(store, size, &candidates, name).await?,
        RecoveryTarget::Time(target) => {
            let candidate = candidates.for_time(*target)?;
            let passed = search::is_passed(store, size, candidates.history(), candidate, *target).await?;
            passed.map_err(|last_commit| TargetError::TimeAfterEnd {
                target: *target,
                reached_lsn: candidate.reached_lsn,
                last_commit,
            })?;
            candidate
        }
    };
    candidates.select(candidate)
}

/// Says where the last receiver may have had WAL that is not in the archive. Not to know is no obstacle.
async fn tell_of_more(store: &ArchiveStore) {
    match lease::last_holder(store).await {
        Ok(Some(holder)) if !holder.archived_all => tracing::warn!(
            "a receiver has not said that it has archived all: {holder}; what only its directory has is not restored"
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "nothing is known of the last receiver"),
    }
}

/// Restores. When `interrupted` completes, its result names the reason, and the run is taken back as after an error.
pub async fn restore(
    request: RestoreRequest,
    progress: Arc<CopyProgress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Restored, RestoreError> {
    let began = Instant::now();
    tokio::pin!(interrupted);
    progress.set_phase("looking at the archive");
    let selection = tokio::select! {
        biased;
        signal = &mut interrupted => return Err(RestoreError::Interrupted(signal)),
        selected = select(&request) => selected?,
    };
    let programs = match &request.start {
        Some(start) => {
            let major = selection.record().server_version.major();
            Some(Programs::find(major, start.programs.as_deref())?)
        }
        None => None,
    };
    let (mut workspace, leftover) = Workspace::claim(&request.directory)?;
    if let Some(leftover) = leftover {
        if let Some(slot) = &leftover.journal.slot {
            let (directory, slot) = (workspace.target().to_owned(), slot.clone());
            let _ = workspace.abandon_files();
            return Err(RestoreError::LeftoverSlot { directory, slot });
        }
        tracing::warn!("an earlier run was interrupted; removing what it left behind");
        workspace.discard_leftover(&leftover)?;
    }
    let workers = Workers::new();
    let outcome = tokio::select! {
        biased;
        signal = &mut interrupted => Err(RestoreError::Interrupted(signal)),
        made = make(&request, &selection, &mut workspace, &workers, &progress) => made,
    };
    if let Err(error) = outcome {
        progress.set_phase("taking back what was made");
        workers.ended().await;
        return Err(match workspace.abandon() {
            Ok(()) => error,
            Err(cause) => RestoreError::FilesLeft { cause, source: Box::new(error) },
        });
    }
    progress.set_phase("moving the data directory to its place");
    if let Err(source) = workspace.commit(selection.record().modes.default_directory_mode()) {
        if workspace.is_committed() {
            let directory = workspace.target().to_owned();
            return Err(RestoreError::Committed { directory, source });
        }
        return Err(match workspace.abandon() {
            Ok(()) => source.into(),
            Err(cause) => RestoreError::FilesLeft { cause, source: Box::new(source.into()) },
        });
    }
    let directory = workspace.target().to_owned();
    let seconds = began.elapsed().as_secs_f64();
    let mut restored = Restored { directory: directory.clone(), selection, seconds, started: None };
    if let (Some(start), Some(programs)) = (&request.start, programs) {
        progress.set_phase("starting the server");
        // the data directory is whole: an interruption ends the wait, and takes nothing back
        let started = tokio::select! {
            signal = &mut interrupted => return Err(RestoreError::InterruptedAtStart { signal, directory }),
            started = start::start(&request, start, programs, &directory, workspace.owner(), &progress) => started?,
        };
        if started == Started::Primary
            && let Err(error) = configuration::forget_target(&directory, workspace.owner())
        {
            tracing::warn!(
                "a standby made from here would be pinned to the timeline of this recovery: {error}"
            );
        }
        restored.started = Some(started);
    }
    Ok(restored)
}

/// All of it, up to a data directory that only has to be moved.
async fn make(
    request: &RestoreRequest,
    selection: &Selection,
    workspace: &mut Workspace,
    workers: &Workers,
    progress: &Arc<CopyProgress>,
) -> Result<(), RestoreError> {
    configuration::check(request, workspace.target())?;
    let identifier = selection.record().system_identifier;
    workspace.record(|journal| journal.system_identifier = identifier.to_string())?;
    let places = decide_places(request, selection, workspace)?;
    places.check_space()?;
    places.claim(workspace)?;
    let placement =
        Placement { tablespaces: places.tablespaces, wal_directory: request.wal_directory.clone() };
    let total = selection.chain.iter().fold(0u64, |sum, record| sum.saturating_add(record.byte_count));
    progress.set_total(total);
    match &selection.chain[..] {
        [record] => {
            files::restore_one(&request.store, record, workspace, placement, workers, progress).await?;
        }
        chain => {
            files::restore_chain(&request.store, chain, workspace, placement, workers, progress).await?;
        }
    }
    progress.set_phase("writing the configuration");
    let data = workspace.held_data();
    configuration::write(request, selection, &data, workspace.target(), workspace.owner())
}

/// Where everything goes. A chain is there twice for a while, at most.
fn decide_places(
    request: &RestoreRequest,
    selection: &Selection,
    workspace: &Workspace,
) -> Result<Places, RestoreError> {
    let record = selection.record();
    let full = &selection.chain[0];
    let mut tablespaces: Vec<Tablespace> = record
        .tablespaces()
        .map(|(oid, location, len)| {
            let before = full.tablespaces().find(|(other, _, _)| *other == oid);
            let len = before.map_or(len, |(_, _, before)| before.max(len));
            Tablespace { oid: Some(oid), location: Some(location.clone()), size_kb: Some(len / 1024) }
        })
        .collect();
    let parts = if selection.chain.len() > 1 {
        selection.chain.iter().fold(0u64, |sum, record| sum.saturating_add(record.stream_len()))
    } else {
        0
    };
    let base = |record: &super::BackupRecord| {
        let stream = record.streams.iter().find(|stream| stream.content == StreamContent::DataDirectory);
        stream.map_or(0, |stream| stream.len)
    };
    let size = base(full).max(base(record)).saturating_add(parts);
    tablespaces.push(Tablespace { oid: None, location: None, size_kb: Some(size / 1024) });
    let asked = PlaceRequest {
        tablespace_mappings: &request.tablespace_mappings,
        wal_directory: request.wal_directory.as_ref(),
    };
    Ok(Places::decide(asked, &tablespaces, workspace.target(), workspace.path(), workspace.owner())?)
}

/// How long between two looks at a server that recovers.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
