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

/// The ancestor that the timeline's WAL goes on from must reach to where it does, and no further than to the switch
/// point: what the ancestor's file of that segment holds behind it is not this history.
fn check_beginning(history: &TimelineHistory, files: &FilesByTimeline) -> Vec<Problem> {
    let Some(first) = files.get(&history.timeline()).and_then(|files| files.first()) else {
        return Vec::new();
    };
    let mut ancestors = history.ancestors().iter().rev();
    let found = ancestors.find_map(|entry| Some((entry, files.get(&entry.timeline)?)));
    let Some((ancestor, files)) = found else { return Vec::new() };
    let switch_segment = first.segment().size().segment_at(ancestor.end_lsn);
    let Some(last) = files.iter().rev().find(|file| file.segment() <= switch_segment) else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    // the first segment holds again what the ancestor wrote in it
    let needed_lsn = first.start_lsn();
    if last.is_partial && last.segment().end_lsn() <= needed_lsn.min(ancestor.end_lsn) {
        let (timeline, file) = (ancestor.timeline, Some(last.name.clone()));
        let kind = ProblemKind::UnfinishedBefore(history.timeline());
        problems.push(Problem { timeline, lsn: last.start_lsn(), file, kind });
    }
    let reached_lsn = last.segment().end_lsn().min(ancestor.end_lsn);
    if reached_lsn < needed_lsn {
        problems.push(gap(history.timeline_at(reached_lsn), reached_lsn, needed_lsn));
    }
    problems
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::WalSegmentSize;

    /// What is said of files of 1 MB, and of timeline 2, which left the first at this position.
    fn problems(names: &[&str], switch: &str) -> Vec<String> {
        let size = WalSegmentSize::from_bytes(1 << 20).unwrap();
        let two = TimelineId::new(2).unwrap();
        let history = TimelineHistory::parse(two, format!("1\t{switch}\tno reason\n").as_bytes()).unwrap();
        let mut files = FilesByTimeline::new();
        for file in names.iter().map(|name| ArchivedFile::parse(name, size).unwrap()) {
            files.entry(file.timeline()).or_default().push(file);
        }
        let histories =
            BTreeMap::from([(two, history), (TimelineId::FIRST, TimelineHistory::root(TimelineId::FIRST))]);
        check_gaps(&files, &histories).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_timeline_goes_on_where_the_one_before_it_was_left() {
        const ONE_4: &str = "000000010000000000000004";
        const ONE_5: &str = "000000010000000000000005";
        const TWO_5: &str = "000000020000000000000005";
        const TWO_6: &str = "000000020000000000000006";
        let none: [&str; 0] = [];
        let partial = |name: &str| format!("{name}.partial");
        for names in [
            &[ONE_4, TWO_5][..],
            &[ONE_4, &partial(ONE_5), TWO_5],
            &[ONE_4, ONE_5, TWO_5, TWO_6],
            &[TWO_5, TWO_6],
            // it begins after the switch, and nothing says that there was more
            &[TWO_6],
        ] {
            assert_eq!(problems(names, "0/512345"), none, "{names:?}");
        }
        // exactly between two segments
        assert_eq!(problems(&[ONE_5, TWO_6], "0/600000"), none);
        // the rest of the segment is only on the timeline that nobody went on with
        let lost = ["WAL of timeline 2 from 0/512345 to 0/600000 is missing"];
        for names in [&[ONE_4, ONE_5, TWO_6][..], &[&partial(ONE_5), TWO_6]] {
            assert_eq!(problems(names, "0/512345"), lost, "{names:?}");
        }
        assert_eq!(
            problems(&[ONE_4, TWO_6], "0/512345"),
            ["WAL of timeline 1 from 0/500000 to 0/600000 is missing"]
        );
        // its end was never received
        let unfinished =
            "000000010000000000000004.partial: it is unfinished, but timeline 2 goes on behind it";
        assert_eq!(problems(&[&partial(ONE_4), TWO_5], "0/512345"), [unfinished]);
    }
}
