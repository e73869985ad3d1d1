//! What repeats: logged at once, then at most once an interval, with how often it came since. Pure.

use std::time::{Duration, Instant};

/// The count of one thing that repeats, and how much of it was logged.
#[derive(Debug, Default)]
pub struct Repeats {
    count: u64,
    logged: u64,
    logged_at: Option<Instant>,
}

impl Repeats {
    /// It happened once more. `Some` if it is to be logged: how often since it was logged last.
    pub fn again(&mut self, every: Duration, now: Instant) -> Option<u64> {
        self.reached(self.count + 1, every, now)
    }

    /// As [`again`](Self::again), of what is counted elsewhere: it happened `count` times by now.
    pub fn reached(&mut self, count: u64, every: Duration, now: Instant) -> Option<u64> {
        self.count = self.count.max(count);
        if self.count == self.logged
            || self.logged_at.is_some_and(|at| now.duration_since(at) < every)
        {
            return None;
        }
        self.logged_at = Some(now);
        Some(self.rest())
    }

    /// How often it happened since it was logged last, for a last line.
    pub fn rest(&mut self) -> u64 {
        let rest = self.count - self.logged;
        self.logged = self.count;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_mins(5);

    #[test]
    fn every_one_is_counted_in_one_line() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut again = |seconds| repeats.again(EVERY, start + Duration::from_secs(seconds));
        assert_eq!(
            [0, 1, 299, 300, 301, 1_000, 1_001].map(&mut again),
            [Some(1), None, None, Some(3), None, Some(2), None]
        );
        assert_eq!((repeats.rest(), repeats.rest()), (1, 0));
    }

    #[test]
    fn of_a_count_kept_elsewhere_what_is_new_is_logged() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut reached =
            |count, seconds| repeats.reached(count, EVERY, start + Duration::from_secs(seconds));
        assert_eq!(
            [(0, 0), (3, 1), (9, 150), (10, 301), (10, 900)].map(|(count, at)| reached(count, at)),
            [None, Some(3), None, Some(7), None]
        );
    }
}
