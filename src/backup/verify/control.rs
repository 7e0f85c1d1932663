//! `global/pg_control` of a backup.

use super::problem::ControlFileFault;
use crate::pg::control_file::{CONTROL_FILE_LEN, ControlFileError};
use crate::pg::{ControlFile, SystemIdentifier};

/// Its path.
pub(super) const CONTROL_FILE: &[u8] = b"global/pg_control";

/// All of it that has a meaning.
pub(super) const READ_LEN: usize = CONTROL_FILE_LEN;

/// The versions of 13 to 19; each major from 17 on has its own hundred.
const KNOWN_VERSIONS: std::ops::RangeInclusive<u32> = 1300..=1999;

/// What there is of the file, up to [`READ_LEN`] bytes. A manifest of version 2 says whose it has to be.
pub(super) fn check_control_file(
    content: &[u8],
    manifest: Option<SystemIdentifier>,
) -> Result<ControlFile, ControlFileFault> {
    let mut whole = vec![0; READ_LEN];
    let len = content.len().min(READ_LEN);
    whole[..len].copy_from_slice(&content[..len]);
    let control = ControlFile::parse(&whole).map_err(|error| match error {
        // the checksum is its last field, and is only right where all of it is there
        _ if len < FIELDS_LEN => ControlFileFault::TooShort { read: len as u64, expected: FIELDS_LEN as u64 },
        ControlFileError::TooShort(_) | ControlFileError::ByteOrder | ControlFileError::Checksum => {
            ControlFileFault::Checksum
        }
    })?;
    if !KNOWN_VERSIONS.contains(&control.control_version) {
        return Err(ControlFileFault::Version);
    }
    match manifest.filter(|manifest| *manifest != control.system_identifier) {
        Some(manifest) => {
            Err(ControlFileFault::SystemIdentifier { manifest, found: control.system_identifier })
        }
        None => Ok(control),
    }
}

/// `sizeof(ControlFileData)` of 19, the longest.
const FIELDS_LEN: usize = 312;
