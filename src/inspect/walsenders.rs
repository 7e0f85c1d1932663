//! Who receives WAL from a server: `pg_stat_replication`, as far as synchronous commits need it.

use super::{Answer, InspectError, ask};
use crate::client::Connection;
use crate::pg::Lsn;

/// One connection that WAL, or a base backup, is sent on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walsender {
    /// The name it gave itself.
    pub application_name: String,
    /// `streaming`, `catchup`, `backup` …; `None` where this role may not know.
    pub state: Option<String>,
    /// How far it says that WAL is durable there.
    pub flush_lsn: Option<Lsn>,
    /// How far it says that WAL is applied there.
    pub replay_lsn: Option<Lsn>,
}

/// Receivers that apply nothing, by the names they give themselves.
const RECEIVER_NAMES: [&str; 2] = ["pgwake", "pg_receivewal"];

impl Walsender {
    /// Whether it has caught up and receives WAL as it is written.
    pub fn is_streaming(&self) -> bool {
        self.state.as_deref() == Some("streaming")
    }

    /// Whether it can confirm a commit: who never says that anything is durable does not count for the server.
    pub fn can_confirm(&self) -> bool {
        self.is_streaming() && self.flush_lsn.is_some()
    }

    /// Whether it is a receiver that only keeps WAL: it says how far that is durable, and never that any was applied.
    pub fn never_applies(&self) -> bool {
        self.replay_lsn.is_none()
            && (self.flush_lsn.is_some() || RECEIVER_NAMES.contains(&self.application_name.as_str()))
    }
}

/// Asks who is there. A role that may not see what others do learns only that they are.
pub async fn walsenders(sql: &mut Connection) -> Result<Vec<Walsender>, InspectError> {
    let text = "SELECT application_name, state, flush_lsn, replay_lsn FROM pg_catalog.pg_stat_replication";
    let rows = ask(sql, text, "who receives WAL from it").await?;
    let walsender = |row: &Answer| Walsender {
        application_name: row.text(0).unwrap_or_default().to_owned(),
        state: row.text(1).map(ToOwned::to_owned),
        flush_lsn: row.lsn(2),
        replay_lsn: row.lsn(3),
    };
    Ok(rows.iter().map(walsender).collect())
}
