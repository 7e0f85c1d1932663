//! Where the result goes: directories that are made or found empty, the permissions of what comes into them, the last names.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::Chain;
use super::error::CombineError;
use super::outputs::OutputDirectories;
use super::report::Reporter;
use super::request::{CombineRequest, ManifestRequest};
use super::tablespaces::{self, Place, Tablespace};
use super::unit::Unit;
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::path::MemberPath;
use crate::backup::{
    DirectoryModes, MANIFEST_NAME, MANIFEST_TEMPORARY_NAME, OTHER_TEMPORARY_NAME, SyncMethod,
};

pub(super) const CONTROL_FILE: &str = "global/pg_control";
/// What it is called until the end. A server looks for nothing of this name, and where a backup has it, an interrupted run
/// has left it: it is no part of one.
pub(super) const CONTROL_FILE_TEMPORARY: &str = "global/pg_control.pgwake.tmp";

/// Where everything goes.
pub(super) struct Target {
    /// `None` in a dry run.
    pub(super) output: Option<ConfinedDirectory>,
    pub(super) shown_output: PathBuf,
    pub(super) tablespaces: Vec<Tablespace>,
    /// Of the tablespaces that lie elsewhere, with their OIDs; none in a dry run.
    roots: Vec<(u32, ConfinedDirectory)>,
    /// The permission bits of new directories and files.
    pub(super) directory_mode: u32,
    pub(super) file_mode: u32,
    /// What the manifest is called until the end.
    pub(super) manifest_name: &'static str,
}

impl Target {
    pub(super) fn prepare(
        request: &CombineRequest,
        chain: &mut Chain,
        outputs: &mut OutputDirectories,
        reporter: &mut Reporter<'_>,
    ) -> Result<Self, CombineError> {
        let modes = modes_of(&chain.last().path)?;
        let mappings = &request.tablespace_mappings;
        let tablespaces = tablespaces::scan(chain.last(), &request.output, mappings, reporter)?;
        let directory_mode = modes.default_directory_mode() & !request.umask;
        let output = outputs.prepare(&request.output, directory_mode, request.mode, reporter)?;
        let mut roots = Vec::new();
        for tablespace in tablespaces.iter().filter(|tablespace| tablespace.place == Place::Elsewhere) {
            let root = outputs.prepare(&tablespace.new, directory_mode, request.mode, reporter)?;
            roots.extend(root.map(|root| (tablespace.oid, root)));
        }
        let file_mode = modes.default_file_mode() & !request.umask;
        let shown_output = request.output.clone();
        // a file of that name is part of the backup: its server's directory is what an interrupted backup left
        let usual = MemberPath::literal(MANIFEST_TEMPORARY_NAME);
        let manifest_name = match chain.last().directory()?.file_type(&usual)? {
            Some(_) => OTHER_TEMPORARY_NAME,
            None => MANIFEST_TEMPORARY_NAME,
        };
        Ok(Target { output, shown_output, tablespaces, roots, directory_mode, file_mode, manifest_name })
    }

    /// The data directory first, then the tablespaces.
    pub(super) fn units(
        &self,
        request: &CombineRequest,
        chain: &mut Chain,
    ) -> Result<Vec<Arc<Unit>>, CombineError> {
        let output = self.output.as_ref().map(ConfinedDirectory::handle);
        let data = Unit::data_directory(&mut chain.backups, output, request.output.clone())?;
        let mut units = vec![Arc::new(data)];
        for tablespace in &self.tablespaces {
            let root = self.roots.iter().find(|(oid, _)| *oid == tablespace.oid);
            let root = root.map(|(_, root)| root.handle());
            units.push(Arc::new(Unit::tablespace(&mut chain.backups, tablespace, root)?));
        }
        Ok(units)
    }

    /// Device and inode of everything that is written into.
    pub(super) fn identities(&self) -> Result<HashSet<(u64, u64)>, CombineError> {
        let written = self.output.iter().chain(self.roots.iter().map(|(_, root)| root));
        written.map(|directory| directory.identity().map_err(CombineError::from)).collect()
    }

    /// The last names, and the end.
    pub(super) fn commit(&self, request: &CombineRequest) -> Result<(), CombineError> {
        let Some(mut output) = self.output.as_ref().map(ConfinedDirectory::handle) else { return Ok(()) };
        let sync = request.sync != SyncMethod::None;
        let global = MemberPath::literal("global");
        let [control, temporary] = [CONTROL_FILE, CONTROL_FILE_TEMPORARY].map(MemberPath::literal);
        output.rename(&temporary, &control)?;
        if sync {
            output.sync_beneath(&global)?;
        }
        if matches!(request.manifest, ManifestRequest::Write(_)) {
            let [manifest, temporary] = [MANIFEST_NAME, self.manifest_name].map(MemberPath::literal);
            output.rename(&temporary, &manifest)?;
        }
        if sync {
            output.sync()?;
        }
        Ok(())
    }
}

/// Who may read the newest backup may read the result.
fn modes_of(path: &Path) -> Result<DirectoryModes, CombineError> {
    let metadata = std::fs::metadata(path).map_err(|source| FileError::new("stat file", path, source))?;
    let group = DirectoryModes::GroupRead.default_directory_mode();
    Ok(if metadata.mode() & group == group { DirectoryModes::GroupRead } else { DirectoryModes::OwnerOnly })
}
