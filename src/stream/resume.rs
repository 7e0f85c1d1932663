//! Where to go on, from what is on disk and what the server says. Pure.
//!
//! Answers to `FindStreamingStart` in PostgreSQL's `pg_receivewal.c`. Departures:
//! * Files are ordered along the *server's history*, not by segment number: a higher segment of a timeline that
//!   the server abandoned is a [`Stray`], and the original asks for it for ever.
//! * An unfinished file may have any length up to a segment; the stream begins at its segment's start and goes
//!   over it in place. So nothing need be known about which of its bytes a crash left intact.
//! * When several unfinished files end the history (a crash can undo the rename that completed the last but
//!   one), the earliest of them is where to begin.
//! * Files, but none on the server's history, are an error and not an empty directory.
//! * A hole before the end, which the original goes on behind, is where to begin (see [`row`]).
//!
//! A slot that is further than the directory is no error by itself. The server may well have the WAL in
//! between, and says so if not; refusing would turn what heals by itself into an outage. It is never a reason
//! to begin at the slot: that would leave a hole.

mod row;

use super::refusal::Wanted;
use crate::ErrorClass;
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};
use crate::sink::{DiskEntry, SegmentFile};
use row::{Kept, Row, RowEnd};

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState<'a> {
    /// How its log is cut.
    pub segment_size: WalSegmentSize,
    /// The history of its current timeline.
    pub history: &'a TimelineHistory,
    /// How far its WAL is flushed.
    pub flush_lsn: Lsn,
    /// What the slot holds.
    pub slot: SlotHold,
}

/// What is known of the slot that the stream uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotHold {
    /// No slot is used.
    Nothing,
    /// The server does not have the one that is to be used.
    Missing,
    /// There is one that holds no WAL: it was never used, or it was invalidated. The server does not say which.
    Empty,
    /// There is one, but this server cannot tell its position (before 15).
    Unknown,
    /// WAL from here on.
    From(SlotPosition),
}

impl SlotHold {
    fn position(self) -> Option<SlotPosition> {
        if let SlotHold::From(position) = self { Some(position) } else { None }
    }
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// The oldest WAL that the slot holds, which is what was last acknowledged on it.
    pub restart_lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// Where to begin with an empty directory when no slot says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartChoice {
    /// Nowhere: it is an error. Beginning "now" leaves out what came before, so somebody must have said so.
    #[default]
    Refuse,
    /// At the server's current segment.
    Current,
    /// At the segment of this position, on the timeline that it has in the server's history.
    At(Lsn),
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// The timeline to ask for.
    pub timeline: TimelineId,
    /// The position to ask for: the start of a segment.
    pub start_lsn: Lsn,
    /// What may have been acknowledged as durable before: no flush below it is to be reported.
    pub flush_floor: Lsn,
    /// The last timeline that files are of, and how far they may have been acknowledged. It is a later one than
    /// [`Self::timeline`] where a hole is to be filled first.
    pub last_on_disk: Option<(TimelineId, Lsn)>,
    /// Files that are not on the server's history, and stay as they are.
    pub strays: Vec<Stray>,
    /// Whether something is to be gone on with.
    pub wanted: Wanted,
    /// The slot is further than what is on disk.
    pub slot_ahead: Option<SlotPosition>,
}

/// A file that looks like WAL but is not part of what the server can go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The file's name.
    pub name: String,
    /// Why it is none.
    pub reason: StrayReason,
}

impl Stray {
    fn wrong_len(&self) -> Option<u64> {
        match self.reason {
            StrayReason::WrongLength(len) => Some(len),
            StrayReason::AbandonedTimeline => None,
        }
    }
}

/// Why a file is a stray.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayReason {
    /// Its timeline is not in the server's history, or the history left the timeline before this segment, or
    /// took it up only after it.
    AbandonedTimeline,
    /// A finished segment that is not one segment long, or an unfinished one that is longer.
    WrongLength(u64),
}

/// Why there is no place to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The directory is further than the server, which may be a standby that lags, or a server that lost WAL.
    #[error("directory holds WAL up to {start_lsn}, but the server's WAL ends at {flush_lsn}")]
    AheadOfServer {
        /// Where the stream would begin.
        start_lsn: Lsn,
        /// Where the server's WAL ends.
        flush_lsn: Lsn,
    },
    /// Somebody said where to begin, and the server's WAL does not reach it.
    #[error("cannot start at {start_lsn}: the server's WAL ends at {flush_lsn}")]
    StartBeyondServer {
        /// The segment's start of the position that was asked for.
        start_lsn: Lsn,
        /// Where the server's WAL ends.
        flush_lsn: Lsn,
    },
    /// The directory has a later timeline than the server: this is a server from before a promotion.
    #[error("directory holds WAL of timeline {found}, but the server is on timeline {current}")]
    TimelineAheadOfServer {
        /// The directory's latest.
        found: TimelineId,
        /// The server's.
        current: TimelineId,
    },
    /// All WAL in the directory is of timelines that the server does not come from.
    #[error("timeline {found} in the directory is not in the history of the server's timeline {current}")]
    TimelineNotInHistory {
        /// The directory's latest.
        found: TimelineId,
        /// The server's.
        current: TimelineId,
    },
    /// The slot's timeline is not in the server's history.
    #[error("slot holds WAL of timeline {found}, which is not in the history of timeline {current}")]
    SlotTimelineNotInHistory {
        /// The slot's.
        found: TimelineId,
        /// The server's.
        current: TimelineId,
    },
    /// All WAL in the directory has a length that WAL files do not have.
    #[error("directory holds no usable WAL: its first file has {len} bytes")]
    OnlyDamaged {
        /// The first one's length.
        len: u64,
    },
    /// An empty directory, no slot, and no word where to begin.
    #[error("directory holds no WAL, and no replication slot says where to start")]
    NoStart,
    /// An empty directory, and a slot that holds nothing.
    #[error(
        "directory holds no WAL, and neither does the replication slot: it was never used, or was invalidated"
    )]
    SlotEmpty,
    /// An empty directory, and a slot that holds WAL from a position that this server (before 15) does not tell.
    #[error(
        "directory holds no WAL, and a server of this version does not say where its replication slot begins"
    )]
    SlotPositionUnknown,
}

impl ResumeError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            // a standby that lags catches up
            ResumeError::AheadOfServer { .. } => ErrorClass::Transient,
            _ => ErrorClass::Operator,
        }
    }
}

/// Decides where to begin.
pub fn find_start(
    entries: &[DiskEntry],
    server: &ServerState<'_>,
    choice: StartChoice,
) -> Result<ResumePoint, ResumeError> {
    let (row, strays) = sort_out(entries, server);
    let current = server.history.timeline();
    let latest = strays.iter().filter_map(|(_, timeline)| *timeline).max();
    if let Some(found) = latest.filter(|latest| *latest > current) {
        return Err(ResumeError::TimelineAheadOfServer { found, current });
    }
    let strays: Vec<Stray> = strays.into_iter().map(|(stray, _)| stray).collect();
    let Some(RowEnd { timeline, start_lsn, gap_end_lsn }) = row.end() else {
        if let Some(found) = latest {
            return Err(ResumeError::TimelineNotInHistory { found, current });
        }
        if let Some(len) = strays.first().and_then(Stray::wrong_len) {
            return Err(ResumeError::OnlyDamaged { len });
        }
        return start_empty(server, choice, strays);
    };
    if timeline == current && start_lsn > server.flush_lsn {
        return Err(ResumeError::AheadOfServer { start_lsn, flush_lsn: server.flush_lsn });
    }
    let on_disk_lsn = ends_on_disk(entries, server).map(|(_, lsn)| lsn).max().unwrap_or_default();
    // of an unfinished file what looks like zeros may be WAL, behind a log switch
    let segment_end = |lsn| server.segment_size.segment_at(lsn).end_lsn();
    let may_end = |lsn: Lsn| if server.segment_size.offset_of(lsn) == 0 { lsn } else { segment_end(lsn) };
    let last_on_disk = ends_on_disk(entries, server).max();
    let last_on_disk = last_on_disk.map(|(timeline, lsn)| (timeline, may_end(lsn).min(server.flush_lsn)));
    let slot = server.slot.position();
    let slot_ahead = slot.filter(|slot| slot.restart_lsn > on_disk_lsn);
    // An acknowledged byte is on disk, and the server has flushed it before it sent it: neither bound can be
    // below what was acknowledged. Reaching the second is certain, the first may have been lost in a fork.
    let acknowledged_lsn = slot.map_or(may_end(on_disk_lsn), |slot| slot.restart_lsn);
    let flush_floor = acknowledged_lsn.min(server.flush_lsn);
    let wanted = gap_end_lsn.map_or(Wanted::Continuation, |end_lsn| Wanted::Missing { end_lsn });
    Ok(ResumePoint { timeline, start_lsn, flush_floor, last_on_disk, strays, wanted, slot_ahead })
}

/// Files on the server's history; and the others.
fn sort_out<'a>(
    entries: &[DiskEntry],
    server: &ServerState<'a>,
) -> (Row<'a>, Vec<(Stray, Option<TimelineId>)>) {
    let mut row = Row::new(server.history);
    let mut strays = Vec::new();
    for entry in entries {
        if let Some(file) = SegmentFile::parse_aside(&entry.name, server.segment_size)
            && holds_history(server.history, file)
        {
            row.add(file, Kept::Aside);
        }
        let Some(found_file) = SegmentFile::parse(&entry.name, server.segment_size) else { continue };
        let SegmentFile { name: file, finished, .. } = found_file;
        let segment_len = server.segment_size.as_u64();
        let mut stray = |reason, timeline| {
            strays.push((Stray { name: entry.name.clone(), reason }, timeline));
        };
        if !holds_history(server.history, file) {
            stray(StrayReason::AbandonedTimeline, Some(file.timeline));
        } else if let Some(len) = entry.len
            && ((finished && len != segment_len) || (!found_file.is_compressed() && len > segment_len))
        {
            stray(StrayReason::WrongLength(len), None);
            row.add_damaged(file);
        } else {
            row.add(file, if finished { Kept::Finished } else { Kept::Unfinished });
        }
    }
    strays.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    (row, strays)
}

/// Whether the history has bytes of this segment on this timeline.
///
/// A server that follows a timeline from the start of the segment with the switch point writes that segment
/// whole under the new timeline's name, so the segment of a timeline's beginning counts as its own.
fn holds_history(history: &TimelineHistory, file: WalFileName) -> bool {
    if !history.contains(file.timeline) {
        return false;
    }
    let begin_lsn = begin_of(history, file.timeline);
    let before_end =
        history.switch_point(file.timeline).is_none_or(|end_lsn| file.segment.start_lsn() < end_lsn);
    before_end && file.segment.end_lsn() > begin_lsn
}

/// Where the history took up a timeline that is in it.
fn begin_of(history: &TimelineHistory, timeline: TimelineId) -> Lsn {
    let ancestor = history.ancestors().iter().rev().find(|entry| entry.timeline < timeline);
    ancestor.map_or(Lsn::INVALID, |entry| entry.end_lsn)
}

/// How far the files on the history reach at the most. An ancestor's file of the last segment may reach further
/// than its successor's, which was begun again at the segment's start.
fn ends_on_disk(entries: &[DiskEntry], server: &ServerState<'_>) -> impl Iterator<Item = (TimelineId, Lsn)> {
    let end_of = |entry: &DiskEntry| {
        if let Some(file) = SegmentFile::parse_aside(&entry.name, server.segment_size) {
            return holds_history(server.history, file).then(|| (file.timeline, file.segment.end_lsn()));
        }
        let found = SegmentFile::parse(&entry.name, server.segment_size)?;
        let file = found.name;
        let segment_len = server.segment_size.as_u64();
        let known_len = entry.len.filter(|_| found.finished || !found.is_compressed());
        let len = known_len.map_or(segment_len, |len| len.min(segment_len));
        holds_history(server.history, file).then(|| (file.timeline, file.segment.start_lsn() + len))
    };
    entries.iter().filter_map(end_of)
}

fn start_empty(
    server: &ServerState<'_>,
    choice: StartChoice,
    strays: Vec<Stray>,
) -> Result<ResumePoint, ResumeError> {
    let current = server.history.timeline();
    let start_of = |lsn| server.segment_size.segment_at(lsn).start_lsn();
    let (timeline, lsn) = match (server.slot.position(), choice) {
        (Some(slot), _) => {
            if !server.history.contains(slot.timeline) {
                let found = slot.timeline;
                return Err(ResumeError::SlotTimelineNotInHistory { found, current });
            }
            (slot.timeline, slot.restart_lsn)
        }
        (None, StartChoice::Refuse) if server.slot == SlotHold::Unknown => {
            return Err(ResumeError::SlotPositionUnknown);
        }
        (None, StartChoice::Refuse) if server.slot == SlotHold::Empty => return Err(ResumeError::SlotEmpty),
        (None, StartChoice::Refuse) => return Err(ResumeError::NoStart),
        (None, StartChoice::Current) => (current, server.flush_lsn),
        (None, StartChoice::At(lsn)) => (server.history.timeline_at(lsn), lsn),
    };
    let start_lsn = start_of(lsn);
    if timeline == current && start_lsn > server.flush_lsn {
        let flush_lsn = server.flush_lsn;
        return Err(match server.slot.position() {
            Some(_) => ResumeError::AheadOfServer { start_lsn, flush_lsn },
            // nothing says that there ever was such WAL: waiting for it would look like receiving
            None => ResumeError::StartBeyondServer { start_lsn, flush_lsn },
        });
    }
    let flush_floor = match server.slot {
        SlotHold::Nothing | SlotHold::Missing | SlotHold::Empty => Lsn::INVALID,
        // wherever it is, it is not beyond this
        SlotHold::Unknown => server.flush_lsn,
        SlotHold::From(slot) => slot.restart_lsn,
    };
    let wanted = Wanted::Beginning;
    Ok(ResumePoint { timeline, start_lsn, flush_floor, last_on_disk: None, strays, wanted, slot_ahead: None })
}

#[cfg(test)]
mod tests;
