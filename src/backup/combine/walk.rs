//! Everything below a directory, in the order in which the system has it, without recursion and without following a link.
//!
//! That order is the original's, so its warnings and its manifest come in the same order as ours.

use std::collections::HashSet;
use std::path::PathBuf;

use rustix::fs::{Dir, DirEntry, FileType};

use super::error::CombineError;
use super::input::below;
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::path::MemberPath;

/// How deep directories may lie in each other. A cluster's are four deep.
pub(super) const MAX_DEPTH: usize = 64;

/// A walk through a directory.
#[derive(Debug)]
pub(super) struct Walk {
    root: ConfinedDirectory,
    shown: PathBuf,
    levels: Vec<Level>,
    /// Device and inode of directories that must not be met: those that are being written.
    forbidden: HashSet<(u64, u64)>,
}

#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    entries: Dir,
}

/// Something that was met.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: MemberPath,
    pub(super) kind: FileType,
}

impl Walk {
    /// Begins at `root`, which is shown as `shown`.
    pub(super) fn new(
        mut root: ConfinedDirectory,
        shown: PathBuf,
        forbidden: HashSet<(u64, u64)>,
    ) -> Result<Self, CombineError> {
        let entries =
            root.list(None).map_err(|error| FileError::new("open directory", &shown, error.source))?;
        let mut walk = Walk { root, shown, levels: Vec::new(), forbidden };
        walk.descend(Vec::new(), entries)?;
        Ok(walk)
    }

    /// What comes next; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Found>, CombineError> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let entry = match level.entries.read() {
                Some(Ok(entry)) => entry,
                Some(Err(errno)) => {
                    let path = below(&self.shown, &level.path);
                    return Err(FileError::new("read directory", path, errno).into());
                }
                None => {
                    self.levels.pop();
                    continue;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let path = MemberPath::parse(&path).map_err(|_| CombineError::Name(below(&self.shown, &path)))?;
            let kind = entry_type(&entry, &mut self.root, &path)?;
            return Ok(Some(Found { path, kind }));
        }
    }

    /// Goes into a directory that was met just now.
    pub(super) fn enter(&mut self, path: &MemberPath) -> Result<(), CombineError> {
        let shown = || below(&self.shown, path.as_bytes());
        let entries = self.root.list(Some(path));
        let entries = entries.map_err(|error| FileError::new("open directory", shown(), error.source))?;
        if self.levels.len() >= MAX_DEPTH {
            return Err(CombineError::TooDeep(shown()));
        }
        self.descend(path.as_bytes().to_vec(), entries)
    }

    fn descend(&mut self, path: Vec<u8>, entries: Dir) -> Result<(), CombineError> {
        let shown = below(&self.shown, &path);
        let stat = entries.stat().map_err(|errno| FileError::new("stat file", &shown, errno))?;
        if self.forbidden.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(CombineError::OutputWithinInput(shown));
        }
        self.levels.push(Level { path, entries });
        Ok(())
    }
}

/// What an entry is, even where the file system does not say so in passing.
pub(super) fn entry_type(
    entry: &DirEntry,
    directory: &mut ConfinedDirectory,
    path: &MemberPath,
) -> Result<FileType, FileError> {
    match entry.file_type() {
        FileType::Unknown => Ok(directory.file_type(path)?.unwrap_or(FileType::Unknown)),
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn walk(root: &Path, forbidden: HashSet<(u64, u64)>) -> Result<Vec<String>, CombineError> {
        let directory = ConfinedDirectory::open(root, None).unwrap();
        let mut walk = Walk::new(directory, "shown".into(), forbidden)?;
        let mut met = Vec::new();
        while let Some(found) = walk.next()? {
            met.push(format!("{:?} {}", found.kind, found.path));
            if found.kind == FileType::Directory {
                walk.enter(&found.path)?;
            }
        }
        met.sort();
        Ok(met)
    }

    #[test]
    fn meets_everything_once_and_follows_no_link() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        std::fs::write(root.join("top"), "x").unwrap();
        std::os::unix::fs::symlink(root, root.join("a/link")).unwrap();
        let met = walk(root, HashSet::new()).unwrap();
        assert_eq!(
            met,
            ["Directory a", "Directory a/b", "RegularFile a/b/file", "RegularFile top", "Symlink a/link"]
        );
    }

    #[test]
    fn does_not_walk_into_what_is_being_written() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/output")).unwrap();
        let output = scratch.path().join("a/output").metadata().unwrap();
        let error = walk(scratch.path(), HashSet::from([(output.dev(), output.ino())])).unwrap_err();
        assert_eq!(error.to_string(), "output directory \"shown/a/output\" is within an input directory");
    }

    #[test]
    fn gives_up_where_it_is_too_deep() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join(["d"; MAX_DEPTH].join("/"))).unwrap();
        assert!(matches!(walk(scratch.path(), HashSet::new()), Err(CombineError::TooDeep(_))));
    }
}
