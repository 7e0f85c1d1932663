//! `START_REPLICATION`: the write-ahead log as it is written.

use super::{ClientError, Connection};
use crate::pg::{Lsn, SlotName, TimelineId};
use crate::wire::backend::{BackendMessage, DataRow};
use crate::wire::frame::Placement;
use crate::wire::replication::{ReplicationMessage, StandbyStatusUpdate};
use crate::wire::{command, frontend};

const NAME: &str = "START_REPLICATION";

/// The timeline that history took after the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    /// Its number: not always the next one.
    pub timeline: TimelineId,
    /// Where it begins. May lie before what was already received: half a record is discarded at a promotion.
    pub start_lsn: Lsn,
}

/// How the server answered `START_REPLICATION`.
pub enum ReplicationStart<'a> {
    /// WAL flows.
    Streaming(WalStream<'a>),
    /// The start is exactly where this timeline ended: there is nothing to stream on it.
    TimelineEnded(NextTimeline),
}

/// How a stream ended that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// The timeline to go on with, when the server ended the stream; `None` when we did.
    pub next_timeline: Option<NextTimeline>,
}

/// WAL that flows, and positions that flow back.
///
/// Dropped before [`WalStream::finish`], it leaves the connection unusable.
pub struct WalStream<'a> {
    connection: &'a mut Connection,
    server_done: bool,
}

impl Connection {
    /// `START_REPLICATION … PHYSICAL`. The start need not be at a segment's beginning.
    ///
    /// Errors of the server: slot in use 55006, slot invalidated 55000, segment removed 58P01 (this one comes as the
    /// stream's first message).
    pub async fn start_replication(
        &mut self,
        slot: Option<&SlotName>,
        start_lsn: Lsn,
        timeline: TimelineId,
    ) -> Result<ReplicationStart<'_>, ClientError> {
        self.place(Placement::WAL);
        self.start_query(&command::start_replication(slot, start_lsn, timeline)).await?;
        match self.next_message().await? {
            BackendMessage::CopyBothResponse => {
                Ok(ReplicationStart::Streaming(WalStream { connection: self, server_done: false }))
            }
            BackendMessage::RowDescription(_) => {
                let next = self.finish_stream(true).await?;
                let next = next.ok_or(ClientError::Answer { command: NAME, problem: "no next timeline" })?;
                Ok(ReplicationStart::TimelineEnded(next))
            }
            message => Err(unexpected(&message)),
        }
    }

    /// Reads what follows a stream: perhaps the next timeline as a row, then completions, then ReadyForQuery.
    async fn finish_stream(&mut self, mut row_expected: bool) -> Result<Option<NextTimeline>, ClientError> {
        let mut next_timeline = None;
        loop {
            match self.next_message().await? {
                BackendMessage::RowDescription(_) if !row_expected => row_expected = true,
                BackendMessage::DataRow(row) if row_expected && next_timeline.is_none() => {
                    next_timeline = Some(read_next_timeline(&row)?);
                }
                BackendMessage::CommandComplete(_) => {}
                BackendMessage::ReadyForQuery => return Ok(next_timeline),
                message => return Err(unexpected(&message)),
            }
        }
    }
}

impl WalStream<'_> {
    /// The next message; `None` once the server has sent CopyDone because the timeline ended.
    ///
    /// Sends what [`Self::queue_status_update`] queued while it waits. Cancel-safe. A server that shuts down ends the
    /// stream with [`ClientError::ShuttingDown`].
    pub async fn next(&mut self) -> Result<Option<ReplicationMessage>, ClientError> {
        if self.server_done {
            return Ok(None);
        }
        match self.connection.next_message().await? {
            BackendMessage::CopyData(payload) => Ok(Some(ReplicationMessage::parse(payload)?)),
            BackendMessage::CopyDone => {
                self.server_done = true;
                Ok(None)
            }
            BackendMessage::CommandComplete(_) => Err(ClientError::ShuttingDown),
            message => Err(unexpected(&message)),
        }
    }

    /// Whether bytes of further messages have been received already, so that [`Self::next`] may not have to wait.
    pub fn has_buffered(&self) -> bool {
        self.connection.has_buffered()
    }

    /// Queues a status update; it goes out with the next [`Self::next`] or [`Self::send`].
    pub fn queue_status_update(&mut self, update: &StandbyStatusUpdate) {
        frontend::standby_status_update(update, self.connection.outgoing());
    }

    /// How many bytes are queued and not sent: more than a few only when the server does not read.
    pub fn unsent_len(&self) -> usize {
        self.connection.unsent_len()
    }

    /// Sends what is queued, without waiting for a message.
    pub async fn send(&mut self) -> Result<(), ClientError> {
        self.connection.send().await
    }

    /// Ends the stream: sends CopyDone, passes over WAL that was under way, and reads the results.
    pub async fn finish(self) -> Result<StreamEnd, ClientError> {
        frontend::copy_done(self.connection.outgoing());
        self.connection.send().await?;
        while !self.server_done {
            match self.connection.next_message().await? {
                BackendMessage::CopyData(_) => {}
                BackendMessage::CopyDone => break,
                BackendMessage::CommandComplete(_) => return Err(ClientError::ShuttingDown),
                message => return Err(unexpected(&message)),
            }
        }
        Ok(StreamEnd { next_timeline: self.connection.finish_stream(false).await? })
    }
}

fn read_next_timeline(row: &DataRow) -> Result<NextTimeline, ClientError> {
    let problem = || ClientError::Answer { command: NAME, problem: "invalid next timeline" };
    Ok(NextTimeline {
        timeline: row.text(0).and_then(|text| text.parse().ok()).ok_or_else(problem)?,
        start_lsn: row.text(1).and_then(|text| text.parse().ok()).ok_or_else(problem)?,
    })
}

fn unexpected(message: &BackendMessage) -> ClientError {
    ClientError::Unexpected { during: NAME, found: message.name() }
}
