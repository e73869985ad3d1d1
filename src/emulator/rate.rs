//! How often one connection may publish: so many at once, and as many a second.

use std::time::{Duration, Instant};

/// A bucket that holds a second's worth.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    /// When the bucket was, or will be, full.
    full_at: Instant,
}

impl Rate {
    /// A full bucket.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, full_at: now }
    }

    /// Whether one more is allowed at `now`.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        let after = self.full_at.max(now) + second / self.per_second;
        if after > now + second {
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
}
