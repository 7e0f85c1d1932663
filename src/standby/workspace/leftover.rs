//! What a run that was cut off has left: how far it came, and what may be taken away of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::lock::{hold, lock};
use super::place::Place;
use super::{DATA_NAME, LAST_NAME, MARK_NAME, WorkspaceError};
use crate::standby::directories::{HeldDirectory, exists, io_error, is_empty, read_directory, remove_tree};
use crate::standby::journal::{self, Journal};

/// Whether the journal's run had moved the data directory to its place when it was cut off.
pub(super) fn is_finished(journal: &Journal, sibling: &Path) -> bool {
    journal.committing && matches!(exists(&sibling.join(DATA_NAME)), Ok(false))
}

/// After a commit whose last step was cut off: takes away the marks and the workspace, under its lock. Anything else is
/// left as it is: a later run on its own target takes care of it.
pub(super) fn tidy_up(workspace: &Path, target: &Path) -> Result<(), WorkspaceError> {
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
pub(super) fn adopt_sibling(place: &Place, path: &Path) -> Result<Option<Journal>, WorkspaceError> {
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

pub(super) fn load_journal(workspace: &Path) -> Result<Option<Journal>, WorkspaceError> {
    Journal::load(workspace).map_err(io_error("read journal of", workspace))
}

/// Removes a workspace, its journal last: as long as anything is left, a later run knows what to make of it.
pub(super) fn remove_workspace(path: &Path) -> Result<(), WorkspaceError> {
    let held = hold(path)?;
    let inside = held.path();
    let journal = inside.join(journal::FILE_NAME);
    held.named(empty(&inside, &journal).and_then(|()| remove_if_there(&journal)))?;
    fs::remove_dir(path).map_err(io_error("remove", path))
}

/// Removes all that is in a directory but one.
pub(super) fn empty(directory: &Path, except: &Path) -> Result<(), WorkspaceError> {
    let entries = read_directory(directory)?;
    entries.iter().filter(|entry| *entry != except).try_for_each(|entry| remove_tree(entry))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), WorkspaceError> {
    if exists(path)? { remove_tree(path) } else { Ok(()) }
}

pub(super) fn require_fillable(directory: &Path) -> Result<(), WorkspaceError> {
    if exists(directory)? && !is_empty(directory)? {
        return Err(WorkspaceError::NotEmpty(directory.to_owned()));
    }
    Ok(())
}

/// Empties what was filled, removes what was made. A filled directory without this journal's mark has found another
/// use since and is left alone; so is every made one that something else is in by now.
pub(super) fn remove_recorded(journal: &Journal) -> Result<(), WorkspaceError> {
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

pub(super) fn remove_marks(journal: &Journal) -> Result<(), WorkspaceError> {
    for directory in &journal.filled_directories {
        if let Some(held) = marked(directory, journal)? {
            held.named(remove_tree(&held.path().join(MARK_NAME)))?;
        }
    }
    Ok(())
}

/// The directory, if it has this journal's mark. Its owner can read the mark, and could have put it elsewhere and a link in
/// the directory's place: root believes it only where both are one user's.
pub(super) fn marked(directory: &Path, journal: &Journal) -> Result<Option<HeldDirectory>, WorkspaceError> {
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
