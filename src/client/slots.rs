//! Physical replication slots.

use super::{ClientError, Connection};
use crate::pg::{Lsn, SlotName, TimelineId};
use crate::wire::command::{self, DropWhenActive, SlotPersistence, WalReservation};

/// The answer to `READ_REPLICATION_SLOT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// The oldest WAL that the slot holds; `None` as long as it holds none.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that WAL, in the history of the server's current one.
    pub restart_timeline: Option<TimelineId>,
}

impl Connection {
    /// `CREATE_REPLICATION_SLOT … PHYSICAL`. A name in use is SQLSTATE 42710.
    pub async fn create_physical_slot(
        &mut self,
        slot: &SlotName,
        persistence: SlotPersistence,
        reservation: WalReservation,
    ) -> Result<(), ClientError> {
        let text = command::create_physical_slot(self.version(), slot, persistence, reservation);
        let row = self.query_row(&text, "CREATE_REPLICATION_SLOT", 1).await?;
        if row.text(0) == Some(slot.as_str()) {
            return Ok(());
        }
        Err(ClientError::Answer { command: "CREATE_REPLICATION_SLOT", problem: "another slot's name" })
    }

    /// `READ_REPLICATION_SLOT` (15): `None` when there is no physical slot of this name.
    pub async fn read_slot(&mut self, slot: &SlotName) -> Result<Option<SlotState>, ClientError> {
        const NAME: &str = "READ_REPLICATION_SLOT";
        if !self.version().has_read_replication_slot() {
            return Err(ClientError::NotSupported { command: NAME, version: self.version() });
        }
        let row = self.query_row(&command::read_slot(slot), NAME, 3).await?;
        if row.values[0].is_none() {
            return Ok(None);
        }
        let problem = |problem| move || ClientError::Answer { command: NAME, problem };
        let restart_lsn = match &row.values[1] {
            Some(_) => Some(row.text(1).and_then(|t| t.parse().ok()).ok_or_else(problem("invalid LSN"))?),
            None => None,
        };
        let restart_timeline = match &row.values[2] {
            Some(_) => {
                Some(row.text(2).and_then(|t| t.parse().ok()).ok_or_else(problem("invalid timeline"))?)
            }
            None => None,
        };
        Ok(Some(SlotState { restart_lsn, restart_timeline }))
    }

    /// `DROP_REPLICATION_SLOT`. In use is SQLSTATE 55006, missing 42704.
    pub async fn drop_slot(
        &mut self,
        slot: &SlotName,
        when_active: DropWhenActive,
    ) -> Result<(), ClientError> {
        let silence = match when_active {
            DropWhenActive::Wait => None,
            DropWhenActive::Fail => self.answer_timeout(),
        };
        let text = command::drop_slot(slot, when_active);
        self.query_within(silence, &text, "DROP_REPLICATION_SLOT").await?;
        Ok(())
    }
}
