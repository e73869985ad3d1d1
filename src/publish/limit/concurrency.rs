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

    /// A request sent at `sent` was answered; `in_flight` others were in flight.
    pub fn answered(&mut self, sent: Instant, now: Instant, in_flight: usize) {
        let seconds = now.duration_since(sent).as_secs_f64();
        self.window.reached |= !self.allows(in_flight + 1);
        self.window.count += 1;
        self.window.sum += seconds;
        self.step(now, seconds);
    }

    /// A request met an overload: no answer in time, or a 5xx.
    pub fn overloaded(&mut self, sent: Instant, now: Instant) {
        self.window.overloaded = true;
        self.step(now, now.duration_since(sent).as_secs_f64());
    }

    /// Once a round trip: up, down, or neither.
    fn step(&mut self, now: Instant, seconds: f64) {
        let Some(average) = self.average else {
            self.average = Some(Average { mean: seconds, deviation: seconds / 2.0 });
            self.window = Window { began: Some(now), ..Window::default() };
            return;
        };
        let began = *self.window.began.get_or_insert(now);
        if now.duration_since(began) < Duration::from_secs_f64(average.mean) {
            return;
        }
        let window = std::mem::take(&mut self.window);
        let mean =
            if window.count > 0 { window.sum / f64::from(window.count) } else { average.mean };
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
        let sent = now;
        now += TRIP * 2;
        for _ in 0..64 {
            concurrency.overloaded(sent, now);
        }
        assert_eq!(concurrency.limit(), 57);
        for _ in 0..100 {
            let sent = now;
            now += TRIP * 2;
            concurrency.overloaded(sent, now);
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
}
