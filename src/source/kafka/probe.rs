//! Whether a cluster can be reached, lets us in and has our topics: for `check --connect`. Joins no group
//! and commits nothing.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{Metadata, MetadataPartition};

use super::subscription::counts;
use super::{diagnosis, settings};
use crate::config::kafka::{Chosen, KafkaConfig};
use crate::kafka::{TokenCache, Tokens, of_code, plain, step, words};
use crate::probe::{Complaint, Found, Step};

/// What would take records, or a place in the group.
const UNTRIED: &str = "topics and group may be described; whether they may be read (`Read` on both) was not tried, as that would take partitions from a running bridge";

/// Where a regular expression takes no topic.
const UNSEEN: &str = "the group may be described; no topic is seen yet, and one that may not be described is not seen either; whether they may be read (`Read` on both) was not tried";

/// Where there is no topic at all for which a group could be asked.
const UNASKED: &str = "no topic is seen yet: neither whether topics and group may be described nor whether they may be read (`Read` on both) was tried";

/// Limit for the whole probe.
const PATIENCE: Duration = Duration::from_secs(15);

/// A refused connection is not retried for the whole of it.
const RETRIES_LEFT: [Duration; 2] = [Duration::ZERO, Duration::from_secs(11)];

/// Limit for one answer, so that errors are noticed in between.
const ANSWER: Duration = Duration::from_secs(1);

struct ProbeContext {
    tokens: Option<TokenCache>,
    /// The most telling error so far.
    error: Mutex<Option<(Code, String)>>,
}

/// What was found, or why the source could not work: a clause, and a hint where there is one.
pub async fn probe(config: KafkaConfig) -> Result<Found, Complaint> {
    let tokens = Tokens::build(&config).await;
    let tokens = tokens.map_err(|error| Complaint::of_words(Step::Login, &error.to_string()))?;
    let cache = tokens.map(TokenCache::open);
    if let Some(cache) = &cache {
        // The first answer tells, be it a token or a refusal.
        let _ = tokio::time::timeout(PATIENCE, cache.changed()).await;
        let said = cache.token().map(drop);
        said.map_err(|why| complaint(&config, Code::Authentication, &why))?;
    }
    let asked = tokio::task::spawn_blocking(move || ask(&config, cache));
    asked.await.map_err(|error| unusable(&error.to_string()))?
}

fn ask(config: &KafkaConfig, tokens: Option<TokenCache>) -> Result<Found, Complaint> {
    let properties = settings::properties(config);
    let mut properties = properties.map_err(|error| unusable(&error.to_string()))?;
    properties.set("enable.auto.commit", "false").set("statistics.interval.ms", "0");
    let heard = ProbeContext { tokens, error: Mutex::default() };
    let client: BaseConsumer<ProbeContext> =
        BaseConsumer::from_config_and_context(&properties, heard)
            .map_err(|error| unusable(&words(&error)))?;
    let deadline = Instant::now() + PATIENCE;
    let metadata = until(config, &client, deadline, || client.fetch_metadata(None, ANSWER))?;
    let selection = &config.topics;
    let there = counts(&metadata);
    let chosen = selection.choose(there.keys().map(String::as_str));
    let mut positions = TopicPartitionList::new();
    for name in &chosen.taken {
        if selection.names().contains(name) {
            let ask = || client.fetch_metadata(Some(name), ANSWER);
            let found = until(config, &client, deadline, ask)?;
            for partition in partitions(config, &found, name)? {
                positions.add_partition(name, partition);
            }
        } else if let Some(count) = there.get(name) {
            positions.add_partition_range(name, 0, count - 1);
        }
    }
    let count = positions.count();
    // A group is asked for partitions: where a regular expression takes none yet, any topic's do.
    if let Some(name) = there.keys().next().filter(|_| count == 0) {
        positions.add_partition(name, 0);
    }
    let untried = match (count, positions.count()) {
        (_, 0) => UNASKED,
        (0, _) => UNSEEN,
        _ => UNTRIED,
    };
    if positions.count() > 0 {
        // Asks the group's coordinator, which may refuse what brokers do not.
        until(config, &client, deadline, || client.committed_offsets(positions.clone(), ANSWER))?;
    }
    let brokers = metadata.brokers().len();
    let topics = chosen.taken.len();
    let what = format!(
        "{brokers} {}, {topics} {} with {count} {}{}",
        plural(brokers, "broker"),
        plural(topics, "topic"),
        plural(count, "partition"),
        left_out(&chosen),
    );
    Ok(Found { untried: Some((Step::Allowed, untried)), ..Found::from(what) })
}

/// Topics that regular expressions match and that are left out.
fn left_out(chosen: &Chosen) -> String {
    let Chosen { internal, dead_letters, .. } = chosen;
    let mut said = Vec::new();
    if !internal.is_empty() {
        said.push(format!("{} internal", internal.len()));
    }
    if !dead_letters.is_empty() {
        said.push(format!("{} of dead letters", dead_letters.len()));
    }
    let all = internal.len() + dead_letters.len();
    let what = plural(all, "topic");
    if said.is_empty() {
        String::new()
    } else {
        format!("; left out: {} {what}", said.join(" and "))
    }
}

/// Retries until it works, the time is over, or an error comes that waiting does not cure.
fn until<T>(
    config: &KafkaConfig,
    client: &BaseConsumer<ProbeContext>,
    deadline: Instant,
    ask: impl Fn() -> Result<T, KafkaError>,
) -> Result<T, Complaint> {
    loop {
        listen(client, Duration::ZERO);
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        listen(client, Duration::from_millis(100));
        let heard = client.context().error.lock().clone();
        if let Some((code, reason)) = &heard
            && (rank(*code) > 1
                || Instant::now() + RETRIES_LEFT[usize::from(rank(*code))] >= deadline)
        {
            return Err(complaint(config, *code, plain(reason)));
        }
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        if matches!(code, Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed) {
            return Err(complaint(config, code, &of_code(code)));
        }
        if Instant::now() >= deadline {
            return Err(complaint(config, Code::AllBrokersDown, "no broker answers"));
        }
    }
}

/// Polls for errors. They can come faster than `patience` ends.
fn listen(client: &BaseConsumer<ProbeContext>, patience: Duration) {
    let until = Instant::now() + patience;
    for _ in 0..100 {
        let left = until.saturating_duration_since(Instant::now());
        if client.poll(left).is_none() && left.is_zero() {
            break;
        }
    }
}

fn partitions(
    config: &KafkaConfig,
    metadata: &Metadata,
    topic: &str,
) -> Result<Vec<i32>, Complaint> {
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let refuse = |code: Code| {
        let why = format!("the topic `{topic}` can't be read: {}", of_code(code));
        Err(complaint(config, code, &why))
    };
    match found.map(|found| (found.error(), found)) {
        None => refuse(Code::UnknownTopicOrPartition),
        Some((Some(error), _)) => refuse(error.into()),
        Some((None, found)) => Ok(found.partitions().iter().map(MetadataPartition::id).collect()),
    }
}

fn complaint(config: &KafkaConfig, code: Code, what: &str) -> Complaint {
    Complaint::new(step(code), what, diagnosis::hint(code, config.sasl.as_ref()))
}

/// Before anything was asked.
fn unusable(words: &str) -> Complaint {
    Complaint::of_words(Step::Reach, words)
}

fn plural(count: usize, one: &str) -> String {
    if count == 1 { one.to_owned() } else { format!("{one}s") }
}

/// How telling an error is; one above 1 does not pass by waiting.
fn rank(code: Code) -> u8 {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => 3,
        Code::Resolve => 2,
        Code::BrokerTransportFailure => 1,
        _ => 0,
    }
}

impl ClientContext for ProbeContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = diagnosis::kind(error.rdkafka_error_code().unwrap_or(Code::Fail), reason);
        let mut kept = self.error.lock();
        if kept.as_ref().is_none_or(|(before, _)| rank(*before) < rank(code)) {
            *kept = Some((code, reason.to_owned()));
        }
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(tokens) = &self.tokens else { return Err("there are no tokens".into()) };
        Ok(tokens.token()?)
    }
}

impl ConsumerContext for ProbeContext {}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

    use super::*;
    use crate::config::kafka::Topics;
    use crate::config::kafka::tests::config;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_not_tried_is_not_said_to_be_allowed() {
        const FORBIDDEN: Answer = Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        let mock = MockCluster::new(1).unwrap();
        let look = async |topics: &str| {
            let (brokers, topics) = (vec![mock.bootstrap_servers()], Topics::new([topics.into()]));
            probe(KafkaConfig { brokers, topics, ..config() }).await
        };
        let untried = |found: Result<Found, Complaint>| found.unwrap().untried.unwrap().1;
        assert_eq!(untried(look("^orders").await), UNASKED);
        mock.create_topic("else", 1, 1).unwrap();
        assert_eq!(untried(look("^orders").await), UNSEEN);
        mock.request_errors(Api::OffsetFetch, &[FORBIDDEN; 9]);
        assert_eq!(look("^orders").await.unwrap_err().step, Step::Allowed, "the group is asked");
        mock.clear_request_errors(Api::OffsetFetch);
        assert_eq!(untried(look("^el").await), UNTRIED);
    }
}
