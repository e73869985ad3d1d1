//! A stream of a nats-server of our own, and the consumer that the bridge has of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap};
use serde_json::json;

use super::broker::{Broker, Metadata, Sent};
use super::nats::Nats;
use super::producer::TENANT;

/// The stream `IT`, which has what is published below `in.`.
pub(crate) struct JetStream {
    pub(crate) nats: Nats,
    lines: &'static str,
}

/// Its name.
pub(crate) const STREAM: &str = "IT";

/// The consumer of the source.
pub(crate) const DURABLE: &str = "bridge";

impl JetStream {
    /// A server with lines of configuration, and the stream.
    pub(crate) async fn on(server: &str, lines: &'static str) -> Self {
        let made = Self { nats: Nats::start(server).await, lines };
        made.create(stream::Config::default()).await;
        made
    }

    /// Creates the stream.
    pub(crate) async fn create(&self, config: stream::Config) {
        let config =
            stream::Config { name: STREAM.into(), subjects: vec!["in.>".into()], ..config };
        self.context().await.create_stream(config).await.unwrap();
    }

    pub(crate) async fn context(&self) -> Context {
        jetstream::new(self.client().await)
    }

    pub(crate) async fn client(&self) -> Client {
        self.nats.client().await
    }

    /// The consumer, if it is there.
    pub(crate) async fn consumer(&self) -> Option<Info> {
        let stream = self.context().await.get_stream_no_info(STREAM).await.unwrap();
        stream.consumer_info(DURABLE).await.ok()
    }

    /// The state of the stream.
    pub(crate) async fn state(&self) -> stream::State {
        let mut stream = self.context().await.get_stream(STREAM).await.unwrap();
        stream.info().await.unwrap().state.clone()
    }
}

/// The subject of a key.
pub(crate) fn subject(key: u64) -> String {
    format!("in.{key}.data")
}

impl Broker for JetStream {
    const GIVES_BACK_ALONE: bool = true;
    const IMPATIENT: &'static str = "ack_wait = \"3s\"";

    async fn start(lines: &'static str, _: bool) -> Self {
        Self::on("", lines).await
    }

    fn source(&self) -> String {
        format!(
            "[source.it]\ntype = \"jetstream\"\nservers = \"{}\"\nstream = \"{STREAM}\"\ndurable = \"{DURABLE}\"\n{}\n",
            self.nats.url(),
            self.lines
        )
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            route: "topic = \"in.{device}.data\"\nchannel = \"/it/{device}/{header.tenant}\"\n",
            channel: "/it/7/acme",
            record: json!({
                "topic": "in.7.data", "headers": [{ "name": "tenant", "value": TENANT }],
                "coordinates": { "stream": STREAM, "sequence": "1" },
            }),
        }
    }

    async fn produce(&self, rate: u64, messages: Vec<Sent>) {
        let context = self.context().await;
        let (began, mut under_way) = (Instant::now(), VecDeque::new());
        for (at, Sent { key, payload }) in messages.into_iter().enumerate() {
            let due = Duration::from_secs_f64(at as f64 / rate as f64);
            if let Some(wait) = due.checked_sub(began.elapsed()).filter(|w| w.as_millis() > 2) {
                tokio::time::sleep(wait).await;
            }
            let headers = HeaderMap::from_iter(
                [("tenant", TENANT)]
                    .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())),
            );
            let sent = context.publish_with_headers(subject(key), headers, payload.into()).await;
            under_way.push_back(sent.unwrap());
            // The client lets some thousand be under way.
            if under_way.len() > 1_000 {
                under_way.pop_front().unwrap().await.unwrap();
            }
        }
        for confirmed in under_way {
            confirmed.await.unwrap();
        }
    }

    async fn acknowledged(&self) -> u64 {
        let Some(consumer) = self.consumer().await else { return 0 };
        let open = consumer.num_pending + consumer.num_ack_pending as u64;
        self.state().await.last_sequence - open
    }

    async fn kill(&mut self) {
        self.nats.kill();
    }

    async fn restart(&mut self) {
        self.nats.restart().await;
    }
}
