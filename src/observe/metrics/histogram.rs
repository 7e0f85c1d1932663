//! How long something took, counted in steps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the steps, in microseconds: what a disk takes, from a cache that survives power loss to one
/// that hangs.
pub(super) const BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Durations, counted by whoever measures them and read by anybody. Neither waits for the other.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; the last one is for what is longer than every bound.
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_nanos: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct HistogramSnapshot {
    /// For each bound how many were not longer, and all.
    pub(super) cumulative: [u64; BOUNDS_MICROS.len() + 1],
    pub(super) sum_seconds: f64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let step = BOUNDS_MICROS.partition_point(|bound| Duration::from_micros(*bound) < took);
        self.counts[step].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let mut all = 0;
        let cumulative = self.counts.each_ref().map(|count| {
            all += count.load(Ordering::Relaxed);
            all
        });
        HistogramSnapshot { cumulative, sum_seconds: self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_step_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let HistogramSnapshot { cumulative, sum_seconds } = histogram.snapshot();
        assert_eq!(
            (cumulative[0], cumulative[1], cumulative[14], cumulative[15], cumulative[16]),
            (2, 3, 3, 4, 5)
        );
        assert!((sum_seconds - 20.000_202).abs() < 1e-9, "{sum_seconds}");
    }
}
