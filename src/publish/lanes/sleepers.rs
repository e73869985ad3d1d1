//! A queue of things that wait for a time, the earliest first, and in order of arrival at the same time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Any number of sleepers.
#[derive(Debug)]
pub(super) struct Sleepers<S> {
    heap: BinaryHeap<Sleeping<S>>,
    sequence: u64,
}

#[derive(Debug)]
struct Sleeping<S> {
    until: Instant,
    sequence: u64,
    sleeper: S,
}

impl<S> Sleepers<S> {
    /// None.
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    /// Adds a sleeper until that time.
    pub(super) fn push(&mut self, until: Instant, sleeper: S) {
        self.sequence += 1;
        self.heap.push(Sleeping { until, sequence: self.sequence, sleeper });
    }

    /// One whose time is over.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<S> {
        self.first().filter(|until| *until <= now)?;
        self.heap.pop().map(|s| s.sleeper)
    }

    /// When the first one wakes.
    pub(super) fn first(&self) -> Option<Instant> {
        self.heap.peek().map(|s| s.until)
    }

    /// When the last one wakes.
    pub(super) fn last(&self) -> Option<Instant> {
        self.heap.iter().map(|s| s.until).max()
    }
}

impl<S> Ord for Sleeping<S> {
    /// Reversed, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.until, other.sequence).cmp(&(self.until, self.sequence))
    }
}

impl<S> PartialOrd for Sleeping<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Sleeping<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<S> Eq for Sleeping<S> {}
