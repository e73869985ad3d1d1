//! How long to wait before the next try: full jitter over an exponential ceiling.

use std::cell::RefCell;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

thread_local! {
    static RANDOM: RefCell<StdRng> = RefCell::new(StdRng::from_rng(&mut rand::rng()));
}

/// Makes the waits of this thread repeatable, for a simulation.
pub fn seed_this_thread(seed: u64) {
    RANDOM.with_borrow_mut(|random| *random = StdRng::seed_from_u64(seed));
}

/// `uniform(0, min(cap, base × 2ⁿ))` after the n-th failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts from `base` and never waits longer than `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let wait = full_jitter(self.base, self.cap, self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Another wait of the last failure, for what failed together with it.
    pub fn another_wait(&self) -> Duration {
        full_jitter(self.base, self.cap, self.failures.saturating_sub(1))
    }

    /// Something succeeded: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures came in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `uniform(0, min(cap, base × 2^failures))`: what comes back together does not come back at once.
pub fn full_jitter(base: Duration, cap: Duration, failures: u32) -> Duration {
    RANDOM.with_borrow_mut(|random| {
        random.random_range(Duration::ZERO..=ceiling(base, cap, failures))
    })
}

fn ceiling(base: Duration, cap: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_to_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(30));
        for (failures, expected) in
            [(0, 100), (1, 200), (8, 25_600), (9, 30_000), (u32::MAX, 30_000)]
        {
            assert_eq!(ceiling(base, cap, failures), Duration::from_millis(expected));
            assert!(full_jitter(base, cap, failures) <= Duration::from_millis(expected));
        }
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        for _ in 0..50 {
            backoff.next_wait();
        }
        assert_eq!(backoff.failures(), 50);
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
