//! Queues of SQS, on the servers that stand for it: `ElasticMQ` and moto, each in a process of its own, and the
//! [fake](fake::Fake), which does what neither of them can.

use std::collections::BTreeMap;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use futures_util::StreamExt as _;
use futures_util::stream::iter;

pub(crate) mod fake;
mod model;
pub(crate) mod servers;

/// Of every test server. They look at neither signature nor key.
pub(crate) const REGION: &str = "eu-west-1";

/// The variables that a bridge needs to sign with something.
pub(crate) const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIDTEST"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// A server, as its clients see it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) client: Client,
}

/// A queue of a server.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) url: String,
}

/// A message that is to be sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing {
    body: String,
    attributes: Vec<(String, MessageAttributeValue)>,
    group: Option<String>,
    deduplication: Option<String>,
}

/// How many messages a queue says it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Would be handed out.
    pub(crate) waiting: u64,
    /// Were handed out, and are invisible.
    pub(crate) in_flight: u64,
    pub(crate) delayed: u64,
}

impl Server {
    /// The one that listens there.
    pub(crate) fn at(endpoint: String) -> Self {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "test"))
            .endpoint_url(&endpoint)
            .build();
        Self { endpoint, client: Client::from_conf(config) }
    }

    /// Makes a queue whose name begins like this and is not used by another test. One whose name ends in
    /// `.fifo` is a FIFO queue.
    pub(crate) async fn queue(
        &self,
        name: &str,
        attributes: &[(QueueAttributeName, &str)],
    ) -> Queue {
        let (stem, end) = match name.strip_suffix(".fifo") {
            Some(stem) => (stem, ".fifo"),
            None => (name, ""),
        };
        let name = format!("{stem}-{:08x}{end}", rand::random::<u32>());
        // A client lives as long as the runtime of the test that made it.
        let client = Self::at(self.endpoint.clone()).client;
        let mut create = client.create_queue().queue_name(&name);
        if !end.is_empty() {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        for (key, value) in attributes {
            create = create.attributes(key.clone(), *value);
        }
        let url = create.send().await.unwrap().queue_url.unwrap();
        Queue { client, name, url }
    }

    /// As [`queue`](Self::queue), and the queue where a message goes that was received `most` times.
    pub(crate) async fn with_redrive(
        &self,
        name: &str,
        attributes: &[(QueueAttributeName, &str)],
        most: u32,
    ) -> (Queue, Queue) {
        let dead = self.queue(&format!("dead-{name}"), &[]).await;
        let arn = dead.attribute(QueueAttributeName::QueueArn).await.unwrap();
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"{most}"}}"#);
        let mut attributes = attributes.to_vec();
        attributes.push((QueueAttributeName::RedrivePolicy, &policy));
        (self.queue(name, &attributes).await, dead)
    }
}

impl Queue {
    /// Sends these and returns when every one is confirmed; to a FIFO queue in their order.
    pub(crate) async fn send(&self, messages: impl IntoIterator<Item = Outgoing>) {
        let messages: Vec<_> = messages.into_iter().collect();
        let batches = messages.chunks(10).map(<[_]>::to_vec);
        let at_once = if self.name.strip_suffix(".fifo").is_some() { 1 } else { 8 };
        iter(batches).for_each_concurrent(at_once, |batch| self.send_batch(batch)).await;
    }

    async fn send_batch(&self, batch: Vec<Outgoing>) {
        let entries = batch.into_iter().enumerate().map(|(at, message)| {
            let mut entry = SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(message.body)
                .set_message_group_id(message.group)
                .set_message_deduplication_id(message.deduplication);
            for (name, value) in message.attributes {
                entry = entry.message_attributes(name, value);
            }
            entry.build().unwrap()
        });
        let request = self.client.send_message_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await.unwrap();
        assert_eq!(answer.failed, [], "sending to {}", self.name);
    }

    /// Up to ten messages, with all that is known of them, waiting for the first up to `wait` seconds.
    pub(crate) async fn receive(&self, wait: i32) -> Vec<Message> {
        let request = self.client.receive_message().queue_url(&self.url).wait_time_seconds(wait);
        let request = request.max_number_of_messages(10).message_attribute_names("All");
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.unwrap().messages.unwrap_or_default()
    }

    /// Deletes these.
    pub(crate) async fn delete(&self, messages: &[Message]) {
        for batch in messages.chunks(10) {
            let entries = batch.iter().enumerate().map(|(at, message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string());
                entry.receipt_handle(message.receipt_handle().unwrap()).build().unwrap()
            });
            let request = self.client.delete_message_batch().queue_url(&self.url);
            let answer = request.set_entries(Some(entries.collect())).send().await.unwrap();
            assert_eq!(answer.failed, [], "deleting from {}", self.name);
        }
    }

    /// Gives a message back, or holds it for so many seconds from now on.
    pub(crate) async fn change_visibility(&self, message: &Message, seconds: i32) {
        let request = self.client.change_message_visibility().queue_url(&self.url);
        let request = request.set_receipt_handle(message.receipt_handle.clone());
        request.visibility_timeout(seconds).send().await.unwrap();
    }

    /// Takes all that is there, until nothing comes for a second.
    pub(crate) async fn take_all(&self) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let some = self.receive(1).await;
            if some.is_empty() {
                return all;
            }
            self.delete(&some).await;
            all.extend(some);
        }
    }

    pub(crate) async fn counts(&self) -> Counts {
        let attributes = self.attributes().await;
        let of = |name| attributes.get(&name).map_or(0, |value| value.parse().unwrap());
        Counts {
            waiting: of(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: of(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: of(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
        }
    }

    /// What the queue says of itself under this name.
    pub(crate) async fn attribute(&self, name: QueueAttributeName) -> Option<String> {
        self.attributes().await.remove(&name)
    }

    async fn attributes(&self) -> BTreeMap<QueueAttributeName, String> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = request.attribute_names(QueueAttributeName::All).send().await.unwrap();
        answer.attributes.unwrap_or_default().into_iter().collect()
    }
}

impl Outgoing {
    pub(crate) fn new(body: impl Into<String>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// With a message attribute, which is text.
    pub(crate) fn attribute(mut self, name: &str, value: &str) -> Self {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        self.attributes.push((name.to_owned(), value.build().unwrap()));
        self
    }

    /// With a message attribute of bytes.
    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        let value = MessageAttributeValue::builder().data_type("Binary").binary_value(value.into());
        self.attributes.push((name.to_owned(), value.build().unwrap()));
        self
    }

    /// The same for a standard queue.
    pub(crate) fn ungrouped(self) -> Self {
        Self { group: None, deduplication: None, ..self }
    }

    /// For a FIFO queue: what is ordered together, and by what a second one is known.
    pub(crate) fn group(mut self, group: impl Into<String>, id: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self.deduplication = Some(id.into());
        self
    }
}
