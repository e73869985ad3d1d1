//! What a machine does not give: memory and file descriptors. Nothing crashes, nothing is lost, and what is missing is
//! said with what to do.

use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::crowd::{Crowd, page};
use crate::support::emulator::{self, Emulator};
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::ledger::{Ledger, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{produce, publish};
use crate::support::shop::Shop;
use crate::support::{signal, until};

/// Nearly as large as an event may be.
fn large(id: u64) -> Vec<u8> {
    let (key, seq, filler) = (id % 10, id / 10, "x".repeat(239_000));
    // Not by a serializer: without optimisation it takes seconds for all of them.
    format!("{{\"id\":{id},\"key\":{key},\"seq\":{seq},\"filler\":\"{filler}\"}}").into_bytes()
}

/// T08.
const CAP_MIB: u64 = 200;

/// Waits until the source takes nothing more, with more left to take; the time from `limit_mib` in flight on.
async fn is_held_back(bridge: &Bridge, source: &str, limit_mib: u32, count: u64) -> Duration {
    let series = |name: &str| format!("source_{name}{{source=\"{source}\"}}");
    let (bytes, received) = (series("in_flight_bytes"), series("received_total"));
    until("the limit is reached", PATIENCE * 4, async || {
        (bridge.metric(&bytes).await >= f64::from(limit_mib << 20)).then_some(())
    })
    .await;
    let full = Instant::now();
    let (mut last, mut seen) = (Instant::now(), 0.0);
    until("nothing more is taken", PATIENCE * 4, async || {
        let now = bridge.metric(&received).await;
        if now > seen {
            (seen, last) = (now, Instant::now());
        }
        (last.elapsed() > Duration::from_secs(6)).then_some(())
    })
    .await;
    let took = last.duration_since(full);
    println!("{seen} of {count} taken, the last {took:?} after the limit was reached");
    assert!(seen < count as f64, "{seen} taken");
    assert!(bridge.metric(&bytes).await <= f64::from(129 << 20));
    took
}

async fn all_come(bridge: &Bridge, ledger: &Ledger, count: u64) {
    // Some may come twice: a broker whose client reads nothing for long may end the connection.
    ledger.has_ids(count as usize, PATIENCE * 4).await;
    let peak = bridge.peak_mib();
    println!("{peak} MiB at most");
    assert!(peak < CAP_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_of_mqtt_and_a_stalled_endpoint_stay_below_the_cap() {
    // Twice what may be in flight is held of a broker that sends more than it is asked for; and more than that.
    const COUNT: u64 = 640;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "").with_memory(CAP_MIB);
    let bridge = setup.start_ready().await;
    signal(emulator.pid(), "STOP");
    let messages = (0..COUNT).map(|id| (format!("plant/dev-{}/data", id % 10), large(id)));
    let load = publish(mosquitto.port, 2_000, messages);
    // Held back by a window of as many as fit, or at the ceiling; which one it is the sizes of the first decide.
    tokio::join!(load, is_held_back(&bridge, "plant", 55, COUNT));
    signal(emulator.pid(), "CONT");
    all_come(&bridge, &ledger, COUNT).await;
    bridge.nothing_in_flight().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_of_kafka_and_a_stalled_endpoint_stay_below_the_cap() {
    const COUNT: u64 = 340;
    let kafka = Kafka::shared().await;
    let shop = Shop::with(kafka, "large", 1, &[]).await;
    let setup = shop.setup("").with_memory(CAP_MIB);
    let bridge = setup.start_ready().await;
    signal(shop.emulator.pid(), "STOP");
    let producer = kafka.producer(&[]);
    let load = async {
        for id in 0..COUNT {
            producer.send(&shop.topic, [Record::new(large(id)).key((id % 10).to_string())]).await;
        }
    };
    let ((), took) = tokio::join!(load, is_held_back(&bridge, "shop", 63, COUNT));
    assert!(took < Duration::from_secs(5), "{took:?}");
    signal(shop.emulator.pid(), "CONT");
    all_come(&bridge, &shop.ledger, COUNT).await;
}

/// T51.
#[tokio::test(flavor = "multi_thread")]
async fn with_64_descriptors_and_strangers_at_the_door_every_message_arrives() {
    const COUNT: u64 = 3_000;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "20ms"]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "").with_descriptors(64);
    let bridge = setup.start_ready().await;
    let _crowd = Crowd::gather(bridge.admin(), 200, Duration::from_millis(500)).await;
    produce(mosquitto.port, COUNT, 1_000, 100).await;
    ledger.has_ids(COUNT as usize, PATIENCE).await;
    println!("{} of 64 descriptors are open", bridge.descriptors());
    assert_eq!(bridge.lines(&["fewer requests are out", "`LimitNOFILE="]).len(), 1);
    // Nobody is blamed for what is lacking here.
    assert!(!bridge.log().contains("the API does not answer"), "{}", bridge.log());
    let metrics = page(bridge.admin(), "/metrics").await;
    assert!(metrics.contains("appsync_bridge_source_received_total{source=\"plant\"} 3000"));
    assert_eq!(ids(&ledger.read()).len() as u64, COUNT);
}

/// Whatever the limit is, it works, or says at once which limit to raise.
#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_descriptors_the_limit_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    for most in [8, 16, 31] {
        let mut command = tokio::process::Command::new("prlimit");
        let bridge = emulator::bridge();
        command.arg(format!("--nofile={most}:{most}")).arg(bridge.get_program());
        command.args(bridge.get_args());
        let output = command.args(["run", "-c"]).arg(setup.config()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{most}: {said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("may open {most} files")), "{said}");
        assert!(said.contains("`ulimit -n`") && said.contains("`LimitNOFILE="), "{said}");
    }
    let setup = setup.with_descriptors(32);
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1_000, 1_000, 20).await;
    ledger.has_ids(1_000, PATIENCE).await;
    bridge.nothing_in_flight().await;
    println!("{} of 32 descriptors are open", bridge.descriptors());
    assert!(!bridge.log().contains("panicked"), "{}", bridge.log());
}
