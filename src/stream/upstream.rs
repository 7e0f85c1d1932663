//! What following a server needs of a connection, so that a scripted or simulated primary can be one.

use std::future::Future;

use super::error::ConnectFailure;
use crate::client::{
    ClientError, Connection, NextTimeline, ReplicationStart, SlotState, StreamEnd, SystemIdentity,
    TimelineHistoryFile, WalStream,
};
use crate::pg::{Lsn, SlotName, TimelineId, WalSegmentSize};
use crate::wire::command::{SlotPersistence, WalReservation};
use crate::wire::replication::{ReplicationMessage, StandbyStatusUpdate};

/// Opens connections to the server that is followed.
pub trait Connector {
    /// What it opens.
    type Upstream: Upstream;
    /// Opens one.
    fn connect(&mut self) -> impl Future<Output = Result<Self::Upstream, ConnectFailure>>;
    /// The slot that it made for the connection it opened last, when it made one.
    fn created_slot(&self) -> Option<SlotName> {
        None
    }
}

/// A connection that waits for a command. [`Connection`] is the real one, and documents each.
pub trait Upstream {
    /// A stream that it began.
    type Stream<'a>: ReplicationStream
    where
        Self: 'a;

    /// Which server it leads to, by its place; `None` where there is only one.
    fn place(&self) -> Option<String> {
        None
    }
    /// `IDENTIFY_SYSTEM`.
    fn identify_system(&mut self) -> impl Future<Output = Result<SystemIdentity, ClientError>>;
    /// `SHOW wal_segment_size`.
    fn wal_segment_size(&mut self) -> impl Future<Output = Result<WalSegmentSize, ClientError>>;
    /// `SHOW synchronous_commit`; `None` where a walsender cannot be asked.
    fn synchronous_commit(&mut self) -> impl Future<Output = Result<Option<String>, ClientError>>;
    /// `TIMELINE_HISTORY`.
    fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> impl Future<Output = Result<TimelineHistoryFile, ClientError>>;
    /// Whether the server has `READ_REPLICATION_SLOT`.
    fn can_read_slot(&self) -> bool;
    /// `READ_REPLICATION_SLOT`.
    fn read_slot(&mut self, slot: &SlotName) -> impl Future<Output = Result<Option<SlotState>, ClientError>>;
    /// `CREATE_REPLICATION_SLOT`, with WAL reserved at once.
    fn create_slot(&mut self, slot: &SlotName) -> impl Future<Output = Result<(), ClientError>>;
    /// `START_REPLICATION`.
    fn start_replication(
        &mut self,
        slot: Option<&SlotName>,
        start_lsn: Lsn,
        timeline: TimelineId,
    ) -> impl Future<Output = Result<StreamStart<Self::Stream<'_>>, ClientError>>;
}

/// The answer to `START_REPLICATION`.
#[derive(Debug)]
pub enum StreamStart<S> {
    /// WAL flows.
    Streaming(S),
    /// The start is exactly where this timeline ended.
    TimelineEnded(NextTimeline),
}

/// WAL that flows. [`WalStream`] is the real one.
pub trait ReplicationStream {
    /// The next message; `None` after the server's CopyDone. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<ReplicationMessage>, ClientError>>;
    /// Queues a status update, to be sent by the next wait.
    fn queue_status_update(&mut self, update: &StandbyStatusUpdate);
    /// How many bytes of status updates are queued and not sent.
    fn unsent_len(&self) -> usize {
        0
    }
    /// Sends what is queued. Cancel-safe.
    fn send(&mut self) -> impl Future<Output = Result<(), ClientError>>;
    /// Sends CopyDone and reads to the end.
    fn finish(self) -> impl Future<Output = Result<StreamEnd, ClientError>>;
}

impl Upstream for Connection {
    type Stream<'a> = WalStream<'a>;

    fn place(&self) -> Option<String> {
        Some(self.host().place())
    }

    async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        Connection::identify_system(self).await
    }

    async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, ClientError> {
        Connection::wal_segment_size(self).await
    }

    async fn synchronous_commit(&mut self) -> Result<Option<String>, ClientError> {
        let can_show = self.version().has_walsender_show();
        if can_show { self.show("synchronous_commit").await.map(Some) } else { Ok(None) }
    }

    async fn timeline_history(&mut self, timeline: TimelineId) -> Result<TimelineHistoryFile, ClientError> {
        Connection::timeline_history(self, timeline).await
    }

    fn can_read_slot(&self) -> bool {
        self.version().has_read_replication_slot()
    }

    async fn read_slot(&mut self, slot: &SlotName) -> Result<Option<SlotState>, ClientError> {
        Connection::read_slot(self, slot).await
    }

    async fn create_slot(&mut self, slot: &SlotName) -> Result<(), ClientError> {
        let (persistence, reservation) = (SlotPersistence::Permanent, WalReservation::Immediate);
        self.create_physical_slot(slot, persistence, reservation).await
    }

    async fn start_replication(
        &mut self,
        slot: Option<&SlotName>,
        start_lsn: Lsn,
        timeline: TimelineId,
    ) -> Result<StreamStart<WalStream<'_>>, ClientError> {
        Ok(match Connection::start_replication(self, slot, start_lsn, timeline).await? {
            ReplicationStart::Streaming(stream) => StreamStart::Streaming(stream),
            ReplicationStart::TimelineEnded(next) => StreamStart::TimelineEnded(next),
        })
    }
}

impl ReplicationStream for WalStream<'_> {
    async fn next(&mut self) -> Result<Option<ReplicationMessage>, ClientError> {
        WalStream::next(self).await
    }

    fn queue_status_update(&mut self, update: &StandbyStatusUpdate) {
        WalStream::queue_status_update(self, update);
    }

    fn unsent_len(&self) -> usize {
        WalStream::unsent_len(self)
    }

    async fn send(&mut self) -> Result<(), ClientError> {
        WalStream::send(self).await
    }

    async fn finish(self) -> Result<StreamEnd, ClientError> {
        WalStream::finish(self).await
    }
}
