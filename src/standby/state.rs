//! What a stopped data directory says of itself.

use std::io;
use std::path::{Path, PathBuf};

use super::wal_end::{self, WalEnd};
use crate::ErrorClass;
use crate::backup::confined::FileError;
use crate::backup::standby_files::{AUTO_CONF_NAME, STANDBY_SIGNAL_NAME, setting_value};
use crate::client::conninfo::Secret;
use crate::pg::ControlFile;
use crate::pg::control_file::ControlFileError;

/// A data directory without a server.
#[derive(Debug, Clone)]
pub struct StoppedState {
    /// `PG_VERSION`.
    pub major: u16,
    /// The control file.
    pub control: ControlFile,
    /// Whether a server on it would be a standby: `standby.signal` is there.
    pub is_standby: bool,
    /// How far the server would come by itself.
    pub wal_end: WalEnd,
    /// `primary_conninfo`, from the configuration files in the directory.
    pub primary_conninfo: Option<Secret>,
    /// `primary_slot_name`, from there too.
    pub slot: Option<String>,
}

/// Why a data directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No `PG_VERSION`.
    #[error("\"{}\" is not a data directory: it has no PG_VERSION", .0.display())]
    NotADataDirectory(PathBuf),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The control file makes no sense.
    #[error("the control file of \"{}\" is damaged", .directory.display())]
    ControlFile {
        /// The data directory.
        directory: PathBuf,
        /// What is wrong.
        #[source]
        source: ControlFileError,
    },
}

impl StateError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            StateError::ControlFile { .. } => ErrorClass::Integrity,
            StateError::NotADataDirectory(_) | StateError::File(_) => ErrorClass::Operator,
        }
    }
}

/// Reads a data directory that no server runs on.
pub fn read_stopped(directory: &Path) -> Result<StoppedState, StateError> {
    let major = read_major(directory)?;
    let control = read_control_file(directory)?;
    // Debian keeps postgresql.conf elsewhere
    let files = [read(&directory.join(AUTO_CONF_NAME))?, read(&directory.join("postgresql.conf"))?];
    let value = |name| {
        let mut values = files.iter().flatten().filter_map(|content| setting_value(content, name));
        values.next().filter(|value| !value.is_empty())
    };
    Ok(StoppedState {
        major,
        control,
        is_standby: read(&directory.join(STANDBY_SIGNAL_NAME))?.is_some(),
        wal_end: wal_end::find(directory, &control)?,
        primary_conninfo: value("primary_conninfo").map(Secret::new),
        slot: value("primary_slot_name"),
    })
}

/// The major version of a data directory.
pub(super) fn read_major(directory: &Path) -> Result<u16, StateError> {
    let version = read(&directory.join("PG_VERSION"))?.unwrap_or_default();
    let major = String::from_utf8_lossy(&version).trim().parse();
    major.map_err(|_| StateError::NotADataDirectory(directory.to_owned()))
}

/// A data directory's control file, which may be a running server's: it is written at once.
pub(super) fn read_control_file(directory: &Path) -> Result<ControlFile, StateError> {
    let path = directory.join("global/pg_control");
    let content = std::fs::read(&path).map_err(|error| FileError::new("read file", path, error))?;
    ControlFile::parse(&content)
        .map_err(|source| StateError::ControlFile { directory: directory.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read file", path, error)),
    }
}
