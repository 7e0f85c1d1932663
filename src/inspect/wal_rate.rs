//! How fast a server writes WAL.

use std::time::Duration;

use super::{InspectError, ask, ask_one};
use crate::client::Sql;
use crate::pg::Lsn;

/// Where WAL ended, and when that was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WalSample {
    /// Where it ended: inserted on a primary, received or replayed on a standby.
    pub lsn: Lsn,
    /// The server's clock, in seconds.
    pub at: f64,
}

/// How fast WAL is written: now, and on average.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WalRate {
    /// Between two looks.
    pub moment: Option<Rate>,
    /// Since the server's statistics were reset (14).
    pub average: Option<Rate>,
}

/// Bytes over time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Rate {
    /// The rate.
    pub bytes_per_second: f64,
    /// How long it was measured for, in seconds.
    pub seconds: f64,
}

/// Of a shorter time an average says little, in seconds.
const SHORTEST_AVERAGE: f64 = 60.0;

/// Between two samples that are as good as one nothing can be said, in seconds.
const SHORTEST_MOMENT: f64 = 0.01;

impl WalRate {
    /// The greater of the two, in bytes a second: what to be prepared for.
    pub fn expected(&self) -> Option<f64> {
        let rates = [self.moment, self.average].into_iter().flatten().map(|rate| rate.bytes_per_second);
        rates.reduce(f64::max)
    }
}

impl WalSample {
    /// The rate between two looks.
    pub fn rate_until(self, later: WalSample) -> Option<Rate> {
        let seconds = later.at - self.at;
        let bytes = later.lsn.saturating_since(self.lsn) as f64;
        (seconds >= SHORTEST_MOMENT).then(|| Rate { bytes_per_second: bytes / seconds, seconds })
    }
}

/// Looks once. `None` when a standby has nothing yet.
pub async fn wal_sample(sql: &Sql) -> Result<Option<WalSample>, InspectError> {
    let question = "SELECT CASE WHEN pg_is_in_recovery() \
                    THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
                    ELSE pg_current_wal_insert_lsn() END, extract(epoch FROM clock_timestamp())::float8";
    ask_one(sql, "where its WAL ends", question, |row| {
        let (lsn, at): (Option<Lsn>, _) = (row.get(0)?, row.get(1)?);
        Ok(lsn.map(|lsn| WalSample { lsn, at }))
    })
    .await
}

/// The average that the server has kept.
pub async fn average_wal_rate(sql: &Sql) -> Result<Option<Rate>, InspectError> {
    if !sql.version().has_wal_statistics() {
        return Ok(None);
    }
    let question = "SELECT wal_bytes::float8, extract(epoch FROM clock_timestamp() - stats_reset)::float8 \
                    FROM pg_stat_wal";
    let rows = ask(sql, "its WAL statistics", question, |row| Ok((row.get(0)?, row.get(1)?))).await?;
    let Some((Some(bytes), Some(seconds))): Option<(Option<f64>, Option<f64>)> = rows.into_iter().next()
    else {
        return Ok(None);
    };
    Ok((seconds >= SHORTEST_AVERAGE).then(|| Rate { bytes_per_second: bytes / seconds, seconds }))
}

/// How long two samples should be apart.
pub const MOMENT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_rate_is_expected() {
        let sample = |lsn, at| WalSample { lsn: Lsn::new(lsn), at };
        let moment = sample(1000, 5.0).rate_until(sample(1200, 5.1));
        assert!(moment.is_some_and(|rate| (rate.bytes_per_second - 2000.0).abs() < 0.01));
        assert_eq!(sample(1000, 5.0).rate_until(sample(1200, 5.0)), None);
        assert_eq!(
            sample(1000, 5.0).rate_until(sample(900, 6.0)).map(|rate| rate.bytes_per_second),
            Some(0.0)
        );
        let average = Some(Rate { bytes_per_second: 3000.0, seconds: 60.0 });
        assert_eq!(WalRate { moment, average }.expected(), Some(3000.0));
        assert_eq!(WalRate { moment, average: None }.expected(), moment.map(|rate| rate.bytes_per_second));
        assert_eq!(WalRate::default().expected(), None);
    }
}
