//! Replication slots, who uses them, and the WAL that they hold.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::server::{ServerState, server_state};
use super::{InspectError, ask};
use crate::client::{ClientError, Row, Sql};
use crate::pg::{Lsn, ServerVersion, SlotName};

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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

/// Asks for all slots and their server, in one round trip.
pub async fn slots_and_server(sql: &Sql) -> Result<Slots, InspectError> {
    let (server, slots) = tokio::try_join!(server_state(sql), slots(sql))?;
    Ok(Slots { server, slots })
}

/// Asks for all slots.
pub async fn slots(sql: &Sql) -> Result<Vec<ReplicationSlot>, InspectError> {
    ask(sql, "its replication slots", &question(sql.version()), ReplicationSlot::read).await
}

fn question(version: ServerVersion) -> String {
    let newer = if version.has_slot_inactive_since() {
        "to_char(s.inactive_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
         extract(epoch FROM clock_timestamp() - s.inactive_since)::float8, s.invalidation_reason, s.synced"
    } else {
        "NULL::text, NULL::float8, NULL::text, false"
    };
    format!(
        "SELECT s.slot_name, s.slot_type, s.database, s.temporary, s.active, s.active_pid, a.application_name, \
         CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) END, s.restart_lsn, s.wal_status, \
         s.safe_wal_size, {newer}, greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() \
           THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END, \
           s.restart_lsn))::bigint FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid \
         ORDER BY s.slot_name"
    )
}

impl ReplicationSlot {
    fn read(row: &Row) -> Result<Self, ClientError> {
        let restart_lsn: Option<Lsn> = row.get(8)?;
        let pid: Option<i32> = row.get(5)?;
        let (application_name, address) = (row.get(6)?, row.get(7)?);
        let active = row.get(4)?;
        let status: Option<&str> = row.get(9)?;
        // without restart_lsn, greatest() has only its zero
        let held: Option<i64> =
            row.get::<i64>(15).map(|held| Some(held).filter(|_| restart_lsn.is_some()))?;
        Ok(ReplicationSlot {
            name: row.get(0)?,
            slot_type: row.get(1)?,
            database: row.get(2)?,
            temporary: row.get(3)?,
            active,
            used_by: pid.map(|pid| SlotUser { pid, application_name, address }),
            restart_lsn,
            held_bytes: held.and_then(|held| u64::try_from(held).ok()),
            wal_status: status.and_then(|status| status.parse().ok()),
            safe_wal_size: row.get(10)?,
            inactive_since: row.get::<Option<String>>(11)?.filter(|_| !active),
            inactive_seconds: row.get::<Option<f64>>(12)?.filter(|_| !active),
            invalidation_reason: row.get(13)?,
            synced: row.get(14)?,
        })
    }

    /// Its name, where it is one that can be written into a command.
    pub fn slot_name(&self) -> Option<SlotName> {
        self.name.parse().ok()
    }

    /// Whether nobody can resume from it.
    pub fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalidation_reason.is_some()
    }

    /// Since when nobody uses it.
    pub fn idle_time(&self) -> Option<Duration> {
        self.inactive_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}
