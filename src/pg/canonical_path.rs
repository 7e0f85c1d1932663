//! One spelling for each path, as PostgreSQL's programs have it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// `canonicalize_path` of PostgreSQL's `src/port/path.c`: no empty or `.` components, no slash at the end, and `..`
/// only where it cannot be resolved without looking. The disk is not asked, so links stay what they are.
pub fn canonical_path(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref().as_os_str().as_bytes();
    if path.is_empty() {
        return PathBuf::new();
    }
    let is_absolute = path.first() == Some(&b'/');
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(&last) if last != b".." => drop(kept.pop()),
                _ if is_absolute => {}
                _ => kept.push(component),
            },
            _ => kept.push(component),
        }
    }
    let joined = kept.join(&b'/');
    match (is_absolute, joined.is_empty()) {
        (true, _) => Path::new("/").join(OsStr::from_bytes(&joined)),
        (false, true) => PathBuf::from("."),
        (false, false) => OsString::from_vec(joined).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (path, expected) in [
            ("", ""),
            ("a/", "a"),
            ("./a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("../../a/..", "../.."),
            (".", "."),
            ("a/..", "."),
            ("/", "/"),
            ("//a/../..", "/"),
            ("/a/b/..", "/a"),
            ("/a/./b/.", "/a/b"),
            ("/a/b/../../c/", "/c"),
            ("C:\\x", "C:\\x"),
        ] {
            // as text: a `Path` would find more of them equal than they are
            assert_eq!(canonical_path(path).into_os_string(), *expected, "{path}");
        }
    }

    /// The same path to the system as the one that was given, wherever there are no links.
    #[test]
    fn it_leads_to_the_same_place() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        for path in ["a/b/../b/.", "a//b/../../a/", "a/b/../..", "a/../a/../a/b"] {
            let given = scratch.path().join(path);
            let place = canonical_path(&given);
            assert_eq!(given.canonicalize().unwrap(), place.canonicalize().unwrap(), "{path}");
            assert!(!place.to_str().unwrap().contains(".."), "{path}");
        }
    }
}
