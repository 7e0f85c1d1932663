//! What is told while backups are combined: warnings, and each step for those who want to see it.
//!
//! The words are `pg_combinebackup`'s (`-d` shows the steps). Printing is the observer's affair.

use std::fmt;
use std::path::PathBuf;

use crate::pg::{ChecksumAlgorithm, SystemIdentifier};

use super::request::{CopyMethod, RunMode};

/// Who is told.
pub trait CombineObserver {
    /// Something that does not stop the combination, and should be known.
    fn warn(&mut self, warning: &CombineWarning);

    /// A step, if [`wants_steps`](CombineObserver::wants_steps).
    fn step(&mut self, step: &Step);

    /// Whether steps are to be told.
    fn wants_steps(&self) -> bool;
}

/// Something that does not stop the combination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineWarning {
    /// Blocks of backups without checksums in a cluster that has them: a server will find them wrong.
    #[error("only some backups have checksums enabled")]
    ChecksumsDiffer,
    /// A backup without a manifest.
    #[error("file \"{}\" does not exist", .0.display())]
    NoManifest(PathBuf),
    /// A symbolic link where no backup has one.
    #[error("skipping symbolic link \"{}\"", .0.display())]
    SymbolicLink(PathBuf),
    /// Something that is neither file nor directory nor link.
    #[error("skipping special file \"{}\"", .0.display())]
    SpecialFile(PathBuf),
    /// A file that was not there when the backup was taken.
    #[error("manifest file \"{}\" contains no entry for file \"{}\"", .manifest.display(), String::from_utf8_lossy(.path))]
    NotInManifest {
        /// The manifest.
        manifest: PathBuf,
        /// The file, as it would be listed.
        path: Box<[u8]>,
    },
    /// Result and backups share their files.
    #[error(
        "--link mode was used; any modifications to the output directory might destructively modify input directories"
    )]
    Linked,
}

/// A step, done or only looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub kind: StepKind,
    /// Whether it is.
    pub mode: RunMode,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StepKind {
    /// Not block by block, which goes without saying.
    CopyMethod(CopyMethod),
    Version {
        major: u32,
        directory: PathBuf,
    },
    Read(PathBuf),
    SystemIdentifier(SystemIdentifier),
    Scan(PathBuf),
    NoTablespaceOid(PathBuf),
    NoTablespaceLink(PathBuf),
    CreateDirectory(PathBuf),
    UseDirectory(PathBuf),
    GenerateLabel(PathBuf),
    ProcessBackup(PathBuf),
    ProcessTablespace(PathBuf),
    CreateSymlink {
        link: PathBuf,
        target: PathBuf,
    },
    Copy {
        from: PathBuf,
        to: PathBuf,
        method: CopyMethod,
        checksum: ChecksumAlgorithm,
    },
    Reconstruct {
        path: PathBuf,
        block_length: u32,
        checksum: ChecksumAlgorithm,
    },
    Plan(String),
    ZeroFilled(u32),
    BlocksRead {
        count: u32,
        path: PathBuf,
    },
    Sync(PathBuf),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // in the order: done, would be done
        let word = |done: &'static str, dry: &'static str| match self.mode {
            RunMode::Real => done,
            RunMode::DryRun => dry,
        };
        match &self.kind {
            StepKind::CopyMethod(CopyMethod::Clone) => {
                write!(f, "{} use cloning to copy files", word("will", "would"))
            }
            StepKind::CopyMethod(method) => {
                let what = if *method == CopyMethod::CopyFileRange { "blocks" } else { "files" };
                write!(f, "{} use {} to copy {what}", word("will", "would"), method.name())
            }
            StepKind::Version { major, directory } => {
                write!(f, "read server version {major} from file \"{}/PG_VERSION\"", directory.display())
            }
            StepKind::Read(path) => write!(f, "reading \"{}\"", path.display()),
            StepKind::SystemIdentifier(identifier) => write!(f, "system identifier is {identifier}"),
            StepKind::Scan(path) => write!(f, "scanning \"{}\"", path.display()),
            StepKind::NoTablespaceOid(path) => {
                let path = path.display();
                write!(f, "skipping \"{path}\" because the filename is not a legal tablespace OID")
            }
            StepKind::NoTablespaceLink(path) => {
                let path = path.display();
                write!(f, "skipping \"{path}\" because it is neither a symbolic link nor a directory")
            }
            StepKind::CreateDirectory(path) => {
                write!(f, "{} directory \"{}\"", word("creating", "would create"), path.display())
            }
            StepKind::UseDirectory(path) => write!(f, "using existing directory \"{}\"", path.display()),
            StepKind::GenerateLabel(output) => {
                write!(f, "{} \"{}/backup_label\"", word("generating", "would generate"), output.display())
            }
            StepKind::ProcessBackup(path) => write!(f, "processing backup directory \"{}\"", path.display()),
            StepKind::ProcessTablespace(path) => {
                write!(f, "processing tablespace directory \"{}\"", path.display())
            }
            StepKind::CreateSymlink { link, target } => {
                let (link, target) = (link.display(), target.display());
                write!(
                    f,
                    "{} symbolic link from \"{link}\" to \"{target}\"",
                    word("creating", "would create")
                )
            }
            StepKind::Copy { from, to, method, checksum } => {
                let (from, to) = (from.display(), to.display());
                write!(f, "{} \"{from}\" to \"{to}\"", word("copying", "would copy"))?;
                match (method, checksum, self.mode) {
                    (CopyMethod::Copy, ChecksumAlgorithm::None, _)
                    | (CopyMethod::Copy, _, RunMode::DryRun) => Ok(()),
                    (CopyMethod::Copy, checksum, RunMode::Real) => {
                        write!(f, " and checksumming with {checksum}")
                    }
                    (method, ..) => write!(f, " using strategy {}", method.name()),
                }
            }
            StepKind::Reconstruct { path, block_length, checksum } => {
                let done = word("reconstructing", "would reconstruct");
                write!(f, "{done} \"{}\" ({block_length} blocks, checksum {checksum})", path.display())
            }
            StepKind::Plan(plan) => write!(f, "reconstruction plan:{plan}"),
            StepKind::ZeroFilled(count) => {
                write!(f, "{} {count} blocks", word("zero-filled", "would have zero-filled"))
            }
            StepKind::BlocksRead { count, path } => {
                write!(f, "{} {count} blocks from \"{}\"", word("read", "would have read"), path.display())
            }
            StepKind::Sync(path) => {
                let done = word("recursively fsyncing", "would recursively fsync");
                write!(f, "{done} \"{}\"", path.display())
            }
        }
    }
}

/// One or the other, waiting to be told in its turn.
#[derive(Debug)]
pub(super) enum Notice {
    Warning(CombineWarning),
    Step(StepKind),
}

/// Tells the observer, step by step.
pub(super) struct Reporter<'a> {
    observer: &'a mut dyn CombineObserver,
    mode: RunMode,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(observer: &'a mut dyn CombineObserver, mode: RunMode) -> Self {
        Reporter { observer, mode }
    }

    pub(super) fn wants_steps(&self) -> bool {
        self.observer.wants_steps()
    }

    pub(super) fn warn(&mut self, warning: CombineWarning) {
        self.tell(Notice::Warning(warning));
    }

    /// `kind` is made only if somebody wants to see it.
    pub(super) fn step(&mut self, kind: impl FnOnce() -> StepKind) {
        if self.wants_steps() {
            self.tell(Notice::Step(kind()));
        }
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Warning(warning) => self.observer.warn(&warning),
            Notice::Step(kind) => self.observer.step(&Step { kind, mode: self.mode }),
        }
    }
}
