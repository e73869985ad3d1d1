//! Subscriptions that a configuration has no more, and that stay in the session of its client.

use std::collections::BTreeMap;
use std::fs;

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::Ledger;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::{PATIENCE, until};

/// One copy for each subscription that takes a message, as most other brokers have it.
const COPIES: &str = "allow_duplicate_messages true\n";

const FOREIGN: &str = "by a subscription that the broker's session has";

fn edit(setup: &Setup, old: &str, new: &str) {
    let text = fs::read_to_string(setup.config()).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old} in\n{text}");
    fs::write(setup.config(), text.replace(old, new)).unwrap();
}

async fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(0), "{}", bridge.log());
}

async fn send(mosquitto: &Mosquitto, ids: std::ops::Range<u64>, topic: &str) {
    let message = |id| (topic.to_owned(), format!("{{\"id\":{id}}}").into_bytes());
    publish(mosquitto.port, 1_000, ids.map(message)).await;
}

/// Every message was published once, and nothing is to come.
async fn each_once(bridge: &Bridge, ledger: &Ledger, count: usize) {
    ledger.has_ids(count, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let mut times = BTreeMap::<u64, usize>::new();
    for accepted in ledger.read() {
        *times.entry(accepted.event["id"].as_u64().unwrap()).or_default() += 1;
    }
    assert!(times.len() == count && times.values().all(|times| *times == 1), "{times:?}");
}

/// Nothing is unsubscribed from: that may discard what waits. What comes by it is published, and said.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_by_a_subscription_of_before_is_said() {
    // In MQTT 5 by its identifier; in 3.1.1 the topic tells.
    let cases = [
        ("version = 5", "[\"plant/+/data\"]", "plant/a/data", false),
        ("version = 5", "[\"plant/#\"]\nshare = \"group\"", "plant/a/data", true),
        ("version = 3", "[\"plant/b/#\"]", "plant/a/data", true),
    ];
    for (version, new, topic, reload) in cases {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let mosquitto = Mosquitto::start(COPIES).await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        send(&mosquitto, 0..10, "plant/a/data").await;
        each_once(&bridge, &ledger, 10).await;
        // Nothing of this is foreign, and nothing that waits for the same configuration.
        stop(bridge).await;
        send(&mosquitto, 10..20, "plant/a/data").await;
        let bridge = setup.start_ready().await;
        each_once(&bridge, &ledger, 20).await;
        send(&mosquitto, 20..30, "plant/a/data").await;
        each_once(&bridge, &ledger, 30).await;
        assert_eq!(bridge.lines(&[FOREIGN]), Vec::<String>::new());

        edit(&setup, "[\"plant/#\"]", new);
        let bridge = if reload {
            assert_eq!(bridge.reload(&[]).await.0, 200);
            bridge.ready().await;
            bridge
        } else {
            stop(bridge).await;
            setup.start_ready().await
        };
        send(&mosquitto, 30..40, topic).await;
        until("it is said", PATIENCE, async || bridge.lines(&["WARN", FOREIGN, topic]).pop()).await;
        // It counts all the same.
        ledger.has_ids(40, PATIENCE).await;
        assert_eq!(bridge.lines(&[FOREIGN]).len(), 1);
    }
}
