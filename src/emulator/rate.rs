//! A rate limit: a number a second, all of them at once if none came before. For the publishes of a
//! socket, and for the fault `throttle`.

use std::time::{Duration, Instant};

/// A token bucket with a capacity of one second.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    /// The time at which the bucket was, or will be, full.
    full_at: Instant,
}

impl Rate {
    /// A full bucket.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, full_at: now }
    }

    /// Whether one more is allowed at `now`.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        self.admit_many(1, now)
    }

    /// Whether `count` at once are allowed at `now`. A count above the capacity needs a full bucket.
    pub(super) fn admit_many(&mut self, count: u32, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        let after = self.full_at.max(now) + (second / self.per_second) * count;
        if after > now + second && self.full_at > now {
            return false;
        }
        self.full_at = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rate: &mut Rate, tries: u32, now: Instant) -> u32 {
        (0..tries).map(|_| u32::from(rate.admit(now))).sum()
    }

    #[test]
    fn a_second_holds_its_number_and_refills() {
        let start = Instant::now();
        let mut rate = Rate::new(25, start);
        assert_eq!(admitted(&mut rate, 100, start), 25);
        assert_eq!(admitted(&mut rate, 100, start + Duration::from_millis(39)), 0);
        assert_eq!(admitted(&mut rate, 100, start + Duration::from_millis(400)), 10);
        assert_eq!(admitted(&mut rate, 100, start + Duration::from_mins(1)), 25);
    }

    #[test]
    fn what_never_fits_waits_for_a_full_bucket_and_pays_for_all() {
        let start = Instant::now();
        let mut rate = Rate::new(2, start);
        assert!(rate.admit_many(5, start));
        assert!(!rate.admit_many(5, start + Duration::from_millis(2_499)));
        assert!(rate.admit_many(5, start + Duration::from_millis(2_500)));
        let mut rate = Rate::new(10, start);
        assert!(rate.admit_many(5, start) && rate.admit_many(5, start));
        assert!(!rate.admit_many(1, start));
    }
}
