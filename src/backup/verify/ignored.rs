//! What is passed over.

use std::collections::HashSet;

/// Never compared: the manifest does not list itself, WAL is checked in another way, and the rest is what a backup's
/// owner changes.
const ALWAYS: [&[u8]; 5] =
    [b"backup_manifest", b"pg_wal", b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// Paths that are passed over with all that lies below them (`should_ignore_relpath`).
#[derive(Debug)]
pub(super) struct Ignored {
    paths: HashSet<Box<[u8]>>,
}

impl Ignored {
    /// These, and what is always passed over.
    pub(super) fn new(paths: &[Box<[u8]>]) -> Self {
        let always = ALWAYS.into_iter().map(Box::from);
        Ignored { paths: always.chain(paths.iter().cloned()).collect() }
    }

    /// From now on this one too.
    pub(super) fn add(&mut self, path: &[u8]) {
        self.paths.insert(path.into());
    }

    /// Whether a path, or a directory above it, is passed over.
    pub(super) fn covers(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.chain([path.len()]).any(|end| self.paths.contains(&path[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_what_lies_below() {
        let ignored = Ignored::new(&[Box::from(&b"base/1"[..]), Box::from(&b""[..])]);
        for path in ["pg_wal", "pg_wal/x/y", "base/1", "base/1/2", "backup_manifest"] {
            assert!(ignored.covers(path.as_bytes()), "{path}");
        }
        for path in ["base", "base/10", "base/2/1", "x/pg_wal", "pg_walx", "backup_manifest.tmp"] {
            assert!(!ignored.covers(path.as_bytes()), "{path}");
        }
    }
}
