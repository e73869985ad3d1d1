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
    /// Whether messages are to come over this connection, …
    more: bool,
    /// … and since when they are asked for.
    since: Option<Instant>,
    /// The connection ended without a reason, and whether soon.
    ended: Option<bool>,
    /// Ends in a row.
    times: u32,
    said: Repeats,
}

impl Cuts {
    /// None yet. What was delivered and not acknowledged comes again after `ack_wait`.
    pub(super) fn new(ack_wait: Duration) -> Self {
        let within = SOON + ack_wait * 5 / 4;
        let said = Repeats::default();
        Self { within, floor: 0, more: false, since: None, ended: None, times: 0, said }
    }

    /// The consumer is bound; everything up to `floor` is acknowledged, and `more` is to come.
    pub(super) fn bound(&mut self, floor: u64, more: bool) {
        if floor != self.floor || !more {
            (self.floor, self.times) = (floor, 0);
        }
        (self.more, self.since) = (more, None);
    }

    /// Messages are asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        if self.more {
            self.since.get_or_insert(now);
        }
    }

    /// An end of the connection has another reason: the server says one, leaves, or is not there at once again.
    pub(super) fn explained(&mut self) {
        (self.since, self.ended) = (None, None);
    }

    /// The connection has ended.
    pub(super) fn lost(&mut self, now: Instant) {
        self.ended = self.since.take().map(|since| now.duration_since(since) <= self.within);
    }

    /// There is another connection. `Some` if it is to be said why: how often since it was said last.
    pub(super) fn connected(&mut self, now: Instant) -> Option<u64> {
        self.times = if self.ended.take()? { self.times.saturating_add(1) } else { 0 };
        if self.times < LEAST { None } else { self.said.again(SAY_EVERY, now) }
    }

    /// What is wrong, if it seems to be.
    pub(super) fn why(&self, now: Instant) -> Option<String> {
        let holds = self.since.is_some_and(|since| now.duration_since(since) > self.within);
        (self.times >= LEAST && !holds).then(|| {
            format!(
                "the connection ended {} times in a row when the message behind the sequence {} was to come, and the server \
                 was there at once: its headers may not be readable (names are ASCII without blanks). Look at it, and if so \
                 remove it from the stream",
                self.times,
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
        cuts.bound(7, true);
        cuts.asked(*now);
        *now += held;
        cuts.lost(*now);
        (cuts.connected(*now), cuts.why(*now).is_some())
    }

    #[test]
    fn from_the_third_end_on_without_an_acknowledgement_it_is_said_once_an_interval() {
        let (mut cuts, mut now) = (Cuts::new(ACK_WAIT), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(cut(&mut cuts, &mut now, second), (None, false));
        cuts.lost(now);
        assert_eq!(cuts.connected(now), None, "it is one end");
        assert_eq!(cut(&mut cuts, &mut now, second), (None, false));
        assert_eq!(cut(&mut cuts, &mut now, second), (Some(1), true));
        assert!(cuts.why(now).unwrap().contains("behind the sequence 7 was to come"));
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
        cuts.bound(8, true);
        assert_eq!(cuts.why(now), None);
        ends(&mut cuts, &mut now);
        cuts.bound(7, true);
        cuts.asked(now);
        assert!(cuts.why(now).is_some());
        now += SOON + ACK_WAIT * 2;
        assert_eq!(cuts.why(now), None, "it holds");
        cuts.lost(now);
        assert_eq!((cuts.connected(now), cuts.why(now)), (None, None));
        ends(&mut cuts, &mut now);
        cuts.bound(7, false);
        cuts.asked(now);
        cuts.lost(now);
        assert_eq!((cuts.connected(now), cuts.why(now)), (None, None));
    }

    /// A server that restarts, that says why, or that nothing was asked of.
    #[test]
    fn an_end_with_a_reason_or_without_a_request_is_none_of_a_message() {
        let now = Instant::now();
        for end in 0..3 {
            let mut cuts = Cuts::new(ACK_WAIT);
            for _ in 0..5 {
                cuts.bound(7, true);
                if end != 0 {
                    cuts.asked(now);
                }
                if end == 1 {
                    cuts.explained();
                }
                cuts.lost(now);
                if end == 2 {
                    cuts.explained();
                }
                assert_eq!((cuts.connected(now), cuts.why(now)), (None, None), "{end}");
            }
        }
    }
}
