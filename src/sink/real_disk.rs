//! A directory of the operating system.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::FileOwner;

use super::disk::{Disk, DiskEntry, DiskFile, OpenMode};

/// How many pieces one `pwritev` takes; the kernel's limit is 1024.
const MAX_IO_SLICES: usize = 256;

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    file_mode: u32,
    owner: Option<FileOwner>,
    syncs: bool,
}

impl RealDisk {
    /// The directory at `directory`, whose new files only their owner may read.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        RealDisk { directory: directory.into(), file_mode: 0o600, owner: None, syncs: true }
    }

    /// Creates files with `mode`, as `data_directory_mode` of the primary asks for.
    pub fn with_file_mode(mut self, mode: u32) -> Self {
        self.file_mode = mode;
        self
    }

    /// Gives new files to `owner`, when that is not who runs this.
    pub fn with_owner(mut self, owner: Option<FileOwner>) -> Self {
        self.owner = owner;
        self
    }

    /// Creates a file with exactly the mode and the owner that were asked for, whatever the umask.
    fn create(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        if let Some(FileOwner { uid, gid }) = self.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        if self.file_mode != 0o600 {
            file.set_permissions(Permissions::from_mode(self.file_mode))?;
        }
        Ok(file)
    }

    /// Leaves it to the operating system when bytes and names reach the disk: a crash of the system may lose any of
    /// them. Nothing that such a disk calls durable may be acknowledged.
    pub fn without_sync(mut self) -> Self {
        self.syncs = false;
        self
    }

    /// Where the directory is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl DiskFile for File {
    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Disk for RealDisk {
    type File = File;

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.directory.clone() } else { self.directory.join(name) }
    }

    fn list(&mut self) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // somebody moved a finished segment away while we were looking
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_file() {
                entries.push(DiskEntry { name, len: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<File> {
        let path = self.path(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == OpenMode::ExistingOrNew => {
                self.create(&path)
            }
            opened => opened,
        }
    }

    fn len(&mut self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn set_len(&mut self, file: &mut File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn write_at(&mut self, file: &mut File, mut offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        for group in chunks.chunks(MAX_IO_SLICES) {
            let filled = group.iter().filter(|chunk| !chunk.is_empty());
            let mut slices: Vec<IoSlice<'_>> = filled.map(|chunk| IoSlice::new(chunk)).collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let written = match rustix::io::pwritev(&*file, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }

    fn sync_data(&mut self, file: &mut File) -> io::Result<()> {
        if self.syncs { file.sync_data() } else { Ok(()) }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        if self.syncs { File::open(self.path(name))?.sync_all() } else { Ok(()) }
    }

    fn lock(&mut self, name: &str) -> io::Result<Option<File>> {
        let file = match name {
            "" => File::open(&self.directory)?,
            name => self.open(name, OpenMode::ExistingOrNew)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_pieces_in_place_and_reads_them_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path());
        let mut file = disk.open("a", OpenMode::ExistingOrNew).unwrap();
        let pieces: Vec<Bytes> = (0..600).map(|i| Bytes::from(vec![i as u8; i % 7])).collect();
        disk.write_at(&mut file, 3, &pieces).unwrap();
        disk.write_at(&mut file, 0, &[Bytes::new()]).unwrap();
        disk.sync_data(&mut file).unwrap();
        disk.sync_directory("").unwrap();
        let expected: Vec<u8> = [0; 3].into_iter().chain(pieces.concat()).collect();
        let mut buffer = vec![1; expected.len() + 10];
        let len = disk.read_at(&file, 0, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], &expected);
        assert_eq!(disk.list().unwrap(), [DiskEntry { name: "a".into(), len: len as u64 }]);
        assert_eq!(disk.open("b", OpenMode::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path());
        let held = disk.lock("").unwrap();
        assert!(held.is_some());
        assert!(disk.lock("").unwrap().is_none());
        drop(held);
        assert!(disk.lock("").unwrap().is_some());
        assert_eq!(disk.list().unwrap(), [], "a lock leaves nothing behind");
    }
}
