//! Many spans of time in a few numbers.

use std::time::Duration;

/// Percentiles of spans of time, each of them one that was measured (the nearest rank, nothing in between).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    /// How many there were.
    pub count: usize,
    /// Half of them were no longer.
    pub p50: Duration,
    /// 90 of 100 were no longer.
    pub p90: Duration,
    /// 99 of 100 were no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latencies {
    /// Of these spans; `None` of none.
    pub fn of(mut spans: Vec<Duration>) -> Option<Self> {
        spans.sort_unstable();
        let rank =
            |percent: usize| spans.get((spans.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Latencies {
            count: spans.len(),
            p50: rank(50)?,
            p90: rank(90)?,
            p99: rank(99)?,
            max: rank(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Option<[u128; 4]> {
        let latencies = Latencies::of(millis.into_iter().map(Duration::from_millis).collect())?;
        let Latencies { p50, p90, p99, max, .. } = latencies;
        Some([p50, p90, p99, max].map(|span| span.as_millis()))
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        assert_eq!(of([]), None);
        assert_eq!(of([7]), Some([7, 7, 7, 7]));
        assert_eq!(of([9, 1]), Some([1, 9, 9, 9]));
        assert_eq!(of((1..=100).rev()), Some([50, 90, 99, 100]));
        assert_eq!(of(1..=1000), Some([500, 900, 990, 1000]));
        assert_eq!(of([3, 1, 2]), Some([2, 3, 3, 3]));
    }

    proptest! {
        #[test]
        fn so_many_are_no_longer(spans in prop::collection::vec(0_u64..50, 1..300)) {
            let [p50, p90, p99, max] = of(spans.clone()).unwrap();
            for (percent, value) in [(50, p50), (90, p90), (99, p99), (100, max)] {
                let no_longer = spans.iter().filter(|span| u128::from(**span) <= value).count();
                let shorter = spans.iter().filter(|span| u128::from(**span) < value).count();
                prop_assert!(no_longer * 100 >= spans.len() * percent);
                prop_assert!(shorter * 100 < spans.len() * percent);
            }
        }
    }
}
