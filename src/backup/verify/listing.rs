//! The files of a manifest, to be looked up by path.
//!
//! Answers to `manifest_files_hash` in PostgreSQL's `pg_verifybackup.h`. The walk over a backup meets files in the file
//! system's order, not in the manifest's, so all have to be at hand. They are kept close together: about 60 bytes a
//! file, of which the path is the largest part. A million files take 60 MB, and [`MAX_LISTED_LEN`] bounds the rest.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};

use hashbrown::HashTable;

use super::super::checksum::ChecksumAlgorithm;
use super::super::manifest::ManifestFile;

/// The most bytes that paths and checksums may take.
pub const MAX_LISTED_LEN: usize = u32::MAX as usize;

/// The files, in the manifest's order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Path and checksum of each file, one behind the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    by_path: HashTable<u32>,
    hasher: RandomState,
}

/// The place of a file in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u32);

#[derive(Debug)]
struct Entry {
    at: u32,
    path_len: u16,
    checksum_len: u8,
    algorithm: ChecksumAlgorithm,
    size: u64,
    standing: AtomicU8,
}

/// What is known of a listed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Standing {
    /// It was not found yet.
    Unmet,
    /// It is there, and nothing is wrong so far.
    Met,
    /// It is there, and something was told of it.
    Bad,
}

/// A file as the manifest has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    pub(super) id: FileId,
    pub(super) path: &'a [u8],
    pub(super) size: u64,
    pub(super) algorithm: ChecksumAlgorithm,
    pub(super) checksum: &'a [u8],
    standing: &'a AtomicU8,
}

/// Why a file cannot be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotListed {
    /// It is there already.
    Duplicate,
    /// More than [`MAX_LISTED_LEN`].
    TooMany,
}

impl Listing {
    /// Adds a file behind the others.
    pub(super) fn insert(&mut self, file: &ManifestFile<'_>) -> Result<(), NotListed> {
        let hash = self.hasher.hash_one(file.path);
        let (entries, bytes) = (&self.entries, &self.bytes);
        if self.by_path.find(hash, |id| path_of(entries, bytes, *id) == file.path).is_some() {
            return Err(NotListed::Duplicate);
        }
        let (len, more) = (self.bytes.len(), file.path.len() + file.checksum.len());
        let (Ok(id), Ok(at)) = (u32::try_from(self.entries.len()), u32::try_from(len)) else {
            return Err(NotListed::TooMany);
        };
        if len + more > MAX_LISTED_LEN {
            return Err(NotListed::TooMany);
        }
        self.bytes.extend_from_slice(file.path);
        self.bytes.extend_from_slice(file.checksum);
        self.entries.push(Entry {
            at,
            // the parser bounds both
            path_len: file.path.len() as u16,
            checksum_len: file.checksum.len() as u8,
            algorithm: file.algorithm,
            size: file.size,
            standing: AtomicU8::new(Standing::Unmet as u8),
        });
        let (entries, bytes, hasher) = (&self.entries, &self.bytes, &self.hasher);
        self.by_path.insert_unique(hash, id, |id| hasher.hash_one(path_of(entries, bytes, *id)));
        Ok(())
    }

    /// The file of this path.
    pub(super) fn find(&self, path: &[u8]) -> Option<Listed<'_>> {
        let hash = self.hasher.hash_one(path);
        let id = self.by_path.find(hash, |id| path_of(&self.entries, &self.bytes, *id) == path)?;
        Some(self.file(FileId(*id)))
    }

    /// The file at this place.
    pub(super) fn file(&self, id: FileId) -> Listed<'_> {
        let entry = &self.entries[id.0 as usize];
        let path = path_of(&self.entries, &self.bytes, id.0);
        let checksum_at = entry.at as usize + path.len();
        Listed {
            id,
            path,
            size: entry.size,
            algorithm: entry.algorithm,
            checksum: &self.bytes[checksum_at..checksum_at + usize::from(entry.checksum_len)],
            standing: &entry.standing,
        }
    }

    /// All files, in the manifest's order.
    pub(super) fn files(&self) -> impl Iterator<Item = Listed<'_>> {
        (0..self.entries.len() as u32).map(|id| self.file(FileId(id)))
    }
}

impl Listed<'_> {
    /// What is known of it.
    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Unmet,
            1 => Standing::Met,
            _ => Standing::Bad,
        }
    }

    /// It was found. What is bad stays so.
    pub(super) fn meet(&self) {
        self.standing.fetch_max(Standing::Met as u8, Ordering::Relaxed);
    }

    /// Something was told of it.
    pub(super) fn condemn(&self) {
        self.standing.store(Standing::Bad as u8, Ordering::Relaxed);
    }

    /// Whether its checksum is worth a look (`should_verify_checksum`).
    pub(super) fn has_checksum_to_check(&self) -> bool {
        self.standing() == Standing::Met && self.algorithm != ChecksumAlgorithm::None
    }
}

fn path_of<'a>(entries: &[Entry], bytes: &'a [u8], id: u32) -> &'a [u8] {
    let Entry { at, path_len, .. } = entries[id as usize];
    &bytes[at as usize..at as usize + usize::from(path_len)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn file<'a>(path: &'a [u8], size: u64, checksum: &'a [u8]) -> ManifestFile<'a> {
        ManifestFile { path, size, algorithm: ChecksumAlgorithm::Crc32c, checksum }
    }

    #[test]
    fn what_is_bad_stays_bad() {
        let mut listing = Listing::default();
        listing.insert(&file(b"a", 1, b"1234")).unwrap();
        let listed = listing.find(b"a").unwrap();
        assert_eq!(listed.standing(), Standing::Unmet);
        assert!(!listed.has_checksum_to_check());
        listed.meet();
        assert!(listed.has_checksum_to_check());
        listed.condemn();
        listed.meet();
        assert_eq!(listed.standing(), Standing::Bad);
        assert!(!listed.has_checksum_to_check());
    }

    proptest! {
        #[test]
        fn finds_what_was_put_in(paths in proptest::collection::vec("[a-c]{1,4}", 0..60)) {
            let mut listing = Listing::default();
            let mut expected: HashMap<&str, u64> = HashMap::new();
            for (size, path) in paths.iter().enumerate() {
                let checksum = path.repeat(2);
                let inserted = listing.insert(&file(path.as_bytes(), size as u64, checksum.as_bytes()));
                let known = expected.contains_key(path.as_str());
                prop_assert_eq!(inserted, if known { Err(NotListed::Duplicate) } else { Ok(()) });
                expected.entry(path).or_insert(size as u64);
            }
            for (path, size) in &expected {
                let found = listing.find(path.as_bytes()).unwrap();
                prop_assert_eq!((found.path, found.size), (path.as_bytes(), *size));
                let checksum = path.repeat(2);
                prop_assert_eq!(found.checksum, checksum.as_bytes());
            }
            prop_assert!(listing.find(b"d").is_none());
            prop_assert_eq!(listing.files().count(), expected.len());
        }
    }
}
