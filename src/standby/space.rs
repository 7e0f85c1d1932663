//! Is there room for what is about to come?

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A directory, and how many bytes it is going to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceNeed {
    /// The directory; it exists.
    pub directory: PathBuf,
    /// Bytes.
    pub bytes: u64,
}

/// Why there is not, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// A file system is too small for all that goes onto it.
    #[error(
        "not enough space in \"{}\": {} MB are needed, {} MB are free",
        .directory.display(), .needed.div_ceil(1 << 20), .available >> 20
    )]
    NotEnough {
        /// One of the directories on that file system.
        directory: PathBuf,
        /// What all of them need, in bytes.
        needed: u64,
        /// What an ordinary user may fill, in bytes.
        available: u64,
    },
    /// The operating system did not say.
    #[error("could not determine the free space in \"{}\"", .directory.display())]
    Unknown {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Adds up what goes onto each file system, and compares it with what is free there.
pub fn check_space(needs: &[SpaceNeed]) -> Result<(), SpaceError> {
    let mut by_device: BTreeMap<u64, (&Path, u64)> = BTreeMap::new();
    for need in needs {
        let unknown = |source| SpaceError::Unknown { directory: need.directory.clone(), source };
        let device = std::fs::metadata(&need.directory).map_err(unknown)?.dev();
        let entry = by_device.entry(device).or_insert((&need.directory, 0));
        entry.1 = entry.1.saturating_add(need.bytes);
    }
    for (directory, needed) in by_device.into_values() {
        let available = available_bytes(directory)
            .map_err(|source| SpaceError::Unknown { directory: directory.to_owned(), source })?;
        if needed > available {
            return Err(SpaceError::NotEnough { directory: directory.to_owned(), needed, available });
        }
    }
    Ok(())
}

fn available_bytes(directory: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(directory)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_on_one_file_system_are_added_up() {
        let sandbox = tempfile::tempdir().unwrap();
        let available = available_bytes(sandbox.path()).unwrap();
        let need = |bytes| SpaceNeed { directory: sandbox.path().to_owned(), bytes };
        check_space(&[need(1), need(2)]).unwrap();
        let error = check_space(&[need(available / 2), need(available / 2 + (1 << 40))]).unwrap_err();
        assert!(matches!(error, SpaceError::NotEnough { .. }), "{error}");
    }
}
