//! What is asked for.

use std::path::PathBuf;

use crate::backup::SyncMethod;
use crate::pg::ChecksumAlgorithm;

/// What is to be combined into what, and how.
#[derive(Debug, Clone)]
pub struct CombineRequest {
    /// The backups, from the full one to the newest. At least one.
    pub inputs: Vec<PathBuf>,
    /// Where the result goes: does not exist, or is empty.
    pub output: PathBuf,
    /// Where tablespaces go.
    pub tablespace_mappings: Vec<TablespaceMapping>,
    /// How whole files are copied.
    pub copy_method: CopyMethod,
    /// Whether there is to be a manifest.
    pub manifest: ManifestRequest,
    /// How the result becomes durable.
    pub sync: SyncMethod,
    /// Whether anything is to be done at all.
    pub mode: RunMode,
    /// The permission bits that new files and directories must not have.
    pub umask: u32,
}

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Where the newest backup's link leads; absolute and canonical.
    pub old: PathBuf,
    /// Where it is to be; absolute and canonical.
    pub new: PathBuf,
}

/// How whole files are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CopyMethod {
    /// Their bytes.
    #[default]
    Copy,
    /// By the file system, which shares the blocks until one of the two is changed.
    Clone,
    /// `copy_file_range`, for single blocks too.
    CopyFileRange,
    /// Not at all: the file gets a second name.
    Link,
}

/// Whether there is to be a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestRequest {
    /// With this checksum for each file.
    Write(ChecksumAlgorithm),
    /// Not.
    Omit,
}

/// Whether anything is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunMode {
    /// Yes.
    #[default]
    Real,
    /// It is only looked whether it could be.
    DryRun,
}

impl CopyMethod {
    pub(super) const fn name(self) -> &'static str {
        match self {
            CopyMethod::Copy => "copy",
            CopyMethod::Clone => "clone",
            CopyMethod::CopyFileRange => "copy_file_range",
            CopyMethod::Link => "link",
        }
    }
}

impl CombineRequest {
    /// The checksum that is wanted of each file.
    pub(super) const fn checksum(&self) -> ChecksumAlgorithm {
        match self.manifest {
            ManifestRequest::Write(algorithm) => algorithm,
            ManifestRequest::Omit => ChecksumAlgorithm::None,
        }
    }
}
