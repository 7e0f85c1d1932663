//! The server that asks for a file (`restore_command`), as far as it can be seen from where it wants that: in `pg_wal`, beside
//! the segments that it has itself.
//!
//! A server takes the archive's file before its own, and keeps it in its own one's place. So it must not be given one that
//! ends earlier: what it has received and acknowledged since would be gone.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use crate::pg::wal_page::{SHORT_PAGE_HEADER_LEN, WalPageHeader};
use crate::pg::{WalChecker, WalFileName};

/// The server's directory for WAL.
#[derive(Debug, Clone)]
pub struct AskingServer {
    wal_directory: PathBuf,
}

/// How much of a file is compared at once.
const PIECE_LEN: usize = 1 << 20;

impl AskingServer {
    /// Whoever wants a file at `target`.
    pub fn beside(target: &Path) -> Self {
        AskingServer { wal_directory: target.parent().unwrap_or(Path::new("")).to_owned() }
    }

    /// Whether it goes on recovering, and asks its primary for what it does not get here.
    pub fn is_standby(&self) -> bool {
        let has = |name| self.wal_directory.parent().is_some_and(|data| data.join(name).exists());
        has("standby.signal") && !has("recovery.signal")
    }

    /// Whether it has a segment that begins with this WAL, or, where there is none, that is this segment: a file may have
    /// been made ready for WAL to come.
    pub(super) fn has(&self, file: WalFileName, wal: &[u8]) -> Result<bool, ArchiveError> {
        let path = self.wal_directory.join(file.to_string());
        let found = match File::open(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(ArchiveError::file("open file", path, source)),
        };
        let compared = match wal {
            [] => begins(found, file),
            wal => begins_with(found, wal),
        };
        match compared {
            // shorter than a segment: whatever it is, it is less
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            compared => compared.map_err(|source| ArchiveError::file("read file", path, source)),
        }
    }

    /// Whether it has all of a segment, each page and record of it checked: then it goes on with the next one.
    pub(super) fn has_whole(
        &self,
        file: WalFileName,
        cluster: ClusterIdentity,
    ) -> Result<bool, ArchiveError> {
        let path = self.wal_directory.join(file.to_string());
        let failed = |source| ArchiveError::file("read file", &path, source);
        let mut found = File::open(&path).map_err(failed)?;
        let (segment, mut lsn) = (file.segment, file.segment.start_lsn());
        let (system, size) = (cluster.system_identifier, cluster.segment_size);
        let mut checker = WalChecker::new(system, size, file.timeline, lsn);
        let mut buffer = vec![0; PIECE_LEN.min(size.as_u64() as usize)];
        while lsn < segment.end_lsn() {
            match found.read_exact(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(failed)?,
            }
            if checker.push(lsn, &buffer).is_err() {
                return Ok(false);
            }
            lsn = lsn + buffer.len() as u64;
        }
        Ok(true)
    }
}

/// Whether its first page is that of the segment.
fn begins(mut found: File, file: WalFileName) -> io::Result<bool> {
    let mut header = [0; SHORT_PAGE_HEADER_LEN];
    found.read_exact(&mut header)?;
    Ok(WalPageHeader::parse(&header).page_lsn == file.segment.start_lsn())
}

fn begins_with(mut found: File, wal: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE_LEN.min(wal.len())];
    for piece in wal.chunks(PIECE_LEN) {
        let read = &mut buffer[..piece.len()];
        found.read_exact(read)?;
        if read != piece {
            return Ok(false);
        }
    }
    Ok(true)
}
