//! What can be wrong with a backup, in PostgreSQL's words.
//!
//! The texts are those of `pg_verifybackup`; what the operating system says is behind them, as the source. Names come
//! from the backup, so control characters in them are escaped, wherever that is a departure.

use std::error::Error;
use std::fmt;
use std::io;

use super::super::tar_stream::TarError;
use crate::ErrorClass;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalError};

/// Something is wrong with the backup.
#[derive(Debug)]
pub enum Problem {
    /// A directory cannot be listed.
    OpenDirectory {
        /// Where it is.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// Something cannot be looked at.
    Stat {
        /// Its path in the backup.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// Something that no backup holds: a device, a socket, a link where none belongs.
    NotRegular {
        /// Its path in the backup.
        path: Box<[u8]>,
    },
    /// In a tar-format backup, something that is not a file.
    NotAFile {
        /// Its name.
        name: Box<[u8]>,
    },
    /// In a tar-format backup, a file that is no archive of one.
    NotAnArchive {
        /// Its name.
        name: Box<[u8]>,
    },
    /// There, but not listed.
    Unlisted {
        /// Its path; in an archive as the archive has it.
        path: Box<[u8]>,
        /// Where it is.
        place: Place,
    },
    /// Listed, but not there.
    Missing {
        /// Its path.
        path: Box<[u8]>,
    },
    /// Listed with another size.
    Size {
        /// Its path; in an archive as the archive has it.
        path: Box<[u8]>,
        /// Where it is.
        place: Place,
        /// How long it is.
        found: u64,
        /// The manifest's.
        listed: u64,
    },
    /// A file cannot be opened.
    Open {
        /// Its path.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be read.
    Read {
        /// Its path.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that had the right size has another one now.
    LenRead {
        /// Its path.
        path: Box<[u8]>,
        /// Where it is.
        place: Place,
        /// The manifest's.
        listed: u64,
        /// How much could be read.
        read: u64,
    },
    /// The manifest's checksum is not one of its algorithm.
    ChecksumLen {
        /// Its path.
        path: Box<[u8]>,
        /// Where it is.
        place: Place,
        /// The manifest's, in bytes.
        listed: usize,
        /// The algorithm's.
        expected: usize,
    },
    /// Not what was backed up.
    Checksum {
        /// Its path.
        path: Box<[u8]>,
        /// Where it is.
        place: Place,
    },
    /// The control file is of no use, or another cluster's. Nothing is looked at behind this.
    ControlFile {
        /// Its path, behind the archive that it is in.
        path: Box<[u8]>,
        /// What is wrong with it.
        fault: ControlFileFault,
    },
    /// An archive cannot be taken apart. Nothing is looked at behind this.
    Archive {
        /// Its name.
        name: Box<[u8]>,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
    /// There is no WAL in a tar-format backup, and nobody said where it is. Nothing is looked at behind this.
    NoWalArchive,
    /// The WAL that recovery needs is not there, or not whole.
    Wal {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong.
        fault: WalFault,
    },
}

/// Where a file of the backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the directory.
    Disk,
    /// In this archive.
    Archive(Box<[u8]>),
}

/// What is wrong with a control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileFault {
    /// Its checksum is wrong.
    #[error("CRC is incorrect")]
    Checksum,
    /// A version that was never released, or is not known yet.
    #[error("unexpected control file version")]
    Version,
    /// It has been cut.
    #[error("read {read} of {expected}")]
    TooShort {
        /// How much there is.
        read: u64,
        /// How much there should be.
        expected: u64,
    },
    /// In an archive, it is not as long as control files are.
    #[error("unexpected control file size {found}, expected {expected}")]
    Size {
        /// How long it is.
        found: u64,
        /// How long they are.
        expected: u64,
    },
    /// It belongs to another cluster.
    #[error("manifest system identifier is {manifest}, but control file has {found}")]
    SystemIdentifier {
        /// The manifest's cluster.
        manifest: SystemIdentifier,
        /// The control file's.
        found: SystemIdentifier,
    },
}

/// Why an archive cannot be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFault {
    /// It is no tar archive that a server sends.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// It cannot be decompressed.
    #[error("could not decompress data")]
    Decompress(#[source] io::Error),
    /// It cannot be read.
    #[error("could not read it at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// It got shorter while it was read, or a member says that it is longer than the archive.
    #[error("archive ends early, at offset {0}")]
    Short(u64),
    /// More WAL segments than [`MAX_ARCHIVED_SEGMENTS`](super::MAX_ARCHIVED_SEGMENTS).
    #[error("archive has too many WAL segments")]
    TooManySegments,
}

/// What is wrong with the WAL of a timeline.
#[derive(Debug, thiserror::Error)]
pub enum WalFault {
    /// The directory or archive cannot be opened.
    #[error("could not open \"{}\"", Shown(.path))]
    Open {
        /// The directory, archive or segment.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("could not read file \"{}\"", Shown(.path))]
    Read {
        /// The segment or archive.
        path: Box<[u8]>,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing there is WAL.
    #[error("could not find any WAL file in \"{}\"", Shown(.path))]
    NoSegments {
        /// Where it was looked for.
        path: Box<[u8]>,
    },
    /// A segment is not there.
    #[error("could not find file \"{name}\"")]
    Missing {
        /// The segment's name.
        name: String,
    },
    /// A segment ends before the WAL that is needed from it.
    #[error("file \"{name}\" ends after {len} bytes")]
    Short {
        /// The segment's name.
        name: String,
        /// Its length.
        len: u64,
    },
    /// Not what a server writes.
    #[error(transparent)]
    Invalid(#[from] WalError),
    /// The manifest's end of the WAL is not the end of a record, so a record's length is wrong, or the manifest.
    #[error("record at {record_lsn} does not end where the WAL that is needed ends, at {end_lsn}")]
    UnfinishedRecord {
        /// Where the record begins.
        record_lsn: Lsn,
        /// Where the manifest says that the WAL ends.
        end_lsn: Lsn,
    },
    /// The archive cannot be taken apart.
    #[error("could not read archive \"{}\"", Shown(.name))]
    Archive {
        /// Its name.
        name: Box<[u8]>,
        /// What is wrong with it.
        source: ArchiveFault,
    },
    /// The archive's segments are in no order that a server sends.
    #[error("segments in archive \"{}\" are out of order", Shown(.name))]
    Disorder {
        /// Its name.
        name: Box<[u8]>,
    },
}

impl Problem {
    /// Whether nothing is looked at behind this.
    pub fn is_final(&self) -> bool {
        matches!(self, Problem::ControlFile { .. } | Problem::Archive { .. } | Problem::NoWalArchive)
    }

    /// Whether the backup is at fault, or whoever kept it from being looked at.
    pub fn class(&self) -> ErrorClass {
        match self {
            Problem::OpenDirectory { source, .. }
            | Problem::Stat { source, .. }
            | Problem::Open { source, .. }
            | Problem::Read { source, .. }
            | Problem::Wal { fault: WalFault::Open { source, .. } | WalFault::Read { source, .. }, .. } => {
                // what is not there is damage, as is a link that leads in a circle
                match source.kind() {
                    io::ErrorKind::NotFound => ErrorClass::Integrity,
                    _ => ErrorClass::Operator,
                }
            }
            Problem::NoWalArchive
            | Problem::Archive { fault: ArchiveFault::Read { .. }, .. }
            | Problem::Wal { fault: WalFault::Archive { source: ArchiveFault::Read { .. }, .. }, .. } => {
                ErrorClass::Operator
            }
            _ => ErrorClass::Integrity,
        }
    }

    /// The file that it is about, for a program.
    pub fn path(&self) -> Option<String> {
        match self {
            Problem::OpenDirectory { path, .. }
            | Problem::Stat { path, .. }
            | Problem::NotRegular { path }
            | Problem::Unlisted { path, .. }
            | Problem::Missing { path }
            | Problem::Size { path, .. }
            | Problem::Open { path, .. }
            | Problem::Read { path, .. }
            | Problem::LenRead { path, .. }
            | Problem::ChecksumLen { path, .. }
            | Problem::Checksum { path, .. }
            | Problem::ControlFile { path, .. }
            | Problem::NotAFile { name: path }
            | Problem::NotAnArchive { name: path }
            | Problem::Archive { name: path, .. } => Some(String::from_utf8_lossy(path).into_owned()),
            Problem::NoWalArchive | Problem::Wal { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Place::{Archive, Disk};
        match self {
            Problem::OpenDirectory { path, .. } => write!(f, "could not open directory \"{}\"", Shown(path)),
            Problem::Stat { path, .. } => write!(f, "could not stat file or directory \"{}\"", Shown(path)),
            Problem::NotRegular { path } => {
                write!(f, "\"{}\" is not a regular file or directory", Shown(path))
            }
            Problem::NotAFile { name } => write!(f, "file \"{}\" is not a regular file", Shown(name)),
            Problem::NotAnArchive { name } => {
                write!(f, "file \"{}\" is not expected in a tar format backup", Shown(name))
            }
            Problem::Unlisted { path, place: Disk } => {
                write!(f, "\"{}\" is present on disk but not in the manifest", Shown(path))
            }
            Problem::Unlisted { path, place: Archive(name) } => {
                let (path, name) = (Shown(path), Shown(name));
                write!(f, "file \"{path}\" is present in archive \"{name}\" but not in the manifest")
            }
            Problem::Missing { path } => {
                write!(f, "\"{}\" is present in the manifest but not on disk", Shown(path))
            }
            Problem::Size { path, place: Disk, found, listed } => {
                let path = Shown(path);
                write!(f, "\"{path}\" has size {found} on disk but size {listed} in the manifest")
            }
            Problem::Size { path, place: Archive(name), found, listed } => {
                let (path, name) = (Shown(path), Shown(name));
                write!(
                    f,
                    "file \"{path}\" has size {found} in archive \"{name}\" but size {listed} in the manifest"
                )
            }
            Problem::Open { path, .. } => write!(f, "could not open file \"{}\"", Shown(path)),
            Problem::Read { path, .. } => write!(f, "could not read file \"{}\"", Shown(path)),
            Problem::LenRead { path, place: Disk, listed, read } => {
                write!(f, "file \"{}\" should contain {listed} bytes, but read {read}", Shown(path))
            }
            Problem::LenRead { path, place, listed, read } => {
                write!(
                    f,
                    "file \"{}\"{place} should contain {listed} bytes, but {read} bytes were read",
                    Shown(path)
                )
            }
            Problem::ChecksumLen { path, place, listed, expected } => {
                let path = Shown(path);
                write!(f, "file \"{path}\"{place} has checksum of length {listed}, but expected {expected}")
            }
            Problem::Checksum { path, place } => {
                write!(f, "checksum mismatch for file \"{}\"{place}", Shown(path))
            }
            Problem::ControlFile { fault: fault @ ControlFileFault::Size { .. }, .. } => fault.fmt(f),
            Problem::ControlFile { path, fault: fault @ ControlFileFault::TooShort { .. } } => {
                write!(f, "could not read file \"{}\": {fault}", Shown(path))
            }
            Problem::ControlFile { path, fault } => write!(f, "{}: {fault}", Shown(path)),
            Problem::Archive { name, .. } => write!(f, "could not read archive \"{}\"", Shown(name)),
            Problem::NoWalArchive => f.write_str("WAL archive not found"),
            Problem::Wal { timeline, .. } => write!(f, "WAL parsing failed for timeline {timeline}"),
        }
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Problem::OpenDirectory { source, .. }
            | Problem::Stat { source, .. }
            | Problem::Open { source, .. }
            | Problem::Read { source, .. } => Some(source),
            Problem::Archive { fault, .. } => Some(fault),
            Problem::Wal { fault, .. } => Some(fault),
            _ => None,
        }
    }
}

/// Where something is, behind its name.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Disk => Ok(()),
            Place::Archive(name) => write!(f, " in archive \"{}\"", Shown(name)),
        }
    }
}

/// A name from a backup, as a terminal may have it: as it is, but for control characters and what is not UTF-8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    character.escape_default().fmt(f)?;
                } else {
                    f.write_str(character.encode_utf8(&mut [0; 4]))?;
                }
            }
            chunk.invalid().escape_ascii().fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_command_no_terminal() {
        assert_eq!(Shown("base/1/ü \"x\"".as_bytes()).to_string(), "base/1/ü \"x\"");
        assert_eq!(Shown(b"a\x1b[2J\xff\n\xc2\x9b").to_string(), "a\\u{1b}[2J\\xff\\n\\u{9b}");
    }

    #[test]
    fn the_words_are_the_originals() {
        let path = || Box::from(&b"base/1/2"[..]);
        let archive = || Place::Archive(Box::from(&b"base.tar"[..]));
        for (problem, text) in [
            (
                Problem::Unlisted { path: path(), place: archive() },
                "file \"base/1/2\" is present in archive \"base.tar\" but not in the manifest",
            ),
            (
                Problem::Size { path: path(), place: archive(), found: 1, listed: 2 },
                "file \"base/1/2\" has size 1 in archive \"base.tar\" but size 2 in the manifest",
            ),
            (
                Problem::LenRead { path: path(), place: Place::Disk, listed: 2, read: 1 },
                "file \"base/1/2\" should contain 2 bytes, but read 1",
            ),
            (
                Problem::ChecksumLen { path: path(), place: Place::Disk, listed: 3, expected: 4 },
                "file \"base/1/2\" has checksum of length 3, but expected 4",
            ),
            (
                Problem::Checksum { path: path(), place: archive() },
                "checksum mismatch for file \"base/1/2\" in archive \"base.tar\"",
            ),
        ] {
            assert_eq!(problem.to_string(), text);
        }
    }
}
