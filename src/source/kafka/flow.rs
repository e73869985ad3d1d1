//! When to fetch and when not: the in-flight limit and the intake gate, with hysteresis. Pure.
//!
//! Pausing a partition throws away its prefetched messages, so a source that is only slower than its
//! broker must not pause: it waits a little, and goes on at the next settlement. It does not poll for a
//! quarter of a second at most, far below any timeout of a group. After that every partition is paused
//! and the queue is polled again, because rebalances and errors come through it.

use std::time::{Duration, Instant};

/// The longest time without a poll.
const STALL: Duration = Duration::from_millis(250);

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
#[derive(Debug, Default)]
pub(super) struct Pressure {
    full_since: Option<Instant>,
    paused: bool,
}

impl Pressure {
    /// `full`: the next message does not fit, or no API would take it. `half_free`: half of the room is free.
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
    fn a_rebalance_begins_anew() {
        let (mut pressure, start) = (Pressure::default(), Instant::now());
        assert_eq!(pressure.next(true, false, start), Next::Stall);
        assert_eq!(pressure.next(true, false, start + STALL), Next::Pause);
        pressure.resumed();
        assert_eq!(pressure.next(true, false, start + STALL), Next::Stall);
    }
}
