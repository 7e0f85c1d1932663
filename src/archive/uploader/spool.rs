//! The directory as a queue that must not fill up unseen.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use super::stats::Stats;
use crate::sink::free_len;

/// When a spool is told to be filling: the share of it that is taken, in hundredths.
const STEPS: [u64; 3] = [50, 80, 95];

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(250);

/// What is said about WAL that waits in the directory.
#[derive(Debug)]
pub(super) struct Spool {
    limit: Option<u64>,
    told: Option<u64>,
}

impl Spool {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Spool { limit, told: None }
    }

    /// Looks again and again, whatever the store does.
    pub(super) async fn watch(mut self, directory: &Path, stats: &Stats) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.look(directory, stats.behind_len());
        }
    }

    /// Says when another step is reached, and when it is over.
    fn look(&mut self, directory: &Path, behind_len: u64) {
        // without a bound of its own the disk is the bound
        let limit = self.limit.or_else(|| Some(free_len(directory)? + behind_len));
        let Some(limit) = limit else { return };
        let share = u64::try_from(u128::from(behind_len) * 100 / u128::from(limit.max(1))).unwrap_or(100);
        match step(share, self.told) {
            Some(reached) if self.told.is_none_or(|told| told < reached) => {
                self.told = Some(reached);
                let (what, then) = match self.limit {
                    Some(_) => ("--spool-limit", "no more is received then until there is room"),
                    None => {
                        ("the room on the directory's disk", "nothing more is acknowledged when it is full")
                    }
                };
                tracing::warn!(
                    "WAL that is not in the archive takes {share} % of {what} ({} MB); {then}",
                    behind_len >> 20
                );
            }
            None if self.told.is_some() => {
                self.told = None;
                tracing::info!("WAL that is not in the archive takes {share} % of its room again");
            }
            _ => {}
        }
    }
}

/// The highest step that is reached. One that was told of is over when it is clearly left.
fn step(share: u64, told: Option<u64>) -> Option<u64> {
    let reached = STEPS.into_iter().rev().find(|step| share >= *step);
    reached.or(told.filter(|_| share >= STEPS[0] / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_reached_once_and_left_with_some_distance() {
        assert_eq!(
            [0, 49, 50, 79, 80, 100].map(|share| step(share, None)),
            [None, None, Some(50), Some(50), Some(80), Some(95)]
        );
        assert_eq!((step(40, Some(80)), step(24, Some(80))), (Some(80), None));
    }
}
