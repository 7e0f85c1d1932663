//! What can go wrong while backups are combined, in the words of `pg_combinebackup`.

use std::io;
use std::path::PathBuf;

use super::incremental_file::IncrementalHeaderError;
use crate::ErrorClass;
use crate::backup::confined::FileError;
use crate::backup::manifest::ManifestError;
use crate::pg::{SystemIdentifier, TimelineId};

/// Why nothing was combined. What was written can be used by nobody, and [`OutputDirectories`](super::OutputDirectories)
/// takes it away.
#[derive(Debug, thiserror::Error)]
pub enum CombineError {
    /// A file operation failed: disk full, no permission, an I/O error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The last backup has no `PG_VERSION`.
    #[error("could not open version file \"{}\"", .path.display())]
    OpenVersionFile {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A backup has no control file.
    #[error("could not open file \"{}\" for reading", .path.display())]
    OpenControlFile {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `PG_VERSION` does not hold a version.
    #[error("could not parse version file \"{}\"", .0.display())]
    ParseVersionFile(PathBuf),
    /// A version before 10.
    #[error("server version too old")]
    OldServer,
    /// A small file that is far too large.
    #[error("file \"{}\" is too large", .0.display())]
    TooLarge(PathBuf),
    /// A control file that ends early.
    #[error("could not read file \"{}\": read {read} of {wanted}", .path.display())]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// What there is of it.
        read: u64,
        /// What there should be.
        wanted: u64,
    },
    /// A control file that is damaged.
    #[error("{}: CRC is incorrect", .0.display())]
    ControlFileCrc(PathBuf),
    /// A control file of a version that has no incremental backups, or of another version than the last backup's.
    #[error("{}: unexpected control file version", .0.display())]
    ControlFileVersion(PathBuf),
    /// A cluster that was compiled with sizes of its own.
    #[error("{}: block size {block_len} and segment size {segment_block_count} are not supported", .path.display())]
    Layout {
        /// The control file.
        path: PathBuf,
        /// Its `blcksz`.
        block_len: u32,
        /// Its `relseg_size`.
        segment_block_count: u32,
    },
    /// Backups of two clusters.
    #[error("{}: expected system identifier {expected}, but found {found}", .path.display())]
    SystemIdentifier {
        /// The control file.
        path: PathBuf,
        /// The last backup's.
        expected: SystemIdentifier,
        /// This one's.
        found: SystemIdentifier,
    },
    /// A manifest of another cluster.
    #[error("{}: manifest system identifier is {manifest}, but control file has {control_file}", .path.display())]
    ManifestSystemIdentifier {
        /// The control file.
        path: PathBuf,
        /// The manifest's.
        manifest: SystemIdentifier,
        /// The control files'.
        control_file: SystemIdentifier,
    },
    /// A line of `backup_label` that is missing, or cannot be read.
    #[error("{}: {problem}", .path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: LabelProblem,
    },
    /// A full backup where an incremental one belongs.
    #[error("backup at \"{}\" is a full backup, but only the first backup should be a full backup", .0.display())]
    UnexpectedFull(PathBuf),
    /// The chain has no beginning.
    #[error(
        "backup at \"{}\" is an incremental backup, but the first backup should be a full backup", .0.display()
    )]
    UnexpectedIncremental(PathBuf),
    /// The next backup does not build upon this one: another timeline.
    #[error("backup at \"{}\" starts on timeline {found}, but expected {expected}", .path.display())]
    StartTimeline {
        /// The backup.
        path: PathBuf,
        /// Where it starts.
        found: TimelineId,
        /// What the next one builds upon.
        expected: TimelineId,
    },
    /// The next backup does not build upon this one: another position.
    #[error("backup at \"{}\" starts at LSN {found}, but expected {expected}", .path.display())]
    StartLsn {
        /// The backup.
        path: PathBuf,
        /// Where it starts, as the cluster's version prints it.
        found: Box<str>,
        /// What the next one builds upon, likewise.
        expected: Box<str>,
    },
    /// A manifest that cannot be trusted.
    #[error("could not parse backup manifest")]
    Manifest(#[source] ManifestError),
    /// A manifest of a server without incremental backups.
    #[error("backup manifest version 1 does not support incremental backup")]
    OldManifest,
    /// A file listed twice.
    #[error("duplicate path name in backup manifest: \"{}\"", .0.escape_ascii())]
    DuplicatePath(Box<[u8]>),
    /// Without the last backup's manifest nothing says which WAL the result needs.
    #[error("cannot generate a manifest because no manifest is available for the final input backup")]
    NoFinalManifest,
    /// A tablespace's link that does not say where it is.
    #[error("target of symbolic link \"{}\" is relative", .0.display())]
    RelativeLink(PathBuf),
    /// Nobody said where this tablespace goes.
    #[error("tablespace at \"{}\" has no tablespace mapping", .0.display())]
    UnmappedTablespace(PathBuf),
    /// Two tablespaces for one directory.
    #[error("tablespaces with OIDs {first} and {second} both point at directory \"{}\"", .path.display())]
    SharedTablespace {
        /// The one found first.
        first: u32,
        /// The other.
        second: u32,
        /// The directory.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("directory \"{}\" exists but is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The result would be read as a part of what it is made from.
    #[error("output directory \"{}\" is within an input directory", .0.display())]
    OutputWithinInput(PathBuf),
    /// A symbolic link could not be made.
    #[error("could not create symbolic link from \"{}\" to \"{}\"", .link.display(), .target.display())]
    Symlink {
        /// The link.
        link: PathBuf,
        /// Where it was to lead.
        target: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A second name could not be given.
    #[error("could not create link from \"{}\" to \"{}\"", .from.display(), .to.display())]
    Link {
        /// The file.
        from: PathBuf,
        /// Its second name.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file system that cannot clone, or not from there to here.
    #[error("error while cloning file \"{}\" to \"{}\"", .from.display(), .to.display())]
    Clone {
        /// The file.
        from: PathBuf,
        /// Its clone.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `copy_file_range` failed.
    #[error("error while copying file range from \"{}\" to \"{}\"", .from.display(), .to.display())]
    CopyRange {
        /// The file.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file ended while `copy_file_range` was at it.
    #[error("unexpected end of file while copying file range from \"{}\" to \"{}\"", .from.display(), .to.display())]
    CopyRangeEnd {
        /// The file.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
    },
    /// An incremental file with a header that no server writes.
    #[error("file \"{}\" {problem}", .path.display())]
    IncrementalFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: IncrementalHeaderError,
    },
    /// A block that should be there is not.
    #[error("could not read from file \"{}\", offset {offset}: read {read} of {wanted}", .path.display())]
    ShortBlock {
        /// The file.
        path: PathBuf,
        /// Where the block begins.
        offset: u64,
        /// What there is of it.
        read: u64,
        /// Its length.
        wanted: u32,
    },
    /// A file that ends before the blocks it should hold.
    #[error("file \"{}\" is too short: expected {expected}, found {found}", .path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// How long it should be.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// An incremental file with something behind its last block.
    #[error("file \"{}\" is too long: expected {expected}, found {found}", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long it should be.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// The oldest backup has only a part of a file.
    #[error("full backup contains unexpected incremental file \"{}\"", .0.display())]
    IncrementalInFull(PathBuf),
    /// What should be a file is something else.
    #[error("\"{}\" is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// A name that no file of a backup has.
    #[error("name of \"{}\" is not acceptable", .0.display())]
    Name(PathBuf),
    /// Directories in directories, deeper than any cluster has them.
    #[error("directory \"{}\" lies too deep", .0.display())]
    TooDeep(PathBuf),
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
    /// A worker has ended without a result.
    #[error("a thread that combines has panicked")]
    ThreadPanicked,
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What is wrong with a `backup_label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelProblem {
    /// A position that cannot be read.
    #[error("could not parse {0}")]
    Lsn(&'static str),
    /// Something other than what follows a position.
    #[error("improper terminator for {0}")]
    Terminator(&'static str),
    /// A timeline that cannot be read.
    #[error("could not parse TLI for {0}")]
    Timeline(&'static str),
    /// Timeline 0.
    #[error("invalid TLI")]
    InvalidTimeline,
    /// A line is missing.
    #[error("could not find {0}")]
    Missing(&'static str),
    /// A line without the one that belongs to it.
    #[error("{0} requires {1}")]
    Requires(&'static str, &'static str),
}

impl CombineError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            CombineError::Interrupted => ErrorClass::Transient,
            CombineError::ThreadPanicked => ErrorClass::Bug,
            CombineError::File(_)
            | CombineError::OpenVersionFile { .. }
            | CombineError::OpenControlFile { .. }
            | CombineError::OldServer
            | CombineError::ControlFileVersion(_)
            | CombineError::Layout { .. }
            | CombineError::SystemIdentifier { .. }
            | CombineError::UnexpectedFull(_)
            | CombineError::UnexpectedIncremental(_)
            | CombineError::StartTimeline { .. }
            | CombineError::StartLsn { .. }
            | CombineError::OldManifest
            | CombineError::NoFinalManifest
            | CombineError::RelativeLink(_)
            | CombineError::UnmappedTablespace(_)
            | CombineError::SharedTablespace { .. }
            | CombineError::NotEmpty(_)
            | CombineError::OutputWithinInput(_)
            | CombineError::Symlink { .. }
            | CombineError::Link { .. }
            | CombineError::Clone { .. }
            | CombineError::CopyRange { .. }
            | CombineError::Name(_)
            | CombineError::TooDeep(_)
            | CombineError::Thread(_) => ErrorClass::Operator,
            CombineError::ParseVersionFile(_)
            | CombineError::TooLarge(_)
            | CombineError::ShortFile { .. }
            | CombineError::ControlFileCrc(_)
            | CombineError::ManifestSystemIdentifier { .. }
            | CombineError::Label { .. }
            | CombineError::Manifest(_)
            | CombineError::DuplicatePath(_)
            | CombineError::CopyRangeEnd { .. }
            | CombineError::IncrementalFile { .. }
            | CombineError::ShortBlock { .. }
            | CombineError::TooShort { .. }
            | CombineError::TooLong { .. }
            | CombineError::IncrementalInFull(_)
            | CombineError::NotRegular(_) => ErrorClass::Integrity,
        }
    }
}
