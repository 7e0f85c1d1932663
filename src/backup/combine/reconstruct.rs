//! A file rebuilt from an incremental one and those before it.
//!
//! Answers to `reconstruct_from_incremental_file` and `write_reconstructed_file` in PostgreSQL's `reconstruct.c`; what
//! decides is in [`plan`](super::plan). Blocks that lie one behind the other are read at once, and a whole buffer of
//! them is written at once. Stricter: an incremental file is exactly as long as its header says, even where its blocks
//! are not needed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::io::retry_on_intr;

use super::error::CombineError;
use super::incremental_file::{BLOCK_LEN, IncrementalHeader, IncrementalHeaderParser};
use super::plan::{BlockSource, ReconstructionPlan, Run};
use super::report::StepKind;
use super::request::{CopyMethod, RunMode};
use super::unit::Unit;
use super::worker::{BUFFER_LEN, Job, MadeFile, WholeFile, Worker, Writeback, create, read_at};
use crate::backup::checksum::RunningChecksum;
use crate::backup::confined::FileError;
use crate::backup::path::MemberPath;
use crate::pg::ChecksumAlgorithm;

/// What names of incremental files begin with.
pub(super) const INCREMENTAL_PREFIX: &[u8] = b"INCREMENTAL.";

/// One file of the chain.
struct Source {
    file: File,
    member: MemberPath,
    shown: PathBuf,
    len: u64,
    /// `None` for a full copy.
    header: Option<IncrementalHeader>,
    /// How many blocks are taken from it, and where the last of them ends.
    block_count: u32,
    highest_offset: u64,
}

/// The result, while it is written.
struct Output<'a> {
    file: File,
    shown: &'a Path,
    checksum: RunningChecksum,
    algorithm: ChecksumAlgorithm,
    writeback: Writeback,
    filled: usize,
}

impl Worker<'_> {
    pub(super) fn reconstruct(
        &mut self,
        job: &Job,
        unit: &mut Unit,
    ) -> Result<Option<MadeFile>, CombineError> {
        let newest = unit.newest();
        // in the places of their backups
        let mut sources: Vec<Option<Source>> = (0..=newest).map(|_| None).collect();
        let mut plan = {
            let source = self.open_incremental(unit, newest, &job.input)?;
            let header = source.header.as_ref().expect("an incremental file was opened");
            let plan = ReconstructionPlan::new(newest, header);
            sources[newest] = Some(source);
            plan
        };
        for backup in (0..newest).rev() {
            self.shared.check()?;
            let source = self.open_older(unit, backup, job)?;
            match &source.header {
                Some(header) => plan.add_incremental(backup, header),
                None => plan.add_full(backup, source.len),
            }
            let is_full = source.header.is_none();
            sources[backup] = Some(source);
            if is_full {
                break;
            }
        }
        if let Some(backup) = plan.copy_of()
            && let Some(Source { file, member, .. }) = sources[backup].take()
        {
            check_lengths(&sources)?;
            return self.copy_whole(job, unit, WholeFile { backup, member, file });
        }
        if let Some(Source { header: Some(_), shown, .. }) = &sources[0] {
            return Err(CombineError::IncrementalInFull(shown.clone()));
        }
        self.rebuild(job, unit, &plan, &mut sources)
    }

    fn rebuild(
        &mut self,
        job: &Job,
        unit: &mut Unit,
        plan: &ReconstructionPlan,
        sources: &mut [Option<Source>],
    ) -> Result<Option<MadeFile>, CombineError> {
        let shown = unit.shown_output(&job.output);
        let zero_count = count_blocks(plan, sources);
        self.step(|| StepKind::Reconstruct {
            path: shown.clone(),
            block_length: plan.block_length(),
            checksum: job.checksum,
        });
        if self.shared.wants_steps {
            let plans = describe(plan, sources);
            plans.into_iter().for_each(|plan| self.step(|| StepKind::Plan(plan)));
        }
        let written = match self.shared.request.mode {
            RunMode::DryRun => None,
            RunMode::Real => {
                let file = create(unit, job, self.shared.file_mode, "open file")?;
                Some(self.write_blocks(plan, sources, file, &shown, job.checksum)?)
            }
        };
        if zero_count > 0 {
            self.step(|| StepKind::ZeroFilled(zero_count));
        }
        for source in sources.iter().flatten().filter(|source| source.block_count > 0) {
            self.step(|| StepKind::BlocksRead { count: source.block_count, path: source.shown.clone() });
            if source.len < source.highest_offset {
                let (path, expected, found) = (source.shown.clone(), source.highest_offset, source.len);
                return Err(CombineError::TooShort { path, expected, found });
            }
        }
        check_lengths(sources)?;
        match written {
            Some((file, checksum)) => self.finish(job, unit, file, checksum).map(Some),
            None => Ok(None),
        }
    }

    fn write_blocks(
        &mut self,
        plan: &ReconstructionPlan,
        sources: &[Option<Source>],
        file: File,
        shown: &Path,
        algorithm: ChecksumAlgorithm,
    ) -> Result<(File, Vec<u8>), CombineError> {
        let (checksum, writeback) = (algorithm.start(), self.writeback());
        let mut output = Output { file, shown, checksum, algorithm, writeback, filled: 0 };
        let by_range = self.shared.request.copy_method == CopyMethod::CopyFileRange;
        for run in plan.runs() {
            match run.source {
                BlockSource::File { source, offset } => {
                    let source = sources[source].as_ref().expect("a plan names files that were opened");
                    if by_range {
                        self.copy_run(&mut output, source, offset, run)?;
                    } else {
                        self.fill(&mut output, run, |buffer, done| {
                            source.read_blocks(buffer, offset + done)
                        })?;
                    }
                }
                BlockSource::Zeros => self.fill(&mut output, run, |buffer, _| {
                    buffer.fill(0);
                    Ok(())
                })?,
            }
        }
        output.flush(&self.buffer)?;
        Ok((output.file, output.checksum.finish().as_bytes().to_vec()))
    }

    /// Fills the buffer with a run's blocks, and writes it whenever it is full.
    fn fill(
        &mut self,
        output: &mut Output<'_>,
        run: Run,
        mut provide: impl FnMut(&mut [u8], u64) -> Result<(), CombineError>,
    ) -> Result<(), CombineError> {
        let (mut done, len) = (0, u64::from(run.block_count) * u64::from(BLOCK_LEN));
        while done < len {
            if output.filled == BUFFER_LEN {
                self.shared.check()?;
                output.flush(&self.buffer)?;
            }
            let room = (BUFFER_LEN - output.filled).min((len - done) as usize);
            provide(&mut self.buffer[output.filled..output.filled + room], done)?;
            output.filled += room;
            done += room as u64;
        }
        Ok(())
    }

    /// A run's blocks by `copy_file_range`; they are read for the checksum only.
    fn copy_run(
        &mut self,
        output: &mut Output<'_>,
        source: &Source,
        offset: u64,
        run: Run,
    ) -> Result<(), CombineError> {
        output.flush(&self.buffer)?;
        let end = offset + u64::from(run.block_count) * u64::from(BLOCK_LEN);
        let mut position = offset;
        while position < end {
            self.shared.check()?;
            let len = (end - position) as usize;
            let copied = retry_on_intr(|| {
                rustix::fs::copy_file_range(&source.file, Some(&mut position), &output.file, None, len)
            });
            let (from, to) = (source.shown.clone(), output.shown.to_owned());
            match copied {
                Ok(0) => return Err(CombineError::CopyRangeEnd { from, to }),
                Ok(_) => {}
                Err(errno) => return Err(CombineError::CopyRange { from, to, source: errno.into() }),
            }
        }
        if output.algorithm == ChecksumAlgorithm::None {
            return Ok(());
        }
        position = offset;
        while position < end {
            let len = BUFFER_LEN.min((end - position) as usize);
            source.read_blocks(&mut self.buffer[..len], position)?;
            output.checksum.update(&self.buffer[..len]);
            position += len as u64;
        }
        Ok(())
    }

    /// The file as an older backup has it: whole, or incremental.
    fn open_older(&mut self, unit: &mut Unit, backup: usize, job: &Job) -> Result<Source, CombineError> {
        let Some(file) = unit.open_input(backup, &job.output)? else {
            return self.open_incremental(unit, backup, &job.input);
        };
        let shown = unit.shown_input(backup, &job.output);
        Source::new(file, job.output.clone(), shown, None)
    }

    fn open_incremental(
        &mut self,
        unit: &mut Unit,
        backup: usize,
        member: &MemberPath,
    ) -> Result<Source, CombineError> {
        let shown = unit.shown_input(backup, member);
        let file = unit.open_input(backup, member)?;
        let file = file.ok_or_else(|| FileError::new("open file", &shown, rustix::io::Errno::NOENT))?;
        let mut source = Source::new(file, member.clone(), shown, None)?;
        source.header = Some(self.read_header(&source)?);
        Ok(source)
    }

    fn read_header(&mut self, source: &Source) -> Result<IncrementalHeader, CombineError> {
        let refused = |problem: super::IncrementalHeaderError| match problem {
            super::IncrementalHeaderError::Truncated { read, wanted } => {
                let (read, wanted) = (read.into(), wanted.into());
                CombineError::ShortFile { path: source.shown.clone(), read, wanted }
            }
            problem => CombineError::IncrementalFile { path: source.shown.clone(), problem },
        };
        let mut parser = IncrementalHeaderParser::new();
        let mut offset = 0;
        while parser.wanted_len() > 0 {
            // most headers are within their first block
            let len = parser.wanted_len().clamp(BLOCK_LEN as usize, BUFFER_LEN);
            let len = read_at(&source.file, &mut self.buffer[..len], offset, &source.shown)?;
            if len == 0 {
                break;
            }
            parser.push(&self.buffer[..len]).map_err(refused)?;
            offset += len as u64;
        }
        parser.finish().map_err(refused)
    }
}

impl Source {
    fn new(
        file: File,
        member: MemberPath,
        shown: PathBuf,
        header: Option<IncrementalHeader>,
    ) -> Result<Self, CombineError> {
        let metadata = file.metadata().map_err(|source| FileError::new("stat file", &shown, source))?;
        if !metadata.is_file() {
            return Err(CombineError::NotRegular(shown));
        }
        let len = metadata.len();
        Ok(Source { file, member, shown, len, header, block_count: 0, highest_offset: 0 })
    }

    /// Whole blocks.
    fn read_blocks(&self, buffer: &mut [u8], offset: u64) -> Result<(), CombineError> {
        let len = read_at(&self.file, buffer, offset, &self.shown)?;
        if len < buffer.len() {
            let (whole, read) = (len as u64 / u64::from(BLOCK_LEN), len as u64 % u64::from(BLOCK_LEN));
            let offset = offset + whole * u64::from(BLOCK_LEN);
            return Err(CombineError::ShortBlock {
                path: self.shown.clone(),
                offset,
                read,
                wanted: BLOCK_LEN,
            });
        }
        Ok(())
    }
}

impl Output<'_> {
    fn flush(&mut self, buffer: &[u8]) -> Result<(), CombineError> {
        let bytes = &buffer[..std::mem::take(&mut self.filled)];
        self.file.write_all(bytes).map_err(|error| FileError::new("write file", self.shown, error))?;
        self.checksum.update(bytes);
        self.writeback.written(&self.file, bytes.len() as u64);
        Ok(())
    }
}

/// Notes what is taken from each file, and returns how many blocks come from none.
fn count_blocks(plan: &ReconstructionPlan, sources: &mut [Option<Source>]) -> u32 {
    let mut zero_count = 0;
    for run in plan.runs() {
        match run.source {
            BlockSource::Zeros => zero_count += run.block_count,
            BlockSource::File { source, offset } => {
                let source = sources[source].as_mut().expect("a plan names files that were opened");
                let end = offset + u64::from(run.block_count) * u64::from(BLOCK_LEN);
                source.block_count += run.block_count;
                source.highest_offset = source.highest_offset.max(end);
            }
        }
    }
    zero_count
}

/// That incremental files are as long as their headers say.
fn check_lengths(sources: &[Option<Source>]) -> Result<(), CombineError> {
    for source in sources.iter().flatten() {
        let Some(header) = &source.header else { continue };
        let (path, expected, found) = (source.shown.clone(), header.file_len(), source.len);
        if found < expected {
            return Err(CombineError::TooShort { path, expected, found });
        }
        if found > expected {
            return Err(CombineError::TooLong { path, expected, found });
        }
    }
    Ok(())
}

/// After how many bytes of a plan the rest goes on another line.
const PLAN_LINE_LEN: usize = 1024;

/// The plan for people: ranges from the same file, each with the position of its last block.
fn describe(plan: &ReconstructionPlan, sources: &[Option<Source>]) -> Vec<String> {
    let file_of = |block: u32| match plan.source_of(block) {
        BlockSource::Zeros => None,
        BlockSource::File { source, .. } => Some(source),
    };
    let (mut lines, mut line) = (Vec::new(), String::new());
    let (mut first, end) = (0, plan.block_length());
    while first < end {
        let last = (first..end).take_while(|&block| file_of(block) == file_of(first)).last().unwrap_or(first);
        let _ = if first == last { write!(line, " {last}") } else { write!(line, " {first}-{last}") };
        let _ = match plan.source_of(last) {
            BlockSource::Zeros => write!(line, ":zero"),
            BlockSource::File { source, offset } => {
                let shown = sources[source].as_ref().map_or(Path::new(""), |source| &source.shown);
                write!(line, ":{}@{offset}", shown.display())
            }
        };
        first = last + 1;
        if first == end || line.len() > PLAN_LINE_LEN {
            lines.push(std::mem::take(&mut line));
        }
    }
    lines
}
