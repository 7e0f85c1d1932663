//! A backup's manifest in memory: the checksum of each file, found by its path.
//!
//! Answers to `load_backup_manifest` in PostgreSQL's `pg_combinebackup/load_manifest.c`. The entries lie one behind the
//! other in one piece of memory, with a sorted list of where each begins: less than the manifest itself takes. Positions
//! have 32 bits, so there is room for some fifty million files.

use std::io::Read;
use std::path::Path;

use super::error::CombineError;
use crate::backup::confined::FileError;
use crate::backup::manifest::{ManifestError, ManifestFile, ManifestParser, WalRange};
use crate::pg::{ChecksumAlgorithm, SystemIdentifier};

const READ_LEN: usize = 256 << 10;

/// The manifest of one backup.
#[derive(Debug, Default)]
pub(super) struct ManifestIndex {
    /// Path length (2 bytes), algorithm and checksum length (1 each), path, checksum; and again.
    entries: Vec<u8>,
    /// Where each begins, in the order of the paths.
    order: Vec<u32>,
    pub(super) system_identifier: Option<SystemIdentifier>,
    pub(super) wal_ranges: Vec<WalRange>,
}

/// A file's checksum, as a manifest has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListedChecksum<'a> {
    pub(super) algorithm: ChecksumAlgorithm,
    pub(super) bytes: &'a [u8],
}

/// What stops reading.
enum Stop {
    Manifest(ManifestError),
    TooLong,
}

impl From<ManifestError> for Stop {
    fn from(error: ManifestError) -> Self {
        Stop::Manifest(error)
    }
}

impl ManifestIndex {
    /// Reads a manifest; `path` is for messages.
    pub(super) fn read(mut file: impl Read, path: &Path) -> Result<Self, CombineError> {
        let mut index = ManifestIndex::default();
        let mut parser = ManifestParser::new();
        let mut chunk = vec![0; READ_LEN];
        loop {
            let len = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(FileError::new("read file", path, source).into()),
            };
            parser.push(&chunk[..len], |file| index.add(&file)).map_err(|stop| match stop {
                Stop::Manifest(error) => CombineError::Manifest(error),
                Stop::TooLong => CombineError::TooLarge(path.to_owned()),
            })?;
        }
        let summary = parser.finish().map_err(CombineError::Manifest)?;
        if summary.version < 2 {
            return Err(CombineError::OldManifest);
        }
        index.system_identifier = summary.system_identifier;
        index.wal_ranges = summary.wal_ranges;
        index.sort()?;
        Ok(index)
    }

    /// What is listed of a file; `None` when it is not.
    pub(super) fn find(&self, path: &[u8]) -> Option<ListedChecksum<'_>> {
        let place = self.order.binary_search_by(|&start| self.entry(start).0.cmp(path)).ok()?;
        Some(self.entry(self.order[place]).1)
    }

    fn add(&mut self, file: &ManifestFile<'_>) -> Result<(), Stop> {
        let start = u32::try_from(self.entries.len()).map_err(|_| Stop::TooLong)?;
        self.order.push(start);
        // both are bounded by the parser
        self.entries.extend_from_slice(&(file.path.len() as u16).to_ne_bytes());
        let algorithm = ChecksumAlgorithm::ALL.into_iter().position(|known| known == file.algorithm);
        self.entries.extend([algorithm.unwrap_or(0) as u8, file.checksum.len() as u8]);
        self.entries.extend_from_slice(file.path);
        self.entries.extend_from_slice(file.checksum);
        Ok(())
    }

    fn sort(&mut self) -> Result<(), CombineError> {
        let mut order = std::mem::take(&mut self.order);
        order.sort_unstable_by(|&left, &right| self.entry(left).0.cmp(self.entry(right).0));
        let twice = order.windows(2).find(|pair| self.entry(pair[0]).0 == self.entry(pair[1]).0);
        if let Some(pair) = twice {
            return Err(CombineError::DuplicatePath(self.entry(pair[0]).0.into()));
        }
        self.order = order;
        Ok(())
    }

    fn entry(&self, start: u32) -> (&[u8], ListedChecksum<'_>) {
        let entry = &self.entries[start as usize..];
        let path_len = usize::from(u16::from_ne_bytes([entry[0], entry[1]]));
        let (algorithm, checksum_len) =
            (ChecksumAlgorithm::ALL[usize::from(entry[2])], usize::from(entry[3]));
        let (path, rest) = entry[4..].split_at(path_len);
        (path, ListedChecksum { algorithm, bytes: &rest[..checksum_len] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::{LsnStyle, ManifestEntry, ManifestWriter};

    fn read(files: &[(&str, &[u8])]) -> Result<ManifestIndex, CombineError> {
        let mut writer = ManifestWriter::begin(SystemIdentifier::new(5));
        for (path, checksum) in files {
            let (path, algorithm) = (path.as_bytes(), ChecksumAlgorithm::Sha256);
            writer.add(&ManifestEntry { path, size: 1, modified_at: 0, algorithm, checksum });
        }
        ManifestIndex::read(&writer.finish(&[], LsnStyle::Plain)[..], Path::new("m"))
    }

    #[test]
    fn every_file_is_found_by_its_path() {
        let index = read(&[("b", b"2"), ("a", b"one"), ("c/a", b"")]).unwrap();
        assert_eq!(index.system_identifier, Some(SystemIdentifier::new(5)));
        let checksum =
            |path: &str| index.find(path.as_bytes()).map(|listed| (listed.algorithm, listed.bytes));
        assert_eq!(checksum("a"), Some((ChecksumAlgorithm::Sha256, &b"one"[..])));
        assert_eq!(checksum("b"), Some((ChecksumAlgorithm::Sha256, &b"2"[..])));
        assert_eq!(checksum("c/a"), Some((ChecksumAlgorithm::None, &b""[..])));
        assert_eq!((checksum("c"), checksum("")), (None, None));
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let twice = read(&[("a", b"1"), ("b", b"1"), ("a", b"1")]).unwrap_err();
        assert_eq!(twice.to_string(), "duplicate path name in backup manifest: \"a\"");
        let cut = ManifestIndex::read(&b"{"[..], Path::new("m")).unwrap_err();
        assert!(matches!(cut, CombineError::Manifest(_)));
    }
}
