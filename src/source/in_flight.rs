//! What a source has taken and not yet acknowledged, in the order of receipt.
//!
//! The record grows at the newest end and shrinks at the oldest, and only there: a message that is
//! settled waits until all before it are, so that a slow head can't let thousands settle behind it
//! unseen. One record stands for one ownership (an MQTT connection, a Kafka assignment): settlements
//! that come for an earlier one find that record and not this, and do no harm. What all records of a
//! source hold together is bounded by its limits, or by a ceiling above them ([`Room`]), so that losing an ownership again and
//! again can't pile up copies.
//!
//! Taking and settling happen once a message and in different threads, so what they share is kept
//! small: the gauges of the source are the counters of its room, and room is freed many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::config::source::Limits;
use crate::delivery::{Outcome, Settlement, Tracker};
use crate::metrics::SourceMetrics;

/// How much a source may hold, over all its records. Its metrics are its counters, so no two rooms may
/// share them.
#[derive(Debug)]
pub struct Room {
    limits: Limits,
    ceiling: Limits,
    freed: Notify,
    /// Settled and not given back; the metrics count a message when it leaves.
    done: AtomicU64,
    metrics: SourceMetrics,
}

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
    /// A message was left to the broker for want of room: so is every one behind it.
    shed: bool,
    ownership: Ownership,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// Messages are taken and acknowledged.
    Open,
    /// Nothing more is taken.
    Closed,
    /// Nothing more is acknowledged either: each slot frees its room when it is settled.
    Abandoned,
}

struct Slot<A> {
    /// Its own, and those of what was passed behind it.
    acks: SmallVec<[A; 1]>,
    bytes: usize,
    outcome: Option<Outcome>,
}

impl Room {
    /// All of `limits`, and nothing beyond.
    pub fn new(limits: Limits, metrics: SourceMetrics) -> Arc<Self> {
        Self::with_ceiling(limits, limits, metrics)
    }

    /// All of `limits`, and up to `ceiling` for a broker that sends more than it is asked for.
    pub fn with_ceiling(limits: Limits, ceiling: Limits, metrics: SourceMetrics) -> Arc<Self> {
        let done = AtomicU64::new(0);
        Arc::new(Self { limits, ceiling, freed: Notify::new(), done, metrics })
    }

    /// Messages that were settled and not given back, those behind a slow head among them.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many messages may still be asked for.
    pub fn messages_left(&self) -> usize {
        self.limits.messages.saturating_sub(self.held().0)
    }

    /// Waits until half of the room is free: to start again for less would mean to stop again soon.
    pub async fn half_free(&self) {
        loop {
            let freed = self.freed.notified();
            let (messages, bytes) = self.held();
            if messages <= self.limits.messages / 2 && bytes <= self.limits.bytes / 2 {
                return;
            }
            freed.await;
        }
    }

    /// Whether one more message of `bytes` fits. One that is larger than the whole limit does when
    /// nothing else is in flight, so that it can't jam the source for ever.
    pub fn fits(&self, bytes: usize) -> bool {
        self.fits_within(self.ceiling, bytes)
    }

    fn fits_within(&self, most: Limits, bytes: usize) -> bool {
        let (messages, held) = self.held();
        messages == 0 || (messages < most.messages && held.saturating_add(bytes) <= most.bytes)
    }

    /// Messages and bytes in flight.
    fn held(&self) -> (usize, usize) {
        let count = |gauge: i64| usize::try_from(gauge).unwrap_or(0);
        (count(self.metrics.in_flight.get()), count(self.metrics.in_flight_bytes.get()))
    }

    fn take(&self, bytes: usize) {
        if !self.fits_within(self.limits, bytes) {
            self.metrics.over_limit.inc();
        }
        self.metrics.received.inc();
        self.metrics.in_flight.inc();
        self.metrics.in_flight_bytes.inc_by(signed(bytes));
    }

    /// Counts how a message ended that leaves what is in flight: whenever nothing moves, the sum of these
    /// and of what is in flight is what was received, whatever waits behind a slow head.
    fn ended(&self, outcome: Outcome) {
        self.metrics.settled[usize::from(outcome.rank())].inc();
    }

    fn free(&self, messages: usize, bytes: usize) {
        if messages > 0 {
            self.metrics.in_flight.dec_by(signed(messages));
            self.metrics.in_flight_bytes.dec_by(signed(bytes));
            self.freed.notify_waiters();
        }
    }
}

impl<A: Send + 'static> InFlight<A> {
    /// An empty record. `changed` is notified whenever something may be acknowledged or was released.
    pub fn new(room: Arc<Room>, changed: Arc<Notify>) -> Arc<Self> {
        let state = State {
            first: 0,
            slots: VecDeque::new(),
            due: Vec::new(),
            released: false,
            shed: false,
            ownership: Ownership::Open,
        };
        Arc::new(Self { room, state: Mutex::new(state), changed })
    }

    /// Records a message of `bytes`; `ack` acknowledges it, `None` if there is nothing to acknowledge.
    /// `None` when it is not taken: the record is closed, or there is no room. A message with an
    /// acknowledgement that is left to the broker leaves every later one there too, or the broker
    /// would send them out of order.
    pub fn take(self: &Arc<Self>, ack: Option<A>, bytes: usize) -> Option<Settlement> {
        let mut state = self.lock();
        if !state.takes(ack.is_some()) {
            return None;
        }
        if !self.room.fits(bytes) {
            state.shed |= ack.is_some();
            return None;
        }
        let token = state.first + state.slots.len() as u64;
        state.slots.push_back(Slot { acks: ack.into_iter().collect(), bytes, outcome: None });
        self.room.take(bytes);
        Some(Settlement::new(Arc::clone(self) as Arc<dyn Tracker>, token))
    }

    /// Lets a message pass that there is nothing to do with but to acknowledge it, behind all that came
    /// before it: it is not in flight, and counts nowhere. False when it is left to the broker, as
    /// [`take`](Self::take) does.
    pub fn pass(&self, ack: A) -> bool {
        let mut state = self.lock();
        if !state.takes(true) {
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
        let mut state = self.lock();
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
        let mut state = self.lock();
        if state.ownership == Ownership::Open {
            state.ownership = Ownership::Closed;
        }
    }

    /// The ownership is lost: nothing more is taken or acknowledged, and what is settled from now on
    /// frees its room at once. Gives how many are still to be settled: each of them too late.
    pub fn abandon(&self) -> usize {
        let mut state = self.lock();
        if std::mem::replace(&mut state.ownership, Ownership::Abandoned) == Ownership::Abandoned {
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
        self.lock().released
    }

    /// Whether messages were left to the broker for want of room.
    pub fn has_shed(&self) -> bool {
        self.lock().shed
    }

    /// Whether as many messages are in flight as the limit allows.
    pub fn is_full(&self) -> bool {
        self.room.messages_left() == 0
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.slots.is_empty() && state.due.is_empty()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, State<A>> {
        self.state.lock()
    }
}

impl<A: Send + 'static> Tracker for InFlight<A> {
    fn settled(&self, token: u64, outcome: Outcome) {
        let mut state = self.lock();
        let head = token == state.first;
        let Some(slot) = state.slot(token) else { return };
        let bytes = slot.bytes;
        if slot.outcome.replace(outcome).is_some() {
            return;
        }
        if outcome != Outcome::Released {
            self.room.done.fetch_add(1, Ordering::Relaxed);
        }
        state.released |= outcome == Outcome::Released;
        if state.ownership == Ownership::Abandoned {
            self.room.ended(outcome);
            self.room.free(1, bytes);
        } else if head || outcome == Outcome::Released {
            self.changed.notify_one();
        }
    }
}

impl<A> State<A> {
    /// Whether a message may be taken or passed, one `to_acknowledge` or not.
    fn takes(&self, to_acknowledge: bool) -> bool {
        self.ownership == Ownership::Open && !(to_acknowledge && self.shed)
    }

    fn slot(&mut self, token: u64) -> Option<&mut Slot<A>> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Done;
    use crate::metrics::Metrics;
    use prometheus_client::metrics::counter::Counter;
    use proptest::prelude::*;

    const PUBLISHED: Outcome = Outcome::Accepted(Done::Published);

    fn record(messages: usize, bytes: usize) -> (Arc<InFlight<u16>>, Arc<Room>, SourceMetrics) {
        let metrics = Metrics::new().source("s");
        let room = Room::new(Limits { messages, bytes }, metrics.clone());
        (InFlight::new(Arc::clone(&room), Arc::default()), room, metrics)
    }

    #[test]
    fn acknowledgements_keep_the_order_of_receipt() {
        let (record, _, metrics) = record(10, 1_000);
        let mut settlements: Vec<_> = (0..4).map(|i| record.take(Some(i), 10).unwrap()).collect();
        settlements.pop().unwrap().settle(PUBLISHED);
        settlements.remove(1).settle(Outcome::Rejected);
        assert!(record.acknowledgeable().is_empty());
        settlements.remove(0).settle(PUBLISHED);
        assert_eq!(record.acknowledgeable(), [0, 1]);
        assert_eq!(metrics.in_flight.get(), 2);
        settlements.remove(0).settle(PUBLISHED);
        assert_eq!(record.acknowledgeable(), [2, 3]);
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
        assert_eq!((metrics.settled[0].get(), metrics.settled[8].get()), (3, 1));
    }

    /// Whatever stands behind a slow head, on a lost record or on the next one: what was received is in
    /// flight or has ended, once, in the way of its worst event.
    #[test]
    fn the_sum_is_exact_at_every_step() {
        let (record, room, metrics) = record(100, 10_000);
        let ended = || metrics.settled.each_ref().map(Counter::get);
        let adds_up = || {
            let in_flight = u64::try_from(metrics.in_flight.get()).unwrap();
            assert_eq!(ended().iter().sum::<u64>() + in_flight, metrics.received.get());
        };
        let head = record.take(Some(0), 1).unwrap();
        for (id, outcome) in (1..).zip(Outcome::ALL) {
            record.take(Some(id), 1).unwrap().settle(outcome);
            adds_up();
        }
        assert_eq!((ended(), metrics.in_flight.get()), ([0; 10], 11), "they wait behind the head");
        head.settle(PUBLISHED);
        assert_eq!(record.acknowledgeable().len(), 10, "but for the one that was released");
        adds_up();
        let late = record.take(Some(11), 1).unwrap();
        assert_eq!(record.abandon(), 1);
        assert_eq!((ended(), metrics.in_flight.get()), ([2, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1));
        adds_up();
        // The same message again, over the next connection.
        let next = InFlight::<u16>::new(room, Arc::default());
        let again = next.take(Some(11), 1).unwrap();
        late.settle(Outcome::Accepted(Done::DeadLettered));
        adds_up();
        drop(again);
        adds_up();
        next.abandon();
        assert_eq!((ended(), metrics.in_flight.get()), ([2, 1, 1, 1, 1, 1, 1, 2, 1, 2], 0));
        adds_up();
    }

    #[test]
    fn each_outcome_has_its_word() {
        let all = Metrics::new();
        let room = Room::new(Limits { messages: 99, bytes: 99 }, all.source("s"));
        let words = [
            (PUBLISHED, "published"),
            (Outcome::Accepted(Done::Unrouted), "unrouted"),
            (Outcome::Accepted(Done::Filtered), "filtered"),
            (Outcome::Accepted(Done::Superseded), "superseded"),
            (Outcome::Accepted(Done::Unconfirmed), "unconfirmed"),
            (Outcome::Accepted(Done::Expired), "expired"),
            (Outcome::Accepted(Done::Discarded), "discarded"),
            (Outcome::Accepted(Done::DeadLettered), "dead_lettered"),
            (Outcome::Rejected, "left_to_broker"),
            (Outcome::Released, "released"),
        ];
        for (count, (outcome, word)) in (1..).zip(words) {
            (0..count).for_each(|_| room.ended(outcome));
            let series =
                format!("source_settled_total{{source=\"s\",outcome=\"{word}\"}} {count}\n");
            assert!(all.encode().contains(&series), "{series}{}", all.encode());
        }
    }

    #[test]
    fn what_passes_is_acknowledged_in_its_turn_and_counts_nowhere() {
        let (record, _, metrics) = record(2, 100);
        assert!(record.pass(1));
        let (first, second) = (record.take(Some(2), 1).unwrap(), record.take(None, 1).unwrap());
        assert!(record.pass(3) && record.pass(4), "there is no room, and it needs none");
        assert_eq!(record.acknowledgeable(), [1]);
        second.settle(PUBLISHED);
        assert!(record.acknowledgeable().is_empty());
        assert_eq!((metrics.received.get(), metrics.in_flight.get()), (2, 2));
        first.settle(PUBLISHED);
        assert_eq!(record.acknowledgeable(), [2, 3, 4]);
        assert_eq!((metrics.received.get(), metrics.in_flight.get()), (2, 0));
        assert!(record.is_empty());
        let _held = [record.take(Some(5), 1).unwrap(), record.take(Some(6), 1).unwrap()];
        assert!(record.take(Some(7), 1).is_none() && !record.pass(8), "7 has to come first");
    }

    #[test]
    fn nothing_behind_a_released_message_is_acknowledged() {
        let (record, _, _) = record(10, 1_000);
        let (first, second) = (record.take(Some(1), 1).unwrap(), record.take(Some(2), 1).unwrap());
        second.settle(PUBLISHED);
        drop(first);
        assert!(record.has_released());
        assert!(record.acknowledgeable().is_empty());
    }

    #[test]
    fn room_is_bounded_by_messages_and_bytes() {
        let (record, room, metrics) = record(2, 100);
        assert!(room.fits(1_000), "the first is always let in");
        let first = record.take(Some(1), 60).unwrap();
        assert!(room.fits(40) && !room.fits(41));
        assert_eq!(metrics.in_flight_bytes.get(), 60);
        first.settle(PUBLISHED);
        assert!(!room.fits(41), "settled is not yet acknowledged");
        assert_eq!(record.acknowledgeable(), [1]);
        assert!(room.fits(100) && room.messages_left() == 2);
    }

    #[test]
    fn what_is_left_to_the_broker_leaves_all_behind_it_there() {
        let (record, _, metrics) = record(2, 100);
        let first = record.take(Some(1), 60).unwrap();
        assert!(record.take(None, 60).is_none(), "dropped, and no reason to shed");
        assert!(!record.has_shed());
        assert!(record.take(Some(2), 60).is_none());
        assert!(record.has_shed());
        first.settle(PUBLISHED);
        assert_eq!(record.acknowledgeable(), [1]);
        assert!(record.take(Some(3), 1).is_none(), "2 has to come first");
        assert!(record.take(None, 1).is_some());
        assert_eq!(metrics.received.get(), 2);
    }

    #[test]
    fn an_abandoned_record_holds_its_room_until_it_is_settled() {
        let (record, room, metrics) = record(3, 100);
        let (first, second) =
            (record.take(Some(1), 10).unwrap(), record.take(Some(2), 10).unwrap());
        second.settle(PUBLISHED);
        record.abandon();
        assert_eq!(room.messages_left(), 2, "the settled one is free");
        assert!(record.take(Some(3), 1).is_none());
        let next = InFlight::<u16>::new(Arc::clone(&room), Arc::default());
        let held = [next.take(Some(1), 10).unwrap(), next.take(Some(2), 10).unwrap()];
        assert!(next.take(Some(3), 10).is_none(), "the old one counts");
        first.settle(PUBLISHED);
        assert_eq!(room.messages_left(), 1);
        assert!(record.acknowledgeable().is_empty());
        for settlement in held {
            settlement.settle(PUBLISHED);
        }
        assert_eq!(next.acknowledgeable(), [1, 2]);
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
    }

    #[tokio::test]
    async fn the_source_is_woken_when_there_is_something_to_do() {
        let changed = Arc::new(Notify::new());
        let room = Room::new(Limits { messages: 2, bytes: 99 }, Metrics::new().source("s"));
        let record = InFlight::new(Arc::clone(&room), Arc::clone(&changed));
        let (one, two) = (record.take(Some(1), 1).unwrap(), record.take(Some(2), 1).unwrap());
        let half = tokio::spawn(async move { room.half_free().await });
        let task = tokio::spawn(async move { one.settle(PUBLISHED) });
        changed.notified().await;
        assert_eq!(record.acknowledgeable(), [1]);
        half.await.unwrap();
        two.settle(PUBLISHED);
        task.await.unwrap();
    }

    proptest! {
        /// Settled in any order, the acknowledged are always the longest settled prefix.
        #[test]
        fn acknowledged_is_the_settled_prefix(order in Just((0..40_u16).collect::<Vec<_>>()).prop_shuffle()) {
            let (record, _, _) = record(100, 10_000);
            let mut settlements: Vec<_> = (0..40).map(|i| record.take(Some(i), 1)).collect();
            let (mut done, mut acked) = (vec![false; 40], Vec::new());
            for i in order {
                settlements[usize::from(i)].take().unwrap().settle(PUBLISHED);
                done[usize::from(i)] = true;
                acked.extend(record.acknowledgeable());
                let prefix = done.iter().take_while(|d| **d).count();
                prop_assert_eq!(acked.len(), prefix);
            }
            prop_assert_eq!(acked, (0..40).collect::<Vec<_>>());
        }
    }
}
