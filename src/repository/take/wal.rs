//! The WAL that makes a backup consistent: in the archive, or carried by the backup.

use std::time::{Duration, Instant};

use super::super::record::WalPlace;
use super::super::wal_presence::WalPresence;
use super::error::TakeError;
use crate::archive::ArchiveStore;
use crate::backup::WalRange;
use crate::client::SystemIdentity;
use crate::observe::progress::CopyProgress;
use crate::pg::{Lsn, WalSegmentSize};

/// Where a backup's WAL shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalChoice {
    /// In the archive where somebody archives there now, else in the backup.
    #[default]
    Automatic,
    /// In the archive; the backup waits for it.
    Archive,
    /// In the backup.
    Include,
}

/// How long it is looked whether somebody archives: longer than `receive` gathers.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Decides, before the backup begins: the server has to know.
pub(super) async fn decide(
    choice: WalChoice,
    store: &ArchiveStore,
    system: &SystemIdentity,
    segment_size: WalSegmentSize,
) -> Result<WalPlace, TakeError> {
    match choice {
        WalChoice::Archive => return Ok(WalPlace::Archive),
        WalChoice::Include => return Ok(WalPlace::Included),
        WalChoice::Automatic => {}
    }
    let needed_lsn = system.flush_lsn;
    // at a segment's very end the last byte is in the segment before
    let last_byte = Lsn::new(needed_lsn.as_u64().saturating_sub(1));
    let mut presence = WalPresence::new(system.timeline, segment_size, last_byte);
    let began = Instant::now();
    loop {
        let archived_lsn = presence.look(store, needed_lsn).await?;
        if archived_lsn >= needed_lsn {
            return Ok(WalPlace::Archive);
        }
        // where nothing of this segment is there, nobody is at it
        let nothing = archived_lsn <= segment_size.segment_at(last_byte).start_lsn();
        if began.elapsed() >= LOOK_TIMEOUT || (nothing && began.elapsed() >= LOOK_TIMEOUT / 4) {
            tracing::info!(
                "nobody archives WAL of timeline {} at {needed_lsn}: the backup carries its own",
                system.timeline
            );
            return Ok(WalPlace::Included);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until the archive has all of a backup's WAL, for as long as more comes.
pub(super) async fn wait(
    store: &ArchiveStore,
    segment_size: WalSegmentSize,
    ranges: &[WalRange],
    patience: Duration,
    progress: &CopyProgress,
) -> Result<(), TakeError> {
    for range in ranges.iter().rev() {
        let mut presence = WalPresence::new(range.timeline, segment_size, range.start_lsn);
        let (mut best, mut since) = (Lsn::INVALID, Instant::now());
        loop {
            let archived_lsn = presence.look(store, range.end_lsn).await?;
            if archived_lsn >= range.end_lsn {
                break;
            }
            progress.set_wal_lsn(archived_lsn);
            if archived_lsn > best {
                (best, since) = (archived_lsn, Instant::now());
            }
            if since.elapsed() >= patience {
                return Err(TakeError::WalNotArchived {
                    timeline: range.timeline,
                    archived_lsn,
                    needed_lsn: range.end_lsn,
                    waited: patience,
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(())
}

/// Whether all of it is there at this moment.
pub(super) async fn check(
    store: &ArchiveStore,
    segment_size: WalSegmentSize,
    ranges: &[WalRange],
) -> Result<(), TakeError> {
    for range in ranges {
        let mut presence = WalPresence::new(range.timeline, segment_size, range.start_lsn);
        let archived_lsn = presence.look(store, range.end_lsn).await?;
        if archived_lsn < range.end_lsn {
            return Err(TakeError::WalGone { timeline: range.timeline, archived_lsn });
        }
    }
    Ok(())
}
