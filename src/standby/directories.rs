//! Directories, one careful step at a time: every error names the operation and the path, and links are removed, never
//! followed.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::FileOwner;

/// Why a workspace could not be had, used or given up.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The target holds something.
    #[error("directory \"{}\" exists but is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The target is a file, a link to nowhere, or something stranger.
    #[error("\"{}\" exists but is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The target has no name of its own, such as `/` or `..`.
    #[error("\"{}\" cannot be a data directory", .0.display())]
    NoName(PathBuf),
    /// `..` behind something that does not exist.
    #[error("\"{}\" goes through a directory that does not exist", .0.display())]
    Unresolvable(PathBuf),
    /// It belongs to somebody else, who could do anything with it meanwhile.
    #[error("\"{}\" belongs to another user", .0.display())]
    NotOwned(PathBuf),
    /// Another run holds the lock.
    #[error("another pgwake is working on \"{}\"", .0.display())]
    Locked(PathBuf),
    /// Root's files cannot be served, and nobody else owns the place.
    #[error("data directory \"{}\" would belong to root, as whom PostgreSQL does not run", .0.display())]
    RootOwned(PathBuf),
    /// The operating system refused.
    #[error("could not {operation} \"{}\"", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

pub(super) fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> WorkspaceError + 'a {
    move |source| WorkspaceError::Io { operation, path: path.to_owned(), source }
}

/// Root hands the files to whoever owns the place; anyone else owns them already.
pub(super) fn wanted_owner(place: &Path) -> Result<Option<FileOwner>, WorkspaceError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let metadata = fs::metadata(place).map_err(io_error("examine", place))?;
    if metadata.uid() == 0 {
        return Err(WorkspaceError::RootOwned(place.to_owned()));
    }
    Ok(Some(FileOwner { uid: metadata.uid(), gid: metadata.gid() }))
}

/// Gives a file or directory to its owner.
pub fn chown(path: &Path, owner: Option<FileOwner>) -> Result<(), WorkspaceError> {
    match owner {
        Some(FileOwner { uid, gid }) => std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(io_error("change the owner of", path)),
        None => Ok(()),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), WorkspaceError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("change the mode of", path))
}

pub(super) fn make_directories(paths: &[PathBuf], owner: Option<FileOwner>) -> Result<(), WorkspaceError> {
    for path in paths {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(io_error("create directory", path))?;
        chown(path, owner)?;
    }
    Ok(())
}

pub(super) fn nearest_existing(path: &Path) -> Result<&Path, WorkspaceError> {
    for ancestor in path.ancestors() {
        if exists(ancestor)? {
            return Ok(ancestor);
        }
    }
    Ok(Path::new("/"))
}

/// Which directories must be made so that `path` exists, outermost first.
pub(super) fn missing_ancestors(path: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty() || exists(ancestor)? {
            break;
        }
        missing.push(ancestor.to_owned());
    }
    missing.reverse();
    Ok(missing)
}

pub(super) fn exists(path: &Path) -> Result<bool, WorkspaceError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("examine", path)(error)),
    }
}

/// A link to a directory is one; a link to nowhere is not.
pub(super) fn require_directory(path: &Path) -> Result<(), WorkspaceError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(WorkspaceError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(WorkspaceError::NotADirectory(path.to_owned()))
        }
        Err(error) => Err(io_error("examine", path)(error)),
    }
}

pub(super) fn is_empty(directory: &Path) -> Result<bool, WorkspaceError> {
    require_directory(directory)?;
    Ok(read_directory(directory)?.is_empty())
}

pub(super) fn read_directory(directory: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    entries.map_err(io_error("read directory", directory))
}

pub(super) fn remove_tree(path: &Path) -> Result<(), WorkspaceError> {
    let metadata = fs::symlink_metadata(path).map_err(io_error("examine", path))?;
    // links are removed, never followed
    let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(io_error("remove", path))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), WorkspaceError> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("fsync directory", path))
}

/// An absolute path without `..`.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, WorkspaceError> {
    let absolute = std::path::absolute(path).map_err(io_error("resolve", path))?;
    if !absolute.components().any(|component| component == Component::ParentDir) {
        return Ok(absolute);
    }
    let name = absolute.file_name().ok_or_else(|| WorkspaceError::NoName(path.to_owned()))?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(WorkspaceError::Unresolvable(path.to_owned()))
        }
        Err(error) => Err(io_error("resolve", parent)(error)),
    }
}

/// Where a path really lies: links in what exists of it are followed, the rest is appended.
pub(super) fn real_place(path: &Path) -> Result<PathBuf, WorkspaceError> {
    let path = resolve(path)?;
    let existing = nearest_existing(&path)?;
    let real = existing.canonicalize().map_err(io_error("resolve", existing))?;
    Ok(match path.strip_prefix(existing) {
        Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
        _ => real,
    })
}

/// A directory that is held open: what is done by way of [`path`](Self::path) is done there, whatever its name leads to by
/// now. Root works in directories whose owner can put a link in the place of anything.
#[derive(Debug)]
pub(super) struct HeldDirectory {
    file: fs::File,
    name: PathBuf,
}

impl HeldDirectory {
    /// Opens what stands under the name itself: a link is an error.
    pub(super) fn open(name: &Path) -> io::Result<Self> {
        Self::open_with(name, rustix::fs::OFlags::NOFOLLOW)
    }

    /// The same, but links on the way and in its place are followed.
    pub(super) fn open_linked(name: &Path) -> io::Result<Self> {
        Self::open_with(name, rustix::fs::OFlags::empty())
    }

    fn open_with(name: &Path, flags: rustix::fs::OFlags) -> io::Result<Self> {
        let flags = (flags | rustix::fs::OFlags::DIRECTORY).bits() as i32;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(name)?;
        Ok(HeldDirectory { file, name: name.to_owned() })
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    pub(super) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    /// Leads into it. Where there is no `/proc`, by its name.
    pub(super) fn path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        if held.exists() { held } else { self.name.clone() }
    }

    /// What was done by way of the path, with the directory's name in an error.
    pub(super) fn named<T>(&self, done: Result<T, WorkspaceError>) -> Result<T, WorkspaceError> {
        done.map_err(|error| match error {
            WorkspaceError::Io { operation, path, source } => {
                let path = match path.strip_prefix(self.path()) {
                    Ok(rest) => self.name.join(rest),
                    Err(_) => path,
                };
                WorkspaceError::Io { operation, path, source }
            }
            other => other,
        })
    }
}

/// Opens, or makes, a file for this user alone; a link in its place is an error.
pub(super) fn open_private(path: &Path) -> io::Result<fs::File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(no_follow)
        .open(path)
}
