//! How far behind somebody was lately, as a line of small bars.

use std::collections::VecDeque;

/// How many looks are remembered.
const MAX_LEN: usize = 16;

/// Bytes behind at each of the last looks, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trend(VecDeque<u64>);

impl Trend {
    pub(super) fn push(&mut self, behind: u64) {
        if self.0.len() == MAX_LEN {
            self.0.pop_front();
        }
        self.0.push_back(behind);
    }

    /// Bars between nothing and the most of these looks.
    pub(super) fn sparkline(&self) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.0.iter().copied().max().unwrap_or_default();
        let bar = |behind: &u64| match most {
            0 => BARS[0],
            most => BARS[usize::try_from(u128::from(*behind) * 7 / u128::from(most)).unwrap_or(7)],
        };
        self.0.iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> String {
        let mut trend = Trend::default();
        values.into_iter().for_each(|value| trend.push(value));
        trend.sparkline()
    }

    #[test]
    fn bars_are_between_nothing_and_the_most() {
        assert_eq!(of([]), "");
        assert_eq!(of([0, 0]), "▁▁");
        assert_eq!(of([0, 1, 2, 3, 4, 5, 6, 7]), "▁▂▃▄▅▆▇█");
        assert_eq!(of([u64::MAX, u64::MAX / 2, 0]), "█▄▁");
    }

    #[test]
    fn old_looks_are_forgotten() {
        assert_eq!(of((0..100).map(|n| if n == 0 { 1000 } else { 1 })), "█".repeat(MAX_LEN));
    }
}
