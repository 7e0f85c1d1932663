//! Taking an archive: at once where nobody has it, after its holder's time where that one is silent, and not at all where it
//! lives.

use std::time::Duration;

use tokio::time::Instant;

use super::super::error::ArchiveError;
use super::super::layout::{self, Generation};
use super::super::retry::retried;
use super::super::store::{ArchiveStore, Creation};
use super::record::LeaseRecord;
use super::{BEATS, Holder, Keeper, Lease, latest, now, read};

/// What to do about an archive that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::archive) enum Patience {
    /// Take it when its holder is silent for the time of the lease.
    UntilSilent,
    /// Take it, whether its holder lives or not.
    TakeOver,
}

/// Somebody who is watched.
struct Watched {
    generation: Generation,
    beat: u64,
    since: Instant,
}

/// How much longer than the lease is waited: clocks run at slightly different speeds.
fn with_margin(lease: Duration) -> Duration {
    lease + lease / 4
}

/// Takes the archive. `waiting` hears of a holder that is silent, and will be waited for. `may_take` is asked once it is known that
/// nobody lives who has it, and before anything is taken; where it says no this gives `None`.
pub(in crate::archive) async fn acquire(
    store: &ArchiveStore,
    holder: &Holder,
    lease: Duration,
    patience: Patience,
    mut waiting: impl FnMut(&LeaseRecord),
    may_take: impl AsyncFnOnce() -> Result<bool, ArchiveError>,
) -> Result<Option<(Keeper, Lease)>, ArchiveError> {
    let mut may_take = Some(may_take);
    let mut record = holder.record(lease);
    let mut watched: Option<Watched> = None;
    let mut told = false;
    loop {
        let Some((generation, found)) = retried(|| latest(store)).await? else {
            if let Some(may_take) = may_take.take() {
                if !may_take().await? {
                    return Ok(None);
                }
                continue;
            }
            match claim(store, Generation::FIRST, &record).await? {
                Some(claimed) => return Ok(Some(claimed)),
                None => continue,
            }
        };
        if let Some(archived) = found.archived() {
            record.reach(archived);
        }
        let held = || ArchiveError::Held { generation, by: Box::new(found.clone()) };
        let next = generation.next().ok_or_else(held)?;
        // the lock on the directory says that an earlier run of this one has ended
        let is_gone = found.ended || (found.holder == record.holder && found.boot == record.boot);
        let now = Instant::now();
        let silence = match &watched {
            _ if is_gone || patience == Patience::TakeOver => None,
            Some(seen) if (seen.generation, seen.beat) == (generation, found.beat) => Some(now - seen.since),
            Some(_) => return Err(held()),
            None => {
                watched = Some(Watched { generation, beat: found.beat, since: now });
                Some(Duration::ZERO)
            }
        };
        match silence {
            Some(silence) if silence < with_margin(found.lease()) => {
                if silence > found.lease() * 3 / (2 * BEATS) && !std::mem::replace(&mut told, true) {
                    waiting(&found);
                }
                tokio::time::sleep(
                    (found.lease() / 20).clamp(Duration::from_millis(20), Duration::from_secs(1)),
                )
                .await;
            }
            _ => {
                if let Some(may_take) = may_take.take() {
                    if !may_take().await? {
                        return Ok(None);
                    }
                    // who has it may have come back meanwhile
                    continue;
                }
                let Some((mut keeper, lease)) = claim(store, next, &record).await? else { continue };
                if !is_gone {
                    if silence.is_none() {
                        waiting(&found);
                    }
                    await_end_of(store, generation, &found, silence.is_none(), &mut keeper).await?;
                }
                // time may have passed since the claim
                if let Err(error) = keeper.beat().await {
                    tracing::debug!(%error, "the archive's lease could not be renewed at once");
                }
                // of no use any more; one that is left is passed over
                let _ = store.remove(&layout::lease_key(generation)).await;
                return Ok(Some((keeper, lease)));
            }
        }
    }
}

/// The one before is told of us with its next look, which it takes within its lease, or not at all any more. What it
/// acknowledges until then counts.
async fn await_end_of(
    store: &ArchiveStore,
    generation: Generation,
    found: &LeaseRecord,
    is_forced: bool,
    keeper: &mut Keeper,
) -> Result<(), ArchiveError> {
    let lives = is_forced || {
        // it may have come back between the last look and the claim
        let again = retried(|| read(store, generation)).await?;
        again.is_some_and(|again| again.beat != found.beat && !again.ended)
    };
    if lives {
        // whoever takes the archive meanwhile is heard of later
        let _ = tokio::time::timeout(with_margin(found.lease()), keeper.keep()).await;
    }
    Ok(())
}

/// Creates the object of this number, unless somebody else does.
async fn claim(
    store: &ArchiveStore,
    generation: Generation,
    record: &LeaseRecord,
) -> Result<Option<(Keeper, Lease)>, ArchiveError> {
    let key = layout::lease_key(generation);
    let started = now();
    if retried(|| store.create(&key, record.encode())).await? == Creation::Exists {
        // an answer may have been lost
        let found = retried(|| read(store, generation)).await?;
        if found.is_none_or(|found| found.run != record.run) {
            return Ok(None);
        }
    }
    Ok(Some(Keeper::new(store.clone(), generation, record.clone(), started + record.lease())))
}
