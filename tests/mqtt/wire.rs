//! MQTT over a bad wire, with a slow head, and with either side asleep: what was acknowledged, in which order, on
//! which connection.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use serde_json::json;

use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_first_in_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce, publish, publish_exactly_once};
use crate::support::tap::{Side, Tap};
use crate::support::{PATIENCE, signal, until};

fn endpoint(args: &[&str]) -> (Emulator, Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, args);
    (emulator, ledger, directory)
}

/// Somewhere in a packet of either side.
fn random_cut() -> (Side, usize) {
    let mut random = rand::rng();
    if random.random_bool(0.5) {
        (Side::Broker, random.random_range(1..60_000))
    } else {
        (Side::Client, random.random_range(1..2_000))
    }
}

/// T18, with T01: a load of QoS 1 and 2 goes on while connections are cut and the bridge is killed.
async fn cuts(version: &str) {
    const ROUNDS: usize = 10;
    const CUTS: usize = 5;
    const SECOND: u64 = 1_000_000;
    let (emulator, ledger, _directory) = endpoint(&[]);
    let mosquitto = Mosquitto::start("").await;
    let tap = Tap::start(mosquitto.port).await;
    let source = format!("{version}\nqos = 2");
    let setup = Setup::new(&emulator.endpoint, tap.port, "", &source, "");
    let mut bridge = setup.start_ready().await;
    let once = Load::start(mosquitto.port, 100, 10);
    let twice = Load::start_exactly_once(mosquitto.port, 100, 10, SECOND);
    for round in 1..=ROUNDS {
        // Killed, so that the waits between its tries begin anew.
        bridge.kill();
        tap.cut((0..CUTS).map(|_| random_cut()).collect());
        bridge = setup.start().await;
        until("all cuts", PATIENCE, async || (tap.cuts() == round * CUTS).then_some(())).await;
        // What waited meanwhile comes over one that is not cut.
        bridge.ready().await;
        let before = ledger.len();
        ledger.reaches(before + 100, PATIENCE).await;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v < 100.0).await;
    }
    let (first, second) = (once.stop().await, twice.stop().await);
    ledger.has_ids((first + second) as usize, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let accepted = ledger.read();
    let delivered = ids(&accepted);
    assert!((0..first).chain(SECOND..SECOND + second).all(|id| delivered.contains(&id)));
    assert_first_in_order(&accepted);
    let (sent, acknowledged) = tap.assert_in_order();
    let connections = tap.connections();
    let of = |qos: u8| {
        let all = connections.iter().flat_map(|c| &c.acknowledged);
        all.filter(|(of, _)| *of == qos).count()
    };
    let completed: usize = connections.iter().map(|c| c.completed.len()).sum();
    let repeats = accepted.len() - delivered.len();
    println!(
        "{version}: {} cuts and {ROUNDS} kills over {} connections; {first} of QoS 1 and {second} of QoS 2 \
         sent, all delivered, {repeats} repeats; {sent} PUBLISH, {acknowledged} acknowledged in order \
         ({} PUBACK, {} PUBREC, {completed} PUBCOMP)",
        tap.cuts(),
        connections.len(),
        of(1),
        of(2),
    );
    assert!(of(1) > 100 && of(2) > 100 && completed > 100, "it proves nothing");
    assert!(repeats > 0 && connections.len() > ROUNDS * CUTS, "it proves nothing");
    assert_eq!(bridge.lines(&["ERROR"]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_cuts_lose_nothing_and_keep_the_order_of_acknowledgements() {
    cuts("version = 5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_cuts_lose_nothing_in_3_1_1() {
    cuts("version = 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_stops_no_other_topic_before_the_receive_maximum() {
    const OTHERS: u64 = 400;
    let held = Duration::from_secs(5);
    for (qos, limit) in [(1, 1_000), (2, 1_000), (1, 50)] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        emulator.set_faults(json!([{ "fault": { "hang": {} }, "channel": "/plant/slow" }])).await;
        let mosquitto = Mosquitto::start("").await;
        let tap = Tap::start(mosquitto.port).await;
        let source = format!("qos = {qos}\nmax_in_flight = {limit}");
        let setup = Setup::new(&emulator.endpoint, tap.port, "timeout = \"20s\"", &source, "");
        let bridge = setup.start_ready().await;
        let began = Instant::now();
        let event = |id: u64, device: String| {
            (format!("plant/{device}/data"), json!({ "id": id }).to_string().into_bytes())
        };
        let head = [event(OTHERS, "slow".to_owned())];
        let rest = (0..OTHERS).map(|id| event(id, format!("dev-{}", id % 40)));
        let all: Vec<_> = head.into_iter().chain(rest).collect();
        if qos == 1 {
            publish(mosquitto.port, 100_000, all).await;
        } else {
            publish_exactly_once(mosquitto.port, 100_000, all).await;
        }
        let through = OTHERS.min(limit - 1) as usize;
        ledger.has_ids(through, PATIENCE).await;
        let took = began.elapsed();
        println!("QoS {qos}, at most {limit}: {through} accepted {took:.2?} after the start");
        let in_flight = through as f64 + 1.0;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == in_flight).await;
        tokio::time::sleep(held.saturating_sub(began.elapsed())).await;
        assert_eq!(tap.assert_in_order().1, 0, "acknowledged before the head");
        assert_eq!(ledger.len(), through, "the head was not held, or others came twice");
        emulator.set_faults(json!([])).await;
        ledger.has_ids(OTHERS as usize + 1, PATIENCE).await;
        bridge.nothing_in_flight().await;
        until("all are acknowledged", PATIENCE, async || {
            (tap.assert_in_order().1 == OTHERS as usize + 1).then_some(())
        })
        .await;
        assert_eq!(ledger.len(), OTHERS as usize + 1, "some came twice");
    }
}

/// T04 and T11: stopped for longer than any keep-alive allows, and for less.
#[tokio::test(flavor = "multi_thread")]
async fn either_side_asleep_for_a_while_loses_nothing() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&["--latency", "20ms"]);
        let mosquitto = Mosquitto::start("").await;
        let tap = Tap::start(mosquitto.port).await;
        let source = format!("{version}\nqos = 2\nkeep_alive = \"1s\"");
        let setup = Setup::new(&emulator.endpoint, tap.port, "", &source, "");
        let bridge = setup.start_ready().await;
        let pids = [bridge.pid(), mosquitto.pid(), bridge.pid(), mosquitto.pid()];
        let mut count = 0;
        for (round, pid) in pids.into_iter().enumerate() {
            // Keys are those of the ids, so rounds share none.
            let load = Load::start_exactly_once(mosquitto.port, 300, 10, round as u64 * 1_000_000);
            let before = ledger.len();
            ledger.reaches(before + 100, PATIENCE).await;
            bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 1.0).await;
            signal(pid, "STOP");
            match round {
                // The broker gives the connection up.
                0 => {
                    until("it is given up", PATIENCE, async || {
                        mosquitto.log().contains("exceeded timeout").then_some(())
                    })
                    .await;
                }
                // So does the bridge.
                1 => bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await,
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
            signal(pid, "CONT");
            bridge.ready().await;
            let before = ledger.len();
            ledger.reaches(before + 100, PATIENCE).await;
            count += load.stop().await;
        }
        ledger.has_ids(count as usize, PATIENCE).await;
        bridge.nothing_in_flight().await;
        let accepted = ledger.read();
        assert_first_in_order(&accepted);
        tap.assert_in_order();
        bridge.ready().await;
        let reconnects = bridge.metric("source_reconnects_total{source=\"plant\"}").await;
        assert!(reconnects >= 2.0, "nobody noticed: it proves nothing");
        println!(
            "{version}: {count} delivered, {} repeats, {reconnects} reconnects",
            accepted.len() as u64 - count
        );
    }
}

/// T19.
#[tokio::test(flavor = "multi_thread")]
async fn no_size_of_a_message_holds_up_its_neighbours() {
    const LIMIT: usize = 20_000;
    for (version, qos) in [("version = 5", 1), ("version = 3", 1), ("version = 5", 2)] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let mosquitto = Mosquitto::start("").await;
        let source = format!("{version}\nqos = {qos}\nmax_packet_size = \"20KB\"");
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, "");
        let bridge = setup.start_ready().await;
        let sized = |id: u64, size: usize| {
            let start = format!("{{\"id\":{id},\"x\":\"");
            let text = format!("{start}{}\"}}", "x".repeat(size - start.len() - 2));
            assert_eq!(text.len(), size);
            ("plant/a/data".to_owned(), text.into_bytes())
        };
        let sizes = [(10 << 10) + 1, 300 << 10, LIMIT - 1, LIMIT, LIMIT + 1, 5 << 20];
        let began = Instant::now();
        let mut messages = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            messages.push(sized(at as u64 * 2, size));
            messages.push(sized(at as u64 * 2 + 1, 50));
        }
        if qos == 1 {
            publish(mosquitto.port, 10_000, messages).await;
        } else {
            publish_exactly_once(mosquitto.port, 10_000, messages).await;
        }
        let too_large = sizes.iter().filter(|size| **size > LIMIT).count();
        ledger.has_ids(2 * sizes.len() - too_large, PATIENCE).await;
        let took = began.elapsed();
        bridge.nothing_in_flight().await;
        let reasons: Vec<_> = setup.rejects().iter().map(|r| r["reason"].clone()).collect();
        assert_eq!(reasons, vec![json!("too_large"); too_large]);
        assert_eq!(bridge.metric("source_reconnects_total{source=\"plant\"}").await, 0.0);
        println!(
            "{version}, QoS {qos}: all sizes in {took:.2?}, {too_large} too large, no reconnect"
        );
    }
}

/// T12: mosquitto as it comes, which keeps nothing through a kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_everything_gives_what_is_new_within_ten_seconds() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let mut mosquitto = Mosquitto::start("").await;
        mosquitto.stop();
        mosquitto.configure("");
        mosquitto.restart().await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        for round in 1..=2 {
            let before = ledger.len();
            produce(mosquitto.port, 50, 5_000, 5).await;
            ledger.reaches(before + 50, PATIENCE).await;
            mosquitto.kill();
            bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
            mosquitto.restart().await;
            let back = Instant::now();
            // Before SUBSCRIBE it is nobody's.
            let mut id = 1_000 * round;
            until("something new", PATIENCE, async || {
                id += 1;
                let event = format!("{{\"id\":{id}}}").into_bytes();
                publish(mosquitto.port, 1_000, [("plant/new/data".to_owned(), event)]).await;
                let new = ids(&ledger.read()).into_iter().any(|id| id > 1_000 * round);
                new.then_some(())
            })
            .await;
            let took = back.elapsed();
            println!("{version}: something new {took:.2?} after the broker's return");
            assert!(took < Duration::from_secs(10), "{took:?}");
            let lost = bridge.metric("source_session_lost_total{source=\"plant\"}").await;
            assert_eq!(lost, round as f64);
        }
    }
}
