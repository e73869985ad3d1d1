//! A queue of things that wait for a time, the earliest first, and in order of arrival at the same time; or for a call,
//! in order of arrival.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Any number of sleepers.
#[derive(Debug)]
pub(super) struct Sleepers<S> {
    /// By the time, and by the number of their arrival.
    waiting: BTreeMap<(Instant, u64), S>,
    arrivals: u64,
    uncalled: VecDeque<S>,
}

/// What a sleeper waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Time(Instant),
    Called,
}

impl<S> Sleepers<S> {
    /// None.
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0, uncalled: VecDeque::new() }
    }

    /// Adds a sleeper.
    pub(super) fn push(&mut self, until: Until, sleeper: S) {
        let Until::Time(until) = until else { return self.uncalled.push_back(sleeper) };
        self.arrivals += 1;
        self.waiting.insert((until, self.arrivals), sleeper);
    }

    /// The one that has waited for a call for the longest.
    pub(super) fn pop_uncalled(&mut self) -> Option<S> {
        self.uncalled.pop_front()
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
