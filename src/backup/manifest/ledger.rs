//! What was received, kept until the manifest says what should have been.
//!
//! The ledger appends a record for each file; beyond [`MEMORY_LEN`] the records go to an unnamed file. The comparison
//! walks ledger and manifest side by side. In the server's own order each entry meets its record at once; an entry or
//! a record without counterpart waits in a map, so a manifest in another order still works, and memory grows only
//! with the disorder, up to [`MAX_PENDING`] waiting names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};

use super::super::checksum::{Checksum, ChecksumAlgorithm, MAX_CHECKSUM_LEN};
use super::parser::{MAX_MANIFEST_PATH_LEN, ManifestFile};

/// How many bytes of records stay in memory.
pub const MEMORY_LEN: usize = 2 << 20;

/// How many names may wait for their counterpart, on either side.
pub const MAX_PENDING: usize = 32 << 10;

/// How many problems a report names; the others are counted.
pub const MAX_REPORTED_PROBLEMS: usize = 100;

/// A file that is not as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// Listed, but never sent.
    #[error("\"{}\" is present in the manifest but was not received", .path.escape_ascii())]
    Missing {
        /// The file.
        path: Box<[u8]>,
    },
    /// Sent, but not listed.
    #[error("\"{}\" was received but is not present in the manifest", .path.escape_ascii())]
    Unlisted {
        /// The file.
        path: Box<[u8]>,
    },
    /// Listed with another size.
    #[error("\"{}\" has size {received} as received but size {listed} in the manifest", .path.escape_ascii())]
    Size {
        /// The file.
        path: Box<[u8]>,
        /// The manifest's.
        listed: u64,
        /// What came.
        received: u64,
    },
    /// Listed with another checksum.
    #[error("checksum mismatch for file \"{}\"", .path.escape_ascii())]
    Checksum {
        /// The file.
        path: Box<[u8]>,
    },
    /// Listed with a checksum of an algorithm that was not asked for, so nothing was computed to compare.
    #[error("checksum of file \"{}\" is {listed} in the manifest, {computed} was asked for", .path.escape_ascii())]
    Algorithm {
        /// The file.
        path: Box<[u8]>,
        /// The manifest's.
        listed: ChecksumAlgorithm,
        /// Ours.
        computed: ChecksumAlgorithm,
    },
}

/// The backup is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} files do not match the backup manifest; the first: {}", .problems[0])]
pub struct ManifestMismatch {
    /// The first [`MAX_REPORTED_PROBLEMS`] of them; never empty.
    pub problems: Vec<FileProblem>,
    /// How many there are.
    pub count: u64,
}

/// Why the comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file that holds the records failed.
    #[error("could not {operation} temporary list of received files")]
    Spill {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// More than [`MAX_PENDING`] names wait for their counterpart.
    #[error("backup manifest and received files disagree about more than {MAX_PENDING} files")]
    TooMuchDisagreement,
}

/// The records of what was received.
#[derive(Debug)]
pub struct Ledger {
    algorithm: ChecksumAlgorithm,
    memory: Vec<u8>,
    spill: Option<File>,
    file_count: u64,
    byte_count: u64,
}

impl Ledger {
    /// An empty ledger, for checksums of `algorithm`.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Ledger { algorithm, memory: Vec::new(), spill: None, file_count: 0, byte_count: 0 }
    }

    /// How many files were received.
    pub fn file_count(&self) -> u64 {
        self.file_count
    }

    /// How many bytes they held.
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Remembers a file: its path as a manifest has it (`prefix` and `name` joined), size and checksum. When the
    /// records have become many, `open_spill` makes the empty file that they go to.
    pub fn record(
        &mut self,
        prefix: &[u8],
        name: &[u8],
        size: u64,
        checksum: &Checksum,
        open_spill: impl FnOnce() -> io::Result<File>,
    ) -> Result<(), LedgerError> {
        self.file_count += 1;
        self.byte_count += size;
        let (path_len, checksum) = (prefix.len() + name.len(), checksum.as_bytes());
        assert!(
            path_len <= MAX_MANIFEST_PATH_LEN,
            "a member's name and its prefix are shorter than a path may be"
        );
        let memory = &mut self.memory;
        memory.extend_from_slice(&(path_len as u16).to_ne_bytes());
        memory.push(checksum.len() as u8);
        memory.extend_from_slice(&size.to_ne_bytes());
        memory.extend_from_slice(prefix);
        memory.extend_from_slice(name);
        memory.extend_from_slice(checksum);
        if memory.len() >= MEMORY_LEN { self.spill(open_spill) } else { Ok(()) }
    }

    /// The end of receiving: what was received can now be compared.
    pub fn compare(mut self) -> Result<Comparison, LedgerError> {
        let received: Box<dyn Read + Send> = match self.spill.take() {
            None => Box::new(Cursor::new(self.memory)),
            Some(mut file) => {
                file.seek(SeekFrom::Start(0)).map_err(|source| spill_error("rewind", source))?;
                Box::new(BufReader::with_capacity(64 << 10, file).chain(Cursor::new(self.memory)))
            }
        };
        Ok(Comparison {
            algorithm: self.algorithm,
            received,
            unread: self.file_count,
            record: Record::default(),
            unlisted: HashMap::new(),
            unreceived: HashMap::new(),
            problems: Vec::new(),
            problem_count: 0,
        })
    }

    fn spill(&mut self, open: impl FnOnce() -> io::Result<File>) -> Result<(), LedgerError> {
        let file = match &mut self.spill {
            Some(file) => file,
            None => self.spill.insert(open().map_err(|source| spill_error("create", source))?),
        };
        file.write_all(&self.memory).map_err(|source| spill_error("write", source))?;
        self.memory.clear();
        Ok(())
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison").field("problem_count", &self.problem_count).finish_non_exhaustive()
    }
}

fn spill_error(operation: &'static str, source: io::Error) -> LedgerError {
    LedgerError::Spill { operation, source }
}

/// The manifest's files, met one by one with the ledger's.
pub struct Comparison {
    algorithm: ChecksumAlgorithm,
    received: Box<dyn Read + Send>,
    unread: u64,
    record: Record,
    /// Received, not yet met in the manifest.
    unlisted: HashMap<Box<[u8]>, Facts>,
    /// In the manifest, not yet met in the ledger.
    unreceived: HashMap<Box<[u8]>, Facts>,
    problems: Vec<FileProblem>,
    problem_count: u64,
}

#[derive(Debug, Default)]
struct Record {
    path: Vec<u8>,
    facts: Facts,
}

/// Size and checksum of one file, according to one side.
#[derive(Debug, Default, Clone)]
struct Facts {
    size: u64,
    /// `None` when there is nothing to compare.
    checksum: Vec<u8>,
}

impl Comparison {
    /// Compares one entry of the manifest.
    pub fn listed(&mut self, file: ManifestFile<'_>) -> Result<(), LedgerError> {
        if file.algorithm != self.algorithm {
            let (listed, computed) = (file.algorithm, self.algorithm);
            self.problem(FileProblem::Algorithm { path: file.path.into(), listed, computed });
        }
        if self.next_record()? {
            let record = std::mem::take(&mut self.record);
            if record.path == file.path {
                self.facts(file.path, file.size, file.checksum, &record.facts);
                self.record = record;
                return Ok(());
            }
            self.record_waits(&record)?;
            self.record = record;
        }
        if let Some(received) = self.unlisted.remove(file.path) {
            self.facts(file.path, file.size, file.checksum, &received);
            return Ok(());
        }
        let facts = Facts { size: file.size, checksum: file.checksum.to_vec() };
        if self.unreceived.insert(file.path.into(), facts).is_some() {
            // Listed twice, received at most once.
            self.problem(FileProblem::Missing { path: file.path.into() });
        }
        bounded(&self.unreceived)
    }

    /// The manifest is over: what still waits has no counterpart.
    pub fn finish(mut self) -> Result<Result<(), ManifestMismatch>, LedgerError> {
        while self.next_record()? {
            let record = std::mem::take(&mut self.record);
            self.record_waits(&record)?;
            self.record = record;
        }
        let mut missing: Vec<_> = std::mem::take(&mut self.unreceived).into_keys().collect();
        let mut unlisted: Vec<_> = std::mem::take(&mut self.unlisted).into_keys().collect();
        missing.sort_unstable();
        unlisted.sort_unstable();
        missing.into_iter().for_each(|path| self.problem(FileProblem::Missing { path }));
        unlisted.into_iter().for_each(|path| self.problem(FileProblem::Unlisted { path }));
        if self.problem_count == 0 {
            return Ok(Ok(()));
        }
        Ok(Err(ManifestMismatch { problems: self.problems, count: self.problem_count }))
    }

    fn record_waits(&mut self, record: &Record) -> Result<(), LedgerError> {
        if let Some(listed) = self.unreceived.remove(&record.path[..]) {
            self.facts(&record.path, listed.size, &listed.checksum, &record.facts);
            return Ok(());
        }
        self.unlisted.insert(record.path.as_slice().into(), record.facts.clone());
        bounded(&self.unlisted)
    }

    fn facts(&mut self, path: &[u8], listed_size: u64, listed_checksum: &[u8], received: &Facts) {
        if received.size != listed_size {
            let (listed, received) = (listed_size, received.size);
            self.problem(FileProblem::Size { path: path.into(), listed, received });
        } else if received.checksum != listed_checksum {
            self.problem(FileProblem::Checksum { path: path.into() });
        }
    }

    fn problem(&mut self, problem: FileProblem) {
        self.problem_count += 1;
        if self.problems.len() < MAX_REPORTED_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Reads the next record into `self.record`; `false` when there is none.
    fn next_record(&mut self) -> Result<bool, LedgerError> {
        if self.unread == 0 {
            return Ok(false);
        }
        self.unread -= 1;
        let mut read = || -> io::Result<()> {
            let mut head = [0; 11];
            self.received.read_exact(&mut head)?;
            let [path_0, path_1, checksum_len, size @ ..] = head;
            let record = &mut self.record;
            record.path.resize(usize::from(u16::from_ne_bytes([path_0, path_1])), 0);
            self.received.read_exact(&mut record.path)?;
            debug_assert!(usize::from(checksum_len) <= MAX_CHECKSUM_LEN);
            record.facts.checksum.resize(usize::from(checksum_len), 0);
            self.received.read_exact(&mut record.facts.checksum)?;
            record.facts.size = u64::from_ne_bytes(size);
            Ok(())
        };
        read().map_err(|source| spill_error("read", source))?;
        Ok(true)
    }
}

fn bounded(waiting: &HashMap<Box<[u8]>, Facts>) -> Result<(), LedgerError> {
    if waiting.len() > MAX_PENDING { Err(LedgerError::TooMuchDisagreement) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(data: &[u8]) -> Checksum {
        let mut running = ChecksumAlgorithm::Crc32c.start();
        running.update(data);
        running.finish()
    }

    fn ledger(names: &[&str]) -> Ledger {
        let mut ledger = Ledger::new(ChecksumAlgorithm::Crc32c);
        for name in names {
            ledger.record(b"d/", name.as_bytes(), 1, &checksum(name.as_bytes()), tempfile::tempfile).unwrap();
        }
        ledger
    }

    fn listed(comparison: &mut Comparison, name: &str, size: u64, content: &str) {
        let path = format!("d/{name}");
        let checksum = checksum(content.as_bytes());
        let (path, checksum) = (path.as_bytes(), checksum.as_bytes());
        comparison
            .listed(ManifestFile { path, size, algorithm: ChecksumAlgorithm::Crc32c, checksum })
            .unwrap();
    }

    fn problems(received: &[&str], manifest: &[(&str, u64, &str)]) -> Vec<String> {
        let mut comparison = ledger(received).compare().unwrap();
        manifest.iter().for_each(|(name, size, content)| listed(&mut comparison, name, *size, content));
        let Err(mismatch) = comparison.finish().unwrap() else { return Vec::new() };
        assert_eq!(mismatch.count, mismatch.problems.len() as u64);
        mismatch.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn agrees_in_any_order() {
        assert!(problems(&["a", "b", "c"], &[("a", 1, "a"), ("b", 1, "b"), ("c", 1, "c")]).is_empty());
        assert!(problems(&["a", "b", "c"], &[("c", 1, "c"), ("a", 1, "a"), ("b", 1, "b")]).is_empty());
        assert!(problems(&[], &[]).is_empty());
    }

    #[test]
    fn names_what_is_wrong() {
        let found = problems(
            &["a", "extra", "b", "c"],
            &[("a", 1, "a"), ("gone", 1, "gone"), ("b", 2, "b"), ("c", 1, "x"), ("a", 1, "a")],
        );
        assert_eq!(
            found,
            [
                "\"d/b\" has size 1 as received but size 2 in the manifest",
                "checksum mismatch for file \"d/c\"",
                "\"d/a\" is present in the manifest but was not received",
                "\"d/gone\" is present in the manifest but was not received",
                "\"d/extra\" was received but is not present in the manifest",
            ]
        );
    }

    #[test]
    fn notices_another_algorithm() {
        let mut comparison = ledger(&["a"]).compare().unwrap();
        let algorithm = ChecksumAlgorithm::None;
        comparison.listed(ManifestFile { path: b"d/a", size: 1, algorithm, checksum: b"" }).unwrap();
        assert_eq!(comparison.finish().unwrap().unwrap_err().count, 2);
    }

    #[test]
    fn many_files_take_little_memory() {
        let names: Vec<String> = (0..200_000).map(|number| format!("base/16384/{number}")).collect();
        let mut ledger = ledger(&[]);
        for name in &names {
            ledger.record(b"d/", name.as_bytes(), 1, &checksum(name.as_bytes()), tempfile::tempfile).unwrap();
        }
        assert!(ledger.spill.is_some() && ledger.memory.len() < MEMORY_LEN);
        assert_eq!((ledger.file_count(), ledger.byte_count()), (200_000, 200_000));
        let mut comparison = ledger.compare().unwrap();
        for name in names.iter().filter(|name| !name.ends_with("/777")) {
            listed(&mut comparison, name, 1, name);
            assert!(comparison.unlisted.len() < 3 && comparison.unreceived.len() < 3);
        }
        let mismatch = comparison.finish().unwrap().unwrap_err();
        assert_eq!(mismatch.problems, [FileProblem::Unlisted { path: b"d/base/16384/777"[..].into() }]);
    }

    #[test]
    fn gives_up_when_nothing_fits() {
        let mut comparison = ledger(&[]).compare().unwrap();
        let mut entry = |number: usize| {
            let path = number.to_string();
            let (path, algorithm) = (path.as_bytes(), ChecksumAlgorithm::Crc32c);
            comparison.listed(ManifestFile { path, size: 1, algorithm, checksum: b"" })
        };
        (0..MAX_PENDING).for_each(|number| entry(number).unwrap());
        assert!(matches!(entry(MAX_PENDING), Err(LedgerError::TooMuchDisagreement)));
    }
}
