//! Backups made up for tests: streams as a server sends them, and scratch space that notices what is written outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::tar_header::tests::{header, link};
use super::*;

pub(super) const LABEL: &[u8] = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIMELINE: 1\n";

/// One archive, member by member.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn file(self, name: &[u8], content: &[u8]) -> Self {
        let padding = content.len().next_multiple_of(512) - content.len();
        self.raw(&header(name, b'0', content.len() as u64)).raw(content).raw(&vec![0; padding])
    }

    pub(super) fn directory(self, name: &[u8]) -> Self {
        self.raw(&header(name, b'5', 0))
    }

    pub(super) fn link(self, name: &[u8], target: &[u8]) -> Self {
        self.raw(&link(name, target))
    }

    pub(super) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// What every base archive begins with, up to where `pg_tblspc` stands open.
    pub(super) fn base() -> Self {
        let tar = Tar::default().file(b"backup_label", LABEL);
        tar.directory(b"global/")
            .directory(b"pg_wal/")
            .directory(b"./pg_wal/archive_status/")
            .directory(b"pg_tblspc/")
            .directory(b"base/")
    }

    /// What every base archive ends with.
    pub(super) fn control(self) -> Vec<u8> {
        self.file(b"global/pg_control", &[1; 8192]).end()
    }
}

/// A manifest of these files, with CRC-32C.
pub(super) fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n".to_owned();
    for (index, (path, content)) in files.iter().enumerate() {
        let crc = crc32c::crc32c(content).to_ne_bytes();
        let comma = if index == 0 { "" } else { ",\n" };
        write!(
            text,
            "{comma}{{ \"Path\": \"{path}\", \"Size\": {}, \"Checksum-Algorithm\": \"CRC32C\", ",
            content.len()
        )
        .unwrap();
        write!(text, "\"Checksum\": \"{}\" }}", hex(&crc)).unwrap();
    }
    text += "\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n";
    let digest = Sha256::digest(text.as_bytes());
    writeln!(text, "\"Manifest-Checksum\": \"{}\"}}", hex(&digest)).unwrap();
    text.into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Room for one backup, with a sentinel beside the target.
pub(super) struct Scratch {
    directory: tempfile::TempDir,
    pub(super) target: BackupTarget,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["target", "outside", "ts", "wal"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("outside/sentinel"), b"untouched").unwrap();
        let target = BackupTarget {
            directory: directory.path().join("target"),
            tablespaces: Vec::new(),
            wal_directory: None,
            modes: DirectoryModes::OwnerOnly,
            member_modes: MemberModes::Restricted,
            owner: None,
            sync: SyncMethod::None,
            manifest: ManifestPolicy::Required(ChecksumAlgorithm::Crc32c),
            archive_end: ArchiveEnd::Terminated,
            wal_members: WalMembers::Refused,
            standby: None,
            held: HeldPlaces::default(),
        };
        Scratch { directory, target }
    }

    /// With tablespace 16384, on the server at `/srv/ts`.
    pub(super) fn with_tablespace() -> Self {
        let mut scratch = Scratch::new();
        let place = TablespacePlace::Directory(scratch.path("ts"));
        scratch.target.tablespaces.push(TablespaceTarget {
            oid: 16384,
            location: b"/srv/ts".to_vec(),
            place,
        });
        scratch
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends archives, then perhaps a manifest.
    pub(super) fn receive(
        &self,
        archives: &[(ArchiveName, Vec<u8>)],
        manifest: Option<Vec<u8>>,
    ) -> Result<FinishedBackup, BackupError> {
        let mut writer = BackupWriter::create(&self.target)?;
        for (name, archive) in archives {
            writer.handle(ArchiveEvent::ArchiveBegin(name.clone()))?;
            for chunk in archive.chunks(700) {
                writer.handle(ArchiveEvent::ArchiveData(Bytes::copy_from_slice(chunk)))?;
            }
        }
        if let Some(manifest) = manifest {
            writer.handle(ArchiveEvent::ManifestBegin)?;
            for chunk in manifest.chunks(100) {
                writer.handle(ArchiveEvent::ManifestData(Bytes::copy_from_slice(chunk)))?;
            }
        }
        writer.finish()
    }

    /// Everything below a directory: name, and content or kind.
    pub(super) fn list(&self, name: &str) -> BTreeMap<String, String> {
        let root = self.path(name);
        let mut found = BTreeMap::new();
        let mut pending = vec![root.clone()];
        while let Some(path) = pending.pop() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap().file_type();
                let what = if kind.is_dir() {
                    pending.push(path.clone());
                    "/".to_owned()
                } else if kind.is_symlink() {
                    format!("-> {}", self.relative(&std::fs::read_link(&path).unwrap()))
                } else {
                    std::fs::read(&path).unwrap().len().to_string()
                };
                found.insert(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), what);
            }
        }
        found
    }

    /// Nothing beside the target and the tablespace has been touched.
    pub(super) fn assert_confined(&self) {
        let outside = self.list("outside");
        assert_eq!(outside, BTreeMap::from([("sentinel".to_owned(), "9".to_owned())]), "written outside");
        assert_eq!(std::fs::read(self.path("outside/sentinel")).unwrap(), b"untouched");
        let names = std::fs::read_dir(self.directory.path()).unwrap().count();
        assert_eq!(names, 4, "something was made beside the target");
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.directory.path()).unwrap_or(path).to_string_lossy().into_owned()
    }
}

pub(super) fn base(archive: Vec<u8>) -> (ArchiveName, Vec<u8>) {
    (ArchiveName::data_directory(), archive)
}

pub(super) fn tablespace(archive: Vec<u8>) -> (ArchiveName, Vec<u8>) {
    (ArchiveName::tablespace(16384, Bytes::from_static(b"/srv/ts")), archive)
}
