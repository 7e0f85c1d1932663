//! Which WAL a standby will ask a server for first, and whether that server has it.
//!
//! Answers to `WaitForWALToBecomeAvailable` and `RequestXLogStreaming` in PostgreSQL: what a standby has in `pg_wal` it asks
//! nobody for. From where that ends it asks from the segment's start, on the timeline that the position has in the newest
//! history it knows. Its WAL receiver fetches the histories before it asks for WAL; so, once it has been refused on the
//! timeline that it was on, that history is the server's.

use std::time::Duration;

use super::follow_error::FollowError;
use crate::client::conninfo::Settings;
use crate::client::{Connection, Purpose, ReplicationStart, open};
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use crate::wire::replication::ReplicationMessage;

/// How long a server may take to show that it has the WAL. One that says nothing has none to send yet.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeededWal {
    timeline: TimelineId,
    start_lsn: Lsn,
}

impl NeededWal {
    /// What a standby asks for whose WAL ends at `end_lsn`, of a server with this history.
    pub(super) fn after(end_lsn: Lsn, history: &TimelineHistory, size: WalSegmentSize) -> Self {
        NeededWal { timeline: history.timeline_at(end_lsn), start_lsn: size.segment_at(end_lsn).start_lsn() }
    }

    /// Asks the server that `upstream` leads to for it, on a connection of its own, and takes none.
    pub(super) async fn probe(self, settings: &Settings, upstream: &Connection) -> Result<(), FollowError> {
        let NeededWal { timeline, start_lsn } = self;
        let settings = settings.pinned_to(upstream.host());
        let mut connection = open(&settings, Purpose::PhysicalReplication).await?;
        let probe = async {
            match connection.start_replication(None, start_lsn, timeline).await? {
                ReplicationStart::TimelineEnded(_) => Ok(()),
                ReplicationStart::Streaming(mut stream) => loop {
                    if !matches!(stream.next().await?, Some(ReplicationMessage::PrimaryKeepalive(_))) {
                        return Ok(());
                    }
                },
            }
        };
        match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
            Ok(Err(source)) => Err(FollowError::NoWal { start_lsn, timeline, source }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_for_from_the_segments_start_on_the_timeline_of_the_position() {
        let two = TimelineId::new(2).unwrap();
        let history = TimelineHistory::parse(two, b"1\t0/3028510\tno recovery target specified\n").unwrap();
        let size = WalSegmentSize::from_bytes(16 << 20).unwrap();
        let lsn = |text: &str| -> Lsn { text.parse().unwrap() };
        for (end, timeline, start) in [
            ("0/2FFFFFF", TimelineId::FIRST, "0/2000000"),
            ("0/302850F", TimelineId::FIRST, "0/3000000"),
            // all of the old timeline is there: what comes next is the new one's
            ("0/3028510", two, "0/3000000"),
            ("0/4000000", two, "0/4000000"),
        ] {
            let needed = NeededWal::after(lsn(end), &history, size);
            assert_eq!(needed, NeededWal { timeline, start_lsn: lsn(start) }, "{end}");
        }
    }
}
