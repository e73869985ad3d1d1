//! Reloads of a bridge with a source of core NATS, whose server keeps nothing for it.

use std::fs;

use super::core::{Relay, publish};
use crate::support::bridge::Setup;
use crate::support::{PATIENCE, signal, until};

const IN_FLIGHT: &str = "source_in_flight{source=\"it\"}";

fn edit(setup: &Setup, old: &str, new: &str) {
    let text = fs::read_to_string(setup.config()).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old} in\n{text}");
    fs::write(setup.config(), text.replace(old, new)).unwrap();
}

/// One that changes is subscribed again before what it has in flight is published.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_misses_nothing_while_the_api_is_slow() {
    let relay = Relay::open().await;
    let setup = relay.setup("max_in_flight = 1000");
    let bridge = setup.start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    let client = relay.server.client().await;
    publish(&client, 0..300, 0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 300.0).await;
    for (round, limits) in [(1, ("1000", "2000")), (2, ("2000", "3000"))] {
        edit(&setup, limits.0, limits.1);
        assert_eq!(bridge.reload(&[]).await.0, 200);
        until("it is subscribed again", PATIENCE, async || {
            let subscribed = relay.server.monitor("/connz?subs=1").await.to_string();
            (bridge.lines(&["core NATS is at most once"]).len() == round + 1
                && subscribed.matches("\"in.*\"").count() == 1)
                .then_some(())
        })
        .await;
        bridge.ready().await;
        bridge.metric_is("source_connected{source=\"it\"}", |v| v == 1.0).await;
        let from = round as u64 * 300;
        publish(&client, from..from + 300, 0).await;
        bridge.metric_is(IN_FLIGHT, |v| v == (from + 300) as f64).await;
    }
    signal(relay.emulator.pid(), "CONT");
    relay.is_relayed(&bridge, 900).await;
    assert_eq!(bridge.metric("source_dropped_total{source=\"it\"}").await, 0.0);
    until("the old ones have ended", PATIENCE, async || {
        (bridge.lines(&["a part of an earlier configuration has ended"]).len() == 2).then_some(())
    })
    .await;
    assert_eq!(bridge.metric("source_connected{source=\"it\"}").await, 1.0);
}

/// What comes by the new name is behind what is still to be published by the old one.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_gets_another_name_keeps_the_order() {
    let relay = Relay::open().await;
    let setup = relay.setup("");
    let bridge = setup.start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    let client = relay.server.client().await;
    publish(&client, 0..300, 0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 300.0).await;
    edit(&setup, "[api.main]", "[api.other]");
    let (status, answer) = bridge.reload(&[]).await;
    assert_eq!((status, answer["added"][0].as_str()), (200, Some("api other")), "{answer}");
    publish(&client, 300..600, 0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 600.0).await;
    signal(relay.emulator.pid(), "CONT");
    relay.is_relayed(&bridge, 600).await;
}

/// What waits for the end of another is done before the bridge ends.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_an_api_waits_for_another_it_publishes_everything() {
    let relay = Relay::open().await;
    let setup = relay.setup("");
    let mut bridge = setup.start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    let client = relay.server.client().await;
    publish(&client, 0..100, 0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 100.0).await;
    edit(&setup, "[api.main]", "[api.other]");
    assert_eq!(bridge.reload(&[]).await.0, 200);
    publish(&client, 100..200, 0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 200.0).await;
    bridge.signal("TERM");
    until("it drains", PATIENCE, async || (!bridge.lines(&["draining"]).is_empty()).then_some(()))
        .await;
    signal(relay.emulator.pid(), "CONT");
    let status = bridge.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
    assert_eq!(relay.ledger.read().len(), 200);
}
