//! Whether a disk that was full has room again.

use std::path::{Path, PathBuf};

/// How much room a disk had when something did not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullDisk {
    directory: PathBuf,
    then: Option<Room>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: u64,
    /// More files.
    files: u64,
}

/// What is less is nobody's tidying up.
const MIN_GROWTH: u64 = 1 << 20;

impl FullDisk {
    /// The disk that a directory is on, as it is now.
    pub fn of(directory: &Path) -> Self {
        FullDisk { then: Room::of(directory), directory: directory.to_owned() }
    }

    /// Whether there is more room than there was; also where that cannot be told, as with a quota.
    pub fn has_grown(&self) -> bool {
        match (self.then, Room::of(&self.directory)) {
            (Some(then), Some(now)) => now.bytes >= then.bytes + MIN_GROWTH || now.files > then.files,
            _ => true,
        }
    }
}

/// How many more bytes the disk that a directory is on takes; `None` where that cannot be told.
pub fn free_len(directory: &Path) -> Option<u64> {
    Room::of(directory).map(|room| room.bytes)
}

impl Room {
    fn of(directory: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(directory).ok()?;
        Some(Room { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), files: stat.f_favail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_grown_by_bytes_or_by_files() {
        let directory = tempfile::tempdir().unwrap();
        let now = Room::of(directory.path()).unwrap();
        let full = |bytes, files| FullDisk {
            directory: directory.path().to_owned(),
            then: Some(Room { bytes, files }),
        };
        // others use this disk too
        assert!(full(now.bytes.saturating_sub(1 << 30), u64::MAX).has_grown());
        assert!(!full(now.bytes + (1 << 30), u64::MAX).has_grown());
        assert!(full(now.bytes + (1 << 30), now.files.saturating_sub(100_000)).has_grown() || now.files == 0);
        assert!(FullDisk::of(Path::new("/nonexistent")).has_grown());
    }
}
