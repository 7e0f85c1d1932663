//! Timelines, and the files that say how one grew out of another.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::Lsn;

/// A line of history of a cluster: 1 at first, a higher number after every promotion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that `initdb` begins.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// A timeline from its number; zero is none.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(TimelineId(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// The name of the timeline's history file, such as `00000002.history`. Timeline 1 never has one.
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for TimelineId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.as_u32())
    }
}

/// The text is not the decimal number of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timeline \"{}\"", .text.escape_debug())]
pub struct ParseTimelineIdError {
    text: String,
}

impl FromStr for TimelineId {
    type Err = ParseTimelineIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = if digits_only { text.parse().ok() } else { None };
        number
            .and_then(TimelineId::new)
            .ok_or_else(|| ParseTimelineIdError { text: text.chars().take(64).collect() })
    }
}

/// One ancestor of a timeline: up to `end_lsn`, the history ran on `timeline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineHistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first byte that no longer belongs to it: the switch point.
    pub end_lsn: Lsn,
}

/// The ancestry of a timeline, as its history file tells it.
///
/// Answers to `readTimeLineHistory` in PostgreSQL's `timeline.c`. Stricter in one thing: switch points must
/// not go backwards, because a stream that follows them would go backwards too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<TimelineHistoryEntry>,
}

/// Why the content of a history file cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineHistoryError {
    /// More than [`TimelineHistory::MAX_LEN`] bytes.
    #[error("timeline history file is too long: {0} bytes")]
    TooLong(usize),
    /// A line that is not `timeline`, white space, `LSN`, and perhaps a reason.
    #[error("syntax error in line {line} of timeline history file")]
    Syntax {
        /// Counted from one.
        line: usize,
    },
    /// Timelines must rise from line to line, and stay below the file's own.
    #[error("timeline {found} in line {line} of timeline history file is out of order")]
    TimelineOrder {
        /// Counted from one.
        line: usize,
        /// The offending timeline.
        found: TimelineId,
    },
    /// Switch points must not fall from line to line.
    #[error("switch point {found} in line {line} of timeline history file is before the one above it")]
    SwitchPointOrder {
        /// Counted from one.
        line: usize,
        /// The offending switch point.
        found: Lsn,
    },
}

impl TimelineHistory {
    /// The longest content taken, in bytes: room for tens of thousands of promotions.
    pub const MAX_LEN: usize = 1 << 20;

    /// The history of a timeline without ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        TimelineHistory { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of the history file of `timeline`. The reasons may be in any encoding.
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<Self, TimelineHistoryError> {
        if content.len() > Self::MAX_LEN {
            return Err(TimelineHistoryError::TooLong(content.len()));
        }
        let mut ancestors: Vec<TimelineHistoryEntry> = Vec::new();
        for (index, bytes) in content.split(|&b| b == b'\n').enumerate() {
            let line = index + 1;
            let text = String::from_utf8_lossy(bytes);
            let text = text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let entry = parse_entry(text).ok_or(TimelineHistoryError::Syntax { line })?;
            let previous = ancestors.last();
            if entry.timeline >= timeline || previous.is_some_and(|p| p.timeline >= entry.timeline) {
                return Err(TimelineHistoryError::TimelineOrder { line, found: entry.timeline });
            }
            if previous.is_some_and(|p| p.end_lsn > entry.end_lsn) {
                return Err(TimelineHistoryError::SwitchPointOrder { line, found: entry.end_lsn });
            }
            ancestors.push(entry);
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// The timeline whose history this is.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn ancestors(&self) -> &[TimelineHistoryEntry] {
        &self.ancestors
    }

    /// Whether `timeline` is this one or an ancestor (`tliInHistory`).
    pub fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.ancestors.iter().any(|entry| entry.timeline == timeline)
    }

    /// Where this history left `timeline`: `None` for its own timeline (it has not been left) and for
    /// timelines that are not in it (`tliSwitchPoint`).
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|entry| entry.timeline == timeline).map(|entry| entry.end_lsn)
    }

    /// The timeline on which this history wrote the byte at `lsn` (`tliOfPointInHistory`).
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors.iter().find(|entry| lsn < entry.end_lsn).map_or(self.timeline, |entry| entry.timeline)
    }

    /// The timeline that this history took after `timeline`; `None` when it is the last or not in it.
    pub fn successor_of(&self, timeline: TimelineId) -> Option<TimelineId> {
        let index = self.ancestors.iter().position(|entry| entry.timeline == timeline)?;
        Some(self.ancestors.get(index + 1).map_or(self.timeline, |entry| entry.timeline))
    }
}

fn parse_entry(text: &str) -> Option<TimelineHistoryEntry> {
    let mut fields = text.split_ascii_whitespace();
    let timeline = fields.next()?.parse().ok()?;
    let end_lsn = fields.next()?.parse().ok()?;
    Some(TimelineHistoryEntry { timeline, end_lsn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_the_server_writes() {
        let content = b"1\t0/3000100\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n";
        let history = TimelineHistory::parse(tli(4), content).unwrap();
        assert_eq!(history.switch_point(tli(1)), Some(lsn("0/3000100")));
        assert_eq!(history.switch_point(tli(4)), None);
        assert_eq!(history.timeline_at(lsn("0/30000FF")), tli(1));
        assert_eq!(history.timeline_at(lsn("0/3000100")), tli(2));
        assert_eq!(history.timeline_at(lsn("9/0")), tli(4));
        assert_eq!(history.successor_of(tli(1)), Some(tli(2)));
        assert_eq!(history.successor_of(tli(2)), Some(tli(4)));
        assert_eq!(history.successor_of(tli(4)), None);
        assert!(history.contains(tli(2)) && history.contains(tli(4)) && !history.contains(tli(3)));
    }

    #[test]
    fn reasons_may_be_in_any_encoding() {
        let history = TimelineHistory::parse(tli(2), b"# comment\n  1 0/1 \xFF\xFE\n").unwrap();
        assert_eq!(history.ancestors().len(), 1);
    }

    #[test]
    fn refuses_disorder() {
        use TimelineHistoryError as E;
        let parse = |content: &[u8]| TimelineHistory::parse(tli(3), content);
        assert_eq!(parse(b"1"), Err(E::Syntax { line: 1 }));
        assert_eq!(parse(b"\nx 0/1"), Err(E::Syntax { line: 2 }));
        assert_eq!(parse(b"1 0/1\n1 0/2"), Err(E::TimelineOrder { line: 2, found: tli(1) }));
        assert_eq!(parse(b"3 0/1"), Err(E::TimelineOrder { line: 1, found: tli(3) }));
        assert_eq!(parse(b"1 0/2\n2 0/1"), Err(E::SwitchPointOrder { line: 2, found: lsn("0/1") }));
        assert_eq!(parse(&vec![b'\n'; TimelineHistory::MAX_LEN + 1]), Err(E::TooLong((1 << 20) + 1)));
    }
}
