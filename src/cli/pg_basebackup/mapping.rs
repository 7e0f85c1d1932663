//! `-T OLDDIR=NEWDIR`: where tablespaces go (`tablespace_list_append` and `get_tablespace_mapping`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Where tablespaces go that do not go where they are on the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TablespaceMapping(Vec<(PathBuf, PathBuf)>);

/// What cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MappingError {
    #[error("multiple \"=\" signs in tablespace mapping")]
    MultipleSigns,
    #[error("invalid tablespace mapping format \"{0}\", must be \"OLDDIR=NEWDIR\"")]
    Format(String),
    #[error("old directory is not an absolute path in tablespace mapping: {0}")]
    OldNotAbsolute(String),
    #[error("new directory is not an absolute path in tablespace mapping: {0}")]
    NewNotAbsolute(String),
    #[error("directory name too long")]
    TooLong,
}

/// PostgreSQL's `MAXPGPATH`.
const MAX_PATH_LEN: usize = 1024;

impl TablespaceMapping {
    /// Takes one more. `\=` stands for a sign that separates nothing.
    pub(super) fn add(&mut self, argument: &OsStr) -> Result<(), MappingError> {
        let mut sides = [Vec::new(), Vec::new()];
        let mut side = 0;
        let bytes = argument.as_bytes();
        for (index, &byte) in bytes.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| bytes[before]);
            match byte {
                b'\\' if bytes.get(index + 1) == Some(&b'=') => {}
                b'=' if before != Some(b'\\') => {
                    if !sides[1].is_empty() {
                        return Err(MappingError::MultipleSigns);
                    }
                    side = 1;
                }
                _ if sides[side].len() == MAX_PATH_LEN => return Err(MappingError::TooLong),
                _ => sides[side].push(byte),
            }
        }
        let [old, new] = sides;
        if old.is_empty() || new.is_empty() {
            return Err(MappingError::Format(argument.to_string_lossy().into_owned()));
        }
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        if !is_absolute_anywhere(&old) {
            return Err(MappingError::OldNotAbsolute(shown(&old)));
        }
        if new.first() != Some(&b'/') {
            return Err(MappingError::NewNotAbsolute(shown(&new)));
        }
        let canonical = |path: Vec<u8>| canonical(&OsString::from_vec(path));
        self.0.push((canonical(old), canonical(new)));
        Ok(())
    }

    /// Where a tablespace goes that is at `location` on the server.
    pub(super) fn map(&self, location: &[u8]) -> PathBuf {
        let path = OsStr::from_bytes(location);
        let wanted = canonical(path);
        let found = self.0.iter().find(|(old, _)| *old == wanted);
        found.map_or_else(|| PathBuf::from(path), |(_, new)| new.clone())
    }
}

/// On Windows, too: the server may run there.
fn is_absolute_anywhere(path: &[u8]) -> bool {
    match path {
        [b'/' | b'\\', ..] => true,
        [drive, b':', b'/' | b'\\', ..] => drive.is_ascii_alphabetic(),
        _ => false,
    }
}

/// Without `.`, `..`, doubled and trailing slashes, as far as that can be said from the name (`canonicalize_path`).
pub(super) fn canonical(path: &OsStr) -> PathBuf {
    let mut canonical = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if canonical.file_name().is_some() => {
                canonical.pop();
            }
            Component::ParentDir if canonical.has_root() => {}
            other => canonical.push(other),
        }
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(argument: &str, location: &str) -> String {
        let mut mapping = TablespaceMapping::default();
        match mapping.add(OsStr::new(argument)) {
            Ok(()) => mapping.map(location.as_bytes()).display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn directories_are_mapped_as_the_original_maps_them() {
        for (argument, location, expected) in [
            ("/a=/b", "/a", "/b"),
            ("/a/=/b//c/", "//a", "/b/c"),
            ("/a\\=x=/b", "/a=x", "/b"),
            ("/a/../c=/b/./d", "/c", "/b/d"),
            ("/a=/b", "/c/", "/c/"),
            ("C:\\x=/b", "C:\\x", "/b"),
            ("/a=/b=/c", "", "multiple \"=\" signs in tablespace mapping"),
            ("/a", "", "invalid tablespace mapping format \"/a\", must be \"OLDDIR=NEWDIR\""),
            ("=/b", "", "invalid tablespace mapping format \"=/b\", must be \"OLDDIR=NEWDIR\""),
            ("a=/b", "", "old directory is not an absolute path in tablespace mapping: a"),
            ("/a=b", "", "new directory is not an absolute path in tablespace mapping: b"),
        ] {
            assert_eq!(mapped(argument, location), expected, "{argument}");
        }
    }
}
