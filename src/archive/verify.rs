//! Verifying a directory: list, sort, check, put in order.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::check::{Row, RowCheck, RowOutcome};
use super::file::{ArchivedFile, OpenFileError, WalContent};
use super::problem::{Problem, ProblemKind};
use super::timelines::{FilesByTimeline, check_gaps, check_histories, check_switch_segments, compare};
use crate::pg::version::WalFormat;
use crate::pg::wal_page::{LONG_PAGE_HEADER_LEN, WalSegmentHeader};
use crate::pg::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

/// What a directory holds, and what is wrong with it.
#[derive(Debug)]
pub struct VerifyReport {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// How its WAL is cut.
    pub segment_size: WalSegmentSize,
    /// What there is of each timeline.
    pub timelines: Vec<TimelineReport>,
    /// What is wrong, by timeline and position.
    pub problems: Vec<Problem>,
    /// Files with WAL.
    pub file_count: usize,
    /// Bytes of WAL read, decompressed.
    pub byte_count: u64,
}

/// What there is of a timeline.
#[derive(Debug, Serialize)]
pub struct TimelineReport {
    /// The timeline.
    pub timeline: TimelineId,
    /// WAL without gaps, each from a segment's start.
    pub ranges: Vec<WalRange>,
    /// Segments that are complete.
    pub finished_count: usize,
    /// Segments that are not.
    pub partial_count: usize,
}

/// WAL from here to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WalRange {
    /// The first byte.
    pub start_lsn: Lsn,
    /// The end of the last whole record.
    pub end_lsn: Lsn,
}

/// Why a directory could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be listed.
    #[error("could not read directory \"{}\"", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] OpenFileError),
    /// There is nothing to verify, or nothing that says whose WAL it is.
    #[error("directory \"{}\" holds no WAL", path.display())]
    NoWal {
        /// The directory.
        path: PathBuf,
    },
    /// A worker has ended without a result.
    #[error("a thread that verifies has panicked")]
    ThreadPanicked,
}

impl VerifyError {
    /// What to do about it.
    pub fn class(&self) -> crate::ErrorClass {
        match self {
            VerifyError::ThreadPanicked => crate::ErrorClass::Bug,
            _ => crate::ErrorClass::Operator,
        }
    }
}

/// How much WAL is checked in one go: enough that looking into the next row costs nothing, little enough that the
/// last thread to end does not end long after the others.
const ROW_LEN: u64 = 64 << 20;

/// Reads all files of `directory`, on `thread_count` threads.
pub fn verify(directory: &Path, thread_count: usize) -> Result<VerifyReport, VerifyError> {
    let names = list(directory)?;
    let segment_header = most_common_header(directory, &names)?;
    let (system_identifier, segment_size) =
        segment_header.ok_or_else(|| VerifyError::NoWal { path: directory.to_owned() })?;
    let (histories, mut problems) = read_histories(directory, &names)?;
    let mut files: FilesByTimeline = BTreeMap::new();
    for file in names.iter().filter_map(|name| ArchivedFile::parse(name, segment_size)) {
        files.entry(file.timeline()).or_default().push(file);
    }
    let file_count = files.values().map(Vec::len).sum();
    for files in files.values_mut() {
        problems.extend(reconcile_copies(directory, files)?);
    }
    let rows = rows(&files, &histories);
    let outcomes = check_rows(directory, system_identifier, &rows, thread_count)?;
    problems.extend(check_gaps(&files, &histories));
    problems.retain(|problem| !is_being_finished(problem, &files, &outcomes));
    problems.extend(check_histories(&histories));
    problems.extend(check_switch_segments(&files, &histories, directory)?);
    let timelines = report_timelines(&files, &rows, &outcomes);
    let byte_count = outcomes.iter().map(|outcome| outcome.byte_count).sum();
    for problem in outcomes.into_iter().flat_map(|outcome| outcome.problems) {
        // where one row looks into the next, both tell the same
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems.sort_by_key(|problem| (problem.timeline, problem.lsn));
    Ok(VerifyReport { system_identifier, segment_size, timelines, problems, file_count, byte_count })
}

/// A receiver gives a compressed segment its final name when it has read it back, and goes on with the next one meanwhile.
/// Where it was stopped in between, it begins there when it is started again.
fn is_being_finished(problem: &Problem, files: &FilesByTimeline, outcomes: &[RowOutcome]) -> bool {
    let Some(name) = problem.file.as_ref().filter(|_| problem.kind == ProblemKind::UnfinishedInside) else {
        return false;
    };
    let is_whole = outcomes.iter().any(|outcome| outcome.whole_unfinished.contains(name));
    let last_two = files.get(&problem.timeline).and_then(|files| files.last_chunk::<2>());
    is_whole && last_two.is_some_and(|[before, last]| before.name == *name && last.is_partial)
}

fn list(directory: &Path) -> Result<Vec<String>, VerifyError> {
    let failed = |source| VerifyError::List { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whose WAL most files say that they are, and how it is cut. A damaged or foreign file is outvoted.
fn most_common_header(
    directory: &Path,
    names: &[String],
) -> Result<Option<(SystemIdentifier, WalSegmentSize)>, VerifyError> {
    let mut votes: BTreeMap<_, usize> = BTreeMap::new();
    for name in names {
        let Some((_, compression, _)) = ArchivedFile::split_name(name) else { continue };
        let mut content = WalContent::open(directory.join(name), compression, true)?;
        let piece = match content.next_piece() {
            Ok(piece) => piece,
            Err(OpenFileError::Damaged { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(header) = piece.first_chunk::<LONG_PAGE_HEADER_LEN>() else { continue };
        let is_wal = WalFormat::of_magic(u16::from_le_bytes([header[0], header[1]])).is_some();
        let header = WalSegmentHeader::parse(header);
        if let (true, Ok(size)) = (is_wal, WalSegmentSize::from_bytes(header.segment_len.into())) {
            *votes.entry((header.system_identifier, size)).or_default() += 1;
        }
    }
    Ok(votes.into_iter().max_by_key(|(_, count)| *count).map(|(winner, _)| winner))
}

type Histories = BTreeMap<TimelineId, TimelineHistory>;

fn read_histories(directory: &Path, names: &[String]) -> Result<(Histories, Vec<Problem>), VerifyError> {
    let mut histories: Histories = BTreeMap::new();
    histories.insert(TimelineId::FIRST, TimelineHistory::root(TimelineId::FIRST));
    let mut problems = Vec::new();
    for name in names {
        let timeline = name.strip_suffix(".history").and_then(|id| u32::from_str_radix(id, 16).ok());
        let Some(timeline) = timeline.and_then(TimelineId::new) else { continue };
        if timeline.history_file_name() != *name {
            continue;
        }
        let path = directory.join(name);
        let content = std::fs::read(&path).map_err(|source| OpenFileError::Io { path, source })?;
        match TimelineHistory::parse(timeline, &content) {
            Ok(history) => drop(histories.insert(timeline, history)),
            Err(error) => {
                let (lsn, file) = (Lsn::INVALID, Some(name.clone()));
                problems.push(Problem { timeline, lsn, file, kind: ProblemKind::History(error) });
            }
        }
    }
    Ok((histories, problems))
}

/// Leaves one file of each segment, a finished one if there is one; the others must not contradict it.
fn reconcile_copies(directory: &Path, files: &mut Vec<ArchivedFile>) -> Result<Vec<Problem>, OpenFileError> {
    files.sort();
    let mut problems = Vec::new();
    let mut kept: Vec<ArchivedFile> = Vec::new();
    for file in files.drain(..) {
        match kept.last() {
            Some(chosen) if chosen.segment() == file.segment() => {
                problems.extend(compare(&file, chosen, directory, u64::MAX)?);
            }
            _ => kept.push(file),
        }
    }
    *files = kept;
    Ok(problems)
}

fn rows<'a>(files: &'a FilesByTimeline, histories: &'a Histories) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (timeline, files) in files {
        let history = histories.get(timeline);
        for run in files.chunk_by(|before, after| before.segment().next() == after.segment()) {
            let most = run.first().map_or(1, |file| ROW_LEN / file.segment().size().as_u64()).max(1) as usize;
            let mut rest = run;
            while !rest.is_empty() {
                let (files, later) = rest.split_at(most.min(rest.len()));
                rows.push(Row { files, next: later.first(), history });
                rest = later;
            }
        }
    }
    rows
}

fn check_rows(
    directory: &Path,
    system_identifier: SystemIdentifier,
    rows: &[Row<'_>],
    thread_count: usize,
) -> Result<Vec<RowOutcome>, VerifyError> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<usize, RowOutcome>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&row) = rows.get(index) else { return Ok(()) };
            let outcome = RowCheck { directory, system_identifier, row }.run();
            // after an error the others need not go on
            let outcome = outcome.inspect_err(|_| next.store(rows.len(), Ordering::Relaxed))?;
            outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(index, outcome);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..thread_count.clamp(1, 64)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.map_err(|error: OpenFileError| VerifyError::File(error)),
            Err(_) => Err(VerifyError::ThreadPanicked),
        })
    })?;
    Ok(outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect())
}

fn report_timelines(
    files: &FilesByTimeline,
    rows: &[Row<'_>],
    outcomes: &[RowOutcome],
) -> Vec<TimelineReport> {
    let report = |(&timeline, files): (&TimelineId, &Vec<ArchivedFile>)| {
        let mut ranges: Vec<WalRange> = Vec::new();
        let mut open_until: Option<Lsn> = None;
        for (row, outcome) in rows.iter().zip(outcomes) {
            let (Some(first), Some(last)) = (row.files.first(), row.files.last()) else { continue };
            if first.timeline() != timeline {
                continue;
            }
            match (open_until == Some(first.start_lsn()), ranges.last_mut()) {
                (true, Some(range)) => range.end_lsn = outcome.end_lsn,
                _ => ranges.push(WalRange { start_lsn: first.start_lsn(), end_lsn: outcome.end_lsn }),
            }
            open_until = Some(last.segment().end_lsn());
        }
        let partial_count = files.iter().filter(|file| file.is_partial).count();
        TimelineReport { timeline, ranges, finished_count: files.len() - partial_count, partial_count }
    };
    files.iter().map(report).collect()
}
