//! A queue of things that wait for a time, the earliest first, and in order of arrival at the same time.

use std::collections::BTreeMap;
use std::time::Instant;

/// Any number of sleepers.
#[derive(Debug)]
pub(super) struct Sleepers<S> {
    /// By the time, and by the number of their arrival.
    waiting: BTreeMap<(Instant, u64), S>,
    arrivals: u64,
}

impl<S> Sleepers<S> {
    /// None.
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0 }
    }

    /// Adds a sleeper until that time.
    pub(super) fn push(&mut self, until: Instant, sleeper: S) {
        self.arrivals += 1;
        self.waiting.insert((until, self.arrivals), sleeper);
    }

    /// One whose time is over.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<S> {
        self.first().filter(|until| *until <= now)?;
        self.waiting.pop_first().map(|(_, sleeper)| sleeper)
    }

    /// When the first one wakes.
    pub(super) fn first(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((until, _), _)| *until)
    }

    /// When the last one wakes.
    pub(super) fn last(&self) -> Option<Instant> {
        self.waiting.last_key_value().map(|((until, _), _)| *until)
    }
}
