//! What is in topics: written, transactions and tombstones among it, and read back.

use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::Kafka;

use crate::support::PATIENCE;

/// A record to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Option<OwnedHeaders>,
    partition: Option<i32>,
    timestamp: Option<i64>,
}

/// Writes records, in order and without duplicates; clones share its connection.
#[derive(Clone)]
pub(crate) struct Producer(ThreadedProducer<Confirmations>);

/// The partition and the offset of a record, once the broker has confirmed it.
pub(crate) type Confirmed = Result<(i32, i64), KafkaError>;

struct Confirmations;

impl Kafka {
    /// Writes these records and returns their partitions and offsets.
    pub(crate) async fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<(i32, i64)> {
        let producer = self.producer.get_or_init(|| self.producer(&[]));
        producer.send(topic, records).await
    }

    /// A producer with these options, such as `compression.type`.
    pub(crate) fn producer(&self, options: &[(&str, &str)]) -> Producer {
        let mut config = self.client();
        for (key, value) in options {
            config.set(*key, *value);
        }
        Producer::new(config)
    }

    /// A producer whose records count only if their transaction is committed.
    pub(crate) async fn transactions(&self, id: &str) -> Producer {
        let producer = self.producer(&[("transactional.id", id)]);
        producer.blocking(|producer| producer.init_transactions(PATIENCE)).await;
        producer
    }

    /// Everything in a topic that is committed, in the order of each partition.
    pub(crate) async fn read(&self, topic: &str) -> Vec<OwnedMessage> {
        read(self.client(), topic).await
    }
}

impl Record {
    pub(crate) fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    /// Says that the key is gone.
    pub(crate) fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self::default().key(key)
    }

    pub(crate) fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header; one without a value is not the same as one with an empty value.
    pub(crate) fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        let headers = self.headers.unwrap_or_default();
        self.headers = Some(headers.insert(Header { key: name, value }));
        self
    }

    /// Without one the key decides.
    pub(crate) fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Milliseconds of the epoch.
    pub(crate) fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

impl Producer {
    /// A producer of this client. Without a word about it, it is idempotent and partitions as Java's does.
    pub(crate) fn new(mut config: ClientConfig) -> Self {
        for (key, value) in [
            ("enable.idempotence", "true"),
            ("partitioner", "murmur2_random"),
            ("linger.ms", "2"),
            ("queue.buffering.max.messages", "1000000"),
        ] {
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        Self(ThreadedProducer::from_config_and_context(&config, Confirmations).unwrap())
    }

    /// Hands a record over, which is on its way then; what is returned hears of its confirmation.
    pub(crate) fn put(&self, topic: &str, record: &Record) -> oneshot::Receiver<Confirmed> {
        let (confirm, confirmed) = oneshot::channel();
        let mut out = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(confirm));
        out.key = record.key.as_deref();
        out.payload = record.payload.as_deref();
        out.headers.clone_from(&record.headers);
        out.partition = record.partition;
        out.timestamp = record.timestamp;
        self.0.send(out).map_err(|(error, _)| error).unwrap();
        confirmed
    }

    /// Writes these records and returns their partitions and offsets once all are confirmed.
    pub(crate) async fn send(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<(i32, i64)> {
        let under_way: Vec<_> =
            records.into_iter().map(|record| self.put(topic, &record)).collect();
        let mut places = Vec::with_capacity(under_way.len());
        for confirmed in under_way {
            places.push(confirmed.await.unwrap().unwrap());
        }
        places
    }

    pub(crate) fn begin(&self) {
        self.0.begin_transaction().unwrap();
    }

    pub(crate) async fn commit(&self) {
        self.blocking(|producer| producer.commit_transaction(PATIENCE)).await;
    }

    pub(crate) async fn abort(&self) {
        self.blocking(|producer| producer.abort_transaction(PATIENCE)).await;
    }

    async fn blocking(
        &self,
        act: impl FnOnce(&ThreadedProducer<Confirmations>) -> Result<(), KafkaError> + Send + 'static,
    ) {
        let producer = self.0.clone();
        tokio::task::spawn_blocking(move || act(&producer)).await.unwrap().unwrap();
    }
}

impl ClientContext for Confirmations {}

impl ProducerContext for Confirmations {
    type DeliveryOpaque = Box<oneshot::Sender<Confirmed>>;

    fn delivery(&self, result: &DeliveryResult<'_>, confirm: Self::DeliveryOpaque) {
        let _ = confirm.send(match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        });
    }
}

/// Everything in a topic that is committed, as this client may read it.
pub(crate) async fn read(mut config: ClientConfig, topic: &str) -> Vec<OwnedMessage> {
    config.set("group.id", "reader").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut unread = super::partitions(&consumer, &topic);
        let mut list = TopicPartitionList::new();
        for &partition in &unread {
            list.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut messages = Vec::new();
        while !unread.is_empty() {
            match consumer.poll(PATIENCE).expect("the end of every partition") {
                Ok(message) => messages.push(message.detach()),
                Err(KafkaError::PartitionEOF(partition)) => unread.retain(|&p| p != partition),
                // It is known everywhere a moment after it was created.
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err(error) => panic!("{topic}: {error}"),
            }
        }
        messages
    })
    .await
    .unwrap()
}
