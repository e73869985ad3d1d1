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
const _: () = assert!(PORTION < BURST, "the bucket would never hold a portion");

/// Lowest rate, in events a second.
const FLOOR: f64 = 1.0;

/// A bucket of events that fills at the rate in force.
#[derive(Debug)]
pub struct RateGate {
    ceiling: f64,
    rate: f64,
    remembered: Option<f64>,
    tokens: f64,
    /// Used up, and not yet filled to a portion.
    dry: bool,
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

    /// Whether a batch may go now: there is a token for one event, and a portion of them after there was none.
    /// The batch's further events are a debt, so that a full batch waits no longer than a single event.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.grow(now);
        self.fill(now);
        self.dry = self.tokens < self.needed();
        !self.is_held(now) && !self.dry
    }

    /// The tokens with which it is open.
    fn needed(&self) -> f64 {
        let portions = self.dry && self.remembered.is_none();
        if portions { (self.rate * PORTION).max(1.0) } else { 1.0 }
    }

    /// When [`is_open`](Self::is_open) will be true, if it is not: always after `now`, so that rounding can't
    /// make the wait spin.
    pub fn opens_at(&self, now: Instant) -> Option<Instant> {
        let missing = (self.needed() - self.tokens).max(0.0);
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
        let most = (self.rate * BURST).max(BATCH);
        self.tokens = (self.tokens + seconds * self.rate).min(most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::window::{GRAIN, WINDOW};
    use super::*;

    /// An API that lets in `quota(t)` events a second, asked through the gate as often as it opens, in
    /// full batches, answers after 20 ms; gives accepted events and requests of each second. Its bucket holds a
    /// tenth of a second.
    fn simulate(
        gate: &mut RateGate,
        start: Instant,
        seconds: u32,
        offered: f64,
        quota: impl Fn(f64) -> f64,
    ) -> Vec<(f64, f64)> {
        simulate_bucket(gate, start, seconds, offered, quota, 0.1)
    }

    /// The same with a bucket of `holds` seconds.
    fn simulate_bucket(
        gate: &mut RateGate,
        start: Instant,
        seconds: u32,
        offered: f64,
        quota: impl Fn(f64) -> f64,
        holds: f64,
    ) -> Vec<(f64, f64)> {
        let (mut bucket, mut backlog) = (quota(0.0) * holds, 0.0);
        let mut answers: VecDeque<(Instant, Instant, bool)> = VecDeque::new();
        let mut seen = vec![(0.0, 0.0); seconds as usize];
        let step = Duration::from_millis(1);
        for tick in 0..seconds * 1_000 {
            let now = start + step * tick;
            let t = f64::from(tick) / 1_000.0;
            bucket = (bucket + quota(t) / 1_000.0).min(quota(t) * holds);
            backlog += offered / 1_000.0;
            while answers.front().is_some_and(|(_, at, _)| *at <= now) {
                let (sent, _, good) = answers.pop_front().unwrap();
                if good {
                    gate.answered(5, now);
                    seen[(tick / 1_000) as usize].0 += 5.0;
                } else {
                    gate.throttled(sent, now);
                    backlog += 5.0;
                }
            }
            while backlog >= 5.0 && gate.is_open(now) && answers.len() < 64 {
                gate.sent(5);
                backlog -= 5.0;
                let good = bucket >= 5.0;
                if good {
                    bucket -= 5.0;
                }
                seen[(tick / 1_000) as usize].1 += 1.0;
                answers.push_back((now, now + Duration::from_millis(20), good));
            }
        }
        seen
    }

    #[test]
    fn unthrottled_it_holds_the_ceiling() {
        let start = Instant::now();
        let mut gate = RateGate::new(1_000.0, start);
        let seen = simulate(&mut gate, start, 5, 3_000.0, |_| 1e9);
        for (accepted, _) in &seen[1..] {
            assert!((950.0..=1_050.0).contains(accepted), "{seen:?}");
        }
    }

    #[test]
    fn another_ceiling_counts_at_once_and_a_throttled_rate_stays() {
        let start = Instant::now();
        let mut gate = RateGate::new(1_000.0, start);
        gate.set_ceiling(300.0, start);
        let seen = simulate(&mut gate, start, 5, 3_000.0, |_| 1e9);
        for (accepted, _) in &seen[1..] {
            assert!((280.0..=320.0).contains(accepted), "{seen:?}");
        }
        let later = start + Duration::from_secs(5);
        gate.set_ceiling(2_000.0, later);
        let is_at = |gate: &RateGate, rate: f64| (gate.rate() - rate).abs() < 1e-9;
        assert!(is_at(&gate, 2_000.0));
        simulate(&mut gate, later, 5, 3_000.0, |_| 500.0);
        let throttled = gate.rate();
        assert!(throttled < 1_000.0, "{throttled}");
        let last = later + Duration::from_secs(5);
        gate.set_ceiling(5_000.0, last);
        assert!(is_at(&gate, throttled));
        gate.set_ceiling(100.0, last);
        assert!(is_at(&gate, 100.0));
        gate.hold(last + Duration::from_hours(1));
        assert!(!gate.is_open(last + Duration::from_secs(1)));
        gate.release();
        assert!(gate.is_open(last + Duration::from_secs(1)));
    }

    #[test]
    fn what_was_used_up_comes_back_in_portions() {
        let start = Instant::now();
        let mut gate = RateGate::new(10_000.0, start);
        let (mut now, mut openings, mut sent) = (start, 0, 0);
        while now < start + Duration::from_secs(1) {
            openings += 1;
            while gate.is_open(now) {
                gate.sent(5);
                sent += 5;
            }
            now = gate.opens_at(now).unwrap();
        }
        // The first is the whole burst.
        assert!((22..=28).contains(&openings), "{openings}");
        assert!((10_000..=10_900).contains(&sent), "{sent}");
    }

    #[test]
    fn an_api_that_counts_over_little_is_used_all_the_same() {
        for quota in [300.0, 2_000.0, 9_000.0] {
            let start = Instant::now();
            let mut gate = RateGate::new(10_000.0, start);
            let seen = simulate_bucket(&mut gate, start, 30, 20_000.0, |_| quota, 0.02);
            let goodput = seen[5..].iter().map(|s| s.0).sum::<f64>() / (quota * 25.0);
            assert!(goodput >= 0.8, "{quota}: {goodput:.3}");
        }
    }

    #[test]
    fn a_slow_rate_waits_for_single_events() {
        let start = Instant::now();
        let mut gate = RateGate::new(20.0, start);
        while gate.is_open(start) {
            gate.sent(1);
        }
        let opens = gate.opens_at(start).unwrap();
        assert!(opens <= start + Duration::from_millis(51), "{:?}", opens - start);
        assert!(gate.is_open(opens));
    }

    #[test]
    fn throttled_to_a_third_it_uses_the_quota_wastes_little_and_recovers() {
        let start = Instant::now();
        let mut gate = RateGate::new(10_000.0, start);
        let quota = |t: f64| if (5.0..65.0).contains(&t) { 300.0 } else { 1e9 };
        let seen = simulate(&mut gate, start, 90, 1_000.0, quota);
        let throttled = &seen[6..65];
        let accepted: f64 = throttled.iter().map(|s| s.0).sum();
        let requests: f64 = throttled.iter().map(|s| s.1).sum();
        let goodput = accepted / (300.0 * 59.0);
        assert!(goodput >= 0.95, "goodput {goodput:.3}");
        let extra = requests / (accepted / 5.0) - 1.0;
        assert!(extra <= 0.2, "extra requests {extra:.3}");
        // The backlog of a minute is still there: full speed is what is offered, at least.
        let back = seen[65..].iter().position(|s| s.0 >= 1_000.0);
        assert!(back.is_some_and(|s| s < 10), "{:?}", &seen[65..80]);
    }

    #[test]
    fn a_quota_that_falls_is_found() {
        let start = Instant::now();
        let mut gate = RateGate::new(10_000.0, start);
        let quota = |t: f64| if t < 10.0 { 2_000.0 } else { 200.0 };
        let seen = simulate(&mut gate, start, 30, 5_000.0, quota);
        let late: f64 = seen[13..].iter().map(|s| s.0).sum::<f64>() / (200.0 * 17.0);
        assert!(late >= 0.95, "{late:.3}: {seen:?}");
        let requests: f64 = seen[13..].iter().map(|s| s.1).sum();
        assert!(requests / (200.0 * 17.0 / 5.0) <= 1.2, "{seen:?}");
    }
    /// When the events of a second are as many as that, in seconds from the first one looked at.
    fn full_after(seen: &[(f64, f64)], rate: f64) -> usize {
        seen.iter().position(|s| s.0 >= rate * 0.95).unwrap_or(usize::MAX)
    }

    #[test]
    fn one_429_after_a_rest_costs_seconds_however_little_was_answered_before() {
        // Nothing before it, or a trickle.
        for trickle in [0, 1, 20] {
            let start = Instant::now();
            let mut gate = RateGate::new(5_000.0, start);
            for n in 0..trickle {
                gate.answered(1, start + WINDOW / 20 * n);
            }
            let back = start + WINDOW;
            gate.throttled(back - GRAIN, back);
            let seen = simulate(&mut gate, back, 20, 5_000.0, |_| 1e9);
            assert!(full_after(&seen, 5_000.0) <= 6, "{trickle}: {seen:?}");
        }
    }
    #[test]
    fn waits_that_the_api_asks_for_leave_the_rate_as_it_was() {
        let start = Instant::now();
        let mut gate = RateGate::new(5_000.0, start);
        let wait = Duration::from_secs(20);
        let mut now = start;
        for _ in 0..10 {
            gate.hold(now + wait);
            gate.throttled(now, now + GRAIN);
            assert!(gate.is_held(now + GRAIN) && !gate.is_open(now + wait - GRAIN));
            now += wait;
            assert!(!gate.is_held(now) && gate.is_open(now));
        }
        let seen = simulate(&mut gate, now, 20, 5_000.0, |_| 1e9);
        assert!(full_after(&seen, 5_000.0) <= 6, "{seen:?}");
    }
    #[test]
    fn events_that_are_throttled_singly_lower_the_rate_while_they_are_the_most() {
        let start = Instant::now();
        // Of five, so many are throttled in every answer, 50 a second.
        let rate_after = |seconds: u32, of_five: usize| {
            let mut gate = RateGate::new(5_000.0, start);
            for answer in 1..seconds * 50 {
                let now = start + GRAIN * 2 * answer;
                gate.answered(5 - of_five, now);
                gate.singled_out(of_five, now - GRAIN, now);
                gate.is_open(now);
            }
            gate.rate()
        };
        assert!(rate_after(10, 2) >= 5_000.0);
        assert!(rate_after(10, 4) < 100.0, "{}", rate_after(10, 4));
    }
}
