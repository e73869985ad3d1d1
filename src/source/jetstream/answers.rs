//! What the server is told of messages that have ended: that they are done, many at a time, or that they are given back.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::flight::Place;
use super::outbox::{ACKNOWLEDGE, GIVE_BACK, give_back_after};
use super::taker::Taker;
use crate::delivery::Outcome;

/// Acknowledgements in one go.
const ACKNOWLEDGED: usize = 512;

/// Fewer than so many wait for others, …
const GATHERED: usize = 256;

/// … for so long at most: each time that something is written the server wakes, on a core that others need.
const GATHER: Duration = Duration::from_millis(2);

/// A message that was given back comes again after up to this, and twice as long each time, …
const GIVEN_BACK: Duration = Duration::from_millis(100);

/// … and no later than this.
const GIVEN_BACK_CAP: Duration = Duration::from_secs(30);

/// When settled messages are acknowledged.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Then, however few there are.
    until: Option<Instant>,
}

impl Gathering {
    /// Whether those that wait are to be acknowledged now; else the rest of them is waited for.
    fn is_enough(&mut self, waiting: usize, now: Instant) -> bool {
        let until = *self.until.get_or_insert(now + GATHER);
        let enough = waiting >= GATHERED || now >= until;
        if enough {
            self.rest();
        }
        enough
    }

    /// Nothing waits, or nothing can be told now.
    pub(super) fn rest(&mut self) {
        self.until = None;
    }

    /// Waits until enough time has gone.
    pub(super) async fn is_over(&self) {
        match self.until {
            Some(until) => sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl Taker {
    /// Acknowledges what is settled, many at a time: what the connection does not take yet stays in flight.
    pub(super) fn acknowledge(&mut self, now: Instant) {
        let waiting = self.flight.settled();
        if waiting == 0 || !self.outbox.is_empty() {
            self.gathering.rest();
            return;
        }
        // A drain waits for nothing.
        if !self.gathering.is_enough(waiting, now) && self.intake.is_some() {
            return;
        }
        let settled = self.flight.acknowledgeable(ACKNOWLEDGED);
        if settled.len() == ACKNOWLEDGED {
            self.changed.notify_one();
        }
        for settled in settled {
            match settled.outcome {
                Outcome::Accepted(_) => {
                    self.acknowledged = true;
                    self.outbox.put(settled.reply, ACKNOWLEDGE);
                }
                // Nobody rejects here: `dead_letter = "source"` is refused.
                Outcome::Rejected | Outcome::Released => {
                    self.outbox.put(settled.reply, give_back_after(GIVEN_BACK_CAP));
                }
            }
        }
    }

    /// Gives back what was not done; on a drain when nothing more can come, or it would come at once.
    pub(super) fn give_back(&mut self) {
        if self.intake.is_some() {
            for reply in self.flight.released() {
                let before =
                    Place::read(&reply).map_or(0, |place| place.delivered.saturating_sub(1));
                let factor =
                    1_u32.checked_shl(u32::try_from(before).unwrap_or(32)).unwrap_or(u32::MAX);
                let delay = GIVEN_BACK.saturating_mul(factor).min(GIVEN_BACK_CAP);
                self.outbox.put(reply, give_back_after(delay));
            }
        } else if self.pulling.is_none() {
            for reply in self.flight.released().into_iter().chain(self.returned.drain(..)) {
                self.outbox.put(reply, GIVE_BACK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_wait_for_a_moment_and_many_do_not() {
        let (mut gathering, start) = (Gathering::default(), Instant::now());
        assert!(!gathering.is_enough(1, start) && !gathering.is_enough(2, start + GATHER / 2));
        assert!(gathering.is_enough(2, start + GATHER));
        let later = start + GATHER * 5;
        assert!(!gathering.is_enough(1, later), "those behind it wait anew");
        assert!(gathering.is_enough(GATHERED, later) && gathering.until.is_none());
    }
}
