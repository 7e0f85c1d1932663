//! Who receives WAL from a server, from whom it receives WAL itself, and the base backups that are taken of it.

use serde::Serialize;

use super::Answer;
use super::server::Upstream;
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

/// The question for [`Downstream`].
pub(super) const DOWNSTREAMS: &str = "\
SELECT pid, usename, application_name, CASE WHEN client_port = -1 THEN 'local' ELSE host(client_addr) END, client_port, \
state, sent_lsn, write_lsn, flush_lsn, replay_lsn, extract(epoch FROM write_lag), extract(epoch FROM flush_lag), \
extract(epoch FROM replay_lag), sync_priority, sync_state, extract(epoch FROM clock_timestamp() - reply_time) \
FROM pg_stat_replication ORDER BY application_name, backend_start, pid";

impl Downstream {
    /// Reads a row of the answer.
    pub(super) fn read(row: &Answer) -> Self {
        Downstream {
            pid: row.get(0).unwrap_or_default(),
            role: row.owned(1),
            application_name: row.owned(2).unwrap_or_default(),
            address: row.owned(3),
            port: row.get(4),
            state: row.owned(5),
            sent_lsn: row.lsn(6),
            write_lsn: row.lsn(7),
            flush_lsn: row.lsn(8),
            replay_lsn: row.lsn(9),
            write_lag_seconds: row.get(10),
            flush_lag_seconds: row.get(11),
            replay_lag_seconds: row.get(12),
            sync_priority: row.get(13),
            sync_state: row.owned(14),
            reply_age_seconds: row.get(15),
        }
    }

    /// How far it is with all it does with WAL: applied, or durable where it applies nothing (a receiver).
    pub fn done_lsn(&self) -> Option<Lsn> {
        self.replay_lsn.or(self.flush_lsn).or(self.write_lsn).or(self.sent_lsn)
    }
}

/// How many more synchronous standbys there have to be for commits to go on, by `synchronous_standby_names`; 0 when they go
/// on. `None` where the role may not see who is synchronous.
pub fn missing_synchronous(names: &str, downstreams: &[Downstream]) -> Option<u32> {
    if names.trim().is_empty() {
        return Some(0);
    }
    let counts = |row: &Downstream| row.sync_state.as_deref().map(|state| matches!(state, "sync" | "quorum"));
    let counted: Option<Vec<bool>> = downstreams.iter().map(counts).collect();
    let there = counted?.into_iter().filter(|counts| *counts).count();
    // `FIRST 2 (a, b)`, `ANY 2 (a, b)`, `2 (a, b)`, or no more than names, of which one has to be there
    let before = names.split_once('(').map_or("", |(before, _)| before);
    let needed: u32 = before.split_whitespace().next_back().and_then(|word| word.parse().ok()).unwrap_or(1);
    Some(needed.saturating_sub(u32::try_from(there).unwrap_or(u32::MAX)))
}

/// What a standby receives WAL with: the row of `pg_stat_wal_receiver`. What the role may not see is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
}

/// The question for [`WalReceiver`].
pub(super) const RECEIVER: &str =
    "SELECT status, sender_host, sender_port, slot_name, conninfo, received_tli FROM pg_stat_wal_receiver";

impl WalReceiver {
    /// Reads the row of the answer.
    pub(super) fn read(row: &Answer) -> Self {
        WalReceiver {
            status: row.owned(0),
            host: row.owned(1),
            port: row.get(2),
            slot: row.owned(3).filter(|slot| !slot.is_empty()),
            // the server puts asterisks in place of passwords, and no more than the name is kept
            application_name: row.text(4).and_then(Upstream::parse).and_then(|found| found.application_name),
            timeline: row.get::<u32>(5).and_then(TimelineId::new),
        }
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

/// The question for [`BaseBackup`].
pub(super) const BASE_BACKUPS: &str = "\
SELECT pid, phase, backup_total, backup_streamed, tablespaces_total, tablespaces_streamed \
FROM pg_stat_progress_basebackup ORDER BY pid";

impl BaseBackup {
    /// Reads a row of the answer.
    pub(super) fn read(row: &Answer) -> Self {
        BaseBackup {
            pid: row.get(0).unwrap_or_default(),
            phase: row.owned(1),
            total_bytes: row.get(2),
            streamed_bytes: row.get(3),
            tablespaces: row.get(4),
            tablespaces_streamed: row.get(5),
        }
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
