//! Where a data directory is built before it may be seen.
//!
//! A workspace is a directory that holds a lock, a [`Journal`] and `data`, the data directory in the making. For a
//! target that does not exist it is a hidden sibling, and the commit is one rename. For an empty target that exists (a
//! mount point, say) it is a hidden directory inside, and the commit moves one entry after the other, `PG_VERSION` last:
//! without that file no server starts.
//!
//! Invariant: as long as the journal does not say `committing`, everything that it names, and the workspace itself, may
//! be taken away. A later run that finds the lock free does so.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

pub use super::directories::{WorkspaceError, chown};
use super::directories::{
    exists, io_error, is_empty, make_directories, missing_ancestors, nearest_existing, read_directory,
    remove_tree, require_directory, set_mode, sync_directory, wanted_owner,
};
use super::journal::Journal;
pub use crate::backup::FileOwner as Owner;

/// The place where one run works.
#[derive(Debug)]
pub struct Workspace {
    target: PathBuf,
    path: PathBuf,
    placement: Placement,
    journal: Journal,
    owner: Option<Owner>,
    _lock: fs::File,
}

/// Where the workspace lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    /// Beside the target, which does not exist.
    Sibling,
    /// Inside the target, which is empty.
    Inside,
}

/// What an interrupted run left behind.
#[derive(Debug)]
pub struct Leftover {
    /// What it had made.
    pub journal: Journal,
}

/// The workspace's name inside the target, and the end of its name beside it.
const INSIDE_NAME: &str = ".pgwake";
const LOCK_NAME: &str = "lock";
const DATA_NAME: &str = "data";
/// Marks a directory outside the workspace as filled by an unfinished run; holds the run's nonce.
pub const MARK_NAME: &str = ".pgwake-unfinished";
/// The file without which no server starts on a directory.
const LAST_NAME: &str = "PG_VERSION";

impl Workspace {
    /// Looks whether `target` could be claimed, without making anything.
    pub fn examine(target: &Path) -> Result<(), WorkspaceError> {
        let target = std::path::absolute(target).map_err(io_error("resolve", target))?;
        wanted_owner(nearest_existing(&target)?)?;
        let workspace = target.join(INSIDE_NAME);
        if exists(&target)? {
            require_directory(&target)?;
            check_fillable(&target, &workspace, !exists(&workspace)?)?;
        }
        Ok(())
    }

    /// Claims `target`, and takes over what an interrupted run left there.
    ///
    /// What was left inside the workspace is removed at once; what the leftover journal names elsewhere is for the
    /// caller to take away with [`Workspace::discard_leftover`] once it can (a slot needs a connection).
    pub fn claim(target: &Path) -> Result<(Self, Option<Leftover>), WorkspaceError> {
        let target = std::path::absolute(target).map_err(io_error("resolve", target))?;
        let name = target.file_name().ok_or_else(|| WorkspaceError::NoName(target.clone()))?.to_owned();
        let parent = target.parent().ok_or_else(|| WorkspaceError::NoName(target.clone()))?.to_owned();
        let made_parents = missing_ancestors(&parent)?;
        let owner = wanted_owner(nearest_existing(&target)?)?;
        let claimed = make_directories(&made_parents, owner)
            .and_then(|()| Self::claim_below(target.clone(), &parent, name, &made_parents, owner));
        if claimed.is_err() {
            for directory in made_parents.iter().rev() {
                let _ = fs::remove_dir(directory);
            }
        }
        claimed
    }

    fn claim_below(
        target: PathBuf,
        parent: &Path,
        name: OsString,
        made_parents: &[PathBuf],
        owner: Option<Owner>,
    ) -> Result<(Self, Option<Leftover>), WorkspaceError> {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(INSIDE_NAME);
        let sibling = parent.join(hidden);
        let existing = exists(&target)?;
        if existing {
            require_directory(&target)?;
        }
        let stale_sibling = if existing { reclaim_sibling_of_existing(&sibling, &target)? } else { None };
        let (path, placement) = match existing {
            true => (target.join(INSIDE_NAME), Placement::Inside),
            false => (sibling.clone(), Placement::Sibling),
        };
        let fresh = !exists(&path)?;
        if existing {
            check_fillable(&target, &path, fresh)?;
        }
        if fresh {
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(io_error("create directory", &path))?;
            chown(&path, owner)?;
        }
        let lock = lock(&path, &target)?;
        let leftover = match &stale_sibling {
            Some(journal) => {
                journal.store(&path).map_err(io_error("write journal of", &path))?;
                remove_tree(&sibling)?;
                stale_sibling
            }
            None => Journal::load(&path).map_err(io_error("read journal of", &path))?,
        };
        let nonce = format!("{:032x}", fastrand::u128(..));
        let journal = Journal { nonce, made_directories: made_parents.to_vec(), ..Journal::default() };
        let workspace = Workspace { target, path, placement, journal, owner, _lock: lock };
        workspace.clear_inside()?;
        if leftover.is_none() {
            workspace.store_journal()?;
        }
        workspace.make_data_directory()?;
        Ok((workspace, leftover.map(|journal| Leftover { journal })))
    }

    fn make_data_directory(&self) -> Result<(), WorkspaceError> {
        let data = self.data();
        fs::DirBuilder::new().mode(0o700).create(&data).map_err(io_error("create directory", &data))?;
        chown(&data, self.owner)
    }

    /// The directory to build in.
    pub fn data(&self) -> PathBuf {
        self.path.join(DATA_NAME)
    }

    /// Where it will be in the end; absolute.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whom files must be given to; `None` when they belong to the right user already.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// What this run has made so far.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Writes something down, durably, before it is done.
    pub fn record(&mut self, change: impl FnOnce(&mut Journal)) -> Result<(), WorkspaceError> {
        change(&mut self.journal);
        self.store_journal()
    }

    fn store_journal(&self) -> Result<(), WorkspaceError> {
        self.journal.store(&self.path).map_err(io_error("write journal of", &self.path))
    }

    /// Makes a directory outside the workspace ready to be filled: made with its parents when it does not exist, else
    /// it must be empty. Written down first.
    pub fn claim_directory(&mut self, directory: &Path) -> Result<(), WorkspaceError> {
        if exists(directory)? {
            if !is_empty(directory)? {
                return Err(WorkspaceError::NotEmpty(directory.to_owned()));
            }
            self.record(|journal| journal.filled_directories.push(directory.to_owned()))?;
            return self.mark(directory);
        }
        let missing = missing_ancestors(directory)?;
        self.record(|journal| {
            journal.made_directories.extend(missing.iter().cloned());
            journal.filled_directories.push(directory.to_owned());
        })?;
        make_directories(&missing, self.owner)?;
        self.mark(directory)
    }

    /// Leaves a mark by which a later run knows that what is in the directory came from this one.
    fn mark(&self, directory: &Path) -> Result<(), WorkspaceError> {
        let path = directory.join(MARK_NAME);
        let written = fs::write(&path, &self.journal.nonce).and_then(|()| fs::File::open(&path)?.sync_all());
        written.map_err(io_error("write", &path))?;
        chown(&path, self.owner)?;
        sync_directory(directory)
    }

    /// Takes away what an interrupted run made outside of its workspace, and begins a journal of this run.
    pub fn discard_leftover(&self, leftover: &Leftover) -> Result<(), WorkspaceError> {
        remove_recorded(&leftover.journal)?;
        self.store_journal()
    }

    /// Moves what was built to its place. After this nothing is taken away any more.
    ///
    /// The caller has made the data durable. `0700` or `0750` is the mode of the data directory itself.
    pub fn commit(mut self, mode: u32) -> Result<(), WorkspaceError> {
        let data = self.data();
        self.record(|journal| journal.committing = true)?;
        match self.placement {
            Placement::Sibling => {
                set_mode(&data, mode)?;
                sync_directory(&data)?;
                // the target must still not exist: a rename over an empty directory would succeed
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &data,
                    rustix::fs::CWD,
                    &self.target,
                    rustix::fs::RenameFlags::NOREPLACE,
                )
                .map_err(|error| io_error("rename data directory to", &self.target)(error.into()))?;
            }
            Placement::Inside => {
                move_entries(&data, &self.target)?;
                set_mode(&self.target, mode)?;
            }
        }
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        sync_directory(parent)?;
        remove_marks(&self.journal)?;
        remove_tree(&self.path)?;
        sync_directory(if self.placement == Placement::Sibling { parent } else { &self.target })
    }

    /// Takes away all that this run made on this machine but the workspace and its journal, for a later run to go on
    /// with.
    pub fn abandon_files(&self) -> Result<(), WorkspaceError> {
        self.clear_inside()?;
        remove_recorded(&self.journal)
    }

    /// Takes everything away again that this run made on this machine. The slot is the caller's.
    pub fn abandon(self) -> Result<(), WorkspaceError> {
        self.abandon_files()?;
        remove_tree(&self.path)?;
        // what was made for the target to lie in could not go while the workspace was in it
        for directory in self.journal.made_directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Empties the workspace but for lock and journal, and, inside a target, what an interrupted commit moved up.
    fn clear_inside(&self) -> Result<(), WorkspaceError> {
        let data = self.data();
        if exists(&data)? {
            remove_tree(&data)?;
        }
        if self.placement == Placement::Inside {
            for entry in read_directory(&self.target)? {
                if entry != self.path {
                    remove_tree(&entry)?;
                }
            }
        }
        Ok(())
    }
}

/// A workspace beside a target that exists: the last step of a finished run was cut off, and is made up for; or someone
/// made the target while an interrupted run's workspace lay beside it: then its journal counts.
fn reclaim_sibling_of_existing(sibling: &Path, target: &Path) -> Result<Option<Journal>, WorkspaceError> {
    if !exists(sibling)? {
        return Ok(None);
    }
    let _lock = lock(sibling, target)?;
    let journal = Journal::load(sibling).map_err(io_error("read journal of", sibling))?.unwrap_or_default();
    if journal.committing && !exists(&sibling.join(DATA_NAME))? {
        remove_marks(&journal)?;
        remove_tree(sibling)?;
        return Ok(None);
    }
    Ok(Some(journal))
}

/// An existing target may be filled when it is empty, or holds only what an interrupted run put there: in that case a
/// workspace is inside, and `PG_VERSION`, which is moved last, is not.
fn check_fillable(target: &Path, workspace: &Path, fresh: bool) -> Result<(), WorkspaceError> {
    if fresh {
        return if is_empty(target)? { Ok(()) } else { Err(WorkspaceError::NotEmpty(target.to_owned())) };
    }
    let journal = Journal::load(workspace).map_err(io_error("read journal of", workspace))?;
    let alone = read_directory(target)?.len() == 1;
    if exists(&target.join(LAST_NAME))? {
        if let Some(journal) = journal.filter(|journal| journal.committing) {
            // whole, and only not tidied up
            remove_marks(&journal)?;
            remove_tree(workspace)?;
        }
        return Err(WorkspaceError::NotEmpty(target.to_owned()));
    }
    if alone || journal.is_some_and(|journal| journal.committing) {
        return Ok(());
    }
    Err(WorkspaceError::NotEmpty(target.to_owned()))
}

fn lock(workspace: &Path, target: &Path) -> Result<fs::File, WorkspaceError> {
    let path = workspace.join(LOCK_NAME);
    let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(io_error("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WorkspaceError::Locked(target.to_owned())),
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

/// Moves all entries up, `PG_VERSION` last and only after everything else is durably there.
fn move_entries(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    let (last, others): (Vec<_>, Vec<_>) = read_directory(from)?
        .into_iter()
        .partition(|path| path.file_name().is_some_and(|name| name == LAST_NAME));
    for group in [others, last] {
        for path in group {
            let name = path.file_name().unwrap_or_default();
            fs::rename(&path, to.join(name)).map_err(io_error("move up", &path))?;
        }
        sync_directory(to)?;
    }
    Ok(())
}

/// Empties what was filled, removes what was made. A filled directory without this journal's mark has found another
/// use since and is left alone; so is every made one that something else is in by now.
fn remove_recorded(journal: &Journal) -> Result<(), WorkspaceError> {
    for directory in &journal.filled_directories {
        if !is_marked(directory, journal)? {
            continue;
        }
        let mark = directory.join(MARK_NAME);
        for entry in read_directory(directory)? {
            if entry != mark {
                remove_tree(&entry)?;
            }
        }
        remove_tree(&mark)?;
    }
    for directory in journal.made_directories.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

fn remove_marks(journal: &Journal) -> Result<(), WorkspaceError> {
    for directory in &journal.filled_directories {
        if is_marked(directory, journal)? {
            remove_tree(&directory.join(MARK_NAME))?;
        }
    }
    Ok(())
}

fn is_marked(directory: &Path, journal: &Journal) -> Result<bool, WorkspaceError> {
    let path = directory.join(MARK_NAME);
    match fs::read(&path) {
        Ok(content) => Ok(!journal.nonce.is_empty() && content == journal.nonce.as_bytes()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
