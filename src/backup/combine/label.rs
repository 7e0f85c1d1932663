//! `backup_label`, as a link of a chain of backups. No I/O.
//!
//! Answers to `parse_backup_label` and `write_backup_label` in PostgreSQL's `pg_combinebackup/backup_label.c`, with their
//! words for what is wrong. Of what recovery needs besides, nothing is looked at: the lines go into the result as they
//! are. Stricter in one thing: a number with a sign or a prefix is none.

use super::error::LabelProblem;
use crate::pg::{Lsn, TimelineId};

/// The longest content taken: what the original takes.
pub(in crate::backup) const MAX_LABEL_LEN: u64 = 10_000 + 1_024;

/// Where a backup starts, and which one it builds upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct ChainLabel {
    pub(in crate::backup) start: ChainPoint,
    pub(in crate::backup) incremental_from: Option<ChainPoint>,
}

/// A position on a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct ChainPoint {
    pub(in crate::backup) lsn: Lsn,
    pub(in crate::backup) timeline: TimelineId,
}

const START_LSN: &str = "START WAL LOCATION";
const START_TLI: &str = "START TIMELINE";
const FROM_LSN: &str = "INCREMENTAL FROM LSN";
const FROM_TLI: &str = "INCREMENTAL FROM TLI";

impl ChainLabel {
    pub(in crate::backup) fn parse(content: &[u8]) -> Result<Self, LabelProblem> {
        let (mut start_lsn, mut start_timeline, mut from_lsn, mut from_timeline) = (None, None, None, None);
        for line in content.split_inclusive(|&byte| byte == b'\n') {
            if let Some(value) = value_of(line, START_LSN) {
                start_lsn = Some(parse_lsn(value, START_LSN, b' ')?);
            } else if let Some(value) = value_of(line, START_TLI) {
                start_timeline = Some(parse_timeline(value, LabelProblem::Timeline(START_TLI))?);
            } else if let Some(value) = value_of(line, FROM_LSN) {
                from_lsn = Some(parse_lsn(value, FROM_LSN, b'\n')?);
            } else if let Some(value) = value_of(line, FROM_TLI) {
                from_timeline = Some(parse_timeline(value, LabelProblem::Lsn(FROM_TLI))?);
            }
        }
        let lsn = start_lsn.ok_or(LabelProblem::Missing(START_LSN))?;
        let timeline = start_timeline.ok_or(LabelProblem::Missing(START_TLI))?;
        let incremental_from = match (from_lsn, from_timeline) {
            (Some(lsn), Some(timeline)) => Some(ChainPoint { lsn, timeline }),
            (Some(_), None) => return Err(LabelProblem::Requires(FROM_LSN, FROM_TLI)),
            (None, Some(_)) => return Err(LabelProblem::Requires(FROM_TLI, FROM_LSN)),
            (None, None) => None,
        };
        Ok(ChainLabel { start: ChainPoint { lsn, timeline }, incremental_from })
    }
}

/// The content for a full backup: without the lines that name the one before.
pub(in crate::backup) fn without_incremental_lines(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|&byte| byte == b'\n');
    lines
        .filter(|line| value_of(line, FROM_LSN).is_none() && value_of(line, FROM_TLI).is_none())
        .flatten()
        .copied()
        .collect()
}

fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")
}

/// A position, and what has to follow it.
fn parse_lsn(value: &[u8], name: &'static str, terminator: u8) -> Result<Lsn, LabelProblem> {
    let end = value.iter().position(|&byte| byte != b'/' && !byte.is_ascii_hexdigit()).unwrap_or(value.len());
    let text = std::str::from_utf8(&value[..end]).map_err(|_| LabelProblem::Lsn(name))?;
    let lsn = text.parse().map_err(|_| LabelProblem::Lsn(name))?;
    if value.get(end) == Some(&terminator) { Ok(lsn) } else { Err(LabelProblem::Terminator(name)) }
}

fn parse_timeline(value: &[u8], problem: LabelProblem) -> Result<TimelineId, LabelProblem> {
    let digits =
        value.strip_suffix(b"\n").filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(problem)?;
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(problem)?;
    TimelineId::new(number).ok_or(LabelProblem::InvalidTimeline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &str = "START WAL LOCATION: 0/5000028 (file 000000010000000000000005)\n\
        CHECKPOINT LOCATION: 0/5000080\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-25 22:25:46 GMT\nLABEL: pg_basebackup base backup\nSTART TIMELINE: 2\n";
    const FROM: &str = "INCREMENTAL FROM LSN: 1/03000028\nINCREMENTAL FROM TLI: 1\n";

    #[test]
    fn reads_what_the_server_writes() {
        let timeline = |number| TimelineId::new(number).unwrap();
        let start = ChainPoint { lsn: Lsn::new(0x500_0028), timeline: timeline(2) };
        assert_eq!(ChainLabel::parse(FULL.as_bytes()), Ok(ChainLabel { start, incremental_from: None }));
        let both = format!("{FULL}{FROM}");
        let from = ChainPoint { lsn: Lsn::new(0x1_0300_0028), timeline: timeline(1) };
        assert_eq!(ChainLabel::parse(both.as_bytes()).unwrap().incremental_from, Some(from));
        assert_eq!(without_incremental_lines(both.as_bytes()), FULL.as_bytes());
        assert_eq!(without_incremental_lines(b"no newline"), b"no newline");
    }

    #[test]
    fn says_what_is_wrong_as_the_original_does() {
        for (text, expected) in [
            (FULL.replace("START WAL", "X"), "could not find START WAL LOCATION"),
            (FULL.replace("START TIMELINE", "X"), "could not find START TIMELINE"),
            (FULL.replace("0/5000028 (", "0/5000028("), "improper terminator for START WAL LOCATION"),
            (FULL.replace("0/5000028", "5000028"), "could not parse START WAL LOCATION"),
            (FULL.replace("TIMELINE: 2", "TIMELINE: x"), "could not parse TLI for START TIMELINE"),
            (FULL.replace("TIMELINE: 2", "TIMELINE: 0"), "invalid TLI"),
            (
                format!("{FULL}INCREMENTAL FROM LSN: 0/1\n"),
                "INCREMENTAL FROM LSN requires INCREMENTAL FROM TLI",
            ),
            (
                format!("{FULL}INCREMENTAL FROM TLI: 1\n"),
                "INCREMENTAL FROM TLI requires INCREMENTAL FROM LSN",
            ),
            (format!("{FULL}INCREMENTAL FROM LSN: 0/1 \n"), "improper terminator for INCREMENTAL FROM LSN"),
            (format!("{FULL}INCREMENTAL FROM TLI: 1"), "could not parse INCREMENTAL FROM TLI"),
        ] {
            assert_eq!(ChainLabel::parse(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_goes_without_the_lines_that_name_another(
            lines in proptest::collection::vec(proptest::sample::select(&[
                "START WAL LOCATION: 0/5000028 (file 000000010000000000000005)\n", "START TIMELINE: 2\n",
                "INCREMENTAL FROM LSN: 1/03000028\n", "INCREMENTAL FROM TLI: 1\n", "LABEL: x\n", "\n", "INCREMENTAL",
            ][..]), 0..8),
        ) {
            crate::backup::fuzzing::fuzz_chain_label(lines.concat().as_bytes());
        }

        #[test]
        fn nothing_makes_it_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::backup::fuzzing::fuzz_chain_label(&content);
            let content = [FULL.as_bytes(), &content, FROM.as_bytes()].concat();
            crate::backup::fuzzing::fuzz_chain_label(&content);
        }
    }
}
