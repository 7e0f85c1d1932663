//! Writes a base backup as it arrives.
//!
//! Answers to `ReceiveArchiveStream` and the extracting streamers in PostgreSQL's `pg_basebackup.c`. Calls block on
//! the file system; they belong on the thread that receives, or on one of its own. Invariant: `backup_manifest` has
//! its name only after everything that it lists has been received, found right and made durable.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::archive_stream::{ArchiveEvent, ArchiveName};
use super::backup_label::{BackupLabel, BackupLabelError};
use super::bulk::{self, BulkQueue, BulkWriter};
use super::checksum::ChecksumAlgorithm;
use super::confined::FileError;
use super::error::BackupError;
use super::manifest::{Comparison, Ledger, ManifestParser, ManifestSummary};
use super::open_file::{OpenFile, Writeback, WrittenContent, WrittenFile};
use super::path::MemberPath;
use super::syncer::Syncer;
use super::tar_header::{MemberKind, TarMember};
use super::tar_stream::{ArchiveEnd, TarEvent, TarStream};
use super::target::{BackupTarget, ManifestPolicy, StandbyFiles, SyncMethod};
use super::tree::{CreatedFile, Root, Tree, TreeError, UnannouncedTablespace};

const BACKUP_LABEL: &str = "backup_label";
const PG_CONTROL: &str = "global/pg_control";

/// A backup being written: [`create`](Self::create), [`handle`](Self::handle) every event, [`finish`](Self::finish).
///
/// Dropped before `finish` it leaves what it wrote, without a `backup_manifest`.
#[derive(Debug)]
pub struct BackupWriter {
    tree: Tree,
    phase: Phase,
    ledger: Option<Ledger>,
    /// From the first long file on. It goes before the syncer, to which it hands files.
    bulk: Option<BulkWriter>,
    syncer: Option<Syncer>,
    sync: SyncMethod,
    manifest: ManifestPolicy,
    archive_end: ArchiveEnd,
    bytes_written: u64,
    server_bytes: u64,
    backup_label: Option<BackupLabel>,
    pg_control: Received,
    base_archive: Received,
    standby: Option<StandbyFiles>,
}

#[derive(Debug)]
enum Phase {
    Start,
    Archive(Box<Archive>),
    Manifest(Box<Manifest>),
    Failed,
}

/// The archive that is arriving.
#[derive(Debug)]
struct Archive {
    name: String,
    root: Root,
    /// What a manifest puts before its members' names.
    prefix: String,
    tar: TarStream,
    file: Option<(MemberPath, OpenFile)>,
    last_file: Option<PathBuf>,
}

/// The manifest that is arriving.
#[derive(Debug)]
struct Manifest {
    parser: ManifestParser,
    comparison: Comparison,
    file: OpenFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    NotYet,
    Whole,
}

/// A backup that is whole, and not yet durable. [`sync`](Self::sync) it, then [`publish`](Self::publish) it.
#[derive(Debug)]
pub struct WholeBackup {
    tree: Tree,
    syncer: Option<Syncer>,
    sync: SyncMethod,
    finished: FinishedBackup,
}

/// A backup that is whole and, unless that was declined, durable.
#[derive(Debug)]
pub struct FinishedBackup {
    /// What the manifest says; `None` when none was asked for.
    pub manifest: Option<ManifestSummary>,
    /// Where recovery begins.
    pub backup_label: BackupLabel,
    /// How many files were written, the manifest and WAL not counted.
    pub file_count: u64,
    /// How many bytes they hold.
    pub byte_count: u64,
    /// Tablespaces created on the server meanwhile: replay creates them here, at the same location.
    pub unannounced_tablespaces: Vec<UnannouncedTablespace>,
}

impl BackupWriter {
    /// Opens the target's directories and makes `pg_wal`, `pg_wal/archive_status` and the links of tablespaces, so
    /// that WAL can be streamed into `pg_wal` from here on.
    pub fn create(target: &BackupTarget) -> Result<Self, BackupError> {
        let tree = Tree::create(target)?;
        let algorithm = match target.manifest {
            ManifestPolicy::Required(algorithm) => algorithm,
            ManifestPolicy::Absent => ChecksumAlgorithm::None,
        };
        let syncer = if target.sync == SyncMethod::Fsync { Some(Syncer::start()?) } else { None };
        Ok(BackupWriter {
            ledger: Some(Ledger::new(algorithm)),
            tree,
            phase: Phase::Start,
            bulk: None,
            syncer,
            sync: target.sync,
            manifest: target.manifest,
            archive_end: target.archive_end,
            bytes_written: 0,
            server_bytes: 0,
            backup_label: None,
            pg_control: Received::NotYet,
            base_archive: Received::NotYet,
            standby: target.standby.clone(),
        })
    }

    /// Writes what an event brings. After an error the backup has failed, and every further call says so.
    pub fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Failed);
        self.phase = match (phase, event) {
            (Phase::Failed, _) => return Err(BackupError::FailedBefore),
            (phase, ArchiveEvent::Progress { bytes }) => {
                self.server_bytes = bytes;
                phase
            }
            (Phase::Start, ArchiveEvent::ArchiveBegin(archive)) => self.begin_archive(archive)?,
            (Phase::Archive(before), ArchiveEvent::ArchiveBegin(archive)) => {
                self.end_archive(before)?;
                self.begin_archive(archive)?
            }
            (Phase::Archive(mut archive), ArchiveEvent::ArchiveData(data)) => {
                self.archive_data(&mut archive, data)?;
                Phase::Archive(archive)
            }
            (Phase::Archive(archive), ArchiveEvent::ManifestBegin) => {
                self.end_archive(archive)?;
                self.begin_manifest()?
            }
            (Phase::Manifest(mut manifest), ArchiveEvent::ManifestData(data)) => {
                manifest.data(data)?;
                Phase::Manifest(manifest)
            }
            (Phase::Start | Phase::Manifest(_), ArchiveEvent::ManifestBegin)
            | (Phase::Start | Phase::Archive(_), ArchiveEvent::ManifestData(_)) => {
                return Err(BackupError::UnexpectedManifest);
            }
            (Phase::Start | Phase::Manifest(_), ArchiveEvent::ArchiveData(_))
            | (Phase::Manifest(_), ArchiveEvent::ArchiveBegin(_)) => {
                return Err(BackupError::DataOutsideArchive);
            }
        };
        Ok(())
    }

    /// Bytes of content received so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// How far the server says it is.
    pub fn server_bytes(&self) -> u64 {
        self.server_bytes
    }

    /// Files complete so far.
    pub fn file_count(&self) -> u64 {
        self.ledger.as_ref().map_or(0, Ledger::file_count)
    }

    /// Where in its file the next byte of content goes; 0 where none is under way.
    pub(super) fn content_offset(&self) -> u64 {
        match &self.phase {
            Phase::Archive(archive) => archive.file.as_ref().map_or(0, |(_, file)| file.len()),
            Phase::Start | Phase::Manifest(_) | Phase::Failed => 0,
        }
    }

    /// The file that is being written, or was last.
    pub fn current_file(&self) -> Option<&Path> {
        match &self.phase {
            Phase::Archive(archive) => archive.last_file.as_deref(),
            Phase::Start | Phase::Manifest(_) | Phase::Failed => None,
        }
    }

    /// Everything has been received, and the server has said that it succeeded: checks that the backup is whole and
    /// as its manifest has it, makes it durable, and gives the manifest its name.
    pub fn finish(self) -> Result<FinishedBackup, BackupError> {
        let mut whole = self.complete()?;
        whole.sync()?;
        whole.publish()
    }

    /// The first part of [`finish`](Self::finish): checks that the backup is whole and as its manifest has it.
    pub fn complete(mut self) -> Result<WholeBackup, BackupError> {
        let (file_count, byte_count);
        let manifest = match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Failed => return Err(BackupError::FailedBefore),
            Phase::Start => return Err(BackupError::MissingFile(BACKUP_LABEL)),
            Phase::Archive(_) if self.manifest != ManifestPolicy::Absent => {
                return Err(BackupError::MissingManifest);
            }
            Phase::Archive(archive) => {
                self.end_archive(archive)?;
                None
            }
            Phase::Manifest(manifest) => Some(manifest),
        };
        if let Some(bulk) = self.bulk.take() {
            bulk.finish()?;
        }
        self.tree.check_complete()?;
        let backup_label = self.backup_label.take().ok_or(BackupError::MissingFile(BACKUP_LABEL))?;
        if self.pg_control == Received::NotYet || self.base_archive == Received::NotYet {
            return Err(BackupError::MissingFile(PG_CONTROL));
        }
        let manifest = match manifest {
            Some(manifest) => {
                let summary = manifest.finish(self.sync)?;
                file_count = summary.file_count;
                byte_count = summary.total_size;
                Some(summary)
            }
            None => {
                let ledger = self.ledger.take();
                file_count = ledger.as_ref().map_or(0, Ledger::file_count);
                byte_count = ledger.as_ref().map_or(0, Ledger::byte_count);
                None
            }
        };
        let unannounced_tablespaces = self.tree.take_unannounced();
        let finished =
            FinishedBackup { manifest, backup_label, file_count, byte_count, unannounced_tablespaces };
        Ok(WholeBackup { tree: self.tree, syncer: self.syncer, sync: self.sync, finished })
    }

    fn begin_archive(&mut self, archive: ArchiveName) -> Result<Phase, BackupError> {
        let root = self.tree.begin_archive(&archive)?;
        if root == Root::Base && std::mem::replace(&mut self.base_archive, Received::Whole) == Received::Whole
        {
            return Err(BackupError::RepeatedArchive(archive.file_name));
        }
        let prefix =
            if let Root::Tablespace(oid) = root { format!("pg_tblspc/{oid}/") } else { String::new() };
        let (name, tar) = (archive.file_name, TarStream::new());
        Ok(Phase::Archive(Box::new(Archive { name, root, prefix, tar, file: None, last_file: None })))
    }

    fn end_archive(&mut self, archive: Box<Archive>) -> Result<(), BackupError> {
        let Archive { name, tar, root, .. } = *archive;
        tar.finish(self.archive_end).map_err(|source| BackupError::Tar { archive: name, source })?;
        if root == Root::Base { self.write_standby_files() } else { Ok(()) }
    }

    /// The manifest knows nothing of them, and who verifies the backup passes over them.
    fn write_standby_files(&mut self) -> Result<(), BackupError> {
        let Some(StandbyFiles { configuration, lines, signal }) = self.standby.take() else { return Ok(()) };
        for (name, content) in [(Some(configuration), lines), (signal, Bytes::new())] {
            let Some(name) = name else { continue };
            let CreatedFile { file, path } = self.tree.open_own_file(&MemberPath::literal(name))?;
            if content.is_empty() {
                file.set_len(0).map_err(|source| FileError::new("truncate file", &path, source))?;
            }
            let mut file = OpenFile::new(file, path, ChecksumAlgorithm::None.start(), Writeback::Lazy);
            file.write(content)?;
            self.sync_file(file.finish()?)?;
        }
        Ok(())
    }

    fn sync_file(&self, written: WrittenFile) -> Result<(), BackupError> {
        match (written.content, &self.syncer) {
            (WrittenContent::Written { file, path }, Some(syncer)) => {
                Ok(syncer.sync(file, path, written.len)?)
            }
            (WrittenContent::Written { .. }, None) => Ok(()),
            (WrittenContent::Queued { file, queue }, _) => Ok(queue.end(file)?),
        }
    }

    /// Where long files go.
    fn bulk_queue(&mut self) -> Result<Option<BulkQueue>, FileError> {
        if self.bulk.is_none() {
            self.bulk = Some(BulkWriter::start(self.syncer.as_ref().and_then(Syncer::queue))?);
        }
        Ok(self.bulk.as_ref().and_then(BulkWriter::queue))
    }

    fn archive_data(&mut self, archive: &mut Archive, data: Bytes) -> Result<(), BackupError> {
        archive.tar.push(data);
        loop {
            let event = archive.tar.poll();
            let event = event.map_err(|source| BackupError::Tar { archive: archive.name.clone(), source })?;
            match event {
                None => return Ok(()),
                Some(TarEvent::Member(member)) => {
                    let begun = self.begin_member(archive, &member);
                    begun.map_err(|error| archive.error(error, member.path))?;
                }
                Some(TarEvent::Data(data)) => {
                    self.bytes_written += data.len() as u64;
                    if let Some((_, file)) = &mut archive.file {
                        file.write(data)?;
                    }
                }
                Some(TarEvent::MemberEnd) => {
                    if let Some((path, file)) = archive.file.take() {
                        self.end_file(archive, &path, file)?;
                    }
                }
                Some(TarEvent::End) => {}
            }
        }
    }

    fn begin_member(&mut self, archive: &mut Archive, member: &TarMember) -> Result<(), TreeError> {
        let len = match &member.kind {
            MemberKind::Directory => return self.tree.create_directory(archive.root, member),
            MemberKind::Symlink { target } => {
                return Ok(self.tree.check_link(archive.root, &member.path, target)?);
            }
            MemberKind::File { len } => *len,
        };
        let CreatedFile { file, path } = self.tree.create_file(archive.root, member)?;
        let algorithm = match self.manifest {
            ManifestPolicy::Required(algorithm) => algorithm,
            ManifestPolicy::Absent => ChecksumAlgorithm::None,
        };
        let writeback = if self.sync == SyncMethod::None { Writeback::Lazy } else { Writeback::From(0) };
        archive.last_file = Some(path.clone());
        let queue = if len >= bulk::MIN_FILE_LEN { self.bulk_queue()? } else { None };
        let mut file = match queue {
            Some(queue) => OpenFile::long(file, path, algorithm.start(), writeback, queue),
            None => OpenFile::new(file, path, algorithm.start(), writeback),
        };
        if is(archive, &member.path, BACKUP_LABEL) && len <= BackupLabel::MAX_LEN as u64 {
            file.capture();
        }
        archive.file = Some((member.path.clone(), file));
        Ok(())
    }

    fn end_file(&mut self, archive: &Archive, path: &MemberPath, file: OpenFile) -> Result<(), BackupError> {
        let mut written = file.finish()?;
        if is(archive, path, BACKUP_LABEL) {
            let content = written.captured.take().ok_or(BackupLabelError::TooLong(written.len as usize))?;
            self.backup_label = Some(BackupLabel::parse(&content)?);
        } else if is(archive, path, PG_CONTROL) {
            self.pg_control = Received::Whole;
        }
        if let Some(ledger) = &mut self.ledger
            && Tree::is_listed(archive.root, path)
        {
            let base = self.tree.base();
            let spill = || base.unnamed_file();
            ledger.record(
                archive.prefix.as_bytes(),
                path.as_bytes(),
                written.len,
                &written.checksum,
                spill,
            )?;
        }
        self.sync_file(written)
    }

    fn begin_manifest(&mut self) -> Result<Phase, BackupError> {
        let ledger = match (self.manifest, self.ledger.take()) {
            (ManifestPolicy::Required(_), Some(ledger)) => ledger,
            _ => return Err(BackupError::UnexpectedManifest),
        };
        let comparison = ledger.compare()?;
        let CreatedFile { file, path } = self.tree.create_manifest()?;
        let file = OpenFile::new(file, path, ChecksumAlgorithm::None.start(), Writeback::Lazy);
        Ok(Phase::Manifest(Box::new(Manifest { parser: ManifestParser::new(), comparison, file })))
    }
}

impl WholeBackup {
    /// Makes it durable, as the target has asked.
    pub fn sync(&mut self) -> Result<(), BackupError> {
        if let Some(syncer) = self.syncer.take() {
            syncer.finish()?;
        }
        Ok(self.tree.sync(self.sync)?)
    }

    /// Gives the manifest its name: now it is a backup.
    pub fn publish(mut self) -> Result<FinishedBackup, BackupError> {
        if self.finished.manifest.is_some() {
            self.tree.rename_manifest()?;
            if self.sync != SyncMethod::None {
                self.tree.base().sync()?;
            }
        }
        Ok(self.finished)
    }
}

impl Archive {
    fn error(&self, error: TreeError, path: MemberPath) -> BackupError {
        match error {
            TreeError::Rule(source) => BackupError::Member { archive: self.name.clone(), path, source },
            TreeError::File(error) => BackupError::File(error),
        }
    }
}

fn is(archive: &Archive, path: &MemberPath, name: &str) -> bool {
    archive.root == Root::Base && path.as_bytes() == name.as_bytes()
}

impl Manifest {
    fn data(&mut self, data: Bytes) -> Result<(), BackupError> {
        let comparison = &mut self.comparison;
        self.parser.push(&data, |file| comparison.listed(file).map_err(BackupError::from))?;
        Ok(self.file.write(data)?)
    }

    fn finish(self: Box<Self>, sync: SyncMethod) -> Result<ManifestSummary, BackupError> {
        let summary = self.parser.finish()?;
        self.comparison.finish()??;
        let written = self.file.finish()?;
        if let (WrittenContent::Written { file, path }, true) = (written.content, sync != SyncMethod::None) {
            file.sync_all().map_err(|source| FileError::new("fsync file", path, source))?;
        }
        Ok(summary)
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
