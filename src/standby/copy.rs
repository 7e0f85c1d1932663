//! The copy itself: the base backup on one connection, its WAL on another.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::create::CreateRequest;
use super::error::CreateError;
use super::preflight::Preflight;
use super::space::{SpaceNeed, check_space};
use super::workspace::Workspace;
use crate::backup::{
    ArchiveEnd, ArchiveName, ArchiveStream, BackupError, BackupTarget, BackupWriter, ChecksumAlgorithm,
    DirectoryModes, FinishedBackup, ManifestPolicy, ManifestRequest, SyncMethod, TablespacePlace,
    TablespaceTarget, WalMembers,
};
use crate::client::{BackupEnd, BackupStart, BackupStep, Connection, Tablespace};
use crate::observe::progress::CopyProgress;
use crate::pg::ControlFile;
use crate::pg::version::BaseBackupSyntax;
use crate::stream::{BackgroundReceive, BackgroundRequest, ServerConnector, StreamOptions};
use crate::wire::command::{BaseBackup, ManifestChecksums};

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
    progress.set_total(
        stream.tablespaces().iter().filter_map(|tablespace| tablespace.size_kb).sum::<u64>() * 1024,
    );
    let mut archives = match version.base_backup_syntax() {
        BaseBackupSyntax::Options => ArchiveStream::tagged(),
        BaseBackupSyntax::Keywords => {
            ArchiveStream::untagged(archive_names(stream.tablespaces()), ManifestRequest::Requested)
        }
    };
    let wal_directory = request.wal_directory.clone().unwrap_or_else(|| workspace.data().join("pg_wal"));
    let mut writer = BackupWriter::create(&target)?;
    let wal_request = BackgroundRequest {
        stream: StreamOptions { slot: Some(request.slot.clone()), ..StreamOptions::default() },
        system_identifier: preflight.system.system_identifier,
        timeline: start.timeline,
        start_lsn: start.lsn,
        directory: wal_directory,
        file_mode: if preflight.group_access { 0o640 } else { 0o600 },
    };
    let mut wal = BackgroundReceive::start(connector, wal_request)?;
    progress.set_phase("copying");
    let end = loop {
        let step = tokio::select! {
            biased;
            step = stream.next() => step.map_err(CreateError::ReceiveBackup)?,
            error = wal.ended() => return Err(error.into()),
        };
        match step {
            BackupStep::CopyBegin => {
                if let Some(event) = archives.begin_copy()? {
                    writer.handle(event)?;
                }
            }
            BackupStep::CopyData(payload) => writer.handle(archives.decode(payload)?)?,
            BackupStep::CopyEnd => {}
            BackupStep::End(end) => break end,
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
    progress.set_phase("receiving the rest of the WAL");
    wal.finish(end.lsn).await?;
    for tablespace in &finished.unannounced_tablespaces {
        tracing::warn!(
            "tablespace {} was created on the primary meanwhile; the standby will create it in \"{}\" too",
            tablespace.oid,
            tablespace.location.escape_ascii()
        );
    }
    check_identity(preflight, &finished, control_file(&workspace.data())?, start, end)?;
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
        manifest: Some(request.manifest_checksums),
        incremental: false,
    }
}

/// Servers up to 14 do not name their archives.
fn archive_names(tablespaces: &[Tablespace]) -> Vec<ArchiveName> {
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
    let places = place_tablespaces(request, tablespaces)?;
    if let Some(directory) = &request.wal_directory {
        workspace.claim_directory(directory)?;
    }
    let mut needs = Vec::new();
    for (tablespace, place) in tablespaces.iter().zip(&places) {
        let bytes = tablespace.size_kb.unwrap_or(0) * 1024;
        let directory = match place {
            Some(TablespaceTarget { place: TablespacePlace::Directory(directory), location, .. }) => {
                let location = String::from_utf8_lossy(location).into_owned();
                let claimed = workspace.claim_directory(directory);
                claimed.map_err(|source| CreateError::Tablespace { location, source })?;
                directory.clone()
            }
            _ => workspace.data(),
        };
        needs.push(SpaceNeed { directory, bytes });
    }
    check_space(&needs)?;
    Ok(BackupTarget {
        directory: workspace.data(),
        tablespaces: places.into_iter().flatten().collect(),
        wal_directory: request.wal_directory.clone(),
        modes: if preflight.group_access { DirectoryModes::GroupRead } else { DirectoryModes::OwnerOnly },
        owner: workspace.owner(),
        sync: SyncMethod::Fsync,
        manifest: ManifestPolicy::Required(checksum_algorithm(request.manifest_checksums)),
        archive_end: match preflight.version.base_backup_syntax() {
            BaseBackupSyntax::Options => ArchiveEnd::Terminated,
            BaseBackupSyntax::Keywords => ArchiveEnd::Unterminated,
        },
        wal_members: WalMembers::Refused,
    })
}

/// Where each tablespace goes, in the order of `tablespaces`; `None` for the data directory.
fn place_tablespaces(
    request: &CreateRequest,
    tablespaces: &[Tablespace],
) -> Result<Vec<Option<TablespaceTarget>>, CreateError> {
    for mapping in &request.tablespace_mappings {
        let names = |tablespace: &&Tablespace| {
            tablespace.location.as_deref().is_some_and(|at| is_path(at, &mapping.from))
        };
        if tablespaces.iter().find(names).is_none() {
            return Err(CreateError::UnusedMapping(mapping.from.clone()));
        }
    }
    let place = |tablespace: &Tablespace| -> Result<Option<TablespaceTarget>, CreateError> {
        let (Some(oid), Some(location)) = (tablespace.oid, &tablespace.location) else { return Ok(None) };
        let mapping = request.tablespace_mappings.iter().find(|mapping| is_path(location, &mapping.from));
        let place = match mapping {
            _ if !location.starts_with(b"/") => TablespacePlace::InPlace,
            Some(mapping) => TablespacePlace::Directory(mapping.to.clone()),
            None => TablespacePlace::Directory(PathBuf::from(OsStr::from_bytes(location))),
        };
        Ok(Some(TablespaceTarget { oid, location: location.to_vec(), place }))
    };
    let places = tablespaces.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    refuse_shared_places(request, &places)?;
    Ok(places)
}

/// No directory may be given to two, or lie within another or within the data directory.
fn refuse_shared_places(
    request: &CreateRequest,
    places: &[Option<TablespaceTarget>],
) -> Result<(), CreateError> {
    let data = std::path::absolute(&request.directory).unwrap_or_else(|_| request.directory.clone());
    let mut taken: Vec<&Path> = vec![&data];
    taken.extend(request.wal_directory.as_deref());
    for target in places.iter().flatten() {
        let TablespacePlace::Directory(directory) = &target.place else { continue };
        if taken.iter().any(|other| directory.starts_with(other) || other.starts_with(directory)) {
            let location = String::from_utf8_lossy(&target.location).into_owned();
            return Err(CreateError::TablespacePlace { location });
        }
        taken.push(directory);
    }
    Ok(())
}

fn is_path(location: &[u8], path: &Path) -> bool {
    Path::new(OsStr::from_bytes(location)) == path
}

fn checksum_algorithm(checksums: ManifestChecksums) -> ChecksumAlgorithm {
    match checksums {
        ManifestChecksums::None => ChecksumAlgorithm::None,
        ManifestChecksums::Crc32c => ChecksumAlgorithm::Crc32c,
        ManifestChecksums::Sha224 => ChecksumAlgorithm::Sha224,
        ManifestChecksums::Sha256 => ChecksumAlgorithm::Sha256,
        ManifestChecksums::Sha384 => ChecksumAlgorithm::Sha384,
        ManifestChecksums::Sha512 => ChecksumAlgorithm::Sha512,
    }
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
    let ranges = finished.manifest.iter().flat_map(|manifest| &manifest.wal_ranges);
    let covers_start =
        ranges.clone().any(|range| range.timeline == start.timeline && range.start_lsn == start.lsn);
    let covers_end = ranges.clone().any(|range| range.timeline == end.timeline && range.end_lsn == end.lsn);
    if finished.manifest.is_some() && !(covers_start && covers_end) {
        return Err(CreateError::ManifestRange { start_lsn: start.lsn, end_lsn: end.lsn });
    }
    Ok(())
}
