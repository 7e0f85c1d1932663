//! What can go wrong while a backup is written.

use super::backup_label::BackupLabelError;
use super::confined::FileError;
use super::included_wal::IncludedWalError;
use super::manifest::{LedgerError, ManifestError, ManifestMismatch};
use super::path::MemberPath;
use super::tablespace_map::TablespaceMapError;
use super::tar_stream::TarError;

/// Why a backup failed. Nothing that was written can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file operation failed: disk full, no permission, an I/O error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The list of received files could not be kept or compared.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An archive that cannot be read.
    #[error("could not read archive \"{archive}\"")]
    Tar {
        /// The archive.
        archive: String,
        /// What is wrong with it.
        source: TarError,
    },
    /// A member that must not be written.
    #[error("unacceptable member \"{path}\" in archive \"{archive}\"")]
    Member {
        /// The archive.
        archive: String,
        /// The member.
        path: MemberPath,
        /// The rule it breaks.
        source: MemberRule,
    },
    /// An archive of a tablespace that the server did not announce, or announced elsewhere.
    #[error("archive \"{0}\" is for a tablespace that was not announced")]
    UnannouncedArchive(String),
    /// An archive for the second time.
    #[error("archive \"{0}\" was sent twice")]
    RepeatedArchive(String),
    /// Data where there is neither archive nor manifest.
    #[error("backup data outside an archive")]
    DataOutsideArchive,
    /// An announced tablespace whose archive never came.
    #[error("archive of tablespace {0} is missing")]
    MissingTablespace(u32),
    /// Fewer archives than were announced.
    #[error("an archive that was announced is missing")]
    MissingArchives,
    /// A tablespace that the target describes in a way that contradicts itself.
    #[error("tablespace {0} is given twice, or in place with a location of its own")]
    TablespaceTarget(u32),
    /// A file without which no server starts.
    #[error("\"{0}\" is missing in the backup")]
    MissingFile(&'static str),
    /// A `backup_label` that recovery could not use.
    #[error("could not parse backup_label")]
    BackupLabel(#[from] BackupLabelError),
    /// A `tablespace_map` that leads recovery elsewhere, or nowhere.
    #[error("tablespace_map is not acceptable")]
    TablespaceMap(#[from] TablespaceMapError),
    /// A manifest that cannot be trusted.
    #[error("backup manifest is not acceptable")]
    Manifest(#[from] ManifestError),
    /// Files that are not as the manifest has them.
    #[error("backup does not match its manifest")]
    Mismatch(#[from] ManifestMismatch),
    /// WAL that the backup carries is not what recovery needs.
    #[error("the backup does not carry the WAL that makes it consistent")]
    IncludedWal(#[from] IncludedWalError),
    /// The manifest was asked for and did not come.
    #[error("backup manifest is missing")]
    MissingManifest,
    /// The server has compressed an archive that would have to be changed here.
    #[error("cannot change archive \"{0}\": the server has compressed it")]
    CompressedArchive(String),
    /// There is room for one archive.
    #[error("archive \"{0}\" is one too many for standard output")]
    SecondArchive(String),
    /// A compressed archive that cannot be decompressed.
    #[error("could not decompress archive \"{archive}\"")]
    Decompress {
        /// The archive.
        archive: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The manifest is longer than what can be put into an archive.
    #[error("backup manifest is too long to be put into an archive")]
    ManifestTooLong,
    /// The manifest was not asked for, or came twice.
    #[error("unexpected backup manifest")]
    UnexpectedManifest,
    /// An earlier call failed, and that error was not heeded.
    #[error("backup has failed before")]
    FailedBefore,
}

/// What a member may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberRule {
    /// Links are made for tablespaces only: `pg_tblspc/<oid>`.
    #[error("symbolic links are accepted for tablespaces only")]
    Link,
    /// An archive that is kept has a map of tablespaces in place of links.
    #[error("symbolic links are not accepted in an archive that is kept")]
    KeptLink,
    /// The link of a tablespace says something other than its announcement.
    #[error("link of tablespace does not point to its announced location")]
    LinkTarget,
    /// The same link twice, or more links than there can be tablespaces.
    #[error("link was sent twice, or one too many")]
    RepeatedLink,
    /// The server never sends a file of this name; here it would have a meaning.
    #[error("name is reserved")]
    Reserved,
    /// A tablespace holds its version's directory and nothing else.
    #[error("a tablespace has no such entry")]
    OutsideTablespace,
    /// More directories than any cluster has.
    #[error("backup has too many directories")]
    TooManyDirectories,
    /// WAL was not asked for.
    #[error("WAL was not requested in the archive")]
    Wal,
    /// Something that exists already is sent again.
    #[error("member was sent twice")]
    Repeated,
    /// Its directory has not been sent before it.
    #[error("directory of member was not sent")]
    NoDirectory,
}

impl BackupError {
    /// Whether what the server sent cannot be trusted. Otherwise the cause lies here, and somebody can remove it.
    pub fn is_integrity(&self) -> bool {
        match self {
            BackupError::File(_)
            | BackupError::Ledger(LedgerError::Spill { .. })
            | BackupError::TablespaceTarget(_)
            | BackupError::CompressedArchive(_)
            | BackupError::SecondArchive(_)
            | BackupError::ManifestTooLong
            | BackupError::FailedBefore => false,
            BackupError::Ledger(LedgerError::TooMuchDisagreement)
            | BackupError::Tar { .. }
            | BackupError::Member { .. }
            | BackupError::UnannouncedArchive(_)
            | BackupError::RepeatedArchive(_)
            | BackupError::DataOutsideArchive
            | BackupError::MissingTablespace(_)
            | BackupError::MissingFile(_)
            | BackupError::BackupLabel(_)
            | BackupError::TablespaceMap(_)
            | BackupError::Manifest(_)
            | BackupError::Mismatch(_)
            | BackupError::IncludedWal(_)
            | BackupError::MissingManifest
            | BackupError::MissingArchives
            | BackupError::Decompress { .. }
            | BackupError::UnexpectedManifest => true,
        }
    }
}
