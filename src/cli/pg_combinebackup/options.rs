//! The command line of `pg_combinebackup`: every option, in the order that the original looks at it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::backup::SyncMethod;
use crate::backup::combine::{CombineRequest, CopyMethod, ManifestRequest, RunMode, TablespaceMapping};
use crate::cli::pg_tool::getopt::{LongOption, ShortOption, Value};
use crate::cli::pg_tool::mapping::{MappingError, split_mapping};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::pg::{ChecksumAlgorithm, canonical_path};

/// What was asked for.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) request: CombineRequest,
    pub(super) detail: Detail,
}

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Detail {
    /// What should be known.
    #[default]
    Warnings,
    /// Each step (`--debug`).
    Steps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Debug,
    DryRun,
    NoSync,
    Output,
    TablespaceMapping,
    Link,
    ManifestChecksums,
    NoManifest,
    SyncMethod,
    Clone,
    Copy,
    CopyFileRange,
}

const fn short(letter: u8, value: Value, key: Key) -> ShortOption<Key> {
    ShortOption { letter, value, key }
}

const fn long(name: &'static str, value: Value, key: Key) -> LongOption<Key> {
    LongOption { name, value, key }
}

const SHORT: [ShortOption<Key>; 6] = [
    short(b'd', Value::None, Key::Debug),
    short(b'k', Value::None, Key::Link),
    short(b'n', Value::None, Key::DryRun),
    short(b'N', Value::None, Key::NoSync),
    short(b'o', Value::Required, Key::Output),
    short(b'T', Value::Required, Key::TablespaceMapping),
];

/// In the original's order, which shows where a prefix is ambiguous. Help and version are not among them.
const LONG: [LongOption<Key>; 12] = [
    long("debug", Value::None, Key::Debug),
    long("dry-run", Value::None, Key::DryRun),
    long("no-sync", Value::None, Key::NoSync),
    long("output", Value::Required, Key::Output),
    long("tablespace-mapping", Value::Required, Key::TablespaceMapping),
    long("link", Value::None, Key::Link),
    long("manifest-checksums", Value::Required, Key::ManifestChecksums),
    long("no-manifest", Value::None, Key::NoManifest),
    long("sync-method", Value::Required, Key::SyncMethod),
    long("clone", Value::None, Key::Clone),
    long("copy", Value::None, Key::Copy),
    long("copy-file-range", Value::None, Key::CopyFileRange),
];

/// As they were given.
#[derive(Debug, Default)]
struct Given {
    output: Option<OsString>,
    tablespace_mappings: Vec<TablespaceMapping>,
    checksums: ChecksumAlgorithm,
    sync_method: SyncMethod,
    copy_method: CopyMethod,
    detail: Detail,
    mode: RunMode,
    no_sync: bool,
    no_manifest: bool,
}

impl Options {
    /// Reads the command line; what is wrong with it is said.
    pub(super) fn parse(tool: &Invocation, umask: u32) -> Result<Self, Failed> {
        let mut given = Given::default();
        let operands = tool.options(&SHORT, &LONG, |key, value| given.take(tool, key, value))?;
        let inputs: Vec<PathBuf> = operands.iter().map(PathBuf::from).collect();
        if inputs.is_empty() {
            return Err(tool.usage_error("no input directories specified"));
        }
        let output = given.output.ok_or_else(|| tool.error("no output directory specified"))?;
        let manifest = match given.no_manifest {
            true => ManifestRequest::Omit,
            false => ManifestRequest::Write(given.checksums),
        };
        let request = CombineRequest {
            inputs,
            output: output.into(),
            tablespace_mappings: given.tablespace_mappings,
            copy_method: given.copy_method,
            manifest,
            sync: if given.no_sync { SyncMethod::None } else { given.sync_method },
            mode: given.mode,
            umask,
        };
        Ok(Options { request, detail: given.detail })
    }
}

impl Given {
    fn take(&mut self, tool: &Invocation, key: Key, value: OsString) -> Result<(), Failed> {
        match key {
            Key::Debug => self.detail = Detail::Steps,
            Key::DryRun => self.mode = RunMode::DryRun,
            Key::NoSync => self.no_sync = true,
            Key::Output => self.output = Some(value),
            Key::TablespaceMapping => {
                let mapping = parse_mapping(&value).map_err(|error| tool.error(error))?;
                self.tablespace_mappings.push(mapping);
            }
            Key::Link => self.copy_method = CopyMethod::Link,
            Key::Clone => self.copy_method = CopyMethod::Clone,
            Key::Copy => self.copy_method = CopyMethod::Copy,
            Key::CopyFileRange => self.copy_method = CopyMethod::CopyFileRange,
            Key::NoManifest => self.no_manifest = true,
            Key::ManifestChecksums => {
                let text = value.to_string_lossy();
                let algorithm = text.parse();
                self.checksums = algorithm
                    .map_err(|_| tool.error(format!("unrecognized checksum algorithm: \"{text}\"")))?;
            }
            Key::SyncMethod => {
                self.sync_method = match value.to_str() {
                    Some("fsync") => SyncMethod::Fsync,
                    Some("syncfs") => SyncMethod::Syncfs,
                    _ => {
                        return Err(
                            tool.error(format!("unrecognized sync method: {}", value.to_string_lossy()))
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

/// Both sides have to be absolute here.
fn parse_mapping(value: &OsStr) -> Result<TablespaceMapping, MappingError> {
    let (old, new) = split_mapping(value)?;
    if !old.is_absolute() {
        return Err(MappingError::OldNotAbsolute(old));
    }
    if !new.is_absolute() {
        return Err(MappingError::NewNotAbsolute(new));
    }
    Ok(TablespaceMapping { old: canonical_path(old), new: canonical_path(new) })
}
