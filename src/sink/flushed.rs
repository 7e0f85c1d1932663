//! The proof that WAL is durable.

use std::fmt;

use crate::pg::{Lsn, TimelineId};

/// All bytes of a timeline below this position, from where the stream began, survive a loss of power.
///
/// Only the sink can make one, so whoever holds one may acknowledge it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlushedLsn {
    timeline: TimelineId,
    lsn: Lsn,
}

impl FlushedLsn {
    pub(super) fn new(timeline: TimelineId, lsn: Lsn) -> Self {
        FlushedLsn { timeline, lsn }
    }

    /// The timeline whose files hold the bytes.
    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The first byte that may be lost.
    pub fn lsn(self) -> Lsn {
        self.lsn
    }
}

/// How far a timeline is in the archive, and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedLsn {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte that is not.
    pub lsn: Lsn,
}

impl fmt::Debug for FlushedLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}
