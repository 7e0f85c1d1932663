//! What is walked through in one go: the data directory, or one tablespace; in each backup, and in the result.

use std::path::PathBuf;

use super::error::CombineError;
use super::input::{Backup, below};
use super::tablespaces::Tablespace;
use crate::backup::confined::ConfinedDirectory;
use crate::backup::path::MemberPath;

/// The data directory, or a tablespace.
#[derive(Debug)]
pub(super) struct Unit {
    /// What a manifest has in front of its files: nothing, or `pg_tblspc/<oid>/`.
    pub(super) manifest_prefix: String,
    /// From the full backup to the newest; `None` where one does not have the tablespace.
    pub(super) inputs: Vec<Option<ConfinedDirectory>>,
    /// `None` in a dry run.
    pub(super) output: Option<ConfinedDirectory>,
    /// Each input, for messages.
    shown_inputs: Vec<PathBuf>,
    pub(super) shown_output: PathBuf,
}

impl Unit {
    /// The data directory.
    pub(super) fn data_directory(
        backups: &mut [Backup],
        output: Option<ConfinedDirectory>,
        shown_output: PathBuf,
    ) -> Result<Self, CombineError> {
        let mut inputs = Vec::with_capacity(backups.len());
        for backup in &mut *backups {
            inputs.push(Some(backup.directory()?.handle()));
        }
        let shown_inputs = backups.iter().map(|backup| backup.path.clone()).collect();
        Ok(Unit { manifest_prefix: String::new(), inputs, output, shown_inputs, shown_output })
    }

    /// A tablespace.
    pub(super) fn tablespace(
        backups: &mut [Backup],
        tablespace: &Tablespace,
        output: Option<ConfinedDirectory>,
    ) -> Result<Self, CombineError> {
        let manifest_prefix = format!("pg_tblspc/{}/", tablespace.oid);
        let mut inputs = Vec::with_capacity(backups.len());
        for backup in &mut *backups {
            inputs.push(backup.open_tablespace(tablespace.oid)?);
        }
        let shown = |backup: &Backup| below(&backup.path, manifest_prefix.trim_end_matches('/').as_bytes());
        let mut shown_inputs: Vec<PathBuf> = backups.iter().map(shown).collect();
        if let Some(last) = shown_inputs.last_mut() {
            *last = tablespace.old.clone();
        }
        Ok(Unit { manifest_prefix, inputs, output, shown_inputs, shown_output: tablespace.new.clone() })
    }

    pub(super) fn is_data_directory(&self) -> bool {
        self.manifest_prefix.is_empty()
    }

    /// The place of the newest backup.
    pub(super) fn newest(&self) -> usize {
        self.inputs.len() - 1
    }

    /// Where something in one of the backups is, for messages.
    pub(super) fn shown_input(&self, backup: usize, member: &MemberPath) -> PathBuf {
        below(&self.shown_inputs[backup], member.as_bytes())
    }

    /// The newest backup's directory, for messages.
    pub(super) fn shown_newest(&self) -> &PathBuf {
        &self.shown_inputs[self.newest()]
    }

    /// Where something in the result is, for messages.
    pub(super) fn shown_output(&self, member: &MemberPath) -> PathBuf {
        below(&self.shown_output, member.as_bytes())
    }

    /// A path as manifests have it.
    pub(super) fn manifest_path(&self, member: &MemberPath) -> Vec<u8> {
        [self.manifest_prefix.as_bytes(), member.as_bytes()].concat()
    }

    /// The same directories, for another thread.
    pub(super) fn handle(&self) -> Unit {
        Unit {
            manifest_prefix: self.manifest_prefix.clone(),
            inputs: self.inputs.iter().map(|input| input.as_ref().map(ConfinedDirectory::handle)).collect(),
            output: self.output.as_ref().map(ConfinedDirectory::handle),
            shown_inputs: self.shown_inputs.clone(),
            shown_output: self.shown_output.clone(),
        }
    }

    /// Opens a file of one of the backups; `None` when it is not there.
    pub(super) fn open_input(
        &mut self,
        backup: usize,
        member: &MemberPath,
    ) -> Result<Option<std::fs::File>, crate::backup::confined::FileError> {
        let Some(directory) = &mut self.inputs[backup] else { return Ok(None) };
        match directory.open_file(member) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let path = self.shown_input(backup, member);
                Err(crate::backup::confined::FileError::new("open file", path, error.source))
            }
        }
    }
}
