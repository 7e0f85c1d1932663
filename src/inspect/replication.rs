//! Who receives WAL from a server, from whom it receives WAL itself, and the base backups that are taken of it.

use serde::Serialize;

use super::server::Upstream;
use super::sync_standbys::SyncStandbys;
use super::{InspectError, ask};
use crate::client::{ClientError, Row, Sql};
use crate::pg::{Lsn, TimelineId};

/// A connection that a server sends WAL or a base backup to: a row of `pg_stat_replication`. What the role may not see
/// is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Downstream {
    /// The process on the server.
    pub pid: i32,
    /// The role it has connected as.
    pub role: Option<String>,
    /// What it calls itself.
    pub application_name: String,
    /// Its address; `local` over a Unix socket.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`.
    pub state: Option<String>,
    /// How far WAL was sent.
    pub sent_lsn: Option<Lsn>,
    /// How far it says to have written it.
    pub write_lsn: Option<Lsn>,
    /// How far it says to have made it durable.
    pub flush_lsn: Option<Lsn>,
    /// How far it says to have applied it.
    pub replay_lsn: Option<Lsn>,
    /// How long recent WAL took until it was written there.
    pub write_lag_seconds: Option<f64>,
    /// How long until it was durable there.
    pub flush_lag_seconds: Option<f64>,
    /// How long until it was applied there.
    pub replay_lag_seconds: Option<f64>,
    /// Its turn among the synchronous ones; 0 for an asynchronous one.
    pub sync_priority: Option<u32>,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: Option<String>,
    /// Seconds since its last word.
    pub reply_age_seconds: Option<f64>,
}

const DOWNSTREAMS: &str = "\
SELECT pid, usename, application_name, CASE WHEN client_port = -1 THEN 'local' ELSE host(client_addr) END, client_port, \
state, sent_lsn, write_lsn, flush_lsn, replay_lsn, extract(epoch FROM write_lag)::float8, \
extract(epoch FROM flush_lag)::float8, extract(epoch FROM replay_lag)::float8, sync_priority, sync_state, \
extract(epoch FROM clock_timestamp() - reply_time)::float8 \
FROM pg_stat_replication ORDER BY application_name, backend_start, pid";

/// Asks whom a server sends WAL or base backups to. A role that may not see what others do learns only that they are.
pub async fn downstreams(sql: &Sql) -> Result<Vec<Downstream>, InspectError> {
    ask(sql, "who receives WAL from it", DOWNSTREAMS, Downstream::read).await
}

/// Receivers that apply nothing, by the names they give themselves.
const RECEIVER_NAMES: [&str; 2] = ["pgwake", "pg_receivewal"];

impl Downstream {
    fn read(row: &Row) -> Result<Self, ClientError> {
        Ok(Downstream {
            pid: row.get(0)?,
            role: row.get(1)?,
            application_name: row.get::<Option<String>>(2)?.unwrap_or_default(),
            address: row.get(3)?,
            port: row.get::<Option<i32>>(4)?.and_then(|port| u16::try_from(port).ok()),
            state: row.get(5)?,
            sent_lsn: row.get(6)?,
            write_lsn: row.get(7)?,
            flush_lsn: row.get(8)?,
            replay_lsn: row.get(9)?,
            write_lag_seconds: row.get(10)?,
            flush_lag_seconds: row.get(11)?,
            replay_lag_seconds: row.get(12)?,
            sync_priority: row.get::<Option<i32>>(13)?.and_then(|priority| u32::try_from(priority).ok()),
            sync_state: row.get(14)?,
            reply_age_seconds: row.get(15)?,
        })
    }

    /// How far it is with all it does with WAL: applied, or durable where it applies nothing (a receiver).
    pub fn done_lsn(&self) -> Option<Lsn> {
        self.replay_lsn.or(self.flush_lsn).or(self.write_lsn).or(self.sent_lsn)
    }

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

/// How many more synchronous standbys there have to be for commits to go on, by `synchronous_standby_names`; 0 when they go
/// on. `None` where the role may not see who is synchronous, or the names cannot be read.
pub fn missing_synchronous(names: &str, downstreams: &[Downstream]) -> Option<u32> {
    if names.trim().is_empty() {
        return Some(0);
    }
    let counts = |row: &Downstream| row.sync_state.as_deref().map(|state| matches!(state, "sync" | "quorum"));
    let counted: Option<Vec<bool>> = downstreams.iter().map(counts).collect();
    let there = counted?.into_iter().filter(|counts| *counts).count();
    let needed = names.parse::<SyncStandbys>().ok()?.count;
    Some(needed.saturating_sub(u32::try_from(there).unwrap_or(u32::MAX)))
}

/// What a standby receives WAL with: the row of `pg_stat_wal_receiver`. What the role may not see is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WalReceiver {
    /// `streaming`, `waiting` …
    pub status: Option<String>,
    /// The server it is connected to.
    pub host: Option<String>,
    /// That server's port.
    pub port: Option<u16>,
    /// The slot it uses there.
    pub slot: Option<String>,
    /// The name it goes by there.
    pub application_name: Option<String>,
    /// The timeline it receives.
    pub timeline: Option<TimelineId>,
    /// How far the upstream said it was.
    pub upstream_lsn: Option<Lsn>,
    /// How long ago the upstream was heard of.
    pub silence_seconds: Option<f64>,
}

const RECEIVER: &str = "\
SELECT status, sender_host, sender_port, slot_name, conninfo, received_tli, latest_end_lsn, \
extract(epoch FROM clock_timestamp() - last_msg_receipt_time)::float8 FROM pg_stat_wal_receiver WHERE pid IS NOT NULL";

/// Asks what a server receives WAL with; `None` where nothing runs.
pub async fn wal_receiver(sql: &Sql) -> Result<Option<WalReceiver>, InspectError> {
    let rows = ask(sql, "its WAL receiver", RECEIVER, WalReceiver::read).await?;
    Ok(rows.into_iter().next())
}

impl WalReceiver {
    fn read(row: &Row) -> Result<Self, ClientError> {
        let slot: Option<String> = row.get(3)?;
        let conninfo: Option<&str> = row.get(4)?;
        Ok(WalReceiver {
            status: row.get(0)?,
            host: row.get(1)?,
            port: row.get::<Option<i32>>(2)?.and_then(|port| u16::try_from(port).ok()),
            slot: slot.filter(|slot| !slot.is_empty()),
            // the server puts asterisks in place of passwords, and no more than the name is kept
            application_name: conninfo.and_then(Upstream::parse).and_then(|found| found.application_name),
            timeline: row.get::<Option<i32>>(5)?.and_then(|id| TimelineId::new(u32::try_from(id).ok()?)),
            upstream_lsn: row.get(6)?,
            // two machines' clocks differ
            silence_seconds: row.get::<Option<f64>>(7)?.map(|seconds| seconds.max(0.0)),
        })
    }

    /// Whether WAL comes in.
    pub fn is_streaming(&self) -> bool {
        self.status.as_deref() == Some("streaming")
    }
}

/// A base backup in progress: a row of `pg_stat_progress_basebackup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseBackup {
    /// The process on the server, the same as that of its [`Downstream`].
    pub pid: i32,
    /// What it is doing, in PostgreSQL's words.
    pub phase: Option<String>,
    /// How many bytes there will be, where the client has asked for an estimate.
    pub total_bytes: Option<u64>,
    /// How many were sent.
    pub streamed_bytes: Option<u64>,
    /// How many tablespaces there are.
    pub tablespaces: Option<u32>,
    /// How many were sent.
    pub tablespaces_streamed: Option<u32>,
}

const BASE_BACKUPS: &str = "\
SELECT pid, phase, backup_total, backup_streamed, tablespaces_total, tablespaces_streamed \
FROM pg_stat_progress_basebackup ORDER BY pid";

/// Asks for the base backups that are taken of a server.
pub async fn base_backups(sql: &Sql) -> Result<Vec<BaseBackup>, InspectError> {
    ask(sql, "the base backups that are taken of it", BASE_BACKUPS, BaseBackup::read).await
}

impl BaseBackup {
    fn read(row: &Row) -> Result<Self, ClientError> {
        let bytes = |column| row.get::<Option<i64>>(column).map(|len| u64::try_from(len?).ok());
        let count = |column| row.get::<Option<i64>>(column).map(|count| u32::try_from(count?).ok());
        Ok(BaseBackup {
            pid: row.get(0)?,
            phase: row.get(1)?,
            total_bytes: bytes(2)?,
            streamed_bytes: bytes(3)?,
            tablespaces: count(4)?,
            tablespaces_streamed: count(5)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_synchronous_standbys_are_counted() {
        let row = |state: &str| Downstream { sync_state: Some(state.to_owned()), ..Downstream::default() };
        let rows = [row("sync"), row("potential"), row("async")];
        for (names, missing) in
            [("", 0), ("a", 0), ("a, b", 0), ("FIRST 2 (a, b)", 1), ("2 (a, b)", 1), ("*", 0)]
        {
            assert_eq!(missing_synchronous(names, &rows), Some(missing), "{names}");
        }
        assert_eq!(missing_synchronous("any 2(a, b, c)", &[row("quorum")]), Some(1));
        assert_eq!(missing_synchronous("\"1 (x\"", &[]), Some(1));
        assert_eq!(missing_synchronous("a", &[]), Some(1));
        assert_eq!(missing_synchronous("a", &[Downstream::default()]), None);
    }
}
