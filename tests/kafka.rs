//! The Kafka source against a real Apache Kafka: the bridge is a process of its own, the emulator's
//! ledger is the judge.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::ledger::{Ledger, assert_order, ids};

/// An endpoint with a ledger, that answers after 20 ms.
struct Endpoint {
    emulator: Emulator,
    ledger: Ledger,
    _directory: tempfile::TempDir,
}

fn endpoint() -> Endpoint {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let emulator = Emulator::start(&["--latency", "20ms", "--ledger", path.to_str().unwrap()]);
    Endpoint { emulator, ledger: Ledger { path }, _directory: directory }
}

/// A bridge that takes `topics` (TOML) of this broker as `group`, with lines of TOML in its source.
fn setup(endpoint: &str, broker: &str, group: &str, topics: &str, source: &str) -> Setup {
    let source = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = \"{broker}\"\ngroup = \"{group}\"\ntopics = {topics}\n{source}\n"
    );
    let route = "[route.data]\nfrom = \"shop\"\nchannel = \"/shop/dev-{json.key}\"\n";
    Setup::of(endpoint, "", &format!("{source}{route}"), "")
}

/// Writes `count` numbered messages at `rate` a second over `keys` keys, and returns when the broker has
/// confirmed every one.
async fn produce(kafka: &Kafka, topic: &str, count: u64, rate: u64, keys: u64) {
    let producer = kafka.producer(&[]);
    let mut under_way = Vec::new();
    let began = Instant::now();
    for id in 0..count {
        let due = Duration::from_secs_f64(id as f64 / rate as f64);
        if let Some(wait) = due.checked_sub(began.elapsed()).filter(|w| w.as_millis() > 2) {
            tokio::time::sleep(wait).await;
        }
        under_way.push(producer.put(topic, &record(id, keys)));
    }
    for confirmed in under_way {
        confirmed.await.unwrap().unwrap();
    }
}

fn record(id: u64, keys: u64) -> Record {
    let (key, seq) = (id % keys, id / keys);
    let payload = json!({ "id": id, "key": key, "seq": seq }).to_string();
    Record::new(payload).key(format!("k{key}"))
}

const IN_FLIGHT: &str = "source_in_flight{source=\"shop\"}";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_delivered_in_order_and_committed() {
    const COUNT: u64 = 3_000;
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("happy", 4, &[]).await;
    let Endpoint { emulator, ledger, _directory } = endpoint();
    let setup = setup(&emulator.endpoint, &kafka.address(), &topic, &format!("\"{topic}\""), "");
    let mut bridge = setup.start_ready().await;
    produce(kafka, &topic, COUNT, 5_000, 40).await;
    ledger.has_ids(COUNT as usize, Duration::from_secs(30)).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let ends = kafka.end_offsets(&topic).await;
    let group = kafka.group(&topic);
    crate::support::until("all is committed", Duration::from_secs(5), async || {
        (group.committed(&topic).await == ends).then_some(())
    })
    .await;
    let accepted = ledger.read();
    assert_eq!(accepted.len() as u64, COUNT, "some came twice");
    assert_eq!(ids(&accepted).len() as u64, COUNT);
    assert_order(&accepted, 0);
    bridge.signal("TERM");
    let status = bridge.ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
}
