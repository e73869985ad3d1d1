//! Replicas that share subscriptions.

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, publish};
use crate::support::scripted::{Heard, Play, Scripted, connack, suback};
use crate::support::{PATIENCE, until};

/// A replica of this name.
fn replica(endpoint: &str, port: u16, name: &str, lines: &str) -> Setup {
    let source = format!(
        "[source.plant]\ntype = \"mqtt\"\nclient_id = \"{name}\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         subscriptions = \"plant/#\"\nshare = \"bridges\"\n{lines}\n\
         [route.data]\nfrom = \"plant\"\ntopic = \"plant/{{device}}/data\"\nchannel = \"/plant/{{device}}\"\n"
    );
    Setup::of(endpoint, "", &source, "")
}

fn endpoint() -> (Emulator, Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    (emulator, ledger, directory)
}

async fn received(bridge: &Bridge) -> f64 {
    bridge.metric("source_received_total{source=\"plant\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_divide_the_work_and_a_kill_loses_nothing() {
    for lines in ["version = 5", "version = 3", "version = 5\nqos = 2"] {
        let (emulator, ledger, _directory) = endpoint();
        let mosquitto = Mosquitto::start("").await;
        let of = |name: &str| replica(&emulator.endpoint, mosquitto.port, name, lines);
        let (one, other) = (of("bridge-0"), of("bridge-1"));
        let (first, second) = (one.start_ready().await, other.start_ready().await);
        let load = if lines.contains("qos = 2") {
            Load::start_exactly_once(mosquitto.port, 400, 20, 0)
        } else {
            Load::start(mosquitto.port, 400, 20)
        };
        ledger.reaches(600, PATIENCE).await;
        let shares = (received(&first).await, received(&second).await);
        assert!(shares.0 > 100.0 && shares.1 > 100.0, "{shares:?}");
        first.kill();
        // The other one goes on with its own.
        ledger.reaches(ledger.len() + 300, PATIENCE).await;
        let first = one.start_ready().await;
        ledger.reaches(ledger.len() + 300, PATIENCE).await;
        let count = load.stop().await;
        ledger.has_ids(count as usize, PATIENCE).await;
        first.nothing_in_flight().await;
        second.nothing_in_flight().await;
        let accepted = ledger.read();
        assert_eq!(ids(&accepted).len() as u64, count);
        println!(
            "{}: {count} delivered, {} repeats; {shares:?} before the kill",
            lines.replace('\n', ", "),
            accepted.len() as u64 - count
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_gone_is_given_nothing_once_its_session_has_ended() {
    let (emulator, ledger, _directory) = endpoint();
    let mosquitto = Mosquitto::start("").await;
    let lines = "keep_alive = \"1s\"\nsession_expiry = \"2s\"";
    let of = |name: &str| replica(&emulator.endpoint, mosquitto.port, name, lines);
    let (one, other) = (of("bridge-0"), of("bridge-1"));
    let (first, second) = (one.start_ready().await, other.start_ready().await);
    first.kill();
    until("its session has ended", PATIENCE, async || {
        mosquitto.log().contains("Expiring client bridge-0").then_some(())
    })
    .await;
    let event = |id: u64| (format!("plant/dev-{id}/data"), format!("{{\"id\":{id}}}").into_bytes());
    publish(mosquitto.port, 1_000, (0..100).map(event)).await;
    ledger.has_ids(100, PATIENCE).await;
    assert_eq!(received(&second).await, 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_given_nothing_of_the_group() {
    let (emulator, ledger, _directory) = endpoint();
    let broker = Scripted::start(|heard| {
        Play::Say(match heard {
            Heard::Connect { level, .. } => connack(*level, 0, &[]),
            Heard::Subscribe { packet_id, filters, .. } => {
                suback(5, *packet_id, &vec![1; filters.len()])
            }
            _ => Vec::new(),
        })
    })
    .await;
    let setup = replica(&emulator.endpoint, broker.port, "bridge", "");
    assert!(setup.check().await.0);
    let _bridge = setup.start_ready().await;
    let asked: Vec<_> =
        broker.subscribes().into_iter().map(|(filters, _)| filters[0].clone()).collect();
    assert!(asked[0].starts_with("$share/bridges-check-") && asked[0].ends_with("/plant/#"));
    assert_eq!(asked[1], "$share/bridges/plant/#");
    assert_eq!(ledger.len(), 0);
}
