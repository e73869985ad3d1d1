//! What is lost, doubled or reordered when the bridge is killed or stopped: nothing but repeats.
//!
//! The broker is a real mosquitto, the endpoint a process of its own whose ledger is written before it
//! answers. Answers are held back a little, as a network would, and the load goes on until the last kill
//! or stop, so that requests are out at any time.

use std::time::{Duration, Instant};

use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce};

/// An endpoint with a ledger, that answers 50 ms after writing it.
fn endpoint(directory: &tempfile::TempDir) -> (Emulator, Ledger) {
    let path = directory.path().join("ledger.jsonl");
    let emulator = Emulator::start(&["--latency", "50ms", "--ledger", path.to_str().unwrap()]);
    (emulator, Ledger { path })
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_five_times_nothing_is_lost_and_order_holds() {
    const KILLS: usize = 5;
    const LEAST: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = endpoint(&directory);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let mut bridge = setup.start_ready().await;
    let started = Instant::now();
    let load = Load::start(mosquitto.port, 1_250, 40);
    let mut seen_at_kill = Vec::new();
    for _ in 0..KILLS {
        ledger.reaches(ledger.len() + LEAST / 6, Duration::from_secs(30)).await;
        bridge.kill();
        seen_at_kill.push(ledger.len());
        bridge = setup.start_ready().await;
    }
    ledger.has_ids(LEAST, Duration::from_mins(1)).await;
    let count = load.stop().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    ledger.has_ids(count as usize, Duration::from_mins(1)).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 0.0).await;

    let accepted = ledger.read();
    assert_eq!(ids(&accepted).len() as u64, count);
    assert_order(&accepted, KILLS);
    let mut repeats = Vec::new();
    for (before, next) in
        seen_at_kill.iter().zip(seen_at_kill.iter().skip(1).chain([&accepted.len()]))
    {
        // Accepted before the kill and again after it: the broker had no PUBACK for them.
        let repeated =
            ids(&accepted[*before..*next]).intersection(&ids(&accepted[..*before])).count();
        assert!(repeated > 0, "nothing was unacknowledged at a kill: it proves nothing");
        repeats.push(repeated);
    }
    println!("{count} messages at {rate:.0}/s, {KILLS} kills, repeats after each: {repeats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_five_times_under_load_nothing_comes_twice() {
    stop_under_load("version = 5", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load_with_mqtt_3_nothing_comes_twice() {
    stop_under_load("version = 3", 2).await;
}

async fn stop_under_load(version: &str, stops: u64) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = endpoint(&directory);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
    let mut bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, 1_250, 40);
    let mut durations = Vec::new();
    for _ in 0..stops {
        ledger.reaches(ledger.len() + 500, Duration::from_secs(30)).await;
        bridge.signal("TERM");
        let asked = Instant::now();
        let status = bridge.ended(Duration::from_secs(25)).await;
        durations.push(asked.elapsed());
        assert_eq!(status.code(), Some(0), "{}", bridge.log());
        bridge = setup.start_ready().await;
    }
    let count = load.stop().await;
    ledger.has_ids(count as usize, Duration::from_mins(1)).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 0.0).await;
    let accepted = ledger.read();
    assert_eq!(accepted.len() as u64, count, "some came twice");
    assert_order(&accepted, 0);
    println!("{count} messages, {stops} stops, each took {durations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_ends_the_drain_at_the_grace_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let ledger_args = ["--ledger", path.to_str().unwrap()];
    let emulator = Emulator::start(&ledger_args);
    let address = emulator.host().to_owned();
    let ledger = Ledger { path: path.clone() };
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(
        &emulator.endpoint,
        mosquitto.port,
        "timeout = \"1s\"",
        "",
        "[shutdown]\ngrace = \"2s\"\n",
    );
    let mut bridge = setup.start_ready().await;
    drop(emulator);
    produce(mosquitto.port, 100, 10_000, 4).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 100.0).await;
    bridge.signal("TERM");
    let asked = Instant::now();
    let status = bridge.ended(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(1));
    assert!(asked.elapsed() >= Duration::from_secs(2), "the grace was not used");
    assert!(bridge.log().contains("drain was not done"), "{}", bridge.log());

    // The same, with somebody in a hurry.
    let mut bridge = setup.start().await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 100.0).await;
    bridge.signal("TERM");
    crate::support::until("draining", Duration::from_secs(2), async || {
        bridge.log().contains("draining").then_some(())
    })
    .await;
    bridge.signal("TERM");
    let status = bridge.ended(Duration::from_secs(1)).await;
    assert_eq!(status.code(), Some(130));

    let _emulator = Emulator::start_at(&address, &ledger_args);
    let bridge = setup.start_ready().await;
    ledger.has_ids(100, Duration::from_secs(20)).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 0.0).await;
    let accepted = ledger.read();
    assert_eq!(accepted.len(), 100, "nothing was accepted before, so nothing comes twice");
    assert_order(&accepted, 0);
}
