//! Whether timelines, their history files and their segments fit together.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::first_difference;
use super::file::{ArchivedFile, OpenFileError};
use super::problem::{Problem, ProblemKind};
use crate::pg::{Lsn, TimelineHistory, TimelineId};

/// The files of each timeline by segment: where there are several of one, the one to rely on.
pub(super) type FilesByTimeline = BTreeMap<TimelineId, Vec<ArchivedFile>>;

/// Segments that are missing within a timeline, or where it left the one before it; unfinished ones inside.
pub(super) fn check_gaps(
    files: &FilesByTimeline,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (&timeline, files_of_one) in files {
        for pair in files_of_one.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let (start_lsn, end_lsn) = (before.segment().end_lsn(), after.start_lsn());
            if start_lsn < end_lsn {
                problems.push(gap(timeline, start_lsn, end_lsn));
            }
            if before.is_partial {
                let (lsn, file) = (before.start_lsn(), Some(before.name.clone()));
                problems.push(Problem { timeline, lsn, file, kind: ProblemKind::UnfinishedInside });
            }
        }
        match histories.get(&timeline) {
            Some(history) => problems.extend(check_beginning(history, files)),
            None if timeline > TimelineId::FIRST => {
                let kind = ProblemKind::HistoryMissing(timeline);
                problems.push(Problem { timeline, lsn: Lsn::INVALID, file: None, kind });
            }
            None => {}
        }
    }
    problems
}

fn gap(timeline: TimelineId, start_lsn: Lsn, end_lsn: Lsn) -> Problem {
    let kind = ProblemKind::Gap { timeline, start_lsn, end_lsn };
    Problem { timeline, lsn: start_lsn, file: None, kind }
}

/// The ancestor that the timeline's WAL goes on from must reach to where it does.
fn check_beginning(history: &TimelineHistory, files: &FilesByTimeline) -> Option<Problem> {
    let first = files.get(&history.timeline())?.first()?;
    let mut ancestors = history.ancestors().iter().rev();
    let (ancestor, last) = ancestors
        .find_map(|entry| files.get(&entry.timeline).and_then(|files| Some((entry, files.last()?))))?;
    let segment = first.segment().size().segment_at(ancestor.end_lsn);
    let reached_lsn = files[&ancestor.timeline]
        .iter()
        .map(|file| file.segment().end_lsn())
        .filter(|end_lsn| *end_lsn <= segment.end_lsn())
        .max()
        .unwrap_or(last.start_lsn());
    // the first segment holds again what the ancestor wrote in it
    let needed_lsn = first.start_lsn();
    (reached_lsn < needed_lsn).then(|| gap(ancestor.timeline, reached_lsn, needed_lsn))
}

/// History files that contradict each other.
pub(super) fn check_histories(histories: &BTreeMap<TimelineId, TimelineHistory>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (&timeline, history) in histories {
        for (index, entry) in history.ancestors().iter().enumerate() {
            let differs = histories
                .get(&entry.timeline)
                .is_some_and(|ancestor| ancestor.ancestors() != &history.ancestors()[..index]);
            if differs {
                let kind = ProblemKind::HistoriesDiffer { ancestor: entry.timeline };
                let file = Some(timeline.history_file_name());
                problems.push(Problem { timeline, lsn: entry.end_lsn, file, kind });
                break;
            }
        }
    }
    problems
}

/// The segment in which a timeline was left is there twice: up to the switch point with the same bytes.
pub(super) fn check_switch_segments(
    files: &FilesByTimeline,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    directory: &Path,
) -> Result<Vec<Problem>, OpenFileError> {
    let mut problems = Vec::new();
    for (&timeline, history) in histories {
        let Some(entry) = history.ancestors().last() else { continue };
        let find = |timeline| {
            let files: &Vec<ArchivedFile> = files.get(timeline)?;
            files.iter().find(|file| file.segment() == file.segment().size().segment_at(entry.end_lsn))
        };
        let (Some(old), Some(new)) = (find(&entry.timeline), find(&timeline)) else { continue };
        let len = entry.end_lsn - new.start_lsn();
        problems.extend(compare(new, old, directory, len)?);
    }
    Ok(problems)
}

/// Whether two files have the same first `len` bytes.
pub(super) fn compare(
    one: &ArchivedFile,
    other: &ArchivedFile,
    directory: &Path,
    len: u64,
) -> Result<Option<Problem>, OpenFileError> {
    let difference = first_difference(one, other, directory, len)?;
    Ok(difference.map(|offset| {
        let lsn = one.start_lsn() + offset;
        let kind = ProblemKind::CopiesDiffer { lsn, other: other.name.clone() };
        Problem { timeline: one.timeline(), lsn, file: Some(one.name.clone()), kind }
    }))
}
