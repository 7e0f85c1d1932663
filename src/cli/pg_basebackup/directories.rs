//! The directories that a backup goes to: checked or made before, taken away when it fails.
//!
//! Answers to `verify_dir_is_empty_or_create` and `cleanup_directories_atexit`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::options::{CleanUp, Destination, Options};
use crate::backup::DirectoryModes;
use crate::backup::confined::remove_contents;
use crate::cli::pg_tool::connection::plain;
use crate::cli::pg_tool::{Failed, Invocation};

/// What was there, and what was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// This run made it.
    Created,
    /// It was there, and empty.
    Found,
}

/// What this run has made, or filled.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) base: Option<Origin>,
    pub(super) wal: Option<Origin>,
    pub(super) has_tablespaces: bool,
    /// The server has found a wrong checksum: everything stays, for somebody to look at.
    pub(super) checksum_failed: bool,
    clean_up: CleanUp,
}

impl Made {
    pub(super) fn new(clean_up: CleanUp) -> Self {
        Made { base: None, wal: None, has_tablespaces: false, checksum_failed: false, clean_up }
    }

    /// The run has failed.
    pub(super) fn take_back(&self, tool: &Invocation, options: &Options) {
        let base = self.base.zip(options.destination.directory());
        let wal_directory = match &options.destination {
            Destination::Plain { wal_directory, .. } => wal_directory.as_ref(),
            _ => None,
        };
        let wal = self.wal.zip(wal_directory);
        if self.clean_up == CleanUp::Remove && !self.checksum_failed {
            for (what, place) in [("data", base), ("WAL", wal)] {
                let Some((origin, path)) = place else { continue };
                take_away(tool, what, origin, path);
            }
        } else {
            if let Some((_, path)) = base.filter(|_| !self.checksum_failed) {
                tool.info(format!("data directory \"{}\" not removed at user's request", path.display()));
            }
            if let Some((_, path)) = wal {
                tool.info(format!("WAL directory \"{}\" not removed at user's request", path.display()));
            }
        }
        if self.has_tablespaces && !self.checksum_failed {
            tool.info("changes to tablespace directories will not be undone");
        }
    }
}

fn take_away(tool: &Invocation, what: &str, origin: Origin, path: &Path) {
    let shown = path.display();
    let (removed, failure) = match origin {
        Origin::Created => {
            tool.info(format!("removing {what} directory \"{shown}\""));
            (fs::remove_dir_all(path), format!("failed to remove {what} directory"))
        }
        Origin::Found => {
            tool.info(format!("removing contents of {what} directory \"{shown}\""));
            (remove_contents(path), format!("failed to remove contents of {what} directory"))
        }
    };
    if let Err(error) = removed {
        tool.warn(format!("could not remove \"{shown}\": {}", plain(&error)));
        let _ = tool.error(failure);
    }
}

/// A directory that must be empty, or is made, with its parents.
pub(super) fn check_or_create(
    tool: &Invocation,
    directory: &Path,
    modes: DirectoryModes,
) -> Result<Origin, Failed> {
    let shown = directory.display();
    let entries = fs::read_dir(directory).and_then(|mut entries| entries.next().transpose());
    match entries {
        Ok(None) => Ok(Origin::Found),
        Ok(Some(_)) => Err(tool.error(format!("directory \"{shown}\" exists but is not empty"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory, modes).map_err(|(path, error)| {
                let (path, reason) = (path.display(), plain(&error));
                tool.error(format!("could not create directory \"{path}\": {reason}"))
            })?;
            Ok(Origin::Created)
        }
        Err(error) => Err(tool.error(format!("could not access directory \"{shown}\": {}", plain(&error)))),
    }
}

/// The path that could not be made comes with the error.
fn create(directory: &Path, modes: DirectoryModes) -> Result<(), (PathBuf, io::Error)> {
    let mode = modes.default_directory_mode();
    let mut missing = Vec::new();
    for ancestor in directory.ancestors() {
        if ancestor.as_os_str().is_empty() || ancestor.exists() {
            break;
        }
        missing.push(ancestor);
    }
    for path in missing.into_iter().rev() {
        let made = DirBuilder::new().mode(mode).create(path).and_then(|()| {
            // whatever the umask
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        });
        made.map_err(|error| (path.to_owned(), error))?;
    }
    Ok(())
}
