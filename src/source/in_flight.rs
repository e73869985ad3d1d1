//! What a source has taken and not yet acknowledged, in the order of receipt.
//!
//! The record grows at the newest end and shrinks at the oldest, and only there: a message that is
//! settled waits until all before it are, so that a slow head can't let thousands settle behind it
//! unseen. One record stands for one ownership (an MQTT connection, a Kafka assignment): settlements
//! that come for an earlier one find that record and not this, and do no harm.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::config::source::Limits;
use crate::delivery::{Outcome, Settlement, Tracker};
use crate::metrics::SourceMetrics;

/// A record of messages in flight; `A` is what acknowledges one (a packet id, an offset).
pub struct InFlight<A> {
    limits: Limits,
    metrics: SourceMetrics,
    state: Mutex<State<A>>,
    changed: Arc<Notify>,
    me: Weak<Self>,
}

struct State<A> {
    first: u64,
    slots: VecDeque<Slot<A>>,
    bytes: usize,
    released: bool,
}

struct Slot<A> {
    ack: Option<A>,
    bytes: usize,
    outcome: Option<Outcome>,
}

impl<A: Send + 'static> InFlight<A> {
    /// An empty record. `changed` is notified whenever something may be acknowledged or was released.
    pub fn new(limits: Limits, metrics: SourceMetrics, changed: Arc<Notify>) -> Arc<Self> {
        let state = State { first: 0, slots: VecDeque::new(), bytes: 0, released: false };
        Arc::new_cyclic(|me| Self {
            limits,
            metrics,
            state: Mutex::new(state),
            changed,
            me: me.clone(),
        })
    }

    /// Whether one more message of `bytes` may be taken. A message that is larger than the whole limit
    /// is let in when nothing else is in flight, so that it can't jam the source for ever.
    pub fn has_room(&self, bytes: usize) -> bool {
        let state = self.lock();
        state.slots.is_empty()
            || (state.slots.len() < self.limits.messages
                && state.bytes.saturating_add(bytes) <= self.limits.bytes)
    }

    /// Records a message of `bytes`; `ack` acknowledges it, `None` if there is nothing to acknowledge.
    pub fn take(&self, ack: Option<A>, bytes: usize) -> Settlement {
        let mut state = self.lock();
        let token = state.first + state.slots.len() as u64;
        state.slots.push_back(Slot { ack, bytes, outcome: None });
        state.bytes += bytes;
        self.metrics.received.inc();
        self.metrics.in_flight.inc();
        self.add_bytes(bytes);
        drop(state);
        match self.me.upgrade() {
            Some(me) => Settlement::new(me, token),
            // Nobody can call a method of a record that is gone.
            None => Settlement::new(Arc::new(Forgotten), token),
        }
    }

    /// Takes out what can be acknowledged now: the settled messages before the oldest that is not.
    /// Stops at a released one for good: nothing behind it may be acknowledged on this record.
    pub fn acknowledgeable(&self) -> Vec<A> {
        let mut state = self.lock();
        let mut acks = Vec::new();
        while let Some(Slot { outcome: Some(Outcome::Accepted | Outcome::Rejected), .. }) =
            state.slots.front()
        {
            let Some(slot) = state.slots.pop_front() else { break };
            state.first += 1;
            state.bytes -= slot.bytes;
            self.metrics.in_flight.dec();
            self.sub_bytes(slot.bytes);
            acks.extend(slot.ack);
        }
        acks
    }

    /// Whether some message was released: it was not done, and the broker should send it again.
    pub fn has_released(&self) -> bool {
        self.lock().released
    }

    /// How many messages are in flight.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_bytes(&self, bytes: usize) {
        self.metrics.in_flight_bytes.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn sub_bytes(&self, bytes: usize) {
        self.metrics.in_flight_bytes.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl<A: Send + 'static> Tracker for InFlight<A> {
    fn charge(&self, token: u64, bytes: usize) {
        let mut state = self.lock();
        let Some(index) = token.checked_sub(state.first) else { return };
        let Some(slot) = usize::try_from(index).ok().and_then(|i| state.slots.get_mut(i)) else {
            return;
        };
        slot.bytes += bytes;
        state.bytes += bytes;
        self.add_bytes(bytes);
    }

    fn settled(&self, token: u64, outcome: Outcome) {
        let mut state = self.lock();
        let Some(index) = token.checked_sub(state.first) else { return };
        let Some(slot) = usize::try_from(index).ok().and_then(|i| state.slots.get_mut(i)) else {
            return;
        };
        if slot.outcome.replace(outcome).is_some() {
            return;
        }
        self.metrics.settled[outcome as usize].inc();
        let wake = index == 0 || outcome == Outcome::Released;
        state.released |= outcome == Outcome::Released;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }
}

impl<A> Drop for InFlight<A> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.metrics.in_flight.dec_by(i64::try_from(state.slots.len()).unwrap_or(i64::MAX));
        self.metrics.in_flight_bytes.dec_by(i64::try_from(state.bytes).unwrap_or(i64::MAX));
    }
}

struct Forgotten;

impl Tracker for Forgotten {
    fn charge(&self, _: u64, _: usize) {}
    fn settled(&self, _: u64, _: Outcome) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use proptest::prelude::*;

    fn record(messages: usize, bytes: usize) -> (Arc<InFlight<u16>>, SourceMetrics) {
        let metrics = Metrics::new().source("s");
        (InFlight::new(Limits { messages, bytes }, metrics.clone(), Arc::default()), metrics)
    }

    #[test]
    fn acknowledgements_keep_the_order_of_receipt() {
        let (record, metrics) = record(10, 1_000);
        let mut settlements: Vec<_> = (0..4).map(|i| record.take(Some(i), 10)).collect();
        settlements.pop().unwrap().settle(Outcome::Accepted);
        settlements.remove(1).settle(Outcome::Rejected);
        assert!(record.acknowledgeable().is_empty());
        settlements.remove(0).settle(Outcome::Accepted);
        assert_eq!(record.acknowledgeable(), [0, 1]);
        assert_eq!(metrics.in_flight.get(), 2);
        settlements.remove(0).settle(Outcome::Accepted);
        assert_eq!(record.acknowledgeable(), [2, 3]);
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
        assert_eq!(metrics.settled[0].get(), 3);
    }

    #[test]
    fn nothing_behind_a_released_message_is_acknowledged() {
        let (record, _) = record(10, 1_000);
        let (first, second) = (record.take(Some(1), 1), record.take(Some(2), 1));
        second.settle(Outcome::Accepted);
        drop(first);
        assert!(record.has_released());
        assert!(record.acknowledgeable().is_empty());
    }

    #[test]
    fn room_is_bounded_by_messages_and_bytes_and_charges_count() {
        let (record, metrics) = record(2, 100);
        assert!(record.has_room(1_000), "the first is always let in");
        let first = record.take(Some(1), 60);
        assert!(record.has_room(40));
        assert!(!record.has_room(41));
        first.charge(40);
        assert!(!record.has_room(1));
        assert_eq!(metrics.in_flight_bytes.get(), 100);
        first.settle(Outcome::Accepted);
        assert!(!record.has_room(1), "settled is not yet acknowledged");
        assert_eq!(record.acknowledgeable(), [1]);
        assert!(record.has_room(100));
    }

    #[tokio::test]
    async fn the_source_is_woken_when_there_is_something_to_do() {
        let changed = Arc::new(Notify::new());
        let metrics = Metrics::new().source("s");
        let record =
            InFlight::new(Limits { messages: 9, bytes: 99 }, metrics, Arc::clone(&changed));
        let settlement = record.take(Some(1), 1);
        let task = tokio::spawn(async move { settlement.settle(Outcome::Accepted) });
        changed.notified().await;
        assert_eq!(record.acknowledgeable(), [1]);
        task.await.unwrap();
    }

    proptest! {
        /// Settled in any order, the acknowledged are always the longest settled prefix.
        #[test]
        fn acknowledged_is_the_settled_prefix(order in Just((0..40_u16).collect::<Vec<_>>()).prop_shuffle()) {
            let (record, _) = record(100, 10_000);
            let mut settlements: Vec<_> = (0..40).map(|i| Some(record.take(Some(i), 1))).collect();
            let (mut done, mut acked) = (vec![false; 40], Vec::new());
            for i in order {
                settlements[usize::from(i)].take().unwrap().settle(Outcome::Accepted);
                done[usize::from(i)] = true;
                acked.extend(record.acknowledgeable());
                let prefix = done.iter().take_while(|d| **d).count();
                prop_assert_eq!(acked.len(), prefix);
            }
            prop_assert_eq!(acked, (0..40).collect::<Vec<_>>());
        }
    }
}
