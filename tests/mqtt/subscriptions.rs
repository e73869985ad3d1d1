//! What the MQTT source subscribes to, and which copies of a message it takes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::goodbye::disconnect;
use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{publish, publish_retained};
use crate::support::scripted::{self, Heard, Play, Scripted, connack, suback};
use crate::support::until;

const ROUTE: &str = "[route.all]\nfrom = \"plant\"\nchannel = \"/all\"\n";

fn setup(endpoint: &str, port: u16, lines: &str, subscriptions: &str) -> Setup {
    let source = format!(
        "[source.plant]\ntype = \"mqtt\"\nclient_id = \"bridge\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         subscriptions = {subscriptions}\n{lines}\n{ROUTE}"
    );
    Setup::of(endpoint, "", &source, "")
}

fn endpoint() -> (Emulator, Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    (emulator, ledger, directory)
}

/// Grants everything.
fn grant(level: u8, heard: &Heard) -> Play {
    Play::Say(match heard {
        Heard::Connect { level, .. } => connack(*level, 0, &[]),
        Heard::Subscribe { packet_id, filters, .. } => {
            suback(level, *packet_id, &vec![1; filters.len()])
        }
        _ => Vec::new(),
    })
}

const VERSIONS: [(&str, u8); 2] = [("version = 5", 5), ("version = 3", 4)];

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_asked_again_until_it_is_granted() {
    let (emulator, _ledger, _directory) = endpoint();
    for (version, level) in VERSIONS {
        let refusal = if level == 5 { 0x87 } else { 0x80 };
        let grants = Arc::new(AtomicBool::new(false));
        let granting = Arc::clone(&grants);
        let broker = Scripted::start(move |heard| match heard {
            Heard::Subscribe { packet_id, filters, .. } if !granting.load(Ordering::Relaxed) => {
                let code = |filter: &String| if filter == "b/x" { refusal } else { 1 };
                let codes: Vec<u8> = filters.iter().map(code).collect();
                Play::Say(suback(level, *packet_id, &codes))
            }
            heard => grant(level, heard),
        })
        .await;
        let setup = setup(&emulator.endpoint, broker.port, version, "[\"a/#\", \"b/x\", \"c\"]");
        let bridge = setup.start().await;
        until("it is asked for three times more", PATIENCE, async || {
            (broker.subscribes().len() >= 4).then_some(())
        })
        .await;
        assert!(broker.subscribes()[1..].iter().all(|(asked, _)| *asked == ["b/x"]), "{version}");
        let (status, page) = bridge.get("/readyz").await;
        assert!(status == 503 && page.contains("`b/x`"), "{page}");
        grants.store(true, Ordering::Relaxed);
        until("the bridge is ready", PATIENCE, async || {
            (bridge.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
        assert_eq!(bridge.lines(&["WARN", "b/x"]).len(), 1, "{version}");
        assert_eq!(bridge.lines(&["the broker grants", "b/x"]).len(), 1, "{version}");
        let connects = |heard: &&Heard| matches!(heard, Heard::Connect { .. });
        assert_eq!(broker.heard().iter().filter(connects).count(), 1, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_eight_filters_at_once_gets_pieces_and_each_is_awaited() {
    let (emulator, _ledger, _directory) = endpoint();
    for (version, level) in VERSIONS {
        let held = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (holding, asked) = (Arc::clone(&held), Arc::new(AtomicUsize::new(0)));
        // As AWS IoT Core does. The first SUBACK is held back.
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } => Play::Say(connack(level, 0, &[0x29, 0])),
            Heard::Subscribe { filters, .. } if filters.len() > 8 => Play::Close,
            Heard::Subscribe { packet_id, filters, .. } => {
                let answer = suback(level, *packet_id, &vec![1; filters.len()]);
                if asked.fetch_add(1, Ordering::Relaxed) == 0 {
                    *holding.lock().unwrap() = answer;
                    Play::Say(Vec::new())
                } else {
                    Play::Say(answer)
                }
            }
            _ => Play::Say(Vec::new()),
        })
        .await;
        let filters: Vec<_> = (0..17).map(|n| format!("a/{n}/#")).collect();
        let setup = setup(&emulator.endpoint, broker.port, version, &format!("{filters:?}"));
        let bridge = setup.start().await;
        until("all pieces", PATIENCE, async || (broker.subscribes().len() == 3).then_some(()))
            .await;
        let sizes: Vec<_> = broker.subscribes().iter().map(|(f, _)| f.len()).collect();
        assert_eq!(sizes, [8, 8, 1], "{version}");
        // The others are answered, and this is not enough.
        bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 1.0).await;
        assert_eq!(bridge.get("/readyz").await.0, 503);
        let answer = std::mem::take(&mut *held.lock().unwrap());
        broker.say(answer);
        bridge.ready().await;
        assert_eq!(broker.subscribes().len(), 3, "{version}");
    }
}

fn numbered(topics: &[&str], from: u64, count: u64) -> Vec<(String, Vec<u8>)> {
    let message = |id: u64| {
        let topic = topics[id as usize % topics.len()];
        (topic.to_owned(), json!({ "id": id, "topic": topic }).to_string().into_bytes())
    };
    (from..from + count).map(message).collect()
}

/// How often each message was published.
fn times(ledger: &Ledger) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for accepted in ledger.read() {
        *times.entry(accepted.event["id"].as_u64().unwrap()).or_default() += 1;
    }
    times
}

async fn each_once(bridge: &Bridge, ledger: &Ledger, count: u64) {
    ledger.has_ids(count as usize, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let times = times(ledger);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert_eq!(times.len() as u64, count);
}

async fn sums_are_exact(bridge: &Bridge, count: u64) {
    let metrics = bridge.metrics().await;
    let received = metrics["appsync_bridge_source_received_total{source=\"plant\"}"];
    let settled: f64 = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("appsync_bridge_source_settled_total{"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!((received, settled), (count as f64, count as f64));
}

/// What mosquitto sent to the bridge with QoS 1, and what came back.
fn sent_and_acknowledged(mosquitto: &Mosquitto) -> (usize, usize) {
    let log = mosquitto.log();
    let sent = |l: &&str| l.starts_with("Sending PUBLISH to bridge") && l.contains(", q1,");
    let sent = log.lines().filter(sent).count();
    (sent, log.matches("Received PUBACK from bridge").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_several_filters_take_is_published_once() {
    let cases = [
        "[\"acc/#\", \"acc/+\", \"acc/x\"]",
        "[\"acc/x\", \"acc/+\", \"acc/#\"]",
        "[\"+/x\", \"acc/#\", \"other\", \"#\", \"$SYS/none\"]",
        // The others count less, whichever comes first.
        "[{ filter = \"acc/#\", qos = 0 }, \"acc/+\", { filter = \"acc/x\", qos = 0 }, \"#\"]",
    ];
    for mode in ["", "allow_duplicate_messages false\n", "allow_duplicate_messages true\n"] {
        for case in cases {
            let (emulator, ledger, _directory) = endpoint();
            let mosquitto = Mosquitto::start(mode).await;
            // Retained before anybody subscribes.
            let retained = numbered(&["acc/x", "acc/y", "acc/x/z", "acc"], 0, 4);
            publish_retained(mosquitto.port, retained).await;
            let setup = setup(&emulator.endpoint, mosquitto.port, "", case);
            let bridge = setup.start_ready().await;
            ledger.reaches(4, PATIENCE).await;
            let topics = ["acc/x", "acc/y", "acc/x/z"];
            publish(mosquitto.port, 2_000, numbered(&topics, 4, 300)).await;
            each_once(&bridge, &ledger, 304).await;
            sums_are_exact(&bridge, 304).await;
            until("all copies are acknowledged", PATIENCE, async || {
                let (sent, acknowledged) = sent_and_acknowledged(&mosquitto);
                (sent == acknowledged).then_some(())
            })
            .await;
            let skipped = bridge.metric("source_copies_skipped_total{source=\"plant\"}").await;
            assert!(skipped > 0.0, "{mode} {case}");
            assert_eq!(bridge.metric("source_reconnects_total{source=\"plant\"}").await, 0.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_waited_are_told_apart_by_the_next_process() {
    let (emulator, ledger, _directory) = endpoint();
    let mosquitto = Mosquitto::start("").await;
    let filters = "[\"acc/#\", \"acc/+\", \"acc/x\"]";
    let setup = setup(&emulator.endpoint, mosquitto.port, "", filters);
    let bridge = setup.start_ready().await;
    publish(mosquitto.port, 2_000, numbered(&["acc/x"], 0, 10)).await;
    each_once(&bridge, &ledger, 10).await;
    bridge.kill();
    publish(mosquitto.port, 2_000, numbered(&["acc/x", "acc/y"], 10, 300)).await;
    let bridge = setup.start_ready().await;
    ledger.has_ids(310, PATIENCE).await;
    bridge.nothing_in_flight().await;
    // Those that were in flight at the kill may come again.
    let late = times(&ledger).into_iter().filter(|(id, times)| *id >= 10 && *times != 1);
    assert_eq!(late.collect::<Vec<_>>(), []);
    bridge.kill();

    // Another configuration loses nothing of what waits, also where other filters come first now.
    publish(mosquitto.port, 2_000, numbered(&["acc/x", "acc/y"], 310, 100)).await;
    let text = fs::read_to_string(setup.file("bridge.toml")).unwrap();
    let new = "[{ filter = \"acc/#\", qos = 0 }, \"+/x\", \"acc/x\", \"acc/+\"]";
    fs::write(setup.file("bridge.toml"), text.replace(filters, new)).unwrap();
    let bridge = setup.start_ready().await;
    ledger.has_ids(410, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert_eq!(ids(&ledger.read()).len(), 410);
    publish(mosquitto.port, 2_000, numbered(&["acc/x", "acc/y", "acc/z/z"], 410, 30)).await;
    ledger.has_ids(440, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let new = times(&ledger).into_iter().filter(|(id, times)| *id >= 410 && *times != 1);
    assert_eq!(new.collect::<Vec<_>>(), [], "and those that come now come once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_taken_under_what_is_granted_and_each_is_acknowledged_in_order() {
    let (emulator, ledger, _directory) = endpoint();
    // The filter that comes first is refused, and the second gets less than it asks for.
    let broker = Scripted::start(|heard| match heard {
        Heard::Subscribe { packet_id, filters, .. } => {
            assert_eq!(filters.len(), 1);
            let code = match filters[0].as_str() {
                "acc/#" => 0x87,
                "acc/+" => 0,
                _ => 1,
            };
            Play::Say(suback(5, *packet_id, &[code]))
        }
        heard => grant(5, heard),
    })
    .await;
    let filters = "[\"acc/#\", \"acc/+\", \"acc/x\", \"+/x\"]";
    let setup = setup(&emulator.endpoint, broker.port, "", filters);
    let bridge = setup.start().await;
    // In the order of what is asked for, and once more for the one that counts less than it should.
    until("all are asked for", PATIENCE, async || {
        let asked = broker.subscribes();
        (asked.iter().filter(|(f, _)| f[0] == "acc/+").count() == 2).then_some(())
    })
    .await;
    let newest: BTreeMap<String, u32> =
        broker.subscribes().into_iter().map(|(f, id)| (f[0].clone(), id.unwrap())).collect();
    let say = |id: u64, packet_id: Option<u16>, filters: &[&str]| {
        let identifiers: Vec<_> = filters.iter().map(|filter| newest[*filter]).collect();
        let payload = json!({ "id": id }).to_string();
        broker.say(scripted::publish("acc/x", &payload, packet_id, &identifiers));
    };
    // A copy each, then one for all, and one that no filter of ours is named for.
    say(1, None, &["acc/+"]);
    say(1, Some(7), &["+/x"]);
    say(1, Some(3), &["acc/x"]);
    say(2, Some(9), &["acc/x"]);
    say(2, Some(4), &["+/x"]);
    say(3, Some(5), &["+/x", "acc/+", "acc/x"]);
    say(4, Some(6), &[]);
    ledger.has_ids(4, PATIENCE).await;
    until("all copies are acknowledged", PATIENCE, async || {
        let heard = broker.heard();
        let acknowledged: Vec<_> = heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::PubAck(id) => Some(*id),
                _ => None,
            })
            .collect();
        (acknowledged == [7, 3, 9, 4, 5, 6]).then_some(())
    })
    .await;
    assert!(times(&ledger).values().all(|times| *times == 1), "{:?}", times(&ledger));
    assert_eq!(bridge.metric("source_copies_skipped_total{source=\"plant\"}").await, 3.0);
    sums_are_exact(&bridge, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_identifiers_is_warned_of() {
    let (emulator, _ledger, _directory) = endpoint();
    // It says so at once, or only when it is asked for one: by its answer, or at its goodbye.
    for (at_once, goodbye) in [(true, false), (false, false), (false, true)] {
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } if at_once => Play::Say(connack(5, 0, &[0x29, 0])),
            Heard::Subscribe { packet_id, identifier: Some(_), .. } => {
                assert!(!at_once);
                Play::Say(if goodbye { disconnect(0xa1) } else { suback(5, *packet_id, &[0xa1]) })
            }
            heard => grant(5, heard),
        })
        .await;
        let setup = setup(&emulator.endpoint, broker.port, "", "[\"acc/#\", \"acc/x\", \"b\"]");
        let bridge = setup.start_ready().await;
        assert_eq!(bridge.lines(&["WARN", "no subscription identifiers"]).len(), 1);
        let last = broker.subscribes().pop().unwrap();
        assert_eq!(last.1, None);
    }
}
