//! Distribution of accepted events to the sockets: the [`Hub`] behind a lock, and one queue for each.
//!
//! A publisher never waits for a subscriber. A subscriber that falls too far behind loses its
//! connection (see `memory`), without a closing frame, which would have to wait behind all the others.

mod hub;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::memory::{Frame, Holding, Memory};
use crate::event_api::Channel;
use crate::event_api::wire::ServerFrame;
use hub::Hub;
pub(super) use hub::{ConnectionId, Pattern, SubscribeError};

/// All connections and their subscriptions.
pub(super) struct Fanout {
    memory: Arc<Memory>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    hub: Hub,
    outboxes: HashMap<ConnectionId, Outbox>,
    next: u64,
}

/// The writing end of a connection's queue.
#[derive(Clone)]
pub(super) struct Outbox {
    memory: Arc<Memory>,
    holding: Arc<Holding>,
}

impl Fanout {
    /// Without connections; queued frames will be charged to `memory`.
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, state: RwLock::default() }
    }

    /// Adds a connection, whose frames are queued in `holding`.
    pub(super) fn join(&self, holding: Arc<Holding>) -> (ConnectionId, Outbox) {
        let outbox = Outbox { memory: Arc::clone(&self.memory), holding };
        let mut state = self.state.write();
        state.next += 1;
        let connection = ConnectionId(state.next);
        state.outboxes.insert(connection, outbox.clone());
        (connection, outbox)
    }

    /// Removes a connection and its subscriptions.
    pub(super) fn leave(&self, connection: ConnectionId) {
        let mut state = self.state.write();
        state.hub.leave(connection);
        state.outboxes.remove(&connection);
    }

    /// Starts a subscription, and confirms it to the client before any of its events can be queued.
    pub(super) fn subscribe(
        &self,
        connection: ConnectionId,
        id: &str,
        pattern: Pattern,
    ) -> Result<(), SubscribeError> {
        let mut state = self.state.write();
        state.hub.subscribe(connection, id, pattern)?;
        if let Some(outbox) = state.outboxes.get(&connection) {
            outbox.push(&ServerFrame::SubscribeSuccess { id });
        }
        Ok(())
    }

    /// Ends a subscription; `false` if there is none. None of its events is queued after this.
    pub(super) fn unsubscribe(&self, connection: ConnectionId, id: &str) -> bool {
        self.state.write().hub.unsubscribe(connection, id)
    }

    /// Queues `events` for all subscriptions of `channel`, in their order; returns how many there are.
    pub(super) fn publish<'a>(
        &self,
        channel: &Channel,
        events: impl IntoIterator<Item = &'a str>,
    ) -> usize {
        // Held until all is queued, or an event could follow the success of `unsubscribe`. Publishers share it.
        let state = self.state.read();
        let targets = state.hub.publish(channel);
        if targets.is_empty() {
            return 0;
        }
        for event in events {
            // A string: serialization cannot fail.
            let text = self.memory.hold(&serde_json::to_string(event).unwrap_or_default());
            for target in &targets {
                let Some(outbox) = state.outboxes.get(&target.connection) else { continue };
                let subscription = Some(Arc::clone(&target.subscription));
                outbox.holding.push(Frame { subscription, text: Arc::clone(&text) });
            }
        }
        targets.len()
    }

    /// The number of subscriptions that match a channel.
    pub(super) fn receivers(&self, channel: &str) -> usize {
        let channel = Channel::parse(channel);
        channel.map_or(0, |channel| self.state.read().hub.publish(&channel).len())
    }

    /// The number of open sockets, and of subscriptions to each channel or `/*`, in the order of their names.
    pub(super) fn show(&self) -> (usize, Vec<(String, usize)>) {
        let state = self.state.read();
        (state.outboxes.len(), state.hub.counts())
    }

    /// The number of open sockets.
    pub(super) fn sockets(&self) -> usize {
        self.state.read().outboxes.len()
    }
}

impl Outbox {
    /// Queues a frame that is for this connection alone; never waits.
    pub(super) fn push(&self, frame: &ServerFrame<'_>) {
        // Serialization of a frame cannot fail: the keys of its maps are strings.
        let Ok(text) = serde_json::to_string(frame) else { return };
        self.holding.push(Frame { subscription: None, text: self.memory.hold(&text) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn fanout() -> (Fanout, Arc<Memory>) {
        let memory = Memory::new(usize::MAX);
        (Fanout::new(Arc::clone(&memory)), memory)
    }

    #[test]
    fn events_come_after_the_success_and_in_order() {
        let (fanout, memory) = fanout();
        let holding = Arc::new(memory.holding("127.0.0.1:1".parse().unwrap()));
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
        let holding = Arc::new(memory.holding("127.0.0.1:1".parse().unwrap()));
        let (connection, _outbox) = fanout.join(Arc::clone(&holding));
        fanout.subscribe(connection, "s", Pattern::parse("a/b").unwrap()).unwrap();
        assert!(holding.try_next().is_some());
        fanout.leave(connection);
        fanout.publish(&Channel::parse("a/b").unwrap(), ["1"]);
        assert!(holding.try_next().is_none());
    }

    #[test]
    fn nothing_follows_the_end_of_a_subscription() {
        let (fanout, memory) = fanout();
        let holding = Arc::new(memory.holding("127.0.0.1:1".parse().unwrap()));
        let (connection, _outbox) = fanout.join(Arc::clone(&holding));
        let done = AtomicBool::new(false);
        let text = format!("\"{}\"", "x".repeat(2_000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let channel = Channel::parse("a/b").unwrap();
                while !done.load(Ordering::Relaxed) {
                    fanout.publish(&channel, [text.as_str(); 5]);
                }
            });
            let mut late = 0;
            for _ in 0..2_000 {
                fanout.subscribe(connection, "s", Pattern::parse("a/b").unwrap()).unwrap();
                std::thread::yield_now();
                assert!(fanout.unsubscribe(connection, "s"));
                while holding.try_next().is_some() {}
                std::thread::yield_now();
                late += std::iter::from_fn(|| holding.try_next()).count();
            }
            done.store(true, Ordering::Relaxed);
            assert_eq!(late, 0);
        });
    }
}
