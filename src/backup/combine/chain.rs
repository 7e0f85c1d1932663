//! Whether the backups are a chain: of one cluster, each built upon the one before it.
//!
//! Answers to `read_pg_version_file`, `check_control_files`, `check_backup_label_files` and `load_backup_manifests` in
//! PostgreSQL's `pg_combinebackup`, in their order, which decides what is complained of first. Stricter: all control
//! files have the same version, and the sizes of blocks and segments that this program was written for.

use std::path::Path;

use super::error::CombineError;
use super::incremental_file::{BLOCK_LEN, SEGMENT_BLOCK_COUNT};
use super::input::Backup;
use super::label::{ChainLabel, ChainPoint, MAX_LABEL_LEN};
use super::manifest_index::ManifestIndex;
use super::report::{CombineWarning, Reporter, StepKind};

use crate::backup::manifest::LsnStyle;
use crate::backup::path::MemberPath;
use crate::pg::control_file::{CONTROL_FILE_LEN, ControlFileError};
use crate::pg::{ControlFile, ServerVersion, SystemIdentifier};

/// Backups that can be combined.
#[derive(Debug)]
pub(super) struct Chain {
    /// From the full one to the newest; never empty.
    pub(super) backups: Vec<Backup>,
    /// Their manifests, where they have them.
    pub(super) manifests: Vec<Option<ManifestIndex>>,
    pub(super) system_identifier: SystemIdentifier,
    /// The newest backup's `backup_label`.
    pub(super) label: Vec<u8>,
    pub(super) lsn_style: LsnStyle,
}

/// The longest `PG_VERSION`.
const MAX_VERSION_LEN: u64 = 128;

/// `sizeof(ControlFileData)` of 19, for the message.
const CONTROL_FIELDS_LEN: u64 = 312;

/// Whether this `PG_CONTROL_VERSION` is that of a server that has incremental backups, and is known.
const fn is_known(control_version: u32) -> bool {
    matches!(control_version, 1700 | 1800 | 1905..=1999)
}

impl Chain {
    /// Looks at what the backups say of themselves.
    pub(super) fn check(
        paths: &[impl AsRef<Path>],
        reporter: &mut Reporter<'_>,
    ) -> Result<Self, CombineError> {
        let mut backups: Vec<Backup> = paths.iter().map(|path| Backup::new(path.as_ref())).collect();
        let version = read_version(&mut backups, reporter)?;
        let lsn_style = if version.pads_lsns() { LsnStyle::Padded } else { LsnStyle::Plain };
        let system_identifier = check_control_files(&mut backups, reporter)?;
        let label = check_labels(&mut backups, lsn_style, reporter)?;
        let mut manifests = Vec::with_capacity(backups.len());
        for backup in &mut backups {
            manifests.push(load_manifest(backup, reporter)?);
        }
        check_manifests(&backups, &manifests, system_identifier)?;
        Ok(Chain { backups, manifests, system_identifier, label, lsn_style })
    }

    /// The newest backup.
    pub(super) fn last(&mut self) -> &mut Backup {
        self.backups.last_mut().expect("a chain has at least one backup")
    }

    /// The newest backup's manifest.
    pub(super) fn last_manifest(&self) -> Option<&ManifestIndex> {
        self.manifests.last().and_then(Option::as_ref)
    }
}

fn read_version(backups: &mut [Backup], reporter: &mut Reporter<'_>) -> Result<ServerVersion, CombineError> {
    let last = backups.last_mut().expect("a chain has at least one backup");
    let member = MemberPath::literal("PG_VERSION");
    let content = last.read_file(&member, MAX_VERSION_LEN).map_err(|error| match error {
        CombineError::File(error) if error.operation == "open file" => {
            CombineError::OpenVersionFile { path: error.path, source: error.source }
        }
        other => other,
    })?;
    let text = String::from_utf8_lossy(&content);
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let major = text[..end].parse::<u16>().ok();
    match (major, text[end..].chars().next()) {
        (Some(major), Some('\n')) if major >= 10 => {
            reporter.step(|| StepKind::Version { major: major.into(), directory: last.path.clone() });
            Ok(ServerVersion::new(major, 0))
        }
        (Some(major), Some('.' | '\n')) if major < 10 => Err(CombineError::OldServer),
        _ => Err(CombineError::ParseVersionFile(last.path_of(&member))),
    }
}

fn check_control_files(
    backups: &mut [Backup],
    reporter: &mut Reporter<'_>,
) -> Result<SystemIdentifier, CombineError> {
    let mut newest: Option<ControlFile> = None;
    let mut checksums_differ = false;
    for backup in backups.iter_mut().rev() {
        let control = read_control_file(backup, reporter)?;
        let path = || backup.path_of(&MemberPath::literal("global/pg_control"));
        let expected = newest.get_or_insert(control);
        if !is_known(control.control_version) || control.control_version != expected.control_version {
            return Err(CombineError::ControlFileVersion(path()));
        }
        if control.system_identifier != expected.system_identifier {
            let (expected, found) = (expected.system_identifier, control.system_identifier);
            return Err(CombineError::SystemIdentifier { path: path(), expected, found });
        }
        if let (Some(layout), Some(expected)) = (control.layout, expected.layout) {
            let (block_len, segment_block_count) = (layout.block_len, layout.segment_block_count);
            if (block_len, segment_block_count) != (BLOCK_LEN, SEGMENT_BLOCK_COUNT) {
                return Err(CombineError::Layout { path: path(), block_len, segment_block_count });
            }
            let wanted = expected.data_checksum_version;
            checksums_differ |= wanted != 0 && wanted != layout.data_checksum_version;
        }
    }
    let newest = newest.expect("a chain has at least one backup");
    reporter.step(|| StepKind::SystemIdentifier(newest.system_identifier));
    if checksums_differ {
        reporter.warn(CombineWarning::ChecksumsDiffer);
    }
    Ok(newest.system_identifier)
}

fn read_control_file(backup: &mut Backup, reporter: &mut Reporter<'_>) -> Result<ControlFile, CombineError> {
    let member = MemberPath::literal("global/pg_control");
    let path = backup.path_of(&member);
    reporter.step(|| StepKind::Read(path.clone()));
    // what a larger file has behind its fields is nobody's concern
    let content = backup.read_file(&member, 2 * CONTROL_FILE_LEN as u64).map_err(|error| match error {
        CombineError::File(error) if error.operation == "open file" => {
            CombineError::OpenControlFile { path: error.path, source: error.source }
        }
        other => other,
    })?;
    ControlFile::parse(&content).map_err(|error| match error {
        ControlFileError::TooShort(len) => {
            let read = (len as u64).min(CONTROL_FIELDS_LEN - 1);
            CombineError::ShortFile { path, read, wanted: CONTROL_FIELDS_LEN }
        }
        ControlFileError::ByteOrder | ControlFileError::Checksum => CombineError::ControlFileCrc(path),
    })
}

/// Returns the newest backup's label.
fn check_labels(
    backups: &mut [Backup],
    style: LsnStyle,
    reporter: &mut Reporter<'_>,
) -> Result<Vec<u8>, CombineError> {
    let member = MemberPath::literal("backup_label");
    let mut newest = None;
    // where the backup that is looked at has to start, according to the one after it
    let mut expected: Option<ChainPoint> = None;
    for (index, backup) in backups.iter_mut().enumerate().rev() {
        let path = backup.path_of(&member);
        reporter.step(|| StepKind::Read(path.clone()));
        let content = backup.read_file(&member, MAX_LABEL_LEN)?;
        let label = ChainLabel::parse(&content).map_err(|problem| CombineError::Label { path, problem })?;
        let path = || backup.path.clone();
        match (index, label.incremental_from) {
            (1.., None) => return Err(CombineError::UnexpectedFull(path())),
            (0, Some(_)) => return Err(CombineError::UnexpectedIncremental(path())),
            _ => {}
        }
        if let Some(expected) = expected {
            let (found, expected_timeline) = (label.start.timeline, expected.timeline);
            if found != expected_timeline {
                return Err(CombineError::StartTimeline { path: path(), found, expected: expected_timeline });
            }
            if label.start.lsn != expected.lsn {
                let [found, expected] = [label.start.lsn, expected.lsn].map(|lsn| style.show(lsn).into());
                return Err(CombineError::StartLsn { path: path(), found, expected });
            }
        }
        expected = label.incremental_from;
        newest.get_or_insert(content);
    }
    Ok(newest.unwrap_or_default())
}

fn load_manifest(
    backup: &mut Backup,
    reporter: &mut Reporter<'_>,
) -> Result<Option<ManifestIndex>, CombineError> {
    let member = MemberPath::literal("backup_manifest");
    let path = backup.path_of(&member);
    match backup.open_file(&member) {
        Ok(file) => ManifestIndex::read(file, &path).map(Some),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            reporter.warn(CombineWarning::NoManifest(path));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_manifests(
    backups: &[Backup],
    manifests: &[Option<ManifestIndex>],
    control_file: SystemIdentifier,
) -> Result<(), CombineError> {
    for (backup, manifest) in backups.iter().zip(manifests) {
        let identifier = manifest.as_ref().and_then(|manifest| manifest.system_identifier);
        if let Some(manifest) = identifier.filter(|found| *found != control_file) {
            let path = backup.path_of(&MemberPath::literal("global/pg_control"));
            return Err(CombineError::ManifestSystemIdentifier { path, manifest, control_file });
        }
    }
    Ok(())
}
