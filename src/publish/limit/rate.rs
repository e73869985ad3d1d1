//! The rate limit: how many events a second an API accepts.
//!
//! A 429 is a signal about the rate, not about the load: round trips stay as they are. The rate that the API
//! answers while it throttles *is* its limit, so the gate remembers that, falls just below it, and
//! grows back slowly near it and quickly far from it. That keeps it within a few percent of the quota,
//! and finds a quota that was raised within seconds.

use std::time::{Duration, Instant};

use super::window::Window;

/// Factor applied to the measured rate when the API throttles.
const CUT: f64 = 0.97;

/// No cut goes below this share of the rate in force. Few events were answered where few were sent, after a
/// rest, an outage or a wait: that is no measure of what the API takes. If it takes still less, the next 429
/// says so, a round trip later.
const DEEPEST: f64 = 0.5;

/// Growth a second near the remembered rate, as a share of it.
const GROWTH: f64 = 0.02;

/// This far above the remembered rate, the API accepts more than before: growth is quick.
const FOUND_MORE: f64 = 1.03;

/// Quick growth, a second.
const QUICK: f64 = 2.0;

/// Burst: events of this many seconds, and never fewer than a full batch.
const BURST: f64 = 0.05;
const BATCH: f64 = 5.0;

/// Once it is used up, the gate opens again for events of this many seconds. A token at a time would wake the
/// publisher for each, and send batches before they are full. Only at the operator's own rate: a throttling API
/// may count over less, would refuse the end of each portion, and seem to have half of its quota.
const PORTION: f64 = 0.04;

/// In a backlog the next portion is larger by this factor, up to [`LARGEST`] and up to what waits: to wake a core that
/// sleeps costs as much for few events as for many, and events of a backlog are late by more than that.
const GROWS: f64 = 1.5;

/// Seconds. A whole part of one, so that while the backlog lasts no second has more of them than another; the one behind
/// its end may have a quarter more.
const LARGEST: f64 = 0.25;

/// Portions grow while one is sent and answered in less than this share of its time. Where the API takes longer, they
/// would be a burst of requests at once, each of which needs a connection.
const QUICK_ENOUGH: f64 = 0.5;

/// Lowest rate, in events a second.
const FLOOR: f64 = 1.0;

/// What is to be sent, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Events that wait.
    pub queued: usize,
    /// From a request to its answer.
    pub round_trip: Duration,
}

/// A bucket of events that fills at the rate in force.
#[derive(Debug)]
pub struct RateGate {
    ceiling: f64,
    rate: f64,
    remembered: Option<f64>,
    tokens: f64,
    /// Used up, and not yet filled to a portion.
    dry: bool,
    /// In seconds.
    portion: f64,
    /// When it opened last, and with how many tokens.
    opened: Instant,
    level: f64,
    filled: Instant,
    grown: Instant,
    cut_at: Option<Instant>,
    held_until: Option<Instant>,
    answered: Window,
    singled: Window,
}

impl RateGate {
    /// A gate at `ceiling` events a second.
    pub fn new(ceiling: f64, now: Instant) -> Self {
        let ceiling = ceiling.max(FLOOR);
        Self {
            ceiling,
            rate: ceiling,
            remembered: None,
            tokens: (ceiling * BURST).max(BATCH),
            dry: false,
            portion: PORTION,
            opened: now,
            level: 0.0,
            filled: now,
            grown: now,
            cut_at: None,
            held_until: None,
            answered: Window::default(),
            singled: Window::default(),
        }
    }

    /// Is at `ceiling` from now on; below it as long as the API throttles.
    pub fn set_ceiling(&mut self, ceiling: f64, now: Instant) {
        // What was saved up until now was so at the old rate.
        self.fill(now);
        self.level = 0.0;
        self.ceiling = ceiling.max(FLOOR);
        if self.remembered.is_none_or(|remembered| remembered >= self.ceiling) {
            self.remembered = None;
            self.rate = self.ceiling;
        }
        self.rate = self.rate.min(self.ceiling);
    }

    /// Sends again, though the API [asked](Self::hold) to wait.
    pub fn release(&mut self) {
        self.held_until = None;
    }

    /// Events a second in force.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether a batch may go now, of `load`: there is a token for one event, and a portion of them after there was
    /// none. The batch's further events are a debt, so that a full batch waits no longer than a single event.
    pub fn is_open(&mut self, load: Load, now: Instant) -> bool {
        self.grow(now);
        self.fill(now);
        let dry = self.tokens < self.needed(load.queued);
        let was_dry = std::mem::replace(&mut self.dry, dry);
        match (was_dry, self.dry) {
            (true, false) => (self.opened, self.level) = (now, self.tokens),
            (false, true) => self.portion = self.next_portion(load.round_trip, now),
            _ => {}
        }
        !self.is_held(now) && !self.dry
    }

    /// That after one that is used up. An API that has ever throttled may count over less than a large one takes.
    fn next_portion(&self, round_trip: Duration, now: Instant) -> f64 {
        let took = (now.duration_since(self.opened) + round_trip).as_secs_f64();
        let grows = self.rate * PORTION >= BATCH
            && self.cut_at.is_none()
            && took < self.portion * QUICK_ENOUGH;
        if grows { (self.portion * GROWS).min(LARGEST) } else { PORTION }
    }

    /// The tokens with which it is open, where so many events wait.
    #[allow(clippy::cast_precision_loss)] // thousands
    fn needed(&self, queued: usize) -> f64 {
        if !self.dry || self.remembered.is_some() {
            return 1.0;
        }
        let most = (self.rate * self.portion).min(queued as f64);
        (self.rate * PORTION).max(most).max(1.0)
    }

    /// When [`is_open`](Self::is_open) will be true, if it is not: always after `now`, so that rounding can't
    /// make the wait spin.
    pub fn opens_at(&self, queued: usize, now: Instant) -> Option<Instant> {
        let missing = (self.needed(queued) - self.tokens).max(0.0);
        let filled = self.filled + Duration::from_secs_f64(missing / self.rate);
        let at = self.held_until.map_or(filled, |until| until.max(filled));
        (missing > 0.0 || at > now).then(|| at.max(now + Duration::from_millis(1)))
    }

    /// Sends nothing before `until`, as the API asked (`Retry-After`).
    pub fn hold(&mut self, until: Instant) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// Whether the API asked to wait, and that is not over.
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    /// `events` were sent.
    #[allow(clippy::cast_precision_loss)] // 1 to 5
    pub fn sent(&mut self, events: usize) {
        self.tokens -= events as f64;
    }

    /// `events` were answered, and not throttled: they used the quota, whatever became of them.
    pub fn answered(&mut self, events: usize, now: Instant) {
        self.answered.add(events, now);
    }

    /// Single events of a request sent at `sent` were throttled, in an answer that may have taken others. Some may
    /// be so at any rate, by what their handler writes to, and the gate would find none to settle at: it is about
    /// the rate only while they are the most of all that is answered.
    pub fn singled_out(&mut self, events: usize, sent: Instant, now: Instant) {
        self.singled.add(events, now);
        if events > 0 && self.singled.sum(now) > self.answered.sum(now) {
            self.throttled(sent, now);
        }
    }

    /// A request sent at `sent` was throttled. Requests in flight together cut the rate once.
    pub fn throttled(&mut self, sent: Instant, now: Instant) {
        if self.cut_at.is_some_and(|cut| sent < cut) {
            return;
        }
        let nothing = self.answered.sum(now) == 0;
        if nothing && self.is_held(now) {
            // The wait lowers the rate already.
            return;
        }
        let measured = self.answered.rate(now).max(self.rate * DEEPEST);
        // Far above the remembered rate the newest measure counts; near it both, because a window of a
        // second is inexact, and the sawtooth must not drift down with it.
        let remembered = match self.remembered {
            Some(old) if measured > old * 0.8 && measured < old * 1.2 => old.midpoint(measured),
            _ => measured,
        };
        let remembered = remembered.clamp(FLOOR, self.ceiling);
        // With nothing measured nothing is known of the limit: growth is quick.
        self.remembered = Some(if nothing { FLOOR } else { remembered });
        self.rate = (remembered * CUT).max(FLOOR);
        self.tokens = self.tokens.min(0.0);
        self.cut_at = Some(now);
        self.grown = now;
    }

    fn grow(&mut self, now: Instant) {
        let Some(remembered) = self.remembered else { return };
        let seconds = now.duration_since(self.grown).as_secs_f64();
        self.grown = now;
        if self.rate > remembered * FOUND_MORE || self.rate < remembered * 0.8 {
            self.rate *= QUICK.powf(seconds);
        } else {
            self.rate += remembered * GROWTH * seconds;
        }
        if self.rate >= self.ceiling {
            self.rate = self.ceiling;
            self.remembered = None;
        }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let unused = if self.dry { seconds } else { now.duration_since(self.opened).as_secs_f64() };
        if unused > self.portion * 2.0 {
            // The backlog is gone, and what is left of a large portion with it.
            (self.portion, self.level) = (PORTION, 0.0);
        }
        // While it is open, it is filled to no more than it opened with.
        let large = if self.dry { self.rate * self.portion } else { self.level };
        let most = large.max(self.rate * BURST).max(BATCH);
        self.tokens = (self.tokens + seconds * self.rate).min(most);
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
