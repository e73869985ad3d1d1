//! The items that wait to be published: one lane per channel, and in it one queue per ordering key.
//!
//! Pure bookkeeping. A key is in at most one request at a time, and items to retry go to the front of
//! their key (one without a key that yields goes to the end), so the order of a key holds through retries
//! and re-batching. Lanes take turns, and within a lane its keys do, so that neither a busy channel nor a hot key starves
//! the others. A batch that is not full waits while its lane has a request in flight: batches fill by
//! themselves, and a quiet lane sends at once.
//!
//! Lanes and keys are created and removed with their items. Each has a number meanwhile, so that its name
//! is looked up once an item.

mod batch;
mod queues;
mod sleepers;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::delivery::OrderKey;
use crate::event_api::wire::body_overhead;
use crate::event_api::{Channel, MAX_BODY_BYTES, MAX_EVENTS};
use crate::seeded_bugs::{self, Bug};
pub use batch::{Batch, Held, Item};
use queues::{Queue, Queues};
use sleepers::{Sleepers, Until};

/// All lanes of an API.
#[derive(Debug)]
pub struct Lanes<T> {
    by_channel: HashTable<LaneId>,
    all: Slab<Lane>,
    /// By lane and ordering key; without a key: the unordered items.
    by_key: HashTable<KeyId>,
    keys: Slab<Key>,
    /// Faster than the standard library's hasher, with a weaker seed: memory addresses. Collisions cost time
    /// only, bounded by the in-flight limit.
    hasher: DefaultHashBuilder,
    items: Queues<T>,
    turns: Queues<KeyId>,
    ready: VecDeque<LaneId>,
    parked: HashMap<String, VecDeque<LaneId>>,
    sleepers: Sleepers<Sleeper<T>>,
    queued: usize,
}

type LaneId = usize;
type KeyId = usize;

#[derive(Debug)]
struct Lane {
    channel: Channel,
    hash: u64,
    /// Its ready keys, in turn.
    ready: Queue,
    /// Items in the ready keys.
    sendable: usize,
    /// Requests in flight.
    requests: usize,
    /// Keys, and groups of unordered items in backoff; the lane is kept while there are any.
    dependents: usize,
    /// Whether it is in `Lanes::ready` or `Lanes::parked`.
    listed: bool,
}

#[derive(Debug)]
struct Key {
    lane: LaneId,
    order: Option<OrderKey>,
    hash: u64,
    items: Queue,
    state: KeyState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyState {
    /// Nothing to send.
    Idle,
    /// In `Lane::ready`, with at least one item.
    Ready,
    /// In a request.
    InFlight,
    /// In backoff after a failure, or until it is called.
    Asleep,
}

/// A key or items in backoff after a failure, or until they are called.
#[derive(Debug)]
enum Sleeper<T> {
    Key(KeyId),
    /// Unordered items.
    Loose(LaneId, Vec<T>),
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            by_channel: HashTable::new(),
            all: Slab::new(),
            by_key: HashTable::new(),
            keys: Slab::new(),
            hasher: DefaultHashBuilder::default(),
            items: Queues::new(),
            turns: Queues::new(),
            ready: VecDeque::new(),
            parked: HashMap::new(),
            sleepers: Sleepers::new(),
            queued: 0,
        }
    }
}

impl<T: Item> Lanes<T> {
    /// Puts an item at the end of its key.
    pub fn push(&mut self, channel: &Channel, item: T) {
        self.queued += 1;
        let lane = self.lane_of(channel);
        let id = self.key_of(lane, item.order());
        self.items.push_back(&mut self.keys[id].items, item);
        self.grown(id);
        self.list(lane);
    }

    /// The next batch; `None` while no lane may send one. `most` gives the most items that a batch for a
    /// namespace may hold; lanes for which that is zero are parked until [`unpark`](Self::unpark).
    pub fn next_batch(&mut self, mut most: impl FnMut(&str) -> usize) -> Option<Batch<T>> {
        while let Some(id) = self.ready.pop_front() {
            let lane = &mut self.all[id];
            let namespace = lane.channel.namespace();
            let most = most(namespace).min(MAX_EVENTS);
            if most == 0 {
                self.parked.entry(namespace.to_owned()).or_default().push_back(id);
                continue;
            }
            lane.listed = false;
            if !lane.may_send() {
                continue;
            }
            lane.requests += 1;
            let channel = lane.channel.clone();
            let (items, keys) = self.take(id, most);
            self.queued -= items.len();
            self.list(id);
            return Some(Batch { channel, items, held: Held { lane: id, keys } });
        }
        None
    }

    /// Ends the request of a batch. `back` are its items to retry, in order, not before `not_before`.
    pub fn finish(&mut self, held: Held, back: Vec<T>, not_before: Option<Instant>) {
        self.end(held, back, not_before.map(Until::Time));
    }

    /// The same, where `back` waits until it is [called](Self::call).
    pub fn finish_uncalled(&mut self, held: Held, back: Vec<T>) {
        self.end(held, back, Some(Until::Called));
    }

    fn end(&mut self, held: Held, back: Vec<T>, until: Option<Until>) {
        let Held { lane, keys } = held;
        self.queued += back.len();
        self.all[lane].requests -= 1;
        let mut loose = Vec::new();
        for item in back.into_iter().rev() {
            let ordered = item.order().is_some() && !seeded_bugs::is(Bug::NoLaneHold);
            if ordered || until.is_none() {
                let id = self.key_of(lane, item.order());
                self.put_back(id, item);
                if ordered && until.is_some() {
                    self.keys[id].state = KeyState::Asleep;
                }
            } else {
                loose.push(item);
            }
        }
        for id in keys {
            match until {
                Some(until) if self.keys[id].state == KeyState::Asleep => {
                    self.sleepers.push(until, Sleeper::Key(id));
                }
                _ => self.activate(id),
            }
        }
        if let Some(until) = until.filter(|_| !loose.is_empty()) {
            loose.reverse();
            self.all[lane].dependents += 1;
            self.sleepers.push(until, Sleeper::Loose(lane, loose));
        }
        self.list(lane);
        self.forget_if_empty(lane);
    }

    /// Ends each backoff whose time is over.
    pub fn wake(&mut self, now: Instant) {
        while let Some(sleeper) = self.sleepers.pop_due(now) {
            self.rouse(sleeper);
        }
    }

    /// Calls the one that has waited for it for the longest, behind all that is awake. False if none waits.
    pub fn call(&mut self) -> bool {
        let called = self.sleepers.pop_uncalled();
        called.map(|sleeper| self.rouse(sleeper)).is_some()
    }

    /// Ends every backoff, and calls all.
    pub fn wake_all(&mut self) {
        if let Some(last) = self.sleepers.last() {
            self.wake(last);
        }
        while self.call() {}
    }

    /// Whether a lane has something to send, of a namespace for which this holds.
    pub fn is_awake(&self, holds: impl Fn(&str) -> bool) -> bool {
        let mut ready = self.ready.iter().map(|id| self.all[*id].channel.namespace());
        self.parked().any(&holds) || ready.any(&holds)
    }

    fn rouse(&mut self, sleeper: Sleeper<T>) {
        let lane = match sleeper {
            Sleeper::Key(id) => {
                let lane = self.keys[id].lane;
                self.keys[id].state = KeyState::Idle;
                self.activate(id);
                lane
            }
            Sleeper::Loose(lane, items) => {
                self.all[lane].dependents -= 1;
                let id = self.key_of(lane, None);
                for item in items.into_iter().rev() {
                    self.put_back(id, item);
                }
                lane
            }
        };
        self.list(lane);
    }

    /// When [`wake`](Self::wake) is due next.
    pub fn next_wake(&self) -> Option<Instant> {
        self.sleepers.first()
    }

    /// Unparks the lanes of a namespace, behind others: refused lanes take turns with accepted ones.
    pub fn unpark(&mut self, namespace: &str) {
        self.ready.extend(self.parked.remove(namespace).unwrap_or_default());
    }

    /// Unparks all lanes, and calls all.
    pub fn unpark_all(&mut self) {
        self.parked.drain().for_each(|(_, lanes)| self.ready.extend(lanes));
        while self.call() {}
    }

    /// The namespaces of the parked lanes.
    pub fn parked(&self) -> impl Iterator<Item = &str> {
        self.parked.keys().map(String::as_str)
    }

    /// Items not in a request.
    pub fn queued(&self) -> usize {
        self.queued
    }

    fn lane_of(&mut self, channel: &Channel) -> LaneId {
        let hash = self.hasher.hash_one(channel);
        let all = &mut self.all;
        if let Some(id) = self.by_channel.find(hash, |id| all[*id].channel == *channel) {
            return *id;
        }
        let id = all.insert(Lane {
            channel: channel.clone(),
            hash,
            ready: Queue::default(),
            sendable: 0,
            requests: 0,
            dependents: 0,
            listed: false,
        });
        self.by_channel.insert_unique(hash, id, |id| all[*id].hash);
        id
    }

    fn key_of(&mut self, lane: LaneId, order: Option<&OrderKey>) -> KeyId {
        let hash = self.hasher.hash_one((lane, order));
        let keys = &mut self.keys;
        let is_it = |key: &Key| key.lane == lane && key.order.as_ref() == order;
        if let Some(id) = self.by_key.find(hash, |id| is_it(&keys[*id])) {
            return *id;
        }
        self.all[lane].dependents += 1;
        let (order, items) = (order.cloned(), Queue::default());
        let id = keys.insert(Key { lane, order, hash, items, state: KeyState::Idle });
        self.by_key.insert_unique(hash, id, |id| keys[*id].hash);
        id
    }

    fn put_back(&mut self, id: KeyId, item: T) {
        let items = &mut self.keys[id].items;
        if item.order().is_none() && item.yields() {
            self.items.push_back(items, item);
        } else {
            self.items.push_front(items, item);
        }
        self.grown(id);
    }

    /// Counts an item added to a key, and queues the key if it was idle.
    fn grown(&mut self, id: KeyId) {
        match self.keys[id].state {
            KeyState::Ready => self.all[self.keys[id].lane].sendable += 1,
            KeyState::Idle => self.activate(id),
            KeyState::InFlight | KeyState::Asleep => {}
        }
    }

    /// Queues a key that has items for its turn; removes one that has none.
    fn activate(&mut self, id: KeyId) {
        let key = &mut self.keys[id];
        if key.items.is_empty() {
            return self.forget_key(id);
        }
        key.state = KeyState::Ready;
        let lane = &mut self.all[key.lane];
        lane.sendable += key.items.len();
        self.turns.push_back(&mut lane.ready, id);
    }

    /// Queues a lane that has items for its turn, once.
    fn list(&mut self, id: LaneId) {
        let lane = &mut self.all[id];
        if !lane.listed && lane.may_send() {
            lane.listed = true;
            self.ready.push_back(id);
        }
    }

    /// Takes one batch out, with the keys in it.
    fn take(&mut self, id: LaneId, most: usize) -> (Vec<T>, Vec<KeyId>) {
        let (mut items, mut keys) =
            (Vec::with_capacity(MAX_EVENTS), Vec::with_capacity(MAX_EVENTS));
        let mut room = MAX_BODY_BYTES - body_overhead(&self.all[id].channel, MAX_EVENTS);
        let mut full = false;
        while !full && items.len() < most {
            let Some(&turn) = self.turns.front(&self.all[id].ready) else { break };
            let before = items.len();
            full = self.take_of(turn, most, &mut items, &mut room);
            let taken = items.len() - before;
            let (lane, key) = (&mut self.all[id], &mut self.keys[turn]);
            lane.sendable -= taken;
            if taken == 0 {
                break;
            }
            self.turns.pop_front(&mut lane.ready);
            if key.order.is_some() {
                // The rest of the key waits for this request.
                lane.sendable -= key.items.len();
                key.state = KeyState::InFlight;
                keys.push(turn);
            } else if key.items.is_empty() {
                self.forget_key(turn);
            } else {
                // Unordered items take their turn among the keys.
                self.turns.push_back(&mut lane.ready, turn);
            }
        }
        (items, keys)
    }

    /// Moves the items of a key that fit to `taken`; true when the batch is full.
    fn take_of(&mut self, id: KeyId, most: usize, taken: &mut Vec<T>, room: &mut usize) -> bool {
        let Key { items, order, .. } = &mut self.keys[id];
        let first = taken.len();
        while let Some(next) = self.items.front(items) {
            let fits = taken.is_empty() || next.body_bytes() <= *room;
            if taken.len() == most || !fits || (next.alone() && !taken.is_empty()) {
                return true;
            }
            let of_key = taken.get(first..).unwrap_or_default();
            if order.is_some()
                && (next.strict() && !of_key.is_empty() || of_key.iter().any(T::strict))
            {
                return false;
            }
            let alone = next.alone();
            *room = room.saturating_sub(next.body_bytes());
            taken.extend(self.items.pop_front(items));
            if alone {
                return true;
            }
        }
        taken.len() == most
    }

    fn forget_key(&mut self, id: KeyId) {
        let Key { lane, hash, .. } = self.keys.remove(id);
        forget(&mut self.by_key, hash, id);
        self.all[lane].dependents -= 1;
    }

    /// Removes a lane without items, and frees its number.
    fn forget_if_empty(&mut self, id: LaneId) {
        let lane = &self.all[id];
        if lane.requests == 0 && lane.dependents == 0 {
            forget(&mut self.by_channel, lane.hash, id);
            self.all.remove(id);
        }
    }
}

fn forget(table: &mut HashTable<usize>, hash: u64, number: usize) {
    if let Ok(found) = table.find_entry(hash, |other| *other == number) {
        found.remove();
    }
}

impl Lane {
    /// A full batch may always go, any other only when the lane has no request in flight.
    fn may_send(&self) -> bool {
        self.sendable >= MAX_EVENTS || (self.sendable > 0 && self.requests == 0)
    }
}

#[cfg(test)]
mod tests;
