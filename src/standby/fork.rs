//! Whether a standby can go on from another server's WAL: its own must be a part of that server's history.

use crate::pg::{Lsn, TimelineHistory, TimelineId};

/// Why a standby's WAL is no part of a server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Diverged {
    /// It went where that server never was.
    #[error(
        "the standby is on timeline {timeline}, which is not in the history of timeline {upstream_timeline}"
    )]
    Timeline {
        /// The standby's.
        timeline: TimelineId,
        /// The server's.
        upstream_timeline: TimelineId,
    },
    /// It went on where that server turned off.
    #[error("the standby is at {end_lsn} on timeline {timeline}, which the new primary left at {switch_lsn}")]
    BeyondSwitch {
        /// The standby's timeline.
        timeline: TimelineId,
        /// How far its WAL goes.
        end_lsn: Lsn,
        /// Where the server's history left that timeline.
        switch_lsn: Lsn,
    },
    /// It has WAL that the server has not, on the same timeline.
    #[error("the standby is at {end_lsn}, and the new primary has WAL only up to {flush_lsn}")]
    Ahead {
        /// How far the standby's WAL goes.
        end_lsn: Lsn,
        /// How far the server's does.
        flush_lsn: Lsn,
    },
}

/// How far WAL of `timeline` may go to be a part of `history`, whose server has flushed up to `flush_lsn`.
pub fn limit(history: &TimelineHistory, timeline: TimelineId, flush_lsn: Lsn) -> Result<Lsn, Diverged> {
    if !history.contains(timeline) {
        return Err(Diverged::Timeline { timeline, upstream_timeline: history.timeline() });
    }
    Ok(history.switch_point(timeline).unwrap_or(flush_lsn))
}

/// What is wrong with WAL that goes beyond [`limit`].
pub fn beyond(history: &TimelineHistory, timeline: TimelineId, end_lsn: Lsn, limit: Lsn) -> Diverged {
    match history.switch_point(timeline) {
        Some(switch_lsn) => Diverged::BeyondSwitch { timeline, end_lsn, switch_lsn },
        None => Diverged::Ahead { end_lsn, flush_lsn: limit },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_sets_the_limit() {
        let (one, two, three) = (TimelineId::FIRST, TimelineId::new(2).unwrap(), TimelineId::new(3).unwrap());
        let (fork, flush) = ("0/3000100".parse().unwrap(), "0/4000000".parse().unwrap());
        let history = TimelineHistory::parse(three, b"1\t0/3000100\tno recovery target specified\n").unwrap();
        assert_eq!(limit(&history, one, flush), Ok(fork));
        assert_eq!(limit(&history, three, flush), Ok(flush));
        let diverged = Diverged::Timeline { timeline: two, upstream_timeline: three };
        assert_eq!(limit(&history, two, flush), Err(diverged));
        let beyond_fork = beyond(&history, one, flush, fork);
        assert_eq!(beyond_fork, Diverged::BeyondSwitch { timeline: one, end_lsn: flush, switch_lsn: fork });
        assert!(matches!(beyond(&history, three, flush, fork), Diverged::Ahead { .. }));
    }
}
