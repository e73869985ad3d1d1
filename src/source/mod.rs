//! Sources: connectors that take messages from a broker and acknowledge them when their duty ended.
//!
//! A source submits deliveries to its [`Intake`] and never waits for what becomes of them there. Its [`Room`] is
//! its only throttle, filled by a record of what it has taken: [`InFlight`] where the broker's acknowledgements
//! have an order, [`Leases`] where they have none.
//!
//! The seam is [`build`], [`Source::run`] and [`probe`]: with an arm each in the first and the last, a broker is
//! known to all who make, run or try sources.

// A build without a connector has no use for what they share.
#![cfg_attr(
    not(any(feature = "kafka", feature = "mqtt", feature = "nats", feature = "sqs")),
    allow(dead_code, unused_imports)
)]

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config::SourceConfig;
use crate::config::broker::SourceKind;
use crate::delivery::Intake;
use crate::health::Part;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::probe::{Complaint, Found, Looked, Step};
use crate::shutdown::Shutdown;

mod in_flight;
#[cfg(feature = "nats")]
pub mod jetstream;
#[cfg(feature = "kafka")]
pub mod kafka;
mod leases;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
mod numbered;
#[cfg(feature = "nats")]
mod recent_topics;
// Those who ask for each batch of messages need no more of it than the longest wait.
#[cfg_attr(not(any(feature = "kafka", feature = "mqtt", feature = "nats")), allow(dead_code))]
mod reconnect;
mod room;
#[cfg(feature = "sqs")]
pub mod sqs;

pub use in_flight::InFlight;
pub use leases::{Lease, Leases, Place};
pub use room::{Reservation, Room};

/// A source that is made and not yet running.
#[must_use]
pub struct Source {
    left: CancellationToken,
    run: Box<dyn FnOnce(Intake, Shutdown) -> BoxFuture<'static, Left> + Send>,
}

/// Of a source that runs: dropped, it has ended.
struct Open(CancellationToken);

/// When a source begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the bridge, which does not start if the source can't be what it is to be.
    Start,
    /// While the bridge runs, which does not end for it.
    Reload,
}

/// How a source left its broker.
type Left = Result<(), Unclean>;

/// A drain that was not clean: some of what was published comes again after the restart.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unclean(&'static str);

/// Why a source can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something that it is to be made with is of no use.
    #[error("{0}")]
    Unusable(#[source] Box<dyn Error + Send + Sync>),
    /// Its client was left out of this build; the feature that brings it.
    #[error("this build has no `{0}`; build it with `--features {0}`")]
    LeftOut(&'static str),
}

/// Makes a source: reads its certificates, and connects to nothing; but one that begins by a reload may be asked for
/// what it can't do without.
pub async fn build(
    config: &SourceConfig,
    metrics: &Metrics,
    health: Part,
    begin: Begin,
) -> Result<Source, BuildError> {
    let SourceConfig { name, limits, kind, .. } = config.clone();
    let numbers = metrics.source(&name);
    match kind {
        #[cfg(feature = "kafka")]
        SourceKind::Kafka(kafka) => {
            let numbers = (numbers, metrics.kafka(&name));
            let made = kafka::KafkaSource::build(name, kafka, limits, numbers, health).await;
            let made = made.map_err(unusable)?;
            Ok(Source::new(|intake, shutdown| made.run(intake, shutdown)))
        }
        #[cfg(feature = "mqtt")]
        SourceKind::Mqtt(mqtt) => {
            let numbers = (numbers, metrics.mqtt(&name));
            let made = mqtt::MqttSource::build(name, mqtt, limits, numbers, health).await;
            let made = made.map_err(unusable)?;
            Ok(Source::new(|intake, shutdown| made.run(intake, shutdown)))
        }
        #[cfg(feature = "nats")]
        SourceKind::Nats(nats) => {
            let made = nats::NatsSource::build(name, nats, limits, numbers, health);
            let made = made.map_err(unusable)?;
            let left = made.left.clone();
            Ok(Source { left, ..Source::new(|intake, shutdown| made.run(intake, shutdown)) })
        }
        #[cfg(feature = "nats")]
        SourceKind::JetStream(jetstream) => {
            let numbers = (numbers, metrics.jetstream(&name));
            let made = jetstream::JetStreamSource::build(name, jetstream, limits, numbers, health);
            let made = made.map_err(unusable)?;
            Ok(Source::new(|intake, shutdown| made.run(intake, shutdown)))
        }
        #[cfg(feature = "sqs")]
        SourceKind::Sqs(sqs) => {
            let numbers = (numbers, metrics.sqs(&name));
            let made = sqs::SqsSource::build(name, sqs, limits, numbers, health).await;
            let mut made = made.map_err(unusable)?;
            if begin == Begin::Reload {
                made.begin_by_reload().await.map_err(unusable)?;
            }
            Ok(Source::new(|intake, shutdown| made.run(intake, shutdown)))
        }
        #[cfg(not(all(feature = "kafka", feature = "mqtt", feature = "nats", feature = "sqs")))]
        other => {
            let _ = (limits, numbers, health, begin);
            Err(BuildError::LeftOut(other.broker().feature))
        }
    }
}

/// The numbers that a source of this configuration has from its begin, and no others.
pub fn numbers_of(config: &SourceConfig) -> Metrics {
    let (metrics, name) = (Metrics::new(), &config.name);
    drop(metrics.source(name));
    match &config.kind {
        SourceKind::Kafka(_) => drop(metrics.kafka(name)),
        SourceKind::Mqtt(_) => drop(metrics.mqtt(name)),
        SourceKind::Nats(_) => {}
        SourceKind::JetStream(_) => drop(metrics.jetstream(name)),
        SourceKind::Sqs(_) => drop(metrics.sqs(name)),
    }
    metrics
}

/// Tries the broker without taking a message, and says what is there, or why the source could not work. A drain takes
/// up to `grace`.
pub async fn probe(config: &SourceConfig, grace: Duration) -> Looked {
    let mut steps = vec![Step::Reach];
    steps.extend(config.kind.settings().tls().map(|_| Step::Tls));
    steps.extend([Step::Login, Step::Allowed]);
    // What is subscribed to at the others need not be there.
    let named =
        matches!(config.kind, SourceKind::Kafka(_) | SourceKind::JetStream(_) | SourceKind::Sqs(_));
    steps.extend(named.then_some(Step::Exists));
    Looked::of(&steps, try_broker(config, grace).await)
}

async fn try_broker(config: &SourceConfig, grace: Duration) -> Result<Found, Complaint> {
    match &config.kind {
        #[cfg(feature = "kafka")]
        SourceKind::Kafka(kafka) => kafka::probe(kafka.clone()).await,
        #[cfg(feature = "mqtt")]
        SourceKind::Mqtt(mqtt) => mqtt::probe(mqtt).await.map(Found::from),
        #[cfg(feature = "nats")]
        SourceKind::Nats(nats) => nats::probe(nats).await.map(Found::from),
        #[cfg(feature = "nats")]
        SourceKind::JetStream(jetstream) => jetstream::probe(jetstream, config.limits).await,
        #[cfg(feature = "sqs")]
        SourceKind::Sqs(sqs) => sqs::probe(sqs, grace).await,
        #[cfg(not(all(feature = "kafka", feature = "mqtt", feature = "nats", feature = "sqs")))]
        other => {
            let words = BuildError::LeftOut(other.broker().feature).to_string();
            Err(Complaint::of_words(Step::Reach, &words))
        }
    }
}

/// What a source of this kind would submit of a message that it took: several, or none, where it is in an envelope.
/// An error is why it can't be read.
pub fn unwrap(kind: &SourceKind, message: &Message) -> Result<Vec<Message>, String> {
    match kind {
        #[cfg(feature = "sqs")]
        SourceKind::Sqs(sqs) => sqs::messages(&sqs.unwrap, message),
        #[cfg(not(feature = "sqs"))]
        SourceKind::Sqs(_) => Err(BuildError::LeftOut("sqs").to_string()),
        _ => Ok(vec![message.clone()]),
    }
}

impl Source {
    fn new<F: Future<Output = Left> + Send + 'static>(
        run: impl FnOnce(Intake, Shutdown) -> F + Send + 'static,
    ) -> Self {
        let run = Box::new(|intake, shutdown| Box::pin(run(intake, shutdown)) as BoxFuture<_>);
        Self { left: CancellationToken::new(), run }
    }

    /// Cancelled when it takes nothing more from its broker and owes it nothing: when it has ended, or before that,
    /// where nothing is acknowledged.
    pub fn left(&self) -> CancellationToken {
        self.left.clone()
    }

    /// Takes messages until the drain, acknowledges what was settled, and leaves; on the abort it leaves at once,
    /// and what was not acknowledged stays with the broker.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let _open = Open(self.left);
        (self.run)(intake, shutdown).await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn unusable(why: impl Into<Box<dyn Error + Send + Sync>>) -> BuildError {
    BuildError::Unusable(why.into())
}
