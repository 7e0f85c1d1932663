//! The last step of a commit: from the workspace to where it belongs.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::{LAST_NAME, WorkspaceError};
use crate::standby::directories::{exists, io_error, read_directory, sync_directory};

/// Renames a directory to a name that must not exist: a plain rename would replace an empty directory.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
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

pub(super) fn entry_names(directory: &Path) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let names = read_directory(directory)?;
    Ok(names.iter().filter_map(|path| Some(path.file_name()?.as_bytes().to_owned())).collect())
}

/// Moves all entries up, `PG_VERSION` last and only after everything else is durably there.
pub(super) fn move_entries(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
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
