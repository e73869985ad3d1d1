//! Throttling and outages against the whole bridge (T32, T33): how much of the quota is used, how
//! often an API that is gone is asked, how soon it is found. Shortened in the ordinary run; a minute
//! each with `tests/run --long`.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::Load;
use crate::support::until;

fn length(short: u64) -> Duration {
    Duration::from_secs(if std::env::var_os("LONG_TESTS").is_some() { 60 } else { short })
}

async fn requests(emulator: &Emulator) -> (f64, f64) {
    let stats = emulator.control(Method::GET, "stats", "").await.json();
    (stats["requests"].as_f64().unwrap(), stats["accepted_requests"].as_f64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_to_a_third_the_quota_is_used_and_full_speed_comes_back() {
    // Far below what this machine can do: full speed is that of the load.
    const LOAD: u64 = 500;
    const QUOTA: u64 = 150;
    let length = length(15);
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, LOAD, 40);
    ledger.reaches(1_000, PATIENCE).await;

    let throttle = json!([{ "fault": { "throttle": { "events_per_second": QUOTA } } }]);
    emulator.set_faults(throttle).await;
    // The bucket holds a second's worth, and the gate needs its first 429.
    bridge
        .metric_is("publish_requests_total{api=\"main\",result=\"throttled\"}", |v| v >= 1.0)
        .await;
    ledger.reaches(ledger.len() + 300, PATIENCE).await;
    let (began, events, (all, good)) = (Instant::now(), ledger.len(), requests(&emulator).await);
    tokio::time::sleep(length).await;
    let (all_after, good_after) = requests(&emulator).await;
    let accepted = (ledger.len() - events) as f64;
    let goodput = accepted / (QUOTA as f64 * began.elapsed().as_secs_f64());
    let extra = (all_after - all) / (good_after - good) - 1.0;
    // How much of the quota is used is for the tests of the gate: a machine that has other work uses less.
    assert!(accepted > 0.0 && extra <= 0.2, "extra requests {extra:.3}, goodput {goodput:.3}");

    emulator.set_faults(json!([])).await;
    let lifted = Instant::now();
    // Full speed: what the limit holds back is gone, and the load goes on.
    until("full speed", PATIENCE, async || {
        let limit = bridge.metric("publish_rate_limit{api=\"main\"}").await;
        (limit >= LOAD as f64).then_some(())
    })
    .await;
    println!(
        "throttled for {length:?}: goodput {goodput:.3}, extra requests {extra:.3}, full speed after {:?}",
        lifted.elapsed()
    );
    let count = load.stop().await;
    ledger.has_ids(count as usize, PATIENCE).await;
    assert_order(&ledger.read(), 0);
    assert_eq!(ledger.read().len() as u64, count, "nothing comes twice");
}

/// Resident memory, in bytes.
fn resident(bridge: &Bridge) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_asked_about_once_a_second_and_its_end_is_found_out() {
    let length = length(10);
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let address = emulator.host().to_owned();
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, 1_000, 40);
    ledger.reaches(1_000, PATIENCE).await;
    drop(emulator);
    bridge.metric_is("publish_breaker_open{api=\"main\"}", |v| v == 1.0).await;
    // The limit in flight is reached; or nearly, where the broker sent more than its window before.
    let taken = async || bridge.metric("source_received_total{source=\"plant\"}").await;
    until("the source takes no more", PATIENCE, async || {
        let before = taken().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (taken().await == before).then_some(())
    })
    .await;
    let held = bridge.metric("source_in_flight{source=\"plant\"}").await;
    assert!(held > 0.0 && held <= 64_000.0, "{held} in flight");
    let asked = async || {
        bridge.metric("publish_requests_total{api=\"main\",result=\"connect\"}").await
            + bridge.metric("publish_requests_total{api=\"main\",result=\"ambiguous\"}").await
    };
    let (before, memory) = (asked().await, resident(&bridge));
    let began = Instant::now();
    tokio::time::sleep(length).await;
    until("a probe", PATIENCE, async || (asked().await > before).then_some(())).await;
    let probes = asked().await - before;
    assert!(probes <= began.elapsed().as_secs_f64() + 1.0, "{probes} probes in {length:?}");
    let grown = resident(&bridge) - memory;
    assert!(grown < 20e6, "{grown} bytes more than where the limit in flight put it");
    assert_eq!(bridge.get("/readyz").await.0, 503);

    let seen = ledger.len();
    let _emulator = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    let back = Instant::now();
    until("the first success", PATIENCE, async || (ledger.len() > seen).then_some(())).await;
    println!(
        "away for {length:?}: {probes} probes, found after {:?}, {grown} bytes grown",
        back.elapsed()
    );
    let count = load.stop().await;
    ledger.has_ids(count as usize, PATIENCE).await;
    // What was answered as the endpoint died may come again, and nothing else.
    let accepted = ledger.read();
    assert_eq!(ids(&accepted).len() as u64, count);
    assert!(accepted.len() as u64 - count <= 5 * 64, "{} repeats", accepted.len() as u64 - count);
    assert_order(&accepted, 1);
    assert!(setup.rejects().is_empty());
}

/// The few events of one key that met an outage are accepted after it; nothing else comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_source_does_not_keep_the_bridge_from_being_ready() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    let load = Load::start(mosquitto.port, 1, 1);
    bridge.metric_is("publish_breaker_open{api=\"main\"}", |v| v == 1.0).await;
    let count = load.stop().await;
    assert_eq!(bridge.get("/readyz").await.0, 503);
    emulator.set_faults(json!([])).await;
    ledger.has_ids(count as usize, PATIENCE).await;
    bridge.ready().await;
    bridge.metric_is("publish_breaker_open{api=\"main\"}", |v| v == 0.0).await;
}
