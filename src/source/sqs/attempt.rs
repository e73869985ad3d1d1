//! What a receiver asks for next, after what became of its last receive. Pure.
//!
//! SQS may have handed messages out in an answer that was lost. Of a FIFO queue it then keeps their groups from everybody
//! for the whole visibility timeout; asked again with the id of that receive, it gives the same messages again (API
//! reference, `ReceiveRequestAttemptId`). So what was not answered is asked again as it was, wait and all.
//!
//! An answer that takes too long may be too large for the line: the next receive asks for half as many. Of a FIFO queue it
//! does so only when the repeat has taken too long as well. A repeat comes first, since most answers are lost for
//! another reason, and one that asked for less would be another receive; but no more than once, since what never fits would
//! be asked for again and again, and nothing else with it.

use std::time::{Duration, Instant};

use crate::aws::sqs::{BATCH, Kind};

/// SQS knows the id of a receive for so long.
const KNOWN: Duration = Duration::from_mins(5);

/// So many answers of a receive may take too long.
const SILENCES: u32 = 2;

/// What one receiver asks for.
#[derive(Debug)]
pub(super) struct Asking {
    ordered: bool,
    wait: Duration,
    most: usize,
    /// The next answer is to tell at once whether the queue answers.
    at_once: bool,
    /// The receive that may have been done, and is to be asked again.
    open: Option<Attempt>,
}

/// One receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// What SQS knows a repeat of it by, of a FIFO queue.
    pub(super) id: Option<String>,
    /// So many messages.
    pub(super) most: usize,
    /// It waits so long for the first.
    pub(super) wait: Duration,
    since: Instant,
    silences: u32,
}

impl Asking {
    /// Of a queue that is `ordered`, a FIFO queue, with receives that `wait` so long.
    pub(super) fn new(ordered: bool, wait: Duration) -> Self {
        Self { ordered, wait, most: BATCH, at_once: true, open: None }
    }

    /// For how many messages there should be room.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether the next one is a repeat.
    pub(super) fn repeats(&self) -> bool {
        self.open.is_some()
    }

    /// What to ask for, if there is room for so many. Of a repeat the room is that of the first time.
    pub(super) fn next(&mut self, room: usize, now: Instant) -> Attempt {
        if let Some(open) = self.open.take()
            && now.duration_since(open.since) < KNOWN
        {
            return open;
        }
        let id = self.ordered.then(|| format!("{:032x}", rand::random::<u128>()));
        let wait = if self.at_once { Duration::ZERO } else { self.wait };
        Attempt { id, most: room.min(self.most), wait, since: now, silences: 0 }
    }

    /// An answer came, with so many messages.
    pub(super) fn answered(&mut self, messages: usize) {
        self.at_once = false;
        if messages > 0 {
            // One by one, lest every other answer be too large.
            self.most = (self.most + 1).min(BATCH);
        }
    }

    /// None came, for a trouble of this kind. Whether the same is asked for again.
    pub(super) fn failed(&mut self, mut attempt: Attempt, kind: Kind) -> bool {
        self.at_once = true;
        attempt.silences += u32::from(kind == Kind::Silent);
        let is_too_slow = kind == Kind::Silent && (!self.ordered || attempt.silences >= SILENCES);
        if is_too_slow {
            self.most = (attempt.most / 2).max(1);
        }
        // What SQS refuses it has not done; neither does that undo what may have been done before.
        let again = self.ordered && !is_too_slow && !kind.needs_somebody();
        self.open = again.then_some(attempt);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    #[test]
    fn what_was_not_answered_is_asked_again_as_it_was_as_long_as_sqs_knows_it() {
        let (mut asking, start) = (Asking::new(true, WAIT), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let first = asking.next(7, at(0));
        assert_eq!((first.most, first.wait), (7, Duration::ZERO), "it tells at once");
        asking.answered(0);
        let second = asking.next(8, at(1));
        assert_eq!((second.most, second.wait), (8, WAIT));
        assert!(first.id.is_some() && first.id != second.id);
        for (s, kind) in [(2, Kind::Unreachable), (3, Kind::Service), (4, Kind::Throttled)] {
            let attempt = asking.next(10, at(s));
            let attempt = if s == 2 { second.clone() } else { attempt };
            assert!(asking.failed(attempt, kind));
        }
        assert_eq!(asking.next(10, at(300)), second);
        assert!(asking.failed(second.clone(), Kind::Unreachable));
        let later = asking.next(10, at(301));
        assert!(later.id != second.id && later.wait.is_zero(), "{later:?}");
        assert!(!asking.failed(later, Kind::Refused), "SQS does not want it");
    }

    #[test]
    fn an_answer_that_takes_too_long_is_asked_for_with_less_in_it() {
        let now = Instant::now();
        for ordered in [false, true] {
            let mut asking = Asking::new(ordered, WAIT);
            for most in [10, 5, 2, 1, 1] {
                let mut attempt = asking.next(asking.most(), now);
                assert_eq!(attempt.most, most);
                if ordered {
                    assert!(asking.failed(attempt.clone(), Kind::Silent), "once");
                    let again = asking.next(asking.most(), now);
                    assert_eq!((&again.id, again.most), (&attempt.id, most));
                    attempt = again;
                }
                assert!(!asking.failed(attempt, Kind::Silent));
            }
            for most in [1, 2, 3, 4] {
                assert_eq!(asking.next(10, now).most, most);
                asking.answered(0);
                assert_eq!(asking.most(), most, "it says nothing of the line");
                asking.answered(1);
            }
            (0..20).for_each(|_| asking.answered(10));
            assert_eq!(asking.most(), BATCH);
        }
    }

    #[test]
    fn a_standard_queue_is_asked_anew() {
        let mut asking = Asking::new(false, WAIT);
        let attempt = asking.next(10, Instant::now());
        assert_eq!(attempt.id, None);
        assert!(!asking.failed(attempt, Kind::Unreachable));
        assert_eq!(asking.most(), 10);
    }
}
