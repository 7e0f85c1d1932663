//! A backup's directory, read without leaving it.
//!
//! Every path is resolved from a descriptor, with no symbolic link on the way: a backup may have been made by somebody
//! who wants to know what is in `/etc/shadow`. The links of tablespaces, `pg_tblspc/<name>`, are followed once, when
//! the walk meets them, and what they lead to is another such directory. Departure: PostgreSQL's tool follows every
//! link.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Whoever put a pipe there does not make us wait.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The directory where links of tablespaces are.
const TABLESPACES: &[u8] = b"pg_tblspc";

/// A backup's directory and its tablespaces.
#[derive(Debug)]
pub(super) struct BackupTree {
    root: OwnedFd,
    /// By their path in the backup: `pg_tblspc/16384`.
    tablespaces: HashMap<Box<[u8]>, OwnedFd>,
    /// The kernel, or a sandbox, does not know `openat2`.
    walks: AtomicBool,
}

/// What stands in a directory under a name.
#[derive(Debug)]
pub(super) enum Entry {
    /// A directory, or the link of a tablespace that is one.
    Directory,
    /// A regular file of this length.
    File { len: u64 },
    /// Neither.
    Other,
}

impl BackupTree {
    /// The path itself may lead through links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(BackupTree { root, tablespaces: HashMap::new(), walks: AtomicBool::new(false) })
    }

    /// The names in a directory (the empty path is the backup's own), sorted: what is told of them then comes in
    /// the same order each time.
    pub(super) fn names(&self, path: &[u8]) -> io::Result<(OwnedFd, Vec<Box<[u8]>>)> {
        let directory = match path {
            b"" => rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty())?,
            path => self.open_beneath(path, DIRECTORY)?,
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            match entry?.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(Box::from(name)),
            }
        }
        names.sort_unstable();
        Ok((directory, names))
    }

    /// What `name` is in `directory`, whose path is `parent`.
    pub(super) fn look(
        &mut self,
        directory: BorrowedFd<'_>,
        parent: &[u8],
        name: &[u8],
    ) -> io::Result<Entry> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || parent != TABLESPACES {
            return Ok(entry(&stat));
        }
        match rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()) {
            Ok(tablespace) => {
                self.tablespaces.insert([parent, b"/", name].concat().into(), tablespace);
                Ok(Entry::Directory)
            }
            Err(Errno::NOTDIR) => Ok(Entry::Other),
            Err(error) => Err(error.into()),
        }
    }

    /// What `name` is in `directory`. No link is followed.
    pub(super) fn look_at(&self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Entry> {
        Ok(entry(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Opens a regular file.
    pub(super) fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let file = File::from(self.open_beneath(path, FILE)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::INVAL.into()) }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let (start, path) = self.start_of(path);
        if path.is_empty() {
            return rustix::fs::openat(start, ".", flags, Mode::empty());
        }
        if !self.walks.load(Ordering::Relaxed) {
            let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(start, path, flags, Mode::empty(), confined) {
                Err(Errno::NOSYS | Errno::PERM) => self.walks.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        walk(start, path, flags)
    }

    /// The nearest directory that is open, and the rest of the path from there.
    fn start_of<'a>(&self, path: &'a [u8]) -> (BorrowedFd<'_>, &'a [u8]) {
        let in_tablespaces = path.strip_prefix(TABLESPACES).and_then(|rest| rest.strip_prefix(b"/"));
        if let Some(rest) = in_tablespaces {
            let name_len = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (link, rest) = path.split_at(TABLESPACES.len() + 1 + name_len);
            if let Some(tablespace) = self.tablespaces.get(link) {
                return (tablespace.as_fd(), rest.strip_prefix(b"/").unwrap_or(rest));
            }
        }
        (self.root.as_fd(), path)
    }
}

/// Component by component. Paths are made of names that directories have, so none of them is `..`.
fn walk(start: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut components = path.split(|byte| *byte == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        if component == b".." {
            return Err(Errno::XDEV);
        }
        let flags = if components.peek().is_some() { DIRECTORY } else { flags };
        let from = at.as_ref().map_or(start, AsFd::as_fd);
        at = Some(rustix::fs::openat(from, component, flags | OFlags::NOFOLLOW, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

fn entry(stat: &Stat) -> Entry {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Entry::Directory,
        FileType::RegularFile => Entry::File { len: stat.st_size as u64 },
        _ => Entry::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn follows_the_links_of_tablespaces_and_no_other() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        for directory in ["backup/base", "backup/pg_tblspc", "away/deep"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        std::fs::write(at("away/deep/x"), b"x").unwrap();
        for link in ["backup/base/link", "backup/pg_tblspc/1", "away/deep/again"] {
            symlink(at("away"), at(link)).unwrap();
        }
        symlink(at("away/deep/x"), at("backup/pg_tblspc/2")).unwrap();
        symlink(at("nowhere"), at("backup/pg_tblspc/3")).unwrap();
        for walks in [false, true] {
            let mut tree = BackupTree::open(&at("backup")).unwrap();
            tree.walks = AtomicBool::new(walks);
            let (directory, _) = tree.names(b"base").unwrap();
            assert!(matches!(tree.look(directory.as_fd(), b"base", b"link"), Ok(Entry::Other)));
            let (directory, names) = tree.names(b"pg_tblspc").unwrap();
            assert_eq!(names.len(), 3);
            assert!(tree.open_file(b"pg_tblspc/1/deep/x").is_err());
            assert!(matches!(tree.look(directory.as_fd(), b"pg_tblspc", b"1"), Ok(Entry::Directory)));
            assert!(matches!(tree.look(directory.as_fd(), b"pg_tblspc", b"2"), Ok(Entry::Other)));
            let dangling = tree.look(directory.as_fd(), b"pg_tblspc", b"3").unwrap_err();
            assert_eq!(dangling.kind(), io::ErrorKind::NotFound);
            let (directory, _) = tree.names(b"pg_tblspc/1/deep").unwrap();
            assert!(matches!(tree.look(directory.as_fd(), b"pg_tblspc/1/deep", b"again"), Ok(Entry::Other)));
            let mut content = String::new();
            tree.open_file(b"pg_tblspc/1/deep/x").unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "x");
            for path in ["base/link/deep/x", "base/../base", "pg_tblspc/1/deep/again/deep/x", "pg_tblspc/2"] {
                assert!(tree.open_file(path.as_bytes()).is_err(), "{path}");
            }
        }
    }
}
