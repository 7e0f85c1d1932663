//! The directories of a backup: the data directory, its tablespaces, and `pg_wal` when that lies elsewhere.
//!
//! Answers to `astreamer_extractor` in PostgreSQL's `src/fe_utils/astreamer_file.c`. Departures: links are made from
//! what the caller says, never from the archive, which may only repeat it; what exists is never overwritten; a link to
//! a tablespace made while the backup ran is left out (replay of its `CREATE TABLESPACE` makes it), where the original
//! would link to the directory that the server itself uses.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::archive_stream::{ArchiveContent, ArchiveName};
use super::confined::{ConfinedDirectory, FileError};
use super::error::{BackupError, MemberRule};
use super::kept_members::TABLESPACE_MAP_NAME;
use super::path::{MemberPath, tablespace_oid};
use super::tar_header::TarMember;
use super::target::{
    BackupTarget, DirectoryModes, MemberModes, SyncMethod, TablespacePlace, TablespaceTarget, WalMembers,
};

/// The name of the manifest, and the one it has until everything is durable.
pub const MANIFEST_NAME: &str = "backup_manifest";
/// See [`MANIFEST_NAME`].
pub const MANIFEST_TEMPORARY_NAME: &str = "backup_manifest.tmp";
/// The one it has instead when the server sends a file of that name: its directory is what an interrupted backup left.
pub(super) const OTHER_TEMPORARY_NAME: &str = ".pgwake-manifest.tmp";

/// The most links to tablespaces that were not announced.
pub const MAX_UNANNOUNCED_LINKS: usize = 1 << 10;

/// Names at the top that the server leaves out of every backup (`excludeFiles` in `basebackup.c`), or of this one.
const RESERVED: [&[u8]; 4] =
    [MANIFEST_NAME.as_bytes(), TABLESPACE_MAP_NAME.as_bytes(), b"postmaster.pid", b"postmaster.opts"];

/// What names at the top of a directory begin with that belong to the program that fills it.
const OWN_PREFIX: &[u8] = b".pgwake";

/// The most directories in one backup: each database is one, and each is remembered until it is synced.
const MAX_DIRECTORIES: usize = 1 << 20;

/// Names that no honest server sends: the program's own, and in a tablespace's archive anything but the one directory
/// `PG_<major>_<catalog version>` (`TABLESPACE_VERSION_DIRECTORY`) and what is in it.
fn check_name(archive: Root, path: &MemberPath) -> Result<(), MemberRule> {
    let top = path.as_bytes().split(|&byte| byte == b'/').next().unwrap_or_default();
    if top.starts_with(OWN_PREFIX) {
        return Err(MemberRule::Reserved);
    }
    match archive {
        Root::Tablespace(_) if !is_version_directory(top) => Err(MemberRule::OutsideTablespace),
        _ => Ok(()),
    }
}

fn is_version_directory(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"PG_") else { return false };
    let mut parts = rest.split(|&byte| byte == b'_');
    let number = |part: Option<&[u8]>| {
        part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
    };
    number(parts.next()) && number(parts.next()) && parts.next().is_none()
}

/// A tablespace that came to be while the backup ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnannouncedTablespace {
    /// Its OID.
    pub oid: u32,
    /// Its location on the server.
    pub location: Vec<u8>,
}

/// The directories, open.
#[derive(Debug)]
pub(super) struct Tree {
    base: ConfinedDirectory,
    wal: Option<ConfinedDirectory>,
    tablespaces: BTreeMap<u32, Tablespace>,
    unannounced: BTreeMap<u32, Vec<u8>>,
    /// Directories beneath the roots, parents before children.
    made: Vec<(Root, MemberPath)>,
    modes: DirectoryModes,
    member_modes: MemberModes,
    wal_members: WalMembers,
    /// What the manifest is called until the end.
    manifest_name: &'static str,
}

#[derive(Debug)]
struct Tablespace {
    location: Vec<u8>,
    place: TablespacePlace,
    directory: ConfinedDirectory,
    archive: Came,
    link: Came,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    NotYet,
    Once,
}

/// Which of the directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    Base,
    Wal,
    Tablespace(u32),
}

/// A file that was created.
pub(super) struct CreatedFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Tree {
    /// Opens the target's directories and makes what must be there before the first member: `pg_wal` with
    /// `archive_status`, because WAL may be streamed into it meanwhile, and the links of tablespaces.
    pub(super) fn create(target: &BackupTarget) -> Result<Self, BackupError> {
        let open =
            |path: &Path| ConfinedDirectory::open_held(path, target.held.leading_to(path), target.owner);
        let mut tree = Tree {
            base: open(&target.directory)?,
            wal: target.wal_directory.as_deref().map(open).transpose()?,
            tablespaces: BTreeMap::new(),
            unannounced: BTreeMap::new(),
            made: Vec::new(),
            modes: target.modes,
            member_modes: target.member_modes,
            wal_members: target.wal_members,
            manifest_name: MANIFEST_TEMPORARY_NAME,
        };
        let mode = target.modes.default_directory_mode();
        let pg_wal = MemberPath::literal("pg_wal");
        match &target.wal_directory {
            None => tree.make_directory(Root::Base, pg_wal, mode)?,
            Some(directory) => tree.make_link(&pg_wal, directory)?,
        }
        let (root, path) = tree.place(Root::Base, MemberPath::literal("pg_wal/archive_status"));
        tree.make_directory(root, path, mode)?;
        if !target.tablespaces.is_empty() {
            tree.make_directory(Root::Base, MemberPath::literal("pg_tblspc"), mode)?;
        }
        for tablespace in &target.tablespaces {
            tree.add_tablespace(tablespace, mode, open)?;
        }
        Ok(tree)
    }

    /// An archive begins: where its members go.
    pub(super) fn begin_archive(&mut self, archive: &ArchiveName) -> Result<Root, BackupError> {
        let ArchiveContent::Tablespace { oid, location } = &archive.content else { return Ok(Root::Base) };
        let announced = self.tablespaces.get_mut(oid).filter(|tablespace| tablespace.location == **location);
        let Some(tablespace) = announced else {
            return Err(BackupError::UnannouncedArchive(archive.file_name.clone()));
        };
        if std::mem::replace(&mut tablespace.archive, Came::Once) == Came::Once {
            return Err(BackupError::RepeatedArchive(archive.file_name.clone()));
        }
        Ok(Root::Tablespace(*oid))
    }

    /// Creates the file for a member.
    pub(super) fn create_file(
        &mut self,
        archive: Root,
        member: &TarMember,
    ) -> Result<CreatedFile, TreeError> {
        let path = &member.path;
        check_name(archive, path)?;
        if archive == Root::Base && RESERVED.contains(&path.as_bytes()) {
            return Err(MemberRule::Reserved.into());
        }
        if archive == Root::Base && is_wal(path) && self.wal_members == WalMembers::Refused {
            return Err(MemberRule::Wal.into());
        }
        let (root, path) = self.place(archive, path.clone());
        let mode = match self.member_modes {
            MemberModes::Restricted => self.modes.file_mode(member.mode),
            MemberModes::AsSent => member.mode & 0o777,
        };
        let directory = self.root(root);
        let file = directory.create_file(&path, mode).map_err(TreeError::creating)?;
        Ok(CreatedFile { file, path: directory.path_of(&path) })
    }

    /// Creates the directory of a member, or finds it made.
    pub(super) fn create_directory(&mut self, archive: Root, member: &TarMember) -> Result<(), TreeError> {
        check_name(archive, &member.path)?;
        if self.made.len() == MAX_DIRECTORIES {
            return Err(MemberRule::TooManyDirectories.into());
        }
        if archive == Root::Base && self.may_exist(&member.path) {
            let (root, path) = self.place(archive, member.path.clone());
            let expected = if root == Root::Base && path.as_bytes() == b"pg_wal" && self.wal.is_some() {
                FileType::Symlink
            } else {
                FileType::Directory
            };
            match self.root(root).file_type(&path)? {
                Some(found) if found == expected => return Ok(()),
                Some(_) => return Err(MemberRule::Repeated.into()),
                None => {}
            }
        } else if archive == Root::Base && is_wal(&member.path) {
            return Err(MemberRule::Wal.into());
        }
        let (root, path) = self.place(archive, member.path.clone());
        let mode = match self.member_modes {
            MemberModes::Restricted => self.modes.directory_mode(member.mode),
            MemberModes::AsSent => member.mode & 0o777 | 0o700,
        };
        self.make_directory(root, path, mode).map_err(TreeError::creating)
    }

    /// Checks the link of a member against what has been made.
    pub(super) fn check_link(
        &mut self,
        archive: Root,
        path: &MemberPath,
        target: &[u8],
    ) -> Result<(), MemberRule> {
        let oid =
            tablespace_oid(path.as_bytes()).filter(|_| archive == Root::Base).ok_or(MemberRule::Link)?;
        match self.tablespaces.get_mut(&oid) {
            Some(tablespace) if tablespace.place == TablespacePlace::InPlace => Err(MemberRule::Link),
            Some(tablespace) if tablespace.location != target => Err(MemberRule::LinkTarget),
            Some(tablespace) => match std::mem::replace(&mut tablespace.link, Came::Once) {
                Came::NotYet => Ok(()),
                Came::Once => Err(MemberRule::RepeatedLink),
            },
            None if self.unannounced.len() == MAX_UNANNOUNCED_LINKS => Err(MemberRule::RepeatedLink),
            None => match self.unannounced.insert(oid, target.to_vec()) {
                None => Ok(()),
                Some(_) => Err(MemberRule::RepeatedLink),
            },
        }
    }

    /// Whether the manifest lists a member: everything but segments of WAL. Histories, and what says that a file need
    /// not be archived, are in it.
    pub(super) fn is_listed(archive: Root, path: &MemberPath) -> bool {
        archive != Root::Base || !is_segment(path)
    }

    /// Creates the file that will be the manifest.
    pub(super) fn create_manifest(&mut self) -> Result<CreatedFile, FileError> {
        let mode = self.modes.default_file_mode();
        if self.base.file_type(&MemberPath::literal(MANIFEST_TEMPORARY_NAME))?.is_some() {
            self.manifest_name = OTHER_TEMPORARY_NAME;
        }
        let name = MemberPath::literal(self.manifest_name);
        let file = self.base.create_file(&name, mode)?;
        Ok(CreatedFile { file, path: self.base.path_of(&name) })
    }

    /// Opens a file at the top that is there already, to append to it; creates it when it is not.
    pub(super) fn open_own_file(&mut self, name: &MemberPath) -> Result<CreatedFile, FileError> {
        let mode = self.modes.default_file_mode();
        let file = self.base.append_or_create_file(name, mode)?;
        Ok(CreatedFile { file, path: self.base.path_of(name) })
    }

    /// Gives the manifest its name: the last step of a backup.
    pub(super) fn rename_manifest(&mut self) -> Result<(), FileError> {
        self.base.rename(&MemberPath::literal(self.manifest_name), &MemberPath::literal(MANIFEST_NAME))
    }

    /// The data directory.
    pub(super) fn base(&self) -> &ConfinedDirectory {
        &self.base
    }

    /// Every announced tablespace must have had its archive.
    pub(super) fn check_complete(&self) -> Result<(), BackupError> {
        match self.tablespaces.iter().find(|(_, tablespace)| tablespace.archive == Came::NotYet) {
            Some((oid, _)) => Err(BackupError::MissingTablespace(*oid)),
            None => Ok(()),
        }
    }

    /// Makes the entries of all directories durable, children before parents.
    pub(super) fn sync(&mut self, method: SyncMethod) -> Result<(), FileError> {
        match method {
            SyncMethod::None => return Ok(()),
            SyncMethod::Syncfs => {
                let tablespaces = self.tablespaces.values().map(|tablespace| &tablespace.directory);
                return tablespaces
                    .chain(&self.wal)
                    .chain([&self.base])
                    .try_for_each(ConfinedDirectory::sync_file_system);
            }
            SyncMethod::Fsync => {}
        }
        for (root, path) in std::mem::take(&mut self.made).into_iter().rev() {
            self.root(root).sync_beneath(&path)?;
        }
        let tablespaces = self.tablespaces.values().map(|tablespace| &tablespace.directory);
        tablespaces.chain(&self.wal).chain([&self.base]).try_for_each(ConfinedDirectory::sync)
    }

    /// Tablespaces that came to be while the backup ran.
    pub(super) fn take_unannounced(&mut self) -> Vec<UnannouncedTablespace> {
        let unannounced = std::mem::take(&mut self.unannounced).into_iter();
        unannounced.map(|(oid, location)| UnannouncedTablespace { oid, location }).collect()
    }

    fn add_tablespace(
        &mut self,
        tablespace: &TablespaceTarget,
        mode: u32,
        open: impl Fn(&Path) -> Result<ConfinedDirectory, FileError>,
    ) -> Result<(), BackupError> {
        let TablespaceTarget { oid, location, place } = tablespace;
        let oid = *oid;
        let path = MemberPath::parse(format!("pg_tblspc/{oid}").as_bytes())
            .map_err(|_| BackupError::TablespaceTarget(oid))?;
        let directory = match place {
            TablespacePlace::InPlace if **location != *path.as_bytes() => {
                return Err(BackupError::TablespaceTarget(oid));
            }
            _ if self.tablespaces.contains_key(&oid) => return Err(BackupError::TablespaceTarget(oid)),
            TablespacePlace::InPlace => {
                self.make_directory(Root::Base, path.clone(), mode)?;
                self.base.open_beneath(&path)?
            }
            TablespacePlace::Directory(directory) => {
                self.make_link(&path, directory)?;
                open(directory)?
            }
        };
        let (location, place) = (location.clone(), place.clone());
        let tablespace = Tablespace { location, place, directory, archive: Came::NotYet, link: Came::NotYet };
        self.tablespaces.insert(oid, tablespace);
        Ok(())
    }

    /// Directories that this program, or the stream of WAL beside the backup, makes before the archive names them.
    fn may_exist(&self, path: &MemberPath) -> bool {
        match path.as_bytes() {
            b"pg_wal" | b"pg_wal/archive_status" | b"pg_wal/summaries" => true,
            b"pg_tblspc" => !self.tablespaces.is_empty(),
            path => tablespace_oid(path)
                .and_then(|oid| self.tablespaces.get(&oid))
                .is_some_and(|tablespace| tablespace.place == TablespacePlace::InPlace),
        }
    }

    fn place(&self, archive: Root, path: MemberPath) -> (Root, MemberPath) {
        match path.beneath(b"pg_wal") {
            Some(path) if archive == Root::Base && self.wal.is_some() => (Root::Wal, path),
            _ => (archive, path),
        }
    }

    fn root(&mut self, root: Root) -> &mut ConfinedDirectory {
        let found = match root {
            Root::Base => Some(&mut self.base),
            Root::Wal => self.wal.as_mut(),
            Root::Tablespace(oid) => {
                self.tablespaces.get_mut(&oid).map(|tablespace| &mut tablespace.directory)
            }
        };
        found.expect("a root is named only after it has been opened")
    }

    fn make_directory(&mut self, root: Root, path: MemberPath, mode: u32) -> Result<(), FileError> {
        self.root(root).create_directory(&path, mode)?;
        self.made.push((root, path));
        Ok(())
    }

    fn make_link(&mut self, path: &MemberPath, target: &Path) -> Result<(), FileError> {
        let absolute = std::path::absolute(target)
            .map_err(|source| FileError::new("find the absolute path of", target, source))?;
        self.base.create_symlink(path, &absolute)
    }
}

/// Why a member was not written.
#[derive(Debug)]
pub(super) enum TreeError {
    Rule(MemberRule),
    File(FileError),
}

impl TreeError {
    /// Tells what the server did wrong from what the system could not do.
    fn creating(error: FileError) -> Self {
        match error.source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::EXIST) => TreeError::Rule(MemberRule::Repeated),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => TreeError::Rule(MemberRule::NoDirectory),
            _ => TreeError::File(error),
        }
    }
}

impl From<MemberRule> for TreeError {
    fn from(rule: MemberRule) -> Self {
        TreeError::Rule(rule)
    }
}

impl From<FileError> for TreeError {
    fn from(error: FileError) -> Self {
        TreeError::File(error)
    }
}

fn is_segment(path: &MemberPath) -> bool {
    let name = path.as_bytes().strip_prefix(b"pg_wal/");
    name.is_some_and(|name| name.len() == 24 && name.iter().all(u8::is_ascii_hexdigit))
}

fn is_wal(path: &MemberPath) -> bool {
    path.beneath(b"pg_wal").is_some()
}
