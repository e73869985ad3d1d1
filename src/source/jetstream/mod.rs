//! The JetStream source: a durable pull consumer over async-nats, at least once: a message is acknowledged when it
//! is settled, never earlier, and each by itself.
//!
//! One task takes messages, hands them over and acknowledges them. It asks for messages only as far as there is
//! room, and not at all while the intake gate is closed; the end of a request that is open then is waited for. The server is
//! told of a message that is not settled yet at a third of its `ack_wait`, so that it is not delivered again.
//!
//! The consumer is bound, or created if there is none, whenever there is a new connection, whenever the server
//! says that it is gone, and when nothing is heard of it for two heartbeats. What was delivered by then and is not
//! here was lost on the way, or is a former process's; [`consumer`] says how the order is kept then, and
//! [`flight`] what becomes of a message that comes twice.
//!
//! On a drain the end of the open requests is waited for, and what came and was not handed over is given back without a
//! delay. What is in flight is waited for; the end is an answer of the server behind the last acknowledgement.
//!
//! Not here: streams are not made, consumers are not changed, nothing is published.

mod answers;
mod complaints;
mod consumer;
mod course;
mod cuts;
mod flight;
mod message;
mod outbox;
mod probe;
mod pulling;
mod standing;
mod taker;
mod watching;

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Room, Unclean};
use crate::config::nats::JetStreamConfig;
use crate::config::source::Limits;
use crate::delivery::Intake;
use crate::health::Part;
use crate::message::SourceName;
use crate::metrics::{JetStreamMetrics, SourceMetrics};
use crate::nats::{BuildError, Dialer};
use crate::shutdown::Shutdown;
pub use probe::probe;
use taker::Taker;

/// A source over one consumer of a stream.
pub struct JetStreamSource {
    name: SourceName,
    config: JetStreamConfig,
    dialer: Dialer,
    limits: Limits,
    room: Arc<Room>,
    metrics: SourceMetrics,
    jetstream: JetStreamMetrics,
    health: Part,
}

impl JetStreamSource {
    /// A source for `config`; reads its certificates, connects to no server.
    pub fn build(
        name: SourceName,
        config: JetStreamConfig,
        limits: Limits,
        (metrics, jetstream): (SourceMetrics, JetStreamMetrics),
        health: Part,
    ) -> Result<Self, BuildError> {
        let dialer = Dialer::new(&config.connection, &name)?;
        let room = Room::new(limits, metrics.clone());
        Ok(Self { name, config, dialer, limits, room, metrics, jetstream, health })
    }

    /// Takes messages until the drain, acknowledges what is settled, and gives back the rest; on the abort it
    /// leaves at once, and what is not acknowledged comes again.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let (told, changes) = mpsc::unbounded_channel();
        let tell = move |change| drop(told.send(change));
        let client = self.dialer.open(|options| options, tell).await;
        let client = client.map_err(|_| Unclean("the client could not be made"))?;
        Box::pin(Taker::new(self, client, intake, shutdown).run(changes)).await
    }
}

impl std::fmt::Debug for JetStreamSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JetStreamSource({})", self.name)
    }
}
