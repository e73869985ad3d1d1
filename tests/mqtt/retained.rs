//! What a broker has retained, what ends that, and what a publisher says of a message beside its payload.

use std::fs;

use rumqttc_v5::PublishOptions;
use rumqttc_v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{publish, publish_each, publish_retained};
use crate::support::scripted::{Heard, Play, Scripted, connack, suback};
use crate::support::{PATIENCE, until};

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

const ROUTE: &str = "[route.all]\nfrom = \"plant\"\nchannel = \"/plant/all\"\n";

fn endpoint() -> (Emulator, Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    (emulator, ledger, directory)
}

fn event(id: u64) -> (String, Vec<u8>) {
    (format!("plant/dev-{id}/data"), json!({ "id": id }).to_string().into_bytes())
}

/// The most memory that it had.
fn peak_mib(bridge: &Bridge) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_retained_messages_come_once_or_not_at_all() {
    const COUNT: u64 = 10_000;
    for version in VERSIONS {
        let (emulator, ledger, _directory) = endpoint();
        let mosquitto = Mosquitto::start("").await;
        publish_retained(mosquitto.port, (0..COUNT).map(event)).await;
        let source = |retained: &str| format!("{version}\nretained = \"{retained}\"");
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source("take"), ROUTE);
        let bridge = setup.start().await;
        ledger.has_ids(COUNT as usize, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ledger.len() as u64, COUNT, "some came twice");
        assert_eq!(bridge.metric("source_reconnects_total{source=\"plant\"}").await, 0.0);
        let peak = peak_mib(&bridge);
        println!("{version}, take: {COUNT} once, {peak} MiB at most");
        assert!(peak < 200, "{peak} MiB");
        drop(bridge);

        // A session of its own, which the broker has not seen.
        let source = format!("{}\nclient_id = \"other\"", source("skip"));
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, ROUTE);
        let bridge = setup.start_ready().await;
        let skipped = if version == "version = 3" { COUNT as f64 } else { 0.0 };
        bridge.metric_is("source_retained_skipped_total{source=\"plant\"}", |v| v == skipped).await;
        // Live, though it is to be retained, and for a topic where something is.
        publish_retained(mosquitto.port, [(event(1).0, event(COUNT).1)]).await;
        ledger.has_ids(COUNT as usize + 1, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ledger.len() as u64, COUNT + 1, "retained ones came");
        let settled = bridge.settled("plant").await;
        assert_eq!(settled.get("filtered").copied().unwrap_or_default(), skipped, "{settled:?}");
        if skipped > 0.0 {
            until("it is said", PATIENCE, async || {
                (!bridge.lines(&["INFO", "skipped what the broker had retained"]).is_empty())
                    .then_some(())
            })
            .await;
        }
        println!("{version}, skip: {skipped} skipped, {} MiB at most", peak_mib(&bridge));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clearing_is_no_dead_letter() {
    for version in VERSIONS {
        let (emulator, ledger, _directory) = endpoint();
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, ROUTE);
        let bridge = setup.start_ready().await;
        publish_retained(mosquitto.port, [event(0), (event(0).0, Vec::new()), event(1)]).await;
        ledger.has_ids(2, PATIENCE).await;
        bridge.metric_is("source_tombstones_total{source=\"plant\"}", |v| v == 1.0).await;
        bridge.nothing_in_flight().await;
        assert_eq!(setup.rejects(), Vec::<Value>::new());
        let settled = bridge.settled("plant").await;
        assert_eq!((settled["published"], settled["filtered"]), (2.0, 1.0));
        until("it is said", PATIENCE, async || {
            (bridge.lines(&["INFO", "skipped messages without a payload"]).len() == 1).then_some(())
        })
        .await;
        // Empty, and no clearing: version 5 can tell.
        publish(mosquitto.port, 1_000, [(event(0).0, Vec::new()), event(2)]).await;
        ledger.has_ids(3, PATIENCE).await;
        bridge.nothing_in_flight().await;
        let (rejects, tombstones) = if version == "version = 5" { (1, 1.0) } else { (0, 2.0) };
        assert_eq!(setup.rejects().len(), rejects);
        assert_eq!(bridge.metric("source_tombstones_total{source=\"plant\"}").await, tombstones);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_says_reaches_the_route() {
    let (emulator, ledger, _directory) = endpoint();
    let mosquitto = Mosquitto::start("").await;
    let route = "[route.all]\nfrom = \"plant\"\nchannel = \"/plant/{header.mqtt-retained}/{header.mqtt-content-type}/{header.mqtt-response-topic}/{header.mqtt-correlation-data}\"\n";
    let properties = |content_type: &str| {
        PublishOptions::at_least_once().properties(PublishProperties {
            content_type: Some(content_type.to_owned()),
            response_topic: Some("answers".to_owned()),
            correlation_data: Some("c-7".into()),
            user_properties: vec![("mqtt-retained".to_owned(), "forged".to_owned())],
            ..PublishProperties::default()
        })
    };
    let (topic, payload) = event(0);
    publish_each(mosquitto.port, [(topic, payload, properties("json").retain(true))]).await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", route);
    let bridge = setup.start_ready().await;
    ledger.has_ids(1, PATIENCE).await;
    let (topic, payload) = event(1);
    publish_each(mosquitto.port, [(topic, payload, properties("text"))]).await;
    ledger.has_ids(2, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let channels: Vec<_> = ledger.read().into_iter().map(|a| a.channel).collect();
    assert_eq!(channels, ["/plant/true/json/answers/c-7", "/plant/false/text/answers/c-7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_when_its_turn_comes_is_dropped_and_counted() {
    let (emulator, ledger, _directory) = endpoint();
    let address = emulator.host().to_owned();
    drop(emulator);
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("http://{address}/event");
    let setup = Setup::new(&endpoint, mosquitto.port, "", "", ROUTE);
    let bridge = setup.start_ready().await;
    let lives = |seconds: u32| {
        PublishOptions::at_least_once().properties(PublishProperties {
            message_expiry_interval: Some(seconds),
            ..PublishProperties::default()
        })
    };
    let messages = (0..10).map(|id| {
        let (topic, payload) = event(id);
        (topic, payload, lives(if id % 2 == 0 { 1 } else { 3_600 }))
    });
    publish_each(mosquitto.port, messages).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 10.0).await;
    // The API is away for longer than half of them are of use.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let _emulator = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    ledger.has_ids(5, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert_eq!(ids(&ledger.read()).into_iter().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    let settled = bridge.settled("plant").await;
    assert_eq!((settled["published"], settled["expired"]), (5.0, 5.0), "{settled:?}");
    assert_eq!(bridge.metric("expired_total{api=\"main\"}").await, 5.0);
    assert_eq!(bridge.lines(&["WARN", "had expired when their turn came"]).len(), 1);
}

/// In 3.1.1 each SUBSCRIBE brings all that is retained: the connections that fetch the rest have to do without.
#[tokio::test(flavor = "multi_thread")]
async fn more_retained_messages_than_there_is_room_for_come_once() {
    const COUNT: u64 = 1_000;
    for version in VERSIONS {
        let (emulator, ledger, _directory) = endpoint();
        let mosquitto = Mosquitto::start("").await;
        publish_retained(mosquitto.port, (0..COUNT).map(event)).await;
        // 320 are held.
        let source = format!("{version}\nmax_in_flight = 5");
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, ROUTE);
        let bridge = setup.start().await;
        ledger.has_ids(COUNT as usize, PATIENCE).await;
        bridge.nothing_in_flight().await;
        bridge.ready().await;
        assert_eq!(ledger.len() as u64, COUNT, "{version}: some came twice");
        // A broker of version 5 knows the limit, and may keep to it.
        let reconnects = bridge.metric("source_reconnects_total{source=\"plant\"}").await;
        assert!(reconnects >= 1.0 || version == "version = 5");
    }
}

/// PUBLISH of 3.1.1, QoS 1.
fn publish_v3(packet_id: u16) -> Vec<u8> {
    let (topic, payload) = event(packet_id.into());
    let length = (4 + topic.len() + payload.len()) as u8;
    let [high, low] = packet_id.to_be_bytes();
    let head = [0x32, length, 0, topic.len() as u8];
    [&head[..], topic.as_bytes(), &[high, low], &payload].concat()
}

/// One that was away may be back with the session as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_is_fetched_with_a_new_subscription_only_where_the_broker_was_away() {
    for away in [false, true] {
        let (emulator, _ledger, _directory) = endpoint();
        emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
        let (mut connects, mut subscribes) = (0, 0);
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } => {
                connects += 1;
                if away && connects == 2 {
                    return Play::Close;
                }
                let mut answer = connack(4, 0, &[]);
                answer[2] = u8::from(connects > 1);
                Play::Say(answer)
            }
            Heard::Subscribe { packet_id, .. } => {
                subscribes += 1;
                let mut said = suback(4, *packet_id, &[1]);
                if subscribes == 1 {
                    // 64 are held, and the rest is left.
                    said.extend((1..=66).flat_map(publish_v3));
                }
                Play::Say(said)
            }
            _ => Play::Say(Vec::new()),
        })
        .await;
        let source = "version = 3\nmax_in_flight = 1";
        let setup = Setup::new(&emulator.endpoint, broker.port, "", source, ROUTE);
        let bridge = setup.start().await;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 64.0).await;
        emulator.set_faults(json!([])).await;
        bridge.metric_is("source_reconnects_total{source=\"plant\"}", |v| v == 1.0).await;
        bridge.ready().await;
        let subscribes = broker.subscribes().len();
        assert_eq!(subscribes, 1 + usize::from(away), "away: {away}\n{}", bridge.log());
    }
}
