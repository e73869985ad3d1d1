//! What a source has taken from a broker that wants no answer: it only takes room until it is settled.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use crate::delivery::{Ended, Outcome, Settlement, Tracker};
use crate::source::room::Room;

/// The messages in flight; what is not done is lost, for there is nobody to give it back to.
pub(super) struct Held {
    room: Arc<Room>,
    /// The bytes of each.
    messages: Mutex<Slab<usize>>,
    emptied: Notify,
}

impl Held {
    /// Nothing is held.
    pub(super) fn new(room: Arc<Room>) -> Arc<Self> {
        Arc::new(Self { room, messages: Mutex::new(Slab::new()), emptied: Notify::new() })
    }

    /// Holds a message of `bytes`; `None` where there is no room.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<Settlement> {
        let mut held = self.messages.lock();
        if !self.room.fits(bytes) {
            return None;
        }
        self.room.take(bytes);
        let token = held.insert(bytes) as u64;
        Some(Settlement::new(Arc::clone(self) as Arc<dyn Tracker>, token))
    }

    /// Waits until nothing is held.
    pub(super) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.messages.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Tracker for Held {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.settled_together(&[Ended { token, outcome, published: None }]);
    }

    fn settled_together(&self, ended: &[Ended]) {
        self.room.published_together(ended);
        let (mut messages, mut freed) = (0, 0);
        let mut held = self.messages.lock();
        for ended in ended {
            let key = usize::try_from(ended.token).ok();
            let Some(bytes) = key.and_then(|key| held.try_remove(key)) else { continue };
            self.room.settled(ended.outcome);
            self.room.ended(ended.outcome);
            (messages, freed) = (messages + 1, freed + bytes);
        }
        self.room.free(messages, freed);
        if held.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    fn published(&self, took: Duration) {
        self.room.published(took);
    }

    fn charge(&self, token: u64, bytes: usize) {
        let mut held = self.messages.lock();
        if let Some(known) = usize::try_from(token).ok().and_then(|key| held.get_mut(key)) {
            *known += bytes;
            self.room.charge(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::config::source::Limits;
    use crate::delivery::Done;
    use crate::metrics::Metrics;

    #[test]
    fn what_ends_together_frees_its_room_together() {
        let metrics = Metrics::new().source("s");
        let held = Held::new(Room::new(Limits { messages: 9, bytes: 100 }, metrics.clone()));
        let settlements = [held.take(10).unwrap(), held.take(20).unwrap(), held.take(30).unwrap()];
        let published = Outcome::Accepted(Done::Published);
        let ended = |token| Ended { token, outcome: published, published: Some(Duration::ZERO) };
        held.settled_together(&[ended(2), ended(0), ended(0)]);
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (1, 20));
        assert_eq!(metrics.settled[0].get(), 2);
        drop(settlements);
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
        assert_eq!(metrics.settled.iter().map(Counter::get).sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn each_frees_its_room_by_itself_whatever_becomes_of_it() {
        let metrics = Metrics::new().source("s");
        let held = Held::new(Room::new(Limits { messages: 2, bytes: 100 }, metrics.clone()));
        let first = held.take(10).unwrap();
        let second = held.take(20).unwrap();
        assert!(held.take(1).is_none(), "two at most");
        held.charge(1, 7);
        assert_eq!(metrics.in_flight_bytes.get(), 37);
        // The later one is settled, and its place is free, though the first is not.
        second.settle(Outcome::Accepted(Done::Published));
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (1, 10));
        let third = held.take(90).unwrap();
        assert!(held.take(1).is_none());
        drop(first);
        drop(third);
        held.empty().await;
        assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
        assert_eq!(metrics.received.get(), 3);
        let released = usize::from(Outcome::Released.rank());
        assert_eq!(metrics.settled.iter().map(Counter::get).sum::<u64>(), 3);
        assert_eq!(metrics.settled[released].get(), 2);
    }
}
