//! Until a server has an LSN: so that a session reads what it, or another one, wrote elsewhere.
//!
//! A standby has it when it has replayed it, a primary when it has flushed it. Servers from 19 on are told to wait
//! (`WAIT FOR LSN`), older ones are asked again and again.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::ErrorClass;
use crate::client::Sql;
use crate::inspect::InspectError;
use crate::inspect::recovery::{
    ReadablePosition, Recovery, ReplayPause, WalLayout, readable_position, recovery, wait_for_replay,
    wal_layout,
};
use crate::pg::Lsn;
use crate::pg::wal_page::{LONG_PAGE_HEADER_LEN, SHORT_PAGE_HEADER_LEN};

/// An LSN that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reached {
    /// What was waited for.
    pub lsn: Lsn,
    /// Whether it was a standby that has it.
    pub in_recovery: bool,
    /// How far the server was when it was seen.
    pub reached_lsn: Lsn,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Why it was not reached.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The server was not asked.
    #[error("could not wait for {lsn}")]
    Ask {
        /// What was waited for.
        lsn: Lsn,
        /// Why not.
        #[source]
        source: InspectError,
    },
    /// Time is over.
    #[error("{lsn} was not {verb} within {} s", .timeout.as_secs_f64())]
    Timeout {
        /// What was waited for.
        lsn: Lsn,
        /// `replayed`, or on a primary `flushed`.
        verb: &'static str,
        /// How long was waited.
        timeout: Duration,
        /// What the server does instead.
        #[source]
        source: Lagging,
    },
}

/// Why a server is not where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lagging {
    /// Somebody has paused it.
    #[error("replay is paused at {0}")]
    Paused(Lsn),
    /// What it has received does not reach that far, and nothing comes.
    #[error("the standby has received WAL up to {0}, and its WAL receiver is not running")]
    NoReceiver(Lsn),
    /// It is on its way.
    #[error("the standby has replayed up to {replayed_lsn}, and received up to {received_lsn}")]
    Behind {
        /// What is replayed.
        replayed_lsn: Lsn,
        /// What has come.
        received_lsn: Lsn,
    },
    /// A primary, on which nobody has written that far.
    #[error("this is a primary, whose WAL is flushed up to {0}")]
    Primary(Lsn),
}

impl WaitError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            WaitError::Ask { source, .. } => source.class(),
            WaitError::Timeout { .. } => ErrorClass::Transient,
        }
    }
}

/// Between the first two questions.
const FIRST_INTERVAL: Duration = Duration::from_millis(10);

/// Between two questions, later on.
const LAST_INTERVAL: Duration = Duration::from_millis(100);

/// How long a server is left waiting at a time: it does not notice at once that nobody waits for it any more.
const SERVER_WAIT: Duration = Duration::from_secs(2);

/// Waits; for ever where there is no `timeout`.
pub async fn wait(sql: &Sql, lsn: Lsn, timeout: Option<Duration>) -> Result<Reached, WaitError> {
    let started_at = Instant::now();
    let ask = |source| WaitError::Ask { lsn, source };
    let layout = wal_layout(sql).await.map_err(ask)?;
    let wanted = before_page_header(lsn, layout);
    let mut interval = FIRST_INTERVAL;
    loop {
        let ReadablePosition { in_recovery, lsn: position } = readable_position(sql).await.map_err(ask)?;
        if let Some(reached_lsn) = position.filter(|position| *position >= wanted) {
            let seconds = started_at.elapsed().as_secs_f64();
            return Ok(Reached { lsn, in_recovery, reached_lsn, seconds });
        }
        let left = timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(started_at.elapsed()));
        if left.is_zero() {
            let found = recovery(sql).await.map_err(ask)?;
            let verb = if in_recovery { "replayed" } else { "flushed" };
            let timeout = timeout.unwrap_or_default();
            return Err(WaitError::Timeout { lsn, verb, timeout, source: lagging(&found) });
        }
        if in_recovery && sql.version().has_wait_for_lsn() {
            wait_for_replay(sql, wanted, left.min(SERVER_WAIT)).await.map_err(ask)?;
        } else {
            tokio::time::sleep(interval.min(left)).await;
            interval = (interval * 3 / 2).min(LAST_INTERVAL);
        }
    }
}

/// The end of the record before, where `lsn` is the first place in a page that a record can be at. That is what
/// `pg_current_wal_insert_lsn()` answers there, and what no server has replayed or flushed before the next record comes.
/// No record ends there.
fn before_page_header(lsn: Lsn, layout: WalLayout) -> Lsn {
    let offset = layout.segment_size.offset_of(lsn);
    let in_page = offset % layout.page_len.max(1);
    let header_len = if offset == in_page { LONG_PAGE_HEADER_LEN } else { SHORT_PAGE_HEADER_LEN } as u64;
    if in_page == header_len { Lsn::new(lsn.as_u64() - header_len) } else { lsn }
}

fn lagging(found: &Recovery) -> Lagging {
    let replayed_lsn = found.replayed_lsn.unwrap_or(Lsn::INVALID);
    let received_lsn = found.received_lsn.unwrap_or(replayed_lsn);
    if !found.in_recovery {
        return Lagging::Primary(found.flush_lsn.unwrap_or(Lsn::INVALID));
    }
    match (found.pause, &found.receiver) {
        (Some(ReplayPause::Paused | ReplayPause::Requested), _) => Lagging::Paused(replayed_lsn),
        (_, None) => Lagging::NoReceiver(received_lsn),
        _ => Lagging::Behind { replayed_lsn, received_lsn },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::WalSegmentSize;

    #[test]
    fn what_lies_behind_a_page_header_is_reached_before_it() {
        let layout = WalLayout { page_len: 8192, segment_size: WalSegmentSize::DEFAULT };
        for (lsn, wanted) in [
            ("0/3000028", "0/3000000"),
            ("0/3000018", "0/3000018"),
            ("0/3002018", "0/3002000"),
            ("0/3002028", "0/3002028"),
            ("0/3000000", "0/3000000"),
            ("0/3001FF8", "0/3001FF8"),
        ] {
            let found = before_page_header(lsn.parse().unwrap(), layout);
            assert_eq!(found, wanted.parse().unwrap(), "{lsn}");
        }
    }
}
