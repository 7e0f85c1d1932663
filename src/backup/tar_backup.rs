//! Writes a base backup in tar format: each archive a file, or the only one to a pipe.
//!
//! Answers to the tar half of `CreateBackupStreamer` in PostgreSQL's `pg_basebackup.c`. Departures: every archive that
//! is not compressed by the server is read on its way, so that one which could write outside of where it will be
//! unpacked (by a name, a link, or what recovery makes of its map of tablespaces), or is cut short, never becomes part of a
//! backup; files are made, never overwritten. Invariant: as in
//! [`BackupWriter`](super::BackupWriter), `backup_manifest` has its name only after everything is durable.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::archive_output::{ArchiveOutput, WrittenArchive};
use super::archive_stream::{ArchiveContent, ArchiveEvent, ArchiveName, ManifestRequest};
use super::confined::{ConfinedDirectory, FileError};
use super::error::BackupError;
use super::kept_members::{Announced, KeptContent, KeptError, KeptMembers};
use super::open_file::Writeback;
use super::path::MemberPath;
use super::tar_rewriter::{Added, AddedFile, TarRewriter};
use super::tar_stream::{ArchiveEnd, TarStream};
use super::target::{DirectoryModes, StandbyFiles, SyncMethod};
use super::tree::{MANIFEST_NAME, MANIFEST_TEMPORARY_NAME};
use crate::compression::{ArchiveCompression, CompressionMethod};

/// The longest manifest that is put into an archive, in bytes: it has to be held, because its length stands before it.
/// That is some seven million files.
pub const MAX_INJECTED_MANIFEST_LEN: usize = 1 << 30;

/// Where archives go, and how.
#[derive(Debug)]
pub struct TarTarget {
    /// Where to.
    pub place: TarPlace,
    /// The server's `data_directory_mode`.
    pub modes: DirectoryModes,
    /// How the backup becomes durable.
    pub sync: SyncMethod,
    /// How archives are compressed here.
    pub compression: Option<ArchiveCompression>,
    /// How archives end: by the server's version.
    pub archive_end: ArchiveEnd,
    /// How many archives were announced.
    pub archive_count: usize,
    /// The tablespaces that were.
    pub announced: Announced,
    /// Whether a manifest was asked for.
    pub manifest: ManifestRequest,
    /// What makes a standby of the backup, when that is wanted.
    pub standby: Option<StandbyFiles>,
    /// What new members say of their time, in seconds since 1970.
    pub now: u64,
}

/// Where archives go.
#[derive(Debug)]
pub enum TarPlace {
    /// Files in a directory; the manifest beside them.
    Directory(PathBuf),
    /// One archive to a pipe or file that is open; the manifest in it.
    Stream(File),
}

/// A backup being written: [`create`](Self::create), [`handle`](Self::handle) every event, [`complete`](Self::complete).
///
/// Dropped before that it leaves what it wrote, without a `backup_manifest`.
#[derive(Debug)]
pub struct TarBackupWriter {
    place: Place,
    target: Settings,
    phase: Phase,
    written: Vec<WrittenArchive>,
    scratch: Vec<Bytes>,
}

/// Archives that are complete, and not yet durable. [`sync`](Self::sync) them, then [`publish`](Self::publish) them.
#[derive(Debug)]
pub struct WholeTarBackup {
    directory: Option<ConfinedDirectory>,
    written: Vec<WrittenArchive>,
    sync: SyncMethod,
    has_manifest: bool,
}

#[derive(Debug)]
enum Place {
    Directory(ConfinedDirectory),
    Stream(Option<File>),
}

/// What stays the same from archive to archive.
#[derive(Debug)]
struct Settings {
    modes: DirectoryModes,
    sync: SyncMethod,
    compression: Option<ArchiveCompression>,
    archive_end: ArchiveEnd,
    archive_count: usize,
    announced: Announced,
    manifest: ManifestRequest,
    standby: Option<StandbyFiles>,
    added: Added,
}

#[derive(Debug)]
enum Phase {
    Start,
    Archive(Box<Archive>),
    Manifest(Box<ArchiveOutput>),
    /// The archive waits for its manifest.
    Injecting {
        archive: Box<Archive>,
        manifest: BytesMut,
    },
    Failed,
}

#[derive(Debug)]
struct Archive {
    name: String,
    path: PathBuf,
    filter: Filter,
    output: ArchiveOutput,
}

/// What becomes of an archive's bytes on their way.
#[derive(Debug)]
enum Filter {
    /// The server has compressed them: they are nobody's business.
    Opaque,
    /// They are read, and passed on as they are.
    Checked(Box<(TarStream, KeptMembers)>),
    Rewritten(Box<(TarRewriter, KeptMembers)>),
}

impl TarBackupWriter {
    /// Opens the target's directory.
    pub fn create(target: TarTarget) -> Result<Self, BackupError> {
        let TarTarget { place, modes, sync, compression, standby, now, .. } = target;
        let TarTarget { archive_end, archive_count, announced, manifest, .. } = target;
        let place = match place {
            TarPlace::Directory(path) => Place::Directory(ConfinedDirectory::open(&path, None)?),
            TarPlace::Stream(file) => Place::Stream(Some(file)),
        };
        let added = Added { mode: modes.default_file_mode(), mtime: now };
        let target = Settings {
            modes,
            sync,
            compression,
            archive_end,
            archive_count,
            announced,
            manifest,
            standby,
            added,
        };
        Ok(TarBackupWriter { place, target, phase: Phase::Start, written: Vec::new(), scratch: Vec::new() })
    }

    /// Writes what an event brings. After an error the backup has failed, and every further call says so.
    pub fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Failed);
        self.phase = match (phase, event) {
            (Phase::Failed, _) => return Err(BackupError::FailedBefore),
            (phase, ArchiveEvent::Progress { .. }) => phase,
            (Phase::Start, ArchiveEvent::ArchiveBegin(name)) => self.begin_archive(name)?,
            (Phase::Archive(before), ArchiveEvent::ArchiveBegin(name)) => {
                self.end_archive(*before, None)?;
                self.begin_archive(name)?
            }
            (Phase::Archive(mut archive), ArchiveEvent::ArchiveData(data)) => {
                archive.write(data, &mut self.scratch)?;
                Phase::Archive(archive)
            }
            (Phase::Archive(archive), ArchiveEvent::ManifestBegin)
                if self.target.manifest == ManifestRequest::Requested =>
            {
                self.begin_manifest(archive)?
            }
            (Phase::Manifest(mut output), ArchiveEvent::ManifestData(data)) => {
                output.write(data)?;
                Phase::Manifest(output)
            }
            (Phase::Injecting { archive, mut manifest }, ArchiveEvent::ManifestData(data)) => {
                if manifest.len() + data.len() > MAX_INJECTED_MANIFEST_LEN {
                    return Err(BackupError::ManifestTooLong);
                }
                manifest.extend_from_slice(&data);
                Phase::Injecting { archive, manifest }
            }
            (_, ArchiveEvent::ManifestBegin | ArchiveEvent::ManifestData(_)) => {
                return Err(BackupError::UnexpectedManifest);
            }
            (_, ArchiveEvent::ArchiveData(_) | ArchiveEvent::ArchiveBegin(_)) => {
                return Err(BackupError::DataOutsideArchive);
            }
        };
        Ok(())
    }

    /// The file that is being written.
    pub fn current_file(&self) -> Option<&Path> {
        match &self.phase {
            Phase::Archive(archive) | Phase::Injecting { archive, .. } => Some(&archive.path),
            Phase::Start | Phase::Manifest(_) | Phase::Failed => None,
        }
    }

    /// Everything has been received: completes the last file.
    pub fn complete(mut self) -> Result<WholeTarBackup, BackupError> {
        let mut has_manifest = false;
        let phase = std::mem::replace(&mut self.phase, Phase::Failed);
        if matches!(phase, Phase::Archive(_)) && self.target.manifest == ManifestRequest::Requested {
            return Err(BackupError::MissingManifest);
        }
        match phase {
            Phase::Failed => return Err(BackupError::FailedBefore),
            Phase::Start => return Err(BackupError::DataOutsideArchive),
            Phase::Archive(archive) => self.end_archive(*archive, None)?,
            Phase::Injecting { archive, manifest } => {
                let manifest = AddedFile { name: MANIFEST_NAME, content: manifest.freeze() };
                self.end_archive(*archive, Some(manifest))?;
            }
            Phase::Manifest(output) => {
                self.written.push(output.finish()?);
                has_manifest = true;
            }
        }
        // the manifest's file is none of them
        let archive_count = self.written.len() - usize::from(has_manifest);
        if archive_count != self.target.archive_count {
            return Err(BackupError::MissingArchives);
        }
        let directory = match self.place {
            Place::Directory(directory) => Some(directory),
            Place::Stream(_) => None,
        };
        Ok(WholeTarBackup { directory, written: self.written, sync: self.target.sync, has_manifest })
    }

    fn begin_archive(&mut self, name: ArchiveName) -> Result<Phase, BackupError> {
        let ArchiveName { mut file_name, content } = name;
        let is_base = content == ArchiveContent::DataDirectory;
        let by_server = CompressionMethod::split_name(&file_name).1 != CompressionMethod::None;
        let standby = if is_base { self.target.standby.take() } else { None };
        let terminated = self.target.archive_end == ArchiveEnd::Terminated;
        let must_rewrite = standby.is_some() || matches!(self.place, Place::Stream(_)) || !terminated;
        let kept = KeptMembers::new(match is_base {
            true => KeptContent::DataDirectory(Announced {
                tablespaces: std::mem::take(&mut self.target.announced.tablespaces),
                escapes: self.target.announced.escapes,
            }),
            false => KeptContent::Tablespace,
        });
        let filter = match (by_server, must_rewrite) {
            (true, _) if standby.is_some() => return Err(BackupError::CompressedArchive(file_name)),
            (true, _) => Filter::Opaque,
            (false, false) => Filter::Checked(Box::new((TarStream::new(), kept))),
            (false, true) => {
                Filter::Rewritten(Box::new((TarRewriter::new(standby, self.target.added), kept)))
            }
        };
        let compression = self.target.compression;
        file_name.push_str(compression.map_or("", |compression| compression.method.suffix()));
        let (output, path) = match &mut self.place {
            Place::Stream(file) => {
                let file = file.take().ok_or_else(|| BackupError::SecondArchive(file_name.clone()))?;
                let path = PathBuf::from("-");
                (ArchiveOutput::new(file, path.clone(), compression, Writeback::Lazy)?, path)
            }
            Place::Directory(_) => {
                let (file, path) = self.create_file(&file_name)?;
                let lazy = self.target.sync == SyncMethod::None;
                let writeback = if lazy { Writeback::Lazy } else { Writeback::From(0) };
                let output = match compression {
                    None => ArchiveOutput::bulk(file, path.clone(), writeback)?,
                    Some(_) => ArchiveOutput::new(file, path.clone(), compression, writeback)?,
                };
                (output, path)
            }
        };
        Ok(Phase::Archive(Box::new(Archive { name: file_name, path, filter, output })))
    }

    fn create_file(&mut self, name: &str) -> Result<(File, PathBuf), BackupError> {
        let Place::Directory(directory) = &mut self.place else { return Err(BackupError::FailedBefore) };
        let unacceptable = |_| BackupError::UnannouncedArchive(name.to_owned());
        let member = MemberPath::parse(name.as_bytes()).map_err(unacceptable)?;
        let file = directory.create_file(&member, self.target.modes.default_file_mode());
        match file {
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(BackupError::RepeatedArchive(name.to_owned()))
            }
            file => Ok((file?, directory.path_of(&member))),
        }
    }

    fn end_archive(&mut self, archive: Archive, manifest: Option<AddedFile>) -> Result<(), BackupError> {
        let Archive { name, filter, mut output, .. } = archive;
        let mut added = Vec::new();
        let end = self.target.archive_end;
        let ended = match filter {
            Filter::Opaque => Ok(()),
            Filter::Checked(filter) => {
                let (tar, kept) = *filter;
                tar.finish(end).map_err(KeptError::from).and_then(|()| kept.finish())
            }
            Filter::Rewritten(filter) => {
                let (tar, kept) = *filter;
                let ended = tar.finish(end, manifest, &mut added);
                ended.map_err(KeptError::from).and_then(|()| kept.finish())
            }
        };
        ended.map_err(|error| error.of(&name))?;
        added.into_iter().try_for_each(|piece| output.write(piece))?;
        self.written.push(output.finish()?);
        Ok(())
    }

    fn begin_manifest(&mut self, archive: Box<Archive>) -> Result<Phase, BackupError> {
        if matches!(self.place, Place::Stream(_)) {
            if matches!(archive.filter, Filter::Opaque) {
                return Err(BackupError::UnexpectedManifest);
            }
            return Ok(Phase::Injecting { archive, manifest: BytesMut::new() });
        }
        self.end_archive(*archive, None)?;
        let (file, path) = self.create_file(MANIFEST_TEMPORARY_NAME)?;
        Ok(Phase::Manifest(Box::new(ArchiveOutput::new(file, path, None, Writeback::Lazy)?)))
    }
}

impl Archive {
    fn write(&mut self, data: Bytes, scratch: &mut Vec<Bytes>) -> Result<(), BackupError> {
        let Archive { name, filter, output, .. } = self;
        match filter {
            Filter::Opaque => output.write(data)?,
            Filter::Checked(filter) => {
                let (tar, kept) = &mut **filter;
                tar.push(data.clone());
                while let Some(event) = tar.poll().map_err(|error| KeptError::from(error).of(name))? {
                    kept.see(&event).map_err(|error| error.of(name))?;
                }
                output.write(data)?;
            }
            Filter::Rewritten(filter) => {
                let (tar, kept) = &mut **filter;
                let pushed = tar.push_seen(data, scratch, |event| kept.see(event));
                pushed.map_err(|error| error.of(name))?;
                scratch.drain(..).try_for_each(|piece| output.write(piece))?;
            }
        }
        Ok(())
    }
}

impl WholeTarBackup {
    /// Takes care of one more file in the directory: the archive of WAL.
    pub(super) fn add(&mut self, archive: WrittenArchive) {
        self.written.push(archive);
    }

    /// Makes the files and their names durable, as the target has asked.
    pub fn sync(&mut self) -> Result<(), BackupError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        match self.sync {
            SyncMethod::None => {}
            SyncMethod::Syncfs => directory.sync_file_system()?,
            SyncMethod::Fsync => {
                for WrittenArchive { file, path } in &self.written {
                    file.sync_all().map_err(|source| FileError::new("fsync file", path, source))?;
                }
                directory.sync()?;
            }
        }
        Ok(())
    }

    /// Gives the manifest its name: now it is a backup.
    pub fn publish(mut self) -> Result<(), BackupError> {
        let Some(directory) = self.directory.as_mut().filter(|_| self.has_manifest) else { return Ok(()) };
        directory
            .rename(&MemberPath::literal(MANIFEST_TEMPORARY_NAME), &MemberPath::literal(MANIFEST_NAME))?;
        if self.sync != SyncMethod::None {
            directory.sync()?;
        }
        Ok(())
    }
}
