//! Replication slots, who uses them, and the WAL that they hold.

use std::str::FromStr;

use serde::Serialize;

use super::server::{self, ServerState};
use super::{Answer, InspectError, ask_all};
use crate::client::{ClientError, Connection};
use crate::pg::{Lsn, ServerVersion};

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicationSlot {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    #[serde(rename = "type")]
    pub slot_type: String,
    /// The database of a logical slot.
    pub database: Option<String>,
    /// Whether it goes away with the connection that made it.
    pub temporary: bool,
    /// Whether somebody uses it.
    pub active: bool,
    /// Who does.
    pub used_by: Option<SlotUser>,
    /// The oldest WAL that it holds; `None` when it holds none.
    pub restart_lsn: Option<Lsn>,
    /// How many bytes of WAL lie between that and the server's position.
    pub held_bytes: Option<u64>,
    /// How it stands with that WAL.
    pub wal_status: Option<WalStatus>,
    /// How many bytes of WAL can be written before it may be lost; `None` when nothing bounds what it holds, negative
    /// when that has happened already.
    pub safe_wal_size: Option<i64>,
    /// Since when nobody uses it, RFC 3339 (17).
    pub inactive_since: Option<String>,
    /// The same in seconds.
    pub inactive_seconds: Option<f64>,
    /// Why it was invalidated, in PostgreSQL's words (17).
    pub invalidation_reason: Option<String>,
    /// Whether it is a copy of a primary's slot, which nobody uses here (17).
    pub synced: bool,
}

/// Who uses a slot. What the role may not see is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotUser {
    /// The process on the server.
    pub pid: i32,
    /// What it calls itself.
    pub application_name: Option<String>,
    /// Its address; `local` over a Unix socket.
    pub address: Option<String>,
}

/// `wal_status`: how it stands with the WAL that a slot claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStatus {
    /// It is no more than the server keeps anyway (`max_wal_size`).
    Reserved,
    /// It is more than that, and is kept for slots.
    Extended,
    /// It is kept no longer: the next checkpoint may remove it.
    Unreserved,
    /// Some of it is removed, and the slot is of no use any more.
    Lost,
}

impl WalStatus {
    /// PostgreSQL's word.
    pub fn as_str(self) -> &'static str {
        match self {
            WalStatus::Reserved => "reserved",
            WalStatus::Extended => "extended",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Lost => "lost",
        }
    }
}

/// A word that is none of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown wal_status")]
pub struct UnknownWalStatus;

impl FromStr for WalStatus {
    type Err = UnknownWalStatus;

    fn from_str(text: &str) -> Result<Self, UnknownWalStatus> {
        let all = [WalStatus::Reserved, WalStatus::Extended, WalStatus::Unreserved, WalStatus::Lost];
        all.into_iter().find(|status| status.as_str() == text).ok_or(UnknownWalStatus)
    }
}

/// All slots, and the server that has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Slots {
    /// The server.
    pub server: ServerState,
    /// Its slots, by name.
    pub slots: Vec<ReplicationSlot>,
}

/// Asks for all slots.
pub async fn slots(sql: &mut Connection) -> Result<Slots, InspectError> {
    const WHAT: &str = "its replication slots";
    let question = question(sql.version());
    let answers = ask_all(sql, &[server::QUESTION, &question], WHAT).await?;
    let Some(row) = answers[0].first() else {
        let source = ClientError::Answer { command: "SELECT", problem: "no row" };
        return Err(InspectError { what: WHAT, source });
    };
    let server = ServerState::read(row);
    let slots = answers[1].iter().map(|row| ReplicationSlot::read(row, server.lsn)).collect();
    Ok(Slots { server, slots })
}

/// The question for [`ReplicationSlot`].
pub(super) fn question(version: ServerVersion) -> String {
    let newer = if version.has_slot_inactive_since() {
        "to_char(s.inactive_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
         extract(epoch FROM clock_timestamp() - s.inactive_since), s.invalidation_reason, s.synced"
    } else {
        "NULL, NULL, NULL, false"
    };
    format!(
        "SELECT s.slot_name, s.slot_type, s.database, s.temporary, s.active, s.active_pid, a.application_name, \
         CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) END, s.restart_lsn, s.wal_status, \
         s.safe_wal_size, {newer} FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid \
         ORDER BY s.slot_name"
    )
}

impl ReplicationSlot {
    /// Reads a row of the answer; `lsn` is where the server is.
    pub(super) fn read(row: &Answer, lsn: Option<Lsn>) -> Self {
        let restart_lsn = row.lsn(8);
        let user = |pid| SlotUser { pid, application_name: row.owned(6), address: row.owned(7) };
        let active = row.is_true(4).unwrap_or_default();
        ReplicationSlot {
            name: row.owned(0).unwrap_or_default(),
            slot_type: row.owned(1).unwrap_or_default(),
            database: row.owned(2),
            temporary: row.is_true(3).unwrap_or_default(),
            active,
            used_by: row.get(5).map(user),
            restart_lsn,
            held_bytes: lsn.zip(restart_lsn).map(|(lsn, restart)| lsn.saturating_since(restart)),
            wal_status: row.get(9),
            safe_wal_size: row.get(10),
            inactive_since: row.owned(11).filter(|_| !active),
            inactive_seconds: row.get(12).filter(|_| !active),
            invalidation_reason: row.owned(13),
            synced: row.is_true(14).unwrap_or_default(),
        }
    }
}
