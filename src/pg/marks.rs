//! Since when positions are waited for.

use std::collections::VecDeque;
use std::time::Duration;

use super::lsn::Lsn;

/// Positions that something has yet to reach, in order, each with the time since when it is waited for.
#[derive(Debug)]
pub struct Marks {
    marks: VecDeque<(Lsn, Duration)>,
}

/// More are not kept apart: a step of a stream that is so far behind is of no interest.
const MAX_MARKS: usize = 2048;

impl Marks {
    /// All the memory that it will ever have.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Marks { marks: VecDeque::with_capacity(MAX_MARKS) }
    }

    /// `lsn` is waited for from now on; what is not beyond all others is waited for already.
    pub fn push(&mut self, lsn: Lsn, now: Duration) {
        let len = self.marks.len();
        match self.marks.back_mut() {
            Some((last, _)) if *last >= lsn => {}
            // with the earlier time: a wait is never told shorter than it is
            Some((last, _)) if len == MAX_MARKS => *last = lsn,
            _ => self.marks.push_back((lsn, now)),
        }
    }

    /// Everything before `lsn` was reached: tells `wait` since when each of it was waited for.
    pub fn reach(&mut self, lsn: Lsn, mut wait: impl FnMut(Duration)) {
        while let Some((mark, since)) = self.marks.front()
            && *mark <= lsn
        {
            wait(*since);
            self.marks.pop_front();
        }
    }

    /// Since when the first of them is waited for.
    pub fn oldest(&self) -> Option<Duration> {
        self.marks.front().map(|(_, since)| *since)
    }

    /// Nothing is waited for any more.
    pub fn clear(&mut self) {
        self.marks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(marks: &mut Marks, lsn: u64) -> Vec<u64> {
        let mut waits = Vec::new();
        marks.reach(Lsn::new(lsn), |since| waits.push(since.as_secs()));
        waits
    }

    #[test]
    fn each_position_is_waited_for_from_when_it_was_named_first() {
        let mut marks = Marks::new();
        for (at, lsn) in [10, 20, 20, 15, 30].into_iter().enumerate() {
            marks.push(Lsn::new(lsn), Duration::from_secs(at as u64));
        }
        assert!(reached(&mut marks, 9).is_empty());
        assert_eq!(marks.oldest(), Some(Duration::ZERO));
        assert_eq!(reached(&mut marks, 25), [0, 1]);
        assert_eq!(marks.oldest(), Some(Duration::from_secs(4)));
        assert_eq!(reached(&mut marks, 30), [4]);
        assert_eq!(marks.oldest(), None);
    }

    #[test]
    fn it_does_not_grow_and_tells_no_wait_shorter_than_it_is() {
        let mut marks = Marks::new();
        let capacity = marks.marks.capacity();
        for lsn in 1..=3 * MAX_MARKS as u64 {
            marks.push(Lsn::new(lsn), Duration::from_secs(lsn));
        }
        assert_eq!(marks.marks.capacity(), capacity);
        let waits = reached(&mut marks, u64::MAX / 2);
        assert_eq!((waits.len(), waits.last()), (MAX_MARKS, Some(&(MAX_MARKS as u64))));
    }
}
