//! `backup_label`: where recovery of a backup begins. No I/O.
//!
//! Answers to `build_backup_content` in PostgreSQL's `xlogbackup.c`, which writes it, and `read_backup_label` in
//! `xlogrecovery.c`. Lines may come in any order; unknown ones are ignored, as the server ignores them.

use crate::pg::{Lsn, TimelineId};

/// What recovery, and the next incremental backup, must know about a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// `START WAL LOCATION`: where replay begins.
    pub start_lsn: Lsn,
    /// `CHECKPOINT LOCATION`: the checkpoint record that it begins with.
    pub checkpoint_lsn: Lsn,
    /// `START TIMELINE`; servers before 11 have it only in the name of the segment where replay begins.
    pub start_timeline: TimelineId,
    /// `BACKUP METHOD`: how it was taken; `streamed` from BASE_BACKUP.
    pub method: Option<String>,
    /// `BACKUP FROM`: what it was taken from.
    pub source: Option<BackupSource>,
    /// `START TIME`, as the server printed it.
    pub start_time: Option<String>,
    /// `LABEL`, in whatever encoding.
    pub label: Option<Vec<u8>>,
    /// `INCREMENTAL FROM LSN` and `TLI`: the backup that this one builds upon.
    pub incremental_from: Option<IncrementalReference>,
}

/// What a backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupSource {
    /// A primary.
    Primary,
    /// A server in recovery.
    Standby,
}

/// The start of the backup that an incremental one builds upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementalReference {
    /// Its start position.
    pub lsn: Lsn,
    /// Its start timeline.
    pub timeline: TimelineId,
}

/// Why the content is no backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// More than [`BackupLabel::MAX_LEN`] bytes.
    #[error("backup_label is too long: {0} bytes")]
    TooLong(usize),
    /// A line that must be there is not.
    #[error("line \"{0}\" is missing in backup_label")]
    Missing(&'static str),
    /// A line that cannot be read.
    #[error("invalid line \"{0}\" in backup_label")]
    Invalid(&'static str),
    /// A line given twice.
    #[error("line \"{0}\" is given twice in backup_label")]
    Duplicate(&'static str),
}

const START_LSN: &str = "START WAL LOCATION";
const CHECKPOINT_LSN: &str = "CHECKPOINT LOCATION";
const METHOD: &str = "BACKUP METHOD";
const SOURCE: &str = "BACKUP FROM";
const START_TIME: &str = "START TIME";
const LABEL: &str = "LABEL";
const START_TIMELINE: &str = "START TIMELINE";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN";
const INCREMENTAL_TLI: &str = "INCREMENTAL FROM TLI";

const NAMES: [&str; 9] = [
    START_LSN,
    CHECKPOINT_LSN,
    METHOD,
    SOURCE,
    START_TIME,
    LABEL,
    START_TIMELINE,
    INCREMENTAL_LSN,
    INCREMENTAL_TLI,
];

impl BackupLabel {
    /// The longest content taken, in bytes: many times nine lines, one of them a label of 1 kB.
    pub const MAX_LEN: usize = 16 << 10;

    /// Reads the file's content.
    pub fn parse(content: &[u8]) -> Result<Self, BackupLabelError> {
        if content.len() > Self::MAX_LEN {
            return Err(BackupLabelError::TooLong(content.len()));
        }
        let lines = Lines::collect(content)?;
        let incremental_from = match (lines.find(INCREMENTAL_LSN), lines.find(INCREMENTAL_TLI)) {
            (None, None) => None,
            _ => Some(IncrementalReference {
                lsn: lines.require(INCREMENTAL_LSN, parse_text)?,
                timeline: lines.require(INCREMENTAL_TLI, parse_text)?,
            }),
        };
        let (start_lsn, timeline_of_segment) = lines.require(START_LSN, parse_start)?;
        let start_timeline = lines.optional(START_TIMELINE, parse_text)?.unwrap_or(timeline_of_segment);
        // a server that finds two does not recover
        if start_timeline != timeline_of_segment {
            return Err(BackupLabelError::Invalid(START_TIMELINE));
        }
        Ok(BackupLabel {
            start_lsn,
            checkpoint_lsn: lines.require(CHECKPOINT_LSN, parse_text)?,
            start_timeline,
            method: lines.optional(METHOD, parse_text)?,
            source: lines.optional(SOURCE, parse_source)?,
            start_time: lines.optional(START_TIME, parse_text)?,
            label: lines.find(LABEL).map(<[u8]>::to_vec),
            incremental_from,
        })
    }
}

/// The known lines, in the order of [`NAMES`].
struct Lines<'a>([Option<&'a [u8]>; NAMES.len()]);

impl<'a> Lines<'a> {
    fn collect(content: &'a [u8]) -> Result<Self, BackupLabelError> {
        let mut lines = Lines([None; NAMES.len()]);
        for line in content.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            for (name, slot) in NAMES.into_iter().zip(&mut lines.0) {
                let value = line.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b": "));
                if value.is_some() && std::mem::replace(slot, value).is_some() {
                    return Err(BackupLabelError::Duplicate(name));
                }
            }
        }
        Ok(lines)
    }

    fn find(&self, name: &str) -> Option<&'a [u8]> {
        NAMES.into_iter().zip(self.0).find_map(|(known, value)| if known == name { value } else { None })
    }

    fn optional<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, BackupLabelError> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let parsed = std::str::from_utf8(value).ok().and_then(parse);
        parsed.map(Some).ok_or(BackupLabelError::Invalid(name))
    }

    fn require<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, BackupLabelError> {
        self.optional(name, parse)?.ok_or(BackupLabelError::Missing(name))
    }
}

fn parse_text<T: std::str::FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

/// `0/2000028 (file 000000010000000000000002)`
fn parse_start(value: &str) -> Option<(Lsn, TimelineId)> {
    let (lsn, file) = value.split_once(" (file ")?;
    let name = file.strip_suffix(')')?;
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let timeline = TimelineId::new(u32::from_str_radix(&name[..8], 16).ok()?)?;
    Some((lsn.parse().ok()?, timeline))
}

fn parse_source(value: &str) -> Option<BackupSource> {
    match value {
        "primary" | "master" => Some(BackupSource::Primary),
        "standby" => Some(BackupSource::Standby),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::BackupLabelError as E;
    use super::*;
    use proptest::prelude::*;

    const FULL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-22 08:03:42 GMT\nLABEL: x: y\nSTART TIMELINE: 1\n";

    #[test]
    fn reads_what_the_server_writes() {
        let label = BackupLabel::parse(FULL.as_bytes()).unwrap();
        assert_eq!((label.start_lsn, label.checkpoint_lsn), (Lsn::new(0x200_0028), Lsn::new(0x200_0060)));
        assert_eq!(label.start_timeline, TimelineId::FIRST);
        assert_eq!(label.source, Some(BackupSource::Primary));
        assert_eq!(label.label.as_deref(), Some(&b"x: y"[..]));
        assert_eq!(label.incremental_from, None);
        let reversed: String = FULL.lines().rev().map(|line| line.to_owned() + "\n").collect();
        assert_eq!(BackupLabel::parse(reversed.as_bytes()), Ok(label));
    }

    #[test]
    fn reads_what_servers_before_11_write() {
        let text = FULL.replace("START TIMELINE: 1\n", "").replace("(file 00000001", "(file 0000001C");
        assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().start_timeline.as_u32(), 28);
    }

    #[test]
    fn reads_incremental_backups() {
        let text = format!("{FULL}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 3\n");
        let reference = BackupLabel::parse(text.as_bytes()).unwrap().incremental_from.unwrap();
        assert_eq!((reference.lsn, reference.timeline.as_u32()), (Lsn::new(0x100_0028), 3));
    }

    #[test]
    fn refuses_what_recovery_could_not_use() {
        for (text, expected) in [
            (String::new(), E::Missing(START_LSN)),
            (FULL.replace("CHECKPOINT LOCATION", "X"), E::Missing(CHECKPOINT_LSN)),
            (FULL.replace("TIMELINE: 1", "TIMELINE: 2"), E::Invalid(START_TIMELINE)),
            (FULL.replace("(file 00000001", "(file 00000000"), E::Invalid(START_LSN)),
            (FULL.replace("TIMELINE: 1", "TIMELINE: 0"), E::Invalid(START_TIMELINE)),
            (FULL.replace(" (file 000000010000000000000002)", ""), E::Invalid(START_LSN)),
            (FULL.replace("(file 0", "(file x"), E::Invalid(START_LSN)),
            (FULL.replace("primary", "elsewhere"), E::Invalid(SOURCE)),
            (FULL.repeat(2), E::Duplicate(START_LSN)),
            (format!("{FULL}INCREMENTAL FROM LSN: 0/1\n"), E::Missing(INCREMENTAL_TLI)),
            ("x".repeat(BackupLabel::MAX_LEN + 1), E::TooLong(BackupLabel::MAX_LEN + 1)),
        ] {
            assert_eq!(BackupLabel::parse(text.as_bytes()), Err(expected), "{text}");
        }
        assert_eq!(BackupLabel::parse(b"START TIME: \xFF\n"), Err(E::Missing(START_LSN)));
    }

    proptest! {
        #[test]
        fn the_order_of_lines_is_nothing(order in Just(FULL.lines().collect::<Vec<_>>()).prop_shuffle()) {
            let text: String = order.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(BackupLabel::parse(text.as_bytes()), BackupLabel::parse(FULL.as_bytes()));
        }

        #[test]
        fn what_is_read_can_be_read_again(
            content in proptest::collection::vec(any::<u8>(), 0..200),
            place in 0..=FULL.len(),
        ) {
            crate::backup::fuzzing::fuzz_backup_label(&content);
            let (before, after) = FULL.as_bytes().split_at(place);
            crate::backup::fuzzing::fuzz_backup_label(&[before, &content, after].concat());
        }
    }
}
