//! When to read: at once, or a little later and more. Pure.
//!
//! A broker writes message by message, and a client that is quicker is woken for each: at tens of thousands a second
//! that is half of what a message costs here. So when reads follow each other closely, what comes gathers in the
//! socket for a moment before each, as network cards do with interrupts; at a thousand a second nothing waits.

use std::time::{Duration, Instant};

/// Reads follow each other closely when there are so many…
const MANY: u32 = 8;

/// …within this long.
const WITHIN: Duration = Duration::from_millis(1);

/// What comes gathers for so long. The timer of the runtime has no finer grain, and may take twice as long.
const GATHER: Duration = Duration::from_millis(1);

/// It goes on as long as a read brings so many times what one brought at first.
const WORTH: usize = 4;

/// …and the next one comes within this long.
const OVER: Duration = Duration::from_millis(8);

/// The reads of a connection.
#[derive(Debug)]
pub(super) struct Coalescing {
    since: Instant,
    /// The last one.
    last: Instant,
    reads: u32,
    bytes: usize,
    /// While it is worth it: what a read has to bring.
    least: Option<usize>,
}

impl Coalescing {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, last: now, reads: 0, bytes: 0, least: None }
    }

    /// A read brought so many `bytes`, all there was for it. Gives how long the next one waits.
    pub(super) fn after(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let seldom = now.duration_since(self.last) > OVER;
        self.last = now;
        if let Some(least) = self.least {
            if bytes >= least && !seldom {
                return Some(GATHER);
            }
            *self = Self::new(now);
            return None;
        }
        if now.duration_since(self.since) > WITHIN {
            *self = Self::new(now);
        }
        self.reads += 1;
        self.bytes += bytes;
        if self.reads < MANY {
            return None;
        }
        self.least = Some(self.bytes / MANY as usize * WORTH);
        Some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits after reads of so many bytes, each so many µs after the one before.
    fn waits(reads: &[(usize, u64)]) -> Vec<bool> {
        let mut now = Instant::now();
        let mut coalescing = Coalescing::new(now);
        let wait = |&(bytes, after): &(usize, u64)| {
            now += Duration::from_micros(after);
            coalescing.after(bytes, now).is_some()
        };
        reads.iter().map(wait).collect()
    }

    #[test]
    fn what_comes_seldom_is_read_at_once() {
        assert_eq!(waits(&[(300, 250); 1_000]), [false; 1_000]);
    }

    #[test]
    fn a_burst_of_small_ones_does_not_hold_up_what_comes_seldom() {
        let waits = waits(&[&[(5, 20); 8][..], &[(300, 10_000); 20]].concat());
        assert_eq!(waits, [&[false; 7][..], &[true], &[false; 20]].concat());
    }

    #[test]
    fn what_comes_often_gathers_as_long_as_that_is_worth_it() {
        let (often, gathered, last) = ([(300, 20); 8], [(30_000, 2_000); 50], [(600, 2_000)]);
        let waits = waits(&[&often[..], &gathered, &last, &often[..7]].concat());
        let expected = [&[false; 7][..], &[true; 51], &[false; 8]].concat();
        assert_eq!(waits, expected);
    }
}
