//! The server itself: what it is, and how far it is.

use serde::Serialize;

use super::{InspectError, ask_one};
use crate::client::{ClientError, ConnInfo, Row, Sql};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerState {
    /// The role that asked.
    #[serde(skip)]
    pub role: String,
    /// Whether that role may see what others do (`pg_read_all_stats`, of which `pg_monitor` is a member).
    pub sees_all_statistics: bool,
    /// Whether it is a standby, or recovers.
    pub in_recovery: bool,
    /// Which cluster it is.
    pub system_identifier: Option<SystemIdentifier>,
    /// The timeline it writes; on a standby the newest it knows to have received or replayed.
    pub timeline: Option<TimelineId>,
    /// How far its WAL is written; on a standby, received or replayed.
    pub lsn: Option<Lsn>,
    /// The time there, RFC 3339.
    pub time: Option<String>,
    /// The same, in seconds since 1970.
    #[serde(skip)]
    pub clock: Option<f64>,
    /// Since when it runs, RFC 3339.
    pub started_at: Option<String>,
    /// How much WAL slots may hold; `None` when nothing bounds it.
    pub max_slot_wal_keep_size: Option<u64>,
    /// After how many seconds of disuse a slot is invalidated (18); `None` for never.
    pub idle_replication_slot_timeout: Option<f64>,
    /// Who has to confirm commits.
    pub synchronous_standby_names: String,
    /// On a standby, how far it has replayed.
    pub replay: Option<ReplayState>,
    /// On a standby, where its `primary_conninfo` leads, for a role that may know (`pg_read_all_settings`).
    pub configured_upstream: Option<Upstream>,
}

/// How far a standby has replayed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayState {
    /// How far WAL was received by streaming.
    pub received_lsn: Option<Lsn>,
    /// How far it is replayed.
    pub replayed_lsn: Option<Lsn>,
    /// Age of the last transaction replayed; 0 when all that was received is replayed, and more is being received.
    pub delay_seconds: Option<f64>,
    /// Whether replay is paused.
    pub paused: bool,
}

/// Where a standby gets its WAL from. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The host, or the directory of the socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name it is known by there, where one is set.
    pub application_name: Option<String>,
}

/// The question for [`ServerState`].
const QUESTION: &str = "\
SELECT pg_is_in_recovery(), current_user, pg_has_role('pg_read_all_stats', 'USAGE'), \
(SELECT system_identifier FROM pg_control_system()), \
CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
ELSE pg_current_wal_lsn() END, \
CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
(SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
(SELECT received_tli FROM pg_stat_get_wal_receiver())), \
to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
extract(epoch FROM clock_timestamp())::float8, \
to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
pg_size_bytes(current_setting('max_slot_wal_keep_size')), \
extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::float8, \
current_setting('synchronous_standby_names'), \
CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END, \
CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END, \
(CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() \
AND (SELECT pid FROM pg_stat_get_wal_receiver()) IS NOT NULL THEN 0 \
ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END)::float8, \
CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
CASE WHEN pg_is_in_recovery() AND pg_has_role('pg_read_all_settings', 'USAGE') \
THEN current_setting('primary_conninfo') END";

/// Asks what the server says of itself.
pub async fn server_state(sql: &Sql) -> Result<ServerState, InspectError> {
    ask_one(sql, "what it is and how far it is", QUESTION, ServerState::read).await
}

impl ServerState {
    fn read(row: &Row) -> Result<Self, ClientError> {
        let in_recovery = row.get(0)?;
        let written: Option<&str> = row.get(5)?;
        let written = written.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let known: Option<i32> = row.get(6)?;
        let replay = ReplayState {
            received_lsn: row.get(13)?,
            replayed_lsn: row.get(14)?,
            delay_seconds: row.get(15)?,
            paused: row.get::<Option<bool>>(16)?.unwrap_or_default(),
        };
        let idle_timeout: Option<f64> = row.get(11)?;
        let conninfo: Option<&str> = row.get(17)?;
        Ok(ServerState {
            role: row.get(1)?,
            sees_all_statistics: row.get(2)?,
            in_recovery,
            system_identifier: row.get::<Option<i64>>(3)?.map(SystemIdentifier::from_sql),
            timeline: written.or(known.and_then(|known| u32::try_from(known).ok())).and_then(TimelineId::new),
            lsn: row.get(4)?,
            time: row.get(7)?,
            clock: row.get(8)?,
            started_at: row.get(9)?,
            max_slot_wal_keep_size: row.get::<Option<i64>>(10)?.and_then(|size| u64::try_from(size).ok()),
            idle_replication_slot_timeout: idle_timeout.filter(|seconds| *seconds > 0.0),
            synchronous_standby_names: row.get(12)?,
            replay: in_recovery.then_some(replay),
            configured_upstream: conninfo.and_then(Upstream::parse),
        })
    }
}

impl Upstream {
    /// Reads where a connection string leads, and keeps nothing else of it. Of several hosts the first; none when there
    /// is no host in it.
    pub fn parse(conninfo: &str) -> Option<Self> {
        let conninfo = ConnInfo::parse(conninfo).ok()?;
        let value = |keyword| conninfo.value(keyword).filter(|text| !text.is_empty());
        let first = |text: &str| text.split(',').next().unwrap_or_default().to_owned();
        let host = first(value("host").or_else(|| value("hostaddr"))?);
        let port = value("port").map_or(Some(5432), |port| first(port).parse().ok())?;
        let name = value("application_name").or_else(|| value("fallback_application_name"));
        Some(Upstream { host, port, application_name: name.map(ToOwned::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_read_without_its_password() {
        let upstream = Upstream::parse(
            "user=rep password=hidden host=db1,db2 port=6000 fallback_application_name=walreceiver",
        );
        let upstream = upstream.unwrap();
        assert_eq!((upstream.host.as_str(), upstream.port), ("db1", 6000));
        assert_eq!(upstream.application_name.as_deref(), Some("walreceiver"));
        assert!(!format!("{upstream:?}").contains("hidden"));
        let named = Upstream::parse("host=/s application_name=standby1 fallback_application_name=x").unwrap();
        assert_eq!((named.application_name.as_deref(), named.port), (Some("standby1"), 5432));
        assert_eq!(Upstream::parse("user=rep"), None);
        assert_eq!(Upstream::parse("no such = thing ="), None);
    }
}
