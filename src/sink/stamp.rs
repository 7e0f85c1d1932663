//! The file that says whose WAL a directory holds.
//!
//! `pg_receivewal` remembers nothing of the kind: pointed at another cluster, it appends that one's WAL to the
//! directory. Here the identifier and the segment size are compared at every connection.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::SinkError;
use crate::pg::{SystemIdentifier, WalSegmentSize};

/// Whose WAL it is, and how it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterStamp {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its segments' size.
    pub segment_size: WalSegmentSize,
}

/// What two clusters' WAL cannot have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterDifference {
    /// They are two clusters.
    System {
        /// Whose WAL comes.
        expected: SystemIdentifier,
        /// Whose is there.
        found: SystemIdentifier,
    },
    /// It is cut differently.
    SegmentSize {
        /// The length of what comes.
        expected: u64,
        /// The length of what is there.
        found: u64,
    },
}

/// The stamp as it is written: JSON, so that a person can read it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    system_identifier: String,
    wal_segment_size: u64,
}

impl ClusterStamp {
    /// The stamp's file name.
    pub const FILE_NAME: &'static str = ".pgwake.stamp";
    /// The longest content taken, in bytes.
    pub(super) const MAX_LEN: usize = 4096;
    const FORMAT: u32 = 1;

    /// The stamp in a directory; `None` where there is none, or none that can be read: who writes there says what is wrong with it.
    pub fn of(directory: &Path) -> Option<Self> {
        let mut content = Vec::new();
        let file = File::open(directory.join(Self::FILE_NAME)).ok()?;
        file.take(Self::MAX_LEN as u64).read_to_end(&mut content).ok()?;
        Self::decode(&content)
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let content = Content {
            format: Self::FORMAT,
            system_identifier: self.system_identifier.to_string(),
            wal_segment_size: self.segment_size.as_u64(),
        };
        let mut text = serde_json::to_vec(&content).expect("strings and numbers can be written as JSON");
        text.push(b'\n');
        text
    }

    /// `None`: not a stamp, or one of a format not known here.
    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let content: Content = serde_json::from_slice(content).ok()?;
        if content.format != Self::FORMAT {
            return None;
        }
        Some(ClusterStamp {
            system_identifier: content.system_identifier.parse().ok()?,
            segment_size: WalSegmentSize::from_bytes(content.wal_segment_size).ok()?,
        })
    }

    /// What tells WAL of `self` from that of `found`; `None`: nothing, the one goes on where the other ends.
    pub fn difference(self, found: ClusterStamp) -> Option<ClusterDifference> {
        if found.system_identifier != self.system_identifier {
            let (expected, found) = (self.system_identifier, found.system_identifier);
            return Some(ClusterDifference::System { expected, found });
        }
        let (expected, found) = (self.segment_size.as_u64(), found.segment_size.as_u64());
        (expected != found).then_some(ClusterDifference::SegmentSize { expected, found })
    }

    /// Whether WAL of `self` may go into a directory of `found`.
    pub(super) fn check_against(self, found: ClusterStamp) -> Result<(), SinkError> {
        Err(match self.difference(found) {
            None => return Ok(()),
            Some(ClusterDifference::System { expected, found }) => SinkError::OtherSystem { expected, found },
            Some(ClusterDifference::SegmentSize { expected, found }) => {
                SinkError::OtherSegmentSize { expected, found }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let stamp = ClusterStamp {
            system_identifier: SystemIdentifier::new(7_710_876_330_348_008_478),
            segment_size: WalSegmentSize::DEFAULT,
        };
        let content = stamp.encode();
        assert_eq!(ClusterStamp::decode(&content), Some(stamp));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ClusterStamp::of(directory.path()), None);
        std::fs::write(directory.path().join(ClusterStamp::FILE_NAME), &content).unwrap();
        assert_eq!(ClusterStamp::of(directory.path()), Some(stamp));
        for damaged in [&b""[..], &content[1..], b"{}", &content[..content.len() / 2]] {
            assert_eq!(ClusterStamp::decode(damaged), None);
        }
        let newer = String::from_utf8(content).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(ClusterStamp::decode(newer.as_bytes()), None);
    }
}
