//! The order of things.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::manifest::{ManifestSummary, WalRange};
use super::archives::ArchiveScan;
use super::checksums::{self, Content, ContentSource, Task};
use super::error::VerifyError;
use super::findings::{Findings, Stage, VerifyObserver};
use super::ignored::Ignored;
use super::listing::{Listing, Standing};
use super::manifest::read_manifest;
use super::plain::PlainWalk;
use super::problem::{Place, Problem};
use super::tree::BackupTree;
use super::wal::{WalRequest, check_wal};
use super::wal_place::WalPlace;
use crate::pg::ControlFile;

/// What to verify, and how.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// The backup's directory.
    pub directory: PathBuf,
    /// The manifest, where it is not in that directory.
    pub manifest: Option<PathBuf>,
    /// `None`: plain where there is a `PG_VERSION`, otherwise tar.
    pub format: Option<BackupFormat>,
    /// Paths in the backup that are passed over, with what lies below them; as [`canonical_path`] spells them.
    ///
    /// [`canonical_path`]: crate::pg::canonical_path
    pub ignored: Vec<Box<[u8]>>,
    /// Whether files are read.
    pub checksums: ChecksumCheck,
    /// Whether WAL is read.
    pub wal: WalCheck,
    /// The directory or archive that it is in; `None`: the backup.
    pub wal_path: Option<PathBuf>,
    /// Whether to look for more.
    pub after_problem: AfterProblem,
    /// On how many threads.
    pub thread_count: usize,
}

/// How a backup is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFormat {
    /// A data directory.
    Plain,
    /// Archives, perhaps compressed.
    Tar,
}

/// Whether files are compared with their checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumCheck {
    /// They are.
    Compare,
    /// Names and sizes have to do.
    Skip,
}

/// Whether the WAL that recovery needs is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalCheck {
    /// It is.
    Read,
    /// It is not.
    Skip,
}

/// What to do after something wrong was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterProblem {
    /// Look for more.
    GoOn,
    /// It is enough.
    Stop,
}

/// What was looked at.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// How the backup is stored.
    pub format: BackupFormat,
    /// What the manifest says besides its files.
    pub manifest: ManifestSummary,
    /// Files of the manifest that are there.
    pub file_count: u64,
    /// Bytes that were read for checksums; of archives, as they are stored.
    pub byte_count: u64,
    /// Bytes of WAL that were read.
    pub wal_byte_count: u64,
    /// How much is wrong.
    pub problem_count: u64,
}

/// Verifies a backup. What is wrong with it is told to the observer; an error is what kept it from being looked at.
pub fn verify(request: &VerifyRequest, observer: &dyn VerifyObserver) -> Result<VerifyReport, VerifyError> {
    let manifest_path = request.manifest.clone().unwrap_or_else(|| request.directory.join("backup_manifest"));
    let (listing, summary) = read_manifest(&manifest_path)?;
    let tree = BackupTree::open(&request.directory)
        .map_err(|source| VerifyError::Directory { path: request.directory.clone(), source })?;
    let format = match request.format {
        Some(format) => format,
        None => detect_format(request)?,
    };
    let findings = Findings::new(observer, request.after_problem);
    let mut verifier =
        Verifier { request, listing: &listing, summary: &summary, findings: &findings, control: None };
    let mut wal_byte_count = 0;
    let wal_place = match format {
        BackupFormat::Plain => verifier.plain(tree)?,
        BackupFormat::Tar => verifier.tar(&tree)?,
    };
    if !findings.has_stopped() {
        wal_byte_count = verifier.wal(wal_place)?;
    }
    let file_count = listing.files().filter(|file| file.standing() != Standing::Unmet).count() as u64;
    Ok(VerifyReport {
        format,
        file_count,
        byte_count: findings.done_len(),
        wal_byte_count,
        problem_count: findings.problem_count(),
        manifest: summary,
    })
}

fn detect_format(request: &VerifyRequest) -> Result<BackupFormat, VerifyError> {
    let path = request.directory.join("PG_VERSION");
    match std::fs::metadata(&path) {
        Ok(_) => Ok(BackupFormat::Plain),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BackupFormat::Tar),
        Err(source) => Err(VerifyError::File { operation: "stat", path, source }),
    }
}

struct Verifier<'a> {
    request: &'a VerifyRequest,
    listing: &'a Listing,
    summary: &'a ManifestSummary,
    findings: &'a Findings<'a>,
    control: Option<ControlFile>,
}

impl Verifier<'_> {
    /// Says where the WAL is.
    fn plain(&mut self, mut tree: BackupTree) -> Result<Option<WalPlace>, VerifyError> {
        let mut ignored = Ignored::new(&self.request.ignored);
        let mut walk = PlainWalk {
            tree: &mut tree,
            listing: self.listing,
            ignored: &mut ignored,
            findings: self.findings,
            directory: self.request.directory.as_os_str().as_bytes(),
            system_identifier: self.summary.system_identifier,
            control: None,
            tasks: Vec::new(),
        };
        walk.run();
        let tasks = std::mem::take(&mut walk.tasks);
        self.control = walk.control;
        self.missing(&ignored);
        if self.request.checksums == ChecksumCheck::Compare && !self.findings.has_stopped() {
            self.findings.report(Stage::Begin);
            checksums::check(self.listing, self.findings, &tree, tasks, self.request.thread_count)?;
            self.findings.report(Stage::End);
        }
        Ok(Some(WalPlace::of_plain_backup(&self.request.directory)))
    }

    /// Says where the WAL is.
    fn tar(&mut self, tree: &BackupTree) -> Result<Option<WalPlace>, VerifyError> {
        let ignored = Ignored::new(&self.request.ignored);
        self.findings.report(Stage::Begin);
        let mut scan = ArchiveScan {
            tree,
            directory: &self.request.directory,
            listing: self.listing,
            ignored: &ignored,
            findings: self.findings,
            system_identifier: self.summary.system_identifier,
            checksums: self.request.checksums,
            thread_count: self.request.thread_count,
        };
        let scanned = scan.run()?;
        self.findings.report(Stage::End);
        self.control = scanned.control;
        self.missing(&ignored);
        Ok(scanned.wal_place)
    }

    /// What is listed and was not found.
    fn missing(&self, ignored: &Ignored) {
        for file in self.listing.files() {
            if self.findings.has_stopped() {
                return;
            }
            if file.standing() == Standing::Unmet && !ignored.covers(file.path) {
                self.findings.tell(Problem::Missing { path: file.path.into() });
            }
        }
    }

    fn wal(&self, of_backup: Option<WalPlace>) -> Result<u64, VerifyError> {
        // as the original does, before it looks whether WAL is to be read at all
        let place = match (&self.request.wal_path, of_backup) {
            (Some(path), _) => WalPlace::named(path),
            (_, Some(place)) => place,
            (_, None) => {
                self.findings.tell(Problem::NoWalArchive);
                return Ok(0);
            }
        };
        if self.request.wal == WalCheck::Skip {
            return Ok(0);
        }
        let ranges: &[WalRange] = &self.summary.wal_ranges;
        let identifier = self.summary.system_identifier;
        let identifier = identifier.or(self.control.map(|control| control.system_identifier));
        let thread_count = self.request.thread_count;
        check_wal(&WalRequest { place, ranges, system_identifier: identifier, thread_count }, self.findings)
    }
}

impl ContentSource for BackupTree {
    fn open(&self, _: Task, path: &[u8]) -> io::Result<Content> {
        Ok(Content { file: Arc::new(self.open_file(path)?), offset: 0 })
    }

    fn place(&self, _: Task) -> Place {
        Place::Disk
    }
}
