//! How archiving goes, for whoever asks, from whatever thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::store::ArchiveStore;
use super::{Archived, Standing, Told};

/// What is not in the archive: what the thread that archives has counted, and what has become durable since it did, which may be
/// long ago where a store is away.
#[derive(Debug)]
pub(super) struct Stats {
    began: Instant,
    counted: Mutex<Counted>,
    /// Bytes that have become durable in this run.
    flushed_len: AtomicU64,
    /// Since when there is more than was counted, in nanoseconds after `began`; [`NEVER`]: there is no more.
    more_since: AtomicU64,
}

#[derive(Debug)]
struct Counted {
    behind_len: u64,
    /// Since when the oldest of it is durable here.
    oldest_at: Option<Instant>,
    /// How much had become durable in this run.
    flushed_len: u64,
}

const NEVER: u64 = u64::MAX;

impl Stats {
    pub(super) fn new() -> Self {
        Stats {
            began: Instant::now(),
            counted: Mutex::new(Counted { behind_len: 0, oldest_at: None, flushed_len: 0 }),
            flushed_len: AtomicU64::new(0),
            more_since: AtomicU64::new(NEVER),
        }
    }

    /// So much has become durable in this run.
    pub(super) fn flushed(&self, flushed_len: u64) {
        self.flushed_len.store(flushed_len, Ordering::Release);
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(NEVER - 1);
        let _ = self.more_since.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// So much of what is durable is not in the archive, counted when `flushed_len` had become durable in this run.
    pub(super) fn count(&self, behind_len: u64, oldest_at: Option<Instant>, flushed_len: u64) {
        *self.counted() = Counted { behind_len, oldest_at, flushed_len };
        // what comes at this moment is counted next
        self.more_since.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn behind_len(&self) -> u64 {
        let counted = self.counted();
        counted.behind_len + self.flushed_len.load(Ordering::Acquire).saturating_sub(counted.flushed_len)
    }

    fn oldest_age(&self) -> Option<Duration> {
        let counted = self.counted().oldest_at.map(|at| at.elapsed());
        let since = self.more_since.load(Ordering::Relaxed);
        let more = (since != NEVER).then(|| self.began.elapsed().saturating_sub(Duration::from_nanos(since)));
        counted.max(more)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where to ask how archiving goes.
#[derive(Debug, Clone)]
pub struct ArchiveWatch {
    pub(super) stats: Arc<Stats>,
    pub(super) told: watch::Receiver<Told>,
    pub(super) store: ArchiveStore,
}

impl ArchiveWatch {
    /// How far the archive is; `None` before that is known.
    pub fn archived(&self) -> Option<Archived> {
        self.told.borrow().archived
    }

    /// Bytes that are durable in the directory and not in the archive, older timelines' included.
    pub fn behind_len(&self) -> u64 {
        self.stats.behind_len()
    }

    /// How long the oldest of them has been durable in the directory, or known to be.
    pub fn oldest_age(&self) -> Option<Duration> {
        self.stats.oldest_age()
    }

    /// How it stands with the right to write.
    pub fn standing(&self) -> Standing {
        self.told.borrow().standing
    }

    /// How many requests the store has failed, those that were repeated within a request not counted.
    pub fn failure_count(&self) -> u64 {
        self.store.failure_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_counted_is_behind() {
        let stats = Stats::new();
        assert_eq!((stats.behind_len(), stats.oldest_age()), (0, None));
        let second = Duration::from_secs(1);
        for len in [100, 250] {
            stats.flushed(len);
            tokio::time::advance(second).await;
        }
        assert_eq!((stats.behind_len(), stats.oldest_age()), (250, Some(2 * second)));
        // all but the last of it is up
        stats.count(50, Some(Instant::now() - second), 250);
        assert_eq!((stats.behind_len(), stats.oldest_age()), (50, Some(second)));
        stats.flushed(300);
        stats.count(0, None, 250);
        stats.flushed(310);
        tokio::time::advance(second).await;
        assert_eq!((stats.behind_len(), stats.oldest_age()), (60, Some(second)));
    }
}
