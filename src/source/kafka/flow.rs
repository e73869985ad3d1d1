//! When to fetch and when not: the in-flight limit and the intake gate, with hysteresis. Pure.
//!
//! Pausing a partition throws away its prefetched messages, so a source that is only slower than its
//! broker must not pause: it waits a little, looks again, and goes on when there is room. It does not poll for
//! 0.3 seconds at most, far below any timeout of a group. After that every partition is paused
//! and the queue is polled again, because rebalances and errors come through it.

use std::time::{Duration, Instant};

/// The longest time without a poll.
const STALL: Duration = Duration::from_millis(250);

/// Without room, the first wait before the next look at the settlements, and its bounds. To look too often
/// wakes the poller, and the publisher with it, for a few messages each.
const STEP: Duration = Duration::from_millis(2);
const SHORTEST_STEP: Duration = Duration::from_millis(1);
const LONGEST_STEP: Duration = Duration::from_millis(40);

/// The shares of the room that one wait should free: few enough to keep the publisher busy meanwhile.
const LITTLE: f64 = 1.0 / 16.0;
const MUCH: f64 = 1.0 / 8.0;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Take messages.
    Take,
    /// Wait for room; poll nothing.
    Stall,
    /// Pause every partition.
    Pause,
    /// They are paused: poll for rebalances and errors.
    Serve,
    /// Resume every partition.
    Resume,
}

/// The state of a source's intake.
#[derive(Debug)]
pub(super) struct Pressure {
    full_since: Option<Instant>,
    paused: bool,
    step: Duration,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { full_since: None, paused: false, step: STEP }
    }
}

impl Pressure {
    /// `full`: the next message does not fit, or no API would take it. `half_free`: half of the room is free, or needs not be.
    pub(super) fn next(&mut self, full: bool, half_free: bool, now: Instant) -> Next {
        if self.paused {
            if !half_free || full {
                return Next::Serve;
            }
            *self = Self::default();
            return Next::Resume;
        }
        if !full {
            self.full_since = None;
            return Next::Take;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.duration_since(since) < STALL {
            return Next::Stall;
        }
        self.paused = true;
        Next::Pause
    }

    /// How long to wait for room.
    pub(super) fn step(&self) -> Duration {
        self.step
    }

    /// One wait freed this share of the room: the next is longer or shorter for it.
    pub(super) fn stalled(&mut self, freed: f64) {
        let step = match freed {
            ..LITTLE => self.step * 2,
            MUCH.. => self.step / 2,
            _ => self.step,
        };
        self.step = step.clamp(SHORTEST_STEP, LONGEST_STEP);
    }

    /// Whether partitions are paused for lack of room, or because no API takes events.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Everything was resumed for another reason.
    pub(super) fn resumed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_want_of_room_pauses_nothing_and_a_long_one_pauses_once() {
        let (mut pressure, start) = (Pressure::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pressure.next(false, true, at(0)), Next::Take);
        assert_eq!(pressure.next(true, false, at(1)), Next::Stall);
        assert_eq!(pressure.next(true, false, at(200)), Next::Stall);
        assert_eq!(pressure.next(false, false, at(201)), Next::Take);
        assert_eq!(pressure.next(true, false, at(300)), Next::Stall);
        assert_eq!(pressure.next(true, false, at(550)), Next::Pause);
        assert_eq!(pressure.next(true, false, at(551)), Next::Serve);
        assert_eq!(pressure.next(false, false, at(552)), Next::Serve, "half has to be free");
        assert_eq!(pressure.next(false, true, at(553)), Next::Resume);
        assert_eq!(pressure.next(false, true, at(554)), Next::Take);
    }

    #[test]
    fn a_wait_is_as_long_as_a_part_of_the_room_takes() {
        for (per_ms, expected) in [(0.000_1, 40), (0.01, 8), (0.03, 4), (0.5, 1)] {
            let mut pressure = Pressure::default();
            for _ in 0..10 {
                pressure.stalled(pressure.step().as_secs_f64() * 1_000.0 * per_ms);
            }
            assert_eq!(pressure.step().as_millis(), expected, "{per_ms}");
        }
    }

    #[test]
    fn a_rebalance_begins_anew() {
        let (mut pressure, start) = (Pressure::default(), Instant::now());
        assert_eq!(pressure.next(true, false, start), Next::Stall);
        assert_eq!(pressure.next(true, false, start + STALL), Next::Pause);
        pressure.resumed();
        assert_eq!(pressure.next(true, false, start + STALL), Next::Stall);
    }
}
