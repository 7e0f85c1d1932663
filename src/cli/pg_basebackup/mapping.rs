//! `-T OLDDIR=NEWDIR`: where tablespaces go (`tablespace_list_append` and `get_tablespace_mapping`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::cli::pg_tool::mapping::{MappingError, split_mapping};
use crate::pg::canonical_path;

/// Where tablespaces go that do not go where they are on the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TablespaceMapping(Vec<(PathBuf, PathBuf)>);

impl TablespaceMapping {
    /// Takes one more.
    pub(super) fn add(&mut self, argument: &OsStr) -> Result<(), MappingError> {
        let (old, new) = split_mapping(argument)?;
        if !is_absolute_anywhere(old.as_os_str().as_bytes()) {
            return Err(MappingError::OldNotAbsolute(old));
        }
        if !new.is_absolute() {
            return Err(MappingError::NewNotAbsolute(new));
        }
        self.0.push((canonical_path(old), canonical_path(new)));
        Ok(())
    }

    /// Where a tablespace goes that is at `location` on the server.
    pub(super) fn map(&self, location: &[u8]) -> PathBuf {
        let path = OsStr::from_bytes(location);
        let wanted = canonical_path(path);
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
