//! The directories that are written into: made, and taken away again when there is no result.
//!
//! Answers to `create_output_directory` and `cleanup_directories_atexit` in PostgreSQL's `pg_combinebackup.c`. There a
//! signal leaves everything behind; here whatever ends the run takes it away.

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::CombineError;
use super::report::{Reporter, StepKind};
use super::request::RunMode;
use crate::backup::SyncMethod;
use crate::backup::confined::{ConfinedDirectory, FileError};

/// The directories of a run. When it is dropped they are removed, unless they were [kept](OutputDirectories::keep).
#[derive(Debug, Default)]
pub struct OutputDirectories {
    directories: Vec<OutputDirectory>,
    /// A name that does not make a directory that is there a full one.
    passed_over: Option<&'static str>,
}

#[derive(Debug)]
struct OutputDirectory {
    path: PathBuf,
    /// What is taken away is reached from here.
    opened: ConfinedDirectory,
    origin: Origin,
    /// Where names were made for it and for directories above it.
    changed_parents: Vec<PathBuf>,
}

/// Whose a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This run's.
    Made,
    /// It was there, and empty.
    Found,
}

/// What is told while directories are removed.
#[derive(Debug)]
pub enum Removal<'a> {
    /// One of this run's.
    Directory(&'a Path),
    /// What is in one that was there before.
    Contents(&'a Path),
    /// The directory just named could not be removed.
    DirectoryFailed(FileError),
    /// What is in the directory just named could not be removed.
    ContentsFailed(FileError),
}

impl fmt::Display for Removal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removal::Directory(path) => write!(f, "removing output directory \"{}\"", path.display()),
            Removal::Contents(path) => {
                write!(f, "removing contents of output directory \"{}\"", path.display())
            }
            Removal::DirectoryFailed(_) => f.write_str("failed to remove output directory"),
            Removal::ContentsFailed(_) => f.write_str("failed to remove contents of output directory"),
        }
    }
}

impl OutputDirectories {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet; a file of this name may be in directories that are there and otherwise empty.
    pub fn passing_over(name: &'static str) -> Self {
        OutputDirectories { directories: Vec::new(), passed_over: Some(name) }
    }

    /// There is a result: nothing will be removed.
    pub fn keep(&mut self) {
        self.directories.clear();
    }

    /// Removes what this run made, the last first.
    pub fn remove(&mut self, tell: &mut dyn FnMut(Removal<'_>)) {
        while let Some(OutputDirectory { path, opened, origin, .. }) = self.directories.pop() {
            tell(match origin {
                Origin::Made => Removal::Directory(&path),
                Origin::Found => Removal::Contents(&path),
            });
            let removed = match origin {
                Origin::Made => opened.remove(),
                Origin::Found => opened.remove_contents(),
            };
            if let Err(error) = removed {
                tell(match origin {
                    Origin::Made => Removal::DirectoryFailed(error),
                    Origin::Found => Removal::ContentsFailed(error),
                });
            }
        }
    }

    /// Makes a directory, with its parents, or takes one that is empty. In a dry run `None`, and nothing is made.
    pub(super) fn prepare(
        &mut self,
        path: &Path,
        directory_mode: u32,
        mode: RunMode,
        reporter: &mut Reporter<'_>,
    ) -> Result<Option<ConfinedDirectory>, CombineError> {
        let inaccessible = |error: FileError| FileError::new("access directory", path, error.source);
        let (origin, opened, changed_parents) = match ConfinedDirectory::open(path, None) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                reporter.step(|| StepKind::CreateDirectory(path.to_owned()));
                if mode == RunMode::DryRun {
                    return Ok(None);
                }
                let made = make_with_parents(path, directory_mode);
                let changed = made.map_err(|source| FileError::new("create directory", path, source))?;
                (Origin::Made, ConfinedDirectory::open_made(path, None)?, changed)
            }
            opened => {
                let opened = opened.map_err(inaccessible)?;
                if !opened.is_empty_but_for(self.passed_over).map_err(inaccessible)? {
                    return Err(CombineError::NotEmpty(path.to_owned()));
                }
                reporter.step(|| StepKind::UseDirectory(path.to_owned()));
                (Origin::Found, opened, Vec::new())
            }
        };
        if mode == RunMode::DryRun {
            return Ok(None);
        }
        let directory = opened.handle();
        self.directories.push(OutputDirectory { path: path.to_owned(), opened, origin, changed_parents });
        Ok(Some(directory))
    }

    /// Makes the names of the directories themselves durable.
    pub(super) fn make_durable(&self, sync: SyncMethod) -> Result<(), FileError> {
        if sync == SyncMethod::None {
            return Ok(());
        }
        for parent in self.directories.iter().flat_map(|directory| &directory.changed_parents) {
            ConfinedDirectory::open(parent, None)?.sync()?;
        }
        Ok(())
    }
}

impl Drop for OutputDirectories {
    fn drop(&mut self) {
        self.remove(&mut |_| {});
    }
}

/// Returns the directories in which a name was made.
fn make_with_parents(path: &Path, mode: u32) -> io::Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut changed = Vec::new();
    for ancestor in path.ancestors().skip(1) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        changed.push(ancestor.to_owned());
        if ancestor.is_dir() {
            break;
        }
        missing.push(ancestor);
    }
    for parent in missing.into_iter().rev() {
        DirBuilder::new().mode(0o777).create(parent)?;
    }
    DirBuilder::new().mode(mode).create(path)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::super::report::{CombineObserver, CombineWarning, Step};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Deaf;

    impl CombineObserver for Deaf {
        fn warn(&mut self, _: &CombineWarning) {}
        fn step(&mut self, _: &Step) {}
        fn wants_steps(&self) -> bool {
            false
        }
    }

    fn prepare(outputs: &mut OutputDirectories, path: &Path, mode: RunMode) -> Result<bool, CombineError> {
        let mut deaf = Deaf;
        let prepared = outputs.prepare(path, 0o700, mode, &mut Reporter::new(&mut deaf, mode));
        prepared.map(|directory| directory.is_some())
    }

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (new, old) = (scratch.path().join("parent/new"), scratch.path().join("old"));
        std::fs::create_dir(&old).unwrap();
        let mut outputs = OutputDirectories::new();
        assert!(prepare(&mut outputs, &new, RunMode::Real).unwrap());
        assert!(prepare(&mut outputs, &old, RunMode::Real).unwrap());
        assert_eq!(new.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        outputs.make_durable(SyncMethod::Fsync).unwrap();
        for directory in [&new, &old] {
            std::fs::create_dir(directory.join("base")).unwrap();
            std::fs::write(directory.join("base/file"), "x").unwrap();
            std::os::unix::fs::symlink("/", directory.join("link")).unwrap();
        }
        let mut told = Vec::new();
        outputs.remove(&mut |removal| told.push(removal.to_string()));
        let (new_text, old_text) = (new.display(), old.display());
        assert_eq!(
            told,
            [
                format!("removing contents of output directory \"{old_text}\""),
                format!("removing output directory \"{new_text}\"")
            ]
        );
        assert!(!new.exists() && new.parent().unwrap().exists());
        assert_eq!(std::fs::read_dir(&old).unwrap().count(), 0);
    }

    #[test]
    fn dropping_removes_and_keeping_keeps() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("new");
        for kept in [false, true] {
            let mut outputs = OutputDirectories::new();
            prepare(&mut outputs, &path, RunMode::Real).unwrap();
            if kept {
                outputs.keep();
            }
            drop(outputs);
            assert_eq!(path.exists(), kept);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_a_dry_run_makes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        let mut outputs = OutputDirectories::new();
        let full = prepare(&mut outputs, scratch.path(), RunMode::Real).unwrap_err();
        assert!(matches!(full, CombineError::NotEmpty(_)));
        let file = prepare(&mut outputs, &scratch.path().join("file"), RunMode::Real).unwrap_err();
        assert!(file.to_string().starts_with("could not access directory"));
        assert!(!prepare(&mut outputs, &scratch.path().join("new"), RunMode::DryRun).unwrap());
        drop(outputs);
        assert!(scratch.path().join("file").exists() && !scratch.path().join("new").exists());
    }
}
