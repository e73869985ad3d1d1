//! Dead letters as records of a Kafka topic, confirmed by every replica in sync before their messages are
//! acknowledged.
//!
//! A record has the key, the headers and the payload of its message, byte for byte, and behind its headers
//! those of [`headers`](super::headers) with the reason. The key chooses the partition as Java's client
//! would, so that the rejects of a key keep their order unless one has to be written anew. Its timestamp is
//! now: with the message's own a topic's retention could remove it at once. The message's own is in a header.
//!
//! The producer is idempotent: librdkafka's own retries make no duplicates. It gives up a record after a
//! while, so that the reason can be reported; then a new producer writes the record anew, perhaps a second
//! time. Later records of the same batch that were confirmed meanwhile are remembered and not written again;
//! the failed record comes behind them. A restart forgets them, and they are written again.
//!
//! A record that is too large for the topic is never cut: it is retried until the topic's
//! `max.message.bytes` is raised. The others of its batch are written meanwhile, those of later batches are
//! not, and no later reject is settled, written or not.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, Producer as _, ProducerContext, ThreadedProducer,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::headers::{goes_in_circles, headers};
use super::left::Left;
use super::{Record, Target, WriteError};
use crate::config::kafka::KafkaConfig;
use crate::kafka::{
    BuildError, TokenCache, Tokens, check, connection, password, plain, step, with_password, words,
};
use crate::message::SourceName;
use crate::metrics::{DeadLetterMetrics, ends_at};
use crate::probe::{Complaint, Step};

/// The largest value, so that only the topic's own limit counts.
const LARGEST: &str = "1000000000";

const DEFAULTS: [(&str, &str); 3] = [
    ("message.max.bytes", LARGEST),
    ("partitioner", "murmur2_random"),
    // How long a record waits for a missing topic; it is retried after that.
    ("topic.metadata.propagation.max.ms", "5000"),
];

/// Timeout of a record's confirmation: after it the failure is reported, and the record written anew.
const GIVE_UP_MS: &str = "10000";

const FIXED: [(&str, &str); 4] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("message.timeout.ms", GIVE_UP_MS),
    ("delivery.report.only.error", "false"),
];

/// Timeout of the request for the topic's metadata.
const ANSWER: Duration = Duration::from_secs(8);

/// A topic of the cluster of a source.
pub struct KafkaTarget {
    cluster: KafkaConfig,
    /// Properties of a producer, without its password.
    properties: ClientConfig,
    topic: String,
    /// Sources that may be reading the topic themselves.
    readers: Vec<SourceName>,
    tokens: Option<Arc<TokenCache>>,
    trouble: Trouble,
    /// `None` after a failure: a new one is made, with the password read anew.
    producer: Option<ThreadedProducer<Context>>,
    left: Left,
}

/// The last connection error of a producer; every producer has its own.
type Trouble = Arc<Mutex<Option<(Code, String)>>>;

struct Context {
    tokens: Option<Arc<TokenCache>>,
    trouble: Trouble,
    runtime: Handle,
}

/// A record on its way.
struct Waiting {
    number: usize,
    told: mpsc::UnboundedSender<(usize, Result<(), Code>)>,
}

/// Why a record was not written.
struct Failure {
    number: usize,
    code: Code,
}

impl KafkaTarget {
    /// A target on the cluster of a source; reads certificates, connects to no broker. The rejects of
    /// `readers` must not come from the topic itself.
    pub async fn build(
        cluster: KafkaConfig,
        topic: String,
        readers: Vec<SourceName>,
    ) -> Result<Self, BuildError> {
        let (properties, tokens) = examined(&cluster).await?;
        let tokens = tokens.map(TokenCache::open).map(Arc::new);
        let trouble = Trouble::default();
        let (producer, left) = (None, Left::default());
        Ok(Self { cluster, properties, topic, readers, tokens, trouble, producer, left })
    }

    /// Checks whether a target on this cluster can be built; fetches no token.
    pub async fn examine(cluster: &KafkaConfig) -> Result<(), BuildError> {
        examined(cluster).await.map(drop)
    }

    /// The topic's number of partitions; the error is the reason why it could not be written.
    pub async fn look(&mut self) -> Result<usize, Complaint> {
        let found = self.ask().await;
        match found {
            Ok(_) => *self.trouble.lock() = None,
            Err(_) => self.close(),
        }
        found
    }

    async fn ask(&mut self) -> Result<usize, Complaint> {
        let unusable = |why: String| Complaint::of_words(Step::Reach, &why);
        let producer = self.producer().await.map_err(unusable)?.clone();
        let topic = self.topic.clone();
        let asked = tokio::task::spawn_blocking(move || {
            producer.client().fetch_metadata(Some(&topic), ANSWER)
        });
        let metadata = asked
            .await
            .map_err(|error| unusable(error.to_string()))?
            .map_err(|error| self.complaint(error.rdkafka_error_code().unwrap_or(Code::Fail)))?;
        match metadata.topics().iter().find(|found| found.name() == self.topic) {
            None => Err(self.complaint(Code::UnknownTopicOrPartition)),
            Some(found) => match found.error() {
                Some(error) => Err(self.complaint(error.into())),
                None => Ok(found.partitions().len()),
            },
        }
    }

    async fn producer(&mut self) -> Result<&ThreadedProducer<Context>, String> {
        if self.producer.is_none() {
            let password = match password(&self.cluster) {
                Some(password) => Some(password.reread().await),
                None => None,
            };
            let properties = with_password(&self.properties, password.as_deref());
            // The old producer's error may be over, and it may report more until it is closed.
            self.trouble = Trouble::default();
            let context = Context {
                tokens: self.tokens.clone(),
                trouble: self.trouble.clone(),
                runtime: Handle::current(),
            };
            let producer = ThreadedProducer::from_config_and_context(&properties, context)
                .map_err(|error| words(&error))?;
            self.producer = Some(producer);
        }
        self.producer.as_ref().ok_or_else(|| "there is no producer".to_owned())
    }

    /// Writes the records not `done` yet, and waits for every confirmation.
    async fn deliver(&mut self, records: &[Record], done: &mut [bool]) -> Result<(), String> {
        if let Some(record) = records
            .iter()
            .find(|record| goes_in_circles(&record.message, &self.topic, &self.readers))
        {
            return Err(format!(
                "`{}` reads its own dead letters, which go to the topic `{}`, on `{}`: take that out of `topics`",
                record.message.source,
                self.topic,
                record.message.topic.as_str()
            ));
        }
        let open: Vec<usize> = (0..records.len()).filter(|at| !done[*at]).collect();
        let mut failures = self.send(records, done, &open).await?;
        // A batch with a too large record has others that fit, so they are sent one by one. For other errors
        // that would only repeat the wait for each record.
        let large = |failure: &Failure| failure.code == Code::MessageSizeTooLarge;
        if open.len() > 1 {
            let mut alone: Vec<_> =
                failures.extract_if(.., |failure| large(failure)).map(|f| f.number).collect();
            alone.sort_unstable();
            for number in alone {
                let failed = self.send(records, done, &[number]).await?;
                let stop = !failed.iter().all(large);
                failures.extend(failed);
                if stop {
                    break;
                }
            }
        }
        if failures.iter().any(|failure| !large(failure)) {
            self.close();
        }
        match failures.iter().min_by_key(|failure| failure.number) {
            None => {
                *self.trouble.lock() = None;
                Ok(())
            }
            Some(failure) if large(failure) => Err(self.too_large(&records[failure.number])),
            Some(failure) => Err(self.why(failure.code)),
        }
    }

    /// Writes some of the records; confirmed ones are marked `done`, the others returned.
    async fn send(
        &mut self,
        records: &[Record],
        done: &mut [bool],
        numbers: &[usize],
    ) -> Result<Vec<Failure>, String> {
        let topic = self.topic.clone();
        let producer = self.producer().await?;
        let (told, mut reports) = mpsc::unbounded_channel();
        let mut failures = Vec::new();
        for &number in numbers {
            let record = &records[number];
            let waiting = Box::new(Waiting { number, told: told.clone() });
            let mut out = BaseRecord::<[u8], [u8], _>::with_opaque_to(&topic, waiting)
                .payload(&record.message.payload)
                .headers(of_record(record));
            out.key = record.message.key.as_deref();
            if let Err((error, _)) = producer.send(out) {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                failures.push(Failure { number, code });
            }
        }
        // Ends with the last delivery report: librdkafka gives one for every accepted record.
        drop(told);
        while let Some((number, result)) = reports.recv().await {
            match result {
                Ok(()) => done[number] = true,
                Err(code) => failures.push(Failure { number, code }),
            }
        }
        Ok(failures)
    }

    /// Joining its thread takes a while, so that is done in the background.
    fn close(&mut self) {
        if let Some(producer) = self.producer.take() {
            std::thread::spawn(move || drop(producer));
        }
    }

    fn too_large(&self, record: &Record) -> String {
        let message = &record.message;
        let place = message.coordinates.named();
        let place: Vec<_> = place.iter().map(|(n, v)| format!("{n} {v}")).collect();
        format!(
            "the topic `{}` takes no record as large as that of `{}` {} with {} bytes; \
             raise its `max.message.bytes`",
            self.topic,
            message.topic.as_str(),
            place.join(" "),
            message.payload.len(),
        )
    }

    /// Why the topic can't be written, and the remedy where the code tells.
    fn why(&self, code: Code) -> String {
        self.complaint(code).to_string()
    }

    /// The same, as what a look ends with.
    fn complaint(&self, code: Code) -> Complaint {
        let heard = self.trouble.lock().clone();
        // A connection error reported meanwhile tells more than a timeout.
        let silent = matches!(
            code,
            Code::MessageTimedOut
                | Code::OperationTimedOut
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::PurgeQueue
                | Code::PurgeInflight
        );
        let (code, text) = match heard {
            Some(heard) if silent => heard,
            _ => (code, code.to_string()),
        };
        let hint = match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                "create it, or check `topic`"
            }
            Code::TopicAuthorizationFailed => "the user needs the permission (ACL) to write it",
            Code::ClusterAuthorizationFailed => {
                "the user needs the permission (ACL) for idempotent writes (`IdempotentWrite`)"
            }
            Code::Authentication | Code::SaslAuthenticationFailed => {
                "check `sasl` of the source whose connection it uses"
            }
            Code::SSL => "check `tls` of the source whose connection it uses",
            Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
                "fewer of its replicas are in sync than its `min.insync.replicas`"
            }
            _ => "",
        };
        let what = format!("the topic `{}` can't be written: {}", self.topic, plain(&text));
        Complaint::new(step(code), what, hint)
    }
}

impl Target for KafkaTarget {
    fn place(&self) -> String {
        format!("topic {}", self.topic)
    }

    fn tell_end(&self, metrics: &DeadLetterMetrics) {
        if let Some(tokens) = &self.tokens {
            tokens.tell_end(ends_at(&metrics.credentials_expiry));
        }
    }

    async fn open(&mut self) -> Result<(), WriteError> {
        self.look().await.map(|_| ()).map_err(WriteError::from)
    }

    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut done = self.left.recall(records);
        let Err(why) = self.deliver(records, &mut done).await else { return Ok(()) };
        Err(self.left.keep(records, done, why))
    }
}

impl Drop for KafkaTarget {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for KafkaTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KafkaTarget({})", self.topic)
    }
}

/// The headers of the message, in their order, and behind them ours. A reader that looks for one of ours
/// takes the last of its name: a message that was rejected before has its earlier ones, too.
fn of_record(record: &Record) -> OwnedHeaders {
    let (theirs, ours) = (&record.message.headers, headers(record));
    let mut all = OwnedHeaders::new_with_capacity(theirs.len() + ours.len());
    for (key, value) in theirs {
        all = all.insert(Header { key, value: Some(&value[..]) });
    }
    for (key, value) in &ours {
        all = all.insert(Header { key, value: Some(value.as_bytes()) });
    }
    all
}

/// The properties of a producer, as librdkafka takes them, and what gives its tokens.
async fn examined(cluster: &KafkaConfig) -> Result<(ClientConfig, Option<Tokens>), BuildError> {
    let properties = connection(cluster, &DEFAULTS, &FIXED)?;
    check::<BaseProducer>(&properties)?;
    Ok((properties, Tokens::build(cluster).await?))
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!(facility, "{text}");
            }
            // What matters of the rest also comes as an error.
            _ => debug!(facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        if let Some(tokens) = &self.tokens
            && matches!(code, Code::Authentication | Code::SaslAuthenticationFailed)
        {
            tokens.refuse();
        }
        let mut trouble = self.trouble.lock();
        // The cause, broker by broker, was reported already.
        if code != Code::AllBrokersDown || trouble.is_none() {
            *trouble = Some((code, reason.to_owned()));
        }
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(tokens) = &self.tokens else { return Err("there are no tokens".into()) };
        // Only confirmations wait meanwhile.
        Ok(tokens.fetch(&self.runtime)?)
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        };
        // Without a receiver the result is not needed any more.
        let _ = waiting.told.send((waiting.number, result));
    }
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
