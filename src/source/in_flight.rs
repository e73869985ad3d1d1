//! What a source has taken and not yet acknowledged, in the order of receipt.
//!
//! The record grows at the newest end and shrinks at the oldest, and only there: a message that is
//! settled waits until all before it are, so that a slow head can't let thousands settle behind it
//! unseen. One record stands for one ownership (an MQTT connection, a Kafka assignment): settlements
//! that come for an earlier one find that record and not this, and do no harm. What all records of a
//! source hold together is bounded by its [`Room`].
//!
//! For brokers whose acknowledgements have an order: Kafka's offsets, MQTT's PUBACKs. What to do when there
//! is no room is the source's to decide. [`pass`](InFlight::pass) is here though only MQTT has copies to
//! skip: where such an acknowledgement stands is decided against the newest message in flight, under the
//! lock of the record, or one that leaves just then would be overtaken.
//!
//! Taking and settling happen in different threads, the one once a message, the other once for those that end in a row,
//! so what they share is kept small: the gauges of the source are the counters of its room, and room is freed many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::room::{Ownership, Room};
use crate::delivery::{Ended, Outcome, Settlement, Tracker};

/// A record of messages in flight; `A` is what acknowledges one (a packet id, an offset).
pub struct InFlight<A> {
    room: Arc<Room>,
    state: Mutex<State<A>>,
    changed: Arc<Notify>,
}

struct State<A> {
    first: u64,
    slots: VecDeque<Slot<A>>,
    /// Passed while nothing was in flight.
    due: Vec<A>,
    released: bool,
    ownership: Ownership,
}

struct Slot<A> {
    /// Its own, and those of what was passed behind it.
    acks: SmallVec<[A; 1]>,
    bytes: usize,
    outcome: Option<Outcome>,
}

impl<A: Send + 'static> InFlight<A> {
    /// An empty record. `changed` is notified whenever something may be acknowledged or was released.
    pub fn new(room: Arc<Room>, changed: Arc<Notify>) -> Arc<Self> {
        let state = State {
            first: 0,
            slots: VecDeque::new(),
            due: Vec::new(),
            released: false,
            ownership: Ownership::Open,
        };
        Arc::new(Self { room, state: Mutex::new(state), changed })
    }

    /// Records a message of `bytes`; `ack` acknowledges it, `None` if there is nothing to acknowledge.
    /// `None` when it is not taken: the record is closed, or there is no room.
    pub fn take(self: &Arc<Self>, ack: Option<A>, bytes: usize) -> Option<Settlement> {
        let mut state = self.state.lock();
        if state.ownership != Ownership::Open || !self.room.fits(bytes) {
            return None;
        }
        let token = state.first + state.slots.len() as u64;
        state.slots.push_back(Slot { acks: ack.into_iter().collect(), bytes, outcome: None });
        self.room.take(bytes);
        Some(Settlement::new(Arc::clone(self) as Arc<dyn Tracker>, token))
    }

    /// Lets a message pass that there is nothing to do with but to acknowledge it, behind all that came
    /// before it: it is not in flight, and counts nowhere. False when the record is closed.
    pub fn pass(&self, ack: A) -> bool {
        let mut state = self.state.lock();
        if state.ownership != Ownership::Open {
            return false;
        }
        if let Some(newest) = state.slots.back_mut() {
            newest.acks.push(ack);
        } else {
            state.due.push(ack);
            self.changed.notify_one();
        }
        true
    }

    /// Takes out what can be acknowledged now: the settled messages before the oldest that is not.
    /// Stops at a released one for good: nothing behind it may be acknowledged on this record.
    pub fn acknowledgeable(&self) -> Vec<A> {
        self.acknowledgeable_up_to(usize::MAX)
    }

    /// The same, with `most` acknowledgements at most.
    pub fn acknowledgeable_up_to(&self, most: usize) -> Vec<A> {
        let mut state = self.state.lock();
        let (mut messages, mut bytes) = (0, 0);
        if state.ownership == Ownership::Abandoned {
            return Vec::new();
        }
        let passed = state.due.len().min(most);
        let mut acks: Vec<_> = state.due.drain(..passed).collect();
        while let Some(&Slot {
            outcome: Some(outcome @ (Outcome::Accepted(_) | Outcome::Rejected)),
            ..
        }) = state.slots.front()
        {
            // Those that were passed behind a message go with it.
            if acks.len() >= most {
                break;
            }
            let Some(slot) = state.slots.pop_front() else { break };
            self.room.ended(outcome);
            state.first += 1;
            (messages, bytes) = (messages + 1, bytes + slot.bytes);
            acks.extend(slot.acks);
        }
        self.room.free(messages, bytes);
        acks
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.state.lock().ownership.close();
    }

    /// The ownership is lost: nothing more is taken or acknowledged, and what is settled from now on
    /// frees its room at once. Gives how many are still to be settled: each of them too late.
    pub fn abandon(&self) -> usize {
        let mut state = self.state.lock();
        if !state.ownership.abandon() {
            return 0;
        }
        let settled = state.slots.iter().filter_map(|s| Some((s.outcome?, s.bytes)));
        let (messages, bytes) = settled.fold((0, 0), |(n, sum), (outcome, bytes)| {
            self.room.ended(outcome);
            (n + 1, sum + bytes)
        });
        self.room.free(messages, bytes);
        state.slots.len() - messages
    }

    /// Whether some message was released: it was not done, and the broker should send it again.
    pub fn has_released(&self) -> bool {
        self.state.lock().released
    }

    /// Whether as many messages are in flight as the limit allows.
    pub fn is_full(&self) -> bool {
        self.room.messages_left() == 0
    }

    /// Whether nothing in flight, nor settled, is to be acknowledged.
    pub fn owes_nothing(&self) -> bool {
        let state = self.state.lock();
        state.due.is_empty() && state.slots.iter().all(|slot| slot.acks.is_empty())
    }

    /// How many acknowledgements the broker waits for, of what is settled and of what is not.
    pub fn owes(&self) -> usize {
        let state = self.state.lock();
        state.due.len() + state.slots.iter().map(|slot| slot.acks.len()).sum::<usize>()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.slots.is_empty() && state.due.is_empty()
    }
}

impl<A: Send + 'static> Tracker for InFlight<A> {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.settled_together(&[Ended { token, outcome, published: None }]);
    }

    fn settled_together(&self, ended: &[Ended]) {
        self.room.published_together(ended);
        let (mut changed, mut messages, mut bytes) = (false, 0, 0);
        let mut state = self.state.lock();
        for &Ended { token, outcome, .. } in ended {
            let head = token == state.first;
            let Some(slot) = state.slot(token) else { continue };
            let size = slot.bytes;
            if slot.outcome.replace(outcome).is_some() {
                continue;
            }
            self.room.settled(outcome);
            state.released |= outcome == Outcome::Released;
            if state.ownership == Ownership::Abandoned {
                self.room.ended(outcome);
                (messages, bytes) = (messages + 1, bytes + size);
            } else {
                changed |= head || outcome == Outcome::Released;
            }
        }
        self.room.free(messages, bytes);
        drop(state);
        if changed {
            self.changed.notify_one();
        }
    }

    fn published(&self, took: Duration) {
        self.room.published(took);
    }

    fn charge(&self, token: u64, bytes: usize) {
        let mut state = self.state.lock();
        // With an outcome its room is free already, or about to be.
        let Some(slot) = state.slot(token).filter(|slot| slot.outcome.is_none()) else { return };
        slot.bytes += bytes;
        self.room.charge(bytes);
    }
}

impl<A> State<A> {
    fn slot(&mut self, token: u64) -> Option<&mut Slot<A>> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
