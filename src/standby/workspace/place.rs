//! Where a workspace would lie, and whether its target may be filled.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::leftover::load_journal;
use super::{INSIDE_NAME, LAST_NAME, Owner, WorkspaceError};
use crate::standby::directories::{
    HeldDirectory, exists, io_error, nearest_existing, read_directory, require_directory, resolve,
    wanted_owner,
};

/// A target, and what can be said of it without touching anything.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) target: PathBuf,
    pub(super) parent: PathBuf,
    pub(super) name: OsString,
    pub(super) exists: bool,
    pub(super) owner: Option<Owner>,
}

impl Place {
    pub(super) fn find(target: &Path) -> Result<Self, WorkspaceError> {
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

    pub(super) fn inside(&self) -> PathBuf {
        self.target.join(INSIDE_NAME)
    }

    /// The target as it was found: it may be a link, and may lead elsewhere soon.
    pub(super) fn hold_target(&self) -> Result<HeldDirectory, WorkspaceError> {
        let failed = |error| io_error("open", &self.target)(error);
        let held = HeldDirectory::open_linked(&self.target).map_err(failed)?;
        let expected = self.owner.map_or(rustix::process::geteuid().as_raw(), |owner| owner.uid);
        match held.metadata().map_err(failed)?.uid() == expected {
            true => Ok(held),
            false => Err(WorkspaceError::NotOwned(self.target.clone())),
        }
    }

    pub(super) fn sibling(&self) -> PathBuf {
        let mut hidden = OsString::from(".");
        hidden.push(&self.name);
        hidden.push(INSIDE_NAME);
        self.parent.join(hidden)
    }
}

/// What an existing target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetState {
    /// Nothing, or only what an interrupted run put there.
    Fillable,
    /// Something.
    Taken,
}

/// In a target that an interrupted run was filling there is a workspace, `PG_VERSION`, which is moved last, is not, and
/// everything else is in the journal.
pub(super) fn state_of(place: &Place) -> Result<TargetState, WorkspaceError> {
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
