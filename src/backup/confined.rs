//! A directory that can be written into and read from, and never out of.
//!
//! Every name is resolved from a descriptor of the directory, with `openat2(RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS,
//! RESOLVE_NO_MAGICLINKS)`, or, where the kernel has no `openat2`, component by component with `O_NOFOLLOW`.
//! [`MemberPath`] excludes `..`, so both say the same: no symbolic link is followed, whoever put it there. Files are
//! created with `O_EXCL`: what exists is never written to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::path::MemberPath;
use super::target::FileOwner;

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} \"{}\"", .path.display())]
pub struct FileError {
    /// What was being done, with the kind of thing: `create file`.
    pub operation: &'static str,
    /// To what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        FileError { operation, path: path.into(), source: source.into() }
    }
}

/// A directory and its descriptor, through which alone its content is made.
#[derive(Debug)]
pub struct ConfinedDirectory {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    owner: Option<FileOwner>,
    resolver: Resolver,
    /// The directory used last: members come directory by directory.
    last_parent: Option<(Box<[u8]>, OwnedFd)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    Openat2,
    Walk,
}

/// How deep directories are removed that lie in each other: deeper than a tar header's 256 bytes can name.
const MAX_REMOVED_DEPTH: usize = 200;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl ConfinedDirectory {
    /// Opens an existing directory. The path itself is the caller's and may lead through symbolic links. What is
    /// made in it is given to `owner`.
    pub fn open(path: &Path, owner: Option<FileOwner>) -> Result<Self, FileError> {
        Self::open_with(path, DIRECTORY.difference(OFlags::NOFOLLOW), owner)
    }

    /// Opens a directory that was made just now: a link in its place is an error.
    pub fn open_made(path: &Path, owner: Option<FileOwner>) -> Result<Self, FileError> {
        Self::open_with(path, DIRECTORY, owner)
    }

    /// Opens the directory that `held` leads into, and that is called `path`.
    pub fn open_held(path: &Path, held: &Path, owner: Option<FileOwner>) -> Result<Self, FileError> {
        let opened = Self::open(held, owner);
        let opened = opened.map_err(|error| FileError::new("open directory", path, error.source))?;
        Ok(ConfinedDirectory { path: path.to_owned(), ..opened })
    }

    fn open_with(path: &Path, flags: OFlags, owner: Option<FileOwner>) -> Result<Self, FileError> {
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| FileError::new("open directory", path, errno))?;
        Ok(ConfinedDirectory {
            fd: Arc::new(fd),
            path: path.to_owned(),
            owner,
            resolver: Resolver::Openat2,
            last_parent: None,
        })
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where something in it is, for messages.
    pub fn path_of(&self, member: &MemberPath) -> PathBuf {
        self.path.join(member.as_path())
    }

    /// A directory beneath this one.
    pub fn open_beneath(&mut self, member: &MemberPath) -> Result<Self, FileError> {
        let path = self.path_of(member);
        let fd = self
            .resolve(member.as_bytes())
            .map_err(|errno| FileError::new("open directory", &path, errno))?;
        let (owner, resolver) = (self.owner, self.resolver);
        Ok(ConfinedDirectory { fd: Arc::new(fd), path, owner, resolver, last_parent: None })
    }

    /// The same directory once more, for another thread.
    pub fn handle(&self) -> Self {
        let (owner, resolver) = (self.owner, self.resolver);
        ConfinedDirectory {
            fd: Arc::clone(&self.fd),
            path: self.path.clone(),
            owner,
            resolver,
            last_parent: None,
        }
    }

    /// Device and inode: which directory it is, whatever leads to it.
    pub fn identity(&self) -> Result<(u64, u64), FileError> {
        match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino)),
            Err(errno) => Err(FileError::new("stat", &self.path, errno)),
        }
    }

    /// Opens a file for reading. It may turn out to be something other than a regular file, but never a link; a pipe
    /// that nobody writes to is not waited for.
    pub fn open_file(&mut self, member: &MemberPath) -> Result<File, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self.in_parent(member, |parent, name| {
            rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)
        });
        opened.map_err(|errno| FileError::new("open file", self.path_of(member), errno))
    }

    /// The entries of this directory, or of one beneath it, in the order in which the system has them.
    pub fn list(&mut self, member: Option<&MemberPath>) -> Result<Dir, FileError> {
        let listed = match member {
            Some(member) => self.resolve(member.as_bytes()).and_then(Dir::new),
            None => Dir::read_from(&self.fd),
        };
        listed.map_err(|errno| {
            let path = member.map_or_else(|| self.path.clone(), |member| self.path_of(member));
            FileError::new("open directory", path, errno)
        })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> Result<bool, FileError> {
        self.is_empty_but_for(None)
    }

    /// Whether there is nothing in it but perhaps an entry of this name.
    pub fn is_empty_but_for(&self, passed_over: Option<&str>) -> Result<bool, FileError> {
        let failed = |errno| FileError::new("read directory", &self.path, errno);
        let mut entries = Dir::read_from(&self.fd).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && passed_over.is_none_or(|other| other.as_bytes() != name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where a symbolic link leads. It is not followed.
    pub fn read_link(&mut self, member: &MemberPath) -> Result<PathBuf, FileError> {
        let read = self.in_parent(member, |parent, name| rustix::fs::readlinkat(parent, name, Vec::new()));
        match read {
            Ok(target) => Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()))),
            Err(errno) => Err(FileError::new("read symbolic link", self.path_of(member), errno)),
        }
    }

    /// Gives a file of another directory a second name in this one. A link is not followed.
    pub fn link_file(
        &mut self,
        member: &MemberPath,
        source: &mut ConfinedDirectory,
        source_member: &MemberPath,
    ) -> Result<(), io::Error> {
        let linked = source.in_parent(source_member, |source_parent, source_name| {
            self.in_parent(member, |parent, name| {
                rustix::fs::linkat(source_parent, source_name, parent, name, AtFlags::empty())
            })
        });
        linked.map_err(io::Error::from)
    }

    /// Creates a file, for writing, with exactly these permission bits.
    pub fn create_file(&mut self, member: &MemberPath, mode: u32) -> Result<File, FileError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner = self.owner;
        let created = self.in_parent(member, |parent, name| {
            let fd = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            own(parent, name, owner)?;
            if mode != 0o600 {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
            }
            Ok(File::from(fd))
        });
        created.map_err(|errno| FileError::new("create file", self.path_of(member), errno))
    }

    /// Opens a file for appending, or creates it with these permission bits. No link is followed.
    pub fn append_or_create_file(&mut self, member: &MemberPath, mode: u32) -> Result<File, FileError> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            self.in_parent(member, |parent, name| rustix::fs::openat(parent, name, flags, Mode::empty()));
        match opened {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::NOENT) => self.create_file(member, mode),
            Err(errno) => Err(FileError::new("open file", self.path_of(member), errno)),
        }
    }

    /// Creates a directory with exactly these permission bits.
    pub fn create_directory(&mut self, member: &MemberPath, mode: u32) -> Result<(), FileError> {
        let owner = self.owner;
        let created = self.in_parent(member, |parent, name| {
            rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
            own(parent, name, owner)?;
            if mode != 0o700 {
                let fd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
            }
            Ok(())
        });
        created.map_err(|errno| FileError::new("create directory", self.path_of(member), errno))
    }

    /// Creates a symbolic link, to wherever the caller (never a server) says.
    pub fn create_symlink(&mut self, member: &MemberPath, target: &Path) -> Result<(), FileError> {
        let owner = self.owner;
        let created = self.in_parent(member, |parent, name| {
            rustix::fs::symlinkat(target, parent, name)?;
            own(parent, name, owner)
        });
        created.map_err(|errno| FileError::new("create symbolic link", self.path_of(member), errno))
    }

    /// What stands under a name; `None` when nothing does. Links are not followed.
    pub fn file_type(&mut self, member: &MemberPath) -> Result<Option<FileType>, FileError> {
        let found = self
            .in_parent(member, |parent, name| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::new("stat", self.path_of(member), errno)),
        }
    }

    /// Renames within one directory.
    pub fn rename(&mut self, from: &MemberPath, to: &MemberPath) -> Result<(), FileError> {
        debug_assert!(from.split().0 == to.split().0, "a rename stays in its directory");
        let to = Path::new(std::ffi::OsStr::from_bytes(to.split().1));
        self.in_parent(from, |parent, name| rustix::fs::renameat(parent, name, parent, to))
            .map_err(|errno| FileError::new("rename", self.path_of(from), errno))
    }

    /// Removes everything that is in it: what was opened, whatever its name leads to by now, and no link is followed.
    pub fn remove_contents(&self) -> Result<(), FileError> {
        remove_entries(self.fd.as_fd(), &self.path, MAX_REMOVED_DEPTH)
    }

    /// Removes the directory with everything in it. If its name leads to another by now, that one stays.
    pub fn remove(&self) -> Result<(), FileError> {
        self.remove_contents()?;
        let failed = |errno| FileError::new("remove directory", &self.path, errno);
        let named = rustix::fs::lstat(&self.path).map_err(failed)?;
        if (named.st_dev, named.st_ino) != self.identity()? {
            return Err(failed(Errno::STALE));
        }
        rustix::fs::rmdir(&self.path).map_err(failed)
    }

    /// Makes the directory's own entries durable.
    pub fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| FileError::new("fsync directory", &self.path, errno))
    }

    /// Makes the entries of a directory beneath this one durable.
    pub fn sync_beneath(&mut self, member: &MemberPath) -> Result<(), FileError> {
        let synced = self.resolve(member.as_bytes()).and_then(rustix::fs::fsync);
        synced.map_err(|errno| FileError::new("fsync directory", self.path_of(member), errno))
    }

    /// Makes everything on the file system of this directory durable.
    pub fn sync_file_system(&self) -> Result<(), FileError> {
        rustix::fs::syncfs(&self.fd).map_err(|errno| FileError::new("sync file system of", &self.path, errno))
    }

    /// An empty file without a name, gone with its descriptor.
    pub fn unnamed_file(&self) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, ".", flags, mode) {
            Ok(fd) => return Ok(File::from(fd)),
            // Not every file system has them.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        let name = format!(".pgwake-{:016x}.tmp", fastrand::u64(..));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, &name, flags, mode)?;
        rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty())?;
        Ok(File::from(fd))
    }

    fn in_parent<T>(
        &mut self,
        member: &MemberPath,
        act: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, name) = member.split();
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        if directory.is_empty() {
            return act(self.fd.as_fd(), name);
        }
        if self.last_parent.as_ref().is_none_or(|(path, _)| **path != *directory) {
            let parent = self.resolve(directory)?;
            self.last_parent = Some((directory.into(), parent));
        }
        let Some((_, parent)) = &self.last_parent else { return Err(Errno::NOENT) };
        act(parent.as_fd(), name)
    }

    /// Opens a directory beneath this one; `relative` is a [`MemberPath`] or the leading part of one.
    fn resolve(&mut self, relative: &[u8]) -> Result<OwnedFd, Errno> {
        if self.resolver == Resolver::Openat2 {
            let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.fd, relative, DIRECTORY, Mode::empty(), confined) {
                // No such call, or a sandbox that does not know it.
                Err(Errno::NOSYS | Errno::PERM) => self.resolver = Resolver::Walk,
                result => return result,
            }
        }
        let mut components = relative.split(|&b| b == b'/');
        let first = components.next().unwrap_or_default();
        let mut fd = rustix::fs::openat(&self.fd, first, DIRECTORY, Mode::empty())?;
        for component in components {
            fd = rustix::fs::openat(&fd, component, DIRECTORY, Mode::empty())?;
        }
        Ok(fd)
    }
}

/// Before the mode is set: a change of owner clears bits of it.
fn own(parent: BorrowedFd<'_>, name: &Path, owner: Option<FileOwner>) -> Result<(), Errno> {
    let Some(FileOwner { uid, gid }) = owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes what is in a directory. `depth` is how many more may lie in each other.
fn remove_entries(directory: BorrowedFd<'_>, shown: &Path, depth: usize) -> Result<(), FileError> {
    let failed = |path: &Path, errno| FileError::new("remove", path, errno);
    let mut entries = Dir::read_from(directory).map_err(|errno| failed(shown, errno))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(|errno| failed(shown, errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = shown.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            // what Linux, and what POSIX says of a directory
            Err(Errno::ISDIR | Errno::PERM) if depth > 0 => {}
            Err(errno) => return Err(failed(&path, errno)),
        }
        let opened = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty());
        let opened = opened.map_err(|errno| failed(&path, errno))?;
        remove_entries(opened.as_fd(), &path, depth - 1)?;
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).map_err(|errno| failed(&path, errno))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn member(name: &str) -> MemberPath {
        MemberPath::parse(name.as_bytes()).unwrap()
    }

    /// The same story with both ways of resolving names.
    fn with_both(story: impl Fn(&mut ConfinedDirectory, &Path)) {
        for resolver in [Resolver::Openat2, Resolver::Walk] {
            let scratch = tempfile::tempdir().unwrap();
            let (inside, outside) = (scratch.path().join("in"), scratch.path().join("out"));
            std::fs::create_dir(&inside).unwrap();
            std::fs::create_dir(&outside).unwrap();
            let mut directory = ConfinedDirectory::open(&inside, None).unwrap();
            directory.resolver = resolver;
            story(&mut directory, &outside);
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was written outside");
        }
    }

    /// What stands beside it, and what links in it lead to, stays; and so does a directory that has taken its name.
    #[test]
    fn what_was_opened_is_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let (inside, outside) = (scratch.path().join("in"), scratch.path().join("out"));
        let fill = |directory: &Path| {
            std::fs::create_dir_all(directory.join("a/b/c")).unwrap();
            std::fs::write(directory.join("a/b/file"), "x").unwrap();
        };
        for is_moved in [false, true] {
            fill(&inside);
            fill(&outside);
            symlink(&outside, inside.join("a/link")).unwrap();
            symlink("/nonexistent", inside.join("a/b/broken")).unwrap();
            let directory = ConfinedDirectory::open(&inside, None).unwrap();
            let moved = scratch.path().join("moved");
            if is_moved {
                std::fs::rename(&inside, &moved).unwrap();
                symlink(&outside, &inside).unwrap();
                directory.remove().unwrap_err();
                assert_eq!(std::fs::read_dir(&moved).unwrap().count(), 0);
                assert!(inside.is_symlink());
            } else {
                directory.remove().unwrap();
                assert!(!inside.exists());
            }
            assert!(outside.join("a/b/file").exists() && outside.join("a/b/c").exists());
        }
    }

    #[test]
    fn creates_beneath_with_exact_modes() {
        with_both(|directory, _| {
            directory.create_directory(&member("base"), 0o750).unwrap();
            directory.create_directory(&member("base/1"), 0o700).unwrap();
            directory.create_file(&member("base/1/x"), 0o640).unwrap().write_all(b"x").unwrap();
            let mode =
                |path: &str| directory.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!((mode("base"), mode("base/1"), mode("base/1/x")), (0o750, 0o700, 0o640));
            assert_eq!(directory.file_type(&member("base/1")).unwrap(), Some(FileType::Directory));
            assert_eq!(directory.file_type(&member("base/2")).unwrap(), None);
            directory.sync_beneath(&member("base/1")).unwrap();
        });
    }

    #[test]
    fn follows_no_link() {
        with_both(|directory, outside| {
            let inside = directory.path().to_owned();
            symlink(outside, inside.join("link")).unwrap();
            symlink(outside.join("file"), inside.join("file")).unwrap();
            std::fs::create_dir(inside.join("real")).unwrap();
            symlink("../../out", inside.join("real/up")).unwrap();
            for name in ["link/x", "file", "real/up/x", "link", "real/up"] {
                assert!(directory.create_file(&member(name), 0o600).is_err(), "{name}");
                assert!(directory.create_directory(&member(name), 0o700).is_err(), "{name}");
            }
            assert!(directory.open_beneath(&member("link")).is_err());
            assert!(directory.sync_beneath(&member("link")).is_err());
            assert_eq!(directory.file_type(&member("link")).unwrap(), Some(FileType::Symlink));
        });
    }

    #[test]
    fn reads_and_links_only_what_is_beneath() {
        with_both(|directory, outside| {
            let inside = directory.path().to_owned();
            std::fs::create_dir(inside.join("real")).unwrap();
            std::fs::write(inside.join("real/file"), b"x").unwrap();
            symlink(outside, inside.join("away")).unwrap();
            symlink("real/file", inside.join("link")).unwrap();
            assert_eq!(directory.open_file(&member("real/file")).unwrap().metadata().unwrap().len(), 1);
            assert!(directory.open_file(&member("link")).is_err());
            assert!(
                directory.open_file(&member("away/x")).is_err()
                    && directory.list(Some(&member("away"))).is_err()
            );
            assert_eq!(directory.read_link(&member("away")).unwrap(), outside);
            let names = directory.list(Some(&member("real"))).unwrap().map(|entry| entry.unwrap());
            assert!(names.into_iter().any(|entry| entry.file_name() == c"file"));
            let mut again = directory.handle();
            again.link_file(&member("real/second"), directory, &member("real/file")).unwrap();
            assert!(again.link_file(&member("away/third"), directory, &member("real/file")).is_err());
            again.rename(&member("real/second"), &member("real/last")).unwrap();
            assert_eq!(std::fs::read(inside.join("real/last")).unwrap(), b"x");
        });
    }

    #[test]
    fn makes_no_parents_and_overwrites_nothing() {
        with_both(|directory, _| {
            let error = directory.create_file(&member("a/b"), 0o600).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().starts_with("could not create file \"/"));
            directory.create_file(&member("a"), 0o600).unwrap();
            let error = directory.create_file(&member("a"), 0o600).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        });
    }

    #[test]
    fn unnamed_files_leave_nothing() {
        with_both(|directory, _| {
            directory.unnamed_file().unwrap().write_all(b"x").unwrap();
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        });
    }
}
