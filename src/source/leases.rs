//! What a source has taken and not yet acknowledged, where each message is acknowledged by itself.
//!
//! For brokers that hand a message out for a time, its *lease*, and want an answer for each: SQS,
//! `JetStream`. A settled message waits for no other; the source learns how each one ended, since a broker
//! may be told more than yes or no. What is not settled yet is listed by the time its lease ends, so that the
//! source extends it: a slow API must not have the broker hand it out again. What was released is listed
//! apart, to be given back at once.
//!
//! A message is in flight until the source takes its end out of here, with what tells the broker. One
//! record stands for one ownership, as [`InFlight`](super::InFlight) does; what comes late for one that was
//! abandoned frees its room and does nothing else. Nothing here looks at a clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::numbered::Numbered;
use super::room::{Ownership, Reservation, Room};
use crate::delivery::{Ended, Outcome, Settlement, Tracker};

/// A record of messages in flight; `A` is what the broker knows one by (a receipt handle, a reply subject).
pub struct Leases<A> {
    room: Arc<Room>,
    state: Mutex<State<A>>,
    changed: Arc<Notify>,
}

/// A message that is not settled yet, for extending its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease<A> {
    /// What this record knows it by.
    pub token: u64,
    /// What the broker knows it by.
    pub handle: A,
    /// When it was taken.
    pub since: Instant,
    /// When the broker takes it for lost.
    pub due: Instant,
}

/// The place of a settled message in the room: it is in flight until this is dropped.
#[derive(Debug)]
#[must_use = "a place that is dropped is free"]
pub struct Place {
    room: Arc<Room>,
    /// How the message ended.
    pub outcome: Outcome,
    /// Its lease was [lost](Leases::lost) before.
    pub lost: bool,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.ended(self.outcome);
        self.room.free(1, self.bytes);
    }
}

struct State<A> {
    /// By token, whose order is that of receipt.
    held: Numbered<Held<A>>,
    settled: VecDeque<Settled<A>>,
    released: Vec<Settled<A>>,
    ownership: Ownership,
}

struct Held<A> {
    lease: Lease<A>,
    bytes: usize,
    ours: Ours,
}

/// Whether the broker still takes a held message for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Yes,
    /// It handed it out again, or will: it is known when it comes again to us.
    Lost,
    /// It was told to hand it out again, and what comes is another.
    GivenBack,
}

struct Settled<A> {
    lease: Lease<A>,
    outcome: Outcome,
    lost: bool,
    bytes: usize,
}

impl<A: Clone + Send + 'static> Leases<A> {
    /// An empty record. `changed` is notified whenever a message was settled or released.
    pub fn new(room: Arc<Room>, changed: Arc<Notify>) -> Arc<Self> {
        let state = State {
            held: Numbered::default(),
            settled: VecDeque::new(),
            released: Vec::new(),
            ownership: Ownership::Open,
        };
        Arc::new(Self { room, state: Mutex::new(state), changed })
    }

    /// Records a message of `bytes` that was asked for under `reservation`, taken at `since` and held until
    /// `due`. It may be larger than was assumed. An error is its handle, to be given back: the record is
    /// closed, or more came than was asked for and there is no room.
    pub fn take(
        self: &Arc<Self>,
        reservation: &mut Reservation,
        handle: A,
        bytes: usize,
        since: Instant,
        due: Instant,
    ) -> Result<Settlement, A> {
        debug_assert!(reservation.is_of(&self.room), "reserved in another room");
        let mut state = self.state.lock();
        if state.ownership != Ownership::Open {
            return Err(handle);
        }
        if !reservation.take(bytes) {
            if !self.room.fits(bytes) {
                return Err(handle);
            }
            self.room.take(bytes);
        }
        let token = state.held.next_number();
        let lease = Lease { token, handle, since, due };
        state.held.push(Held { lease, bytes, ours: Ours::Yes });
        Ok(Settlement::new(Arc::clone(self) as Arc<dyn Tracker>, token))
    }

    /// The messages whose lease ends by `by`, in the order of receipt: those to extend before then. None
    /// when the record is abandoned.
    pub fn due(&self, by: Instant) -> Vec<Lease<A>> {
        let state = self.state.lock();
        if state.ownership == Ownership::Abandoned {
            return Vec::new();
        }
        let leases = state.held.values().filter(|held| held.ours == Ours::Yes);
        let leases = leases.map(|held| &held.lease);
        let mut due: Vec<_> = leases.filter(|lease| lease.due <= by).cloned().collect();
        due.sort_unstable_by_key(|lease| lease.token);
        due
    }

    /// The broker holds the message until `due`. One that was settled meanwhile is of no concern.
    pub fn extended(&self, token: u64, due: Instant) {
        self.extended_as(token, |_| true, due);
    }

    /// As [`extended`](Self::extended), if the handle that the broker was told `is` the present one: an answer may
    /// come late for a message that was [received again](Self::received_again).
    pub fn extended_as(&self, token: u64, is: impl Fn(&A) -> bool, due: Instant) {
        let mut state = self.state.lock();
        let ours = |held: &&mut Held<A>| held.ours == Ours::Yes && is(&held.lease.handle);
        if let Some(held) = state.held.get_mut(token).filter(ours) {
            held.lease.due = due;
        }
    }

    /// The broker takes the message for nobody's: it is not extended, unless it is [received
    /// again](Self::received_again), and its place says so when it is settled. False if it was settled meanwhile, or if
    /// the handle that the broker says it of `is` not the present one.
    pub fn lost(&self, token: u64, is: impl Fn(&A) -> bool) -> bool {
        let mut state = self.state.lock();
        let ours = |held: &&mut Held<A>| held.ours == Ours::Yes && is(&held.lease.handle);
        let held = state.held.get_mut(token).filter(ours);
        held.map(|held| held.ours = Ours::Lost).is_some()
    }

    /// Those in flight that are `wanted`, and not settled or accepted, to be anybody's from `now` on: each counts as
    /// [lost](Self::lost), so that it is known when it comes again. In the order of receipt, as they were.
    pub fn lose(&self, wanted: impl Fn(&Lease<A>) -> bool, now: Instant) -> Vec<Lease<A>> {
        let mut state = self.state.lock();
        let State { held, settled, .. } = &mut *state;
        // What is to be acknowledged would otherwise be before what comes again.
        let done = settled.iter_mut().filter(|settled| {
            let accepted = matches!(settled.outcome, Outcome::Accepted(_));
            accepted && !settled.lost && wanted(&settled.lease)
        });
        let done = done.map(|settled| {
            settled.lost = true;
            let lease = settled.lease.clone();
            settled.lease.due = now;
            lease
        });
        let mut lost: Vec<_> = done.collect();
        let held = held.values_mut();
        let wanted = held.filter(|held| held.ours == Ours::Yes && wanted(&held.lease));
        let lose = |held: &mut Held<A>| {
            held.ours = Ours::Lost;
            let lease = held.lease.clone();
            held.lease.due = now;
            lease
        };
        lost.extend(wanted.map(lose));
        lost.sort_unstable_by_key(|lease| lease.token);
        lost
    }

    /// A message that is in flight here, and is not to be given back, came again: what the broker knows it by is put in
    /// by `now_known`, and its lease is that of this receipt. False if none is it, or it was given back on purpose.
    pub fn received_again(
        &self,
        is: impl Fn(&A) -> bool,
        now_known: impl FnOnce(&mut A),
        since: Instant,
        due: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        let State { held, settled, .. } = &mut *state;
        let held = held.values_mut().find(|h| h.ours != Ours::GivenBack && is(&h.lease.handle));
        let lease = if let Some(held) = held {
            held.ours = Ours::Yes;
            &mut held.lease
        } else {
            let done = |s: &&mut Settled<A>| matches!(s.outcome, Outcome::Accepted(_));
            let Some(settled) = settled.iter_mut().filter(done).find(|s| is(&s.lease.handle))
            else {
                return false;
            };
            settled.lost = false;
            &mut settled.lease
        };
        now_known(&mut lease.handle);
        (lease.since, lease.due) = (since, due);
        true
    }

    /// Those in flight that are `wanted`, in the order of receipt, to be given back: whatever becomes of them,
    /// they are not acknowledged. They are in flight until they are settled.
    pub fn take_back(&self, wanted: impl Fn(&Lease<A>) -> bool) -> Vec<Lease<A>> {
        let mut state = self.state.lock();
        if state.ownership == Ownership::Abandoned {
            return Vec::new();
        }
        let (back, settled) = std::mem::take(&mut state.settled)
            .into_iter()
            .partition::<VecDeque<_>, _>(|settled| wanted(&settled.lease));
        state.settled = settled;
        let back = Vec::from(back);
        self.leave(&back);
        let mut taken: Vec<_> = back.into_iter().map(|settled| settled.lease).collect();
        for held in state.held.values_mut() {
            if held.ours != Ours::GivenBack && wanted(&held.lease) {
                if held.ours == Ours::Yes {
                    taken.push(held.lease.clone());
                }
                held.ours = Ours::GivenBack;
            }
        }
        taken.sort_unstable_by_key(|lease| lease.token);
        taken
    }

    /// How many messages are to be acknowledged.
    pub fn settled_count(&self) -> usize {
        self.state.lock().settled.len()
    }

    /// Takes out up to `most` messages that are to be acknowledged, each with its end: never
    /// [`Released`](Outcome::Released).
    pub fn acknowledgeable(&self, most: usize) -> Vec<(A, Outcome)> {
        let mut state = self.state.lock();
        let count = state.settled.len().min(most);
        let ended: Vec<_> = state.settled.drain(..count).collect();
        drop(state);
        self.leave(&ended);
        ended.into_iter().map(|settled| (settled.lease.handle, settled.outcome)).collect()
    }

    /// As [`acknowledgeable`](Self::acknowledgeable), each with its lease and its place: a source that waits for the
    /// broker's answer keeps the place until then.
    pub fn ended(&self, most: usize) -> Vec<(Lease<A>, Place)> {
        let mut state = self.state.lock();
        let count = state.settled.len().min(most);
        let place = |Settled { lease, outcome, lost, bytes }| {
            (lease, Place { room: Arc::clone(&self.room), outcome, lost, bytes })
        };
        state.settled.drain(..count).map(place).collect()
    }

    /// Takes out those that were not done, to be given back at once.
    pub fn released(&self) -> Vec<A> {
        self.released_leases().into_iter().map(|lease| lease.handle).collect()
    }

    /// As [`released`](Self::released), each with its lease: a source that could take it from another by giving it
    /// back late knows when it is late.
    pub fn released_leases(&self) -> Vec<Lease<A>> {
        let released = std::mem::take(&mut self.state.lock().released);
        self.leave(&released);
        released.into_iter().map(|released| released.lease).collect()
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.state.lock().ownership.close();
    }

    /// The ownership is lost: nothing more is taken or acknowledged, no lease is extended, and what is
    /// settled from now on frees its room at once. Gives how many are still to be settled: each of them too
    /// late.
    pub fn abandon(&self) -> usize {
        let mut state = self.state.lock();
        if !state.ownership.abandon() {
            return 0;
        }
        self.leave(state.settled.make_contiguous());
        self.leave(&state.released);
        state.settled.clear();
        state.released.clear();
        state.held.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.held.is_empty() && state.settled.is_empty() && state.released.is_empty()
    }
}

impl<A> Leases<A> {
    /// These are no longer in flight.
    fn leave(&self, settled: &[Settled<A>]) {
        let mut bytes = 0;
        for settled in settled {
            self.room.ended(settled.outcome);
            bytes += settled.bytes;
        }
        self.room.free(settled.len(), bytes);
    }
}

impl<A: Send + 'static> Tracker for Leases<A> {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.settled_together(&[Ended { token, outcome, published: None }]);
    }

    fn settled_together(&self, ended: &[Ended]) {
        self.room.published_together(ended);
        let mut nobodys = Vec::new();
        let mut state = self.state.lock();
        for &Ended { token, outcome, .. } in ended {
            let Some(Held { lease, bytes, ours }) = state.held.remove(token) else { continue };
            self.room.settled(outcome);
            let settled = Settled { lease, outcome, lost: ours == Ours::Lost, bytes };
            if state.ownership == Ownership::Abandoned || ours == Ours::GivenBack {
                nobodys.push(settled);
            } else if outcome == Outcome::Released {
                state.released.push(settled);
            } else {
                state.settled.push_back(settled);
            }
        }
        self.leave(&nobodys);
        drop(state);
        // A drain waits for the last one, whatever became of it.
        self.changed.notify_one();
    }

    fn published(&self, took: Duration) {
        self.room.published(took);
    }

    fn charge(&self, token: u64, bytes: usize) {
        if let Some(held) = self.state.lock().held.get_mut(token) {
            held.bytes += bytes;
            self.room.charge(bytes);
        }
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
