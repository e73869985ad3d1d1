//! When to try again after a broker was lost, and whether to say so. Pure.

use std::time::Duration;

use crate::backoff::Backoff;

/// No try waits longer.
pub(super) const CAP: Duration = Duration::from_secs(30);

/// A connection that held this long was a good one: the next failure is the first again. It is longer
/// than any wait, or two clients that push one another out, each of which is connected while the other
/// waits, would do so at full speed for ever.
const GOOD_AFTER: Duration = Duration::from_mins(1);

/// So many causes are told from new ones.
const CAUSES: usize = 32;

/// When to try again; `C` is what a new cause is known by.
#[derive(Debug)]
pub(super) struct Reconnect<C> {
    backoff: Backoff,
    /// What was said since the last good connection.
    said: Vec<C>,
}

/// What to do after the end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) wait: Duration,
    /// Whether to say so.
    pub(super) say: bool,
}

/// Whether a connection was a good one.
pub(super) fn is_good(held: Option<Duration>) -> bool {
    held.is_some_and(|held| held >= GOOD_AFTER)
}

impl<C: PartialEq> Reconnect<C> {
    /// Nothing has failed yet; the first try waits up to `base`.
    pub(super) fn new(base: Duration) -> Self {
        Self { backoff: Backoff::new(base, CAP), said: Vec::new() }
    }

    /// A connection ended for this cause, `held` after it was at work.
    pub(super) fn ended(&mut self, cause: C, held: Option<Duration>) -> Next {
        if is_good(held) {
            self.backoff.reset();
            self.said.clear();
        }
        let wait = self.backoff.next_wait();
        // The first failures, and then every tenth: the waits are long by then. And what is new.
        let failures = self.backoff.failures();
        let new = !self.said.contains(&cause);
        if new {
            self.said.truncate(CAUSES - 1);
            self.said.insert(0, cause);
        }
        Next { wait, say: failures <= 3 || failures.is_multiple_of(10) || new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);

    #[test]
    fn it_slows_down_until_one_was_good() {
        let mut reconnect = Reconnect::new(BASE);
        let mut ended = |held| reconnect.ended((), Some(Duration::from_secs(held))).wait;
        assert!(ended(0) <= BASE);
        let waits: Vec<_> = (0..100).map(|_| ended(30)).collect();
        assert!(waits.iter().all(|wait| *wait <= CAP));
        assert!(waits.iter().any(|wait| *wait > CAP / 4), "it does not slow down: {waits:?}");
        assert!(ended(60) <= BASE);
        assert!(CAP < GOOD_AFTER);
    }

    #[test]
    fn the_first_are_said_and_every_tenth_and_what_is_new() {
        let mut reconnect = Reconnect::new(BASE);
        let mut says = |cause| reconnect.ended(cause, None).say;
        let said: Vec<_> = (1..=20).filter(|_| says(0)).collect();
        assert_eq!(said, [1, 2, 3, 10, 20]);
        assert!(says(1));
        assert!(!says(1) && !says(0));
        // However many there are, no more are kept.
        (2..1000).for_each(|cause| assert!(says(cause)));
        assert_eq!(reconnect.said.len(), CAUSES);
    }

    #[test]
    fn after_a_good_one_all_is_new() {
        let mut reconnect = Reconnect::new(BASE);
        let said = (0..9).filter(|_| reconnect.ended((), None).say).count();
        assert_eq!(said, 3);
        assert!(reconnect.ended((), Some(GOOD_AFTER)).say);
    }
}
