//! A server that does not have the slot: a new primary most often, for slots do not move with a failover.
//!
//! Going on there is safe as long as no WAL is missing. So it is asked for what comes next first, without a slot, and the
//! slot is made only once that has begun to come. Where it is gone there is a hole, which no slot mends: that ends it, and
//! nothing is left on the server.

use std::time::Duration;

use super::error::ReceiveError;
use super::resume::SlotHold;
use super::session::{Session, StreamFrom};
use super::upstream::{ReplicationStream, StreamStart, Upstream};
use crate::pg::{SlotName, TimelineId};
use crate::sink::Sink;
use crate::wire::replication::ReplicationMessage;
use crate::wire::server_error::SqlState;

/// What to do on a server that does not have the slot, and is another one than that on which it was used, or the same one
/// after a promotion. Where nothing of that has changed somebody has dropped it, and meant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingSlot {
    /// Fail.
    #[default]
    Refuse,
    /// Make it, where a directory is to be gone on with and the server still has the WAL that comes next. Else fail.
    Create,
}

/// Where the slot was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotUse {
    /// On which server.
    pub(super) place: Option<String>,
    /// The timeline that streamed.
    pub(super) timeline: TimelineId,
}

/// How long the server may take to show that it has the WAL. One that says nothing has none to send yet.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl<K: Sink> Session<'_, K> {
    /// Whether a slot that is missing on a server whose timeline is `current` may be made there.
    pub(super) fn may_replace_slot<U: Upstream>(&self, upstream: &U, current: TimelineId) -> bool {
        let moved = |used: &SlotUse| current > used.timeline || upstream.place() != used.place;
        self.options.missing_slot == MissingSlot::Create && self.slot_used.as_ref().is_some_and(moved)
    }

    /// Makes the slot on a server that has the WAL from `from` on.
    pub(super) async fn replace_slot<U: Upstream>(
        &mut self,
        upstream: &mut U,
        slot: &SlotName,
        from: &mut StreamFrom,
    ) -> Result<(), ReceiveError> {
        tracing::warn!(
            "the server does not have replication slot \"{slot}\", as after a failover; asking it for the WAL from {} on",
            from.start_lsn
        );
        self.probe(upstream, from).await?;
        let created = self.answer("create the replication slot", upstream.create_slot(slot)).await;
        match created {
            Ok(()) => tracing::info!(
                start_lsn = %from.start_lsn,
                timeline = %from.timeline,
                "created replication slot \"{slot}\" there: it has the WAL that comes next, going on"
            ),
            // somebody was faster; if it is in use, starting says so
            Err(ReceiveError::Client { source, .. })
                if source.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => {}
            Err(error) => return Err(error),
        }
        // it may hold less than what comes next: what is acknowledged first moves it there
        from.slot = SlotHold::Unknown;
        Ok(())
    }

    /// Asks for the WAL from there on, and takes none.
    async fn probe<U: Upstream>(&self, upstream: &mut U, from: &StreamFrom) -> Result<(), ReceiveError> {
        let started = self.start(upstream, None, from).await;
        let StreamStart::Streaming(mut stream) =
            started.map_err(|error| self.explain(error, from, from.start_lsn))?
        else {
            return Ok(());
        };
        let first = async {
            loop {
                match stream.next().await {
                    Ok(Some(ReplicationMessage::PrimaryKeepalive(_))) => {}
                    other => return other.map(drop),
                }
            }
        };
        const DURING: &str = "ask for the WAL that comes next";
        if let Ok(first) = tokio::time::timeout(PROBE_TIMEOUT, first).await {
            let first = first.map_err(|source| ReceiveError::Client { during: DURING, source });
            first.map_err(|error| self.explain(error, from, from.start_lsn))?;
        }
        self.answer(DURING, stream.finish()).await.map(drop)
    }
}
