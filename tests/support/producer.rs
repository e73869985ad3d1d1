//! Publishers of numbered messages over MQTT 5, QoS 1, that know what the broker confirmed; and a load
//! of any kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rumqttc_v5::mqttbytes::v5::PublishProperties;
use rumqttc_v5::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use serde_json::json;
use tokio::task::JoinHandle;

/// The user property `tenant` of every message.
pub(crate) const TENANT: &str = "acme";

/// A load that goes on until it is stopped: what is to happen under load happens under load, however
/// slow the machine is.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Load {
    /// As [`produce`] makes it.
    pub(crate) fn start(port: u16, rate: u64, keys: u64) -> Self {
        Self::running(|stopped| {
            let last = move |_| stopped.load(Ordering::Relaxed);
            publish_until(port, rate, last, move |id| numbered(id, keys))
        })
    }

    /// The same with QoS 2, the ids and keys from `first` on.
    pub(crate) fn start_exactly_once(port: u16, rate: u64, keys: u64, first: u64) -> Self {
        Self::running(move |stopped| {
            let last = move |_| stopped.load(Ordering::Relaxed);
            let make = move |n: u64| {
                let event = json!({ "id": first + n, "key": first + n % keys, "seq": n / keys });
                (format!("plant/dev-{}/data", first + n % keys), event.to_string().into_bytes())
            };
            publish_so(port, rate, PublishOptions::exactly_once(), last, make)
        })
    }

    /// Any load that ends soon after its flag is set, and tells how many messages were confirmed.
    pub(crate) fn running<F>(make: impl FnOnce(Arc<AtomicBool>) -> F) -> Self
    where
        F: Future<Output = u64> + Send + 'static,
    {
        let stop = Arc::<AtomicBool>::default();
        let task = tokio::spawn(make(Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Ends it; gives the number of messages, all of which the broker has confirmed.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Publishes `count` messages at `rate` a second, spread over `keys` keys, and returns when the broker
/// has confirmed every one: a key's messages go to `plant/dev-KEY/data`, numbered from 0.
pub(crate) async fn produce(port: u16, count: u64, rate: u64, keys: u64) {
    publish(port, rate, (0..count).map(|id| numbered(id, keys))).await;
}

fn numbered(id: u64, keys: u64) -> (String, Vec<u8>) {
    let (key, seq) = (id % keys, id / keys);
    let event = json!({ "id": id, "key": key, "seq": seq });
    (format!("plant/dev-{key}/data"), event.to_string().into_bytes())
}

/// Publishes these, at `rate` a second, and returns when the broker has confirmed every one.
pub(crate) async fn publish(
    port: u16,
    rate: u64,
    messages: impl IntoIterator<Item = (String, Vec<u8>)> + Send,
) {
    let messages: Vec<_> = messages.into_iter().collect();
    let count = messages.len() as u64;
    if count > 0 {
        let mut left = messages.into_iter();
        publish_until(port, rate, |n| n + 1 == count, |_| left.next().unwrap()).await;
    }
}

/// As [`publish`], with QoS 2.
pub(crate) async fn publish_exactly_once(
    port: u16,
    rate: u64,
    messages: impl IntoIterator<Item = (String, Vec<u8>)> + Send,
) {
    let messages: Vec<_> = messages.into_iter().collect();
    let count = messages.len() as u64;
    let (mut left, options) = (messages.into_iter(), PublishOptions::exactly_once());
    publish_so(port, rate, options, |n| n + 1 == count, |_| left.next().unwrap()).await;
}

/// Publishes these one by one, each in its own way.
pub(crate) async fn publish_each(
    port: u16,
    messages: impl IntoIterator<Item = (String, Vec<u8>, PublishOptions)> + Send,
) {
    for (topic, payload, options) in messages {
        let mut message = Some((topic, payload));
        publish_with(port, 1_000, options, |_| true, |_| message.take().unwrap()).await;
    }
}

/// Publishes these as fast as the broker takes them, to be kept as the last of their topics, and returns
/// when it has confirmed every one.
pub(crate) async fn publish_retained(
    port: u16,
    messages: impl IntoIterator<Item = (String, Vec<u8>)> + Send,
) {
    let messages: Vec<_> = messages.into_iter().collect();
    let count = messages.len() as u64;
    let mut left = messages.into_iter();
    let options = PublishOptions::at_least_once().retained();
    publish_so(port, 1_000_000, options, |n| n + 1 == count, |_| left.next().unwrap()).await;
}

/// Publishes messages, each made when its turn comes, at `rate` a second, up to that which is the
/// `last` when its turn comes, and returns their number when the broker has confirmed every one.
pub(crate) async fn publish_until(
    port: u16,
    rate: u64,
    last: impl FnMut(u64) -> bool,
    make: impl FnMut(u64) -> (String, Vec<u8>),
) -> u64 {
    publish_so(port, rate, PublishOptions::at_least_once(), last, make).await
}

async fn publish_so(
    port: u16,
    rate: u64,
    so: PublishOptions,
    last: impl FnMut(u64) -> bool,
    make: impl FnMut(u64) -> (String, Vec<u8>),
) -> u64 {
    let user_properties = vec![("tenant".to_owned(), TENANT.to_owned())];
    let properties = PublishProperties { user_properties, ..PublishProperties::default() };
    publish_with(port, rate, so.properties(properties), last, make).await
}

async fn publish_with(
    port: u16,
    rate: u64,
    so: PublishOptions,
    mut last: impl FnMut(u64) -> bool,
    mut make: impl FnMut(u64) -> (String, Vec<u8>),
) -> u64 {
    let mut options =
        MqttOptions::new(format!("producer-{}", rand::random::<u32>()), ("127.0.0.1", port));
    options
        .set_keep_alive(30)
        .set_outgoing_inflight_upper_limit(1_000)
        .set_unlimited_incoming_packet_size();
    let (client, mut events) = AsyncClient::builder(options).capacity(1_000).build();
    // Known before the last one is sent, so that its confirmation ends it all.
    let count = AtomicU64::new(u64::MAX);
    let send = async {
        let mut clock = tokio::time::interval(Duration::from_millis(5));
        let mut due = 0.0;
        for n in 0.. {
            while due < 1.0 {
                clock.tick().await;
                due += rate as f64 * 0.005;
            }
            due -= 1.0;
            let is_last = last(n);
            if is_last {
                count.store(n + 1, Ordering::Relaxed);
            }
            let (topic, payload) = make(n);
            client.publish(topic, payload, so.clone()).await.unwrap();
            if is_last {
                break;
            }
        }
    };
    let confirm = async {
        let mut confirmed = 0;
        while confirmed < count.load(Ordering::Relaxed) {
            if let Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) =
                events.poll().await.expect("the producer's connection")
            {
                confirmed += 1;
            }
        }
    };
    tokio::join!(send, confirm);
    count.into_inner()
}
