//! librdkafka's callbacks: rebalances, errors, numbers, tokens. It calls them while it is polled.

use std::sync::Arc;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{TopicPartitionList, error::KafkaResult};
use tracing::{debug, info, warn};

use super::shared::Shared;
use crate::kafka::Tokens;

/// What librdkafka calls.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Said of a position that the broker does not have, and of nothing else.
        if facility == "OFFSET" && text.contains("offset reset") {
            self.shared.kafka.offset_gaps.inc();
            warn!(source = %self.shared.name, detail = text, "the broker does not have the position; messages between the two are lost, or come again");
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!(source = %self.shared.name, facility, "{text}");
            }
            // What matters of the rest comes as an error, too.
            _ => debug!(source = %self.shared.name, facility, "{text}"),
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        self.shared.statistics(json);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        self.shared.trouble(code, reason);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Tokens::fetch(self.shared.tokens.as_ref(), &self.shared.runtime)
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else { return };
        let revoked = names(list);
        if consumer.assignment_lost() {
            // Somebody else may have them already: nothing may be committed.
            warn!(source = %self.shared.name, partitions = revoked.len(), "out of the group for a while: partitions were lost; what was under way comes again");
        } else {
            self.shared.drain(consumer, &revoked);
        }
        let mut assignment = self.shared.assignment();
        for (topic, partition) in &revoked {
            assignment.remove(topic, *partition);
        }
        drop(assignment);
        self.shared.kafka.rebalances.inc();
        if !revoked.is_empty() {
            info!(source = %self.shared.name, partitions = revoked.len(), "partitions were taken away");
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
        let all = assignment.names();
        drop(assignment);
        // librdkafka keeps a partition paused over a rebalance.
        shared.resume(consumer, &all);
        shared.flow().pressure.resumed();
        shared.kafka.rebalances.inc();
        shared.stand(|standing| {
            standing.member = true;
            standing.missing.retain(|(topic, _)| assigned.iter().all(|(name, _)| name != topic));
        });
        info!(source = %shared.name, new = assigned.len(), partitions = all.len(), "partitions were assigned");
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result
            && error.rdkafka_error_code() != Some(Code::NoOffset)
        {
            debug!(source = %self.shared.name, %error, "a commit failed; the next one says the same again");
        }
    }
}

fn names(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|each| (each.topic().to_owned(), each.partition())).collect()
}
