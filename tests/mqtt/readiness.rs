//! When the MQTT source says that it is ready: not while a connection closes, and not in a drain.

use std::time::{Duration, Instant};

use serde_json::json;

use super::trouble::{NO_API, connects, welcome};
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::scripted::{Heard, Play, Scripted, publish, suback};
use crate::support::{PATIENCE, until};

const CONNECTED: &str = "source_connected{source=\"plant\"}";

async fn page_says(bridge: &Bridge, words: &str) {
    until(words, PATIENCE, async || bridge.get("/readyz").await.1.contains(words).then_some(()))
        .await;
}

fn event(packet_id: u16) -> Vec<u8> {
    publish("plant/a/data", &format!("{{\"id\":{packet_id}}}"), Some(packet_id), &[])
}

/// The broker closes its side of no connection, so each is listened to for 5 s after its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_counts_no_more_while_it_closes() {
    let broker = Scripted::start(welcome).await;
    broker.keep_open();
    let bridge = Setup::new(NO_API, broker.port, "", "", "").start_ready().await;
    assert_eq!(bridge.metric(CONNECTED).await, 1.0);
    let began = Instant::now();
    broker.say(vec![0xff; 8]);
    page_says(&bridge, "next try in ").await;
    assert!(began.elapsed() < Duration::from_secs(4), "it was closed by then");
    assert_eq!(bridge.metric(CONNECTED).await, 0.0);
    assert_eq!(bridge.lines(&["not connected; trying again"]).len(), 1);
    assert_eq!(connects(&broker), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_full_is_not_ready_before_the_next_one() {
    let (directory, mut subscribes) = (tempfile::tempdir().unwrap(), 0);
    let (emulator, _ledger) = Emulator::with_ledger(&directory, &[]);
    emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    // 64 are held, and the rest is left.
    let broker = Scripted::start(move |heard| match (heard, welcome(heard)) {
        (Heard::Subscribe { .. }, Play::Say(mut said)) if subscribes == 0 => {
            subscribes += 1;
            said.extend((1..=66).flat_map(event));
            Play::Say(said)
        }
        (_, play) => play,
    })
    .await;
    broker.keep_open();
    let setup = Setup::new(&emulator.endpoint, broker.port, "", "max_in_flight = 1", "");
    let bridge = setup.start().await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 64.0).await;
    emulator.set_faults(json!([])).await;
    page_says(&bridge, "connecting again").await;
    assert_eq!(bridge.metric(CONNECTED).await, 0.0);
    assert_eq!(connects(&broker), 1, "it was closed by then");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_during_the_drain_makes_nothing_ready() {
    let broker = Scripted::start(|heard| match (heard, welcome(heard)) {
        (Heard::Subscribe { .. }, _) => Play::Say(event(1)),
        (_, play) => play,
    })
    .await;
    let bridge = Setup::new(NO_API, broker.port, "", "", "").start().await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 1.0).await;
    bridge.signal("TERM");
    page_says(&bridge, "source plant: draining").await;
    let Heard::Subscribe { packet_id, .. } = broker.heard()[1] else { panic!("no SUBSCRIBE") };
    broker.say(suback(5, packet_id, &[1]));
    // Counted when it is read, which is after the grant.
    broker.say(publish("plant/a/data", "{}", None, &[]));
    bridge.metric_is("source_dropped_total{source=\"plant\"}", |v| v == 1.0).await;
    page_says(&bridge, "source plant: draining").await;
}
