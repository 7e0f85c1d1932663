//! What the threads of a backup share of its failures: the first one counts, and it is final.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::confined::FileError;

/// Whether something has failed, and what was the first.
#[derive(Debug, Default)]
pub(super) struct Failure {
    happened: AtomicBool,
    first: Mutex<Option<FileError>>,
}

impl Failure {
    /// Whether there is still a point in going on.
    pub(super) fn has_happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
    }

    /// An error when something has failed: the one that was reported first, to everybody who asks, for whoever asks first may not be
    /// the one who tells it.
    pub(super) fn check(&self) -> Result<(), FileError> {
        if !self.has_happened() {
            return Ok(());
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        Err(first.as_ref().map_or_else(
            || FileError::new("write", "backup", io::Error::other("an earlier file could not be written")),
            told_again,
        ))
    }

    /// Something has failed.
    pub(super) fn report(&self, error: FileError) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.happened.store(true, Ordering::Release);
    }

    /// The backup is abandoned: nobody waits for anything any more.
    pub(super) fn abandon(&self) {
        self.happened.store(true, Ordering::Release);
    }
}

/// The system's errors cannot be copied, but be made of what they say.
fn told_again(error: &FileError) -> FileError {
    let source = match error.source.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.source.kind(), error.source.to_string()),
    };
    FileError::new(error.operation, &error.path, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_asks_hears_what_failed_first() {
        let failure = Failure::default();
        failure.check().unwrap();
        failure.report(FileError::new("fsync file", "a", io::Error::from_raw_os_error(5)));
        failure.report(FileError::new("fsync file", "b", io::Error::from_raw_os_error(28)));
        for _ in 0..2 {
            let error = failure.check().unwrap_err();
            assert_eq!(error.to_string(), "could not fsync file \"a\"");
            assert_eq!(error.source.raw_os_error(), Some(5));
        }
    }
}
