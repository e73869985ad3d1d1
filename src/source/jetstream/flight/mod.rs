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

mod reply;
mod sequence;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use hashbrown::HashMap;
use tokio::sync::Notify;

use crate::delivery::{Outcome, Settlement};
use crate::source::{Leases, Reservation, Room};
pub(super) use reply::Place;
pub(super) use sequence::{Sequence, is_ahead};

/// Messages of one consumer.
pub(super) struct Flight {
    leases: Arc<Leases<Id>>,
    known: HashMap<u64, Known>,
    /// The sequences in the order of receipt; the first `passed` of them are acknowledged.
    order: VecDeque<u64>,
    passed: usize,
    /// So many of those that have passed are remembered.
    keep: usize,
    /// How many are not acknowledged yet.
    open: usize,
    /// The highest sequence that was taken.
    newest: u64,
    /// Up to here messages may come again as if for the first time: the consumer was bound anew.
    repeated: u64,
    ack_wait: Duration,
}

/// What tells a message of a stream from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    sequence: u64,
    stored: u64,
}

struct Known {
    stored: u64,
    /// `None` once it is acknowledged.
    reply: Option<Subject>,
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
            known: HashMap::new(),
            order: VecDeque::new(),
            passed: 0,
            keep,
            open: 0,
            newest: 0,
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
        let sequence = place.stream;
        if let Some(known) = self.known.get_mut(&sequence).filter(|k| k.stored == place.stored) {
            if known.reply.is_some() {
                reservation.give_back(1);
                known.reply = Some(reply);
                return Came::Joined;
            }
            // Elsewise somebody wants to have it again.
            if place.delivered > 1 || sequence <= self.repeated {
                reservation.give_back(1);
                return Came::Repeated(reply);
            }
        }
        let id = Id { sequence, stored: place.stored };
        match self.leases.take(reservation, id, bytes, now, now + self.ack_wait) {
            Err(_) => {
                reservation.give_back(1);
                Came::NotTaken(reply)
            }
            Ok(settlement) => {
                let known = Known { stored: place.stored, reply: Some(reply) };
                let before = self.known.insert(sequence, known);
                // A stream that lost its end has another message there: the old one is answered no more.
                self.open += usize::from(before.is_none_or(|known| known.reply.is_none()));
                self.order.push_back(sequence);
                self.newest = self.newest.max(sequence);
                Came::New(settlement)
            }
        }
    }

    /// Takes out up to `most` that are to be acknowledged.
    pub(super) fn acknowledgeable(&mut self, most: usize) -> Vec<Settled> {
        let settled = self.leases.acknowledgeable(most);
        let mut due = Vec::with_capacity(settled.len());
        for (id, outcome) in settled {
            let known = self.known.get_mut(&id.sequence).filter(|k| k.stored == id.stored);
            if let Some(reply) = known.and_then(|known| known.reply.take()) {
                self.open -= 1;
                if !matches!(outcome, Outcome::Accepted(_)) {
                    // It is given back: what is remembered is taken for acknowledged when it comes again.
                    self.known.remove(&id.sequence);
                }
                due.push(Settled { reply, outcome });
            }
        }
        if !due.is_empty() {
            self.pass();
        }
        due
    }

    /// Takes out those that were not done, to be given back.
    pub(super) fn released(&mut self) -> Vec<Subject> {
        let mut released = Vec::new();
        for id in self.leases.released() {
            if self.known.get(&id.sequence).is_some_and(|k| k.stored == id.stored)
                && let Some(Known { reply: Some(reply), .. }) = self.known.remove(&id.sequence)
            {
                self.open -= 1;
                released.push(reply);
            }
        }
        if !released.is_empty() {
            self.pass();
        }
        released
    }

    /// The reply subjects of those that need more time by now; they have it from here on. Each is extended when
    /// a third of its `ack_wait` has gone.
    pub(super) fn extend(&mut self, now: Instant) -> Vec<Subject> {
        let due = self.leases.due(now + self.ack_wait * 2 / 3);
        let mut replies = Vec::with_capacity(due.len());
        for lease in due {
            let known = self.known.get(&lease.handle.sequence);
            let known = known.filter(|known| known.stored == lease.handle.stored);
            if let Some(reply) = known.and_then(|known| known.reply.clone()) {
                self.leases.extended(lease.token, now + self.ack_wait);
                replies.push(reply);
            }
        }
        replies
    }

    /// The consumer was bound anew, and what was taken may come again.
    pub(super) fn bound_anew(&mut self) {
        self.repeated = self.newest;
    }

    /// Messages from the oldest that is not acknowledged to the newest.
    pub(super) fn span(&self) -> usize {
        self.order.len() - self.passed
    }

    /// Messages that are not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.open
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

    /// Goes on to the oldest that is not acknowledged, and forgets what passed long ago.
    fn pass(&mut self) {
        let is_open = |known: Option<&Known>| known.is_some_and(|known| known.reply.is_some());
        while let Some(sequence) = self.order.get(self.passed)
            && !is_open(self.known.get(sequence))
        {
            self.passed += 1;
        }
        while self.passed > self.keep
            && let Some(sequence) = self.order.pop_front()
        {
            self.passed -= 1;
            // It may have been taken a second time, and be in flight.
            if !is_open(self.known.get(&sequence)) {
                self.known.remove(&sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests;
