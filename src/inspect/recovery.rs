//! Where a server stands in recovery: what it has received and replayed, and from whom.

use std::time::Duration;

use super::{Answer, InspectError, ask};
use crate::client::Connection;
use crate::client::conninfo::Secret;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

/// What a server says of its recovery. Positions of recovery are `None` on a primary, and its own is on a standby.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// Whether it is a standby, or recovers.
    pub in_recovery: bool,
    /// Which cluster it is, where the role may know.
    pub system_identifier: Option<SystemIdentifier>,
    /// When the server was started, as text: tells two servers of one cluster apart.
    pub started_at: String,
    /// The timeline that it writes, or receives or replays.
    pub timeline: Option<TimelineId>,
    /// A primary's end of durable WAL.
    pub flush_lsn: Option<Lsn>,
    /// Up to where WAL has come and is durable here; never before what is replayed.
    pub received_lsn: Option<Lsn>,
    /// Up to where it is applied.
    pub replayed_lsn: Option<Lsn>,
    /// Whether replay goes on.
    pub pause: Option<ReplayPause>,
    /// The last commit or abort that was replayed.
    pub last_transaction: Option<ReplayedTransaction>,
    /// `primary_conninfo`, where the role may see it: it can hold a password.
    pub primary_conninfo: Option<Secret>,
    /// `primary_slot_name`, if there is one.
    pub slot: Option<String>,
    /// The WAL receiver, if one runs.
    pub receiver: Option<WalReceiver>,
}

/// Whether replay goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayPause {
    /// It does.
    None,
    /// A pause was asked for and has not begun (told from 14 on).
    Requested,
    /// It does not.
    Paused,
}

/// A transaction's end on the primary.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayedTransaction {
    /// When it was there, by the primary's clock: RFC 3339.
    pub ended_at: String,
    /// How long ago that is by the standby's clock.
    pub age: Duration,
}

/// A line of `pg_stat_wal_receiver`. A role without `pg_read_all_stats` sees that there is one, and no more.
#[derive(Debug, Clone, PartialEq)]
pub struct WalReceiver {
    /// `streaming`, `waiting` …
    pub status: Option<String>,
    /// The upstream's host, or its socket's directory.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The slot in use.
    pub slot: Option<String>,
    /// How far the upstream said it was.
    pub upstream_lsn: Option<Lsn>,
    /// How long ago the upstream was heard of.
    pub silence: Option<Duration>,
}

impl Recovery {
    /// Bytes that the standby knows of and has not replayed: received ones, and those that its upstream spoke of.
    pub fn replay_lag_bytes(&self) -> Option<u64> {
        let upstream = self.receiver.as_ref().and_then(|receiver| receiver.upstream_lsn);
        let known = self.received_lsn.max(upstream)?;
        Some(known.saturating_since(self.replayed_lsn?))
    }

    /// How old what can be read here is: nothing when all is replayed and more would come, else the age of the last
    /// transaction. `None` where there is none.
    pub fn replay_lag(&self) -> Option<Duration> {
        if self.replay_lag_bytes() == Some(0) && self.is_streaming() {
            return Some(Duration::ZERO);
        }
        self.last_transaction.as_ref().map(|transaction| transaction.age)
    }

    /// Bytes received and not replayed.
    pub fn unreplayed_bytes(&self) -> u64 {
        match (self.received_lsn, self.replayed_lsn) {
            (Some(received), Some(replayed)) => received.saturating_since(replayed),
            _ => 0,
        }
    }

    /// Whether WAL comes in.
    pub fn is_streaming(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.status.as_deref() == Some("streaming"))
    }
}

/// Asks a server for all of it.
pub async fn recovery(sql: &mut Connection) -> Result<Recovery, InspectError> {
    let pause = match sql.version().has_wal_replay_pause_state() {
        true => "pg_get_wal_replay_pause_state()",
        false => "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' ELSE 'not paused' END",
    };
    let text = format!(
        "SELECT pg_is_in_recovery(), pg_postmaster_start_time()::text, \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_flush_lsn()) END, \
         pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), CASE WHEN pg_is_in_recovery() THEN {pause} END, \
         to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
         extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), \
         (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'), \
         (SELECT setting FROM pg_settings WHERE name = 'primary_slot_name')"
    );
    let rows = ask(sql, &text, "its state of recovery").await?;
    let (control_identifier, control_timeline) = ask_control_file(sql).await;
    let receiver_rows = ask(sql, RECEIVER, "its WAL receiver").await?;
    let receiver_row = receiver_rows.first();
    let Some(row) = rows.first() else { return Err(InspectError::no_answer("its state of recovery")) };
    let in_recovery = row.is_true(0).unwrap_or(false);
    let standby = |lsn: Option<Lsn>| lsn.filter(|_| in_recovery);
    let replayed_lsn = standby(row.lsn(5));
    let written_timeline =
        row.text(3).and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok()).and_then(TimelineId::new);
    let received_timeline = receiver_row.and_then(|row| row.get(7));
    Ok(Recovery {
        in_recovery,
        system_identifier: control_identifier,
        started_at: row.text(1).unwrap_or_default().to_owned(),
        timeline: written_timeline.or(received_timeline.max(control_timeline)),
        flush_lsn: row.lsn(2),
        received_lsn: standby(row.lsn(4)).max(replayed_lsn),
        replayed_lsn,
        pause: row.text(6).map(|state| match state {
            "paused" => ReplayPause::Paused,
            "pause requested" => ReplayPause::Requested,
            _ => ReplayPause::None,
        }),
        last_transaction: row.text(7).filter(|_| in_recovery).map(|ended_at| ReplayedTransaction {
            ended_at: ended_at.to_owned(),
            age: seconds(row, 8).unwrap_or_default(),
        }),
        primary_conninfo: row.text(9).filter(|text| !text.is_empty()).map(Secret::new),
        slot: row.text(10).filter(|text| !text.is_empty()).map(str::to_owned),
        receiver: receiver_row.map(|row| WalReceiver {
            status: row.text(1).map(str::to_owned),
            host: row.text(2).map(str::to_owned),
            port: row.get(3),
            slot: row.text(4).filter(|text| !text.is_empty()).map(str::to_owned),
            upstream_lsn: row.lsn(5),
            silence: seconds(row, 6),
        }),
    })
}

const RECEIVER: &str = "SELECT pid, status, sender_host, sender_port, slot_name, latest_end_lsn, \
     extract(epoch FROM clock_timestamp() - last_msg_receipt_time), received_tli \
     FROM pg_stat_wal_receiver WHERE pid IS NOT NULL";

/// Which cluster, and the timeline that the control file tells of: late, and not for every role.
async fn ask_control_file(sql: &mut Connection) -> (Option<SystemIdentifier>, Option<TimelineId>) {
    let text = "SELECT (SELECT system_identifier FROM pg_control_system()), greatest(\
                (SELECT timeline_id FROM pg_control_checkpoint()), \
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()))";
    match ask(sql, text, "its control file").await {
        Ok(rows) => rows.first().map_or((None, None), |row| (row.get(0), row.get(1))),
        Err(_) => (None, None),
    }
}

fn seconds(row: &Answer, column: usize) -> Option<Duration> {
    let seconds: f64 = row.get(column)?;
    // two machines' clocks differ
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// Whether the server is in recovery.
pub async fn is_in_recovery(sql: &mut Connection) -> Result<bool, InspectError> {
    const WHAT: &str = "whether it is in recovery";
    let rows = ask(sql, "SELECT pg_is_in_recovery()", WHAT).await?;
    rows.first().and_then(|row| row.is_true(0)).ok_or_else(|| InspectError::no_answer(WHAT))
}

/// How far a session can read here: what a standby has replayed, what a primary has flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadablePosition {
    /// Whether it is a standby's.
    pub in_recovery: bool,
    /// The position; `None` as long as a standby has replayed nothing.
    pub lsn: Option<Lsn>,
}

/// Asks for no more than [`ReadablePosition`], which costs a server next to nothing.
pub async fn readable_position(sql: &mut Connection) -> Result<ReadablePosition, InspectError> {
    const WHAT: &str = "how far it has come";
    let text = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                ELSE pg_current_wal_flush_lsn() END";
    let rows = ask(sql, text, WHAT).await?;
    let row = rows.first().ok_or_else(|| InspectError::no_answer(WHAT))?;
    Ok(ReadablePosition { in_recovery: row.is_true(0).unwrap_or(false), lsn: row.lsn(1) })
}

/// How a server's WAL is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalLayout {
    /// The length of a page, in bytes.
    pub page_len: u64,
    /// The size of a segment.
    pub segment_size: WalSegmentSize,
}

/// Asks how the WAL is cut.
pub async fn wal_layout(sql: &mut Connection) -> Result<WalLayout, InspectError> {
    const WHAT: &str = "how its WAL is cut";
    let text = "SELECT current_setting('wal_block_size'), current_setting('wal_segment_size')";
    let rows = ask(sql, text, WHAT).await?;
    let layout =
        rows.first().and_then(|row| Some(WalLayout { page_len: row.get(0)?, segment_size: row.get(1)? }));
    layout.ok_or_else(|| InspectError::no_answer(WHAT))
}

/// Whether replay stands where it does because there is nothing more: the startup process waits for WAL. `None` where
/// the role may not see it.
pub async fn is_replay_idle(sql: &mut Connection) -> Result<Option<bool>, InspectError> {
    let text = "SELECT wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval') \
                FROM pg_stat_activity WHERE backend_type = 'startup'";
    let rows = ask(sql, text, "what replay waits for").await?;
    Ok(rows.first().and_then(|row| row.is_true(0)))
}

/// Lets a server from 19 on wait until it has replayed `lsn`, or `timeout` is over, or it is promoted. Which of them it
/// was is to be asked.
pub async fn wait_for_replay(sql: &mut Connection, lsn: Lsn, timeout: Duration) -> Result<(), InspectError> {
    // zero would be for ever
    let milliseconds = timeout.as_millis().max(1);
    let text =
        format!("WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{milliseconds}ms', NO_THROW)");
    // alone: it is not for transactions
    let waited = sql.query(&text, "WAIT FOR").await;
    waited.map(drop).map_err(|source| InspectError { what: "to wait for an LSN", source })
}
