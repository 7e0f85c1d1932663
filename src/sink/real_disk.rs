//! A directory of the operating system.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, StatxFlags, fstat, openat, renameat, statat,
    statx, unlinkat,
};
use rustix::io::Errno;

use crate::FileOwner;
use crate::direct::DirectWriter;

use super::disk::{Disk, DiskFile, OpenMode};
use super::ready_file::ReadyFile;
use super::sync_observer::{SyncObserver, SyncTimer, Synced};

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    attributes: FileAttributes,
    syncs: bool,
    direct: DirectWriter,
    ready: ReadyFile,
    handle: Option<OwnedFd>,
    /// What leads into the directory, when that is not its name.
    held_at: Option<PathBuf>,
    sync_observer: Option<Arc<dyn SyncObserver>>,
}

/// What a new file is given beside its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileAttributes {
    mode: u32,
    owner: Option<FileOwner>,
}

impl FileAttributes {
    /// Of a file that was created with mode 0600, exactly what was asked for, whatever the umask.
    pub(super) fn set(self, file: &File) -> io::Result<()> {
        if let Some(FileOwner { uid, gid }) = self.owner {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        if self.mode == 0o600 { Ok(()) } else { file.set_permissions(Permissions::from_mode(self.mode)) }
    }
}

impl RealDisk {
    /// The directory at `directory`, whose new files only their owner may read.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let attributes = FileAttributes { mode: 0o600, owner: None };
        let (direct, ready) = (DirectWriter::new(), ReadyFile::default());
        let (syncs, handle, held_at, sync_observer) = (true, None, None, None);
        RealDisk { directory, attributes, syncs, direct, ready, handle, held_at, sync_observer }
    }

    /// Opens the directory by way of `path`, which leads into it wherever its name leads to by now.
    pub fn held_at(mut self, path: &Path) -> Self {
        self.held_at = Some(path.to_owned());
        self
    }

    /// Creates files with `mode`, as `data_directory_mode` of the primary asks for.
    pub fn with_file_mode(mut self, mode: u32) -> Self {
        self.attributes.mode = mode;
        self
    }

    /// Gives new files to `owner`, when that is not who runs this.
    pub fn with_owner(mut self, owner: Option<FileOwner>) -> Self {
        self.attributes.owner = owner;
        self
    }

    /// Tells `observer` how long each fsync takes.
    pub fn with_sync_observer(mut self, observer: Arc<dyn SyncObserver>) -> Self {
        self.sync_observer = Some(observer);
        self
    }

    /// The directory, opened once: whatever happens to its path afterwards, names are looked up in this one.
    fn handle(&mut self) -> io::Result<&OwnedFd> {
        if self.handle.is_none() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let place = self.held_at.as_ref().unwrap_or(&self.directory);
            self.handle = Some(rustix::fs::open(place, flags, Mode::empty())?);
        }
        self.handle.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Creates a file with the mode and the owner that were asked for.
    fn create(&mut self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(openat(self.handle()?, name, flags, Mode::RUSR | Mode::WUSR)?);
        self.attributes.set(&file)?;
        Ok(file)
    }

    /// Leaves it to the operating system when bytes and names reach the disk: a crash of the system may lose any of
    /// them. Nothing that such a disk calls durable may be acknowledged.
    pub fn without_sync(mut self) -> Self {
        self.syncs = false;
        self
    }

    fn opened(&self, file: File) -> RealFile {
        RealFile { file: Arc::new(file), syncs: self.syncs, sync_observer: self.sync_observer.clone() }
    }

    fn stat(&mut self, name: &str) -> io::Result<Stat> {
        Ok(statat(self.handle()?, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Where the directory is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// How many names `file` has. Its times are not asked for: since Linux 6.13 a file whose times somebody has seen gets new ones
/// with the next write, and then its inode is one more thing to be written for each commit.
fn link_count(file: &File) -> io::Result<u64> {
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
        Ok(found) if found.stx_mask & StatxFlags::NLINK.bits() != 0 => Ok(found.stx_nlink.into()),
        // a system, or a filter of its calls, that does not know this one
        _ => Ok(fstat(file)?.st_nlink),
    }
}

/// An open file of such a directory.
#[derive(Debug, Clone)]
pub struct RealFile {
    file: Arc<File>,
    syncs: bool,
    sync_observer: Option<Arc<dyn SyncObserver>>,
}

impl DiskFile for RealFile {
    fn sync_data(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        let timer = SyncTimer::start(self.sync_observer.as_ref(), Synced::Data);
        self.file.sync_data()?;
        timer.stop();
        // durable, and nobody would find it
        match link_count(&self.file)? {
            0 => Err(io::Error::other("somebody removed the file while it was being written")),
            _ => Ok(()),
        }
    }

    fn open_again(&self) -> io::Result<Self> {
        // by its name it might be another file by now; who only syncs need not be able to write
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        Ok(RealFile { file: Arc::new(file), ..self.clone() })
    }

    fn fill_from(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
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
    type File = RealFile;

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.directory.clone() } else { self.directory.join(name) }
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.handle()?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // the kind comes with the name, on every file system that matters
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                },
                kind => kind,
            };
            if kind == FileType::RegularFile {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn len_of(&mut self, name: &str) -> io::Result<u64> {
        Ok(u64::try_from(self.stat(name)?.st_size).unwrap_or(0))
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<RealFile> {
        let access = if mode == OpenMode::ToRead { OFlags::RDONLY } else { OFlags::RDWR };
        // nobody but us makes names here, or a link would lead our writes, root's perhaps, to anywhere
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(self.handle()?, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if mode == OpenMode::ExistingOrNew => self.create(name)?,
            opened => File::from(opened?),
        };
        Ok(self.opened(file))
    }

    fn make_ready(&mut self, len: u64) {
        let attributes = self.attributes;
        // what is never synced need not be durable sooner
        if self.syncs
            && self.handle().is_ok()
            && let Some(handle) = &self.handle
        {
            self.ready.make(handle, attributes, len);
        }
    }

    fn take_ready(&mut self, name: &str, len: u64) -> io::Result<Option<RealFile>> {
        self.handle()?;
        let taken = self.handle.as_ref().and_then(|handle| self.ready.take(handle, name, len));
        Ok(taken.map(|file| self.opened(file)))
    }

    fn len(&mut self, file: &RealFile) -> io::Result<u64> {
        Ok(file.file.metadata()?.len())
    }

    fn set_len(&mut self, file: &mut RealFile, len: u64) -> io::Result<()> {
        file.file.set_len(len)
    }

    fn write_at(&mut self, file: &mut RealFile, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        self.direct.write_at(&file.file, offset, chunks)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let handle = self.handle()?;
        Ok(renameat(handle, from, handle, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(unlinkat(self.handle()?, name, AtFlags::empty())?)
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        let timer = SyncTimer::start(self.sync_observer.as_ref(), Synced::Directory);
        if name.is_empty() {
            rustix::fs::fsync(self.handle()?)?;
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fsync(openat(self.handle()?, name, flags, Mode::empty())?)?;
        }
        timer.stop();
        Ok(())
    }

    fn sync_earlier(&mut self) -> io::Result<()> {
        // which files, nobody remembers: those of a run that synced nothing, or what was copied here by hand
        if self.syncs { Ok(rustix::fs::syncfs(self.handle()?)?) } else { Ok(()) }
    }

    fn lock(&mut self, name: &str) -> io::Result<Option<RealFile>> {
        let file = match name {
            // a description of its own, which is let go of with the lock
            "" => self.open(".", OpenMode::ToRead)?,
            name => self.open(name, OpenMode::ExistingOrNew)?,
        };
        match rustix::fs::flock(&*file.file, FlockOperation::NonBlockingLockExclusive) {
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
        file.sync_data().unwrap();
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

    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let wal = directory.path().join("wal");
        std::fs::create_dir(&wal).unwrap();
        let mut disk = RealDisk::new(&wal);
        for name in ["00000002.history.tmp", "000000010000000000000001.partial"] {
            std::os::unix::fs::symlink(&victim, wal.join(name)).unwrap();
            for mode in [OpenMode::ToRead, OpenMode::Existing, OpenMode::ExistingOrNew] {
                disk.open(name, mode).unwrap_err();
            }
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        // nor by its own name, once it is held
        let held = std::fs::File::open(&wal).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        std::fs::rename(&wal, directory.path().join("moved")).unwrap();
        let mut disk = RealDisk::new(&wal).held_at(Path::new(&path));
        disk.open("a", OpenMode::ExistingOrNew).unwrap();
        assert!(directory.path().join("moved/a").is_file());
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
            let pieces: Vec<Bytes> = (0..random.u8(1..6))
                .map(|i| {
                    // as the wire lays large messages out, or not
                    let piece = Bytes::from(vec![turn ^ i; piece_len + 4096]);
                    let start = piece.as_ptr().align_offset(4096) + usize::from(random.u8(..3) == 0);
                    piece.slice(start.min(4096)..).slice(..piece_len)
                })
                .collect();
            let plain = pieces.concat();
            // as a resumed stream does, which compares before it writes
            disk.read_at(&file, offset as u64, &mut buffer[..plain.len()]).unwrap();
            disk.write_at(&mut file, offset as u64, &pieces).unwrap();
            expected[offset..offset + plain.len()].copy_from_slice(&plain);
            let len = disk.read_at(&file, 0, &mut buffer).unwrap();
            assert!(buffer[..len] == expected[..len], "after write {turn}");
        }
        file.sync_data().unwrap();
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
