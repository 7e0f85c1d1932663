//! Where a data directory is built before it may be seen.
//!
//! A workspace is a directory that holds a lock, a [`Journal`] and `data`, the data directory in the making. For a
//! target that does not exist it is a hidden sibling, and the commit is one rename. For an empty target that exists (a
//! mount point, say) it is a hidden directory inside, and the commit moves one entry after the other, `PG_VERSION` last:
//! without that file no server starts.
//!
//! Invariant: until the commit has happened (the sibling's `data` has gone to the target, or `PG_VERSION` is in it),
//! everything that the journal names, and the workspace itself, may be taken away, and a later run that gets the lock
//! does so. After it nothing may but the workspace itself. As root, only `data` is given to the target's owner.

mod leftover;
mod lock;
mod moving;
mod place;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use leftover::{
    adopt_sibling, is_finished, load_journal, remove_if_there, remove_marks, remove_recorded,
    remove_workspace, require_fillable, tidy_up,
};
use lock::lock;
use moving::{entry_names, move_entries, rename_to_new};
use place::{Place, TargetState, state_of};

use super::directories::{
    HeldDirectory, exists, io_error, is_empty, make_directories, missing_ancestors, set_mode, sync_directory,
};
pub use super::directories::{WorkspaceError, chown};
use super::journal::Journal;
pub use crate::FileOwner as Owner;
use crate::backup::HeldPlaces;

/// The place where one run works.
#[derive(Debug)]
pub struct Workspace {
    target: PathBuf,
    path: PathBuf,
    placement: Placement,
    journal: Journal,
    owner: Option<Owner>,
    committed: Committed,
    /// The workspace itself, and a target that it is in.
    held: HeldDirectory,
    held_target: Option<HeldDirectory>,
    /// Directories outside that are filled.
    claimed: Vec<HeldDirectory>,
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

/// Whether the data directory is where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Committed {
    NotYet,
    Done,
}

/// What an interrupted run left behind.
#[derive(Debug)]
pub struct Leftover {
    /// What it had made.
    pub journal: Journal,
}

/// The workspace's name inside the target, and the end of its name beside it.
pub(super) const INSIDE_NAME: &str = ".pgwake";
const LOCK_NAME: &str = "lock";
const DATA_NAME: &str = "data";
/// What the data directory is made of, where that is more than one backup.
const PARTS_NAME: &str = "parts";
/// Marks a directory outside the workspace as filled by an unfinished run; holds the run's nonce.
pub const MARK_NAME: &str = ".pgwake-unfinished";
/// The file without which no server starts on a directory.
const LAST_NAME: &str = "PG_VERSION";

impl Workspace {
    /// Looks whether `target` could be claimed, without making or removing anything.
    pub fn examine(target: &Path) -> Result<(), WorkspaceError> {
        let place = Place::find(target)?;
        if place.exists && state_of(&place)? == TargetState::Taken {
            return Err(WorkspaceError::NotEmpty(place.target));
        }
        Ok(())
    }

    /// Whom files in `target` would be given to; `None` when they would belong to the right user already.
    pub fn owner_of(target: &Path) -> Result<Option<Owner>, WorkspaceError> {
        Ok(Place::find(target)?.owner)
    }

    /// Claims `target`, and takes over what an interrupted run left there.
    ///
    /// What was left inside the workspace is removed at once; what the leftover journal names elsewhere is for the
    /// caller to take away with [`Workspace::discard_leftover`] once it can (a slot needs a connection).
    pub fn claim(target: &Path) -> Result<(Self, Option<Leftover>), WorkspaceError> {
        let place = Place::find(target)?;
        let made_parents = missing_ancestors(&place.parent)?;
        let claimed = make_directories(&made_parents, place.owner)
            .and_then(|()| Self::claim_place(place, &made_parents));
        if claimed.is_err() {
            for directory in made_parents.iter().rev() {
                let _ = fs::remove_dir(directory);
            }
        }
        claimed
    }

    fn claim_place(
        place: Place,
        made_parents: &[PathBuf],
    ) -> Result<(Self, Option<Leftover>), WorkspaceError> {
        let (path, placement) = match place.exists {
            true => (place.inside(), Placement::Inside),
            false => (place.sibling(), Placement::Sibling),
        };
        if place.exists && state_of(&place)? == TargetState::Taken {
            // perhaps only the last step of a finished run was cut off: tidy up after it
            for workspace in [place.inside(), place.sibling()] {
                if exists(&workspace)? {
                    tidy_up(&workspace, &place.target)?;
                }
            }
            return Err(WorkspaceError::NotEmpty(place.target));
        }
        let fresh = !exists(&path)?;
        if fresh {
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(io_error("create directory", &path))?;
        }
        let claimed = Self::occupy(&place, path.clone(), placement, made_parents);
        if fresh && claimed.is_err() {
            let _ = remove_workspace(&path);
        }
        claimed
    }

    /// Locks the workspace, looks who was here before, and clears it.
    fn occupy(
        place: &Place,
        path: PathBuf,
        placement: Placement,
        made_parents: &[PathBuf],
    ) -> Result<(Self, Option<Leftover>), WorkspaceError> {
        let held_target = match placement {
            Placement::Inside => Some(place.hold_target()?),
            Placement::Sibling => None,
        };
        let (held, lock) = lock(&path, &place.target)?;
        let mut leftover = held.named(load_journal(&held.path()))?;
        if placement == Placement::Sibling && leftover.as_ref().is_some_and(|left| is_finished(left, &path)) {
            // a whole data directory went from here to the target, which has been moved away since
            remove_marks(&leftover.take().unwrap_or_default())?;
        }
        if placement == Placement::Inside && leftover.is_none() && exists(&place.sibling())? {
            leftover = held.named(adopt_sibling(place, &held.path()))?;
        }
        let workspace = Workspace {
            target: place.target.clone(),
            path,
            placement,
            journal: Journal {
                nonce: format!("{:032x}", fastrand::u128(..)),
                made_directories: made_parents.to_vec(),
                ..Journal::default()
            },
            owner: place.owner,
            committed: Committed::NotYet,
            held,
            held_target,
            claimed: Vec::new(),
            _lock: lock,
        };
        workspace.clear(leftover.as_ref())?;
        if leftover.is_none() {
            workspace.store_journal()?;
        }
        workspace.make_data_directory()?;
        Ok((workspace, leftover.map(|journal| Leftover { journal })))
    }

    fn make_data_directory(&self) -> Result<(), WorkspaceError> {
        let data = self.held_data();
        let made =
            fs::DirBuilder::new().mode(0o700).create(&data).map_err(io_error("create directory", &data));
        self.held.named(made.and_then(|()| chown(&data, self.owner)))
    }

    /// The directory to build in and those that were claimed, as they are held.
    pub(crate) fn held_places(&self) -> HeldPlaces {
        let claimed = self.claimed.iter().map(|held| (held.name().to_owned(), held.path().join(".")));
        HeldPlaces(std::iter::once((self.data(), self.held_data())).chain(claimed).collect())
    }

    /// The directory to build in, wherever its name leads to by now.
    pub(crate) fn held_data(&self) -> PathBuf {
        self.held.path().join(DATA_NAME)
    }

    /// The directory to build in.
    pub fn data(&self) -> PathBuf {
        self.path.join(DATA_NAME)
    }

    /// A directory for what the data directory is made of; does not exist yet.
    pub fn parts(&self) -> PathBuf {
        self.path.join(PARTS_NAME)
    }

    /// Takes away what the data directory has been made of.
    pub fn remove_parts(&self) -> Result<(), WorkspaceError> {
        self.held.named(remove_if_there(&self.held.path().join(PARTS_NAME)))
    }

    /// Where it will be in the end; absolute.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The workspace itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whom files must be given to; `None` when they belong to the right user already.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Whether the data directory is in its place, whatever came after.
    pub fn is_committed(&self) -> bool {
        self.committed == Committed::Done
    }

    /// Writes something down, durably, before it is done.
    pub fn record(&mut self, change: impl FnOnce(&mut Journal)) -> Result<(), WorkspaceError> {
        change(&mut self.journal);
        self.store_journal()
    }

    fn store_journal(&self) -> Result<(), WorkspaceError> {
        self.journal.store(&self.held.path()).map_err(io_error("write journal of", &self.path))
    }

    /// Makes directories outside the workspace ready to be filled: made with their parents when they do not exist, else
    /// they must be empty. Written down first. The error names the directory's place in `directories`.
    pub fn claim_directories(&mut self, directories: &[PathBuf]) -> Result<(), (usize, WorkspaceError)> {
        let mut missing = Vec::new();
        for (index, directory) in directories.iter().enumerate() {
            let looked = require_fillable(directory).and_then(|()| missing_ancestors(directory));
            for path in looked.map_err(|error| (index, error))? {
                if !missing.contains(&path) {
                    missing.push(path);
                }
            }
        }
        let recorded = self.record(|journal| {
            journal.made_directories.extend(missing.iter().cloned());
            journal.filled_directories.extend(directories.iter().cloned());
        });
        recorded.and_then(|()| make_directories(&missing, self.owner)).map_err(|error| (0, error))?;
        for (index, directory) in directories.iter().enumerate() {
            let held = self.hold_and_mark(directory).map_err(|error| (index, error))?;
            self.claimed.push(held);
        }
        Ok(())
    }

    /// Holds a directory that is to be filled, so that nobody leads us elsewhere from now on, and marks it.
    fn hold_and_mark(&self, directory: &Path) -> Result<HeldDirectory, WorkspaceError> {
        let held = HeldDirectory::open_linked(directory).map_err(io_error("open directory", directory))?;
        let metadata = held.metadata().map_err(io_error("look at", directory))?;
        if self.owner.is_some_and(|owner| owner.uid != metadata.uid()) {
            let other = io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user");
            return Err(io_error("use directory", directory)(other));
        }
        // what stood under its name before may have been another
        if !held.named(is_empty(&held.path().join(".")))? {
            return Err(WorkspaceError::NotEmpty(directory.to_owned()));
        }
        held.named(self.mark(&held.path()))?;
        Ok(held)
    }

    /// Leaves a mark by which a later run knows that what is in the directory came from this one.
    fn mark(&self, directory: &Path) -> Result<(), WorkspaceError> {
        let path = directory.join(MARK_NAME);
        let written = fs::File::create_new(&path).and_then(|mut file| {
            file.write_all(self.journal.nonce.as_bytes())?;
            file.sync_all()
        });
        written.map_err(io_error("write", &path))?;
        chown(&path, self.owner)?;
        sync_directory(directory)
    }

    /// Takes away what an interrupted run made outside of its workspace, and begins a journal of this run.
    pub fn discard_leftover(&self, leftover: &Leftover) -> Result<(), WorkspaceError> {
        remove_recorded(&leftover.journal)?;
        self.store_journal()
    }

    /// Moves what was built to its place. The caller has made the data durable.
    ///
    /// `0700` or `0750` is the mode of the data directory itself. After an error [`Workspace::is_committed`] says whether
    /// it is there: then only the last steps failed, and nothing may be taken away any more.
    pub fn commit(&mut self, mode: u32) -> Result<(), WorkspaceError> {
        let committed = self.commit_steps(mode);
        if committed.is_err() && !self.is_committed() {
            // without the data this would otherwise look like a run that has finished
            self.record(|journal| journal.committing = false)?;
        }
        committed
    }

    fn commit_steps(&mut self, mode: u32) -> Result<(), WorkspaceError> {
        let data = self.held_data();
        match &self.held_target {
            None => {
                self.record(|journal| journal.committing = true)?;
                let ready = set_mode(&data, mode).and_then(|()| sync_directory(&data));
                self.held.named(ready.and_then(|()| rename_to_new(&data, &self.target)))?;
            }
            Some(target) => {
                let target = target.path();
                let names = self.held.named(entry_names(&data))?;
                self.record(|journal| {
                    journal.committing = true;
                    journal.moved_entries = names;
                })?;
                let moved = set_mode(&target, mode).and_then(|()| move_entries(&data, &target));
                self.named(moved)?;
            }
        }
        self.committed = Committed::Done;
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        sync_directory(parent)?;
        remove_marks(&self.journal)?;
        remove_workspace(&self.path)?;
        sync_directory(if self.placement == Placement::Sibling { parent } else { &self.target })
    }

    /// Takes away all that this run made on this machine but the workspace and its journal, for a later run to go on
    /// with.
    pub fn abandon_files(&self) -> Result<(), WorkspaceError> {
        self.clear(Some(&self.journal))?;
        remove_recorded(&self.journal)
    }

    /// Takes everything away again that this run made on this machine. The slot is the caller's.
    pub fn abandon(self) -> Result<(), WorkspaceError> {
        self.abandon_files()?;
        remove_workspace(&self.path)?;
        // what was made for the target to lie in could not go while the workspace was in it
        for directory in self.journal.made_directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Empties the workspace but for lock and journal, and, inside a target, what a commit had moved up.
    fn clear(&self, journal: Option<&Journal>) -> Result<(), WorkspaceError> {
        self.held.named(remove_if_there(&self.held_data()))?;
        self.remove_parts()?;
        let Some(target) = &self.held_target else { return Ok(()) };
        let inside = target.path();
        for name in journal.iter().flat_map(|journal| &journal.moved_entries) {
            let moved = inside.join(OsStr::from_bytes(name));
            if moved.parent() == Some(&inside) && name != INSIDE_NAME.as_bytes() {
                target.named(remove_if_there(&moved))?;
            }
        }
        Ok(())
    }

    /// What was done in the workspace and in the target, with their names in an error.
    fn named<T>(&self, done: Result<T, WorkspaceError>) -> Result<T, WorkspaceError> {
        let done = self.held.named(done);
        match &self.held_target {
            Some(target) => target.named(done),
            None => done,
        }
    }
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
