//! Brokers as the contract suite sees them: a few methods each, so that another one is another row.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use serde_json::{Value, json};

use super::kafka::Kafka;
use super::kafka::groups::Group;
use super::kafka::records::Record;
use super::mosquitto::{Mosquitto, SAVES_AT_ONCE};
use super::nats::Nats;
use super::producer::{TENANT, publish, publish_exactly_once};
use super::sqs::fake::Fake;
use super::sqs::{CREDENTIALS, Outgoing, Queue, REGION};
use super::{PATIENCE, until};

/// A message of a load.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// What orders it.
    pub(crate) key: u64,
    pub(crate) payload: Vec<u8>,
}

/// What a route can see of a message beside its payload.
pub(crate) struct Metadata {
    /// Lines of the route: its topic and its channel.
    pub(crate) route: &'static str,
    /// The channel of a message of key 7.
    pub(crate) channel: &'static str,
    /// Some of the members of its dead letter.
    pub(crate) record: Value,
}

/// A broker with a source `it`.
pub(crate) trait Broker: Sized {
    /// A message that is given back comes again without those behind it: each is acknowledged by itself.
    const GIVES_BACK_ALONE: bool = false;
    /// Variables that a bridge needs for it.
    const VARIABLES: &[(&str, &str)] = &[];

    /// Lines of the source with which the broker soon takes a bridge that says nothing for gone.
    const IMPATIENT: &'static str = "";

    /// Whether a payload may be other than text.
    const CARRIES_BYTES: bool = true;

    /// One with these lines in the source; a `mortal` one may be killed.
    async fn start(lines: &'static str, mortal: bool) -> Self;

    /// `[source.it]` with all that it needs; more lines may follow.
    fn source(&self) -> String;

    fn metadata(&self) -> Metadata;

    /// How many of `sent` messages are in flight where the limit is `asked`, and nothing is settled.
    fn in_flight_of(&self, asked: u32, sent: u32) -> f64 {
        asked.min(sent).into()
    }

    /// Writes these at `rate` a second, those of a key in their order, and returns when the broker has
    /// confirmed every one.
    async fn produce(&self, rate: u64, messages: Vec<Sent>);

    /// How many messages the broker need not keep for the bridge any more.
    async fn acknowledged(&self) -> u64;

    /// Ends it as a crash would, when what it confirmed is safe.
    async fn kill(&mut self);

    /// Starts it again, on its port and data.
    async fn restart(&mut self);
}

/// Mosquitto, for a bridge that speaks version 5 or 3.1.1; over a WebSocket if a comment of its lines says so.
pub(crate) struct Mqtt {
    broker: Mosquitto,
    /// `url`, and `tls` where there is any.
    address: String,
    lines: &'static str,
}

impl Broker for Mqtt {
    const IMPATIENT: &'static str = "keep_alive = \"4s\"";

    async fn start(lines: &'static str, mortal: bool) -> Self {
        let saving = if mortal { SAVES_AT_ONCE } else { "" };
        let (broker, address) = match lines.split_once("# over ") {
            None => {
                let broker = Mosquitto::start(saving).await;
                let address = format!("url = \"mqtt://127.0.0.1:{}\"", broker.port);
                (broker, address)
            }
            Some((_, scheme)) => Mosquitto::start_with_websocket(scheme, saving).await,
        };
        Self { broker, address, lines }
    }

    fn source(&self) -> String {
        format!(
            "[source.it]\ntype = \"mqtt\"\n{}\nclient_id = \"bridge\"\nsubscriptions = \"in/#\"\n{}\n",
            self.address, self.lines
        )
    }

    fn metadata(&self) -> Metadata {
        let topic = json!("in/7/data");
        // Version 3.1.1 has no headers.
        if self.lines.contains("version = 3") {
            return Metadata {
                route: "topic = \"in/{device}/data\"\nchannel = \"/it/{device}\"\n",
                channel: "/it/7",
                record: json!({
                    "topic": topic, "headers": [{ "name": "mqtt-retained", "value": "false" }],
                }),
            };
        }
        Metadata {
            route: "topic = \"in/{device}/data\"\nchannel = \"/it/{device}/{header.tenant}\"\n",
            channel: "/it/7/acme",
            record: json!({
                "topic": topic,
                "headers": [
                    { "name": "mqtt-retained", "value": "false" },
                    { "name": "tenant", "value": TENANT },
                ],
            }),
        }
    }

    fn in_flight_of(&self, asked: u32, sent: u32) -> f64 {
        // Version 3.1.1 can't tell the broker: what it sends is held.
        let most = if self.lines.contains("version = 3") { asked * 64 } else { asked };
        most.min(sent).into()
    }

    async fn produce(&self, rate: u64, messages: Vec<Sent>) {
        let message = |sent: Sent| (format!("in/{}/data", sent.key), sent.payload);
        let messages: Vec<_> = messages.into_iter().map(message).collect();
        if self.lines.contains("qos = 2") {
            publish_exactly_once(self.broker.port, rate, messages).await;
        } else {
            publish(self.broker.port, rate, messages).await;
        }
    }

    async fn acknowledged(&self) -> u64 {
        let packet = if self.lines.contains("qos = 2") { "PUBREC" } else { "PUBACK" };
        self.broker.log().matches(&format!("Received {packet} from bridge")).count() as u64
    }

    async fn kill(&mut self) {
        self.broker.saved().await;
        self.broker.kill();
    }

    async fn restart(&mut self) {
        self.broker.restart().await;
    }
}

/// Core NATS, which keeps nothing.
pub(crate) struct CoreNats {
    server: Nats,
    lines: &'static str,
    sent: AtomicU64,
}

impl Broker for CoreNats {
    async fn start(lines: &'static str, _mortal: bool) -> Self {
        Self { server: Nats::start("").await, lines, sent: AtomicU64::new(0) }
    }

    fn source(&self) -> String {
        format!(
            "[source.it]\ntype = \"nats\"\nservers = \"{}\"\nsubjects = \"in.*.data\"\n{}\n",
            self.server.url(),
            self.lines
        )
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            route: "topic = \"in.{device}.data\"\nchannel = \"/it/{device}/{header.tenant}\"\n",
            channel: "/it/7/acme",
            record: json!({
                "topic": "in.7.data", "headers": [{ "name": "tenant", "value": TENANT }],
            }),
        }
    }

    async fn produce(&self, rate: u64, messages: Vec<Sent>) {
        let client = self.server.client().await;
        let mut headers = HeaderMap::new();
        headers.insert("tenant", TENANT);
        self.sent.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let began = Instant::now();
        for (at, Sent { key, payload }) in messages.into_iter().enumerate() {
            pace(began, at, rate).await;
            let subject = format!("in.{key}.data");
            client.publish_with_headers(subject, headers.clone(), payload.into()).await.unwrap();
        }
        // Its end comes behind everything that was sent.
        client.drain().await.unwrap();
        until("the server has taken everything", PATIENCE, async || {
            let all = self.server.monitor("/varz").await;
            (all["in_msgs"].as_u64() >= Some(self.sent.load(Ordering::Relaxed))).then_some(())
        })
        .await;
    }

    /// It keeps nothing from the first.
    async fn acknowledged(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn kill(&mut self) {
        self.server.written().await;
        self.server.kill();
    }

    async fn restart(&mut self) {
        self.sent.store(0, Ordering::Relaxed);
        self.server.restart().await;
    }
}

/// Apache Kafka; the one that tests share, unless it is to be killed.
pub(crate) struct OfKafka {
    own: Option<Kafka>,
    shared: Option<&'static Kafka>,
    topic: String,
    group: Group,
    lines: &'static str,
}

const PARTITIONS: u8 = 3;
const PUBLISHED: i64 = 1_700_000_000_123;

impl OfKafka {
    fn kafka(&self) -> &Kafka {
        self.own.as_ref().or(self.shared).unwrap()
    }
}

impl Broker for OfKafka {
    async fn start(lines: &'static str, mortal: bool) -> Self {
        let (own, shared) = if mortal {
            (Some(Kafka::start("").await), None)
        } else {
            (None, Some(Kafka::shared().await))
        };
        let kafka = own.as_ref().or(shared).unwrap();
        // Its records are old.
        let topic = kafka.topic("contract", PARTITIONS.into(), &[("retention.ms", "-1")]).await;
        let group = kafka.group(&topic);
        Self { own, shared, topic, group, lines }
    }

    fn source(&self) -> String {
        format!(
            "[source.it]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\ntopics = \"{}\"\n{}\n",
            self.kafka().address(),
            self.topic,
            self.topic,
            self.lines
        )
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            route: "channel = \"/it/{key}/{header.tenant}\"\n",
            channel: "/it/7/acme",
            record: json!({
                "topic": self.topic, "key": "7", "published": "2023-11-14T22:13:20.123000000Z",
                "headers": [{ "name": "tenant", "value": TENANT }],
                "coordinates": { "partition": "1", "offset": "0" },
            }),
        }
    }

    async fn produce(&self, rate: u64, messages: Vec<Sent>) {
        let producer = self.kafka().producer(&[]);
        let (began, mut under_way) = (Instant::now(), Vec::new());
        for (at, Sent { key, payload }) in messages.into_iter().enumerate() {
            pace(began, at, rate).await;
            let partition = i32::try_from(key % u64::from(PARTITIONS)).unwrap();
            let record = Record::new(payload)
                .key(key.to_string())
                .header("tenant", Some(TENANT.as_bytes()))
                .timestamp(PUBLISHED)
                .partition(partition);
            under_way.push(producer.put(&self.topic, &record));
        }
        for confirmed in under_way {
            confirmed.await.unwrap().unwrap();
        }
    }

    async fn acknowledged(&self) -> u64 {
        self.group.committed(&self.topic).await.values().map(|at| u64::try_from(*at).unwrap()).sum()
    }

    async fn kill(&mut self) {
        self.own.as_mut().expect("a mortal one").kill();
    }

    async fn restart(&mut self) {
        self.own.as_mut().expect("a mortal one").restart().await;
    }
}

/// A FIFO queue of SQS.
pub(crate) struct OfSqs {
    fake: Fake,
    queue: Queue,
    lines: &'static str,
    sent: AtomicU64,
}

impl Broker for OfSqs {
    const VARIABLES: &[(&str, &str)] = &CREDENTIALS;
    const CARRIES_BYTES: bool = false;

    async fn start(lines: &'static str, _: bool) -> Self {
        let fake = Fake::start().await;
        let queue = fake.queue("contract.fifo", &[]).await;
        Self { fake, queue, lines, sent: AtomicU64::new(0) }
    }

    fn source(&self) -> String {
        format!(
            "[source.it]\ntype = \"sqs\"\nqueue = \"{}\"\naws = {{ region = \"{REGION}\" }}\n{}\n",
            self.queue.url, self.lines
        )
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            route: "channel = \"/it/{key}/{header.tenant}/{header.ApproximateReceiveCount}\"\n",
            channel: "/it/7/acme/1",
            record: json!({ "topic": self.queue.name, "key": "7" }),
        }
    }

    fn in_flight_of(&self, asked: u32, sent: u32) -> f64 {
        // The first ten are of every group, and hold back what is behind them in it.
        asked.min(sent).min(10).into()
    }

    async fn produce(&self, rate: u64, messages: Vec<Sent>) {
        let began = Instant::now();
        for (at, batch) in messages.chunks(10).enumerate() {
            let due = Duration::from_secs_f64(at as f64 * 10.0 / rate as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            let outgoing = batch.iter().map(|Sent { key, payload }| {
                let id = self.sent.fetch_add(1, Ordering::Relaxed).to_string();
                let body = String::from_utf8(payload.clone()).unwrap();
                Outgoing::new(body).group(key.to_string(), id).attribute("tenant", TENANT)
            });
            self.queue.send(outgoing.collect::<Vec<_>>()).await;
        }
    }

    async fn acknowledged(&self) -> u64 {
        self.fake.history(&self.queue.name).iter().filter(|message| message.deleted).count() as u64
    }

    async fn kill(&mut self) {
        self.fake.stop();
    }

    async fn restart(&mut self) {
        self.fake.restart().await;
    }
}

/// Waits until the message with the number `at` is due, at `rate` a second.
async fn pace(began: Instant, at: usize, rate: u64) {
    let due = Duration::from_secs_f64(at as f64 / rate as f64);
    if let Some(wait) = due.checked_sub(began.elapsed()).filter(|w| w.as_millis() > 2) {
        tokio::time::sleep(wait).await;
    }
}
