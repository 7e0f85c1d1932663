//! What each slot holds back, and what becomes of it.

use std::time::Duration;

use super::settings::{Bound, ServerSettings};
use super::{Answer, InspectError, ask};
use crate::client::Connection;
use crate::pg::SlotName;

/// A slot, as a danger: to the disk, or to whoever counts on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotRisk {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it.
    pub active: bool,
    /// Whether it goes away with the connection that made it.
    pub temporary: bool,
    /// WAL that it holds back, in bytes; `None` when it holds none, as before its first use.
    pub held_len: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` when it holds nothing.
    pub wal_status: Option<String>,
    /// How much may still be written before it is lost; `None` without a limit.
    pub safe_len: Option<i64>,
    /// How long nobody has used it (17).
    pub idle_time: Option<Duration>,
    /// Why it is of no use any more (17).
    pub invalidation_reason: Option<String>,
}

/// How fast a slot nears its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLeft {
    /// WAL is no longer kept for it from then on, at the present rate.
    UntilLost(Duration),
    /// It is given up for idleness then (18).
    UntilIdle(Duration),
    /// The limit will not be reached: nothing is written.
    AtRest,
    /// Nothing bounds it but the disk, and how much room is there cannot be seen in SQL.
    UntilDiskFull,
}

impl SlotRisk {
    /// Its name, where it is one that can be written into a command.
    pub fn slot_name(&self) -> Option<SlotName> {
        self.name.parse().ok()
    }

    /// Whether nobody can resume from it.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some()
    }

    /// How long until it is lost, or the disk full, while nobody comes for the WAL.
    pub fn time_left(&self, settings: &ServerSettings, wal_rate: Option<f64>) -> TimeLeft {
        let idle_timeout =
            settings.time("idle_replication_slot_timeout").filter(|timeout| !timeout.is_zero());
        let until_idle = idle_timeout.zip(self.idle_time).map(|(timeout, idle)| timeout.saturating_sub(idle));
        let until_lost = match (settings.size("max_slot_wal_keep_size"), self.safe_len) {
            (Some(Bound::Bytes(_)), Some(safe)) => Some(span(safe.max(0) as f64, wal_rate)),
            _ => None,
        };
        match (until_lost, until_idle) {
            (Some(Some(lost)), Some(idle)) if idle < lost => TimeLeft::UntilIdle(idle),
            (Some(Some(lost)), _) => TimeLeft::UntilLost(lost),
            (_, Some(idle)) => TimeLeft::UntilIdle(idle),
            (Some(None), None) => TimeLeft::AtRest,
            (None, None) => TimeLeft::UntilDiskFull,
        }
    }
}

/// How long writing so much takes; `None` at a rate of nothing.
pub fn span(len: f64, rate: Option<f64>) -> Option<Duration> {
    let rate = rate.filter(|rate| *rate > 0.0)?;
    // more than a century is never
    Some(Duration::from_secs_f64((len / rate).min(100.0 * 365.0 * 86_400.0)))
}

/// Asks for all slots.
pub async fn slot_risks(sql: &mut Connection) -> Result<Vec<SlotRisk>, InspectError> {
    // a synchronised slot is the primary's, and looked after there
    let (since, which) = match sql.version().has_slot_inactive_since() {
        true => ("extract(epoch FROM now() - inactive_since), invalidation_reason", "WHERE NOT synced"),
        false => ("NULL, NULL", ""),
    };
    let text = format!(
        "SELECT slot_name, active, temporary, wal_status, safe_wal_size, \
         greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() \
           THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END, \
           restart_lsn))::bigint, {since} FROM pg_catalog.pg_replication_slots {which} ORDER BY slot_name"
    );
    let rows = ask(sql, &text, "its replication slots").await?;
    let slot = |row: &Answer| SlotRisk {
        name: row.text(0).unwrap_or_default().to_owned(),
        active: row.is_true(1).unwrap_or(false),
        temporary: row.is_true(2).unwrap_or(false),
        wal_status: row.text(3).map(ToOwned::to_owned),
        safe_len: row.get(4),
        // without restart_lsn, greatest() has only its zero
        held_len: row.get(5).filter(|_| row.text(3).is_some()),
        idle_time: row.get(6).and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok()),
        invalidation_reason: row.text(7).map(ToOwned::to_owned),
    };
    Ok(rows.iter().map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_end_is_told() {
        let limited = ServerSettings::of([
            ("max_slot_wal_keep_size", "1GB"),
            ("idle_replication_slot_timeout", "100s"),
        ]);
        let unlimited =
            ServerSettings::of([("max_slot_wal_keep_size", "-1"), ("idle_replication_slot_timeout", "0")]);
        let seconds = Duration::from_secs;
        let slot = |safe_len, idle| SlotRisk { safe_len, idle_time: idle, ..SlotRisk::default() };
        let in_use = slot(Some(1000), None);
        assert_eq!(in_use.time_left(&limited, Some(10.0)), TimeLeft::UntilLost(seconds(100)));
        assert_eq!(in_use.time_left(&limited, Some(0.0)), TimeLeft::AtRest);
        assert_eq!(in_use.time_left(&limited, None), TimeLeft::AtRest);
        assert_eq!(slot(Some(-5), None).time_left(&limited, Some(10.0)), TimeLeft::UntilLost(seconds(0)));
        let idle = slot(Some(1000), Some(seconds(40)));
        assert_eq!(idle.time_left(&limited, Some(10.0)), TimeLeft::UntilIdle(seconds(60)));
        assert_eq!(idle.time_left(&limited, Some(100.0)), TimeLeft::UntilLost(seconds(10)));
        assert_eq!(idle.time_left(&limited, None), TimeLeft::UntilIdle(seconds(60)));
        assert_eq!(slot(None, Some(seconds(500))).time_left(&limited, None), TimeLeft::UntilIdle(seconds(0)));
        assert_eq!(slot(None, Some(seconds(40))).time_left(&unlimited, Some(1.0)), TimeLeft::UntilDiskFull);
        assert!(span(1e30, Some(1e-9)).is_some());
    }

    #[test]
    fn a_slot_that_was_given_up_is_lost() {
        let status = |status: &str| SlotRisk { wal_status: Some(status.to_owned()), ..SlotRisk::default() };
        assert!(status("lost").is_lost() && !status("unreserved").is_lost());
        let idle = SlotRisk { invalidation_reason: Some("idle_timeout".to_owned()), ..status("reserved") };
        assert!(idle.is_lost());
    }
}
