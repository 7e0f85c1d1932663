//! A backup in tar format: which archives there are, and what their members are.
//!
//! Answers to `verify_tar_backup` in PostgreSQL's `pg_verifybackup.c`, and to `astreamer_verify.c`. Departures: the
//! members of archives that are not compressed are read on several threads, wherever they lie; names of archives are
//! taken as `pg_basebackup` spells them and not otherwise; an archive that a server or `pg_basebackup` cannot have
//! written is damage.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::checksum::RunningChecksum;
use super::super::path::{MemberPath, parse_oid};
use super::super::tar_header::MemberKind;
use super::super::tar_stream::TarEvent;
use super::checksums::{self, Content, ContentSource, Task, on_threads, read_at};
use super::compressed::{self, Next};
use super::control::{CONTROL_FILE, READ_LEN, check_control_file};
use super::error::VerifyError;
use super::findings::Findings;
use super::ignored::Ignored;
use super::listing::{Listed, Listing};
use super::problem::{ArchiveFault, ControlFileFault, Place, Problem};
use super::tar_index;
use super::tree::{BackupTree, Entry};
use super::verifier::ChecksumCheck;
use super::wal_place::WalPlace;
use crate::compression::CompressionMethod;
use crate::pg::{ControlFile, SystemIdentifier};

/// The archives of a backup, looked through.
pub(super) struct ArchiveScan<'a> {
    pub(super) tree: &'a BackupTree,
    pub(super) directory: &'a Path,
    pub(super) listing: &'a Listing,
    pub(super) ignored: &'a Ignored,
    pub(super) findings: &'a Findings<'a>,
    pub(super) system_identifier: Option<SystemIdentifier>,
    pub(super) checksums: ChecksumCheck,
    pub(super) thread_count: usize,
}

/// What came of it besides problems.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) control: Option<ControlFile>,
    /// The archive that has the WAL, or would have it.
    pub(super) wal_place: Option<WalPlace>,
}

/// An archive, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    name: Box<[u8]>,
    content: ArchiveContent,
    method: CompressionMethod,
    len: u64,
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveContent {
    /// The data directory.
    Base,
    /// `pg_wal`.
    Wal,
    /// The tablespace of this OID.
    Tablespace(u32),
}

/// What the name of an archive says: `base.tar`, `16384.tar.gz` …
pub(super) fn parse_archive_name(name: &[u8]) -> Option<(ArchiveContent, CompressionMethod)> {
    let dot = name.iter().position(|byte| *byte == b'.')?;
    let (stem, suffix) = name.split_at(dot);
    let method = match suffix {
        b".tar" => CompressionMethod::None,
        b".tar.gz" | b".tgz" => CompressionMethod::Gzip,
        b".tar.lz4" => CompressionMethod::Lz4,
        b".tar.zst" => CompressionMethod::Zstd,
        _ => return None,
    };
    let content = match stem {
        b"base" => ArchiveContent::Base,
        b"pg_wal" => ArchiveContent::Wal,
        oid => ArchiveContent::Tablespace(parse_oid(oid)?),
    };
    Some((content, method))
}

impl ArchiveScan<'_> {
    pub(super) fn run(&mut self) -> Result<Scanned, VerifyError> {
        let mut scanned = Scanned { control: None, wal_place: None };
        let archives = self.archives()?;
        let place = |archive: &Archive| WalPlace::of_archive(self.directory, &archive.name, archive.method);
        for wanted in [ArchiveContent::Wal, ArchiveContent::Base] {
            let found = archives.iter().rev().find(|archive| archive.content == wanted);
            scanned.wal_place = scanned.wal_place.or(found.map(place));
        }
        let to_scan = archives.into_iter().filter(|archive| archive.content != ArchiveContent::Wal);
        let (plain, compressed): (Vec<Archive>, Vec<Archive>) =
            to_scan.partition(|archive| archive.method == CompressionMethod::None);
        self.plain(&plain, &mut scanned.control)?;
        self.compressed(&compressed, &mut scanned.control)?;
        Ok(scanned)
    }

    /// The archives that there are, by name; what is something else is told of.
    fn archives(&mut self) -> Result<Vec<Archive>, VerifyError> {
        let failed = |source| VerifyError::Directory { path: self.directory.to_owned(), source };
        let (directory, names) = self.tree.names(b"").map_err(failed)?;
        let mut archives = Vec::new();
        for name in names {
            if self.findings.has_stopped() {
                break;
            }
            if self.ignored.covers(&name) {
                continue;
            }
            let len = match self.tree.look_at(directory.as_fd(), &name) {
                Ok(Entry::File { len }) => len,
                Ok(_) => {
                    self.findings.tell(Problem::NotAFile { name });
                    continue;
                }
                Err(source) => {
                    self.findings.tell(Problem::Stat { path: name, source });
                    continue;
                }
            };
            match parse_archive_name(&name) {
                Some((content, method)) => {
                    if content != ArchiveContent::Wal {
                        self.findings.expect(len);
                    }
                    archives.push(Archive { name, content, method, len });
                }
                None => self.findings.tell(Problem::NotAnArchive { name }),
            }
        }
        Ok(archives)
    }

    /// First where everything is, then checksums on all threads.
    fn plain(&self, archives: &[Archive], control: &mut Option<ControlFile>) -> Result<(), VerifyError> {
        let mut open = OpenArchives::default();
        let mut tasks = Vec::new();
        for archive in archives {
            let Some(file) = self.open(archive) else { continue };
            let number = open.files.len() as u32;
            let mut to_read = 0;
            let indexed = tar_index::index(&file, |member| {
                let Some(listed) = self.meet(archive, member.path, member.len) else { return Ok(()) };
                if listed.path == CONTROL_FILE && member.len <= READ_LEN as u64 {
                    let mut content = vec![0; member.len as usize];
                    let failed = |source| ArchiveFault::Read { offset: member.offset, source };
                    let read = read_at(&file, &mut content, member.offset).map_err(failed)?;
                    content.truncate(read);
                    let mut current = self.begin(listed);
                    current.take(&content);
                    self.end(archive, current, control);
                    return Ok(());
                }
                if self.checksums == ChecksumCheck::Compare && listed.has_checksum_to_check() {
                    to_read += member.len;
                    tasks.push(Task { id: listed.id, archive: number, offset: member.offset });
                }
                Ok(())
            });
            if let Err(fault) = indexed {
                self.findings.tell(Problem::Archive { name: archive.name.clone(), fault });
            }
            if self.findings.has_stopped() {
                return Ok(());
            }
            // headers and padding
            self.findings.read(archive.len.saturating_sub(to_read));
            open.files.push((archive.name.clone(), Arc::new(file)));
        }
        checksums::check(self.listing, self.findings, &open, tasks, self.thread_count)
    }

    /// Each from front to back, several at once.
    fn compressed(&self, archives: &[Archive], control: &mut Option<ControlFile>) -> Result<(), VerifyError> {
        if archives.is_empty() {
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let found = Mutex::new(None);
        let work = || {
            while let Some(archive) = archives.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Some(file) = self.open(archive) else { continue };
                let mut members = MemberScan { scan: self, archive, current: None, control: None };
                let streamed = compressed::stream(
                    &file,
                    archive.method,
                    |event| members.event(event),
                    |read| self.findings.read(read),
                );
                if let Some(control) = members.control {
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
                }
                if let Err(fault) = streamed {
                    self.findings.tell(Problem::Archive { name: archive.name.clone(), fault });
                }
            }
        };
        on_threads(self.thread_count.clamp(1, archives.len()), work)?;
        *control = control.or(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn open(&self, archive: &Archive) -> Option<File> {
        if self.findings.has_stopped() {
            return None;
        }
        let path = || archive.name.clone();
        let told = |source| self.findings.tell(Problem::Open { path: path(), source });
        self.tree.open_file(&archive.name).map_err(told).ok()
    }

    /// A member, beside the manifest; the file whose content is worth a look (`member_verify_header`).
    fn meet(&self, archive: &Archive, path: &MemberPath, found: u64) -> Option<Listed<'_>> {
        let full_path = match archive.content {
            ArchiveContent::Tablespace(oid) => {
                [format!("pg_tblspc/{oid}/").as_bytes(), path.as_bytes()].concat()
            }
            ArchiveContent::Base | ArchiveContent::Wal => path.as_bytes().to_vec(),
        };
        if self.ignored.covers(&full_path) {
            return None;
        }
        let (path, place) = (|| Box::from(path.as_bytes()), || Place::Archive(archive.name.clone()));
        let Some(listed) = self.listing.find(&full_path) else {
            self.findings.tell(Problem::Unlisted { path: path(), place: place() });
            return None;
        };
        listed.meet();
        if found != listed.size {
            listed.condemn();
            let listed = listed.size;
            self.findings.tell(Problem::Size { path: path(), place: place(), found, listed });
            return None;
        }
        Some(listed)
    }

    /// A file whose content comes now.
    fn begin<'a>(&self, listed: Listed<'a>) -> Current<'a> {
        let compares = self.checksums == ChecksumCheck::Compare && listed.has_checksum_to_check();
        let checksum = compares.then(|| listed.algorithm.start());
        let content = (listed.path == CONTROL_FILE).then(Vec::new);
        Current { listed, read: 0, checksum, content }
    }

    /// All of it has come.
    fn end(&self, archive: &Archive, current: Current<'_>, control: &mut Option<ControlFile>) {
        let Current { listed, read, checksum, content } = current;
        if let Some(checksum) = checksum {
            let place = || Place::Archive(archive.name.clone());
            let problem = checksums::compare(&listed, place, read, checksum.finish().as_bytes());
            problem.into_iter().for_each(|problem| self.findings.tell(problem));
        }
        if let Some(content) = content {
            self.control_file(archive, &content, read, control);
        }
    }

    /// `member_verify_control_data`; of an earlier manifest's backup only to know whose WAL it has to have.
    fn control_file(&self, archive: &Archive, content: &[u8], len: u64, control: &mut Option<ControlFile>) {
        let checked = match (self.system_identifier, len) {
            (Some(_), found) if found != READ_LEN as u64 => {
                Err(ControlFileFault::Size { found, expected: READ_LEN as u64 })
            }
            (identifier, _) => check_control_file(content, identifier),
        };
        match checked {
            Ok(found) => *control = Some(found),
            Err(fault) if self.system_identifier.is_some() => {
                let path = [&archive.name, &b": "[..], CONTROL_FILE].concat().into();
                self.findings.tell(Problem::ControlFile { path, fault });
            }
            Err(_) => {}
        }
    }
}

/// The archives that members are read from.
#[derive(Debug, Default)]
struct OpenArchives {
    files: Vec<(Box<[u8]>, Arc<File>)>,
}

impl ContentSource for OpenArchives {
    fn open(&self, task: Task, _: &[u8]) -> io::Result<Content> {
        let (_, file) = &self.files[task.archive as usize];
        Ok(Content { file: Arc::clone(file), offset: task.offset })
    }

    fn place(&self, task: Task) -> Place {
        Place::Archive(self.files[task.archive as usize].0.clone())
    }
}

/// The members of an archive that streams by.
struct MemberScan<'a> {
    scan: &'a ArchiveScan<'a>,
    archive: &'a Archive,
    current: Option<Current<'a>>,
    control: Option<ControlFile>,
}

struct Current<'a> {
    listed: Listed<'a>,
    read: u64,
    checksum: Option<RunningChecksum>,
    /// Of a control file, its content.
    content: Option<Vec<u8>>,
}

impl MemberScan<'_> {
    fn event(&mut self, event: TarEvent) -> Next {
        match event {
            TarEvent::Member(member) => {
                if let MemberKind::File { len } = member.kind {
                    let listed = self.scan.meet(self.archive, &member.path, len);
                    self.current = listed.map(|listed| self.scan.begin(listed));
                }
            }
            TarEvent::Data(data) => {
                if let Some(current) = &mut self.current {
                    current.take(&data);
                }
            }
            TarEvent::MemberEnd => {
                if let Some(current) = self.current.take() {
                    self.scan.end(self.archive, current, &mut self.control);
                }
            }
            TarEvent::End => {}
        }
        if self.scan.findings.has_stopped() { Next::Stop } else { Next::Event }
    }
}

impl Current<'_> {
    fn take(&mut self, data: &[u8]) {
        self.read += data.len() as u64;
        if let Some(checksum) = &mut self.checksum {
            checksum.update(data);
        }
        if let Some(content) = &mut self.content {
            let room = READ_LEN - content.len();
            content.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_have_the_names_that_pg_basebackup_gives_them() {
        use ArchiveContent::{Base, Tablespace, Wal};
        for (name, expected) in [
            ("base.tar", Some((Base, CompressionMethod::None))),
            ("base.tar.gz", Some((Base, CompressionMethod::Gzip))),
            ("16384.tar.lz4", Some((Tablespace(16384), CompressionMethod::Lz4))),
            ("pg_wal.tar.zst", Some((Wal, CompressionMethod::Zstd))),
            ("base", None),
            ("base.tar.bz2", None),
            ("base2.tar", None),
            ("0.tar", None),
            ("016384.tar", None),
            ("4294967296.tar", None),
            (".tar", None),
            ("pg_wal.tar.gz.gz", None),
        ] {
            assert_eq!(parse_archive_name(name.as_bytes()), expected, "{name}");
        }
    }
}
