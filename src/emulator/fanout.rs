//! Accepted events on their way to the sockets: the [`Hub`] behind a lock, and one queue a connection.
//!
//! A publisher never waits for a subscriber. Each connection has a queue of at most
//! [`MAX_QUEUED_BYTES`]; a subscriber that falls further behind loses its connection, without a
//! closing frame, as that would have to wait behind all the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::hub::{ConnectionId, Hub, Pattern, Refused};
use crate::event_api::Channel;
use crate::event_api::wire::ServerFrame;

/// Bytes that may wait for one connection: some seconds of a busy channel.
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// What a queued frame is charged on top of its text.
const FRAME_BYTES: usize = 64;

/// All connections and what they listen to.
#[derive(Default)]
pub(super) struct Fanout {
    state: Mutex<State>,
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
    frames: mpsc::UnboundedSender<Utf8Bytes>,
    queued: Arc<AtomicUsize>,
    overflow: CancellationToken,
}

/// The reading end of a connection's queue.
pub(super) struct Inbox {
    frames: mpsc::UnboundedReceiver<Utf8Bytes>,
    queued: Arc<AtomicUsize>,
}

impl Fanout {
    /// Opens a queue for a new connection.
    pub(super) fn join(&self) -> (ConnectionId, Outbox, Inbox) {
        let (frames, receiver) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let inbox = Inbox { frames: receiver, queued: Arc::clone(&queued) };
        let outbox = Outbox { frames, queued, overflow: CancellationToken::new() };
        let mut state = self.lock();
        state.next += 1;
        let connection = ConnectionId(state.next);
        state.outboxes.insert(connection, outbox.clone());
        (connection, outbox, inbox)
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
    ) -> Result<(), Refused> {
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
            for (outbox, id) in &targets {
                outbox.push(&ServerFrame::Data { id, event });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Queues a frame; never waits. Past the limit the frame is dropped and the connection told to
    /// end.
    pub(super) fn push(&self, frame: &ServerFrame<'_>) {
        // None of the frames can fail to be written: their maps have text keys.
        let Ok(text) = serde_json::to_string(frame) else { return };
        let size = text.len() + FRAME_BYTES;
        if self.queued.fetch_add(size, Ordering::Relaxed) + size > MAX_QUEUED_BYTES {
            self.overflow.cancel();
            return;
        }
        // The receiver is gone when the connection is ending; its frames go nowhere.
        let _ = self.frames.send(text.into());
    }

    /// Waits until the queue has run over.
    pub(super) async fn overflowed(&self) {
        self.overflow.cancelled().await;
    }
}

impl Inbox {
    /// The next frame, in the order of queueing.
    pub(super) async fn next(&mut self) -> Option<Utf8Bytes> {
        let frame = self.frames.recv().await;
        self.taken(frame)
    }

    /// The next frame if it is there already.
    pub(super) fn try_next(&mut self) -> Option<Utf8Bytes> {
        let frame = self.frames.try_recv().ok();
        self.taken(frame)
    }

    fn taken(&self, frame: Option<Utf8Bytes>) -> Option<Utf8Bytes> {
        let frame = frame?;
        self.queued.fetch_sub(frame.len() + FRAME_BYTES, Ordering::Relaxed);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_after_the_success_and_in_order() {
        let fanout = Fanout::default();
        let (connection, _outbox, mut inbox) = fanout.join();
        let channel = Channel::parse("a/b").unwrap();
        fanout.publish(&channel, ["0"]);
        fanout.subscribe(connection, "s", Pattern::parse("a/*").unwrap()).unwrap();
        fanout.publish(&channel, ["1", "{\"n\":2}"]);
        let frames: Vec<String> =
            std::iter::from_fn(|| inbox.try_next()).map(|f| f.to_string()).collect();
        assert_eq!(
            frames,
            [
                r#"{"type":"subscribe_success","id":"s"}"#,
                r#"{"type":"data","id":"s","event":"1"}"#,
                r#"{"type":"data","id":"s","event":"{\"n\":2}"}"#,
            ]
        );
    }

    #[tokio::test]
    async fn a_subscriber_that_does_not_read_loses_its_connection_and_nobody_else_does() {
        let fanout = Fanout::default();
        let channel = Channel::parse("a/b").unwrap();
        let (slow, slow_outbox, _unread) = fanout.join();
        let (quick, quick_outbox, mut read) = fanout.join();
        fanout.subscribe(slow, "s", Pattern::parse("a/b").unwrap()).unwrap();
        fanout.subscribe(quick, "q", Pattern::parse("a/b").unwrap()).unwrap();
        let big = format!("\"{}\"", "x".repeat(200_000));
        for _ in 0..=MAX_QUEUED_BYTES / 200_000 {
            fanout.publish(&channel, [big.as_str()]);
            while read.try_next().is_some() {}
        }
        slow_outbox.overflowed().await;
        assert!(!quick_outbox.overflow.is_cancelled());
    }

    #[test]
    fn a_connection_that_left_gets_nothing() {
        let fanout = Fanout::default();
        let (connection, _outbox, mut inbox) = fanout.join();
        fanout.subscribe(connection, "s", Pattern::parse("a/b").unwrap()).unwrap();
        assert!(inbox.try_next().is_some());
        fanout.leave(connection);
        fanout.publish(&Channel::parse("a/b").unwrap(), ["1"]);
        assert!(inbox.try_next().is_none());
    }
}
