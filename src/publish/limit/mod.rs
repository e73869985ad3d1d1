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
    /// When the last probe of an API in trouble was sent, if it was in vain to begin with: by events that have asked before,
    /// or for a namespace that is refused itself.
    in_vain: Option<Instant>,
    probes: u32,
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
            in_vain: None,
            probes: 0,
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

    /// Since when the API does not answer, or is paused as a whole.
    pub fn trouble(&self) -> Option<Instant> {
        [self.breaker.since(), self.pauses.since(&Scope::Api)].into_iter().flatten().min()
    }

    /// Notes a batch of so many events sent to `namespace`. `again`: all of them have asked in vain since the
    /// [trouble](Self::trouble) began.
    pub fn sent(&mut self, namespace: &str, events: usize, again: bool, now: Instant) {
        if self.trouble().is_some() {
            let in_vain = again || self.pauses.contains(&Scope::of(namespace));
            self.in_vain = in_vain.then_some(now);
            self.probes = self.probes.wrapping_add(1);
        }
        self.pauses.sent(namespace, now);
        self.breaker.sent(now);
        self.rate.sent(events);
    }

    /// Whether what was sent at `sent` was a probe in vain to begin with: its failure says nothing new.
    pub fn asked_in_vain(&self, sent: Instant) -> bool {
        self.in_vain == Some(sent)
    }

    /// Whether the next probe is the turn of an event that has asked in vain, though others have not: every fourth one, so
    /// that nobody who never gets an answer keeps it from asking.
    pub fn asks_again(&self) -> bool {
        self.probes % 4 == 3
    }

    /// Whether more events are taken, with so many requests in flight and events `queued`: not while they would only wait,
    /// because the API does not answer or is paused. `awake`: one is left that may ask, and has not asked in vain.
    ///
    /// `None`: only such are left that have, as one that the API always fails, or whose namespace is refused: the end
    /// might never be seen. Then a few more are taken after each probe, for as long as these ask in vain, too.
    pub fn takes_more(
        &self,
        requests: usize,
        queued: usize,
        awake: impl FnOnce() -> bool,
    ) -> Option<bool> {
        let Some(since) = self.trouble().filter(|_| requests + queued > 0) else {
            return Some(true);
        };
        let in_vain = usize::from(self.in_vain.is_some_and(|sent| sent > since));
        (requests > in_vain || awake()).then_some(false)
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
        limits.sent("a", 5, false, now);
        assert_eq!(limits.hold(usize::MAX, 5, now), Some(Hold::Concurrency));
        while limits.hold(0, 5, now).is_none() {
            limits.sent("a", 5, false, now);
        }
        assert_eq!(limits.hold(0, 5, now), Some(Hold::Rate));
        let opens = limits.next_change(0, 1, now).unwrap();
        assert_eq!(limits.hold(0, 5, opens), None);
        assert_eq!(limits.next_change(0, 0, now), None, "nothing waits for it");
    }

    #[test]
    fn the_gate_closes_only_with_something_to_ask_with_that_has_not() {
        let now = Instant::now();
        for paused in [true, false] {
            let mut limits = Limits::new(1, 10.0, now);
            assert_eq!(limits.takes_more(1, 1, || true), Some(true));
            if paused {
                limits.pauses.refused(&Scope::Api, now, now);
            } else {
                while !limits.breaker.failed(now, false, false) {}
            }
            assert_eq!(limits.trouble(), Some(now));
            assert_eq!(limits.takes_more(0, 0, || false), Some(true), "nobody would ask again");
            assert_eq!(limits.takes_more(0, 1, || true), Some(false));
            assert_eq!(limits.takes_more(0, 1, || false), None);
            let later = now + std::time::Duration::from_secs(1);
            limits.sent("a", 1, false, later);
            assert_eq!(
                limits.takes_more(1, 1, || false),
                Some(false),
                "it asks for the first time"
            );
            limits.sent("a", 1, true, later);
            assert!(limits.asked_in_vain(later) && !limits.asked_in_vain(now));
            assert_eq!(limits.takes_more(1, 1, || false), None);
            assert_eq!(limits.takes_more(1, 1, || true), Some(false));
            assert_eq!(limits.takes_more(2, 1, || false), Some(false), "another is on its way");
            limits.pauses.refused(&Scope::of("a"), later, later);
            limits.sent("a", 1, false, later);
            assert_eq!(limits.takes_more(1, 1, || false), None, "its namespace is refused");
            limits.sent("b", 1, false, later);
            assert_eq!(limits.takes_more(1, 1, || false), Some(false));
            assert!(!limits.asks_again(), "each fourth");
            limits.sent("b", 1, false, later);
            limits.sent("b", 1, false, later);
            limits.sent("b", 1, false, later);
            assert!(limits.asks_again());
        }
    }
}
