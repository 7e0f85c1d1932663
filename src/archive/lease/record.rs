//! What a writer says of itself, in an object of its own that nobody else writes.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::pg::{Lsn, TimelineId};

/// The object's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRecord {
    format: u32,
    /// The directory that is archived, wherever it is: made up once, and kept in it.
    pub holder: String,
    /// The run.
    pub run: String,
    /// The start of the machine.
    pub boot: String,
    /// The machine's name.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The directory's path there.
    pub directory: String,
    /// When it took the archive, by its own clock, for people.
    pub since: String,
    /// How long the archive is its own after it was heard of.
    lease_millis: u64,
    /// Counts up, so that whoever looks twice sees that it lives.
    pub beat: u64,
    /// It has gone, and does not come back.
    pub ended: bool,
    /// When it went, its directory had nothing that the archive does not have.
    #[serde(default)]
    pub archived_all: bool,
    /// Up to where it had archived without a gap when it was heard of last, or whoever had the archive before it.
    #[serde(default)]
    archived: Option<Position>,
}

/// How the record has a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    timeline: u32,
    lsn: String,
}

/// The longest lease that is believed.
const MAX_LEASE: Duration = Duration::from_secs(3600);

/// The longest text in a record that is printed.
const MAX_TEXT: usize = 1024;

impl LeaseRecord {
    /// The longest content taken, in bytes.
    pub const MAX_LEN: u64 = 16 << 10;
    const FORMAT: u32 = 1;

    /// The first word of a run that archives `directory`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        holder: String,
        run: String,
        boot: String,
        host: String,
        directory: String,
        since: String,
        lease: Duration,
    ) -> Self {
        let lease_millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let (format, pid) = (Self::FORMAT, std::process::id());
        LeaseRecord {
            format,
            holder,
            run,
            boot,
            host,
            pid,
            directory,
            since,
            lease_millis,
            beat: 0,
            ended: false,
            archived_all: false,
            archived: None,
        }
    }

    /// Up to where all was archived when this was written, on which timeline.
    pub fn archived(&self) -> Option<(TimelineId, Lsn)> {
        let archived = self.archived.as_ref()?;
        Some((TimelineId::new(archived.timeline)?, archived.lsn.parse().ok()?))
    }

    /// All before `lsn` is archived. A later timeline's archive has what it grew out of; on one timeline it does not get less.
    pub(super) fn reach(&mut self, (timeline, lsn): (TimelineId, Lsn)) {
        if self.archived().is_none_or(|archived| archived < (timeline, lsn)) {
            self.archived = Some(Position { timeline: timeline.as_u32(), lsn: lsn.to_string() });
        }
    }

    /// How long it holds after it was heard of.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_millis).min(MAX_LEASE)
    }

    pub(in crate::archive) fn encode(&self) -> Bytes {
        let mut text = serde_json::to_vec(self).expect("strings and numbers can be written as JSON");
        text.push(b'\n');
        text.into()
    }

    /// `None`: it is none, or of a format not known here.
    pub(in crate::archive) fn decode(content: &[u8]) -> Option<Self> {
        let record: LeaseRecord = serde_json::from_slice(content).ok()?;
        let texts = [&record.host, &record.directory, &record.since];
        let short = texts.iter().all(|text| text.len() <= MAX_TEXT);
        let understood = record.archived.is_none() || record.archived().is_some();
        (record.format == Self::FORMAT && short && understood).then_some(record)
    }
}

/// For people: who that is.
impl fmt::Display for LeaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, pid, directory, since) = (&self.host, self.pid, &self.directory, &self.since);
        write!(f, "process {pid} on {host:?} (directory {directory:?}) since {since}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let text = |text: &str| text.to_owned();
        let mut record = LeaseRecord::new(
            text("holder"),
            text("run"),
            text("boot"),
            text("db\u{7}1"),
            text("/srv/wal"),
            text("2026-11-26T01:02:03Z"),
            Duration::from_secs(30),
        );
        let at = |timeline, lsn| (TimelineId::new(timeline).unwrap(), Lsn::new(lsn));
        assert_eq!(LeaseRecord::decode(&record.encode()), Some(record.clone()));
        for (told, reached) in [(at(1, 700), at(1, 700)), (at(1, 600), at(1, 700)), (at(2, 500), at(2, 500))]
        {
            record.reach(told);
            assert_eq!(record.archived(), Some(reached));
        }
        let content = record.encode();
        assert_eq!(LeaseRecord::decode(&content), Some(record.clone()));
        let nowhere = String::from_utf8(content.to_vec()).unwrap().replace("0/1F4", "0/1F4/");
        assert_eq!(LeaseRecord::decode(nowhere.as_bytes()), None);
        let words = record.to_string();
        assert!(
            words.starts_with("process ") && words.contains("(directory \"/srv/wal\") since 2026"),
            "{words}"
        );
        assert!(words.chars().all(|char| !char.is_control()), "{words:?}");
        for damaged in [&b""[..], &content[1..], b"{}", &content[..content.len() / 2]] {
            assert_eq!(LeaseRecord::decode(damaged), None);
        }
        let newer = String::from_utf8(content.to_vec()).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(LeaseRecord::decode(newer.as_bytes()), None);
    }
}
