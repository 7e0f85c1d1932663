//! A directory of the operating system.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::FileOwner;

use super::direct::{DirectWriter, Pieces};
use super::disk::{Disk, DiskFile, OpenMode};

/// How many pieces one `pwritev` takes; the kernel's limit is 1024.
const MAX_IO_SLICES: usize = 256;

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    file_mode: u32,
    owner: Option<FileOwner>,
    syncs: bool,
    direct: DirectWriter,
}

impl RealDisk {
    /// The directory at `directory`, whose new files only their owner may read.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        RealDisk { directory, file_mode: 0o600, owner: None, syncs: true, direct: DirectWriter::new() }
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

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            // the kind comes with the name, on every file system that matters
            let is_file = match entry.file_type() {
                Ok(kind) => kind.is_file(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if is_file && let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn len_of(&mut self, name: &str) -> io::Result<u64> {
        Ok(std::fs::symlink_metadata(self.path(name))?.len())
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

    fn write_at(&mut self, file: &mut File, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut pieces = Pieces::new(chunks);
        let end = offset + pieces.len();
        if let Some(head_len) = self.direct.head_len(offset, pieces.len()) {
            write_through_cache(file, offset, head_len, &mut pieces)?;
            self.direct.write(file, offset + head_len, &mut pieces)?;
        }
        let rest = pieces.len();
        write_through_cache(file, end - rest, rest, &mut pieces)
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

/// Writes the next `len` bytes of `pieces`.
fn write_through_cache(file: &File, mut offset: u64, len: u64, pieces: &mut Pieces<'_>) -> io::Result<()> {
    let end = offset + len;
    while offset < end {
        let written = match rustix::io::pwritev(file, &pieces.io_slices(end - offset, MAX_IO_SLICES), offset)
        {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written as u64,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        pieces.advance(written);
        offset += written;
    }
    Ok(())
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
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert_eq!(disk.len_of("a").unwrap(), len as u64);
        assert_eq!(disk.len_of("b").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.open("b", OpenMode::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Large writes go past the page cache but for their ends; whatever the way, the file is what was written last.
    #[test]
    fn large_writes_and_small_ones_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path());
        let mut file = disk.open("a", OpenMode::ExistingOrNew).unwrap();
        let mut expected = vec![0; 4 << 20];
        let mut random = fastrand::Rng::with_seed(7);
        let mut buffer = vec![0; expected.len()];
        for turn in 1..=60_u8 {
            let offset = random.usize(..2 << 20);
            let piece_len = [1, 517, 8192, 131_072, 300_001][random.usize(..5)];
            let pieces: Vec<Bytes> =
                (0..random.u8(1..6)).map(|i| Bytes::from(vec![turn ^ i; piece_len])).collect();
            let plain = pieces.concat();
            // as a resumed stream does, which compares before it writes
            disk.read_at(&file, offset as u64, &mut buffer[..plain.len()]).unwrap();
            disk.write_at(&mut file, offset as u64, &pieces).unwrap();
            expected[offset..offset + plain.len()].copy_from_slice(&plain);
            let len = disk.read_at(&file, 0, &mut buffer).unwrap();
            assert!(buffer[..len] == expected[..len], "after write {turn}");
        }
        disk.sync_data(&mut file).unwrap();
        let len = disk.len(&file).unwrap() as usize;
        assert!(std::fs::read(directory.path().join("a")).unwrap() == expected[..len]);
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
        assert!(disk.list().unwrap().is_empty(), "a lock leaves nothing behind");
    }
}
