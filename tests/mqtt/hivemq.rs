//! Through a broker of another maker, HiveMQ.

use super::killed_under_load_nothing_is_lost;
use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::hivemq::HiveMq;
use crate::support::ledger::assert_order;
use crate::support::producer::produce;

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_is_relayed_once_and_in_order() {
    let broker = HiveMq::start().await;
    for version in VERSIONS {
        for qos in ["qos = 0", "qos = 1"] {
            let directory = tempfile::tempdir().unwrap();
            let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
            // Each a client of its own: what one is sent after its end would come to the next.
            let name = format!("bridge-{}-{}", &version[10..], &qos[6..]);
            let source = format!("{version}\n{qos}\nmax_in_flight = 5000");
            let setup = Setup::new(&emulator.endpoint, broker.port, "", &source, "");
            let text = std::fs::read_to_string(setup.config()).unwrap();
            let text = text.replace("client_id = \"bridge\"", &format!("client_id = \"{name}\""));
            std::fs::write(setup.config(), text).unwrap();
            let bridge = setup.start_ready().await;
            produce(broker.port, 1_000, 2_000, 10).await;
            ledger.has_ids(1_000, PATIENCE).await;
            bridge.nothing_in_flight().await;
            assert_eq!(ledger.len(), 1_000, "{version}, {qos}: some came twice; {}", broker.log());
            assert_order(&ledger.read(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_killed_under_load_loses_nothing_of_another_broker() {
    for version in VERSIONS {
        let broker = HiveMq::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "5ms"]);
        let setup = Setup::new(&emulator.endpoint, broker.port, "", version, "");
        killed_under_load_nothing_is_lost(&setup, broker.port, &ledger).await;
    }
}
