//! The limits of an API's load, in requests at once and events a second: why an event is not sent now. Pure:
//! policies fed with results.
//!
//! Four policies, and [`Limits`], which combines them. [`Concurrency`]: how many requests may be in flight. [`RateGate`]: how many
//! events a second the API accepts, learned from its 429s. [`Breaker`]: whether the API answers at all.
//! [`Pauses`]: which of its namespaces refuse the bridge, if not the whole API.

mod breaker;
mod concurrency;
mod pauses;
mod rate;
mod window;

use std::time::Instant;

pub use breaker::Breaker;
pub use concurrency::Concurrency;
pub use pauses::{Pauses, Scope};
pub use rate::{Load, RateGate};

/// All that may hold an event back, apart from its place in its lane.
#[derive(Debug)]
pub struct Limits {
    /// Requests in flight.
    pub concurrency: Concurrency,
    /// Events a second.
    pub rate: RateGate,
    /// Whether the API answers.
    pub breaker: Breaker,
    /// The paused namespaces.
    pub pauses: Pauses,
}

/// Why no event is sent now, of any namespace. For a pause of one namespace see [`Pauses::room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The limit of requests in flight is reached.
    Concurrency,
    /// The API does not answer, and its probe is not due.
    Breaker,
    /// The API's quota of events a second is used up.
    Rate,
}

impl Limits {
    /// With these limits for requests in flight and events a second.
    pub fn new(max_concurrency: usize, max_rate: f64, now: Instant) -> Self {
        Self {
            concurrency: Concurrency::new(max_concurrency),
            rate: RateGate::new(max_rate, now),
            breaker: Breaker::new(now),
            pauses: Pauses::default(),
        }
    }

    /// What holds every event back, with so many requests in flight and events `queued`; `None`: one may be sent.
    pub fn hold(&mut self, requests: usize, queued: usize, now: Instant) -> Option<Hold> {
        let load = Load { queued, round_trip: self.concurrency.round_trip() };
        if !self.concurrency.allows(requests) {
            Some(Hold::Concurrency)
        } else if !self.breaker.allows(now) {
            Some(Hold::Breaker)
        } else if !self.rate.is_open(load, now) {
            Some(Hold::Rate)
        } else {
            None
        }
    }

    /// Notes a batch of so many events sent to `namespace`.
    pub fn sent(&mut self, namespace: &str, events: usize, now: Instant) {
        self.pauses.sent(namespace, now);
        self.breaker.sent(now);
        self.rate.sent(events);
    }

    /// Whether more events would only wait: the API does not answer, or is paused. `false` while every namespace
    /// left to probe a paused API is refused itself: the end of the pause might never be seen.
    ///
    /// `requests` are in flight, `queued` events wait, those of the namespaces in `parked` for the end of a
    /// pause.
    pub fn is_closed<'n>(
        &self,
        requests: usize,
        queued: usize,
        parked: impl Iterator<Item = &'n str>,
    ) -> bool {
        if requests == 0 && queued == 0 {
            return false;
        }
        if self.breaker.is_open() {
            return true;
        }
        if !self.pauses.contains(&Scope::Api) {
            return false;
        }
        let in_vain = usize::from(self.pauses.refused_asks());
        let mut parked = parked.peekable();
        let asleep = parked.peek().is_none() && in_vain == 0;
        requests > in_vain || asleep || parked.any(|name| !self.pauses.contains(&Scope::of(name)))
    }

    /// When the result of [`hold`](Self::hold), or a pause, may change by the time alone.
    pub fn next_change(&self, requests: usize, queued: usize, now: Instant) -> Option<Instant> {
        // Where something else holds the batches back, its end wakes the loop.
        let sends = self.concurrency.allows(requests) && self.breaker.allows(now);
        let rate = if sends && queued > 0 { self.rate.opens_at(queued, now) } else { None };
        // A time that has passed was handled just now: to wait for it again would spin.
        let probe = self.breaker.probes_at().filter(|at| *at > now);
        let idle = self.breaker.idle_until().filter(|_| requests == 0 && queued == 0);
        [self.pauses.next_due(now), rate, probe, idle].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_that_holds_is_named() {
        let now = Instant::now();
        let mut limits = Limits::new(1, 10.0, now);
        assert_eq!(limits.hold(0, 5, now), None);
        limits.sent("a", 5, now);
        assert_eq!(limits.hold(usize::MAX, 5, now), Some(Hold::Concurrency));
        while limits.hold(0, 5, now).is_none() {
            limits.sent("a", 5, now);
        }
        assert_eq!(limits.hold(0, 5, now), Some(Hold::Rate));
        let opens = limits.next_change(0, 1, now).unwrap();
        assert_eq!(limits.hold(0, 5, opens), None);
        assert_eq!(limits.next_change(0, 0, now), None, "nothing waits for it");
    }

    #[test]
    fn the_gate_closes_only_with_something_to_ask_with() {
        let now = Instant::now();
        let mut limits = Limits::new(1, 10.0, now);
        assert!(!limits.is_closed(1, 1, [].into_iter()));
        limits.pauses.refused(&Scope::Api, now, now);
        assert!(!limits.is_closed(0, 0, [].into_iter()), "nobody would ask again");
        assert!(limits.is_closed(0, 1, [].into_iter()));
        assert!(limits.is_closed(0, 1, ["b"].into_iter()));
    }
}
