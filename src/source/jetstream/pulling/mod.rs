//! The subscription that a consumer delivers to, with the requests whose answers it hears.
//!
//! It is not ended while a request is open and its server well: async-nats lets go of a subscription before the server
//! knows, and what is on its way then is lost until its `ack_wait` is over. Requests are short instead, and who
//! wants no more messages waits for their end.

mod pulls;
mod status;

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Config;
use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use crate::source::Reservation;
use pulls::Pulls;
pub(super) use pulls::least_bytes;
pub(super) use status::Status;

/// Messages taken in one go.
const CHUNK: usize = 512;

/// A server that is silent for so long although it owes messages is gone: several heartbeats, for a busy one is late.
const STALLED: Duration = Duration::from_secs(5);

/// A client that takes no command by then is without a connection.
const PATIENCE: Duration = Duration::from_millis(500);

/// A subscription with the requests that it hears the answers of.
pub(super) struct Pulling {
    subscriber: Subscriber,
    pub(super) inbox: Subject,
    pub(super) pulls: Pulls,
    /// When something came last, or was asked for.
    heard: Instant,
}

/// What comes of a subscription.
pub(super) enum Heard {
    /// These.
    Messages,
    /// It is over.
    Over,
}

impl Pulling {
    /// Subscribes to a new inbox; `None` if the client takes no command now.
    pub(super) async fn open(client: &Client, limit: usize, consumer: &Config) -> Option<Self> {
        let inbox = Subject::from(client.new_inbox());
        let subscriber = timeout(PATIENCE, client.subscribe(inbox.clone())).await.ok()?.ok()?;
        let pulls = Pulls::new(limit, client.max_payload(), consumer);
        Some(Self { subscriber, inbox, pulls, heard: Instant::now() })
    }

    /// Waits for messages and puts them behind those in `messages`.
    pub(super) async fn next(&mut self, messages: &mut Vec<Message>) -> Heard {
        // A budget of turns would end a chunk early, and so the batches that are made of it.
        unconstrained(poll_fn(|context| {
            let before = messages.len();
            while messages.len() < CHUNK {
                match self.subscriber.poll_next_unpin(context) {
                    Poll::Ready(Some(message)) => messages.push(message),
                    Poll::Ready(None) if messages.len() == before => {
                        return Poll::Ready(Heard::Over);
                    }
                    Poll::Pending if messages.len() == before => return Poll::Pending,
                    // The end is told again.
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(Heard::Messages)
        }))
        .await
    }

    /// Something came at `now`.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Opens a request, and gives its words.
    pub(super) fn ask(&mut self, reservation: Reservation, now: Instant) -> Bytes {
        if self.pulls.outstanding() == 0 {
            self.heard = now;
        }
        self.pulls.open(reservation, now)
    }

    /// Whether the server has been silent although it owes messages.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.pulls.outstanding() > 0 && now.duration_since(self.heard) > STALLED
    }
}
