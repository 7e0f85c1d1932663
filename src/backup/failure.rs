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

    /// An error when something has failed: the first time the one that was reported.
    pub(super) fn check(&self) -> Result<(), FileError> {
        if !self.has_happened() {
            return Ok(());
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(first.unwrap_or_else(|| {
            FileError::new("write", "backup", io::Error::other("an earlier file could not be written"))
        }))
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
