//! A file of zeros, made ready for the next segment while this one is being written.
//!
//! What is appended to a file is durable only when its new length and the place of its blocks are, too, which is another
//! write, and a wait for the file system's journal: 290 µs instead of 170 µs for 8 KiB on the machine this was built on. So
//! the zeros are there, and durable, before the first byte of WAL comes.
//!
//! They are written by a thread of their own, piece by piece, and the disk is left alone between two pieces for as long as the last
//! one took, so that no commit waits behind them. One file is kept ready, never more, of at most [`MAX_LEN`].
//!
//! The file has no name (`O_TMPFILE`) until it is taken: a crash leaves nothing behind, nobody who lists the directory
//! sees it, and it cannot take the place of anything, for a name is given to it only if nobody has that name. Where the
//! file system, or a full disk, refuses any of that, segments grow as they always can.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

use super::real_disk::FileAttributes;

/// Of a longer segment only the beginning is made ready.
const MAX_LEN: u64 = 64 << 20;

/// How much is synced at once.
const PIECE_LEN: u64 = 1 << 20;

/// How much is written at once. The page cache keeps together what was written together, and looks at all of it each time that a
/// commit's WAL is written to a part of it or synced: of a mebibyte that took a tenth of a receiver's time.
const WRITE_LEN: usize = 8 << 10;

/// The file that is ready, or will be.
#[derive(Debug, Default)]
pub(super) struct ReadyFile {
    making: Option<Making>,
}

#[derive(Debug)]
struct Making {
    thread: JoinHandle<io::Result<File>>,
    given_up: Arc<AtomicBool>,
    segment_len: u64,
}

impl ReadyFile {
    /// Begins to make one, unless there is one already.
    pub(super) fn make(&mut self, directory: &OwnedFd, attributes: FileAttributes, segment_len: u64) {
        if self.making.as_ref().is_some_and(|making| making.segment_len == segment_len) {
            return;
        }
        self.give_up();
        let Ok(directory) = directory.try_clone() else { return };
        let given_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&given_up);
        let len = segment_len.min(MAX_LEN);
        let thread = std::thread::Builder::new().name("wal-zeros".into()).spawn(move || {
            let made = make(&directory, attributes, len, &told);
            if let Err(error) = &made {
                tracing::debug!(%error, "could not make a file ready for the next segment");
            }
            made
        });
        self.making = thread.ok().map(|thread| Making { thread, given_up, segment_len });
    }

    /// Gives it a name in its directory. `None`: it is not ready, or has another length, or somebody has that name.
    pub(super) fn take(&mut self, directory: &OwnedFd, name: &str, segment_len: u64) -> Option<File> {
        let is_ready = |making: &mut Making| making.segment_len == segment_len && making.thread.is_finished();
        // one that failed was told of, and is tried again for the next segment
        let file = self.making.take_if(is_ready)?.thread.join().ok()?.ok()?;
        let unnamed = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        match linkat(CWD, unnamed, directory, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Some(file),
            Err(error) => {
                tracing::debug!(%error, name, "could not give the file that was made ready its name");
                None
            }
        }
    }

    fn give_up(&mut self) {
        if let Some(making) = self.making.take() {
            // the thread ends by itself, with its file, and is not waited for: the disk may hang
            making.given_up.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn make(
    directory: &OwnedFd,
    attributes: FileAttributes,
    len: u64,
    given_up: &AtomicBool,
) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = File::from(openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)?);
    attributes.set(&file)?;
    let zeros = [0; WRITE_LEN];
    let mut offset = 0;
    while offset < len {
        if given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let piece_end = len.min(offset + PIECE_LEN);
        let started_at = Instant::now();
        while offset < piece_end {
            let left = usize::try_from(piece_end - offset).unwrap_or(WRITE_LEN);
            let write_len = left.min(WRITE_LEN);
            file.write_all_at(&zeros[..write_len], offset)?;
            offset += write_len as u64;
        }
        file.sync_data()?;
        if offset < len {
            std::thread::sleep(started_at.elapsed());
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;
    use std::time::Duration;

    use super::super::disk::{Disk as _, DiskFile as _};
    use super::super::real_disk::{RealDisk, RealFile};

    const LEN: u64 = 3 << 20;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Takes a file of `LEN` bytes as soon as it is there.
    fn take(disk: &mut RealDisk, name: &str) -> RealFile {
        for _ in 0..2000 {
            if let Some(file) = disk.take_ready(name, LEN).unwrap() {
                return file;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no file was made ready");
    }

    #[test]
    fn has_no_name_until_it_is_taken_and_is_a_file_like_all_others() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path()).with_file_mode(0o640);
        assert!(disk.take_ready("a", LEN).unwrap().is_none(), "nobody asked for one");
        disk.make_ready(LEN);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(names(directory.path()), [""; 0]);
        let file = take(&mut disk, "a");
        assert_eq!(names(directory.path()), ["a"]);
        file.sync_data().unwrap();
        let metadata = std::fs::metadata(directory.path().join("a")).unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (LEN, 1));
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        assert!(std::fs::read(directory.path().join("a")).unwrap().iter().all(|byte| *byte == 0));
        assert!(disk.take_ready("b", LEN).unwrap().is_none(), "there was one");
    }

    #[test]
    fn takes_nobodys_place() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "WAL").unwrap();
        let mut disk = RealDisk::new(directory.path());
        disk.make_ready(LEN);
        for _ in 0..20 {
            assert!(disk.take_ready("a", LEN).unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"WAL");
    }

    #[test]
    fn is_for_segments_of_one_length() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path());
        disk.make_ready(2 * LEN);
        assert!(disk.take_ready("a", LEN).unwrap().is_none());
        disk.make_ready(LEN);
        take(&mut disk, "a");
    }

    #[test]
    fn is_not_made_where_nothing_is_synced() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::new(directory.path()).without_sync();
        disk.make_ready(LEN);
        std::thread::sleep(Duration::from_millis(100));
        assert!(disk.take_ready("a", LEN).unwrap().is_none());
    }
}
