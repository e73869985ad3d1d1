//! Connections that end again and again before anything more is acknowledged. The client ends one when a message comes
//! whose headers it can't read, and says nothing of it; over the next one that message is the first to come. Pure.

use std::time::{Duration, Instant};

use crate::repeats::Repeats;

/// A message that is to come at once does within this.
const SOON: Duration = Duration::from_secs(5);

/// So many ends in a row are no accident.
const LEAST: u32 = 3;

/// It is said so often.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// The ends of the connections of one consumer.
pub(super) struct Cuts {
    /// A connection that held for longer was a good one.
    within: Duration,
    /// Everything up to here is acknowledged.
    floor: u64,
    /// Since when the consumer is bound over this connection, with messages to come.
    since: Option<Instant>,
    /// Ends in a row.
    times: u32,
    said: Repeats,
}

impl Cuts {
    /// None yet. What was delivered and not acknowledged comes again after `ack_wait`.
    pub(super) fn new(ack_wait: Duration) -> Self {
        let within = SOON + ack_wait * 5 / 4;
        Self { within, floor: 0, since: None, times: 0, said: Repeats::default() }
    }

    /// The consumer is bound; everything up to `floor` is acknowledged, and `more` is to come.
    pub(super) fn bound(&mut self, floor: u64, more: bool, now: Instant) {
        if floor != self.floor || !more {
            (self.floor, self.times) = (floor, 0);
        }
        self.since = more.then_some(now);
    }

    /// The connection has ended. `Some` if that is to be said: how often since it was said last.
    pub(super) fn lost(&mut self, now: Instant) -> Option<u64> {
        let since = self.since.take()?;
        let soon = now.duration_since(since) <= self.within;
        self.times = if soon { self.times.saturating_add(1) } else { 0 };
        if self.times < LEAST { None } else { self.said.again(SAY_EVERY, now) }
    }

    /// What is wrong, if it seems to be.
    pub(super) fn why(&self, now: Instant) -> Option<String> {
        let holds = self.since.is_some_and(|since| now.duration_since(since) > self.within);
        (self.times >= LEAST && !holds).then(|| {
            format!(
                "the connection ends whenever the message behind the sequence {} comes; its headers may not be readable \
                 (names are ASCII without blanks): look at it, and remove it from the stream",
                self.floor
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(4);

    /// Bound behind 7, with more to come, and lost after so long; what is said, and what is wrong.
    fn cut(cuts: &mut Cuts, now: &mut Instant, held: Duration) -> (Option<u64>, bool) {
        cuts.bound(7, true, *now);
        *now += held;
        (cuts.lost(*now), cuts.why(*now).is_some())
    }

    #[test]
    fn from_the_third_end_on_without_an_acknowledgement_it_is_said_once_an_interval() {
        let (mut cuts, mut now) = (Cuts::new(ACK_WAIT), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(cut(&mut cuts, &mut now, second), (None, false));
        assert_eq!(cuts.lost(now), None, "it is one end");
        assert_eq!(cut(&mut cuts, &mut now, second), (None, false));
        assert_eq!(cut(&mut cuts, &mut now, second), (Some(1), true));
        assert!(cuts.why(now).unwrap().contains("behind the sequence 7 comes"));
        assert_eq!(cut(&mut cuts, &mut now, second), (None, true));
        now += SAY_EVERY;
        assert_eq!(cut(&mut cuts, &mut now, second), (Some(2), true));
        // It comes again only when its `ack_wait` is over.
        assert_eq!(cut(&mut cuts, &mut now, ACK_WAIT + second), (None, true));
    }

    #[test]
    fn it_is_over_when_something_was_acknowledged_or_a_connection_holds_or_nothing_is_to_come() {
        let ends = |cuts: &mut Cuts, now: &mut Instant| {
            for _ in 0..3 {
                cut(cuts, now, SOON);
            }
            assert!(cuts.why(*now).is_some());
        };
        let (mut cuts, mut now) = (Cuts::new(ACK_WAIT), Instant::now());
        ends(&mut cuts, &mut now);
        cuts.bound(8, true, now);
        assert_eq!(cuts.why(now), None);
        ends(&mut cuts, &mut now);
        cuts.bound(7, true, now);
        assert!(cuts.why(now).is_some());
        now += SOON + ACK_WAIT * 2;
        assert_eq!(cuts.why(now), None, "it holds");
        assert_eq!((cuts.lost(now), cuts.why(now)), (None, None));
        ends(&mut cuts, &mut now);
        cuts.bound(7, false, now);
        assert_eq!((cuts.lost(now), cuts.why(now)), (None, None));
    }
}
