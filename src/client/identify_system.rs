//! `IDENTIFY_SYSTEM`: which cluster this is, and where it stands.

use super::{ClientError, Connection};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline it writes (a standby: replays) now.
    pub timeline: TimelineId,
    /// How far its WAL is flushed (a standby: received or replayed).
    pub flush_lsn: Lsn,
    /// The database of this connection; `None` for a physical walsender.
    pub database: Option<String>,
}

const NAME: &str = "IDENTIFY_SYSTEM";

impl Connection {
    /// `IDENTIFY_SYSTEM`.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        let row = self.query_row(NAME, NAME, 4).await?;
        let problem = |problem| move || ClientError::Answer { command: NAME, problem };
        let field = |column| row.text(column);
        Ok(SystemIdentity {
            system_identifier: field(0)
                .and_then(|text| text.parse().ok())
                .ok_or_else(problem("invalid system identifier"))?,
            timeline: field(1).and_then(|text| text.parse().ok()).ok_or_else(problem("invalid timeline"))?,
            flush_lsn: field(2).and_then(|text| text.parse().ok()).ok_or_else(problem("invalid LSN"))?,
            database: field(3).map(ToOwned::to_owned),
        })
    }
}
