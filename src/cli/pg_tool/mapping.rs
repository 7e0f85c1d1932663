//! `-T OLDDIR=NEWDIR`, taken apart (`tablespace_list_append` and `add_tablespace_mapping`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// What cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum MappingError {
    #[error("multiple \"=\" signs in tablespace mapping")]
    MultipleSigns,
    #[error("invalid tablespace mapping format \"{0}\", must be \"OLDDIR=NEWDIR\"")]
    Format(String),
    #[error("old directory is not an absolute path in tablespace mapping: {}", .0.display())]
    OldNotAbsolute(PathBuf),
    #[error("new directory is not an absolute path in tablespace mapping: {}", .0.display())]
    NewNotAbsolute(PathBuf),
    #[error("directory name too long")]
    TooLong,
}

/// PostgreSQL's `MAXPGPATH`.
const MAX_PATH_LEN: usize = 1024;

/// The old directory and the new one, as they were written; neither is empty. `\=` stands for a sign that separates nothing.
pub(in crate::cli) fn split_mapping(argument: &OsStr) -> Result<(PathBuf, PathBuf), MappingError> {
    let mut sides = [Vec::new(), Vec::new()];
    let mut side = 0;
    let bytes = argument.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        // as the original: looked at before each byte, whatever that is
        if sides[side].len() == MAX_PATH_LEN {
            return Err(MappingError::TooLong);
        }
        let before = index.checked_sub(1).map(|before| bytes[before]);
        match byte {
            b'\\' if bytes.get(index + 1) == Some(&b'=') => {}
            b'=' if before != Some(b'\\') => {
                if !sides[1].is_empty() {
                    return Err(MappingError::MultipleSigns);
                }
                side = 1;
            }
            _ => sides[side].push(byte),
        }
    }
    let [old, new] = sides.map(|path| PathBuf::from(OsString::from_vec(path)));
    if old.as_os_str().is_empty() || new.as_os_str().is_empty() {
        return Err(MappingError::Format(argument.to_string_lossy().into_owned()));
    }
    Ok((old, new))
}
