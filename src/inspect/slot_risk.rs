//! What becomes of a slot that holds WAL back: how long until it is lost, or the disk is full.

use std::time::Duration;

use super::settings::{Bound, ServerSettings};
use super::slots::ReplicationSlot;

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

/// How long until it is lost, or the disk full, while nobody comes for the WAL.
pub fn time_left(slot: &ReplicationSlot, settings: &ServerSettings, wal_rate: Option<f64>) -> TimeLeft {
    let idle_timeout = settings.time("idle_replication_slot_timeout").filter(|timeout| !timeout.is_zero());
    let until_idle = idle_timeout.zip(slot.idle_time()).map(|(timeout, idle)| timeout.saturating_sub(idle));
    let until_lost = match (settings.size("max_slot_wal_keep_size"), slot.safe_wal_size) {
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

/// How long writing so much takes; `None` at a rate of nothing.
pub fn span(len: f64, rate: Option<f64>) -> Option<Duration> {
    let rate = rate.filter(|rate| *rate > 0.0)?;
    // more than a century is never
    Some(Duration::from_secs_f64((len / rate).min(100.0 * 365.0 * 86_400.0)))
}

#[cfg(test)]
mod tests {
    use super::super::slots::WalStatus;
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
        let left = |safe_wal_size, inactive_seconds, settings, rate| {
            let slot = ReplicationSlot { safe_wal_size, inactive_seconds, ..ReplicationSlot::default() };
            time_left(&slot, settings, rate)
        };
        assert_eq!(left(Some(1000), None, &limited, Some(10.0)), TimeLeft::UntilLost(seconds(100)));
        assert_eq!(left(Some(1000), None, &limited, Some(0.0)), TimeLeft::AtRest);
        assert_eq!(left(Some(1000), None, &limited, None), TimeLeft::AtRest);
        assert_eq!(left(Some(-5), None, &limited, Some(10.0)), TimeLeft::UntilLost(seconds(0)));
        assert_eq!(left(Some(1000), Some(40.0), &limited, Some(10.0)), TimeLeft::UntilIdle(seconds(60)));
        assert_eq!(left(Some(1000), Some(40.0), &limited, Some(100.0)), TimeLeft::UntilLost(seconds(10)));
        assert_eq!(left(Some(1000), Some(40.0), &limited, None), TimeLeft::UntilIdle(seconds(60)));
        assert_eq!(left(None, Some(500.0), &limited, None), TimeLeft::UntilIdle(seconds(0)));
        assert_eq!(left(None, Some(40.0), &unlimited, Some(1.0)), TimeLeft::UntilDiskFull);
        assert!(span(1e30, Some(1e-9)).is_some());
    }

    #[test]
    fn a_slot_that_was_given_up_is_lost() {
        let status = |status| ReplicationSlot { wal_status: Some(status), ..ReplicationSlot::default() };
        assert!(status(WalStatus::Lost).is_lost() && !status(WalStatus::Unreserved).is_lost());
        let idle = ReplicationSlot {
            invalidation_reason: Some("idle_timeout".to_owned()),
            ..status(WalStatus::Reserved)
        };
        assert!(idle.is_lost());
    }
}
