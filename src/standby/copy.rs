//! The copy itself: the base backup on one connection, its WAL on another.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::create::CreateRequest;
use super::error::CreateError;
use super::places::{Places, shown};
use super::preflight::Preflight;
use super::workspace::Workspace;
use crate::backup::{
    ArchiveEnd, ArchiveName, ArchiveStream, BackupError, BackupTarget, BackupWriter, DirectoryModes,
    FinishedBackup, ManifestPolicy, ManifestRequest, MemberModes, SyncMethod, WalMembers, WalRange,
};
use crate::client::{BackupEnd, BackupStart, BackupStep, Connection, Tablespace};
use crate::observe::progress::CopyProgress;
use crate::pg::ControlFile;
use crate::pg::version::BaseBackupSyntax;
use crate::sink::RecordCheck;
use crate::stream::{
    BackgroundReceive, BackgroundRequest, ServerConnector, StreamOptions, WalAcknowledgement, WalDurability,
};
use crate::wire::command::{BaseBackup, ManifestOptions};

/// What the copy works with.
pub(super) struct CopyRequest<'a> {
    pub(super) request: &'a CreateRequest,
    pub(super) preflight: &'a Preflight,
    pub(super) replication: &'a mut Connection,
    pub(super) workspace: &'a mut Workspace,
    pub(super) progress: &'a Arc<CopyProgress>,
    /// Where the last, blocking step is left, so that a run that is given up can wait for it.
    pub(super) finishing: &'a mut Option<JoinHandle<Result<FinishedBackup, BackupError>>>,
}

/// A copy that is whole, checked and durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) start: BackupStart,
    pub(super) end: BackupEnd,
    pub(super) file_count: u64,
    pub(super) byte_count: u64,
}

/// Copies, checks, and makes durable.
pub(super) async fn copy(parts: CopyRequest<'_>) -> Result<Copied, CreateError> {
    let CopyRequest { request, preflight, replication, workspace, progress, finishing } = parts;
    progress.set_phase("waiting for a checkpoint on the primary");
    let command = base_backup_command(request);
    let version = preflight.version;
    // the WAL must come from the server that the backup comes from
    let connector = ServerConnector::new(request.settings.pinned_to(replication.host()));
    let mut stream = replication.base_backup(&command).await.map_err(CreateError::BeginBackup)?;
    let start = stream.start();
    tracing::info!("base backup starts at {} on timeline {}", start.lsn, start.timeline);
    let target = prepare_target(request, preflight, workspace, stream.tablespaces())?;
    let sizes = stream.tablespaces().iter().filter_map(|tablespace| tablespace.size_kb);
    progress.set_total(sizes.fold(0, u64::saturating_add).saturating_mul(1024));
    let mut archives = match version.base_backup_syntax() {
        BaseBackupSyntax::Options => ArchiveStream::tagged(),
        BaseBackupSyntax::Keywords => {
            ArchiveStream::untagged(archive_names(stream.tablespaces()), ManifestRequest::Requested)
        }
    };
    let (wal_directory, held_wal_directory) = match &request.wal_directory {
        Some(directory) => (directory.clone(), target.held.leading_to(directory).to_owned()),
        None => (workspace.data().join("pg_wal"), workspace.held_data().join("pg_wal")),
    };
    let mut writer = BackupWriter::create(&target)?;
    stream.place_content();
    let wal_request = BackgroundRequest {
        stream: StreamOptions {
            slot: Some(request.slot.clone()),
            // a newer major may write its WAL in another way
            record_check: if version.is_newer_than_tested() { RecordCheck::Off } else { RecordCheck::On },
            ..StreamOptions::default()
        },
        system_identifier: preflight.system.system_identifier,
        timeline: start.timeline,
        start_lsn: start.lsn,
        directory: wal_directory,
        held: held_wal_directory,
        file_mode: if preflight.group_access { 0o640 } else { 0o600 },
        owner: workspace.owner(),
        durability: WalDurability::Synced,
        acknowledgement: WalAcknowledgement::Nothing,
    };
    let mut wal = BackgroundReceive::start(connector, wal_request)?;
    progress.set_phase("copying");
    let end = loop {
        let step = tokio::select! {
            biased;
            error = wal.ended() => return Err(error.into()),
            step = stream.next() => step.map_err(CreateError::ReceiveBackup)?,
        };
        match step {
            BackupStep::CopyBegin => {
                if let Some(event) = archives.begin_copy()? {
                    writer.handle(event)?;
                }
            }
            BackupStep::CopyData(payload) => writer.handle(archives.decode(payload)?)?,
            BackupStep::CopyEnd | BackupStep::EndPosition(_) => {}
            BackupStep::Completed(end) => break end,
        }
        progress.set_done(writer.bytes_written());
        progress.set_wal_lsn(wal.progress().received_lsn);
    };
    archives.finish()?;
    tracing::info!("base backup ends at {} on timeline {}", end.lsn, end.timeline);
    progress.set_phase("making the copy durable");
    let finish = finishing.insert(tokio::task::spawn_blocking(move || writer.finish()));
    let finished = finish.await;
    *finishing = None;
    let finished = finished.map_err(CreateError::Panicked)??;
    for tablespace in &finished.unannounced_tablespaces {
        tracing::warn!(
            "tablespace {} was created on the primary meanwhile; the standby will create it in \"{}\" too",
            tablespace.oid,
            shown(&tablespace.location)
        );
    }
    check_identity(preflight, &finished, control_file(&workspace.held_data())?, start, end)?;
    progress.set_phase("receiving the rest of the WAL");
    wal.finish(end.lsn).await?;
    Ok(Copied { start, end, file_count: finished.file_count, byte_count: finished.byte_count })
}

fn base_backup_command(request: &CreateRequest) -> BaseBackup {
    BaseBackup {
        label: request.label.clone(),
        estimate_size: true,
        checkpoint: request.checkpoint,
        include_wal: false,
        // the WAL comes by its own stream
        wait_for_archive: false,
        max_rate_kb: request.max_rate_kb,
        tablespace_map: false,
        verify_checksums: true,
        manifest: Some(ManifestOptions::with_checksums(request.manifest_checksums)),
        incremental: false,
        target: None,
        compression: None,
    }
}

/// Servers up to 14 do not name their archives.
pub(crate) fn archive_names(tablespaces: &[Tablespace]) -> Vec<ArchiveName> {
    let name = |tablespace: &Tablespace| match (tablespace.oid, &tablespace.location) {
        (Some(oid), Some(location)) => ArchiveName::tablespace(oid, location.clone()),
        _ => ArchiveName::data_directory(),
    };
    tablespaces.iter().map(name).collect()
}

fn prepare_target(
    request: &CreateRequest,
    preflight: &Preflight,
    workspace: &mut Workspace,
    tablespaces: &[Tablespace],
) -> Result<BackupTarget, CreateError> {
    let (target, path) = (workspace.target().to_owned(), workspace.path().to_owned());
    let places = Places::decide(request, tablespaces, &target, &path, workspace.owner())?;
    places.check_space()?;
    places.claim(workspace)?;
    Ok(BackupTarget {
        directory: workspace.data(),
        tablespaces: places.tablespaces,
        wal_directory: request.wal_directory.clone(),
        modes: if preflight.group_access { DirectoryModes::GroupRead } else { DirectoryModes::OwnerOnly },
        owner: workspace.owner(),
        sync: SyncMethod::Fsync,
        manifest: ManifestPolicy::Required(request.manifest_checksums),
        archive_end: match preflight.version.base_backup_syntax() {
            BaseBackupSyntax::Options => ArchiveEnd::Terminated,
            BaseBackupSyntax::Keywords => ArchiveEnd::Unterminated,
        },
        wal_members: WalMembers::Refused,
        member_modes: MemberModes::Restricted,
        // what this run writes is not what the server sent
        standby: None,
        held: workspace.held_places(),
    })
}

fn control_file(data: &Path) -> Result<ControlFile, CreateError> {
    let path = data.join("global/pg_control");
    let content = std::fs::read(&path).map_err(|source| CreateError::ReadControlFile { path, source })?;
    Ok(ControlFile::parse(&content)?)
}

/// Everything that names the cluster or the backup's WAL must name the same.
fn check_identity(
    preflight: &Preflight,
    finished: &FinishedBackup,
    control_file: ControlFile,
    start: BackupStart,
    end: BackupEnd,
) -> Result<(), CreateError> {
    let expected = preflight.system.system_identifier;
    let found = [
        ("the backup manifest", finished.manifest.as_ref().and_then(|manifest| manifest.system_identifier)),
        ("the control file", Some(control_file.system_identifier)),
    ];
    for (what, found) in found {
        if let Some(found) = found.filter(|found| *found != expected) {
            return Err(CreateError::OtherSystem { what, found, expected });
        }
    }
    let Some(manifest) = &finished.manifest else { return Ok(()) };
    let leads = WalRange::lead(&manifest.wal_ranges, (start.timeline, start.lsn), (end.timeline, end.lsn));
    if end.lsn <= start.lsn || !leads {
        return Err(CreateError::ManifestRange { start_lsn: start.lsn, end_lsn: end.lsn });
    }
    Ok(())
}
