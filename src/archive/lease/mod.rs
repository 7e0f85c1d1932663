//! One writer at a time: whoever archives holds a lease, an object in the store with a number that only grows.
//!
//! To take an archive is to create the object of the next number, which the store lets only one do. The holder rewrites its
//! own object every third of the lease and then looks for a higher number: as long as there is none, the archive is its own
//! for the time of the lease from when it began to write. Nothing is put up, and nothing is told to be archived, without
//! that. Whoever wants the archive of a holder that does not say that it has gone watches it: when its object has not changed
//! for longer than the lease, by the watcher's own clock, the holder knows by its own that the time is up. No two machines'
//! clocks are compared. A process that was stopped, or a machine that slept, finds its time up when it wakes.
//!
//! What such a one still had on its way arrives late, under its own number, and readers do not count it
//! ([`counted`](super::layout::counted)).

mod acquire;
mod holder;
mod record;

use std::time::Duration;

use rustix::time::ClockId;
use tokio::sync::watch;

use super::error::ArchiveError;
use super::layout::{self, Generation, LEASE_PREFIX};
use super::retry::is_transient;
use super::store::ArchiveStore;
use crate::pg::{Lsn, TimelineId};

pub(super) use acquire::{Patience, acquire};
pub(super) use holder::Holder;
pub use record::LeaseRecord;

/// The right to write, as long as it lasts. Its copies are one.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    generation: Generation,
    term: watch::Receiver<Term>,
}

/// How long the right lasts.
#[derive(Debug, Clone)]
enum Term {
    /// Up to this moment of [`now`].
    Until(Duration),
    /// It is somebody else's.
    Taken(Generation, Box<LeaseRecord>),
}

impl Lease {
    /// The number that goes into the names of what is written.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the archive is this one's at this moment.
    pub(super) fn is_valid(&self) -> bool {
        matches!(*self.term.borrow(), Term::Until(end) if now() < end)
    }

    /// Waits until it is, or is known not to be any more.
    pub(super) async fn valid(&self) -> Result<(), ArchiveError> {
        let mut term = self.term.clone();
        let settled = |term: &Term| match term {
            Term::Until(end) => now() < *end,
            Term::Taken(..) => true,
        };
        match term.wait_for(settled).await.as_deref() {
            Ok(Term::Until(_)) => Ok(()),
            Ok(Term::Taken(generation, by)) => {
                Err(ArchiveError::Fenced { generation: *generation, by: by.clone() })
            }
            Err(_) => Err(ArchiveError::ThreadEnded),
        }
    }

    /// Resolves when it is renewed, or taken.
    pub(super) async fn changed(&mut self) -> Result<(), ArchiveError> {
        self.term.changed().await.map_err(|_| ArchiveError::ThreadEnded)?;
        match &*self.term.borrow_and_update() {
            Term::Until(_) => Ok(()),
            Term::Taken(generation, by) => {
                Err(ArchiveError::Fenced { generation: *generation, by: by.clone() })
            }
        }
    }
}

/// Who keeps the lease: polled beside everything else, for as long as the lease is wanted.
#[derive(Debug)]
pub(super) struct Keeper {
    store: ArchiveStore,
    generation: Generation,
    record: LeaseRecord,
    term: watch::Sender<Term>,
    archived: watch::Receiver<Reached>,
}

/// Up to where all is archived, on which timeline; `None` before that is known.
pub(super) type Reached = Option<(TimelineId, Lsn)>;

/// How often the lease is renewed within its time.
const BEATS: u32 = 3;

impl Keeper {
    fn new(
        store: ArchiveStore,
        generation: Generation,
        record: LeaseRecord,
        until: Duration,
    ) -> (Self, Lease) {
        let (sender, term) = watch::channel(Term::Until(until));
        let (_, archived) = watch::channel(None);
        (Keeper { store, generation, record, term: sender, archived }, Lease { generation, term })
    }

    /// Says from now on how far is archived, too.
    pub(super) fn telling(self, archived: watch::Receiver<Reached>) -> Self {
        Keeper { archived, ..self }
    }

    /// Renews the lease until it is taken. A store that is away is asked again; meanwhile the time runs out.
    pub(super) async fn keep(&mut self) {
        let pause = self.record.lease() / BEATS;
        let mut told = false;
        loop {
            match self.beat().await {
                Ok(Beat::Held) => {
                    if std::mem::take(&mut told) {
                        tracing::info!("the archive's lease is renewed; archiving goes on");
                    }
                    tokio::time::sleep(pause).await;
                }
                Ok(Beat::Taken) => return,
                Err(error) => {
                    let over = matches!(*self.term.borrow(), Term::Until(end) if now() >= end);
                    if !is_transient(&error) || (over && !std::mem::replace(&mut told, true)) {
                        let source = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(%error, source, "the archive's lease has run out; nothing is archived until it is renewed");
                    }
                    tokio::time::sleep((pause / 4).min(Duration::from_secs(5))).await;
                }
            }
        }
    }

    async fn beat(&mut self) -> Result<Beat, ArchiveError> {
        let started = now();
        self.record.beat += 1;
        self.note_archived();
        self.store.replace(&layout::lease_key(self.generation), self.record.encode()).await?;
        let Some((generation, record)) = latest(&self.store).await? else {
            // an object that was there a moment ago: somebody empties the archive
            return Ok(Beat::Held);
        };
        if generation > self.generation {
            self.term.send_replace(Term::Taken(generation, Box::new(record)));
            return Ok(Beat::Taken);
        }
        self.term.send_replace(Term::Until(started + self.record.lease()));
        Ok(Beat::Held)
    }

    fn note_archived(&mut self) {
        let archived = *self.archived.borrow();
        if let Some(archived) = archived {
            self.record.reach(archived);
        }
    }

    /// Says that it has gone, so that nobody waits for it; and whether it has archived all.
    pub(super) async fn release(mut self, archived_all: bool) {
        if matches!(*self.term.borrow(), Term::Taken(..)) {
            return;
        }
        (self.record.ended, self.record.archived_all) = (true, archived_all);
        self.record.beat += 1;
        self.note_archived();
        let key = layout::lease_key(self.generation);
        if let Err(error) = self.store.replace(&key, self.record.encode()).await {
            tracing::debug!(%error, "the archive's lease was not given back");
        }
    }
}

enum Beat {
    Held,
    Taken,
}

/// The last writer; `None` where nobody ever was.
pub async fn last_holder(store: &ArchiveStore) -> Result<Option<LeaseRecord>, ArchiveError> {
    Ok(latest(store).await?.map(|(_, record)| record))
}

/// The holder with the highest number; `None` where nobody ever was.
async fn latest(store: &ArchiveStore) -> Result<Option<(Generation, LeaseRecord)>, ArchiveError> {
    // the one that was listed may make room for the next
    for _ in 0..3 {
        let listed = store.list(LEASE_PREFIX).await?;
        let latest = listed.iter().filter_map(|object| layout::parse_lease_key(&object.key)).max();
        let Some(generation) = latest else { return Ok(None) };
        if let Some(record) = read(store, generation).await? {
            return Ok(Some((generation, record)));
        }
    }
    let key = LEASE_PREFIX.to_owned();
    Err(ArchiveError::Lease { key })
}

async fn read(store: &ArchiveStore, generation: Generation) -> Result<Option<LeaseRecord>, ArchiveError> {
    let key = layout::lease_key(generation);
    let Some(content) = store.read(&key, LeaseRecord::MAX_LEN).await? else { return Ok(None) };
    LeaseRecord::decode(&content).map(Some).ok_or(ArchiveError::Lease { key })
}

/// Time that goes on while a process is stopped, and while its machine sleeps.
fn now() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests;
