//! What is in flight of a consumer, by the sequence in its stream.
//!
//! A message that comes again while it is in flight joins its twin: it is not handed over a second time, and the
//! newest reply subject is the one that is answered. One that comes again after it was acknowledged, since the
//! acknowledgement was lost with its connection, is acknowledged again, as long as it is remembered: so many of
//! the newest are. A sequence alone is no proof, for a server that lost the end of its stream gives its numbers
//! away a second time; the time of storage, which the reply subject has too, tells them apart.
//!
//! The span from the oldest message that is not acknowledged to the newest taken is limited, so that a slow head
//! can't let thousands settle behind it, which a crash would bring again.

mod receipts;
mod reply;
mod sequence;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use tokio::sync::Notify;

use crate::delivery::{Outcome, Settlement};
use crate::source::{Leases, Reservation, Room};
use receipts::{Receipt, Receipts, State};
pub(super) use reply::Place;
pub(super) use sequence::{Sequence, is_ahead};

/// Messages of one consumer.
pub(super) struct Flight {
    /// By the number of their receipt.
    leases: Arc<Leases<u64>>,
    /// Those in flight, and some before them; the first `passed` are done with.
    receipts: Receipts,
    passed: usize,
    /// So many of those that have passed are remembered.
    keep: usize,
    /// Up to here messages may come again as if for the first time: the consumer was bound anew.
    repeated: u64,
    ack_wait: Duration,
}

/// What a delivery is.
#[must_use]
pub(super) enum Came {
    /// A message to hand over.
    New(Settlement),
    /// One in flight, once more.
    Joined,
    /// One that was acknowledged, to be acknowledged again.
    Repeated(Subject),
    /// One that is not taken, to be given back.
    NotTaken(Subject),
}

/// An acknowledgement that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) reply: Subject,
    pub(super) outcome: Outcome,
}

impl Flight {
    /// Nothing in flight. `changed` is notified when something was settled.
    pub(super) fn new(
        room: &Arc<Room>,
        changed: &Arc<Notify>,
        keep: usize,
        ack_wait: Duration,
    ) -> Self {
        Self {
            leases: Leases::new(Arc::clone(room), Arc::clone(changed)),
            receipts: Receipts::default(),
            passed: 0,
            keep,
            repeated: 0,
            ack_wait,
        }
    }

    /// A delivery of `bytes` came that was asked for under `reservation`.
    pub(super) fn came(
        &mut self,
        place: &Place,
        reply: Subject,
        bytes: usize,
        reservation: &mut Reservation,
        now: Instant,
    ) -> Came {
        let (sequence, stored) = (place.stream, place.stored);
        let number = self.receipts.next_number();
        let mut known = self.receipts.find(sequence);
        if let Some(same) = known.as_deref_mut().filter(|known| known.stored == stored) {
            match &mut same.state {
                State::Open(old) => {
                    reservation.give_back(1);
                    *old = reply;
                    return Came::Joined;
                }
                State::Acknowledged if place.delivered > 1 || sequence <= self.repeated => {
                    reservation.give_back(1);
                    return Came::Repeated(reply);
                }
                // Somebody wants to have it again.
                State::Acknowledged | State::Forgotten => {}
            }
        }
        match self.leases.take(reservation, number, bytes, now, now + self.ack_wait) {
            Err(_) => {
                reservation.give_back(1);
                Came::NotTaken(reply)
            }
            Ok(settlement) => {
                // A stream that lost its end has another message there: the old one is answered no more.
                let _ = known.and_then(|old| old.end(State::Forgotten));
                self.receipts.push(Receipt { sequence, stored, state: State::Open(reply) });
                Came::New(settlement)
            }
        }
    }

    /// How many are to be acknowledged.
    pub(super) fn settled(&self) -> usize {
        self.leases.settled_count()
    }

    /// Takes out up to `most` that are to be acknowledged.
    pub(super) fn acknowledgeable(&mut self, most: usize) -> Vec<Settled> {
        let settled = self.leases.acknowledgeable(most);
        let mut due = Vec::with_capacity(settled.len());
        for (number, outcome) in settled {
            // One that is given back is not remembered: it would be taken for acknowledged when it comes again.
            let state = match outcome {
                Outcome::Accepted(_) => State::Acknowledged,
                Outcome::Rejected | Outcome::Released => State::Forgotten,
            };
            if let Some(reply) = self.end(number, state) {
                due.push(Settled { reply, outcome });
            }
        }
        self.pass();
        due
    }

    /// Takes out those that were not done, to be given back.
    pub(super) fn released(&mut self) -> Vec<Subject> {
        let released = self.leases.released();
        let released =
            released.into_iter().filter_map(|number| self.end(number, State::Forgotten)).collect();
        self.pass();
        released
    }

    /// The reply subjects of those that need more time by now; they have it from here on. Each is extended when
    /// a third of its `ack_wait` has gone.
    pub(super) fn extend(&mut self, now: Instant) -> Vec<Subject> {
        let due = self.leases.due(now + self.ack_wait * 2 / 3);
        let mut replies = Vec::with_capacity(due.len());
        for lease in due {
            let receipt = self.receipts.get_mut(lease.handle);
            if let Some(Receipt { state: State::Open(reply), .. }) = receipt {
                self.leases.extended(lease.token, now + self.ack_wait);
                replies.push(reply.clone());
            }
        }
        replies
    }

    /// The consumer was bound anew, and what was taken may come again.
    pub(super) fn bound_anew(&mut self) {
        self.repeated = self.receipts.newest();
    }

    /// Messages from the oldest that is not acknowledged to the newest.
    pub(super) fn span(&self) -> usize {
        self.receipts.len() - self.passed
    }

    /// Messages of these sequences that are not acknowledged.
    pub(super) fn open_among(&self, sequences: &RangeInclusive<u64>) -> usize {
        let held = (self.passed..).map_while(|place| self.receipts.nth(place));
        held.filter(|it| it.is_open() && sequences.contains(&it.sequence)).count()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.leases.close();
    }

    /// The consumer is another one: nothing of this is acknowledged any more. Gives how many are not settled.
    pub(super) fn abandon(&self) -> usize {
        self.leases.abandon()
    }

    /// The message of this receipt ends so; gives the subject for its answer if there is to be one.
    fn end(&mut self, number: u64, state: State) -> Option<Subject> {
        self.receipts.get_mut(number)?.end(state)
    }

    /// Goes on to the oldest that is not acknowledged, and forgets what passed long ago.
    fn pass(&mut self) {
        while self.receipts.nth(self.passed).is_some_and(|receipt| !receipt.is_open()) {
            self.passed += 1;
        }
        while self.passed > self.keep {
            self.receipts.drop_oldest();
            self.passed -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
