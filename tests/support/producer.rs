//! A publisher of numbered messages over MQTT 5, QoS 1, that knows what the broker confirmed.

use std::time::Duration;

use rumqttc_v5::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use serde_json::json;

/// Publishes `count` messages at `rate` a second, spread over `keys` keys, and returns when the broker
/// has confirmed every one: a key's messages go to `plant/dev-KEY/data`, numbered from 0.
pub(crate) async fn produce(port: u16, count: u64, rate: u64, keys: u64) {
    let messages = (0..count).map(move |id| {
        let (key, seq) = (id % keys, id / keys);
        (
            format!("plant/dev-{key}/data"),
            json!({ "id": id, "key": key, "seq": seq }).to_string().into_bytes(),
        )
    });
    publish(port, rate, messages).await;
}

/// Publishes these, at `rate` a second, and returns when the broker has confirmed every one.
pub(crate) async fn publish(
    port: u16,
    rate: u64,
    messages: impl IntoIterator<Item = (String, Vec<u8>)> + Send,
) {
    let messages: Vec<_> = messages.into_iter().collect();
    let mut left = messages.into_iter();
    publish_made(port, rate, left.len() as u64, |_| left.next().unwrap()).await;
}

/// Publishes `count` messages, each made when its turn comes, at `rate` a second, and returns when the
/// broker has confirmed every one.
pub(crate) async fn publish_made(
    port: u16,
    rate: u64,
    count: u64,
    mut make: impl FnMut(u64) -> (String, Vec<u8>),
) {
    let mut options =
        MqttOptions::new(format!("producer-{}", rand::random::<u32>()), ("127.0.0.1", port));
    options
        .set_keep_alive(30)
        .set_outgoing_inflight_upper_limit(1_000)
        .set_unlimited_incoming_packet_size();
    let (client, mut events) = AsyncClient::builder(options).capacity(1_000).build();
    let send = async {
        let mut clock = tokio::time::interval(Duration::from_millis(5));
        let mut due = 0.0;
        for n in 0..count {
            while due < 1.0 {
                clock.tick().await;
                due += rate as f64 * 0.005;
            }
            due -= 1.0;
            let (topic, payload) = make(n);
            client.publish(topic, payload, PublishOptions::at_least_once()).await.unwrap();
        }
    };
    let confirm = async {
        let mut confirmed = 0;
        while confirmed < count {
            if let Event::Incoming(Packet::PubAck(_)) =
                events.poll().await.expect("the producer's connection")
            {
                confirmed += 1;
            }
        }
    };
    tokio::join!(send, confirm);
}
