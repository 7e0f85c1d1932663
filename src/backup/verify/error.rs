//! Why a backup could not be looked at.

use std::io;
use std::path::PathBuf;

use super::super::manifest::ManifestError;
use super::problem::Shown;
use crate::ErrorClass;

/// Nothing is known of the backup, because this stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file that has to be there could not be opened or read.
    #[error("could not {operation} file \"{}\"", .path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The backup's directory.
    #[error("could not open directory \"{}\"", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The manifest cannot be trusted.
    #[error("backup manifest is not acceptable")]
    Manifest(#[from] ManifestError),
    /// The manifest lists a file twice.
    #[error("duplicate path name in backup manifest: \"{}\"", Shown(.path))]
    DuplicatePath {
        /// The file.
        path: Box<[u8]>,
    },
    /// The manifest lists more than [`MAX_LISTED_LEN`](super::MAX_LISTED_LEN).
    #[error("backup manifest lists too many files")]
    TooManyFiles,
    /// A worker has ended without a result.
    #[error("a thread that verifies has panicked")]
    ThreadPanicked,
}

impl VerifyError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            VerifyError::File { .. } | VerifyError::Directory { .. } => ErrorClass::Operator,
            VerifyError::Manifest(_) | VerifyError::DuplicatePath { .. } | VerifyError::TooManyFiles => {
                ErrorClass::Integrity
            }
            VerifyError::ThreadPanicked => ErrorClass::Bug,
        }
    }
}
