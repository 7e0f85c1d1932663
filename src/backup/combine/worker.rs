//! One file of the result: a copy, or rebuilt. Runs on several threads at once, each with a worker of its own.
//!
//! Answers to `copy_file` in PostgreSQL's `pg_combinebackup/copy_file.c` and the rest of
//! `process_directory_recursively`. A checksum that a manifest has already is taken from there, and then the bytes need
//! not come into this process: `sendfile` moves them within the kernel. That way a file that was damaged on disk keeps
//! the checksum that it had when it was sound, and verification finds it.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::retry_on_intr;

use super::error::CombineError;
use super::manifest_index::ManifestIndex;
use super::report::{CombineWarning, Notice, StepKind};
use super::request::{CombineRequest, CopyMethod, RunMode};
use super::unit::Unit;
use crate::backup::SyncMethod;
use crate::backup::checksum::RunningChecksum;
use crate::backup::confined::FileError;
use crate::backup::path::MemberPath;
use crate::backup::syncer::{Syncer, start_writeback};
use crate::pg::ChecksumAlgorithm;

/// How much is read or written at once.
pub(super) const BUFFER_LEN: usize = 1 << 20;

/// How much the kernel is asked to move at once. In between it is looked whether to stop.
const MOVE_LEN: usize = 16 << 20;

/// After how many bytes of a long file writeback begins, so that the `fsync` behind it finds little to do.
const WRITEBACK_LEN: u64 = 8 << 20;

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) request: &'a CombineRequest,
    pub(super) manifests: &'a [Option<ManifestIndex>],
    /// The backups' own paths, for messages.
    pub(super) backup_paths: &'a [PathBuf],
    /// The permission bits of new files.
    pub(super) file_mode: u32,
    /// Makes files durable, if that is done one by one.
    pub(super) syncer: Option<Syncer>,
    pub(super) interrupted: &'a AtomicBool,
    pub(super) failed: AtomicBool,
    pub(super) wants_steps: bool,
}

/// A file to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) unit: Arc<Unit>,
    /// Where it is in the newest backup.
    pub(super) input: MemberPath,
    /// Where it goes, for messages and the manifest.
    pub(super) output: MemberPath,
    /// Under which name it is made.
    pub(super) made_as: MemberPath,
    pub(super) kind: JobKind,
    /// The checksum that is wanted.
    pub(super) checksum: ChecksumAlgorithm,
}

/// How a file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    Copy,
    Reconstruct,
}

/// A file that was made, as it is listed.
#[derive(Debug)]
pub(super) struct MadeFile {
    pub(super) path: Vec<u8>,
    pub(super) size: u64,
    pub(super) modified_at: i64,
    pub(super) algorithm: ChecksumAlgorithm,
    pub(super) checksum: Vec<u8>,
}

/// Makes files, one after the other.
pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) buffer: Box<[u8]>,
    pub(super) notices: Vec<Notice>,
    unit: Option<(Arc<Unit>, Unit)>,
}

/// A whole file that becomes one of the result.
pub(super) struct WholeFile {
    pub(super) backup: usize,
    pub(super) member: MemberPath,
    pub(super) file: File,
}

impl Shared<'_> {
    /// Whether to go on.
    pub(super) fn check(&self) -> Result<(), CombineError> {
        if self.interrupted.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
            return Err(CombineError::Interrupted);
        }
        Ok(())
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        Worker { shared, buffer: vec![0; BUFFER_LEN].into(), notices: Vec::new(), unit: None }
    }

    /// Makes one file.
    pub(super) fn work(&mut self, job: &Job) -> (Vec<Notice>, Result<Option<MadeFile>, CombineError>) {
        let mut unit = match self.unit.take() {
            Some((of, unit)) if Arc::ptr_eq(&of, &job.unit) => unit,
            _ => job.unit.handle(),
        };
        let made = self.shared.check().and_then(|()| match job.kind {
            JobKind::Copy => self.copy_newest(job, &mut unit),
            JobKind::Reconstruct => self.reconstruct(job, &mut unit),
        });
        self.unit = Some((Arc::clone(&job.unit), unit));
        (std::mem::take(&mut self.notices), made)
    }

    /// The newest backup has the whole file.
    fn copy_newest(&mut self, job: &Job, unit: &mut Unit) -> Result<Option<MadeFile>, CombineError> {
        let backup = unit.newest();
        let listed = self.listed_checksum(job, unit, backup);
        let from = unit.shown_input(backup, &job.input);
        let opened = unit.open_input(backup, &job.input).map_err(CombineError::from).and_then(|file| {
            file.ok_or_else(|| FileError::new("open file", &from, rustix::io::Errno::NOENT).into())
        });
        // what is about to be done is told before it can fail, but for a dry run, in which this is all that is done
        if self.shared.request.mode == RunMode::Real {
            self.tell_copy(job, unit, &from, listed.is_some());
        }
        let file = opened?;
        let source = WholeFile { backup, member: job.input.clone(), file };
        self.copy_opened(job, unit, source, listed)
    }

    /// Makes the file of one that is whole. `listed` is its checksum, where a manifest has it.
    pub(super) fn copy_whole(
        &mut self,
        job: &Job,
        unit: &mut Unit,
        source: WholeFile,
    ) -> Result<Option<MadeFile>, CombineError> {
        let listed = self.listed_checksum(job, unit, source.backup);
        let from = unit.shown_input(source.backup, &source.member);
        if self.shared.request.mode == RunMode::Real {
            self.tell_copy(job, unit, &from, listed.is_some());
        }
        self.copy_opened(job, unit, source, listed)
    }

    fn copy_opened(
        &mut self,
        job: &Job,
        unit: &mut Unit,
        source: WholeFile,
        listed: Option<Vec<u8>>,
    ) -> Result<Option<MadeFile>, CombineError> {
        let from = unit.shown_input(source.backup, &source.member);
        if self.shared.request.mode == RunMode::DryRun {
            self.tell_copy(job, unit, &from, listed.is_some());
            return Ok(None);
        }
        let metadata = source.file.metadata().map_err(|error| FileError::new("stat file", &from, error))?;
        if !metadata.is_file() {
            return Err(CombineError::NotRegular(from));
        }
        let computed = if listed.is_some() { ChecksumAlgorithm::None } else { job.checksum };
        let mut checksum = computed.start();
        let to = unit.shown_output(&job.output);
        let file = match self.shared.request.copy_method {
            CopyMethod::Copy => {
                let output = create(unit, job, self.shared.file_mode, "open file")?;
                if computed == ChecksumAlgorithm::None {
                    self.move_bytes(&source.file, &output, metadata.len(), &from, &to)?;
                } else {
                    self.copy_bytes(&source.file, &output, &mut checksum, &from, &to)?;
                }
                output
            }
            CopyMethod::Clone => {
                let output = create(unit, job, self.shared.file_mode, "create file")?;
                if let Err(errno) = rustix::fs::ioctl_ficlone(&output, &source.file) {
                    return Err(CombineError::Clone { from, to, source: errno.into() });
                }
                self.checksum_bytes(&source.file, computed, &mut checksum, &from)?;
                output
            }
            CopyMethod::CopyFileRange => {
                let output = create(unit, job, self.shared.file_mode, "create file")?;
                self.copy_range(&source.file, &output, &from, &to)?;
                self.checksum_bytes(&source.file, computed, &mut checksum, &from)?;
                output
            }
            CopyMethod::Link => {
                link(unit, job, &source).map_err(|source| CombineError::Link {
                    from: from.clone(),
                    to,
                    source,
                })?;
                self.checksum_bytes(&source.file, computed, &mut checksum, &from)?;
                // the same file under another name
                source.file
            }
        };
        let checksum = listed.unwrap_or_else(|| checksum.finish().as_bytes().to_vec());
        self.finish(job, unit, file, checksum).map(Some)
    }

    /// Looks at what was made, and has it made durable.
    pub(super) fn finish(
        &self,
        job: &Job,
        unit: &Unit,
        file: File,
        checksum: Vec<u8>,
    ) -> Result<MadeFile, CombineError> {
        let path = unit.shown_output(&job.output);
        let metadata = file.metadata().map_err(|source| FileError::new("stat file", &path, source))?;
        if let Some(syncer) = &self.shared.syncer {
            syncer.sync(file, path, metadata.len())?;
        }
        Ok(made_file(unit.manifest_path(&job.output), &metadata, job.checksum, checksum))
    }

    /// The checksum that a backup's manifest has, if it is of the right kind.
    fn listed_checksum(&mut self, job: &Job, unit: &Unit, backup: usize) -> Option<Vec<u8>> {
        let manifest = self.shared.manifests[backup].as_ref()?;
        if job.checksum == ChecksumAlgorithm::None {
            return None;
        }
        let path = unit.manifest_path(&job.output);
        let Some(listed) = manifest.find(&path) else {
            // the original names the tablespace's directory here, where no manifest is
            let directory =
                if backup == unit.newest() { unit.shown_newest() } else { &self.shared.backup_paths[backup] };
            let manifest = super::input::below(directory, b"backup_manifest");
            let warning = CombineWarning::NotInManifest { manifest, path: path.into() };
            self.notices.push(Notice::Warning(warning));
            return None;
        };
        let is_of_use = listed.algorithm == job.checksum && !listed.bytes.is_empty();
        is_of_use.then(|| listed.bytes.to_vec())
    }

    pub(super) fn step(&mut self, kind: impl FnOnce() -> StepKind) {
        if self.shared.wants_steps {
            self.notices.push(Notice::Step(kind()));
        }
    }

    fn tell_copy(&mut self, job: &Job, unit: &Unit, from: &Path, has_checksum: bool) {
        let method = self.shared.request.copy_method;
        let checksum = if has_checksum { ChecksumAlgorithm::None } else { job.checksum };
        self.step(|| StepKind::Copy {
            from: from.to_owned(),
            to: unit.shown_output(&job.output),
            method,
            checksum,
        });
    }

    /// All bytes, through this process.
    fn copy_bytes(
        &mut self,
        mut source: &File,
        mut output: &File,
        checksum: &mut RunningChecksum,
        from: &Path,
        to: &Path,
    ) -> Result<(), CombineError> {
        let mut writeback = self.writeback();
        loop {
            self.shared.check()?;
            let len = read(&mut source, &mut self.buffer, from)?;
            if len == 0 {
                return Ok(());
            }
            let bytes = &self.buffer[..len];
            output.write_all(bytes).map_err(|error| FileError::new("write to file", to, error))?;
            checksum.update(bytes);
            writeback.written(output, len as u64);
        }
    }

    /// All bytes, within the kernel.
    fn move_bytes(
        &mut self,
        source: &File,
        output: &File,
        len: u64,
        from: &Path,
        to: &Path,
    ) -> Result<(), CombineError> {
        let mut writeback = self.writeback();
        // a file that is shorter than it was is copied as it is, like the original does
        let mut left = len;
        while left > 0 {
            self.shared.check()?;
            match retry_on_intr(|| rustix::fs::sendfile(output, source, None, MOVE_LEN)) {
                Ok(0) => break,
                Ok(moved) => {
                    left = left.saturating_sub(moved as u64);
                    writeback.written(output, moved as u64);
                }
                // not between these file systems
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    return self.copy_bytes(source, output, &mut ChecksumAlgorithm::None.start(), from, to);
                }
                Err(
                    errno @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::FBIG),
                ) => {
                    return Err(FileError::new("write to file", to, errno).into());
                }
                Err(errno) => return Err(FileError::new("read from file", from, errno).into()),
            }
        }
        Ok(())
    }

    fn copy_range(&self, source: &File, output: &File, from: &Path, to: &Path) -> Result<(), CombineError> {
        loop {
            self.shared.check()?;
            let copied = retry_on_intr(|| rustix::fs::copy_file_range(source, None, output, None, MOVE_LEN));
            match copied {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(errno) => {
                    let (from, to) = (from.to_owned(), to.to_owned());
                    return Err(CombineError::CopyRange { from, to, source: errno.into() });
                }
            }
        }
    }

    /// Reads a file that was copied without reading it.
    fn checksum_bytes(
        &mut self,
        source: &File,
        algorithm: ChecksumAlgorithm,
        checksum: &mut RunningChecksum,
        from: &Path,
    ) -> Result<(), CombineError> {
        if algorithm == ChecksumAlgorithm::None {
            return Ok(());
        }
        let mut offset = 0;
        loop {
            self.shared.check()?;
            let len = read_at(source, &mut self.buffer, offset, from)?;
            if len == 0 {
                return Ok(());
            }
            checksum.update(&self.buffer[..len]);
            offset += len as u64;
        }
    }

    pub(super) fn writeback(&self) -> Writeback {
        Writeback { is_wanted: self.shared.request.sync == SyncMethod::Fsync, start: 0, end: 0 }
    }
}

/// Pushes a long file to disk while it is written.
pub(super) struct Writeback {
    is_wanted: bool,
    start: u64,
    end: u64,
}

impl Writeback {
    pub(super) fn written(&mut self, file: &File, len: u64) {
        self.end += len;
        if self.is_wanted && self.end - self.start >= WRITEBACK_LEN {
            start_writeback(file, self.start, NonZeroU64::new(self.end - self.start));
            self.start = self.end;
        }
    }
}

pub(super) fn made_file(
    path: Vec<u8>,
    metadata: &Metadata,
    algorithm: ChecksumAlgorithm,
    checksum: Vec<u8>,
) -> MadeFile {
    MadeFile { path, size: metadata.len(), modified_at: metadata.mtime(), algorithm, checksum }
}

/// Creates a job's file; `operation` is what the original calls it.
pub(super) fn create(
    unit: &mut Unit,
    job: &Job,
    mode: u32,
    operation: &'static str,
) -> Result<File, CombineError> {
    let created = match &mut unit.output {
        Some(output) => output.create_file(&job.made_as, mode),
        None => Err(FileError::new(operation, "", io::Error::other("a dry run makes nothing"))),
    };
    created.map_err(|error| FileError::new(operation, unit.shown_output(&job.output), error.source).into())
}

fn link(unit: &mut Unit, job: &Job, source: &WholeFile) -> io::Result<()> {
    let Unit { inputs, output, .. } = unit;
    match (&mut inputs[source.backup], output) {
        (Some(input), Some(output)) => output.link_file(&job.made_as, input, &source.member),
        _ => Err(rustix::io::Errno::NOENT.into()),
    }
}

fn read(source: &mut &File, buffer: &mut [u8], path: &Path) -> Result<usize, FileError> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|error| FileError::new("read from file", path, error)),
        }
    }
}

/// As much as there is, up to the buffer's length.
pub(super) fn read_at(
    source: &File,
    buffer: &mut [u8],
    offset: u64,
    path: &Path,
) -> Result<usize, FileError> {
    use std::os::unix::fs::FileExt;
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::new("read file", path, error)),
        }
    }
    Ok(filled)
}
