//! MQTT as a source, against a real broker.

mod backlog;
mod changed;
mod check;
mod goodbye;
mod hivemq;
mod iot_core;
mod malformed;
mod readiness;
mod retained;
mod rotation;
mod shared;
mod source;
mod subscriptions;
mod trouble;
mod waiting;
mod websocket;
mod wire;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::producer::Load;

/// A bridge is killed under load from the broker at `port`: what `ledger` has in the end is whole and in order.
async fn killed_under_load_nothing_is_lost(setup: &Setup, port: u16, ledger: &Ledger) {
    let bridge = setup.start_ready().await;
    let load = Load::start(port, 1_000, 10);
    bridge.metric_is("source_received_total{source=\"plant\"}", |v| v > 500.0).await;
    bridge.kill();
    let bridge = setup.start_ready().await;
    bridge.metric_is("source_received_total{source=\"plant\"}", |v| v > 500.0).await;
    let count = usize::try_from(load.stop().await).unwrap();
    ledger.has_ids(count, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert_eq!(ids(&ledger.read()).len(), count, "{}", bridge.log());
    assert_order(&ledger.read(), 1);
}
