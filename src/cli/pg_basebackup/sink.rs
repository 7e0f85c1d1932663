//! Where the stream of archives goes, by the format.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::SystemTime;

use super::options::{Destination, Options};
use crate::backup::{
    Announced, ArchiveEnd, ArchiveEvent, BackupError, BackupTarget, BackupWriter, ChecksumAlgorithm,
    Extraction, HeldPlaces, ManifestPolicy, ManifestRequest, MemberModes, StandbyFiles, TablespaceTarget,
    TarBackupWriter, TarPlace, TarTarget, UnannouncedTablespace, WalMembers, WholeBackup, WholeTarBackup,
};
use crate::backup::{DirectoryModes, WalArchive};
use crate::wire::command::ManifestOptions;

/// Takes the events of a backup.
#[derive(Debug)]
pub(super) enum BackupSink {
    Plain(Box<BackupWriter>),
    /// Plain, from archives that the server has compressed.
    Extraction(Extraction),
    Tar(Box<TarBackupWriter>),
    /// The server keeps them.
    Elsewhere,
}

/// A backup of which everything has come.
#[derive(Debug)]
pub(super) enum Whole {
    Plain(Box<WholeBackup>),
    Tar(Box<WholeTarBackup>),
    Elsewhere,
}

/// What is known of the backup when it begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) modes: DirectoryModes,
    pub(super) archive_end: ArchiveEnd,
    pub(super) standby: Option<StandbyFiles>,
    pub(super) wal_members: WalMembers,
    /// For plain format.
    pub(super) tablespaces: Vec<TablespaceTarget>,
    /// All that the server announced.
    pub(super) announced: Announced,
    pub(super) archive_count: usize,
    pub(super) manifest: Option<ManifestOptions>,
}

impl BackupSink {
    pub(super) fn open(options: &Options, beginning: Beginning) -> Result<Self, BackupError> {
        let (place, compression) = match &options.destination {
            Destination::Server(_) => return Ok(BackupSink::Elsewhere),
            Destination::Plain { directory, wal_directory, .. } => {
                let target = plain_target(options, beginning, directory.clone(), wal_directory.clone());
                let writer = BackupWriter::create(&target)?;
                return match options.server_compression {
                    Some(_) => Ok(BackupSink::Extraction(Extraction::start(writer)?)),
                    None => Ok(BackupSink::Plain(Box::new(writer))),
                };
            }
            Destination::Tar { directory, compression } => {
                (TarPlace::Directory(directory.clone()), *compression)
            }
            Destination::Stdout { compression } => (TarPlace::Stream(stdout()?), *compression),
        };
        let manifest = match beginning.manifest {
            Some(_) => ManifestRequest::Requested,
            None => ManifestRequest::NotRequested,
        };
        let writer = TarBackupWriter::create(TarTarget {
            place,
            modes: beginning.modes,
            sync: options.sync,
            compression,
            archive_end: beginning.archive_end,
            archive_count: beginning.archive_count,
            announced: beginning.announced,
            manifest,
            standby: beginning.standby,
            now: now(),
        })?;
        Ok(BackupSink::Tar(Box::new(writer)))
    }

    pub(super) fn handle(&mut self, event: ArchiveEvent) -> Result<(), BackupError> {
        match self {
            BackupSink::Plain(writer) => writer.handle(event),
            BackupSink::Extraction(extraction) => extraction.handle(event),
            BackupSink::Tar(writer) => writer.handle(event),
            BackupSink::Elsewhere => match event {
                ArchiveEvent::ArchiveData(_) => Err(BackupError::DataOutsideArchive),
                _ => Ok(()),
            },
        }
    }

    /// The file that is being written, or was last.
    pub(super) fn current_file(&self) -> Option<PathBuf> {
        match self {
            BackupSink::Plain(writer) => writer.current_file().map(PathBuf::from),
            BackupSink::Extraction(extraction) => extraction.current_file(),
            BackupSink::Tar(writer) => writer.current_file().map(PathBuf::from),
            BackupSink::Elsewhere => None,
        }
    }

    /// Everything has come: waits until it is written and found whole. Blocks.
    pub(super) fn complete(self) -> Result<Whole, BackupError> {
        match self {
            BackupSink::Plain(writer) => Ok(Whole::Plain(Box::new(writer.complete()?))),
            BackupSink::Extraction(extraction) => Ok(Whole::Plain(Box::new(extraction.complete()?))),
            BackupSink::Tar(writer) => Ok(Whole::Tar(Box::new(writer.complete()?))),
            BackupSink::Elsewhere => Ok(Whole::Elsewhere),
        }
    }
}

impl Whole {
    /// Adds the archive of WAL. Blocks.
    pub(super) fn add_wal(&mut self, archive: WalArchive) -> Result<(), BackupError> {
        match self {
            Whole::Tar(whole) => Ok(archive.finish(whole)?),
            Whole::Plain(_) | Whole::Elsewhere => Err(BackupError::FailedBefore),
        }
    }

    /// Makes it durable. Blocks.
    pub(super) fn sync(&mut self) -> Result<(), BackupError> {
        match self {
            Whole::Plain(whole) => whole.sync(),
            Whole::Tar(whole) => whole.sync(),
            Whole::Elsewhere => Ok(()),
        }
    }

    /// Gives the manifest its name. Tablespaces that came to be meanwhile are told. Blocks.
    pub(super) fn publish(self) -> Result<Vec<UnannouncedTablespace>, BackupError> {
        match self {
            Whole::Plain(whole) => Ok(whole.publish()?.unannounced_tablespaces),
            Whole::Tar(whole) => whole.publish().map(|()| Vec::new()),
            Whole::Elsewhere => Ok(Vec::new()),
        }
    }
}

fn plain_target(
    options: &Options,
    beginning: Beginning,
    directory: PathBuf,
    wal_directory: Option<PathBuf>,
) -> BackupTarget {
    let manifest = match beginning.manifest {
        None => ManifestPolicy::Absent,
        Some(ManifestOptions { checksums, .. }) => ManifestPolicy::Required(match checksums {
            None => ChecksumAlgorithm::Crc32c,
            // one that nobody knows is refused by the server
            Some(name) => name.parse().unwrap_or(ChecksumAlgorithm::None),
        }),
    };
    BackupTarget {
        directory,
        tablespaces: beginning.tablespaces,
        wal_directory,
        modes: beginning.modes,
        member_modes: MemberModes::AsSent,
        owner: None,
        sync: options.sync,
        manifest,
        archive_end: beginning.archive_end,
        wal_members: beginning.wal_members,
        standby: beginning.standby,
        held: HeldPlaces::default(),
    }
}

/// Standard output without the buffer of Rust's own.
fn stdout() -> Result<File, BackupError> {
    let failed = |source| crate::backup::confined::FileError::new("duplicate", "stdout", source);
    let owned = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    Ok(File::from(owned))
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
