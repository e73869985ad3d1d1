//! librdkafka's callbacks: rebalances, errors, statistics, tokens. They run inside the poll.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList, error::KafkaResult};
use tracing::{debug, info, warn};

use super::shared::Shared;
use super::start::{Begun, Patience};
use crate::config::kafka::Start;
use crate::kafka::words;

/// The context of the client, whose methods librdkafka calls.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    /// Start positions of the partitions of the assignment that is under way.
    begun: Mutex<Vec<Begun>>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, begun: Mutex::default() }
    }

    /// Puts start positions into the list that librdkafka assigns.
    fn begin(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        if self.shared.config.start != Start::Latest {
            return;
        }
        let begun = self.shared.positions(consumer, &names(list), Patience::FIRST);
        for mut element in list.elements() {
            let is =
                |b: &&Begun| (&*b.topic, b.partition) == (element.topic(), element.partition());
            let position = match begun.iter().find(is) {
                // librdkafka itself reads the committed position.
                Some(known) if !known.is_new() => continue,
                Some(new) => new.position,
                // The partition is paused before anything is fetched, and no message is taken.
                None => 0,
            };
            // The only failure is an offset below zero, which no position has.
            let _ = element.set_offset(Offset::Offset(position));
        }
        *self.begun.lock() = begun;
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // The text for a position that the broker does not have, and for nothing else.
        if facility == "OFFSET" && text.contains("offset reset") {
            self.shared.kafka.offset_gaps.inc();
            warn!(source = %self.shared.name, detail = text, "the broker does not have the position; messages between the two are lost, or come again");
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!(source = %self.shared.name, facility, "{text}");
            }
            // What matters of the rest also comes as an error.
            _ => debug!(source = %self.shared.name, facility, "{text}"),
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        self.shared.statistics(json);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        self.shared.on_error(code, reason);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(tokens) = &self.shared.tokens else { return Err("there are no tokens".into()) };
        // This blocks the poll, so it does not wait for a newer token.
        Ok(tokens.token()?)
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let list = match rebalance {
            Rebalance::Assign(list) => return self.begin(consumer, list),
            Rebalance::Revoke(list) => list,
            Rebalance::Error(_) => return,
        };
        let revoked = names(list);
        if consumer.assignment_lost() {
            // Another member may own them already: nothing may be committed.
            warn!(source = %self.shared.name, partitions = revoked.len(), "the membership in the group was lost, and partitions with it; messages in flight are delivered again");
            self.shared.leave_taken();
            self.shared.update(|membership| membership.member = false);
        } else {
            self.shared.await_revoked(consumer, &revoked);
        }
        // A partition that comes back would still be paused in librdkafka. Nothing is fetched here: the
        // revocation ends before the next poll.
        self.shared.resume(consumer, &revoked);
        let mut assignment = self.shared.assignment();
        for (topic, partition) in &revoked {
            assignment.remove(topic, *partition);
        }
        let left = assignment.beginning();
        drop(assignment);
        self.shared.forget_commits();
        self.shared.update(|membership| membership.undecided = left);
        self.shared.kafka.rebalances.inc();
        if !revoked.is_empty() {
            info!(source = %self.shared.name, partitions = revoked.len(), "partitions were revoked");
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        let assigned = names(list);
        let shared = &self.shared;
        let mut assignment = shared.assignment();
        for (topic, partition) in &assigned {
            assignment.add(topic, *partition);
        }
        let begun = std::mem::take(&mut *self.begun.lock());
        let mut undecided = Vec::new();
        if shared.config.start == Start::Latest {
            undecided.clone_from(&assigned);
            undecided.retain(|(topic, number)| {
                begun.iter().all(|b| (&b.topic, b.partition) != (topic, *number))
            });
            assignment.undecide(&undecided);
        }
        for each in &begun {
            assignment.begin_at(&each.topic, each.partition, each.position, each.is_new());
        }
        let left = assignment.beginning();
        let partitions = assignment.names().len();
        let all = assignment.not_rewinding();
        drop(assignment);
        shared.pause(consumer, &undecided);
        shared.begin_with(consumer, &begun);
        // librdkafka keeps a partition paused over a rebalance.
        shared.resume(consumer, &all);
        shared.assignment().pressure.resumed();
        shared.kafka.rebalances.inc();
        shared.update(|membership| {
            membership.member = true;
            membership.undecided = left;
            membership.missing.retain(|(topic, _)| assigned.iter().all(|(name, _)| name != topic));
        });
        info!(source = %shared.name, new = assigned.len(), partitions, "partitions were assigned");
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        // One partition may fail alone.
        let of_one = || list.elements().iter().try_for_each(TopicPartitionListElem::error);
        let Err(error) = result.and_then(|()| of_one()) else {
            return self.shared.committed(Ok(()));
        };
        let code = error.rdkafka_error_code();
        if code == Some(Code::OffsetMetadataTooLarge) && self.shared.history().disable_notes() {
            warn!(source = %self.shared.name, "the brokers refuse metadata in commits; committing without it: topics created while the bridge is stopped begin at their end; raise the brokers' `offset.metadata.max.bytes`");
            self.shared.assignment().store_anew();
        }
        if code != Some(Code::NoOffset) {
            debug!(source = %self.shared.name, %error, "a commit failed; the next one covers it");
            self.shared.committed(Err(&words(&error)));
        }
    }
}

fn names(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|each| (each.topic().to_owned(), each.partition())).collect()
}
