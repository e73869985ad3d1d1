//! What became of each message, as `source_settled_total` says it: one outcome a message, the worst of its
//! events, and a sum that is exact also while some are held.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;

/// `source` with routes of which two take each message of `both`: what one can't publish is kept, what
/// the other can't is discarded.
fn setup(emulator: &Emulator, source: &str, held: &str, both: &str) -> Setup {
    let tables = format!(
        "[source.it]\n{source}\nunrouted = \"ignore\"\n\
         [route.held]\nfrom = \"it\"\ntopic = \"{held}\"\nchannel = \"/held/x\"\n\
         [route.keep]\nfrom = \"it\"\ntopic = \"{both}\"\nchannel = \"/keep/{{json.a}}\"\n\
         [route.drop]\nfrom = \"it\"\ntopic = \"{both}\"\nchannel = \"/drop/{{json.b}}\"\n\
         dead_letter = \"discard\"\n"
    );
    Setup::of(&emulator.endpoint, "", &tables, "")
}

/// Messages for both routes, each with what becomes of it.
const BOTH: [(&str, &str); 8] = [
    ("published", r#"{"a":"x","b":"x"}"#),
    ("published", r#"{"a":"y","b":"x"}"#),
    ("discarded", r#"{"a":"x"}"#),
    ("dead_lettered", r#"{"b":"x"}"#),
    ("dead_lettered", "{}"),
    ("dead_lettered", "no json"),
    ("unconfirmed", r#"{"a":"odd-1","b":"x"}"#),
    ("discarded", r#"{"a":"odd-2"}"#),
];

/// Events of these that are accepted.
const EVENTS: f64 = 7.0;

/// Refuses `/held`, and names nothing of two channels in its answer.
async fn strike(emulator: &Emulator, is_held: bool) {
    let odd = ["/keep/odd-1", "/keep/odd-2"]
        .map(|channel| json!({ "fault": { "wrong_answer": "missing" }, "channel": channel }));
    let held = json!({ "fault": { "refuse_namespace": {} }, "namespace": "held" });
    let faults: Vec<Value> = odd.into_iter().chain(is_held.then_some(held)).collect();
    emulator.set_faults(json!(faults)).await;
}

/// Waits until everything but the held message is done with, though not acknowledged.
async fn all_but_one_are_done(bridge: &Bridge, accepted: f64, unrouted: f64) {
    for (series, value) in [
        ("publish_events_total{api=\"main\",outcome=\"accepted\"}", accepted),
        ("publish_events_total{api=\"main\",outcome=\"unconfirmed\"}", 2.0),
        ("dead_letters_total{reason=\"no_route_value\"}", 2.0),
        ("dead_letters_total{reason=\"invalid_json\"}", 1.0),
        ("unrouted_total{source=\"it\"}", unrouted),
        ("api_paused{api=\"main\"}", 1.0),
    ] {
        bridge.metric_is(series, |v| v == value).await;
    }
}

/// How often each outcome stands in these.
fn counted<'a>(outcomes: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.to_owned()).or_default() += 1.0;
    }
    counts
}

/// The one that no route takes is a warning with a count, and the rest is counted at the end.
async fn unrouted_is_said(mut bridge: Bridge, topic: &str, count: u64) {
    bridge.signal("TERM");
    assert!(bridge.ended(Duration::from_secs(20)).await.success(), "{}", bridge.log());
    let lines = bridge.lines(&["\"WARN\"", "no route takes"]);
    let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", bridge.log());
    assert_eq!((&lines[0]["topic"], &lines[0]["source"]), (&json!(topic), &json!("it")));
    assert!(lines[0]["hint"].as_str().unwrap().contains("unrouted = \"dead-letter\""));
    assert_eq!(lines.iter().map(|l| l["count"].as_u64().unwrap()).sum::<u64>(), count);
}

async fn over_mqtt(version: u8) {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let source = format!(
        "type = \"mqtt\"\nversion = {version}\nurl = \"mqtt://127.0.0.1:{}\"\nclient_id = \"bridge\"\n\
         subscriptions = \"in/#\"",
        mosquitto.port
    );
    strike(&emulator, true).await;
    let bridge = setup(&emulator, &source, "in/held", "in/both").start_ready().await;
    let messages = [("in/held", "{}")].into_iter();
    let messages = messages.chain(BOTH.map(|(_, payload)| ("in/both", payload)));
    let messages = messages.chain([("in/nobody", "1"); 3]);
    let messages: Vec<_> = messages.map(|(t, p)| (t.to_owned(), p.as_bytes().to_vec())).collect();
    publish(mosquitto.port, 1_000, messages).await;
    for (topic, payload) in [("in/both", BOTH[0].1), ("in/nobody", "1")] {
        let port = mosquitto.port.to_string();
        let args = ["-p", &port, "-q", "0", "-t", topic, "-m", payload];
        assert!(Command::new("mosquitto_pub").args(args).status().unwrap().success());
    }
    all_but_one_are_done(&bridge, EVENTS + 2.0, 4.0).await;
    // Everything stands behind the one that is held.
    assert_eq!(bridge.settled("it").await, BTreeMap::new());
    assert_eq!(bridge.metric("source_in_flight{source=\"it\"}").await, 14.0);
    strike(&emulator, false).await;
    bridge.metric_is("source_in_flight{source=\"it\"}", |v| v == 0.0).await;
    let others = ["published", "published", "unrouted", "unrouted", "unrouted", "unrouted"];
    let expected = counted(BOTH.map(|(outcome, _)| outcome).into_iter().chain(others));
    assert_eq!(bridge.settled("it").await, expected);
    unrouted_is_said(bridge, "in/nobody", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_is_counted_over_mqtt_5() {
    over_mqtt(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_is_counted_over_mqtt_3() {
    over_mqtt(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_is_counted_over_kafka() {
    let kafka = Kafka::shared().await;
    let emulator = Emulator::start(&[]);
    let mut topics = Vec::new();
    for name in ["held", "both", "nobody"] {
        topics.push(kafka.topic(name, 1, &[]).await);
    }
    let [held, both, nobody] = topics.as_slice() else { unreachable!() };
    let source = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{held}\"\ntopics = [\"{held}\", \"{both}\", \"{nobody}\"]",
        kafka.address()
    );
    strike(&emulator, true).await;
    let bridge = setup(&emulator, &source, held, both).start_ready().await;
    kafka.produce(held, [Record::new("{}"), Record::tombstone("k"), Record::tombstone("k")]).await;
    kafka.produce(both, BOTH.map(|(_, payload)| Record::new(payload))).await;
    kafka.produce(nobody, ["1", "2", "3"].map(Record::new)).await;
    all_but_one_are_done(&bridge, EVENTS, 3.0).await;
    // What stands in other partitions is acknowledged, what is behind the held one is not.
    bridge.metric_is("source_in_flight{source=\"it\"}", |v| v == 3.0).await;
    let others = ["unrouted", "unrouted", "unrouted"];
    let mut expected = counted(BOTH.map(|(outcome, _)| outcome).into_iter().chain(others));
    assert_eq!(bridge.settled("it").await, expected);
    strike(&emulator, false).await;
    bridge.metric_is("source_in_flight{source=\"it\"}", |v| v == 0.0).await;
    *expected.get_mut("published").unwrap() += 1.0;
    expected.insert("filtered".to_owned(), 2.0);
    assert_eq!(bridge.settled("it").await, expected);
    unrouted_is_said(bridge, nobody, 3).await;
}
