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

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::directories::{
    HeldDirectory, exists, io_error, is_empty, make_directories, missing_ancestors, nearest_existing,
    open_private, read_directory, remove_tree, require_directory, resolve, set_mode, sync_directory,
    wanted_owner,
};
pub use super::directories::{WorkspaceError, chown};
use super::journal::{self, Journal};
pub use crate::FileOwner as Owner;

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

    /// The directory to build in, wherever its name leads to by now.
    pub(super) fn held_data(&self) -> PathBuf {
        self.held.path().join(DATA_NAME)
    }

    /// The directory to build in.
    pub fn data(&self) -> PathBuf {
        self.path.join(DATA_NAME)
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
            self.mark(directory).map_err(|error| (index, error))?;
        }
        Ok(())
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

/// A target, and what can be said of it without touching anything.
#[derive(Debug)]
struct Place {
    target: PathBuf,
    parent: PathBuf,
    name: OsString,
    exists: bool,
    owner: Option<Owner>,
}

impl Place {
    fn find(target: &Path) -> Result<Self, WorkspaceError> {
        let target = resolve(target)?;
        let name = target.file_name().ok_or_else(|| WorkspaceError::NoName(target.clone()))?.to_owned();
        let parent = target.parent().ok_or_else(|| WorkspaceError::NoName(target.clone()))?.to_owned();
        let owner = wanted_owner(nearest_existing(&target)?)?;
        let exists = exists(&target)?;
        if exists {
            require_directory(&target)?;
            let metadata = fs::metadata(&target).map_err(io_error("examine", &target))?;
            let expected = owner.map_or(rustix::process::geteuid().as_raw(), |owner| owner.uid);
            if metadata.uid() != expected {
                return Err(WorkspaceError::NotOwned(target));
            }
        }
        Ok(Place { target, parent, name, exists, owner })
    }

    fn inside(&self) -> PathBuf {
        self.target.join(INSIDE_NAME)
    }

    /// The target as it was found: it may be a link, and may lead elsewhere soon.
    fn hold_target(&self) -> Result<HeldDirectory, WorkspaceError> {
        let failed = |error| io_error("open", &self.target)(error);
        let held = HeldDirectory::open_linked(&self.target).map_err(failed)?;
        let expected = self.owner.map_or(rustix::process::geteuid().as_raw(), |owner| owner.uid);
        match held.metadata().map_err(failed)?.uid() == expected {
            true => Ok(held),
            false => Err(WorkspaceError::NotOwned(self.target.clone())),
        }
    }

    fn sibling(&self) -> PathBuf {
        let mut hidden = OsString::from(".");
        hidden.push(&self.name);
        hidden.push(INSIDE_NAME);
        self.parent.join(hidden)
    }
}

/// What an existing target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    /// Nothing, or only what an interrupted run put there.
    Fillable,
    /// Something.
    Taken,
}

/// In a target that an interrupted run was filling there is a workspace, `PG_VERSION`, which is moved last, is not, and
/// everything else is in the journal.
fn state_of(place: &Place) -> Result<TargetState, WorkspaceError> {
    let workspace = place.inside();
    let entries = read_directory(&place.target)?;
    if entries.is_empty() {
        return Ok(TargetState::Fillable);
    }
    if !entries.contains(&workspace) || entries.contains(&place.target.join(LAST_NAME)) {
        return Ok(TargetState::Taken);
    }
    let moved = load_journal(&workspace)?.unwrap_or_default().moved_entries;
    let is_ours = |entry: &PathBuf| {
        *entry == workspace
            || entry.file_name().is_some_and(|name| moved.iter().any(|moved| moved == name.as_bytes()))
    };
    Ok(if entries.iter().all(is_ours) { TargetState::Fillable } else { TargetState::Taken })
}

/// Whether the journal's run had moved the data directory to its place when it was cut off.
fn is_finished(journal: &Journal, sibling: &Path) -> bool {
    journal.committing && matches!(exists(&sibling.join(DATA_NAME)), Ok(false))
}

/// After a commit whose last step was cut off: takes away the marks and the workspace, under its lock. Anything else is
/// left as it is: a later run on its own target takes care of it.
fn tidy_up(workspace: &Path, target: &Path) -> Result<(), WorkspaceError> {
    let (held, _lock) = lock(workspace, target)?;
    let Some(journal) = held.named(load_journal(&held.path()))? else { return Ok(()) };
    let inside = workspace.parent() == Some(target);
    let finished = match inside {
        true => journal.committing && exists(&target.join(LAST_NAME))?,
        false => is_finished(&journal, workspace),
    };
    if finished {
        remove_marks(&journal)?;
        remove_workspace(workspace)?;
    }
    Ok(())
}

/// Somebody made the target while an interrupted run's workspace lay beside it: its journal counts here too.
fn adopt_sibling(place: &Place, path: &Path) -> Result<Option<Journal>, WorkspaceError> {
    let sibling = place.sibling();
    let (held, _lock) = lock(&sibling, &place.target)?;
    let journal = held.named(load_journal(&held.path()))?;
    match &journal {
        Some(finished) if is_finished(finished, &sibling) => remove_marks(finished)?,
        Some(journal) => journal.store(path).map_err(io_error("write journal of", path))?,
        None => {}
    }
    let left = journal.filter(|journal| !is_finished(journal, &sibling));
    remove_workspace(&sibling)?;
    Ok(left)
}

fn load_journal(workspace: &Path) -> Result<Option<Journal>, WorkspaceError> {
    Journal::load(workspace).map_err(io_error("read journal of", workspace))
}

/// A workspace's directory, which must be one that nobody else can write to.
fn hold(workspace: &Path) -> Result<HeldDirectory, WorkspaceError> {
    let held = HeldDirectory::open(workspace).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // of a link the system says one or the other
            Some(Errno::NOTDIR | Errno::LOOP) => WorkspaceError::NotOwned(workspace.to_owned()),
            _ => io_error("open", workspace)(error),
        }
    })?;
    let metadata = held.metadata().map_err(io_error("examine", workspace))?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if ours { Ok(held) } else { Err(WorkspaceError::NotOwned(workspace.to_owned())) }
}

/// Takes the lock of a workspace.
fn lock(workspace: &Path, target: &Path) -> Result<(HeldDirectory, fs::File), WorkspaceError> {
    let held = hold(workspace)?;
    let (path, shown) = (held.path().join(LOCK_NAME), workspace.join(LOCK_NAME));
    let file = match open_private(&path) {
        // the run that had it has removed it just now
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WorkspaceError::Locked(target.to_owned()));
        }
        opened => opened.map_err(io_error("open", &shown))?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(WorkspaceError::Locked(target.to_owned())),
        Err(error) => return Err(io_error("lock", &shown)(error.into())),
    }
    // whoever held it may have removed the file between our opening it and locking it
    let locked = file.metadata().map_err(io_error("examine", &shown))?.ino();
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.ino() == locked => Ok((held, file)),
        _ => Err(WorkspaceError::Locked(target.to_owned())),
    }
}

/// Renames a directory to a name that must not exist: a plain rename would replace an empty directory.
fn rename_to_new(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    let renamed = rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        rustix::fs::RenameFlags::NOREPLACE,
    );
    match renamed {
        Ok(()) => Ok(()),
        // network and stacked file systems do not all know the flag
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if !exists(to)? => {
            fs::rename(from, to).map_err(io_error("rename data directory to", to))
        }
        Err(error) => Err(io_error("rename data directory to", to)(error.into())),
    }
}

fn entry_names(directory: &Path) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let names = read_directory(directory)?;
    Ok(names.iter().filter_map(|path| Some(path.file_name()?.as_bytes().to_owned())).collect())
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

/// Removes a workspace, its journal last: as long as anything is left, a later run knows what to make of it.
fn remove_workspace(path: &Path) -> Result<(), WorkspaceError> {
    let held = hold(path)?;
    let inside = held.path();
    let journal = inside.join(journal::FILE_NAME);
    held.named(empty(&inside, &journal).and_then(|()| remove_if_there(&journal)))?;
    fs::remove_dir(path).map_err(io_error("remove", path))
}

/// Removes all that is in a directory but one.
fn empty(directory: &Path, except: &Path) -> Result<(), WorkspaceError> {
    let entries = read_directory(directory)?;
    entries.iter().filter(|entry| *entry != except).try_for_each(|entry| remove_tree(entry))
}

fn remove_if_there(path: &Path) -> Result<(), WorkspaceError> {
    if exists(path)? { remove_tree(path) } else { Ok(()) }
}

fn require_fillable(directory: &Path) -> Result<(), WorkspaceError> {
    if exists(directory)? && !is_empty(directory)? {
        return Err(WorkspaceError::NotEmpty(directory.to_owned()));
    }
    Ok(())
}

/// Empties what was filled, removes what was made. A filled directory without this journal's mark has found another
/// use since and is left alone; so is every made one that something else is in by now.
fn remove_recorded(journal: &Journal) -> Result<(), WorkspaceError> {
    for directory in &journal.filled_directories {
        if let Some(held) = marked(directory, journal)? {
            let mark = held.path().join(MARK_NAME);
            held.named(empty(&held.path(), &mark).and_then(|()| remove_tree(&mark)))?;
        }
    }
    for directory in journal.made_directories.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

fn remove_marks(journal: &Journal) -> Result<(), WorkspaceError> {
    for directory in &journal.filled_directories {
        if let Some(held) = marked(directory, journal)? {
            held.named(remove_tree(&held.path().join(MARK_NAME)))?;
        }
    }
    Ok(())
}

/// The directory, if it has this journal's mark. Its owner can read the mark, and could have put it elsewhere and a link in
/// the directory's place: root believes it only where both are one user's.
fn marked(directory: &Path, journal: &Journal) -> Result<Option<HeldDirectory>, WorkspaceError> {
    let absent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let held = match HeldDirectory::open_linked(directory) {
        Err(error) if absent(&error) => return Ok(None),
        held => held.map_err(io_error("open", directory))?,
    };
    let (path, shown) = (held.path().join(MARK_NAME), directory.join(MARK_NAME));
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if absent(&error) => return Ok(None),
        metadata => metadata.map_err(io_error("examine", &shown))?,
    };
    let owner = held.metadata().map_err(io_error("examine", directory))?.uid();
    if !metadata.is_file() || (metadata.uid() != owner && rustix::process::geteuid().is_root()) {
        return Ok(None);
    }
    let content = fs::read(&path).map_err(io_error("read", &shown))?;
    let ours = !journal.nonce.is_empty() && content == journal.nonce.as_bytes();
    Ok(ours.then_some(held))
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
