//! Does the primary see the standby stream?
//!
//! Asked in the best way that the role is allowed: `pg_stat_replication` says `streaming`; a role that may not see its
//! details still sees that the slot is in use; a role that may only replicate learns the same by being refused the slot.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client::{ClientError, Connection, Sql};
use crate::pg::{Lsn, SlotName};
use crate::wire::server_error::SqlState;

/// What was seen on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamingEvidence {
    /// `pg_stat_replication` shows the slot's walsender as `streaming`.
    Streaming,
    /// The slot is in use; this role may not see more.
    SlotInUse,
}

/// How far the wait has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Observation {
    Seen(StreamingEvidence),
    NotYet,
}

/// How often is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often is asked by trying to take the slot: a standby that comes just then has to try again after 5 seconds.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Waits until the standby that uses `slot` is seen; `None` when it was not within `timeout`.
pub async fn wait_until_streaming(
    replication: &mut Connection,
    sql: Option<&Sql>,
    slot: &SlotName,
    timeout: Duration,
) -> Result<Option<StreamingEvidence>, ClientError> {
    let deadline = Instant::now() + timeout;
    loop {
        let (observation, interval) = match sql {
            Some(sql) => (ask(sql, slot).await?, POLL_INTERVAL),
            None => (probe(replication, slot).await?, PROBE_INTERVAL),
        };
        if let Observation::Seen(evidence) = observation {
            return Ok(Some(evidence));
        }
        if Instant::now() + interval > deadline {
            return Ok(None);
        }
        tokio::time::sleep(interval).await;
    }
}

/// Waits until a standby of this `application_name` is seen, where it has no slot to know it by.
pub(super) async fn wait_until_seen(
    sql: &Sql,
    application_name: &str,
    timeout: Duration,
) -> Result<Option<StreamingEvidence>, ClientError> {
    let deadline = Instant::now() + timeout;
    let question = "SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'";
    loop {
        if !sql.rows(question, &[application_name]).await?.is_empty() {
            return Ok(Some(StreamingEvidence::Streaming));
        }
        if Instant::now() + POLL_INTERVAL > deadline {
            return Ok(None);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn ask(sql: &Sql, slot: &SlotName) -> Result<Observation, ClientError> {
    let question = "SELECT r.state FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid \
                    WHERE s.slot_name = $1 AND s.active";
    let rows = sql.rows(question, &[slot.as_str()]).await?;
    let Some(row) = rows.first() else { return Ok(Observation::NotYet) };
    Ok(match row.get::<Option<&str>>(0)? {
        Some("streaming") => Observation::Seen(StreamingEvidence::Streaming),
        Some(_) => Observation::NotYet,
        None => Observation::Seen(StreamingEvidence::SlotInUse),
    })
}

/// Asks for the slot from an impossible position, so that the server refuses either way: because the slot is in use
/// (55006), or, when it is free, because of the position, before the slot moves.
async fn probe(replication: &mut Connection, slot: &SlotName) -> Result<Observation, ClientError> {
    let timeline = replication.identify_system().await?.timeline;
    let started = replication.start_replication(Some(slot), Lsn::MAX, timeline).await;
    let error = match started {
        Err(error) => error,
        // the server says CopyBoth first and looks at the position then
        Ok(crate::client::ReplicationStart::Streaming(mut stream)) => match stream.next().await {
            Err(error) => error,
            Ok(_) => {
                return Err(ClientError::Answer {
                    command: "START_REPLICATION",
                    problem: "WAL of the future",
                });
            }
        },
        Ok(crate::client::ReplicationStart::TimelineEnded(_)) => return Ok(Observation::NotYet),
    };
    match error.sqlstate() {
        Some(SqlState::OBJECT_IN_USE) => Ok(Observation::Seen(StreamingEvidence::SlotInUse)),
        Some(_) => Ok(Observation::NotYet),
        None => Err(error),
    }
}
