//! How archiving goes, for whoever asks, from whatever thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::store::ArchiveStore;
use super::{Archived, Standing, Told};

/// What is not in the archive; written by the thread that archives.
#[derive(Debug)]
pub(super) struct Stats {
    began: Instant,
    behind_len: AtomicU64,
    /// Since when the oldest of it is durable here, in nanoseconds after `began`; [`u64::MAX`]: there is none.
    oldest_at: AtomicU64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Stats { began: Instant::now(), behind_len: AtomicU64::new(0), oldest_at: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn set(&self, behind_len: u64, oldest: Option<Instant>) {
        let nanos = oldest.map(|at| u64::try_from(at.saturating_duration_since(self.began).as_nanos()));
        self.oldest_at.store(nanos.and_then(Result::ok).unwrap_or(u64::MAX), Ordering::Relaxed);
        // of whoever sees that there is room the rest is seen, too
        self.behind_len.store(behind_len, Ordering::Release);
    }

    pub(super) fn behind_len(&self) -> u64 {
        self.behind_len.load(Ordering::Acquire)
    }

    fn oldest_age(&self) -> Option<Duration> {
        let nanos = self.oldest_at.load(Ordering::Relaxed);
        (nanos != u64::MAX).then(|| self.began.elapsed().saturating_sub(Duration::from_nanos(nanos)))
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
