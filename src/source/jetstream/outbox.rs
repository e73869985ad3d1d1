//! What is to be sent to the server, in its order: acknowledgements and requests. What could not be sent yet
//! stays, so that a connection that is lost, or a server that hangs, holds up nothing else.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::time::timeout;

use super::flight::Place;

/// A server that takes nothing is waited for so long before other work is done.
const PATIENCE: Duration = Duration::from_millis(500);

/// Done.
pub(super) const ACKNOWLEDGE: Bytes = Bytes::from_static(b"+ACK");

/// Not done yet: the message stays ours for another `ack_wait`.
pub(super) const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Not done, to be delivered again at once.
pub(super) const GIVE_BACK: Bytes = Bytes::from_static(b"-NAK");

/// Not done, to be delivered again after a while.
pub(super) fn give_back_after(delay: Duration) -> Bytes {
    format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()
}

/// What is to be sent.
pub(super) struct Outbox {
    client: Client,
    waiting: VecDeque<OutboundMessage>,
}

impl Outbox {
    /// Nothing to send.
    pub(super) fn new(client: Client) -> Self {
        Self { client, waiting: VecDeque::new() }
    }

    /// Sends something later.
    pub(super) fn put(&mut self, subject: Subject, payload: Bytes) {
        self.waiting.push_back(OutboundMessage { subject, payload, reply: None, headers: None });
    }

    /// Sends a request later.
    pub(super) fn ask(&mut self, subject: Subject, answer_to: Subject, payload: Bytes) {
        let reply = Some(answer_to);
        self.waiting.push_back(OutboundMessage { subject, payload, reply, headers: None });
    }

    /// Whether everything was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Messages of these sequences whose acknowledgement was not sent yet.
    pub(super) fn acknowledgements_among(&self, sequences: &RangeInclusive<u64>) -> usize {
        let acknowledged = self.waiting.iter().filter(|letter| letter.payload == ACKNOWLEDGE);
        let places = acknowledged.filter_map(|letter| Place::read(&letter.subject));
        let among = places.map(|place| place.stream).filter(|it| sequences.contains(it));
        among.collect::<HashSet<_>>().len()
    }

    /// Forgets what was not sent: the consumer is another one.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Whether there is a connection to send over.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Sends what waits, as far as the connection takes it within a moment.
    pub(super) async fn send(&mut self) {
        if !self.waiting.is_empty() && self.is_connected() {
            // What is cut off was not sent, and stays.
            let _ = timeout(PATIENCE, self.send_all()).await;
        }
    }

    /// As a sink the client is asked for room first, so that nothing is copied for it. It does not look at the subjects
    /// then, and need not: they are those of a server, or were looked at with the configuration.
    async fn send_all(&mut self) {
        while !self.waiting.is_empty() {
            let sent = match poll_fn(|context| self.client.poll_ready_unpin(context)).await {
                Ok(()) => self.waiting.pop_front().map(|next| self.client.start_send_unpin(next)),
                Err(error) => Some(Err(error)),
            };
            if let Some(Err(error)) = sent {
                // The client is closed; whoever works with it sees it elsewhere.
                tracing::debug!(%error, "nothing can be sent to NATS");
                return;
            }
        }
    }
}
