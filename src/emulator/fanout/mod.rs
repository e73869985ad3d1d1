//! Accepted events on their way to the sockets: the [`Hub`] behind a lock, and one queue a connection.
//!
//! A publisher never waits for a subscriber. One that falls too far behind, or holds the most of what
//! all may, loses its connection (see `memory`), without a closing frame, as that would have to wait
//! behind all the others.

mod hub;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::{Frame, Holding, Memory};
use crate::event_api::Channel;
use crate::event_api::wire::ServerFrame;
use hub::Hub;
pub(super) use hub::{ConnectionId, Pattern, SubscribeError};

/// All connections and what they listen to.
pub(super) struct Fanout {
    memory: Arc<Memory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hub: Hub,
    outboxes: HashMap<ConnectionId, Outbox>,
    next: u64,
}

/// A connection's queue, to be written to.
#[derive(Clone)]
pub(super) struct Outbox {
    memory: Arc<Memory>,
    holding: Arc<Holding>,
}

impl Fanout {
    /// Nobody listens yet; what waits for those who will is held in `memory`.
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, state: Mutex::default() }
    }

    /// Takes in a new connection, whose frames are queued in `holding`.
    pub(super) fn join(&self, holding: Arc<Holding>) -> (ConnectionId, Outbox) {
        let outbox = Outbox { memory: Arc::clone(&self.memory), holding };
        let mut state = self.lock();
        state.next += 1;
        let connection = ConnectionId(state.next);
        state.outboxes.insert(connection, outbox.clone());
        (connection, outbox)
    }

    /// Forgets a connection and its subscriptions.
    pub(super) fn leave(&self, connection: ConnectionId) {
        let mut state = self.lock();
        state.hub.leave(connection);
        state.outboxes.remove(&connection);
    }

    /// Makes a subscription live and says so to its client, before any event of it can be queued.
    pub(super) fn subscribe(
        &self,
        connection: ConnectionId,
        id: &str,
        pattern: Pattern,
    ) -> Result<(), SubscribeError> {
        let mut state = self.lock();
        state.hub.subscribe(connection, id, pattern)?;
        if let Some(outbox) = state.outboxes.get(&connection) {
            outbox.push(&ServerFrame::SubscribeSuccess { id });
        }
        Ok(())
    }

    /// Ends a subscription; `false` if there is none.
    pub(super) fn unsubscribe(&self, connection: ConnectionId, id: &str) -> bool {
        self.lock().hub.unsubscribe(connection, id)
    }

    /// Queues `events` for everyone who listens to `channel`, in their order.
    pub(super) fn publish<'a>(&self, channel: &Channel, events: impl IntoIterator<Item = &'a str>) {
        // The frames are written outside the lock; it is held for the look-up only.
        let targets: Vec<(Outbox, Arc<str>)> = {
            let state = self.lock();
            let targets = state.hub.publish(channel).into_iter();
            targets
                .filter_map(|t| Some((state.outboxes.get(&t.connection)?.clone(), t.subscription)))
                .collect()
        };
        if targets.is_empty() {
            return;
        }
        for event in events {
            // A text can't fail to be written.
            let text = self.memory.hold(&serde_json::to_string(event).unwrap_or_default());
            for (outbox, id) in &targets {
                let subscription = Some(Arc::clone(id));
                outbox.holding.push(Frame { subscription, text: Arc::clone(&text) });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Queues a frame that is for this connection alone; never waits.
    pub(super) fn push(&self, frame: &ServerFrame<'_>) {
        // None of the frames can fail to be written: their maps have text keys.
        let Ok(text) = serde_json::to_string(frame) else { return };
        self.holding.push(Frame { subscription: None, text: self.memory.hold(&text) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fanout() -> (Fanout, Arc<Memory>) {
        let memory = Memory::new(usize::MAX);
        (Fanout::new(Arc::clone(&memory)), memory)
    }

    #[test]
    fn events_come_after_the_success_and_in_order() {
        let (fanout, memory) = fanout();
        let holding = Arc::new(memory.holding());
        let (connection, _outbox) = fanout.join(Arc::clone(&holding));
        let channel = Channel::parse("a/b").unwrap();
        fanout.publish(&channel, ["0"]);
        fanout.subscribe(connection, "s", Pattern::parse("a/*").unwrap()).unwrap();
        fanout.publish(&channel, ["1", "{\"n\":2}"]);
        let frames: Vec<String> =
            std::iter::from_fn(|| holding.try_next()).map(Frame::into_text).collect();
        assert_eq!(
            frames,
            [
                r#"{"type":"subscribe_success","id":"s"}"#,
                r#"{"type":"data","id":"s","event":"1"}"#,
                r#"{"type":"data","id":"s","event":"{\"n\":2}"}"#,
            ]
        );
    }

    #[test]
    fn a_connection_that_left_gets_nothing() {
        let (fanout, memory) = fanout();
        let holding = Arc::new(memory.holding());
        let (connection, _outbox) = fanout.join(Arc::clone(&holding));
        fanout.subscribe(connection, "s", Pattern::parse("a/b").unwrap()).unwrap();
        assert!(holding.try_next().is_some());
        fanout.leave(connection);
        fanout.publish(&Channel::parse("a/b").unwrap(), ["1"]);
        assert!(holding.try_next().is_none());
    }
}
