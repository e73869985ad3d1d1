//! The subscribed topics: those with a name, and those of the cluster that regular expressions match, as of
//! the last refresh.
//!
//! librdkafka has regular expressions, too, and matches the broker's internal topics with them; with the newer
//! protocol the broker's own dialect applies. So the bridge matches itself, and subscribes to names.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::Metadata;
use tracing::info;

use super::ANSWER_TIMEOUT;
use super::shared::Shared;
use super::start::millis;
use crate::config::kafka::Start;
use crate::kafka::words;

/// How often the topics of the cluster are listed.
const REFRESH: &str = "topic.metadata.refresh.interval.ms";

/// Wait after a refresh that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How often missing topics are asked for.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The subscription of one client.
pub(super) struct Subscription {
    topics: Vec<String>,
    every: Duration,
    /// `None`: no refresh is needed.
    look_at: Option<Instant>,
    ask_at: Instant,
}

impl Subscription {
    /// Subscribes at once if all topics are named; else at the first refresh.
    pub(super) fn open(
        shared: &Shared,
        consumer: &BaseConsumer<impl ConsumerContext>,
        properties: &ClientConfig,
    ) -> Result<Self, String> {
        let now = Instant::now();
        let every = properties.get(REFRESH).and_then(|text| text.parse().ok());
        let every = Duration::from_millis(every.filter(|every| *every > 0).unwrap_or(30_000));
        let look = shared.has_patterns() || shared.config.start == Start::Latest;
        let look_at = look.then_some(now);
        let mut open = Self { topics: Vec::new(), every, look_at, ask_at: now + ASK_EVERY };
        if !shared.has_patterns() {
            open.take(shared, consumer, shared.selection.names().to_vec())?;
        }
        Ok(open)
    }

    /// Lists the cluster's topics, and asks for missing ones, when due; an error means that the client has to
    /// be recreated.
    pub(super) fn look(
        &mut self,
        shared: &Shared,
        consumer: &BaseConsumer<impl ConsumerContext>,
        now: Instant,
    ) -> Result<(), String> {
        if now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            ask_for_missing(shared, consumer);
        }
        if self.look_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        let Ok(metadata) = consumer.fetch_metadata(None, ANSWER_TIMEOUT) else {
            // The callback for errors reports why.
            self.look_at = Some(Instant::now() + AGAIN);
            return Ok(());
        };
        self.look_at = shared.has_patterns().then(|| Instant::now() + self.every);
        let there = counts(&metadata);
        let chosen = shared.selection.choose(there.keys().map(String::as_str));
        let taken =
            chosen.taken.iter().filter_map(|topic| Some((topic.clone(), *there.get(topic)?)));
        shared.history().refresh(taken.collect(), millis());
        if shared.has_patterns() {
            if chosen.taken.is_empty() {
                shared.update(|membership| {
                    membership.member = false;
                    membership.last_error =
                        Some("`topics` matches no topic of the cluster".to_owned());
                });
            }
            self.take(shared, consumer, chosen.taken)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        shared: &Shared,
        consumer: &BaseConsumer<impl ConsumerContext>,
        topics: Vec<String>,
    ) -> Result<(), String> {
        if topics == self.topics {
            return Ok(());
        }
        if shared.has_patterns() {
            let more = topics.iter().filter(|topic| !self.topics.contains(topic)).count();
            let less = self.topics.iter().filter(|topic| !topics.contains(topic)).count();
            info!(source = %shared.name, topics = topics.len(), more, less, "the regular expressions match other topics than before; subscribing anew");
        }
        if topics.is_empty() {
            consumer.unsubscribe();
        } else {
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            consumer.subscribe(&names).map_err(|error| words(&error))?;
        }
        self.topics = topics;
        Ok(())
    }
}

/// The topics of a cluster that can be read, with their partitions.
pub(super) fn counts(metadata: &Metadata) -> BTreeMap<String, i32> {
    let there = metadata.topics().iter().filter(|topic| {
        topic.error().is_none_or(|error| Code::from(error) == Code::LeaderNotAvailable)
    });
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    there.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect()
}

/// Asks whether missing topics exist by now.
fn ask_for_missing(shared: &Shared, consumer: &BaseConsumer<impl ConsumerContext>) {
    let until = Instant::now() + ANSWER_TIMEOUT;
    for missing in shared.missing() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The others get their turn when these exist or the brokers answer again.
            break;
        }
        let found = consumer.fetch_metadata(Some(&missing), left);
        let there = found.is_ok_and(|metadata| {
            metadata.topics().iter().any(|t| t.name() == missing && t.error().is_none())
        });
        if there {
            shared.update(|s| s.missing.retain(|(topic, _)| *topic != missing));
        }
    }
}
