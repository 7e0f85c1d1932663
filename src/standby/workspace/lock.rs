//! Whose a workspace is: the user who runs this, and one run at a time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{LOCK_NAME, WorkspaceError};
use crate::standby::directories::{HeldDirectory, io_error, open_private};

/// A workspace's directory, which must be one that nobody else can write to.
pub(super) fn hold(workspace: &Path) -> Result<HeldDirectory, WorkspaceError> {
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
pub(super) fn lock(workspace: &Path, target: &Path) -> Result<(HeldDirectory, fs::File), WorkspaceError> {
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
