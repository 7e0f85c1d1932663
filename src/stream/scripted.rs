//! A server for tests: so many bytes of WAL, and then silence, or a broken connection.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::error::ConnectFailure;
use super::session::StreamOptions;
use super::upstream::{Connector, ReplicationStream, StreamStart, Upstream};
use crate::client::{ClientError, SlotState, StreamEnd, SystemIdentity, TimelineHistoryFile};
use crate::pg::{Lsn, SlotName, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::sink::RecordCheck;
use crate::wire::replication::{PgTimestamp, ReplicationMessage, StandbyStatusUpdate, WalData};

/// The segment size of the scripted server.
pub(super) const SEGMENT_LEN: u64 = 1 << 20;

/// What the server does, and what it has been told.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// Where its WAL ends.
    pub(super) end_lsn: Lsn,
    /// How much comes at once.
    pub(super) chunk_len: u64,
    /// What happens at the end.
    pub(super) then: Then,
    /// The status updates, as they came.
    pub(super) updates: Arc<Mutex<Vec<StandbyStatusUpdate>>>,
}

/// Streams of what the scripted server sends, which is no WAL.
pub(super) fn unchecked() -> StreamOptions {
    StreamOptions { record_check: RecordCheck::Off, ..StreamOptions::default() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Silence,
    Close,
    CloseAfter(Duration),
}

impl Script {
    pub(super) fn new(end_lsn: u64, chunk_len: u64, then: Then) -> Self {
        Script { end_lsn: Lsn::new(end_lsn), chunk_len, then, updates: Arc::default() }
    }
}

impl Connector for Script {
    type Upstream = Script;

    async fn connect(&mut self) -> Result<Script, ConnectFailure> {
        Ok(self.clone())
    }
}

impl Upstream for Script {
    type Stream<'a> = ScriptedStream;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        Ok(SystemIdentity {
            system_identifier: SystemIdentifier::new(1),
            timeline: TimelineId::FIRST,
            flush_lsn: self.end_lsn,
            database: None,
        })
    }

    async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, ClientError> {
        Ok(WalSegmentSize::from_bytes(SEGMENT_LEN).unwrap())
    }

    async fn synchronous_commit(&mut self) -> Result<Option<String>, ClientError> {
        Ok(None)
    }

    async fn timeline_history(&mut self, _: TimelineId) -> Result<TimelineHistoryFile, ClientError> {
        Err(ClientError::Closed)
    }

    fn can_read_slot(&self) -> bool {
        true
    }

    async fn read_slot(&mut self, _: &SlotName) -> Result<Option<SlotState>, ClientError> {
        Ok(None)
    }

    async fn create_slot(&mut self, _: &SlotName) -> Result<(), ClientError> {
        Err(ClientError::Closed)
    }

    async fn start_replication(
        &mut self,
        _: Option<&SlotName>,
        start_lsn: Lsn,
        _: TimelineId,
    ) -> Result<StreamStart<ScriptedStream>, ClientError> {
        Ok(StreamStart::Streaming(ScriptedStream { script: self.clone(), sent_lsn: start_lsn }))
    }
}

/// The stream. It never makes anyone wait for WAL.
#[derive(Debug)]
pub(super) struct ScriptedStream {
    script: Script,
    sent_lsn: Lsn,
}

impl ReplicationStream for ScriptedStream {
    async fn next(&mut self) -> Result<Option<ReplicationMessage>, ClientError> {
        let start_lsn = self.sent_lsn;
        let len = self.script.end_lsn.saturating_since(start_lsn).min(self.script.chunk_len);
        if len == 0 {
            match self.script.then {
                Then::Silence => pending::<()>().await,
                Then::Close => return Err(ClientError::Closed),
                Then::CloseAfter(after) => {
                    tokio::time::sleep(after).await;
                    return Err(ClientError::Closed);
                }
            }
        }
        self.sent_lsn = start_lsn + len;
        let data = Bytes::from(vec![7; len as usize]);
        let wal_end_lsn = self.script.end_lsn;
        let wal = WalData { start_lsn, wal_end_lsn, sent_at: PgTimestamp(0), data };
        Ok(Some(ReplicationMessage::WalData(wal)))
    }

    fn queue_status_update(&mut self, update: &StandbyStatusUpdate) {
        self.script.updates.lock().unwrap().push(*update);
    }

    async fn send(&mut self) -> Result<(), ClientError> {
        Ok(())
    }

    async fn finish(self) -> Result<StreamEnd, ClientError> {
        Ok(StreamEnd { next_timeline: None })
    }
}
