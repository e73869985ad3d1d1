//! How many acknowledgements wait for others, and how long. Pure but for the clock that is waited for.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

/// Fewer than so many wait for others, …
const GATHERED: usize = 256;

/// … for so long at most: each time that something is written the server wakes, on a core that others need.
const GATHER: Duration = Duration::from_millis(2);

/// When settled messages are acknowledged.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Then, however few there are.
    until: Option<Instant>,
}

impl Gathering {
    /// Whether those that wait are to be acknowledged now, of `limit` in flight; else the rest of them is waited for.
    pub(super) fn is_enough(&mut self, waiting: usize, limit: usize, now: Instant) -> bool {
        let until = *self.until.get_or_insert(now + GATHER);
        // Those that wait hold room.
        let enough = waiting >= GATHERED.min(limit / 4).max(1) || now >= until;
        if enough {
            self.rest();
        }
        enough
    }

    /// Nothing waits, or nothing can be told now.
    pub(super) fn rest(&mut self) {
        self.until = None;
    }

    /// Waits until enough time has gone.
    pub(super) async fn is_over(&self) {
        match self.until {
            Some(until) => sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_wait_for_a_moment_and_many_do_not() {
        let (mut gathering, start) = (Gathering::default(), Instant::now());
        let limit = 10_000;
        assert!(!gathering.is_enough(1, limit, start));
        assert!(!gathering.is_enough(2, limit, start + GATHER / 2));
        assert!(gathering.is_enough(2, limit, start + GATHER));
        let later = start + GATHER * 5;
        assert!(!gathering.is_enough(1, limit, later), "those behind it wait anew");
        assert!(gathering.is_enough(GATHERED, limit, later) && gathering.until.is_none());
        assert!(gathering.is_enough(1, 1, later), "nothing else could come");
    }
}
