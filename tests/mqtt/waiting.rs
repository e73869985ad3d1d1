//! What the source does between two connections while there is no room.

use std::time::{Duration, Instant};

use serde_json::json;

use super::trouble::{NO_API, connects, welcome};
use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish as produce;
use crate::support::scripted::{Heard, Play, Scripted, connack, publish};
use crate::support::tap::{Side, Tap};
use crate::support::until;

fn event(id: u64, padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!("{{\"id\":{id},\"key\":0,\"seq\":{id},\"pad\":\"{padding}\"}}")
}

/// An outage that is longer than the broker keeps a session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_an_outage_without_room() {
    for version in ["version = 5", "version = 3"] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
        let mosquitto = Mosquitto::start("").await;
        let tap = Tap::start(mosquitto.port).await;
        // In the midst of the last one.
        tap.cut(vec![(Side::Broker, 7_000)]);
        let source =
            format!("{version}\nsession_expiry = \"3s\"\nkeep_alive = \"1s\"\nmax_in_flight = 20");
        let setup = Setup::new(&emulator.endpoint, tap.port, "", &source, "");
        let bridge = setup.start_ready().await;
        let padded = |id, size| ("plant/a/data".to_owned(), event(id, size).into_bytes());
        let message = |id| padded(id, 200);
        // More than half of the room, and less than all.
        produce(mosquitto.port, 1_000, (0..17).map(message)).await;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 17.0).await;
        produce(mosquitto.port, 1_000, [padded(17, 5_000)]).await;
        until("the cut", PATIENCE, async || (tap.cuts() == 1).then_some(())).await;
        // Once a second: then the session would have ended.
        until("visits", PATIENCE, async || (tap.connections().len() >= 5).then_some(())).await;
        assert_eq!(bridge.metric("source_connected{source=\"plant\"}").await, 0.0);
        produce(mosquitto.port, 1_000, [message(18)]).await;
        emulator.set_faults(json!([])).await;
        ledger.has_ids(19, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ids(&ledger.read()).len(), 19);
        assert_order(&ledger.read(), 1);
        assert_eq!(bridge.metric("source_session_lost_total{source=\"plant\"}").await, 0.0);
        tap.assert_in_order();
    }
}

/// A message that fits only when nothing else is in flight is not fetched again and again meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_waited_for() {
    let first = publish("plant/a/data", &event(1, 1_900), Some(1), &[]);
    let large = publish("plant/a/data", &event(2, 19_000), Some(1), &[]);
    let mut subscribes = 0;
    // What is in flight is left in its room by a connection that ends.
    let broker = Scripted::start(move |heard| match (heard, welcome(heard)) {
        (Heard::Subscribe { .. }, Play::Say(granted)) => {
            subscribes += 1;
            let then = if subscribes == 1 { &first } else { &large };
            Play::Say([granted, then.clone()].concat())
        }
        (_, play) => play,
    })
    .await;
    let setup = Setup::new(
        NO_API,
        broker.port,
        "",
        "max_in_flight_bytes = \"10KB\"\nmax_packet_size = \"10KB\"",
        "",
    );
    let bridge = setup.start().await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 1.0).await;
    broker.say(vec![0xff; 8]);
    until("it waits for room", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("waiting for room").then_some(())
    })
    .await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(connects(&broker), 2, "{}", bridge.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bridge.lines(&["left to the broker"]).len(), 1, "{}", bridge.log());
}

/// A broker that keeps a session for 3 s without a client, and has forgotten it when the first visit comes; that which the
/// visit made is there for the connection behind it.
async fn forgetful() -> Scripted {
    let mut connects_heard = 0;
    Scripted::start(move |heard| match heard {
        Heard::Connect { level, .. } => {
            connects_heard += 1;
            let mut answer = connack(*level, 0, &[0x11, 0, 0, 0, 3]);
            answer[2] = u8::from(connects_heard > 2);
            Play::Say(answer)
        }
        heard => welcome(heard),
    })
    .await
}

/// The broker grants less than it is asked for, and forgets the session during the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_forgotten_during_a_wait_is_counted() {
    let broker = forgetful().await;
    let setup = Setup::new(NO_API, broker.port, "", "max_in_flight = 3", "");
    let bridge = setup.start_ready().await;
    for id in 1..=2 {
        broker.say(publish("plant/a/data", &event(id, 10), Some(id as u16), &[]));
    }
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 2.0).await;
    broker.say(vec![0xff; 8]);
    until("it waits for room", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("waiting for room").then_some(())
    })
    .await;
    until("it connects again", PATIENCE, async || (connects(&broker) == 3).then_some(())).await;
    bridge.metric_is("source_session_lost_total{source=\"plant\"}", |v| v == 1.0).await;
    assert_eq!(bridge.lines(&["the broker has forgotten the session"]).len(), 1);
    let less = bridge.lines(&["for less than `session_expiry`", "\"kept_for\":\"3s\""]);
    assert_eq!(less.len(), 1, "{}", bridge.log());
}

/// A connection that is made for the sake of the session alone announces the little room that there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_narrow_is_widened_when_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    let broker = forgetful().await;
    let windows = || -> Vec<u16> {
        let window = |heard: Heard| match heard {
            Heard::Connect { receive_maximum, .. } => receive_maximum,
            _ => None,
        };
        broker.heard().into_iter().filter_map(window).collect()
    };
    let setup = Setup::new(&emulator.endpoint, broker.port, "", "max_in_flight = 4", "");
    let bridge = setup.start_ready().await;
    for id in 1..=4 {
        broker.say(publish("plant/a/data", &event(id, 10), Some(id as u16), &[]));
    }
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 4.0).await;
    broker.say(vec![0xff; 8]);
    until("it connects in spite of it", PATIENCE, async || (windows().len() == 3).then_some(()))
        .await;
    assert_eq!(windows(), [4, 1, 1]);
    emulator.set_faults(json!([])).await;
    ledger.has_ids(4, PATIENCE).await;
    until("a wider window", PATIENCE, async || (windows().len() == 4).then_some(())).await;
    assert_eq!(windows(), [4, 1, 1, 4]);
    bridge.ready().await;
    // The broker is left without a word of want.
    assert_eq!(bridge.lines(&["no room"]), Vec::<String>::new());
    assert_eq!(bridge.lines(&["connecting again", "\"announced\":1"]).len(), 1);
}
