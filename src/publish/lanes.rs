//! What waits to be published: a lane a channel, in it a queue an ordering key.
//!
//! Pure bookkeeping. A key is in at most one request at a time, and what comes back from a request
//! goes to the front of its key, so the order of a key holds through retries and re-batching. Lanes
//! take turns, and within a lane its keys do, so that neither a busy channel nor a hot key starves
//! the others. A batch that is not full waits while its lane has a request out: batches fill by
//! themselves, and a quiet lane sends at once.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Instant;

use crate::delivery::OrderKey;
use crate::event_api::wire::body_overhead;
use crate::event_api::{Channel, MAX_BODY_BYTES, MAX_EVENTS};
use crate::seeded::{self, Bug};

/// What a lane must know of the things in it.
pub trait Item {
    /// What orders it, if anything does.
    fn order(&self) -> Option<&OrderKey>;
    /// Whether a request may hold only one item of its key.
    fn strict(&self) -> bool;
    /// Whether it must be in a request of its own.
    fn alone(&self) -> bool;
    /// Its bytes inside a request body.
    fn body_bytes(&self) -> usize;
}

/// Items of one channel for one request.
#[derive(Debug)]
pub struct Batch<T> {
    /// Where they go.
    pub channel: Channel,
    /// Their ordering keys, each once: in flight until the batch is finished.
    pub keys: Vec<OrderKey>,
    /// One to five, in the order of their keys.
    pub items: Vec<T>,
}

/// All lanes of an API.
#[derive(Debug)]
pub struct Lanes<T> {
    by_channel: HashMap<Channel, Lane<T>>,
    ready: VecDeque<Channel>,
    parked: HashMap<String, VecDeque<Channel>>,
    sleeping: BinaryHeap<Sleeping<T>>,
    sequence: u64,
    queued: usize,
}

type Key = Option<OrderKey>;

#[derive(Debug)]
struct Lane<T> {
    keys: HashMap<Key, KeyQueue<T>>,
    ready: VecDeque<Key>,
    /// Items in the ready keys.
    sendable: usize,
    /// Requests out.
    requests: usize,
    /// Whether it stands in `Lanes::ready` or `Lanes::parked`.
    listed: bool,
}

#[derive(Debug)]
struct KeyQueue<T> {
    items: VecDeque<T>,
    state: KeyState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyState {
    /// Nothing to send.
    Idle,
    /// In `Lane::ready`.
    Ready,
    /// In a request.
    InFlight,
    /// Waiting for its time after a failure.
    Asleep,
}

/// Something that waits for its time: a key of a lane, or items that nothing orders.
#[derive(Debug)]
struct Sleeping<T> {
    until: Instant,
    /// Breaks ties in the order of falling asleep.
    sequence: u64,
    channel: Channel,
    key: Key,
    items: Vec<T>,
}

impl<T: Item> Default for Lanes<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Item> Lanes<T> {
    /// No lanes.
    pub fn new() -> Self {
        Self {
            by_channel: HashMap::new(),
            ready: VecDeque::new(),
            parked: HashMap::new(),
            sleeping: BinaryHeap::new(),
            sequence: 0,
            queued: 0,
        }
    }

    /// Puts an item at the end of its key.
    pub fn push(&mut self, channel: &Channel, item: T) {
        self.queued += 1;
        let lane = lane_of(&mut self.by_channel, channel);
        lane.push_back(item);
        list(&mut self.ready, lane, channel);
    }

    /// The next batch, or nothing while no lane has one that may go. Lanes of a namespace for which
    /// `blocked` answers true are set aside until [`unpark`](Self::unpark).
    pub fn next_batch(&mut self, mut blocked: impl FnMut(&str) -> bool) -> Option<Batch<T>> {
        while let Some(channel) = self.ready.pop_front() {
            let Some(lane) = self.by_channel.get_mut(&channel) else { continue };
            if blocked(channel.namespace()) {
                self.parked.entry(channel.namespace().to_owned()).or_default().push_back(channel);
                continue;
            }
            lane.listed = false;
            if !lane.may_send() {
                continue;
            }
            let (items, keys) = lane.take(&channel);
            self.queued -= items.len();
            lane.requests += 1;
            list(&mut self.ready, lane, &channel);
            return Some(Batch { channel, keys, items });
        }
        None
    }

    /// The request of a batch has ended. Of its items, `back` are to be tried again, in order, and not
    /// before `not_before`.
    pub fn finish(
        &mut self,
        channel: &Channel,
        keys: &[OrderKey],
        back: Vec<T>,
        not_before: Option<Instant>,
    ) {
        self.queued += back.len();
        let lane = lane_of(&mut self.by_channel, channel);
        lane.requests -= 1;
        let mut returned: Vec<Key> = Vec::new();
        let mut loose = Vec::new();
        for item in back.into_iter().rev() {
            let key = item.order().cloned();
            let held = key.is_some() && !seeded::is(Bug::NoLaneHold);
            if !held && not_before.is_some() {
                loose.push(item);
                continue;
            }
            let queue = lane.keys.entry(key.clone()).or_insert_with(KeyQueue::new);
            queue.items.push_front(item);
            if key.is_none() && queue.state == KeyState::Ready {
                lane.sendable += 1;
            }
            if !returned.contains(&key) {
                returned.push(key);
            }
        }
        loose.reverse();
        let mut asleep = Vec::new();
        for key in keys.iter().cloned().map(Some) {
            match not_before {
                Some(until) if returned.contains(&key) => {
                    lane.set_state(&key, KeyState::Asleep);
                    asleep.push((until, key, Vec::new()));
                }
                _ => lane.activate(&key),
            }
        }
        lane.activate(&None);
        if let Some(until) = not_before.filter(|_| !loose.is_empty()) {
            asleep.push((until, None, loose));
        }
        list(&mut self.ready, lane, channel);
        for (until, key, items) in asleep {
            self.sequence += 1;
            let (sequence, channel) = (self.sequence, channel.clone());
            self.sleeping.push(Sleeping { until, sequence, channel, key, items });
        }
        self.forget_if_empty(channel);
    }

    /// Lets everything go on whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while self.sleeping.peek().is_some_and(|s| s.until <= now) {
            let Some(Sleeping { channel, key, items, .. }) = self.sleeping.pop() else { break };
            let lane = lane_of(&mut self.by_channel, &channel);
            if key.is_some() {
                lane.set_state(&key, KeyState::Idle);
            }
            for item in items.into_iter().rev() {
                let queue = lane.keys.entry(None).or_insert_with(KeyQueue::new);
                queue.items.push_front(item);
                lane.sendable += usize::from(queue.state == KeyState::Ready);
            }
            lane.activate(&key);
            list(&mut self.ready, lane, &channel);
        }
    }

    /// Lets everything go on, whatever it waits for.
    pub fn wake_all(&mut self) {
        if let Some(last) = self.sleeping.iter().map(|s| s.until).max() {
            self.wake(last);
        }
    }

    /// When [`wake`](Self::wake) has something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        self.sleeping.peek().map(|s| s.until)
    }

    /// Takes the lanes of a namespace up again, `None` those of all.
    pub fn unpark(&mut self, namespace: Option<&str>) {
        match namespace {
            Some(namespace) => self.ready.extend(self.parked.remove(namespace).unwrap_or_default()),
            None => self.parked.drain().for_each(|(_, lanes)| self.ready.extend(lanes)),
        }
    }

    /// Items that are not in a request.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// A lane that holds nothing costs nothing.
    fn forget_if_empty(&mut self, channel: &Channel) {
        if self.by_channel.get(channel).is_some_and(|l| l.requests == 0 && l.keys.is_empty()) {
            self.by_channel.remove(channel);
        }
    }
}

impl<T: Item> Lane<T> {
    fn push_back(&mut self, item: T) {
        let key = item.order().cloned();
        let queue = self.keys.entry(key.clone()).or_insert_with(KeyQueue::new);
        queue.items.push_back(item);
        match queue.state {
            KeyState::Ready => self.sendable += 1,
            KeyState::Idle => self.activate(&key),
            KeyState::InFlight | KeyState::Asleep => {}
        }
    }

    /// Lists a key that has something to send; forgets one that has nothing left.
    fn activate(&mut self, key: &Key) {
        let Some(queue) = self.keys.get_mut(key) else { return };
        if queue.state == KeyState::Ready {
            return;
        }
        if queue.items.is_empty() {
            self.keys.remove(key);
            return;
        }
        queue.state = KeyState::Ready;
        self.sendable += queue.items.len();
        self.ready.push_back(key.clone());
    }

    fn set_state(&mut self, key: &Key, state: KeyState) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.state = state;
        }
    }

    /// A full batch may always go, any other only when nothing of the lane is out.
    fn may_send(&self) -> bool {
        self.sendable >= MAX_EVENTS || (self.sendable > 0 && self.requests == 0)
    }

    /// Takes one batch out, and the keys that are in flight with it.
    fn take(&mut self, channel: &Channel) -> (Vec<T>, Vec<OrderKey>) {
        let (mut items, mut keys) = (Vec::with_capacity(MAX_EVENTS), Vec::new());
        let mut room = MAX_BODY_BYTES - body_overhead(channel, MAX_EVENTS);
        let mut full = false;
        while !full && items.len() < MAX_EVENTS {
            let Some(key) = self.ready.front().cloned() else { break };
            let Some(queue) = self.keys.get_mut(&key) else {
                self.ready.pop_front();
                continue;
            };
            let before = items.len();
            full = queue.take_into(&mut items, &mut room);
            let taken = items.len() - before;
            self.sendable -= taken;
            if taken == 0 {
                break;
            }
            if let Some(order) = key {
                // What is left of the key waits for this request.
                self.sendable -= queue.items.len();
                queue.state = KeyState::InFlight;
                keys.push(order);
                self.ready.pop_front();
            } else if queue.items.is_empty() {
                self.keys.remove(&key);
                self.ready.pop_front();
            } else {
                // The unordered take their turn among the keys.
                self.ready.rotate_left(1);
            }
        }
        (items, keys)
    }
}

impl<T: Item> KeyQueue<T> {
    fn new() -> Self {
        Self { items: VecDeque::new(), state: KeyState::Idle }
    }

    /// Moves what fits to `items`; true when the batch can take nothing more, of any key.
    fn take_into(&mut self, items: &mut Vec<T>, room: &mut usize) -> bool {
        let mut strict = false;
        while let Some(next) = self.items.front() {
            let fits = items.is_empty() || next.body_bytes() <= *room;
            if items.len() == MAX_EVENTS || !fits || (next.alone() && !items.is_empty()) {
                return true;
            }
            if strict
                || (next.strict()
                    && next.order().is_some()
                    && items.last().is_some_and(|i| i.order() == next.order()))
            {
                return false;
            }
            let alone = next.alone();
            strict = next.strict() && next.order().is_some();
            *room = room.saturating_sub(next.body_bytes());
            items.extend(self.items.pop_front());
            if alone {
                return true;
            }
        }
        items.len() == MAX_EVENTS
    }
}

fn lane_of<'l, T>(lanes: &'l mut HashMap<Channel, Lane<T>>, channel: &Channel) -> &'l mut Lane<T> {
    lanes.entry(channel.clone()).or_insert_with(|| Lane {
        keys: HashMap::new(),
        ready: VecDeque::new(),
        sendable: 0,
        requests: 0,
        listed: false,
    })
}

/// Gives a lane that has something to send its turn, once.
fn list<T: Item>(ready: &mut VecDeque<Channel>, lane: &mut Lane<T>, channel: &Channel) {
    if !lane.listed && lane.may_send() {
        lane.listed = true;
        ready.push_back(channel.clone());
    }
}

impl<T> Ord for Sleeping<T> {
    /// The earliest first in a heap that gives the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.until, other.sequence).cmp(&(self.until, self.sequence))
    }
}

impl<T> PartialOrd for Sleeping<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Sleeping<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Sleeping<T> {}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
