//! What happens again and again: said once an interval, with the count since.

use std::time::{Duration, Instant};

/// Counts what is said at most once an interval.
#[derive(Debug, Default)]
pub struct Repeats {
    said: Option<Instant>,
    since: u64,
}

impl Repeats {
    /// It happened once more. Gives how often it did since it was said last, if it is to be said now.
    pub fn again(&mut self, every: Duration, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.said.is_some_and(|said| now.duration_since(said) < every) {
            return None;
        }
        self.said = Some(now);
        Some(self.rest())
    }

    /// How often it happened since it was said last, for who says it for the last time.
    pub fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_is_counted_in_one_line() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let every = Duration::from_mins(5);
        let at = |seconds| start + Duration::from_secs(seconds);
        let said: Vec<_> = [0, 1, 299, 300, 301, 1_000]
            .map(|seconds| repeats.again(every, at(seconds)))
            .into_iter()
            .collect();
        assert_eq!(said, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!((repeats.again(every, at(1_001)), repeats.rest(), repeats.rest()), (None, 1, 0));
    }
}
