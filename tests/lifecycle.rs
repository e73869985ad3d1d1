//! What is lost, doubled or reordered when the bridge is killed: nothing but repeats.
//!
//! The broker is a real mosquitto, the endpoint a process of its own whose ledger is written before it
//! answers. Answers are held back a little, as a network would, and the load goes on until the last kill,
//! so that requests are out at any time.

use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::Load;

/// An endpoint with a ledger, that answers 50 ms after writing it.
fn endpoint(directory: &tempfile::TempDir) -> (Emulator, Ledger) {
    Emulator::with_ledger(directory, &["--latency", "50ms"])
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
        ledger.reaches(ledger.len() + LEAST / 6, PATIENCE).await;
        bridge.kill();
        seen_at_kill.push(ledger.len());
        bridge = setup.start_ready().await;
    }
    ledger.has_ids(LEAST, PATIENCE).await;
    let count = load.stop().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    ledger.has_ids(count as usize, PATIENCE).await;
    bridge.nothing_in_flight().await;

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
