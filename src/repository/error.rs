//! What can go wrong with backups in an archive.

use std::io;

use super::name::BackupName;
use crate::ErrorClass;
use crate::archive::ArchiveError;
use crate::backup::BackupError;

/// A backup could not be put up, found or read, or is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The archive could not be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A piece could not be compressed.
    #[error("could not compress object \"{key}\"")]
    Compress {
        /// The object.
        key: String,
        /// Why not.
        source: io::Error,
    },
    /// An object of a backup that is listed is not there.
    #[error("object \"{key}\" of backup {name} is missing")]
    Missing {
        /// The backup.
        name: BackupName,
        /// The object.
        key: String,
    },
    /// An object of a backup is not what was put there.
    #[error("object \"{key}\" of backup {name} is damaged: {problem}")]
    Damaged {
        /// The backup.
        name: BackupName,
        /// The object.
        key: String,
        /// How it shows.
        problem: &'static str,
    },
    /// A record cannot be understood.
    #[error("object \"{key}\" is no record of a backup of this cluster, or of a later format")]
    Record {
        /// The object.
        key: String,
    },
    /// The backup has objects as they must be, and its content is not.
    #[error("backup {name} is damaged")]
    Content {
        /// The backup.
        name: BackupName,
        /// What is wrong with it.
        source: Box<BackupError>,
    },
    /// An incremental backup without the one that it needs.
    #[error("backup {name} is incremental to backup {parent}, which is not in the archive")]
    NoParent {
        /// The incremental one.
        name: BackupName,
        /// What it needs.
        parent: BackupName,
    },
    /// No such backup.
    #[error("there is no backup {name} in the archive")]
    NoBackup {
        /// Its name.
        name: BackupName,
    },
    /// A file for the time being.
    #[error("could not use a temporary file")]
    Temporary(#[source] io::Error),
    /// A thread of this program died.
    #[error("a part of this program failed unexpectedly")]
    Panicked(#[source] tokio::task::JoinError),
}

impl RepositoryError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            RepositoryError::Archive(error) => error.class(),
            RepositoryError::Missing { .. }
            | RepositoryError::Damaged { .. }
            | RepositoryError::Record { .. }
            | RepositoryError::NoParent { .. } => ErrorClass::Integrity,
            RepositoryError::Content { source, .. } if source.is_integrity() => ErrorClass::Integrity,
            RepositoryError::Content { .. }
            | RepositoryError::NoBackup { .. }
            | RepositoryError::Temporary(_)
            | RepositoryError::Compress { .. } => ErrorClass::Operator,
            RepositoryError::Panicked(_) => ErrorClass::Bug,
        }
    }
}
