//! The directories that a backup goes to: checked or made before, taken away when it fails.
//!
//! Answers to `verify_dir_is_empty_or_create` and `cleanup_directories_atexit`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::options::CleanUp;
use crate::backup::DirectoryModes;
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::cli::pg_tool::connection::{plain, with_causes};
use crate::cli::pg_tool::{Failed, Invocation};

/// A directory that was empty when the run began. It is held open, so that nothing else is taken away should its name
/// lead elsewhere by then: root may work where another user can rename.
#[derive(Debug)]
pub(super) struct Place {
    origin: Origin,
    directory: ConfinedDirectory,
}

/// What was there, and what was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This run made it.
    Created,
    /// It was there, and empty.
    Found,
}

/// What this run has made, or filled.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) base: Option<Place>,
    pub(super) wal: Option<Place>,
    pub(super) has_tablespaces: bool,
    /// Directories that hold the name of one that was made, which is to become durable with what is in it.
    pub(super) changed_parents: Vec<PathBuf>,
    /// The server has found a wrong checksum: everything stays, for somebody to look at.
    pub(super) checksum_failed: bool,
    clean_up: CleanUp,
}

impl Made {
    pub(super) fn new(clean_up: CleanUp) -> Self {
        Made {
            base: None,
            wal: None,
            has_tablespaces: false,
            changed_parents: Vec::new(),
            checksum_failed: false,
            clean_up,
        }
    }

    /// The run has failed.
    pub(super) fn take_back(&self, tool: &Invocation) {
        if self.clean_up == CleanUp::Remove && !self.checksum_failed {
            for (what, place) in [("data", &self.base), ("WAL", &self.wal)] {
                if let Some(place) = place {
                    place.take_away(tool, what);
                }
            }
        } else {
            let is_told = |what: &str| what == "WAL" || !self.checksum_failed;
            for (what, place) in [("data", &self.base), ("WAL", &self.wal)] {
                if let Some(place) = place.as_ref().filter(|_| is_told(what)) {
                    let shown = place.directory.path().display();
                    tool.info(format!("{what} directory \"{shown}\" not removed at user's request"));
                }
            }
        }
        if self.has_tablespaces && !self.checksum_failed {
            tool.info("changes to tablespace directories will not be undone");
        }
    }
}

impl Place {
    fn take_away(&self, tool: &Invocation, what: &str) {
        let shown = self.directory.path().display();
        let (removed, failure) = match self.origin {
            Origin::Created => {
                tool.info(format!("removing {what} directory \"{shown}\""));
                (self.directory.remove(), format!("failed to remove {what} directory"))
            }
            Origin::Found => {
                tool.info(format!("removing contents of {what} directory \"{shown}\""));
                (self.directory.remove_contents(), format!("failed to remove contents of {what} directory"))
            }
        };
        if let Err(error) = removed {
            tool.warn(with_causes(&error));
            let _ = tool.error(failure);
        }
    }
}

/// A directory that must be empty, or is made, with its parents. `changed` is where the parents of what was made are left.
pub(super) fn check_or_create(
    tool: &Invocation,
    directory: &Path,
    modes: DirectoryModes,
    changed: &mut Vec<PathBuf>,
) -> Result<Place, Failed> {
    let shown = directory.display();
    let inaccessible = |error: &FileError| {
        tool.error(format!("could not access directory \"{shown}\": {}", plain(&error.source)))
    };
    let (origin, opened) = match ConfinedDirectory::open(directory, None) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            create(directory, modes, changed).map_err(|(path, error)| {
                let (path, reason) = (path.display(), plain(&error));
                tool.error(format!("could not create directory \"{path}\": {reason}"))
            })?;
            (Origin::Created, ConfinedDirectory::open_made(directory, None))
        }
        opened => (Origin::Found, opened),
    };
    let directory = opened.map_err(|error| inaccessible(&error))?;
    if !directory.is_empty().map_err(|error| inaccessible(&error))? {
        return Err(tool.error(format!("directory \"{shown}\" exists but is not empty")));
    }
    Ok(Place { origin, directory })
}

/// Makes the entries of these directories durable. One that may be written to and not read is passed over, as the original
/// does. Blocks.
pub(super) fn sync_all(directories: &[PathBuf]) -> Result<(), FileError> {
    directories.iter().try_for_each(|directory| match ConfinedDirectory::open(directory, None) {
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync(),
    })
}

/// The path that could not be made comes with the error.
fn create(
    directory: &Path,
    modes: DirectoryModes,
    changed: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
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
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        changed.push(parent.unwrap_or(Path::new(".")).to_owned());
    }
    Ok(())
}
