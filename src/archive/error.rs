//! What can go wrong with an archive in object storage.

use std::io;
use std::path::PathBuf;

use super::envelope::EnvelopeError;
use super::keyring::KeySourceError;
use super::layout::{CLUSTER_KEY, Generation};
use super::lease::LeaseRecord;
use super::store_url::ArchiveUrlError;
use super::wal_object::WalObjectError;
use crate::ErrorClass;
use crate::pg::{Lsn, SystemIdentifier, TimelineHistoryError, TimelineId, WalErrorKind};

/// An archive could not be used, or is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The address makes no sense.
    #[error("cannot use \"{url}\" as an archive")]
    Url {
        /// The address, without what follows a question mark.
        url: String,
        /// What is wrong with it.
        source: ArchiveUrlError,
    },
    /// The store did not do what it was asked for.
    #[error("could not {action} object \"{key}\"")]
    Store {
        /// What it was asked for.
        action: &'static str,
        /// The object, below the archive's prefix.
        key: String,
        /// The store's reason.
        source: Box<object_store::Error>,
    },
    /// An object that is written once exists, and holds something else.
    #[error("object \"{key}\" exists already, with other content")]
    Conflict {
        /// The object.
        key: String,
    },
    /// An object was there, and then it was not; or the store was busy with it.
    #[error("object \"{key}\" exists, and cannot be read")]
    Vanished {
        /// The object.
        key: String,
    },
    /// An object is longer than anything that is written under such a name.
    #[error("object \"{key}\" has {len} bytes, but at most {max_len} are possible")]
    TooLong {
        /// The object.
        key: String,
        /// Its length.
        len: u64,
        /// The bound.
        max_len: u64,
    },
    /// Less came of an object than the store had announced.
    #[error("object \"{key}\" broke off after {found} of {expected} bytes")]
    Short {
        /// The object.
        key: String,
        /// What came.
        found: u64,
        /// What was announced.
        expected: u64,
    },
    /// An object does not open, or could not be closed.
    #[error("cannot use object \"{key}\"")]
    Envelope {
        /// The object.
        key: String,
        /// Why not.
        source: EnvelopeError,
    },
    /// There are no keys to be had.
    #[error("could not get the encryption keys")]
    Keys(#[from] KeySourceError),
    /// An object does not hold what its name says.
    #[error("object \"{key}\" is damaged")]
    Damaged {
        /// The object.
        key: String,
        /// How it shows.
        source: WalObjectError,
    },
    /// What is in the archive under a segment's name is not that.
    #[error("the archive has something else under the name of segment \"{name}\"")]
    OtherSegment {
        /// The segment.
        name: String,
        /// How it shows.
        source: WalErrorKind,
    },
    /// A timeline history cannot be read.
    #[error("object \"{key}\" is no valid timeline history")]
    History {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: TimelineHistoryError,
    },
    /// The file that says whose archive it is cannot be understood.
    #[error("object \"{key}\" does not say whose archive this is, or is of a later format")]
    Identity {
        /// The object.
        key: &'static str,
    },
    /// There is no archive at this place.
    #[error("there is no archive here: object \"{key}\" does not exist")]
    NotAnArchive {
        /// The object.
        key: &'static str,
    },
    /// The archive is another cluster's.
    #[error("the archive holds the WAL of system {found}, not of system {expected}")]
    OtherSystem {
        /// The cluster whose WAL is to be archived.
        expected: SystemIdentifier,
        /// The archive's.
        found: SystemIdentifier,
    },
    /// The archive's segments are of another size.
    #[error("the archive holds segments of {found} bytes, not of {expected}")]
    OtherSegmentSize {
        /// The cluster's.
        expected: u64,
        /// The archive's.
        found: u64,
    },
    /// The archive's WAL was written by another version of PostgreSQL.
    #[error("the archive holds the WAL of PostgreSQL {found}, not of PostgreSQL {expected}")]
    OtherMajor {
        /// The cluster's.
        expected: u16,
        /// The archive's.
        found: u16,
    },
    /// The store writes over objects that are to be created only if they do not exist.
    #[error(
        "the store does not honour conditions: it overwrote an object that was to be created (\"{key}\")"
    )]
    Overwrites {
        /// The object that it was tried with.
        key: String,
    },
    /// WAL that the archive needs next is not in the directory.
    #[error("WAL from {from} on timeline {timeline} is neither in the archive nor in directory \"{}\"", .directory.display())]
    Hole {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// Somebody else archives here, and lives.
    #[error("the archive is held by another receiver: {by}")]
    Held {
        /// Its number.
        generation: Generation,
        /// Who.
        by: Box<LeaseRecord>,
    },
    /// Somebody else has taken the archive.
    #[error("another receiver has taken the archive over: {by}")]
    Fenced {
        /// Its number.
        generation: Generation,
        /// Who.
        by: Box<LeaseRecord>,
    },
    /// Another process archives the same directory.
    #[error("directory is in use by another receiver that archives it: \"{}\" is locked", .path.display())]
    Locked {
        /// The file that is locked.
        path: PathBuf,
    },
    /// What a writer says of itself cannot be understood.
    #[error("object \"{key}\" does not say who archives here, or is of a later format")]
    Lease {
        /// The object.
        key: String,
    },
    /// The archive does not go on where the directory begins.
    #[error("WAL of timeline {timeline} from {from} to {to} is neither in the archive nor in the directory")]
    Gap {
        /// The timeline of its last byte.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// The first one that is there again.
        to: Lsn,
    },
    /// A file was asked for that lies in a gap.
    #[error(
        "the archive lacks WAL of timeline {timeline} from {from} on, and goes on at {to} on timeline {goes_on_on}"
    )]
    EndsInGap {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// Where there is WAL again.
        to: Lsn,
        /// The timeline of that.
        goes_on_on: TimelineId,
    },
    /// A file was asked for that has been in the archive, and is not any more.
    #[error(
        "the archive lacks WAL of timeline {timeline} from {from} on, though it was archived up to {archived}"
    )]
    EndsEarly {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// Up to where the last writer had archived.
        archived: Lsn,
    },
    /// A segment in the directory is not what its name says.
    #[error("file \"{name}\" in directory \"{}\" does not begin with WAL of this name and this cluster", .directory.display())]
    Foreign {
        /// The segment.
        name: String,
        /// Where it is.
        directory: PathBuf,
    },
    /// An archive that this directory's WAL was put up to is not there any more.
    #[error("archive \"{address}\" is empty, and WAL of this directory was put up there before")]
    Gone {
        /// Its address.
        address: String,
    },
    /// The directory that is to be archived has compressed segments.
    #[error("cannot archive directory \"{}\": \"{name}\" is compressed", .directory.display())]
    Compressed {
        /// The file.
        name: String,
        /// Where it is.
        directory: PathBuf,
    },
    /// Parts of a segment vanish whenever they are read.
    #[error("parts of the segment at {from} on timeline {timeline} are listed, and cannot be read")]
    PartsGone {
        /// The timeline.
        timeline: TimelineId,
        /// Where the segment begins.
        from: Lsn,
    },
    /// A file could not be read, or written.
    #[error("could not {action} \"{}\"", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The thread that archives is gone.
    #[error("archiving has ended unexpectedly")]
    ThreadEnded,
}

impl ArchiveError {
    pub(super) fn store(action: &'static str, key: &str, source: object_store::Error) -> Self {
        ArchiveError::Store { action, key: key.to_owned(), source: Box::new(source) }
    }

    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        ArchiveError::File { action, path: path.into(), source }
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        use object_store::Error as Store;
        match self {
            ArchiveError::Store { source, .. } => match &**source {
                Store::NotFound { .. }
                | Store::PermissionDenied { .. }
                | Store::Unauthenticated { .. }
                | Store::InvalidPath { .. }
                | Store::NotSupported { .. }
                | Store::NotImplemented { .. }
                | Store::UnknownConfigurationKey { .. } => ErrorClass::Operator,
                error if is_refusal(error) => ErrorClass::Operator,
                _ => ErrorClass::Transient,
            },
            ArchiveError::Envelope { source: EnvelopeError::Altered, .. } => ErrorClass::Integrity,
            // where the first object is, all are
            ArchiveError::Envelope { key, source: EnvelopeError::NotEncrypted } if key != CLUSTER_KEY => {
                ErrorClass::Integrity
            }
            ArchiveError::Envelope { .. } | ArchiveError::Keys(_) => ErrorClass::Operator,
            ArchiveError::Url { .. }
            | ArchiveError::File { .. }
            | ArchiveError::NotAnArchive { .. }
            | ArchiveError::Compressed { .. }
            | ArchiveError::Gone { .. }
            | ArchiveError::Held { .. }
            | ArchiveError::Fenced { .. }
            | ArchiveError::Locked { .. }
            | ArchiveError::Lease { .. }
            | ArchiveError::Overwrites { .. } => ErrorClass::Operator,
            ArchiveError::Conflict { .. }
            | ArchiveError::TooLong { .. }
            | ArchiveError::Damaged { .. }
            | ArchiveError::OtherSegment { .. }
            | ArchiveError::History { .. }
            | ArchiveError::Identity { .. }
            | ArchiveError::OtherSystem { .. }
            | ArchiveError::OtherSegmentSize { .. }
            | ArchiveError::OtherMajor { .. }
            | ArchiveError::Gap { .. }
            | ArchiveError::Foreign { .. }
            | ArchiveError::EndsInGap { .. }
            | ArchiveError::EndsEarly { .. }
            | ArchiveError::Hole { .. } => ErrorClass::Integrity,
            ArchiveError::PartsGone { .. } | ArchiveError::Vanished { .. } | ArchiveError::Short { .. } => {
                ErrorClass::Transient
            }
            ArchiveError::ThreadEnded => ErrorClass::Bug,
        }
    }
}

/// Whether the store has answered that it will not do such a thing at any time: a wrong region, a protocol of which it lacks a part.
/// `object_store` keeps the status to itself but for a few, and says all of them in its text.
fn is_refusal(error: &object_store::Error) -> bool {
    let text = error.to_string();
    let Some((_, answer)) = text.split_once("non-2xx status code: ") else { return false };
    // those of Amazon's that are refused with 400 because they took too long come again
    answer.starts_with('4')
        && !["408", "425", "429"].iter().any(|busy| answer.starts_with(busy))
        && !answer.contains("RequestTimeout")
}
