//! The end of a connection: what a broker says of it, and one that keeps the bridge from saying it.

use std::time::Duration;

use super::trouble::{NO_API, hint, welcome};
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::produce;
use crate::support::scripted::{Heard, Play, Scripted, publish};
use crate::support::{PATIENCE, until};

/// DISCONNECT of MQTT 5 for this reason, as the specification has it; some leave the length of the properties out.
pub(super) fn disconnect(reason: u8) -> Vec<u8> {
    vec![0xe0, 2, reason, 0]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_says_at_its_goodbye_is_understood() {
    let cases = [
        (0x8e, ["SessionTakenOver", "another client uses the same `client_id`"]),
        (0x87, ["NotAuthorized", "`username` and a `password`"]),
        (0x8b, ["the broker ended the connection", "ServerShuttingDown"]),
    ];
    for (reason, words) in cases {
        let broker = Scripted::start(move |heard| match (heard, welcome(heard)) {
            (Heard::Subscribe { .. }, Play::Say(granted)) => {
                Play::Say([granted, disconnect(reason)].concat())
            }
            (_, play) => play,
        })
        .await;
        let bridge = Setup::new(NO_API, broker.port, "", "", "").start().await;
        hint(&bridge, &words).await;
    }
}

/// It answers pings, which tells that it has read all before them.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_answers_no_unsubscribe_does_not_hold_up_the_stop() {
    let broker = Scripted::start(welcome).await;
    broker.ignore_unsubscribe();
    let setup = Setup::new(NO_API, broker.port, "", "keep_alive = \"1s\"", "");
    let mut bridge = setup.start_ready().await;
    // It is written to the dead letter.
    broker.say(publish("plant/a/data", "no JSON", Some(1), &[]));
    until("it is acknowledged", PATIENCE, async || {
        broker.heard().contains(&Heard::PubAck(1)).then_some(())
    })
    .await;
    bridge.signal("TERM");
    // Below the grace, which is 25 s.
    let ended = bridge.ended(Duration::from_secs(15)).await;
    assert_eq!(ended.code(), Some(0), "{}", bridge.log());
}

/// Nothing is owed when the broker goes before the bridge, though the next ping is far.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_behind_the_broker_is_clean_when_it_has_read_everything() {
    for version in ["version = 5", "version = 3"] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let mut mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let mut bridge = setup.start_ready().await;
        produce(mosquitto.port, 1, 1_000, 1).await;
        ledger.has_ids(1, PATIENCE).await;
        // In a line by itself. It is answered before the broker looks at its signals.
        until("a mark", Duration::from_secs(10), async || {
            mosquitto.log().lines().any(|line| line.trim() == "appsync-bridge/none").then_some(())
        })
        .await;
        mosquitto.stop();
        bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
        bridge.signal("TERM");
        let code = bridge.ended(PATIENCE).await.code();
        assert_eq!(code, Some(0), "{version}: {}", bridge.log());
    }
}

/// What was taken over a connection that was lost comes again, published or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_a_loss_is_clean_when_a_later_connection_has_made_it_good() {
    for (version, made_good) in
        [("version = 5", false), ("version = 5", true), ("version = 3", true)]
    {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let fails = serde_json::json!([{ "fault": { "answer": { "status": 503 } } }]);
        emulator.set_faults(fails).await;
        let mut mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let mut bridge = setup.start_ready().await;
        produce(mosquitto.port, 20, 1_000, 2).await;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 20.0).await;
        mosquitto.stop();
        bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
        emulator.set_faults(serde_json::json!([])).await;
        ledger.has_ids(20, PATIENCE).await;
        bridge.nothing_in_flight().await;
        if made_good {
            mosquitto.restart().await;
            bridge.ready().await;
            bridge.metric_is("source_received_total{source=\"plant\"}", |v| v == 40.0).await;
            bridge.nothing_in_flight().await;
        }
        bridge.signal("TERM");
        let code = bridge.ended(PATIENCE).await.code();
        assert_eq!(code, Some(i32::from(!made_good)), "{version}: {}", bridge.log());
    }
}
