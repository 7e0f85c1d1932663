//! The manifest of the result, on its way to disk.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::error::CombineError;
use super::worker::MadeFile;
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::manifest::{LsnStyle, ManifestEntry, ManifestWriter};
use crate::backup::path::MemberPath;
use crate::backup::{SyncMethod, WalRange};
use crate::pg::SystemIdentifier;

/// How much of the manifest gathers before it is written.
const MANIFEST_CHUNK_LEN: usize = 128 << 10;

/// The manifest, and its file.
pub(super) struct Listing {
    writer: ManifestWriter,
    file: ListingFile,
}

struct ListingFile {
    file: File,
    path: PathBuf,
}

impl Listing {
    /// Begins it under a temporary name.
    pub(super) fn begin(
        system_identifier: SystemIdentifier,
        output: &ConfinedDirectory,
        name: &'static str,
        mode: u32,
    ) -> Result<Self, CombineError> {
        let writer = ManifestWriter::begin(system_identifier);
        let member = MemberPath::literal(name);
        let path = output.path_of(&member);
        let file = output.handle().create_file(&member, mode);
        let file = file.map_err(|error| FileError::new("open file", &path, error.source))?;
        Ok(Listing { writer, file: ListingFile { file, path } })
    }

    pub(super) fn add(&mut self, made: &MadeFile) -> Result<(), CombineError> {
        self.writer.add(&ManifestEntry {
            path: &made.path,
            size: made.size,
            modified_at: made.modified_at,
            algorithm: made.algorithm,
            checksum: &made.checksum,
        });
        if self.writer.pending_len() >= MANIFEST_CHUNK_LEN {
            self.file.write(&self.writer.take())?;
        }
        Ok(())
    }

    pub(super) fn finish(
        self,
        ranges: &[WalRange],
        style: LsnStyle,
        sync: SyncMethod,
    ) -> Result<(), CombineError> {
        let Listing { writer, mut file } = self;
        file.write(&writer.finish(ranges, style))?;
        if sync == SyncMethod::Fsync {
            file.file.sync_all().map_err(|source| FileError::new("fsync file", &file.path, source))?;
        }
        Ok(())
    }
}

impl ListingFile {
    fn write(&mut self, text: &[u8]) -> Result<(), CombineError> {
        self.file.write_all(text).map_err(|source| FileError::new("write file", &self.path, source).into())
    }
}
