//! Where a WAL stream that is only measured begins: as far back as the server has WAL, so that there is much to send.

use std::collections::HashSet;

use super::MeasureError;
use crate::client::{Connection, Sql, SystemIdentity};
use crate::inspect::oldest_wal::{self, OldestWal};
use crate::inspect::slots::slots;
use crate::pg::{Lsn, SlotName, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalStart {
    /// With the segment that holds this.
    At(Lsn),
    /// With what a slot holds. The slot is only asked for that: whoever uses it goes on.
    Slot(SlotName),
    /// With the oldest WAL that is there.
    Oldest,
}

/// Where to begin, each the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starts {
    /// Tried one after the other: the WAL of each may be gone by now.
    pub hoped_for: Vec<Lsn>,
    /// The last one to try.
    pub last: Lsn,
}

/// The server, as it was when the measuring began.
#[derive(Debug, Clone)]
pub struct SourceServer {
    /// Which cluster, and how far.
    pub identity: SystemIdentity,
    /// How its WAL is cut.
    pub segment_size: WalSegmentSize,
    /// How its timeline came to be.
    pub history: TimelineHistory,
}

impl SourceServer {
    /// Asks for all of it on a replication connection.
    pub async fn ask(connection: &mut Connection) -> Result<Self, MeasureError> {
        let failed = |during| move |source| MeasureError::Client { during, source };
        let identity = connection.identify_system().await.map_err(failed("identify the server"))?;
        let segment_size =
            connection.wal_segment_size().await.map_err(failed("read the server's wal_segment_size"))?;
        let timeline = identity.timeline;
        let history = if timeline == TimelineId::FIRST {
            TimelineHistory::root(timeline)
        } else {
            let file = connection.timeline_history(timeline).await;
            let file = file.map_err(failed("fetch a timeline history"))?;
            TimelineHistory::parse(timeline, &file.content)
                .map_err(|source| MeasureError::History { timeline, source })?
        };
        Ok(SourceServer { identity, segment_size, history })
    }

    fn segment_start(&self, lsn: Lsn) -> Lsn {
        self.segment_size.segment_at(lsn).start_lsn()
    }

    /// The start of the segment that is being written.
    fn current_start(&self) -> Lsn {
        // nothing is there yet of a segment that begins just here
        self.segment_start(Lsn::new(self.identity.flush_lsn.as_u64().saturating_sub(1)))
    }

    /// How far back the segments go without a gap. Of one that two timelines share, the server sends the later one's file.
    fn oldest_of(&self, names: &[String]) -> Lsn {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let mut start = self.current_start();
        while start.as_u64() >= self.segment_size.as_u64() {
            let last_byte = Lsn::new(start.as_u64() - 1);
            let segment = self.segment_size.segment_at(last_byte);
            let name = WalFileName { timeline: self.history.timeline_at(last_byte), segment };
            if !names.contains(name.to_string().as_str()) {
                break;
            }
            start = segment.start_lsn();
        }
        start
    }
}

/// Finds them.
pub async fn find_starts(
    connection: &mut Connection,
    sql: Option<&Sql>,
    server: &SourceServer,
    start: &WalStart,
) -> Result<Starts, MeasureError> {
    let flush_lsn = server.identity.flush_lsn;
    let start_lsn = match start {
        WalStart::At(lsn) => *lsn,
        WalStart::Slot(slot) => slot_start(connection, sql, slot).await?,
        WalStart::Oldest => {
            let Some(sql) = sql else {
                return Ok(Starts { hoped_for: Vec::new(), last: server.current_start() });
            };
            let OldestWal { kept_lsn, segments } = oldest_wal::oldest_wal(sql).await?;
            let listed = segments.map(|names| server.oldest_of(&names));
            let kept = kept_lsn.filter(|lsn| *lsn <= flush_lsn).map(|lsn| server.segment_start(lsn));
            let mut hoped_for: Vec<Lsn> = listed.into_iter().chain(kept).collect();
            hoped_for.sort_unstable();
            hoped_for.dedup();
            return Ok(Starts { hoped_for, last: server.current_start() });
        }
    };
    if start_lsn > flush_lsn {
        return Err(MeasureError::StartBeyondServer { start_lsn, flush_lsn });
    }
    Ok(Starts { hoped_for: Vec::new(), last: server.segment_start(start_lsn) })
}

async fn slot_start(
    connection: &mut Connection,
    sql: Option<&Sql>,
    slot: &SlotName,
) -> Result<Lsn, MeasureError> {
    let restart_lsn = if connection.version().has_read_replication_slot() {
        let read = connection.read_slot(slot).await;
        let read =
            read.map_err(|source| MeasureError::Client { during: "read the replication slot", source })?;
        read.ok_or_else(|| MeasureError::NoSlot(slot.clone()))?.restart_lsn
    } else {
        let sql = sql.ok_or_else(|| MeasureError::SlotUnknown(slot.clone()))?;
        let found = slots(sql).await?.into_iter().find(|found| found.name == slot.as_str());
        found.ok_or_else(|| MeasureError::NoSlot(slot.clone()))?.restart_lsn
    };
    restart_lsn.ok_or_else(|| MeasureError::SlotEmpty(slot.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(flush_lsn: u64) -> SourceServer {
        let timeline = TimelineId::new(2).unwrap();
        SourceServer {
            identity: SystemIdentity {
                system_identifier: "7".parse().unwrap(),
                timeline,
                flush_lsn: Lsn::new(flush_lsn),
                database: None,
            },
            segment_size: WalSegmentSize::from_bytes(1 << 20).unwrap(),
            history: TimelineHistory::parse(timeline, b"1 0/350000 x").unwrap(),
        }
    }

    fn oldest(flush_lsn: u64, names: &[&str]) -> u64 {
        let names: Vec<String> = names.iter().map(|name| format!("{name:0>24}")).collect();
        server(flush_lsn).oldest_of(&names).as_u64() >> 20
    }

    #[test]
    fn segments_are_taken_as_far_back_as_they_follow_one_another() {
        let two = |number: u32| format!("00000002{number:016X}");
        let one = |number: u32| format!("00000001{number:016X}");
        let at = |flush_lsn, names: &[String]| {
            oldest(flush_lsn, &names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert_eq!(at(5 << 20 | 7, &[]), 5, "the current one is there, whatever the list says");
        assert_eq!(at(5 << 20, &[]), 4, "nothing of the next one is there yet");
        assert_eq!(at(5 << 20 | 7, &[two(5), two(4), two(6)]), 4);
        assert_eq!(at(5 << 20 | 7, &[two(4), two(2)]), 4, "a gap");
        // the fork lies within segment 3: of that the later timeline's file counts, before it the earlier one's
        assert_eq!(at(5 << 20 | 7, &[two(4), two(3), one(2), one(1), one(0)]), 0);
        assert_eq!(at(5 << 20 | 7, &[two(4), one(3), one(2)]), 4);
        assert_eq!(at(5 << 20 | 7, &[two(4), two(3), two(2)]), 3);
    }
}
