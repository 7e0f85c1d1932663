//! A server that shuts down, and waits for us.
//!
//! A walsender that has sent everything ends once that is flushed here (`WalSndDone` in PostgreSQL's `walsender.c`): until then it
//! pings again as soon as it was answered, and every answer puts off its `wal_sender_timeout`. With a disk that hangs, that
//! would hold up the shutdown for ever. A standby in the same situation is silent, because it does not answer while it
//! syncs, and is given up after a minute; so that long is waited here. Nothing is lost by leaving then: the server has the WAL,
//! and a slot holds it.
//!
//! While nothing is read, because there is no room for more, its pings are not even seen, and our status updates put off
//! its timeout all the same. So such a pause has an end, too.

use std::time::Duration;

use crate::pg::Lsn;

/// How long a server waits for the disk in its shutdown: the default of `wal_sender_timeout`.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Pings that follow each other faster than this are those of a shutdown: else they come after half of `wal_sender_timeout`.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// How long reading is paused for a disk that hangs with more than fits into memory. Longer than [`LONGEST_WAIT`]: to be connected
/// again would not help the disk, and few that hang for two minutes are lost.
const LONGEST_PAUSE: Duration = Duration::from_secs(180);

/// Reading is paused, or it is not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pause {
    since: Option<Duration>,
}

impl Pause {
    pub(super) fn begin(&mut self, now: Duration) {
        self.since = Some(now);
    }

    pub(super) fn end(&mut self) {
        self.since = None;
    }

    pub(super) fn is_on(self) -> bool {
        self.since.is_some()
    }

    /// More is durable: the disk does not hang.
    pub(super) fn progressed(&mut self, now: Duration) {
        self.since = self.since.map(|_| now);
    }

    /// When it has lasted too long, and how long that is.
    pub(super) fn bound(self, all_is_durable: bool) -> Option<(Duration, Duration)> {
        let longest = if all_is_durable { LONGEST_WAIT } else { LONGEST_PAUSE };
        Some((self.since?.saturating_add(longest), longest))
    }
}

/// Pings that come one upon the other while what is durable stands still.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShutdownWatch {
    run: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    flush_lsn: Lsn,
    began_at: Duration,
    last_at: Duration,
}

impl ShutdownWatch {
    /// A ping came, and what was received is durable up to `flush_lsn`, which is not all. Says whether the server has waited for
    /// longer than [`LONGEST_WAIT`].
    pub(super) fn has_waited(&mut self, now: Duration, flush_lsn: Lsn) -> bool {
        let new = Run { flush_lsn, began_at: now, last_at: now };
        let run = self.run.get_or_insert(new);
        if run.flush_lsn != flush_lsn || now.saturating_sub(run.last_at) > PING_INTERVAL {
            *run = new;
        }
        run.last_at = now;
        now.saturating_sub(run.began_at) > LONGEST_WAIT
    }
}
