//! How long the disk takes to make something durable, for whoever watches it.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// A file's bytes (`fdatasync`).
    Data,
    /// A directory's names (`fsync`).
    Directory,
}

/// Hears of each fsync that succeeded, on the thread that waited for it. What fails ends everything anyway.
pub trait SyncObserver: std::fmt::Debug + Send + Sync {
    /// It took so long.
    fn synced(&self, what: Synced, took: Duration);
}

/// Runs from the beginning of an fsync until it is stopped. Reads no clock when nobody wants to know.
pub(super) struct SyncTimer(Option<(Arc<dyn SyncObserver>, Synced, Instant)>);

impl SyncTimer {
    pub(super) fn start(observer: Option<&Arc<dyn SyncObserver>>, what: Synced) -> Self {
        SyncTimer(observer.map(|observer| (Arc::clone(observer), what, Instant::now())))
    }

    pub(super) fn stop(self) {
        if let Some((observer, what, started_at)) = self.0 {
            observer.synced(what, started_at.elapsed());
        }
    }
}
