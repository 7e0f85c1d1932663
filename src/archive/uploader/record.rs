//! Which archives a directory's WAL was put up to, written down beside it: one that was there and is not is no new archive. A
//! disk that is not mounted looks like an empty one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::super::error::ArchiveError;

/// A line for each archive: its address.
const RECORD: &str = ".pgwake.archives";

/// More than that is no record.
const MAX_LEN: u64 = 64 << 10;

/// Whether WAL of this directory was put up to this archive before.
pub(super) fn is_known(directory: &Path, address: &str) -> Result<bool, ArchiveError> {
    Ok(read(directory)?.lines().any(|line| line == address))
}

/// Notes that it will be; durable when this returns.
pub(super) fn note(directory: &Path, address: &str) -> Result<(), ArchiveError> {
    let mut known = read(directory)?;
    if known.lines().any(|line| line == address) {
        return Ok(());
    }
    known.push_str(address);
    known.push('\n');
    let (path, begun) = (directory.join(RECORD), directory.join(format!("{RECORD}.begun")));
    let written = File::create(&begun).and_then(|mut file| {
        file.write_all(known.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&begun, &path)?;
        File::open(directory)?.sync_all()
    });
    written.map_err(|source| ArchiveError::file("write file", path, source))
}

fn read(directory: &Path) -> Result<String, ArchiveError> {
    let path = directory.join(RECORD);
    let mut content = String::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_LEN).read_to_string(&mut content));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(content),
        read => read.map(|_| content).map_err(|source| ArchiveError::file("read file", path, source)),
    }
}
