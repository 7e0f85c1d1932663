//! The backups that are read.
//!
//! A backup's own path is the user's and may lead through symbolic links. Below it none is followed, but for those of
//! tablespaces, directly in `pg_tblspc`. Paths are shown as the original shows them: joined with a slash, and otherwise
//! as they were given.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::CombineError;
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::path::MemberPath;

/// One of the backups.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) path: PathBuf,
    directory: Option<ConfinedDirectory>,
}

impl Backup {
    /// Nothing is looked at yet.
    pub(super) fn new(path: &Path) -> Self {
        Backup { path: path.to_owned(), directory: None }
    }

    /// Where something in it is, for messages.
    pub(super) fn path_of(&self, member: &MemberPath) -> PathBuf {
        below(&self.path, member.as_bytes())
    }

    /// The directory, which is opened when it is first needed.
    pub(super) fn directory(&mut self) -> Result<&mut ConfinedDirectory, FileError> {
        match &mut self.directory {
            Some(directory) => Ok(directory),
            unopened @ None => Ok(unopened.insert(ConfinedDirectory::open(&self.path, None)?)),
        }
    }

    /// Opens a file of it. That the whole backup is missing is told as if the file were.
    pub(super) fn open_file(&mut self, member: &MemberPath) -> Result<File, FileError> {
        let opened = self.directory().and_then(|directory| directory.open_file(member));
        opened.map_err(|error| FileError::new("open file", self.path_of(member), error.source))
    }

    /// A small file's content.
    pub(super) fn read_file(&mut self, member: &MemberPath, max_len: u64) -> Result<Vec<u8>, CombineError> {
        let file = self.open_file(member)?;
        read_bounded(&file, self.path_of(member), max_len)
    }

    /// The root of a tablespace; `None` where this backup has no such tablespace.
    pub(super) fn open_tablespace(&mut self, oid: u32) -> Result<Option<ConfinedDirectory>, CombineError> {
        let member = tablespace_member(oid);
        let place = self.path_of(&member);
        let directory = self.directory()?;
        match directory.file_type(&member) {
            Ok(Some(FileType::Symlink)) => {
                let target = directory.read_link(&member)?;
                let target = place.parent().map_or_else(|| target.clone(), |parent| parent.join(&target));
                match ConfinedDirectory::open(&target, None) {
                    Ok(root) => Ok(Some(root)),
                    // what is not needed of it is not missed
                    Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Ok(Some(_)) => Ok(Some(directory.open_beneath(&member)?)),
            Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// All of a file that is not longer than `max_len`.
fn read_bounded(file: &File, path: PathBuf, max_len: u64) -> Result<Vec<u8>, CombineError> {
    let metadata = file.metadata().map_err(|source| FileError::new("stat file", &path, source))?;
    if !metadata.is_file() {
        return Err(CombineError::NotRegular(path));
    }
    let mut content = Vec::new();
    let read = file.take(max_len + 1).read_to_end(&mut content);
    read.map_err(|source| FileError::new("read file", &path, source))?;
    if content.len() as u64 > max_len { Err(CombineError::TooLarge(path)) } else { Ok(content) }
}

/// `pg_tblspc/<oid>`.
pub(super) fn tablespace_member(oid: u32) -> MemberPath {
    MemberPath::parse(format!("pg_tblspc/{oid}").as_bytes()).expect("a number is an acceptable name")
}

/// `directory/name`, whatever the directory ends in.
pub(super) fn below(directory: &Path, name: &[u8]) -> PathBuf {
    let mut path = directory.as_os_str().as_bytes().to_vec();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_as_they_were_given() {
        assert_eq!(below(Path::new("a/"), b"b").as_os_str(), "a//b");
        assert_eq!(below(Path::new("a"), b"b/c").as_os_str(), "a/b/c");
        assert_eq!(below(Path::new("a"), b"").as_os_str(), "a");
    }

    #[test]
    fn what_is_read_whole_is_bounded() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("x"), [b'x'; 10]).unwrap();
        std::os::unix::fs::symlink("x", scratch.path().join("link")).unwrap();
        let mut backup = Backup::new(scratch.path());
        let member = |name: &[u8]| MemberPath::parse(name).unwrap();
        assert_eq!(backup.read_file(&member(b"x"), 10).unwrap(), [b'x'; 10]);
        assert!(matches!(backup.read_file(&member(b"x"), 9), Err(CombineError::TooLarge(_))));
        assert!(matches!(backup.read_file(&member(b"link"), 10), Err(CombineError::File(_))));
        let missing = Backup::new(Path::new("/nonexistent")).open_file(&member(b"x")).unwrap_err();
        assert_eq!(missing.to_string(), "could not open file \"/nonexistent/x\"");
    }
}
