//! Names of archive members: relative, plain, and beneath the target by construction.
//!
//! Answers to `path_is_safe_for_extraction` in PostgreSQL's `src/port/path.c`. Stricter: `.` and empty components
//! are refused inside a name too. A leading `./` and one trailing slash are the server's own spelling
//! (`./pg_wal/archive_status/`) and are dropped. Names are bytes: a data directory may hold names in any encoding,
//! and on Unix a backslash is a character like any other.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest name of a member, in bytes: what ustar's `prefix` and `name` hold together.
pub const MAX_PATH_LEN: usize = 256;

/// The longest component of a name, in bytes: `NAME_MAX` of the file systems that hold clusters.
pub const MAX_COMPONENT_LEN: usize = 255;

/// A relative path without `.`, `..`, empty components or NUL bytes.
///
/// Joined to a directory it stays beneath it, as long as no symbolic link is followed on the way, which
/// [`ConfinedDirectory`](super::confined::ConfinedDirectory) sees to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(Box<[u8]>);

/// Why a name is not one that may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberPathError {
    /// Nothing, or nothing but slashes and dots.
    #[error("name is empty")]
    Empty,
    /// It begins with a slash.
    #[error("name is absolute")]
    Absolute,
    /// A component is `..`.
    #[error("name climbs with \"..\"")]
    ParentComponent,
    /// A component is `.` where the server never writes one.
    #[error("name has a \".\" component")]
    DotComponent,
    /// Two slashes in a row.
    #[error("name has an empty component")]
    EmptyComponent,
    /// A NUL byte.
    #[error("name has a NUL byte")]
    Nul,
    /// More than [`MAX_PATH_LEN`] bytes.
    #[error("name is longer than {MAX_PATH_LEN} bytes")]
    TooLong,
    /// A component of more than [`MAX_COMPONENT_LEN`] bytes.
    #[error("component of name is longer than {MAX_COMPONENT_LEN} bytes")]
    ComponentTooLong,
}

impl MemberPath {
    /// A member's name as it stands in a tar header.
    pub fn parse(name: &[u8]) -> Result<Self, MemberPathError> {
        if name.len() > MAX_PATH_LEN {
            return Err(MemberPathError::TooLong);
        }
        if name.contains(&0) {
            return Err(MemberPathError::Nul);
        }
        if name.first() == Some(&b'/') {
            return Err(MemberPathError::Absolute);
        }
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if name.is_empty() || name == b"." {
            return Err(MemberPathError::Empty);
        }
        for component in name.split(|&b| b == b'/') {
            match component {
                b"" => return Err(MemberPathError::EmptyComponent),
                b"." => return Err(MemberPathError::DotComponent),
                b".." => return Err(MemberPathError::ParentComponent),
                long if long.len() > MAX_COMPONENT_LEN => return Err(MemberPathError::ComponentTooLong),
                _ => {}
            }
        }
        Ok(MemberPath(name.into()))
    }

    /// A name that this program knows.
    ///
    /// # Panics
    /// When it is not acceptable.
    pub(crate) fn literal(name: &'static str) -> Self {
        MemberPath::parse(name.as_bytes()).expect("a literal name is acceptable")
    }

    /// The name's bytes, without leading `./` or trailing slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory part (empty at the top) and the last component.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// What follows `directory/` in this name, if it lies beneath that directory.
    pub fn beneath(&self, directory: &[u8]) -> Option<MemberPath> {
        let rest = self.0.strip_prefix(directory)?.strip_prefix(b"/")?;
        Some(MemberPath(rest.into()))
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The OID in `pg_tblspc/<oid>`: decimal digits, no leading zero, not zero.
pub fn tablespace_oid(path: &[u8]) -> Option<u32> {
    parse_oid(path.strip_prefix(b"pg_tblspc/")?)
}

/// An OID as the server prints it.
pub(crate) fn parse_oid(digits: &[u8]) -> Option<u32> {
    let plain = digits.first().is_some_and(|&b| b != b'0') && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_the_server_writes() {
        for (name, expected) in [
            (&b"backup_label"[..], &b"backup_label"[..]),
            (b"./pg_wal/archive_status/", b"pg_wal/archive_status"),
            (b"pg_tblspc/16384/", b"pg_tblspc/16384"),
            (b"base/5/\xFF\xFE", b"base/5/\xFF\xFE"),
            (b"back\\slash", b"back\\slash"),
            (b"...", b"..."),
        ] {
            assert_eq!(MemberPath::parse(name).unwrap().as_bytes(), expected);
        }
    }

    #[test]
    fn refuses_what_could_leave_the_target() {
        use MemberPathError as E;
        for (name, expected) in [
            (&b""[..], E::Empty),
            (b".", E::Empty),
            (b"./", E::Empty),
            (b"/", E::Absolute),
            (b"/etc/passwd", E::Absolute),
            (b"..", E::ParentComponent),
            (b"./..", E::ParentComponent),
            (b"a/../../b", E::ParentComponent),
            (b"a/..", E::ParentComponent),
            (b"././a", E::DotComponent),
            (b"a/./b", E::DotComponent),
            (b"a//b", E::EmptyComponent),
            (b".//etc", E::EmptyComponent),
            (b"a//", E::EmptyComponent),
            (b"a\0b", E::Nul),
            (&[b'a'; 256][..], E::ComponentTooLong),
            (&[b'a'; 257][..], E::TooLong),
        ] {
            assert_eq!(MemberPath::parse(name), Err(expected), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn splits_and_relates() {
        let path = MemberPath::parse(b"pg_tblspc/16384/PG_15").unwrap();
        assert_eq!(path.split(), (&b"pg_tblspc/16384"[..], &b"PG_15"[..]));
        assert_eq!(path.beneath(b"pg_tblspc").unwrap().as_bytes(), b"16384/PG_15");
        assert_eq!(path.beneath(b"pg_tbl"), None);
        assert_eq!(MemberPath::parse(b"pg_wal").unwrap().beneath(b"pg_wal"), None);
        assert_eq!(tablespace_oid(b"pg_tblspc/16384"), Some(16384));
        for not in
            [&b"pg_tblspc/"[..], b"pg_tblspc/0", b"pg_tblspc/01", b"pg_tblspc/1/x", b"pg_tblspc/4294967296"]
        {
            assert_eq!(tablespace_oid(not), None);
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_stays_beneath(name in proptest::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(b'a'), Just(0u8), any::<u8>()], 0..40)) {
            if let Ok(path) = MemberPath::parse(&name) {
                let mut depth = 0;
                for component in path.as_path().components() {
                    prop_assert!(matches!(component, std::path::Component::Normal(_)));
                    depth += 1;
                }
                prop_assert!(depth > 0);
                prop_assert_eq!(MemberPath::parse(path.as_bytes()).unwrap(), path);
            }
        }
    }
}
