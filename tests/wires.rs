//! What the bridge makes of bad wires (T35): a real mosquitto, an endpoint, and between it and the
//! bridge a proxy that resets, slices, slows or stalls. The ledger is the judge, and every test asks
//! whether its fault did happen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bad_network::{Proxy, Reset, Side, Wire};
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, account, assert_order};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce, publish};
use crate::support::until;

/// A bridge, and all that it talks to.
struct Wired {
    bridge: Bridge,
    setup: Setup,
    mosquitto: Mosquitto,
    proxy: Proxy,
    ledger: Ledger,
    _emulator: Emulator,
    _directory: tempfile::TempDir,
}

/// A bridge with these lines in its `[api]`, over a wire like this.
async fn wired(api: &str, wire: impl FnOnce(&mut Wire)) -> Wired {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let proxy = Proxy::start(emulator.host()).await;
    proxy.set(wire);
    let mosquitto = Mosquitto::start("").await;
    let url = format!("http://{}/event", proxy.address());
    let setup = Setup::new(&url, mosquitto.port, api, "", "");
    let bridge = setup.start_ready().await;
    Wired { bridge, setup, mosquitto, proxy, ledger, _emulator: emulator, _directory: directory }
}

/// Eight kilobytes a second, each way.
fn slow(wire: &mut Wire) {
    wire.bandwidth = Some(8_000);
    wire.slice = Some(200);
}

/// A message of one of `keys` keys, with so many bytes more.
fn message(id: u64, keys: u64, filler: usize) -> (String, Vec<u8>) {
    let (key, seq) = (id % keys, id / keys);
    let event: Value = json!({ "id": id, "key": key, "seq": seq, "filler": "x".repeat(filler) });
    (format!("plant/dev-{key}/data"), event.to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_the_answers_lost_by_a_reset() {
    let Wired { bridge, setup, mosquitto, proxy, ledger, .. } = &wired("", |_| {}).await;
    proxy.set(|wire| wire.reset = Some(Reset::AtChunk(Side::Server, 0.1)));
    let load = Load::start(mosquitto.port, 600, 60);
    until("50 resets", PATIENCE, async || (proxy.counts().resets > 50).then_some(())).await;
    let count = load.stop().await;
    let (repeats, ambiguous) = account(bridge, ledger, count).await;
    let resets = proxy.counts().resets;
    assert!(repeats > 0, "{resets} resets, and nothing came twice");
    // A request of its own for each reset, but for an idle connection that was gone before its next.
    assert!(ambiguous <= resets as f64 * 1.5, "{ambiguous} ambiguous of {resets} resets");
    assert_order(&ledger.read(), resets as usize);
    assert!(setup.rejects().is_empty());
    println!("{count} events, {resets} resets, {ambiguous} ambiguous, {repeats} repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_slices_of_one_byte_is_an_answer() {
    const COUNT: u64 = 1_000;
    let in_bytes = |wire: &mut Wire| {
        wire.slice = Some(1);
        wire.latency = Duration::from_millis(2);
        wire.jitter = Duration::from_millis(5);
    };
    let Wired { bridge, mosquitto, proxy, ledger, .. } = &wired("", in_bytes).await;
    produce(mosquitto.port, COUNT, 1_000, 40).await;
    assert_eq!(account(bridge, ledger, COUNT).await, (0, 0.0));
    assert_order(&ledger.read(), 0);
    assert!(proxy.counts().bytes_from_server > COUNT * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_of_eight_kilobytes_a_second_loses_and_repeats_nothing() {
    const COUNT: u64 = 1_000;
    // Five events take 0.7 s: what this machine adds to it is far from the timeout.
    let wired = wired("timeout = \"20s\"", slow).await;
    let Wired { bridge, setup, mosquitto, proxy, ledger, .. } = &wired;
    let messages = (0..COUNT).map(|id| message(id, 20, 1_000));
    publish(mosquitto.port, 1_000, messages.collect::<Vec<_>>()).await;
    assert_eq!(account(bridge, ledger, COUNT).await, (0, 0.0));
    assert_order(&ledger.read(), 0);
    assert!(setup.rejects().is_empty());
    let of = async |part: &str| {
        bridge.metric(&format!("publish_request_seconds_{part}{{api=\"main\"}}")).await
    };
    let (requests, mean) = (of("count").await, of("sum").await / of("count").await);
    let bytes = proxy.counts().bytes_from_client;
    // By the bytes of a request of average length, in one direction alone.
    let least = bytes as f64 / requests / 8_000.0;
    assert!(least > 0.2 && mean >= least, "{requests} requests, {mean:.2} s each, {bytes} bytes");
    println!("{COUNT} events in {requests} requests of {mean:.2} s, {bytes} bytes");
}

/// A full batch takes 2.5 s, an event alone 0.5 s: each batch is tried three times, then its events.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_wire_cannot_carry_in_time_is_split() {
    const COUNT: u64 = 12;
    let wired = wired("timeout = \"1500ms\"", slow).await;
    let Wired { bridge, setup, mosquitto, ledger, .. } = &wired;
    let messages = (0..COUNT).map(|id| message(id, 1, 4_000));
    publish(mosquitto.port, 1_000, messages.collect::<Vec<_>>()).await;
    let (repeats, ambiguous) = account(bridge, ledger, COUNT).await;
    assert!(ambiguous >= 3.0, "every request was answered in time: it proves nothing");
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    ledger.lines().into_iter().for_each(|line| *sizes.entry(line.request).or_default() += 1);
    // Two full batches, three times each.
    let full = sizes.values().filter(|size| **size == 5).count();
    assert!(full <= 6, "{sizes:?}");
    assert!(setup.rejects().is_empty());
    println!("{COUNT} events, {ambiguous} ambiguous requests, {repeats} repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_that_goes_silent_is_given_up_and_nothing_is_lost() {
    let wired = wired("timeout = \"500ms\"", |_| {}).await;
    let Wired { bridge, setup, mosquitto, proxy, ledger, .. } = &wired;
    let load = Load::start(mosquitto.port, 500, 40);
    for silence in 1..=2_usize {
        ledger.reaches(ledger.len() + 200, PATIENCE).await;
        proxy.set(|wire| wire.stalled = true);
        let ambiguous = "ambiguous_total{api=\"main\"}";
        bridge.metric_is(ambiguous, |v| v >= 3.0 * silence as f64).await;
        // What was held up reaches the endpoint after all, late and beside its repeats.
        proxy.heal();
    }
    let count = load.stop().await;
    let (repeats, ambiguous) = account(bridge, ledger, count).await;
    let stalls = proxy.counts().stalls;
    assert!(stalls > 0 && ambiguous >= 6.0, "{stalls} chunks held up, {ambiguous} ambiguous");
    assert!(setup.rejects().is_empty());
    println!("{count} events, {stalls} chunks held up, {ambiguous} ambiguous, {repeats} repeats");
}
