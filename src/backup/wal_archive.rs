//! `pg_wal.tar`: WAL that comes beside a backup in tar format, packed while it comes.
//!
//! Answers to the tar method of PostgreSQL's `walmethods.c`, which writes segments into the archive as they arrive and
//! goes back to correct their headers. Here they arrive in a directory, as beside any backup, and move into the archive
//! when they are complete, so that never more than a few lie there. Departures: the archive is compressed with every
//! method, not with gzip alone; the last segment is marked as done like all others.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::archive_output::{ArchiveOutput, WrittenArchive};
use super::confined::{ConfinedDirectory, FileError};
use super::open_file::Writeback;
use super::path::MemberPath;
use super::tar_backup::WholeTarBackup;
use super::tar_header::{BLOCK_LEN, NewMember};
use super::target::{DirectoryModes, SyncMethod};
use crate::compression::ArchiveCompression;

/// The archive's name, without what its compression puts behind it.
pub const WAL_ARCHIVE_NAME: &str = "pg_wal.tar";

/// Where WAL arrives, below the backup's directory; gone when the archive is complete.
pub const WAL_ARRIVAL_NAME: &str = ".pgwake.wal";

const ARCHIVE_STATUS: &str = "archive_status";

/// How often it is looked for complete segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How much of a file is read at a time.
const READ_LEN: usize = 128 << 10;

/// An archive of WAL that is being made.
#[derive(Debug)]
pub struct WalArchive {
    /// Told that all WAL has arrived; dropped without, everything is left as it is.
    ending: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Comes when the thread ends; never from one that was left.
    result: oneshot::Receiver<Result<WrittenArchive, FileError>>,
    arrival: PathBuf,
}

/// How the archive is made.
#[derive(Debug, Clone, Copy)]
pub struct WalArchiveOptions {
    /// The server's `data_directory_mode`.
    pub modes: DirectoryModes,
    /// How the backup becomes durable.
    pub sync: SyncMethod,
    /// How the archive is compressed.
    pub compression: Option<ArchiveCompression>,
    /// What members say of their time, in seconds since 1970.
    pub now: u64,
}

impl WalArchive {
    /// Makes the directory in which WAL is to arrive, with `archive_status`, and the archive, both in `directory`.
    pub fn start(directory: &Path, options: WalArchiveOptions) -> Result<Self, FileError> {
        let WalArchiveOptions { modes, sync, compression, now } = options;
        let mut place = ConfinedDirectory::open(directory, None)?;
        for name in [WAL_ARRIVAL_NAME.to_owned(), format!("{WAL_ARRIVAL_NAME}/{ARCHIVE_STATUS}")] {
            place.create_directory(&member(&name), 0o700)?;
        }
        let suffix = compression.map_or("", |compression| compression.method.suffix());
        let name = member(&format!("{WAL_ARCHIVE_NAME}{suffix}"));
        let file = place.create_file(&name, modes.default_file_mode())?;
        let writeback = if sync == SyncMethod::None { Writeback::Lazy } else { Writeback::From(0) };
        let output = ArchiveOutput::new(file, place.path_of(&name), compression, writeback)?;
        let arrival = directory.join(WAL_ARRIVAL_NAME);
        let (ending, ended) = sync_channel(1);
        let (sender, result) = oneshot::channel();
        let packer = Packer { arrival: arrival.clone(), output, now };
        let thread = std::thread::Builder::new()
            .name("wal-archive".to_owned())
            .spawn(move || {
                if let Some(result) = packer.run(&ended).transpose() {
                    // nobody listens any more when the backup was given up
                    let _ = sender.send(result);
                }
            })
            .map_err(|source| FileError::new("start thread", "wal-archive", source))?;
        Ok(WalArchive { ending: Some(ending), thread: Some(thread), result, arrival })
    }

    /// Where WAL is to arrive.
    pub fn arrival(&self) -> &Path {
        &self.arrival
    }

    /// Resolves when the archive could not be written on, long before the backup is over: nothing will come of it.
    /// Cancel-safe.
    pub async fn failed(&mut self) -> FileError {
        match (&mut self.result).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) | Err(_) => gone(),
        }
    }

    /// All WAL has arrived: packs the rest, and adds the archive to `backup`. Blocks.
    pub fn finish(mut self, backup: &mut WholeTarBackup) -> Result<(), FileError> {
        if let Some(ending) = self.ending.take() {
            // nobody listens when it has failed
            let _ = ending.send(());
        }
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        let written = self.result.try_recv().map_err(|_| gone())??;
        for path in [self.arrival.join(ARCHIVE_STATUS), self.arrival.clone()] {
            fs::remove_dir(&path).map_err(|source| FileError::new("remove directory", path, source))?;
        }
        backup.add(written);
        Ok(())
    }
}

fn gone() -> FileError {
    FileError::new("archive", WAL_ARCHIVE_NAME, io::Error::other("nothing was packed"))
}

impl Drop for WalArchive {
    fn drop(&mut self) {
        self.ending = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been printed
            let _ = thread.join();
        }
    }
}

struct Packer {
    arrival: PathBuf,
    output: ArchiveOutput,
    now: u64,
}

impl Packer {
    /// `None` when it was told to leave everything as it is.
    fn run(mut self, ended: &Receiver<()>) -> Result<Option<WrittenArchive>, FileError> {
        loop {
            let wait = ended.recv_timeout(LOOK_INTERVAL);
            if wait == Err(RecvTimeoutError::Disconnected) {
                return Ok(None);
            }
            self.pack_complete()?;
            if wait.is_ok() {
                self.output.write(Bytes::from_static(&[0; 2 * BLOCK_LEN]))?;
                return self.output.finish().map(Some);
            }
        }
    }

    /// Moves what is marked as done, in the order of names: segment by segment, timeline by timeline.
    fn pack_complete(&mut self) -> Result<(), FileError> {
        let marks = self.arrival.join(ARCHIVE_STATUS);
        let mut names =
            done_files(&marks).map_err(|source| FileError::new("list directory", &marks, source))?;
        names.sort_unstable();
        for name in names {
            let path = self.arrival.join(&name);
            self.pack(&name, &path)?;
            let mark = marks.join(format!("{name}.done"));
            self.append_header(&format!("{ARCHIVE_STATUS}/{name}.done"), 0)?;
            for path in [path, mark] {
                fs::remove_file(&path).map_err(|source| FileError::new("remove file", path, source))?;
            }
        }
        Ok(())
    }

    fn pack(&mut self, name: &str, path: &Path) -> Result<(), FileError> {
        let failed = |source| FileError::new("read file", path, source);
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        self.append_header(name, len)?;
        let mut left = len;
        while left > 0 {
            let mut piece = BytesMut::zeroed(READ_LEN.min(usize::try_from(left).unwrap_or(READ_LEN)));
            file.read_exact(&mut piece).map_err(failed)?;
            left -= piece.len() as u64;
            self.output.write(piece.freeze())?;
        }
        let padding = (len.next_multiple_of(BLOCK_LEN as u64) - len) as usize;
        if padding > 0 {
            self.output.write(Bytes::from(vec![0; padding]))?;
        }
        Ok(())
    }

    fn append_header(&mut self, name: &str, len: u64) -> Result<(), FileError> {
        let header = NewMember { name, len, mode: 0o600, uid: 0, gid: 0, mtime: self.now }.header();
        self.output.write(Bytes::copy_from_slice(&header))
    }
}

/// The names of files that a mark says are complete.
fn done_files(marks: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(marks)? {
        let name: OsString = entry?.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".done")) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn member(name: &str) -> MemberPath {
    MemberPath::parse(name.as_bytes()).expect("the program's own names are acceptable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(directory: &Path) -> WalArchive {
        let (modes, sync) = (DirectoryModes::OwnerOnly, SyncMethod::None);
        WalArchive::start(directory, WalArchiveOptions { modes, sync, compression: None, now: 0 }).unwrap()
    }

    #[tokio::test]
    async fn a_failure_is_known_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = start(directory.path());
        // a segment that is marked as complete, and is not there
        File::create(archive.arrival().join(ARCHIVE_STATUS).join("000000010000000000000001.done")).unwrap();
        let error = archive.failed().await;
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound, "{error}");
    }

    #[tokio::test]
    async fn nothing_is_known_of_an_archive_that_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = start(directory.path());
        let failed = tokio::time::timeout(2 * LOOK_INTERVAL, archive.failed()).await;
        assert!(failed.is_err(), "{failed:?}");
    }
}
