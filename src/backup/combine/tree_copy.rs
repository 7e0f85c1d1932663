//! The tree on its way from the backups to the result: what is met on the walk, and what becomes of it.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;

use rustix::fs::FileType;

use super::crew::Crew;
use super::error::CombineError;
use super::input::below;
use super::label::without_incremental_lines;
use super::reconstruct::INCREMENTAL_PREFIX;
use super::report::{CombineWarning, Notice, StepKind};
use super::tablespaces::{Place, Tablespace};
use super::target::{CONTROL_FILE, CONTROL_FILE_TEMPORARY, Target};
use super::unit::Unit;
use super::walk::{Found, Walk};
use super::worker::{Job, JobKind, Shared, made_file};
use crate::backup::confined::{ConfinedDirectory, FileError};
use crate::backup::path::{MemberPath, parse_oid};
use crate::backup::{MANIFEST_NAME, OTHER_TEMPORARY_NAME};
use crate::pg::ChecksumAlgorithm;

const BACKUP_LABEL: &str = "backup_label";

/// What only a run that was interrupted leaves.
const NO_PART_OF_A_BACKUP: [&[u8]; 2] = [OTHER_TEMPORARY_NAME.as_bytes(), CONTROL_FILE_TEMPORARY.as_bytes()];

/// A run's way through the directories of the newest backup.
pub(super) struct TreeCopy<'a, 'o> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) crew: Crew<'a, 'o>,
    pub(super) directory_mode: u32,
    /// Device and inode of everything that is written into.
    pub(super) forbidden: HashSet<(u64, u64)>,
    /// To be made durable in the end.
    pub(super) made_directories: Vec<(Arc<Unit>, MemberPath)>,
}

impl TreeCopy<'_, '_> {
    /// The newest backup's label, as that of a full one. It is the manifest's first file.
    pub(super) fn label(&mut self, unit: &Arc<Unit>, label: &[u8]) -> Result<(), CombineError> {
        self.crew.notice(Notice::Step(StepKind::GenerateLabel(unit.shown_output.clone())))?;
        let Some(output) = &unit.output else { return Ok(()) };
        let member = MemberPath::literal(BACKUP_LABEL);
        let path = unit.shown_output(&member);
        let file = output.handle().create_file(&member, self.shared.file_mode);
        let mut file = file.map_err(|error| FileError::new("open file", &path, error.source))?;
        let content = without_incremental_lines(label);
        file.write_all(&content).map_err(|source| FileError::new("write file", &path, source))?;
        let metadata = file.metadata().map_err(|source| FileError::new("stat file", &path, source))?;
        let algorithm = self.shared.request.checksum();
        let mut checksum = algorithm.start();
        checksum.update(&content);
        let checksum = checksum.finish().as_bytes().to_vec();
        if let Some(syncer) = &self.shared.syncer {
            syncer.sync(file, path, metadata.len())?;
        }
        let made = made_file(BACKUP_LABEL.into(), &metadata, algorithm, checksum);
        self.crew.met((Vec::new(), Ok(Some(made))))
    }

    pub(super) fn data_directory(&mut self, unit: &Arc<Unit>) -> Result<(), CombineError> {
        self.crew.notice(Notice::Step(StepKind::ProcessBackup(unit.shown_newest().clone())))?;
        self.tree(unit)
    }

    pub(super) fn tablespace(
        &mut self,
        tablespace: &Tablespace,
        unit: &mut Arc<Unit>,
        target: &Target,
    ) -> Result<(), CombineError> {
        self.crew.notice(Notice::Step(StepKind::ProcessTablespace(tablespace.old.clone())))?;
        let member = super::input::tablespace_member(tablespace.oid);
        let link = below(&target.shown_output, member.as_bytes());
        let output = target.output.as_ref();
        match tablespace.place {
            Place::Elsewhere => {
                let target = tablespace.new.clone();
                self.crew.notice(Notice::Step(StepKind::CreateSymlink {
                    link: link.clone(),
                    target: target.clone(),
                }))?;
                if let Some(output) = output
                    && let Err(error) = output.handle().create_symlink(&member, &target)
                {
                    return self.crew.fail(CombineError::Symlink { link, target, source: error.source });
                }
            }
            Place::InPlace => {
                self.crew.notice(Notice::Step(StepKind::CreateDirectory(link.clone())))?;
                if let Some(output) = output {
                    let mut output = output.handle();
                    let made = output.create_directory(&member, self.directory_mode);
                    let opened = made.and_then(|()| output.open_beneath(&member));
                    let root = match opened {
                        Ok(root) => root,
                        Err(error) => {
                            return self.crew.fail(FileError::new("create directory", link, error.source));
                        }
                    };
                    Arc::get_mut(unit).expect("nobody works on it yet").output = Some(root);
                }
            }
        }
        self.tree(unit)
    }

    /// Everything in the newest backup's directory.
    fn tree(&mut self, unit: &Arc<Unit>) -> Result<(), CombineError> {
        let shown = unit.shown_newest();
        let Some(newest) = unit.inputs[unit.newest()].as_ref().map(ConfinedDirectory::handle) else {
            return self.crew.fail(FileError::new("open directory", shown, rustix::io::Errno::NOENT));
        };
        let mut walk = match Walk::new(newest, shown.clone(), self.forbidden.clone()) {
            Ok(walk) => walk,
            Err(error) => return self.crew.fail(error),
        };
        loop {
            self.shared.check()?;
            match walk.next() {
                Ok(Some(found)) => self.visit(unit, &mut walk, &found)?,
                Ok(None) => return Ok(()),
                Err(error) => return self.crew.fail(error),
            }
        }
    }

    fn visit(&mut self, unit: &Arc<Unit>, walk: &mut Walk, found: &Found) -> Result<(), CombineError> {
        let (directory, name) = found.path.split();
        let is_link = found.kind == FileType::Symlink;
        let is_directory = found.kind == FileType::Directory;
        let may_be_tablespace = unit.is_data_directory() && directory == b"pg_tblspc";
        if may_be_tablespace && (is_link || is_directory) && parse_oid(name).is_some() {
            return Ok(());
        }
        match found.kind {
            FileType::Directory => {
                self.directory(unit, &found.path)?;
                walk.enter(&found.path).or_else(|error| self.crew.fail(error))
            }
            FileType::Symlink => {
                let path = unit.shown_input(unit.newest(), &found.path);
                self.crew.notice(Notice::Warning(CombineWarning::SymbolicLink(path)))
            }
            FileType::RegularFile => self.file(unit, &found.path, directory, name),
            _ => {
                let path = unit.shown_input(unit.newest(), &found.path);
                self.crew.notice(Notice::Warning(CombineWarning::SpecialFile(path)))
            }
        }
    }

    fn directory(&mut self, unit: &Arc<Unit>, path: &MemberPath) -> Result<(), CombineError> {
        let shown = unit.shown_output(path);
        self.crew.notice(Notice::Step(StepKind::CreateDirectory(shown.clone())))?;
        let Some(output) = &unit.output else { return Ok(()) };
        let made = output.handle().create_directory(path, self.directory_mode);
        if let Err(error) = made {
            return self.crew.fail(FileError::new("create directory", shown, error.source));
        }
        self.made_directories.push((Arc::clone(unit), path.clone()));
        Ok(())
    }

    fn file(
        &mut self,
        unit: &Arc<Unit>,
        path: &MemberPath,
        directory: &[u8],
        name: &[u8],
    ) -> Result<(), CombineError> {
        if directory.is_empty() && (name == BACKUP_LABEL.as_bytes() || name == MANIFEST_NAME.as_bytes()) {
            return Ok(());
        }
        let is_data = unit.is_data_directory();
        if is_data && NO_PART_OF_A_BACKUP.contains(&path.as_bytes()) {
            return Ok(());
        }
        let is_wal = is_data && (directory == b"pg_wal" || directory.starts_with(b"pg_wal/"));
        let may_be_incremental = !is_data
            || directory == b"global"
            || directory.starts_with(b"base/")
            || directory.starts_with(b"pg_tblspc/");
        let checksum = if is_wal { ChecksumAlgorithm::None } else { self.shared.request.checksum() };
        let (kind, output) = match name.strip_prefix(INCREMENTAL_PREFIX) {
            Some(bare) if may_be_incremental => {
                let output = [directory, if directory.is_empty() { b"" } else { b"/" }, bare].concat();
                let output = MemberPath::parse(&output).ok().filter(|_| !bare.is_empty());
                let Some(output) = output else {
                    return self.crew.fail(CombineError::Name(unit.shown_input(unit.newest(), path)));
                };
                (JobKind::Reconstruct, output)
            }
            _ => (JobKind::Copy, path.clone()),
        };
        let made_as = if is_data && output.as_bytes() == CONTROL_FILE.as_bytes() {
            MemberPath::literal(CONTROL_FILE_TEMPORARY)
        } else {
            output.clone()
        };
        let unit = Arc::clone(unit);
        self.crew.job(Job { unit, input: path.clone(), output, made_as, kind, checksum })
    }
}
