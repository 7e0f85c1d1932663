//! Looking through the archive's WAL for a restore point, or for the last commit.

use super::error::TargetError;
use super::target::{Candidate, Candidates, search_start};
use crate::archive::{ArchiveStore, Buffer, fetch};
use crate::pg::{
    Lsn, TimelineHistory, TimelineId, Timestamp, WalEvent, WalFileName, WalScanner, WalSegment,
    WalSegmentSize,
};

/// The latest backup behind whose end there is a restore point of this name. WAL is read backwards from backup to backup,
/// none of it twice.
pub(super) async fn restore_point<'a>(
    store: &ArchiveStore,
    size: WalSegmentSize,
    candidates: &Candidates<'a>,
    name: &str,
) -> Result<Candidate<'a>, TargetError> {
    let mut until = None;
    for candidate in &candidates.list {
        let stop = candidate.record.stop.lsn;
        let end = until.unwrap_or(candidate.reached_lsn).min(candidate.reached_lsn);
        let mut found = false;
        scan(store, size, candidates.history(), search_start(candidate.record), end, |event| {
            if let WalEvent::RestorePoint { lsn, name: point, .. } = event {
                found |= lsn >= stop && point == name.as_bytes();
            }
        })
        .await?;
        if found {
            return Ok(*candidate);
        }
        // the next one's WAL ends where this one's begins; a record may lie across
        until = Some(candidate.record.stop.lsn);
    }
    Err(TargetError::NoRestorePoint(name.to_owned()))
}

/// Whether something was committed after a moment; if not, when the last commit was.
pub(super) async fn is_passed(
    store: &ArchiveStore,
    size: WalSegmentSize,
    history: &TimelineHistory,
    candidate: Candidate<'_>,
    target: Timestamp,
) -> Result<Result<(), Option<Timestamp>>, TargetError> {
    let (stop, mut end) = (candidate.record.stop.lsn, candidate.reached_lsn);
    let mut latest: Option<Timestamp> = None;
    // from the end: mostly the last segment says it
    while end > stop {
        let start = last_segment(size, end).start_lsn().max(stop);
        let to = (end + OVERLAP_LEN).min(candidate.reached_lsn);
        scan(store, size, history, start, to, |event| {
            if let WalEvent::Commit { at, lsn } = event
                && lsn >= stop
            {
                latest = latest.max(Some(at));
            }
        })
        .await?;
        if latest.is_some() {
            break;
        }
        end = start;
    }
    Ok(if latest.is_some_and(|at| at > target) { Ok(()) } else { Err(latest) })
}

/// How far a record that is looked for may lie across a segment's end.
const OVERLAP_LEN: u64 = 8192;

/// The segment in which the last byte before a position is.
fn last_segment(size: WalSegmentSize, end: Lsn) -> WalSegment {
    size.segment_at(Lsn::new(end.as_u64().saturating_sub(1)))
}

/// Looks through the segments from one position to another, along a history.
async fn scan(
    store: &ArchiveStore,
    size: WalSegmentSize,
    history: &TimelineHistory,
    from: Lsn,
    to: Lsn,
    mut found: impl FnMut(WalEvent),
) -> Result<(), TargetError> {
    let mut scanner = WalScanner::new(size);
    let mut segment = size.segment_at(from);
    while segment.start_lsn() < to {
        // as recovery does it: of a segment in which a timeline was left the newer one's
        let last_byte = Lsn::new(segment.end_lsn().min(to).as_u64() - 1);
        let newest = history.timeline_at(last_byte);
        if let Some((wal, end_lsn)) =
            read(store, segment, newest, history.timeline_at(segment.start_lsn())).await?
        {
            let len = (end_lsn.min(to) - segment.start_lsn()) as usize;
            scanner.push(segment.start_lsn(), &wal[..len], &mut found);
        }
        segment = segment.next();
    }
    Ok(())
}

/// A segment of the newest of two timelines that has it.
async fn read(
    store: &ArchiveStore,
    segment: WalSegment,
    newest: TimelineId,
    oldest: TimelineId,
) -> Result<Option<(Buffer, Lsn)>, TargetError> {
    let of = |timeline| WalFileName { timeline, segment };
    let read = fetch::read_segment(store, of(newest)).await?;
    match read {
        None if oldest != newest => Ok(fetch::read_segment(store, of(oldest)).await?),
        read => Ok(read),
    }
}
