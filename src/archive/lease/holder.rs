//! Who holds: a directory that is archived, locked for as long as that is done.
//!
//! A receiver that was killed and comes back must not wait until its own lease has run out. Its directory remembers who it is,
//! and the lock on that says that nobody else is it: whoever held the archive in its name, on this machine and since this
//! machine was started, has ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use x509_cert::der::DateTime;

use super::super::error::ArchiveError;
use super::record::LeaseRecord;

/// A directory's name for itself, locked.
#[derive(Debug)]
pub(in crate::archive) struct Holder {
    /// Held open for its lock.
    _file: File,
    id: String,
    directory: PathBuf,
}

/// The file's name, in the directory.
pub(in crate::archive) const HOLDER_FILE_NAME: &str = ".pgwake.archive";

impl Holder {
    /// The directory's; a new one gets its name.
    pub(in crate::archive) fn of(directory: &Path) -> Result<Self, ArchiveError> {
        let path = directory.join(HOLDER_FILE_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file =
            options.open(&path).map_err(|source| ArchiveError::file("open file", &path, source))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(ArchiveError::Locked { path });
            }
            Err(error) => return Err(ArchiveError::file("lock file", &path, error.into())),
        }
        let id = name(&mut file).map_err(|source| ArchiveError::file("write file", &path, source))?;
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Ok(Holder { _file: file, id, directory })
    }

    /// What this run says of itself.
    pub(super) fn record(&self, lease: Duration) -> LeaseRecord {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let since = DateTime::from_system_time(SystemTime::now())
            .map_or_else(|_| "1970".to_owned(), |at| at.to_string());
        let directory = self.directory.display().to_string();
        LeaseRecord::new(self.id.clone(), random(), boot_id(), host, directory, since, lease)
    }
}

/// The name that the file has; a new one where it has none, or is the copy of another directory's.
fn name(file: &mut File) -> io::Result<String> {
    let place = format!("{:x}-{:x}", file.metadata()?.dev(), file.metadata()?.ino());
    let mut content = String::new();
    // what is no text is no name either
    let _ = io::Read::by_ref(file).take(256).read_to_string(&mut content);
    if let Some((id, at)) = content.trim_end().split_once(' ')
        && id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && at == place
    {
        return Ok(id.to_owned());
    }
    let id = random();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{id} {place}")?;
    file.sync_all()?;
    Ok(id)
}

fn random() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Which start of this machine this is; where that cannot be told, none that was before.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| random(), |id| id.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_name_and_a_copy_gets_another() {
        let directory = tempfile::tempdir().unwrap();
        let holder = Holder::of(directory.path()).unwrap();
        assert!(matches!(Holder::of(directory.path()), Err(ArchiveError::Locked { .. })));
        let first = holder.record(Duration::from_secs(1));
        drop(holder);
        let second = Holder::of(directory.path()).unwrap().record(Duration::from_secs(1));
        assert_eq!((&first.holder, &first.boot), (&second.holder, &second.boot));
        assert_ne!(first.run, second.run);
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(directory.path().join(HOLDER_FILE_NAME), copy.path().join(HOLDER_FILE_NAME)).unwrap();
        assert_ne!(Holder::of(copy.path()).unwrap().record(Duration::ZERO).holder, first.holder);
        std::fs::write(copy.path().join(HOLDER_FILE_NAME), [0xff; 4000]).unwrap();
        let anew = Holder::of(copy.path()).unwrap().id;
        assert_eq!(Holder::of(copy.path()).unwrap().id, anew);
    }
}
