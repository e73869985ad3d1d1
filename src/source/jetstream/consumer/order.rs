//! Order after a crash, or after a connection that was lost. Pure.
//!
//! What was delivered and not acknowledged waits out its `ack_wait` at the server, which hands out newer
//! messages meanwhile, of the same subject too. If nobody else takes from the consumer, these are a former
//! process's or were lost on the way. A server of 2.14 or newer can *reset* the consumer: it begins again
//! behind what was acknowledged without a gap. An older one can't, or its permissions forbid it: then all that
//! comes is *held* until what is outstanding has come, and goes on by its sequence. A message that is outstanding
//! comes within an `ack_wait`, as there is nobody to ask for more time; it may never come, if it was removed from
//! the stream. Replicas that share the consumer can't tell their own outstanding messages from one another's, so
//! nothing is done with `consumers = "many"`.
//!
//! A consumer of the last message of each subject is never reset: the server would go on in its list of those behind
//! what was delivered, so that the outstanding ones never come, or behind the list with every message that a newer
//! one has replaced (nats-server 2.15, `resetStartingSeqLocked`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::nats::{Consumers, Deliver};

/// What keeps the order when a consumer is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::jetstream) enum Order {
    /// Nothing has to.
    AsItComes,
    /// The consumer begins again behind what was acknowledged.
    Reset,
    /// Everything waits until those that are outstanding have come.
    Hold,
}

/// Messages that wait for older ones.
#[derive(Debug)]
pub(in crate::source::jetstream) struct Hold<T> {
    /// So many of those up to `delivered` have not come.
    outstanding: usize,
    /// The newest that was delivered before.
    delivered: u64,
    /// They should have come by now, …
    due: Instant,
    /// … and are not waited for any longer, …
    until: Instant,
    /// … which is so much later, or after whatever kept them away.
    slack: Duration,
    held: BTreeMap<u64, T>,
}

/// What a hold lets go.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::source::jetstream) struct Passed<T> {
    /// In the order of the stream.
    pub(in crate::source::jetstream) messages: Vec<T>,
    /// So many did not come in time.
    pub(in crate::source::jetstream) missing: usize,
}

impl Order {
    /// What to do where `outstanding` messages were delivered that this process does not have.
    pub(in crate::source::jetstream) fn of(
        (consumers, deliver): (Consumers, Deliver),
        outstanding: usize,
        server_resets: bool,
    ) -> Self {
        let can_reset = server_resets && deliver != Deliver::LastPerSubject;
        match consumers {
            Consumers::Many => Self::AsItComes,
            Consumers::One if outstanding == 0 => Self::AsItComes,
            Consumers::One if can_reset => Self::Reset,
            Consumers::One => Self::Hold,
        }
    }
}

impl<T> Hold<T> {
    /// Waits for `outstanding` messages up to `delivered`.
    pub(in crate::source::jetstream) fn new(
        outstanding: usize,
        delivered: u64,
        ack_wait: Duration,
        now: Instant,
    ) -> Self {
        // The server looks for what has expired from time to time, and then it has to be fetched.
        let (due, slack) = (now + ack_wait, (ack_wait / 4).max(Duration::from_secs(1)));
        let held = BTreeMap::new();
        Self { outstanding, delivered, due, until: due + slack, slack, held }
    }

    /// A message came that is not known yet.
    pub(in crate::source::jetstream) fn take(&mut self, sequence: u64, message: T) {
        self.known(sequence);
        self.held.insert(sequence, message);
    }

    /// A message came that was done long ago: only its acknowledgement was lost.
    pub(in crate::source::jetstream) fn known(&mut self, sequence: u64) {
        if sequence <= self.delivered {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
    }

    /// How many messages of a room for `free`, of which `fit` by their bytes, may be asked for: until the outstanding
    /// ones are due, newer ones must not take all of their room. Then they are the first to come; and before, where the
    /// server was given them back. So with room for no more than them, one is asked for where the consumer, with at most
    /// `pending` unacknowledged, can deliver nothing newer.
    pub(in crate::source::jetstream) fn most(
        &self,
        free: usize,
        fit: usize,
        pending: i64,
        now: Instant,
    ) -> usize {
        if now >= self.due {
            return free;
        }
        let most = free.min(fit);
        // What is held is not acknowledged, either.
        let delivered = self.outstanding + self.held.len();
        let none_newer = pending > 0 && usize::try_from(pending).is_ok_and(|it| it <= delivered);
        let one = usize::from(most > 0 && none_newer);
        most.saturating_sub(self.outstanding).max(one)
    }

    /// Nothing can come at `now`: the outstanding ones have some time left when it can again.
    pub(in crate::source::jetstream) fn hindered(&mut self, now: Instant) {
        self.until = self.until.max(now + self.slack);
    }

    /// Whether all have come, or are not waited for any longer.
    pub(in crate::source::jetstream) fn is_over(&self, now: Instant) -> bool {
        self.outstanding == 0 || now >= self.until
    }

    /// With what an earlier one holds.
    pub(in crate::source::jetstream) fn with(mut self, earlier: Self) -> Self {
        self.held.extend(earlier.held);
        self
    }

    /// Lets all go.
    pub(in crate::source::jetstream) fn pass(self) -> Passed<T> {
        Passed { messages: self.held.into_values().collect(), missing: self.outstanding }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    #[test]
    fn only_for_one_consumer_and_with_something_outstanding_is_anything_done() {
        use Consumers::{Many, One};
        use Deliver::{All, LastPerSubject, New};
        for (consumers, deliver, outstanding, server_resets, order) in [
            (One, All, 0, true, Order::AsItComes),
            (One, All, 0, false, Order::AsItComes),
            (One, All, 7, true, Order::Reset),
            (One, All, 7, false, Order::Hold),
            (One, New, 7, true, Order::Reset),
            (One, LastPerSubject, 7, true, Order::Hold),
            (One, LastPerSubject, 0, true, Order::AsItComes),
            (Many, All, 7, true, Order::AsItComes),
            (Many, LastPerSubject, 7, true, Order::AsItComes),
            (Many, All, 7, false, Order::AsItComes),
        ] {
            assert_eq!(Order::of((consumers, deliver), outstanding, server_resets), order);
        }
    }

    #[test]
    fn newer_ones_wait_for_the_outstanding_and_go_in_the_order_of_the_stream() {
        let start = Instant::now();
        let mut hold = Hold::new(3, 10, ACK_WAIT, start);
        for sequence in [11, 12, 9, 10, 13] {
            hold.take(sequence, sequence);
            assert!(!hold.is_over(start));
        }
        hold.take(4, 4);
        assert!(hold.is_over(start));
        assert_eq!(hold.pass(), Passed { messages: vec![4, 9, 10, 11, 12, 13], missing: 0 });
    }

    #[test]
    fn what_is_known_is_not_waited_for() {
        let start = Instant::now();
        let mut hold = Hold::new(2, 10, ACK_WAIT, start);
        hold.take(11, 11);
        hold.known(11);
        hold.known(9);
        assert!(!hold.is_over(start), "one is missing, whatever is newer");
        hold.known(10);
        assert!(hold.is_over(start));
        assert_eq!(hold.pass(), Passed { messages: vec![11], missing: 0 });
    }

    #[test]
    fn what_was_removed_is_not_waited_for_for_ever() {
        let start = Instant::now();
        let mut hold = Hold::new(2, 10, ACK_WAIT, start);
        hold.take(11, 11);
        assert!(!hold.is_over(start + ACK_WAIT));
        assert!(hold.until <= start + ACK_WAIT * 5 / 4);
        assert!(hold.is_over(hold.until));
        assert_eq!(hold.pass(), Passed { messages: vec![11], missing: 2 });
    }

    #[test]
    fn newer_ones_leave_room_for_the_outstanding_until_those_come_first() {
        let start = Instant::now();
        let mut hold = Hold::new(40, 10, ACK_WAIT, start);
        assert_eq!(hold.most(100, 1_000, 100, start), 60);
        assert_eq!(hold.most(100, 50, 100, start), 10);
        assert_eq!(hold.most(40, 1_000, 100, start), 0);
        assert_eq!(hold.most(40, 1_000, -1, start), 0);
        assert_eq!(hold.most(40, 1_000, 40, start), 1, "it can only be one of those");
        assert_eq!(hold.most(0, 1_000, 40, start), 0);
        assert_eq!(hold.most(40, 0, 100, start + ACK_WAIT), 40);
        hold.take(1, ());
        assert_eq!(hold.most(39, 1_000, 40, start), 1, "it is held");
        hold.known(2);
        assert_eq!(
            hold.most(38, 1_000, 40, start),
            0,
            "one is acknowledged, and a newer one can come"
        );
    }

    #[test]
    fn while_nothing_can_come_the_time_is_not_over() {
        let start = Instant::now();
        let mut hold = Hold::new(1, 10, ACK_WAIT, start);
        hold.take(11, 11);
        hold.hindered(start);
        assert!(hold.is_over(start + ACK_WAIT * 5 / 4), "it cost nothing");
        let later = start + ACK_WAIT * 3;
        hold.hindered(later);
        assert!(!hold.is_over(later + ACK_WAIT / 5));
        assert!(hold.is_over(later + ACK_WAIT / 4));
    }
}
