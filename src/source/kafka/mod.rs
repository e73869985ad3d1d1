//! The Kafka source: a consumer group over librdkafka, at least once, offsets committed behind what is
//! settled and never before.
//!
//! librdkafka is polled on a thread of its own, because it calls back while it is polled, and some of
//! what it asks for takes time: a partition that is taken away is waited for (no longer than
//! `drain_timeout`) until the answers to its messages are in, and its offset is committed, before the
//! next owner may have it. Heartbeats are librdkafka's own and go on meanwhile. Settlements come from
//! other threads into the records of the partitions, so nothing waits for the poller.
//!
//! Each ownership of a partition is a generation with an in-flight record of its own. Stored for the
//! next commit is only the position behind the longest settled prefix; what is settled late, for an
//! earlier generation, finds a record that nobody reads. A message that was given back sets its
//! partition back to it, in a new generation.
//!
//! A group begins where `start` says, once. With `latest` the first position in each partition is committed as
//! soon as it is assigned, and what is born while the group lives begins with its first message.
//!
//! Nothing slows the source but its in-flight limits, which all partitions share. A short want of room
//! just leaves the queue alone; a longer one pauses every partition, while the queue is polled on.
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
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::oneshot;
use tracing::warn;

use super::Room;
use crate::config::kafka::KafkaConfig;
use crate::config::source::Limits;
use crate::delivery::Intake;
use crate::health::Part;
use crate::kafka::{self, BuildError, Desk, Tokens};
use crate::message::SourceName;
use crate::metrics::{KafkaMetrics, SourceMetrics};
use crate::shutdown::Shutdown;
use poller::Poller;
pub use probe::probe;
use shared::Shared;

/// A partition with a message that was given back is read again within this, the first time, …
const REWIND_BASE: Duration = Duration::from_millis(100);

/// … and never later than after this.
const REWIND_CAP: Duration = Duration::from_secs(30);

/// A broker has this long to answer: nothing is taken meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a partition begins is asked for again after this at least: nothing is taken while it is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Leaving the group and closing the client may take this long; after that it is left behind.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// On the abort the client has this long.
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

/// A drain that was not clean: some of what was published comes again after the restart.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unclean(&'static str);

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

    /// Takes messages until the drain, commits what was settled, and leaves the group; on the abort it
    /// leaves at once, and what was not committed comes again.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let Self { name, config, properties, room, metrics, kafka, health, tokens } = self;
        let desk = tokens.map(|tokens| Arc::new(Desk::open(tokens)));
        let shared = Arc::new(Shared::new(
            (name.clone(), config, desk),
            room,
            (metrics, kafka),
            health,
            intake,
            shutdown.clone(),
        ));
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
            warn!(source = %name, %error, "no thread could be started");
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
                warn!(source = %name, "leaving the group takes too long, and is not waited for");
            },
            () = shutdown.abort() => {}
        }
        result.unwrap_or(Err(Unclean("the poller broke off")))
    }
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KafkaSource({})", self.name)
    }
}
