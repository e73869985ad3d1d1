//! Thousands of connections that say nothing, or very slowly, at every port that there is: who has
//! something to ask is answered, and messages arrive.

use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::crowd::{self, Crowd, page};
use crate::support::demo::Demo;
use crate::support::emulator::{Emulator, with_descriptors};
use crate::support::ledger::Ledger;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::produce;
use crate::support::socket::Socket;
use crate::support::until;

async fn relay(directory: &tempfile::TempDir) -> (Emulator, Ledger, Mosquitto, Bridge, Setup) {
    let (emulator, ledger) = Emulator::with_ledger(directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "").with_descriptors(1_024);
    let bridge = setup.start_ready().await;
    (emulator, ledger, mosquitto, bridge, setup)
}

/// T82.
#[tokio::test(flavor = "multi_thread")]
async fn beside_three_thousand_at_the_admin_port_every_message_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let (_emulator, ledger, mosquitto, bridge, _setup) = relay(&directory).await;
    let _crowd = Crowd::gather(bridge.admin(), 3_000, Duration::from_secs(1)).await;
    produce(mosquitto.port, 2_000, 2_000, 20).await;
    ledger.has_ids(2_000, PATIENCE).await;
    for (path, holds) in [("/livez", "alive"), ("/readyz", "ready"), ("/metrics", "# HELP")] {
        assert!(page(bridge.admin(), path).await.contains(holds), "{path}");
    }
    let open = bridge.descriptors();
    assert!(open < 400, "{open} descriptors are open");
    assert_eq!(bridge.lines(&["every connection slot is taken", "the admin port"]).len(), 1);
    assert!(!bridge.log().contains("Too many open files"), "{}", bridge.log());
    assert_eq!(ledger.read().len(), 2_000, "nothing comes twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulator_answers_beside_a_crowd_and_keeps_its_subscribers() {
    let emulator = Emulator::start_by(with_descriptors(128), "127.0.0.1:0", &[]);
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.subscribe("s", "/demo/a").await["type"], "subscribe_success");
    let _crowd = Crowd::gather(emulator.host(), 300, Duration::from_millis(100)).await;
    for _ in 0..20 {
        let published = async || emulator.try_publish("/demo/a", &["1"]).await;
        assert_eq!(until("it is answered", PATIENCE, published).await.status, 200);
        assert_eq!(socket.hear().await["type"], "data");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_demo_is_there_beside_a_crowd() {
    let demo = Demo::start_by(with_descriptors(512));
    let [page, api, admin, _] = demo.ports().map(|address| address.to_string());
    let pause = Duration::from_millis(100);
    let _crowds = (
        Crowd::gather(&page, 200, pause).await,
        Crowd::gather(&api, 500, pause).await,
        Crowd::gather(&admin, 200, pause).await,
    );
    assert!(crowd::page(&page, "/").await.contains("<html"));
    assert!(crowd::page(&admin, "/livez").await.contains("alive"));
}
