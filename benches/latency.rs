//! What the bridge adds to the time that a message is on its way, at a thousand a second: a real broker, the
//! release binary, and a sink that knows when each event was made, beside a bare consumer that posts each message
//! at once. See `benches/README.md`; `cargo bench --bench latency` prints the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation
)]
#![allow(dead_code, unused_imports)] // the other benchmarks and the tests use more of their support

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bench::process::Running;
use bench::sink::{Sink, Times, this_program};
use bench::{median, timed_event};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rumqttc_v5::{AsyncClient, MqttOptions, PublishOptions};
use support::kafka::Kafka;
use support::mosquitto::Mosquitto;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Messages a second.
const RATE: u64 = 1_000;
const KEYS: u64 = 100;
const TOPIC: &str = "load";

/// A consumer starts, joins and finds its pace; then it is measured.
const BEFORE: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(8);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sink", certificate] => bench::sink::run(certificate),
        ["bare", broker, address, topic, endpoint] => {
            let run = bench::bare::run(broker, address, topic, endpoint);
            Runtime::new().unwrap().block_on(run);
        }
        _ => Runtime::new().unwrap().block_on(table()),
    }
}

async fn table() {
    let rounds = std::env::var("ROUNDS").map_or(5, |n| n.parse().unwrap());
    let mut sink = Sink::start(None);
    println!("| broker | p50, ms | p99, ms | p99.9, ms | p50 added | p99 added |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let kafka = Kafka::start("").await;
    kafka.create_topic(TOPIC, 12, &[]).await;
    let load = tokio::spawn(produce_to_kafka(kafka.address()));
    row("kafka", &kafka.address(), &mut sink, rounds).await;
    load.abort();
    drop(kafka);
    let mosquitto = Mosquitto::start("").await;
    let address = format!("127.0.0.1:{}", mosquitto.port);
    let load = tokio::spawn(produce_to_mqtt(mosquitto.port));
    row("mqtt", &address, &mut sink, rounds).await;
    load.abort();
}

/// The bridge and the bare consumer take turns.
async fn row(broker: &str, address: &str, sink: &mut Sink, rounds: usize) {
    let directory = tempfile::tempdir().unwrap();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("{broker}: round {round} of {rounds}");
        let config = config(broker, address, &sink.endpoint, directory.path());
        let mut bridge = Command::new(env!("CARGO_BIN_EXE_appsync-bridge"));
        let log = File::create(directory.path().join("log")).unwrap();
        bridge.args(["run", "-c", &config]).stderr(log);
        ours.push(times(&mut bridge, sink).await);
        let endpoint = sink.endpoint.clone();
        let words = ["bare", broker, address, TOPIC, &endpoint];
        bare.push(times(this_program().args(words), sink).await);
    }
    let of = |all: &[Times], value: fn(&Times) -> f64| median(all.iter().map(value));
    let values: [fn(&Times) -> f64; 3] = [|t| t.p50, |t| t.p99, |t| t.p999];
    let [ours_of, bare_of] = [&ours, &bare].map(|all| values.map(|value| of(all, value)));
    let added = |value: fn(&Times) -> f64| {
        median(ours.iter().zip(&bare).map(|(ours, bare)| value(ours) - value(bare)))
    };
    let [p50, p99, p999] = ours_of;
    let (added_p50, added_p99) = (added(values[0]), added(values[1]));
    println!("| {broker} | {p50:.2} | {p99:.2} | {p999:.2} | {added_p50:.2} | {added_p99:.2} |");
    let [p50, p99, p999] = bare_of;
    println!("| … a bare consumer | {p50:.2} | {p99:.2} | {p999:.2} | | |");
}

async fn times(consumer: &mut Command, sink: &mut Sink) -> Times {
    let child = consumer.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let consumer = Running(child.unwrap());
    sleep(BEFORE).await;
    sink.times();
    let before = sink.seen();
    sleep(MEASURED).await;
    let (times, seen) = (sink.times(), sink.seen());
    drop(consumer);
    let events = seen.events - before.events;
    let expected = RATE as f64 * MEASURED.as_secs_f64();
    assert!(events > 0.95 * expected, "of {expected} events only {events} came");
    times
}

/// An ordinary configuration, whose group or session begins with what comes now.
fn config(broker: &str, address: &str, endpoint: &str, directory: &Path) -> String {
    let new = format!("{:016x}", rand::random::<u64>());
    let (source, topic, channel) = match broker {
        "kafka" => (
            format!(
                "brokers = [\"{address}\"]\ntopics = [\"{TOPIC}\"]\ngroup = \"{new}\"\nstart = \"latest\""
            ),
            TOPIC.to_owned(),
            "key",
        ),
        _ => (
            format!(
                "url = \"mqtt://{address}\"\nclient_id = \"{new}\"\nsubscriptions = [\"{TOPIC}/#\"]\nkeep_alive = \"5s\"\nsession_expiry = \"6s\""
            ),
            format!("{TOPIC}/{{device}}"),
            "device",
        ),
    };
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         [source.load]\ntype = \"{broker}\"\n{source}\n\
         [route.load]\nfrom = \"load\"\ntopic = \"{topic}\"\nchannel = \"/bench/{{{channel}}}\"\n\
         dead_letter = \"discard\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    let path = directory.join("bridge.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn produce_to_kafka(address: String) {
    let mut config = rdkafka::ClientConfig::new();
    let config = config.set("bootstrap.servers", address).set("linger.ms", "0");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let mut clock = clock();
    for id in 0.. {
        clock.tick().await;
        let (payload, key) = (timed_event(id), (id % KEYS).to_string());
        let record = BaseRecord::to(TOPIC).key(&key).payload(&payload);
        producer.send(record).map_err(|(why, _)| why).unwrap();
    }
}

async fn produce_to_mqtt(port: u16) {
    let mut options = MqttOptions::new("producer", ("127.0.0.1", port));
    options.set_outgoing_inflight_upper_limit(1_000);
    let (client, mut events) = AsyncClient::builder(options).capacity(1_000).build();
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut clock = clock();
    for id in 0.. {
        clock.tick().await;
        let topic = format!("{TOPIC}/{}", id % KEYS);
        client.publish(topic, timed_event(id), PublishOptions::at_least_once()).await.unwrap();
    }
}

fn clock() -> tokio::time::Interval {
    let mut clock = interval(Duration::from_secs(1) / RATE as u32);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    clock
}
