//! From objects to files: one backup, or a chain of them that becomes one.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::super::error::RepositoryError;
use super::super::keys;
use super::super::piece_reader::{BackupReader, Pieces};
use super::super::record::{BackupRecord, WalPlace};
use super::error::RestoreError;
use super::wal_directory;
use crate::FileOwner;
use crate::archive::ArchiveStore;
use crate::backup::combine::{
    CombineObserver, CombineRequest, CombineWarning, CopyMethod, ManifestRequest, OutputDirectories, RunMode,
    Step, TablespaceMapping, combine,
};
use crate::backup::confined::FileError;
use crate::backup::{
    ArchiveEvent, BackupTarget, BackupWriter, FinishedBackup, HeldPlaces, ManifestPolicy, MemberModes,
    SyncMethod, TablespacePlace, TablespaceTarget, UnannouncedTablespace, WalMembers,
};
use crate::observe::progress::CopyProgress;
use crate::pg::canonical_path;
use crate::standby::workspace::{MARK_NAME, Workspace};

/// How many pieces wait for the writer.
const QUEUE_LEN: usize = 1;

/// Threads that work in the workspace: before it is taken away, they have to have ended.
#[derive(Debug, Clone)]
pub(super) struct Workers(Arc<Semaphore>);

const MAX_WORKERS: usize = 4;

impl Workers {
    pub(super) fn new() -> Self {
        Workers(Arc::new(Semaphore::new(MAX_WORKERS)))
    }

    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        tokio::task::spawn_blocking(move || {
            // there is one: they follow one another
            let _permit = permit;
            work()
        })
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        let _all = self.0.acquire_many(MAX_WORKERS as u32).await;
    }
}

/// Where the files of a restored cluster go.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) tablespaces: Vec<TablespaceTarget>,
    /// Where `pg_wal` leads to.
    pub(super) wal_directory: Option<PathBuf>,
}

/// Restores one backup into the data directory in the making.
pub(super) async fn restore_one(
    store: &ArchiveStore,
    record: &BackupRecord,
    workspace: &Workspace,
    placement: Placement,
    workers: &Workers,
    progress: &Arc<CopyProgress>,
) -> Result<(), RestoreError> {
    let target = BackupTarget {
        directory: workspace.data(),
        tablespaces: placement.tablespaces,
        wal_directory: placement.wal_directory,
        owner: workspace.owner(),
        sync: SyncMethod::Fsync,
        held: workspace.held_places(),
        ..input_target(record)
    };
    let (_, unannounced) = extract(store, record, target, 0, workers, progress).await?;
    heed(&unannounced)
}

/// Restores a chain: each backup beside the data directory, then all of them into it.
pub(super) async fn restore_chain(
    store: &ArchiveStore,
    chain: &[BackupRecord],
    workspace: &Workspace,
    placement: Placement,
    workers: &Workers,
    progress: &Arc<CopyProgress>,
) -> Result<(), RestoreError> {
    let parts = workspace.parts();
    make_directory(&parts, 0o700)?;
    let (mut inputs, mut mappings, mut done) = (Vec::new(), Vec::new(), 0);
    let mut unannounced = Vec::new();
    for (index, record) in chain.iter().enumerate() {
        let directory = parts.join(index.to_string());
        make_directory(&directory, record.modes.default_directory_mode())?;
        let mut target = BackupTarget { directory: directory.clone(), ..input_target(record) };
        for (oid, location, _) in record.tablespaces() {
            let place = match location.starts_with(b"/") {
                false => TablespacePlace::InPlace,
                true => {
                    let place = parts.join(format!("{index}.{oid}"));
                    make_directory(&place, 0o700)?;
                    let to = placement.tablespaces.iter().find(|tablespace| tablespace.oid == oid);
                    if let Some(TablespacePlace::Directory(to)) = to.map(|tablespace| &tablespace.place) {
                        mappings
                            .push(TablespaceMapping { old: canonical_path(&place), new: canonical_path(to) });
                    }
                    TablespacePlace::Directory(place)
                }
            };
            target.tablespaces.push(TablespaceTarget { oid, location: location.to_vec(), place });
        }
        // those of an earlier one are the next one's own
        (done, unannounced) = extract(store, record, target, done, workers, progress).await?;
        inputs.push(directory);
    }
    heed(&unannounced)?;
    progress.set_phase("combining the chain of backups");
    let newest = chain.last().expect("a chain has at least one backup");
    let request = CombineRequest {
        inputs,
        output: workspace.held_data(),
        tablespace_mappings: mappings,
        copy_method: CopyMethod::Copy,
        manifest: ManifestRequest::Write(newest.manifest_checksums),
        sync: SyncMethod::Fsync,
        mode: RunMode::Real,
        umask: 0o777 & !newest.modes.default_directory_mode(),
    };
    let wal_directory = placement.wal_directory;
    let tablespaces = placement.tablespaces.iter().filter_map(|tablespace| match &tablespace.place {
        TablespacePlace::Directory(directory) => Some(directory.as_path()),
        TablespacePlace::InPlace => None,
    });
    let held = workspace.held_places();
    let outside = tablespaces.chain(wal_directory.as_deref());
    let outside: Vec<PathBuf> = outside.map(|directory| held.leading_to(directory).to_owned()).collect();
    let (data, owner) = (workspace.held_data(), workspace.owner());
    // dropped before it has ended, it ends soon
    let interrupted = InterruptOnDrop(Arc::default());
    let flag = Arc::clone(&interrupted.0);
    let combined = workers.start(move || -> Result<(), RestoreError> {
        let mut outputs = OutputDirectories::passing_over(MARK_NAME);
        combine(&request, &mut outputs, &mut Quiet, &flag).map_err(Box::new)?;
        outputs.keep();
        if let Some(directory) = wal_directory {
            wal_directory::move_to(&data, &directory)?;
        }
        if let Some(owner) = owner {
            for directory in outside.iter().chain([&data]) {
                give_tree(directory, owner)?;
            }
        }
        Ok(())
    });
    combined.await.map_err(RestoreError::Panicked)??;
    progress.set_phase("removing what it was made of");
    Ok(workspace.remove_parts()?)
}

struct InterruptOnDrop(Arc<AtomicBool>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What all backups have in common; the directory is the caller's.
fn input_target(record: &BackupRecord) -> BackupTarget {
    BackupTarget {
        directory: PathBuf::new(),
        tablespaces: Vec::new(),
        wal_directory: None,
        modes: record.modes,
        member_modes: MemberModes::Restricted,
        owner: None,
        sync: SyncMethod::None,
        manifest: ManifestPolicy::Required(record.manifest_checksums),
        archive_end: record.archive_end(),
        wal_members: match record.wal {
            WalPlace::Archive => WalMembers::Refused,
            WalPlace::Included => WalMembers::Accepted,
        },
        standby: None,
        held: HeldPlaces::default(),
    }
}

/// Gets a backup's objects and writes its files, each checked against the manifest; how many bytes there are now, and the
/// tablespaces that the server did not announce.
async fn extract(
    store: &ArchiveStore,
    record: &BackupRecord,
    target: BackupTarget,
    before: u64,
    workers: &Workers,
    progress: &Arc<CopyProgress>,
) -> Result<(u64, Vec<UnannouncedTablespace>), RestoreError> {
    progress.set_phase("restoring");
    let pieces = Pieces::of(store, record).await?;
    let mut reader = BackupReader::new(store.clone(), record, pieces);
    let (events, queue) = mpsc::channel(QUEUE_LEN);
    let (name, shown) = (record.name.clone(), Arc::clone(progress));
    let mut writer = workers.start(move || {
        let written = write(&target, queue, before, &shown);
        written.map_err(|source| RestoreError::Backup { name, source: Box::new(source) })
    });
    loop {
        let event = match reader.next().await? {
            Some(event) => Event::Archive(event),
            None => Event::End,
        };
        let is_end = matches!(event, Event::End);
        // it ends before its input does only when it fails
        if events.send(event).await.is_err() || is_end {
            break;
        }
    }
    drop(events);
    let (done, finished) = (&mut writer).await.map_err(RestoreError::Panicked)??;
    let found = finished.manifest.as_ref().and_then(|manifest| manifest.system_identifier);
    if found.is_some_and(|found| found != record.system_identifier) {
        let (name, key) = (record.name.clone(), keys::record_key(&record.name));
        let problem = "its manifest is another cluster's";
        return Err(RepositoryError::Damaged { name, key, problem }.into());
    }
    Ok((done, finished.unannounced_tablespaces))
}

/// Recovery creates these where they were on the server, and removes what is there: on the server's own machine, the server's.
fn heed(unannounced: &[UnannouncedTablespace]) -> Result<(), RestoreError> {
    for tablespace in unannounced {
        let location = Path::new(OsStr::from_bytes(&tablespace.location));
        if is_tablespace(location) {
            let (oid, location) = (tablespace.oid, location.to_owned());
            return Err(RestoreError::TablespaceInUse { oid, location });
        }
        tracing::warn!(
            "tablespace {} was created while the backup was taken; recovery will create it in \"{}\", and no mapping changes that",
            tablespace.oid,
            location.display()
        );
    }
    Ok(())
}

/// Whether a server has, or had, a tablespace there. What cannot be looked into may be one.
fn is_tablespace(location: &Path) -> bool {
    match std::fs::read_dir(location) {
        Ok(mut entries) => entries.any(|entry| {
            entry.map_or(true, |entry| entry.file_name().as_encoded_bytes().starts_with(b"PG_"))
        }),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

enum Event {
    Archive(ArchiveEvent),
    End,
}

/// Blocks until everything has come. What is broken off ends without an end, and is no backup.
fn write(
    target: &BackupTarget,
    mut queue: mpsc::Receiver<Event>,
    before: u64,
    progress: &CopyProgress,
) -> Result<(u64, FinishedBackup), crate::backup::BackupError> {
    let mut writer = BackupWriter::create(target)?;
    while let Some(event) = queue.blocking_recv() {
        match event {
            Event::Archive(event) => writer.handle(event)?,
            Event::End => {
                let done = before + writer.bytes_written();
                progress.set_phase("making the files durable");
                return Ok((done, writer.finish()?));
            }
        }
        progress.set_done(before + writer.bytes_written());
    }
    Err(crate::backup::BackupError::FailedBefore)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), RestoreError> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|source| FileError::new("create directory", path, source).into())
}

/// Gives a directory and all that is below it to its owner. No link is followed: the owner may write there already.
fn give_tree(path: &Path, owner: FileOwner) -> Result<(), FileError> {
    let failed = |source: rustix::io::Errno| FileError::new("change the owner of", path, source);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let mut pending = vec![root];
    while let Some(directory) = pending.pop() {
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            rustix::fs::chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed)?;
            if entry.file_type() == FileType::Directory {
                let below = rustix::fs::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty());
                pending.push(below.map_err(failed)?);
            }
        }
        rustix::fs::fchown(directory.as_fd(), Some(uid), Some(gid)).map_err(failed)?;
    }
    let synced = File::open(path).map_err(|error| FileError::new("open", path, error))?;
    rustix::fs::syncfs(synced).map_err(failed)
}

/// What is combined here was made here: of the newest backup's checksums nothing needs to be said.
struct Quiet;

impl CombineObserver for Quiet {
    fn warn(&mut self, warning: &CombineWarning) {
        tracing::warn!("{warning}");
    }

    fn step(&mut self, _: &Step) {}

    fn wants_steps(&self) -> bool {
        false
    }
}

/// A path as bytes that a server can be told.
pub(super) fn text_of(path: &Path) -> Result<&str, RestoreError> {
    std::str::from_utf8(path.as_os_str().as_bytes())
        .map_err(|_| RestoreError::UnprintablePath(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_that_is_there_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("space");
        let unannounced =
            [UnannouncedTablespace { oid: 16400, location: place.as_os_str().as_bytes().to_vec() }];
        heed(&unannounced).unwrap();
        std::fs::create_dir_all(place.join("lost+found")).unwrap();
        heed(&unannounced).unwrap();
        std::fs::create_dir(place.join("PG_17_202406281")).unwrap();
        let refused = heed(&unannounced);
        assert!(matches!(refused, Err(RestoreError::TablespaceInUse { oid: 16400, .. })), "{refused:?}");
    }
}
