//! The limit of requests in flight: one more a round trip while the limit is reached, fewer when the round
//! trip grows or the API is overloaded.

use std::time::{Duration, Instant};

/// Factor of a step down.
const CUT: f64 = 0.9;

/// A round trip that is this many deviations above its average means that requests queue up.
const DEVIATIONS: f64 = 2.5;

/// Weight of the newest round trip in the average.
const WEIGHT: f64 = 0.1;

/// An adaptive limit, never below 1.
#[derive(Debug)]
pub struct Concurrency {
    limit: f64,
    ceiling: f64,
    average: Option<Average>,
    window: Window,
}

/// The round trip, in seconds.
#[derive(Clone, Copy, Debug)]
struct Average {
    mean: f64,
    deviation: f64,
}

/// What happened since the last step.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    count: u32,
    sum: f64,
    reached: bool,
    overloaded: bool,
}

impl Window {
    /// The round trip, in seconds, if anything was answered.
    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

impl Concurrency {
    /// Starts low, and never exceeds `ceiling`.
    pub fn new(ceiling: usize) -> Self {
        let ceiling = f64::from(u32::try_from(ceiling.max(1)).unwrap_or(u32::MAX));
        Self { limit: ceiling.min(4.0), ceiling, average: None, window: Window::default() }
    }

    /// Never exceeds `ceiling` from now on.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = f64::from(u32::try_from(ceiling.max(1)).unwrap_or(u32::MAX));
        self.limit = self.limit.min(self.ceiling);
    }

    /// Whether one more request may go out beside `in_flight`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 ≤ limit ≤ u32::MAX
    pub fn allows(&self, in_flight: usize) -> bool {
        in_flight < self.limit as usize
    }

    /// The limit, rounded down.
    #[allow(clippy::cast_possible_truncation)] // 1 ≤ limit ≤ u32::MAX
    pub fn limit(&self) -> i64 {
        self.limit as i64
    }

    /// How long a request takes, as far as it is known.
    pub fn round_trip(&self) -> Duration {
        self.average.map_or(Duration::ZERO, |average| Duration::from_secs_f64(average.mean))
    }

    /// A request sent at `sent` was answered; `in_flight` others were in flight.
    pub fn answered(&mut self, sent: Instant, now: Instant, in_flight: usize) {
        let seconds = now.duration_since(sent).as_secs_f64();
        self.window.reached |= !self.allows(in_flight + 1);
        self.window.count += 1;
        self.window.sum += seconds;
        if self.average.is_none() {
            self.average = Some(Average { mean: seconds, deviation: seconds / 2.0 });
            self.window = Window { began: Some(now), ..Window::default() };
        }
        self.step(now);
    }

    /// A request met an overload: no answer in time, or a 5xx. Its time is no round trip: a time-out would stand
    /// for one of many seconds.
    pub fn overloaded(&mut self, now: Instant) {
        self.window.overloaded = true;
        self.step(now);
    }

    /// Once a round trip: up, down, or neither.
    fn step(&mut self, now: Instant) {
        let Some(average) = self.average else { return };
        let began = *self.window.began.get_or_insert(now);
        let mean = self.window.mean().unwrap_or(average.mean);
        // An average from a time when the API was slow, or the bridge was frozen, must not set the pace of what
        // it unlearns.
        if now.duration_since(began).as_secs_f64() < mean.min(average.mean) {
            return;
        }
        let window = std::mem::take(&mut self.window);
        if window.overloaded || mean > average.mean + DEVIATIONS * average.deviation {
            self.limit = (self.limit * CUT).max(1.0);
        } else if window.reached {
            self.limit = (self.limit + 1.0).min(self.ceiling);
        }
        let off = mean - average.mean;
        self.average = Some(Average {
            mean: average.mean + WEIGHT * off,
            deviation: average.deviation + WEIGHT * (off.abs() - average.deviation),
        });
        self.window.began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(10);

    /// Lets `trips` round trips pass with the limit used in full.
    fn pass(concurrency: &mut Concurrency, now: &mut Instant, trips: usize, trip: Duration) {
        for _ in 0..trips {
            let sent = *now;
            *now += trip;
            let out = usize::try_from(concurrency.limit()).unwrap();
            for left in (0..out).rev() {
                concurrency.answered(sent, *now, left);
            }
        }
    }

    #[test]
    fn it_grows_by_one_a_round_trip_while_it_is_used() {
        let (mut concurrency, mut now) = (Concurrency::new(64), Instant::now());
        assert!(concurrency.allows(3) && !concurrency.allows(4));
        pass(&mut concurrency, &mut now, 11, TRIP);
        assert!((13..=15).contains(&concurrency.limit()), "{}", concurrency.limit());
        pass(&mut concurrency, &mut now, 100, TRIP);
        assert_eq!(concurrency.limit(), 64);
    }

    #[test]
    fn an_idle_limit_does_not_grow() {
        let (mut concurrency, mut now) = (Concurrency::new(64), Instant::now());
        for _ in 0..50 {
            let sent = now;
            now += TRIP;
            concurrency.answered(sent, now, 0);
        }
        assert_eq!(concurrency.limit(), 4);
    }

    #[test]
    fn an_overload_cuts_once_a_round_trip_and_never_below_one() {
        let (mut concurrency, mut now) = (Concurrency::new(64), Instant::now());
        pass(&mut concurrency, &mut now, 100, TRIP);
        now += TRIP * 2;
        for _ in 0..64 {
            concurrency.overloaded(now);
        }
        assert_eq!(concurrency.limit(), 57);
        for _ in 0..100 {
            now += TRIP * 2;
            concurrency.overloaded(now);
        }
        assert!(concurrency.allows(0) && concurrency.limit() == 1);
    }

    #[test]
    fn a_round_trip_that_grows_is_a_queue_that_grows() {
        let (mut concurrency, mut now) = (Concurrency::new(64), Instant::now());
        pass(&mut concurrency, &mut now, 100, TRIP);
        pass(&mut concurrency, &mut now, 3, TRIP * 5);
        assert!(concurrency.limit() < 64, "{}", concurrency.limit());
    }

    /// What was slow once, for whatever reason, is forgotten in seconds: how fast the limit grows then.
    #[test]
    fn a_slow_time_that_is_over_does_not_set_the_pace() {
        const SLOW: Duration = Duration::from_secs(5);
        const FROZEN: Duration = Duration::from_mins(1);
        let fast = Duration::from_millis(20);
        // Each with how many seconds of fast answers it takes to be at the ceiling.
        let seconds_to_64 = |concurrency: &mut Concurrency, mut now: Instant| {
            let began = now;
            while concurrency.limit() < 64 && now < began + FROZEN {
                pass(concurrency, &mut now, 1, fast);
            }
            let took = now.duration_since(began);
            // And a queue that grows is still seen.
            pass(concurrency, &mut now, 100, fast);
            pass(concurrency, &mut now, 3, fast * 5);
            assert!(concurrency.limit() < 64, "{}", concurrency.limit());
            took.as_secs_f64()
        };
        let start = Instant::now();
        let healthy = seconds_to_64(&mut Concurrency::new(64), start);
        assert!(healthy <= 2.0, "{healthy}");

        let (mut concurrency, mut now) = (Concurrency::new(64), start);
        pass(&mut concurrency, &mut now, 1, SLOW);
        let took = seconds_to_64(&mut concurrency, now);
        assert!(took <= 3.0, "first answers of 5 s: {took}");

        let (mut concurrency, mut now) = (Concurrency::new(64), start);
        for _ in 0..6 {
            now += Duration::from_secs(10);
            (0..4).for_each(|_| concurrency.overloaded(now));
        }
        let took = seconds_to_64(&mut concurrency, now);
        assert!(took <= 3.0, "started into a black hole: {took}");

        let (mut concurrency, mut now) = (Concurrency::new(64), start);
        pass(&mut concurrency, &mut now, 100, fast);
        pass(&mut concurrency, &mut now, 1, FROZEN);
        (0..64).for_each(|_| concurrency.overloaded(now));
        let took = seconds_to_64(&mut concurrency, now);
        assert!(took <= 3.0, "frozen for a minute: {took}");
    }
}
