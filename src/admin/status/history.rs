//! What the numbers were in the last quarter of an hour, in steps of 5 s. Pure: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::metrics::{Latency, quantile};

/// Between two readings.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// Steps that are kept: a quarter of an hour.
const STEPS: usize = 180;

/// A rate is taken over this long at least, so that the first ones are not wild.
const SHORTEST: Duration = Duration::from_secs(1);

/// The numbers at one time, each list in the order of the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) sources: Vec<OfSource>,
    pub(super) routes: Vec<OfRoute>,
    /// Events accepted by each API.
    pub(super) apis: Vec<u64>,
    /// Letters written to all dead letters.
    pub(super) dead_letters: u64,
}

/// Of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfSource {
    pub(super) received: u64,
    pub(super) in_flight: i64,
    /// Messages by how long they took.
    pub(super) delivery: Deliveries,
}

/// Counts of a [`Latency`].
pub(super) type Deliveries = [u64; Latency::BUCKETS];

/// Of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfRoute {
    pub(super) matched: u64,
    pub(super) rejected: u64,
}

/// Where each part of a new list stands in the old one, if it does.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) sources: Vec<Option<usize>>,
    pub(super) routes: Vec<Option<usize>>,
    pub(super) apis: Vec<Option<usize>>,
}

/// The readings, oldest first; one more than there are steps.
#[derive(Debug, Default)]
pub(super) struct History {
    readings: VecDeque<Reading>,
}

impl History {
    /// Keeps a reading, and forgets the oldest when there are too many.
    pub(super) fn note(&mut self, reading: Reading) {
        if self.readings.len() > STEPS {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
    }

    /// The parts are in these places now; of new ones all readings are zero.
    pub(super) fn reorder(&mut self, places: &Places) {
        fn at<T: Copy + Default>(list: &mut Vec<T>, places: &[Option<usize>]) {
            let old = |place: &Option<usize>| place.and_then(|at| list.get(at).copied());
            *list = places.iter().map(|place| old(place).unwrap_or_default()).collect();
        }
        for Reading { sources, routes, apis, .. } in &mut self.readings {
            at(sources, &places.sources);
            at(routes, &places.routes);
            at(apis, &places.apis);
        }
    }

    /// How fast a count grows: over the last step or two, until `now`.
    pub(super) fn rate(&self, now: &Reading, count: impl Fn(&Reading) -> u64) -> f64 {
        self.lately(now).map_or(0.0, |then| growth(then, now, count))
    }

    /// How long this share of what was published took, at most: over the last step or two; `None` where nothing was.
    pub(super) fn took(&self, share: f64, now: &Reading, source: usize) -> Option<Duration> {
        let then = self.lately(now)?;
        quantile(share, &then.sources[source].delivery, &now.sources[source].delivery)
    }

    /// The reading of a step or two ago, or the first.
    fn lately(&self, now: &Reading) -> Option<&Reading> {
        let old = |then: &&Reading| now.at.saturating_duration_since(then.at) >= STEP;
        self.readings.iter().rev().find(old).or(self.readings.front())
    }

    /// How fast a count grew in each step, the oldest first.
    pub(super) fn rates(&self, count: impl Fn(&Reading) -> u64) -> Vec<f64> {
        let steps = self.readings.iter().zip(self.readings.iter().skip(1));
        steps.map(|(then, now)| growth(then, now, &count)).collect()
    }

    /// The value at the end of each step, the oldest first.
    pub(super) fn values<T>(&self, value: impl Fn(&Reading) -> T) -> Vec<T> {
        self.readings.iter().skip(1).map(value).collect()
    }
}

/// A second, to one decimal.
#[allow(clippy::cast_precision_loss)] // for people
fn growth(then: &Reading, now: &Reading, count: impl Fn(&Reading) -> u64) -> f64 {
    let passed = now.at.saturating_duration_since(then.at).max(SHORTEST);
    let grown = count(now).saturating_sub(count(then));
    (grown as f64 / passed.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)] // rounded to a tenth

    use super::*;

    fn reading(at: Instant, received: u64, in_flight: i64) -> Reading {
        let delivery = [0; Latency::BUCKETS];
        let sources = vec![OfSource { received, in_flight, delivery }];
        Reading { at, sources, routes: Vec::new(), apis: Vec::new(), dead_letters: 0 }
    }

    fn received(reading: &Reading) -> u64 {
        reading.sources[0].received
    }

    #[test]
    fn a_rate_is_over_the_last_step_or_two() {
        let (mut history, start) = (History::default(), Instant::now());
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(history.rate(&reading(start, 50, 0), received), 0.0);
        history.note(reading(start, 10, 0));
        // The first second counts as a whole one.
        assert_eq!(history.rate(&reading(at(0.1), 20, 0), received), 10.0);
        assert_eq!(history.rate(&reading(at(4.0), 30, 0), received), 5.0);
        history.note(reading(at(5.0), 60, 0));
        history.note(reading(at(10.0), 60, 0));
        assert_eq!(history.rate(&reading(at(12.0), 130, 0), received), 10.0);
        assert_eq!(history.rate(&reading(at(15.0), 61, 0), received), 0.2);
    }

    #[test]
    fn a_latency_is_that_of_the_last_step_or_two() {
        let (mut history, start) = (History::default(), Instant::now());
        let at = |seconds, fast, slow| {
            let mut reading = reading(start + Duration::from_secs(seconds), 0, 0);
            reading.sources[0].delivery[0] = fast;
            reading.sources[0].delivery[8] = slow;
            reading
        };
        assert_eq!(history.took(0.5, &at(0, 9, 0), 0), None);
        history.note(at(0, 0, 100));
        history.note(at(5, 90, 100));
        history.note(at(10, 180, 100));
        assert_eq!(history.took(0.99, &at(10, 180, 100), 0), Some(Duration::from_millis(2)));
        assert_eq!(history.took(0.99, &at(12, 180, 110), 0), Some(Duration::from_secs(1)));
        assert_eq!(history.took(0.5, &at(15, 180, 100), 0), None);
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.rates(received), Vec::<f64>::new());
        for (step, in_flight) in (0..1_000_u32).zip(0..) {
            let count = u64::from(step) * if step < 990 { 50 } else { 100 };
            history.note(reading(start + STEP * step, count, in_flight));
        }
        let rates = history.rates(received);
        assert_eq!((rates.len(), rates[0], rates[179]), (STEPS, 10.0, 20.0));
        let levels = history.values(|reading| reading.sources[0].in_flight);
        assert_eq!((levels.len(), levels[0], levels[179]), (STEPS, 820, 999));
    }

    #[test]
    fn parts_that_stay_keep_their_history() {
        let (mut history, start) = (History::default(), Instant::now());
        let delivery = [0; Latency::BUCKETS];
        let of = |received| OfSource { received, in_flight: 0, delivery };
        for (at, received) in [(start, 0), (start + STEP, 50)] {
            let (routes, apis) = (Vec::new(), vec![received]);
            let sources = vec![of(received), of(received * 2)];
            history.note(Reading { at, sources, routes, apis, dead_letters: 0 });
        }
        let sources = vec![Some(1), None];
        history.reorder(&Places { sources, routes: vec![None], apis: Vec::new() });
        let rates = |at: usize| history.rates(|reading| reading.sources[at].received);
        assert_eq!((rates(0), rates(1)), (vec![20.0], vec![0.0]));
        assert_eq!(history.values(|reading| reading.routes[0].matched), [0]);
    }

    #[test]
    fn a_suspended_machine_makes_no_spike() {
        let (mut history, start) = (History::default(), Instant::now());
        history.note(reading(start, 0, 0));
        history.note(reading(start + Duration::from_secs(1_000), 1_000, 0));
        assert_eq!(history.rates(received), [1.0]);
    }
}
