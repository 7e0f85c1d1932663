//! The right to write: whose the archive is, and whether it may be this run's. What is done with it is [`upload`](super::upload)'s.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::super::buffers;
use super::super::error::ArchiveError;
use super::super::identity::ClusterIdentity;
use super::super::lease::{self, Holder, LeaseRecord, Patience};
use super::super::retry::retried;
use super::super::store::ArchiveStore;
use super::put::Route;
use super::spool::Spool;
use super::stats::Stats;
use super::upload::{Extent, archive};
use super::{Feed, Standing, TakeOver, Told, UploadOptions};
use crate::ErrorClass;
use crate::sink::ClusterStamp;

/// All that the thread does: it takes the archive and fills it, and sees to it meanwhile that the directory does not fill up unseen.
pub(super) async fn run(
    directory: &Arc<Path>,
    store: &ArchiveStore,
    holder: &Holder,
    options: UploadOptions,
    fed: watch::Receiver<Feed>,
    (teller, stats): (&watch::Sender<Told>, &Stats),
) -> Result<(), ArchiveError> {
    tokio::select! {
        result = hold_and_archive(directory, store, holder, options, fed, (teller, stats)) => result,
        never = Spool::new(options.spool_limit).watch(directory, stats) => match never {},
        never = buffers::give_back() => match never {},
    }
}

async fn hold_and_archive(
    directory: &Arc<Path>,
    store: &ArchiveStore,
    holder: &Holder,
    options: UploadOptions,
    mut fed: watch::Receiver<Feed>,
    (teller, stats): (&watch::Sender<Told>, &Stats),
) -> Result<(), ArchiveError> {
    match store.check_conditions().await {
        // somebody has to change something: better now than when it is relied upon
        Err(error) if error.class() != ErrorClass::Transient => return Err(error),
        Err(_) => retried(|| store.check_conditions()).await?,
        Ok(()) => {}
    }
    teller.send_modify(|told| told.answers = true);
    let stand = |standing| teller.send_modify(|told| told.standing = standing);
    let identity = retried(|| ClusterIdentity::read(store)).await?;
    let stamp = ClusterStamp::of(directory);
    if let (Some(found), Some(stamp)) = (identity, stamp) {
        found.check_stamp(stamp)?;
    }
    // nobody is driven out of an archive that is not ours, or kept out of it
    let may_take = async || {
        let (Some(found), None) = (identity, stamp) else { return Ok(true) };
        stand(Standing::Waiting);
        let known = fed.wait_for(|feed| feed.stamp.is_some() || feed.ended).await;
        let Some(stamp) = known.ok().and_then(|feed| feed.stamp) else { return Ok(false) };
        found.check_stamp(stamp).map(|()| true)
    };
    let patience = match options.take_over {
        TakeOver::Never => Patience::UntilSilent,
        TakeOver::Now => Patience::TakeOver,
    };
    let waiting = |other: &LeaseRecord| {
        tracing::warn!("the archive was held by {other}; it is taken over when its time is up");
        stand(Standing::Waiting);
    };
    let taken = lease::acquire(store, holder, options.lease, patience, waiting, may_take).await?;
    let Some((keeper, lease)) = taken else { return Ok(()) };
    tracing::debug!(generation = %lease.generation(), "the archive is ours");
    stand(Standing::Holding);
    let (reached, archived) = watch::channel(None);
    let mut keeper = keeper.telling(archived);
    let gaps = options.gaps;
    let route = Route { directory: Arc::clone(directory), store: store.clone(), lease: lease.clone(), gaps };
    let result = tokio::select! {
        result = archive(&route, options, fed, (teller, &reached), stats) => result,
        () = keeper.keep() => lease.valid().await.map(|()| Extent::Unknown),
    };
    keeper.release(matches!(result, Ok(Extent::All))).await;
    result.map(drop)
}
