//! Where a server stands in recovery: what it has received and replayed, and from whom.

use std::time::Duration;

use super::replication::{WalReceiver, wal_receiver};
use super::{InspectError, ask, ask_one};
use crate::client::conninfo::Secret;
use crate::client::{ClientError, Row, Sql};
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
        self.receiver.as_ref().is_some_and(WalReceiver::is_streaming)
    }
}

/// Asks a server for all of it, in one round trip.
pub async fn recovery(sql: &Sql) -> Result<Recovery, InspectError> {
    let pause = match sql.version().has_wal_replay_pause_state() {
        true => "pg_get_wal_replay_pause_state()",
        false => "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' ELSE 'not paused' END",
    };
    let question = format!(
        "SELECT pg_is_in_recovery(), pg_postmaster_start_time()::text, \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END, \
         CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END, \
         pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), CASE WHEN pg_is_in_recovery() THEN {pause} END, \
         to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
         extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8, \
         (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'), \
         (SELECT setting FROM pg_settings WHERE name = 'primary_slot_name')"
    );
    let recovery = ask_one(sql, "its state of recovery", &question, Recovery::read);
    let control_file = async { Ok(control_file(sql).await) };
    let (recovery, control, receiver) = tokio::try_join!(recovery, control_file, wal_receiver(sql))?;
    let (system_identifier, control_timeline) = control.unwrap_or_default();
    let received_timeline = receiver.as_ref().and_then(|receiver| receiver.timeline);
    let timeline = recovery.timeline.or(received_timeline.max(control_timeline));
    Ok(Recovery { system_identifier, timeline, receiver, ..recovery })
}

impl Recovery {
    /// Reads what one question answers: all but the receiver, the cluster, and a standby's timeline.
    fn read(row: &Row) -> Result<Self, ClientError> {
        let in_recovery = row.get(0)?;
        let standby = |lsn: Option<Lsn>| lsn.filter(|_| in_recovery);
        let written: Option<&str> = row.get(3)?;
        let written = written.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let replayed_lsn = standby(row.get(5)?);
        let pause: Option<&str> = row.get(6)?;
        let ended_at: Option<String> = row.get(7)?;
        // two machines' clocks differ
        let age = row.get::<Option<f64>>(8)?.and_then(|age| Duration::try_from_secs_f64(age.max(0.0)).ok());
        let set = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Recovery {
            in_recovery,
            system_identifier: None,
            started_at: row.get(1)?,
            timeline: written.and_then(TimelineId::new),
            flush_lsn: row.get(2)?,
            received_lsn: standby(row.get(4)?).max(replayed_lsn),
            replayed_lsn,
            pause: pause.map(|state| match state {
                "paused" => ReplayPause::Paused,
                "pause requested" => ReplayPause::Requested,
                _ => ReplayPause::None,
            }),
            last_transaction: ended_at
                .filter(|_| in_recovery)
                .map(|ended_at| ReplayedTransaction { ended_at, age: age.unwrap_or_default() }),
            primary_conninfo: set(row.get(9)?).map(Secret::new),
            slot: set(row.get(10)?),
            receiver: None,
        })
    }
}

/// Which cluster, and the timeline that the control file tells of: late, and not for every role.
async fn control_file(sql: &Sql) -> Option<(Option<SystemIdentifier>, Option<TimelineId>)> {
    let question = "SELECT (SELECT system_identifier FROM pg_control_system()), \
                    greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
                    (SELECT min_recovery_end_timeline FROM pg_control_recovery()))";
    let answer = ask_one(sql, "its control file", question, |row| {
        let timeline: Option<i32> = row.get(1)?;
        let timeline = timeline.and_then(|id| TimelineId::new(u32::try_from(id).ok()?));
        Ok((row.get::<Option<i64>>(0)?.map(SystemIdentifier::from_sql), timeline))
    });
    answer.await.ok()
}

/// Whether the server is in recovery.
pub async fn is_in_recovery(sql: &Sql) -> Result<bool, InspectError> {
    ask_one(sql, "whether it is in recovery", "SELECT pg_is_in_recovery()", |row| row.get(0)).await
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
pub async fn readable_position(sql: &Sql) -> Result<ReadablePosition, InspectError> {
    let question = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                    ELSE pg_current_wal_flush_lsn() END";
    ask_one(sql, "how far it has come", question, |row| {
        Ok(ReadablePosition { in_recovery: row.get(0)?, lsn: row.get(1)? })
    })
    .await
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
pub async fn wal_layout(sql: &Sql) -> Result<WalLayout, InspectError> {
    const WHAT: &str = "how its WAL is cut";
    let question = "SELECT current_setting('wal_block_size'), current_setting('wal_segment_size')";
    let layout = ask_one(sql, WHAT, question, |row| {
        let (page_len, segment_size): (&str, &str) = (row.get(0)?, row.get(1)?);
        let layout = page_len.parse().ok().zip(segment_size.parse().ok());
        Ok(layout.map(|(page_len, segment_size)| WalLayout { page_len, segment_size }))
    });
    layout.await?.ok_or_else(|| InspectError::no_answer(WHAT))
}

/// Whether replay stands where it does because there is nothing more: the startup process waits for WAL. `None` where
/// the role may not see it.
pub async fn is_replay_idle(sql: &Sql) -> Result<Option<bool>, InspectError> {
    let question = "SELECT wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval') \
                    FROM pg_stat_activity WHERE backend_type = 'startup'";
    let rows = ask(sql, "what replay waits for", question, |row| row.get::<Option<bool>>(0)).await?;
    Ok(rows.into_iter().next().flatten())
}

/// Lets a server from 19 on wait until it has replayed `lsn`, or `timeout` is over, or it is promoted. Which of them it
/// was is to be asked.
pub async fn wait_for_replay(sql: &Sql, lsn: Lsn, timeout: Duration) -> Result<(), InspectError> {
    // zero would be for ever
    let milliseconds = timeout.as_millis().max(1);
    let command =
        format!("WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{milliseconds}ms', NO_THROW)");
    // alone: it is not for transactions
    sql.execute(&command).await.map_err(|source| InspectError { what: "to wait for an LSN", source })
}
