//! What a receiver asks for next, after what became of its last receive. Pure.
//!
//! SQS may have handed messages out in an answer that was lost. Of a FIFO queue it then keeps their groups from everybody
//! for the whole visibility timeout; asked again with the id of that receive, it gives the same messages again (API
//! reference, `ReceiveRequestAttemptId`). So what was not answered is asked again as it was; first without a wait, so that it
//! is known at once whether the queue answers. If that brings nothing, it is asked once more, with the wait: the receive
//! whose answer was lost may still wait there, and take what comes.
//!
//! SQS refuses a repeat where a message of it was deleted, or its visibility changed: "The receiveRequestAttemptId is not valid
//! anymore since the receive call is not retryable". Nothing is wrong then, and the next one is a new receive.
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
    /// An attempt is repeated for so long: after that its messages are anybody's.
    known: Duration,
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
    /// So long did it wait when it was asked first.
    first_wait: Duration,
    is_repeat: bool,
    since: Instant,
    silences: u32,
}

impl Asking {
    /// Of a queue that is `ordered`, a FIFO queue, with receives that `wait` so long, for messages that are ours for
    /// `visibility`.
    pub(super) fn new(ordered: bool, wait: Duration, visibility: Duration) -> Self {
        let known = KNOWN.min(wait + visibility);
        Self { ordered, wait, known, most: BATCH, at_once: true, open: None }
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
            && now.duration_since(open.since) < self.known
        {
            return open;
        }
        let id = self.ordered.then(|| format!("{:032x}", rand::random::<u128>()));
        let wait = if self.at_once { Duration::ZERO } else { self.wait };
        let (most, first_wait) = (room.min(self.most), wait);
        Attempt { id, most, wait, first_wait, is_repeat: false, since: now, silences: 0 }
    }

    /// An answer came, with so many messages. Whether the same is asked for again.
    pub(super) fn answered(&mut self, attempt: Attempt, messages: usize) -> bool {
        self.at_once = false;
        let again = messages == 0 && attempt.wait < attempt.first_wait;
        self.open = again.then_some(Attempt { wait: attempt.first_wait, ..attempt });
        if messages > 0 {
            // One by one, lest every other answer be too large.
            self.most = (self.most + 1).min(BATCH);
        }
        again
    }

    /// None came, for a trouble of this kind. Whether the same is asked for again.
    pub(super) fn failed(&mut self, mut attempt: Attempt, kind: Kind) -> bool {
        self.at_once = true;
        attempt.silences += u32::from(kind == Kind::Silent);
        let is_too_slow = kind == Kind::Silent && (!self.ordered || attempt.silences >= SILENCES);
        if is_too_slow {
            self.most = (attempt.most / 2).max(1);
        }
        // What is denied, or asked for without good credentials, was not looked at.
        let again = self.ordered && !is_too_slow && kind != Kind::Refused;
        let repeat = || Attempt { wait: Duration::ZERO, is_repeat: true, ..attempt };
        self.open = again.then(repeat);
        again
    }
}

impl Attempt {
    /// Whether this trouble is that SQS does not take the repeat any more: a new receive may well work.
    pub(super) fn is_outdated(&self, kind: Kind) -> bool {
        self.is_repeat && kind == Kind::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);
    const VISIBILITY: Duration = Duration::from_mins(10);

    #[test]
    fn what_was_not_answered_is_asked_again_as_long_as_sqs_knows_it() {
        let (mut asking, start) = (Asking::new(true, WAIT, VISIBILITY), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let first = asking.next(7, at(0));
        assert_eq!((first.most, first.wait), (7, Duration::ZERO), "it tells at once");
        assert!(!asking.answered(first.clone(), 0));
        let second = asking.next(8, at(1));
        assert_eq!((second.most, second.wait), (8, WAIT));
        assert!(first.id.is_some() && first.id != second.id);
        let mut attempt = second.clone();
        for kind in [Kind::Unreachable, Kind::Service, Kind::Throttled, Kind::Denied] {
            assert!(asking.failed(attempt, kind));
            attempt = asking.next(10, at(300));
            assert_eq!((&attempt.id, attempt.most, attempt.wait), (&second.id, 8, Duration::ZERO));
        }
        assert!(asking.answered(attempt, 0), "it may still be waited for there");
        attempt = asking.next(10, at(300));
        assert_eq!((&attempt.id, attempt.wait), (&second.id, WAIT));
        assert!(!asking.answered(attempt.clone(), 0));
        assert!(asking.failed(attempt, Kind::Unreachable));
        let later = asking.next(10, at(301));
        assert!(later.id != second.id && !later.is_repeat, "{later:?}");
        assert!(!later.is_outdated(Kind::Refused), "something is wrong");
        assert!(!asking.failed(later, Kind::Refused));
    }

    #[test]
    fn a_repeat_that_sqs_does_not_take_is_followed_by_a_new_receive() {
        let (mut asking, now) = (Asking::new(true, WAIT, VISIBILITY), Instant::now());
        let first = asking.next(10, now);
        assert!(asking.failed(first.clone(), Kind::Unreachable));
        let repeat = asking.next(10, now);
        assert!(repeat.is_outdated(Kind::Refused) && !repeat.is_outdated(Kind::Denied));
        assert!(!asking.failed(repeat, Kind::Refused));
        let fresh = asking.next(10, now);
        assert!(fresh.id != first.id && fresh.wait.is_zero() && !fresh.is_repeat);
    }

    #[test]
    fn nothing_is_repeated_whose_messages_are_anybodys() {
        let visibility = Duration::from_secs(30);
        let (mut asking, now) = (Asking::new(true, WAIT, visibility), Instant::now());
        let first = asking.next(10, now);
        for (s, same) in [(49, true), (50, false)] {
            assert!(asking.failed(first.clone(), Kind::Unreachable));
            assert_eq!(asking.next(10, now + Duration::from_secs(s)).id == first.id, same);
        }
    }

    #[test]
    fn an_answer_that_takes_too_long_is_asked_for_with_less_in_it() {
        let now = Instant::now();
        for ordered in [false, true] {
            let mut asking = Asking::new(ordered, WAIT, VISIBILITY);
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
                let attempt = asking.next(10, now);
                assert_eq!(attempt.most, most);
                asking.answered(attempt.clone(), 0);
                assert_eq!(asking.most(), most, "it says nothing of the line");
                asking.answered(attempt, 1);
            }
            for _ in 0..20 {
                let attempt = asking.next(10, now);
                asking.answered(attempt, 10);
            }
            assert_eq!(asking.most(), BATCH);
        }
    }

    #[test]
    fn a_standard_queue_is_asked_anew() {
        let mut asking = Asking::new(false, WAIT, VISIBILITY);
        let attempt = asking.next(10, Instant::now());
        assert_eq!(attempt.id, None);
        assert!(!asking.failed(attempt, Kind::Unreachable));
        assert_eq!(asking.most(), 10);
    }
}
