//! Checks a base backup as it passes by, and writes nothing.
//!
//! What [`BackupWriter`](super::BackupWriter) does without the files: every archive is read as tar, every file's size and
//! checksum are remembered, and compared with the manifest when that comes. For a backup that goes straight into object
//! storage, or is read from there.

use bytes::Bytes;

use super::archive_stream::{ArchiveContent, ArchiveEvent, ArchiveName};
use super::backup_label::{BackupLabel, BackupLabelError};
use super::checksum::{ChecksumAlgorithm, RunningChecksum};
use super::confined::ConfinedDirectory;
use super::error::BackupError;
use super::included_wal::IncludedWal;
use super::manifest::{Comparison, Ledger, ManifestParser, ManifestSummary};
use super::tar_header::{MemberKind, TarMember};
use super::tar_stream::{ArchiveEnd, TarEvent, TarStream};
use super::tree::{Root, Tree};

const BACKUP_LABEL: &[u8] = b"backup_label";
const PG_CONTROL: &[u8] = b"global/pg_control";

/// A backup that passes by: [`handle`](Self::handle) every event, then [`finish`](Self::finish).
#[derive(Debug)]
pub struct BackupInspector {
    algorithm: ChecksumAlgorithm,
    archive_end: ArchiveEnd,
    phase: Phase,
    ledger: Option<Ledger>,
    /// WAL that the backup carries, if it is to be looked at.
    wal: Option<IncludedWal>,
    byte_count: u64,
    backup_label: Option<BackupLabel>,
    has_control_file: bool,
}

/// A backup that is what its manifest says.
#[derive(Debug, Clone)]
pub struct InspectedBackup {
    /// What the manifest says.
    pub manifest: ManifestSummary,
    /// Where recovery begins.
    pub backup_label: BackupLabel,
}

#[derive(Debug)]
enum Phase {
    Start,
    Archive(Box<Archive>),
    Manifest(Box<(ManifestParser, Comparison)>),
    Failed,
}

#[derive(Debug)]
struct Archive {
    name: String,
    root: Root,
    prefix: String,
    tar: TarStream,
    member: Option<Member>,
}

/// The file that is passing by.
#[derive(Debug)]
struct Member {
    header: TarMember,
    len: u64,
    checksum: RunningChecksum,
    /// Content that is looked at when it is whole.
    captured: Option<Vec<u8>>,
}

impl BackupInspector {
    /// For a backup whose manifest has checksums of `algorithm`.
    pub fn new(algorithm: ChecksumAlgorithm, archive_end: ArchiveEnd) -> Self {
        BackupInspector {
            algorithm,
            archive_end,
            phase: Phase::Start,
            ledger: Some(Ledger::new(algorithm)),
            wal: None,
            byte_count: 0,
            backup_label: None,
            has_control_file: false,
        }
    }

    /// Checks besides that the backup carries the WAL which it needs.
    pub fn with_wal(self, wal: Option<IncludedWal>) -> Self {
        BackupInspector { wal, ..self }
    }

    /// Looks at what an event brings. After an error every further call says so.
    pub fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Failed);
        self.phase = match (phase, event) {
            (Phase::Failed, _) => return Err(BackupError::FailedBefore),
            (phase, ArchiveEvent::Progress { .. }) => phase,
            (Phase::Start, ArchiveEvent::ArchiveBegin(name)) => begin_archive(name),
            (Phase::Archive(before), ArchiveEvent::ArchiveBegin(name)) => {
                self.end_archive(*before)?;
                begin_archive(name)
            }
            (Phase::Archive(mut archive), ArchiveEvent::ArchiveData(data)) => {
                self.archive_data(&mut archive, data)?;
                Phase::Archive(archive)
            }
            (Phase::Archive(archive), ArchiveEvent::ManifestBegin) => {
                self.end_archive(*archive)?;
                let ledger = self.ledger.take().ok_or(BackupError::UnexpectedManifest)?;
                Phase::Manifest(Box::new((ManifestParser::new(), ledger.compare()?)))
            }
            (Phase::Manifest(mut manifest), ArchiveEvent::ManifestData(data)) => {
                let (parser, comparison) = &mut *manifest;
                parser.push(&data, |file| comparison.listed(file).map_err(BackupError::from))?;
                Phase::Manifest(manifest)
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

    /// Bytes of files that have passed by.
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Everything has passed by: is it whole, and as its manifest has it?
    pub fn finish(self) -> Result<InspectedBackup, BackupError> {
        let (parser, comparison) = match self.phase {
            Phase::Failed => return Err(BackupError::FailedBefore),
            Phase::Start => return Err(BackupError::DataOutsideArchive),
            Phase::Archive(_) => return Err(BackupError::MissingManifest),
            Phase::Manifest(manifest) => *manifest,
        };
        let manifest = parser.finish()?;
        comparison.finish()??;
        if let Some(wal) = &self.wal {
            wal.check(&manifest.wal_ranges)?;
        }
        let backup_label = self.backup_label.ok_or(BackupError::MissingFile("backup_label"))?;
        if !self.has_control_file {
            return Err(BackupError::MissingFile("global/pg_control"));
        }
        Ok(InspectedBackup { manifest, backup_label })
    }

    fn end_archive(&mut self, archive: Archive) -> Result<(), BackupError> {
        let Archive { name, tar, .. } = archive;
        tar.finish(self.archive_end).map_err(|source| BackupError::Tar { archive: name, source })
    }

    fn archive_data(&mut self, archive: &mut Archive, data: Bytes) -> Result<(), BackupError> {
        archive.tar.push(data);
        loop {
            let event = archive.tar.poll();
            let event = event.map_err(|source| BackupError::Tar { archive: archive.name.clone(), source })?;
            match event {
                None => return Ok(()),
                Some(TarEvent::Member(header)) => {
                    let member = self.begin_member(archive.root, header);
                    if let (Some(wal), Some(member), Root::Base) = (&mut self.wal, &member, archive.root) {
                        wal.begin(member.header.path.as_bytes());
                    }
                    archive.member = member;
                }
                Some(TarEvent::Data(data)) => {
                    self.byte_count += data.len() as u64;
                    if let Some(member) = &mut archive.member {
                        member.checksum.update(&data);
                        if let Some(wal) = &mut self.wal {
                            wal.data(&data);
                        }
                        if let Some(captured) = &mut member.captured {
                            captured.extend_from_slice(&data);
                        }
                    }
                }
                Some(TarEvent::MemberEnd) => {
                    if let Some(member) = archive.member.take() {
                        if let Some(wal) = &mut self.wal {
                            wal.end();
                        }
                        self.end_member(archive, member)?;
                    }
                }
                Some(TarEvent::End) => {}
            }
        }
    }

    fn begin_member(&self, root: Root, header: TarMember) -> Option<Member> {
        let MemberKind::File { len } = header.kind else { return None };
        let is_label = root == Root::Base && header.path.as_bytes() == BACKUP_LABEL;
        let captured = (is_label && len <= BackupLabel::MAX_LEN as u64).then(Vec::new);
        Some(Member { header, len, checksum: self.algorithm.start(), captured })
    }

    fn end_member(&mut self, archive: &Archive, member: Member) -> Result<(), BackupError> {
        let Member { header, len, checksum, captured } = member;
        let path = &header.path;
        if archive.root == Root::Base && path.as_bytes() == BACKUP_LABEL {
            let content = captured.ok_or(BackupLabelError::TooLong(len as usize))?;
            self.backup_label = Some(BackupLabel::parse(&content)?);
        }
        self.has_control_file |= archive.root == Root::Base && path.as_bytes() == PG_CONTROL;
        if let Some(ledger) = &mut self.ledger
            && Tree::is_listed(archive.root, path)
        {
            let spill = || {
                let directory = ConfinedDirectory::open(&std::env::temp_dir(), None);
                directory.map_err(|error| error.source)?.unnamed_file()
            };
            ledger.record(archive.prefix.as_bytes(), path.as_bytes(), len, &checksum.finish(), spill)?;
        }
        Ok(())
    }
}

fn begin_archive(name: ArchiveName) -> Phase {
    let ArchiveName { file_name: name, content } = name;
    let (root, prefix) = match content {
        ArchiveContent::DataDirectory => (Root::Base, String::new()),
        ArchiveContent::Tablespace { oid, .. } => (Root::Tablespace(oid), format!("pg_tblspc/{oid}/")),
    };
    Phase::Archive(Box::new(Archive { name, root, prefix, tar: TarStream::new(), member: None }))
}

#[cfg(test)]
#[path = "inspector_tests.rs"]
mod tests;
