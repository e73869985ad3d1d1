//! The Kafka source: a consumer group over librdkafka, at least once: an offset is committed after all
//! messages before it are settled, never earlier.
//!
//! librdkafka is polled on a thread of its own, because it runs its callbacks inside the poll, and the one
//! for a revoked partition takes time: it waits (no longer than `drain_timeout`) until the partition's
//! messages are settled, and commits the offset, before the partition goes to its next owner. Heartbeats
//! are librdkafka's own and go on meanwhile. Settlements come from other threads into the records of the
//! partitions, so nothing waits for the poller.
//!
//! Each ownership of a partition is a generation with an in-flight record of its own. Only the position
//! behind the longest settled prefix is stored for the next commit; a late settlement, for an earlier
//! generation, goes to a record that nobody reads. A released message makes its partition seek back to
//! it, in a new generation.
//!
//! A group begins where `start` says, once. With `latest` the first position in each partition is committed as
//! soon as it is assigned; a topic or partition created later is read from its first message.
//!
//! Nothing slows the source but its in-flight limits, which all partitions share, and the intake gate. A short lack of room
//! only delays the next poll; a longer one pauses every partition, and polling goes on.
//! A rebalance resumes them all, since librdkafka would keep them paused for their next owner.
//!
//! Not here: writing to Kafka, schemas, decompression (librdkafka does that).

mod assignment;
mod context;
mod diagnosis;
mod flow;
mod membership;
mod park;
mod poller;
mod positions;
mod probe;
mod record;
mod settings;
mod shared;
mod start;
mod statistics;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::oneshot;
use tracing::warn;

use super::{Room, Unclean};
use crate::config::kafka::KafkaConfig;
use crate::config::source::Limits;
use crate::delivery::Intake;
use crate::health::Part;
use crate::kafka::{self, BuildError, Tokens};
use crate::message::SourceName;
use crate::metrics::{KafkaMetrics, SourceMetrics};
use crate::shutdown::Shutdown;
use poller::Poller;
pub use probe::probe;
use shared::Shared;

/// First backoff before a partition with a released message is read again, …
const REWIND_BASE: Duration = Duration::from_millis(100);

/// … and the longest.
const REWIND_CAP: Duration = Duration::from_secs(30);

/// Timeout of a request to a broker: no message is taken meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Least wait before the start position of a partition is asked for again: no message is taken while it is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Limit for leaving the group and closing the client; after that the thread is abandoned.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same limit after an abort.
const ABORT_TIMEOUT: Duration = Duration::from_millis(300);

/// A source over one consumer group.
pub struct KafkaSource {
    name: SourceName,
    config: KafkaConfig,
    properties: ClientConfig,
    room: Arc<Room>,
    metrics: SourceMetrics,
    kafka: KafkaMetrics,
    health: Part,
    tokens: Option<Tokens>,
}

impl KafkaSource {
    /// A source for `config`; reads its certificates and the files of AWS, connects to no broker.
    pub async fn build(
        name: SourceName,
        config: KafkaConfig,
        limits: Limits,
        (metrics, kafka): (SourceMetrics, KafkaMetrics),
        health: Part,
    ) -> Result<Self, BuildError> {
        let properties = settings::properties(&config)?;
        kafka::check::<BaseConsumer>(&properties)?;
        let room = Room::new(limits, metrics.clone());
        let tokens = Tokens::build(&config).await?;
        Ok(Self { name, config, properties, room, metrics, kafka, health, tokens })
    }

    /// Takes messages until the drain, commits what is settled, and leaves the group; on the abort it
    /// leaves at once, and uncommitted messages come again.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let (name, properties) = (self.name.clone(), self.properties.clone());
        let shared = Arc::new(Shared::new(self, intake, shutdown.clone()));
        let (committed, mut result) = oneshot::channel();
        let (closed, end) = oneshot::channel::<()>();
        let committed = Some(committed);
        let poller = Poller { shared, properties, held: None, committed, password: None };
        let thread = std::thread::Builder::new().name(format!("kafka {name}"));
        let spawned = thread.spawn(move || {
            // Dropped when the thread ends, however it does.
            let _closed = closed;
            poller.run();
        });
        if let Err(error) = spawned {
            warn!(source = %name, %error, "the thread of the Kafka client could not be started; the source ends");
            return Err(Unclean("no thread could be started"));
        }
        let result = tokio::select! {
            result = &mut result => result,
            () = shutdown.abort() => {
                let _ = tokio::time::timeout(ABORT_TIMEOUT, end).await;
                return Err(Unclean("aborted"));
            }
        };
        tokio::select! {
            closed = tokio::time::timeout(CLOSE_TIMEOUT, end) => if closed.is_err() {
                warn!(source = %name, "leaving the group takes too long; stopping without waiting for it");
            },
            () = shutdown.abort() => {}
        }
        result.unwrap_or(Err(Unclean("the polling thread ended unexpectedly")))
    }
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KafkaSource({})", self.name)
    }
}
