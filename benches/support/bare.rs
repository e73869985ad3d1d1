//! What somebody writes in an hour: a consumer that posts each message at once, by itself, and asks for nothing more.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rumqttc_v5::{AsyncClient, Event, MqttOptions, Packet, QoS};

/// Consumes from `broker`, `kafka` or `mqtt`, at `address`, and posts to `endpoint`; the main function of a process.
pub async fn run(broker: &str, address: &str, topic: &str, endpoint: &str) {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let poster = Poster { client: reqwest::Client::new(), endpoint: endpoint.to_owned() };
    match broker {
        "kafka" => tokio::task::block_in_place(|| from_kafka(address, topic, &poster)),
        _ => from_mqtt(address, topic, &poster).await,
    }
}

fn from_kafka(address: &str, topic: &str, poster: &Poster) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", format!("bare-{:016x}", rand::random::<u64>()))
        .set("auto.offset.reset", "latest")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    for message in &consumer {
        let message = message.unwrap();
        let key = String::from_utf8_lossy(message.key().unwrap());
        poster.post(&key, message.payload().unwrap());
    }
}

async fn from_mqtt(address: &str, topic: &str, poster: &Poster) {
    let (host, port) = address.split_once(':').unwrap();
    let options = MqttOptions::new("bare", (host, port.parse::<u16>().unwrap()));
    let (client, mut events) = AsyncClient::builder(options).capacity(10).build();
    client.subscribe(format!("{topic}/#"), QoS::AtLeastOnce).await.unwrap();
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
            let topic = std::str::from_utf8(&publish.topic).unwrap();
            poster.post(topic.rsplit('/').next().unwrap(), &publish.payload);
        }
    }
}

struct Poster {
    client: reqwest::Client,
    endpoint: String,
}

impl Poster {
    fn post(&self, key: &str, payload: &[u8]) {
        let event = std::str::from_utf8(payload).unwrap();
        let body = serde_json::json!({ "channel": format!("/bench/{key}"), "events": [event] });
        let request =
            self.client.post(&self.endpoint).header("x-api-key", "k").body(body.to_string());
        tokio::spawn(async move { request.send().await.unwrap().bytes().await.unwrap() });
    }
}
