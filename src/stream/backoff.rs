//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double from `first` to `longest`, each shortened at random by up to half, so that many receivers
/// of a primary that comes back do not come back to it together. Pure: the seed decides.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// No failure yet.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Backoff { first, longest, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// One more failure: how long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let full = self.first.saturating_mul(factor).min(self.longest);
        full.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    /// It worked: the next failure is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_bound_and_starts_again() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 8 * second, 1);
        for full in [1, 2, 4, 8, 8, 8].map(|factor| factor * second) {
            let wait = backoff.next_wait();
            assert!(full / 2 <= wait && wait <= full, "{wait:?} for {full:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() <= 8 * second);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= second);
    }

    #[test]
    fn a_seed_gives_the_same_waits_and_another_gives_others() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            std::array::from_fn::<_, 5, _>(|_| backoff.next_wait())
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
