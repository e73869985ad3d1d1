//! The WebSocket of AWS IoT Core, signed with AWS credentials: a gate that checks the signature stands before
//! mosquitto.

use std::fmt::Write as _;
use std::time::Duration;

use super::trouble::{NO_API, hint};
use crate::support::bridge::{Setup, write_secret};
use crate::support::emulator::Emulator;
use crate::support::iot_core::{Gate, KEY, REGION, SECRET, TOKEN};
use crate::support::ledger::{assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::Load;
use crate::support::{PATIENCE, until};

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

/// A broker with a gate before it whose clock is `ahead`.
async fn behind_a_gate(ahead: Duration) -> (Mosquitto, Gate) {
    let (mosquitto, address) = Mosquitto::start_with_websocket("ws", "").await;
    let port = address.split_once("localhost:").unwrap().1.split_once('/').unwrap().0;
    let gate = Gate::open(port.parse().unwrap(), ahead).await;
    (mosquitto, gate)
}

/// A bridge that signs with what is in the file `credentials`.
fn setup(endpoint: &str, gate: &Gate, version: &str) -> Setup {
    let source = format!(
        "{version}\nurl = \"ws://localhost:{}\"\naws = {{ region = \"{REGION}\" }}",
        gate.port
    );
    let setup = Setup::new(endpoint, 0, "", &source, "");
    let file = setup.file("credentials").display().to_string();
    setup
        .env("AWS_SHARED_CREDENTIALS_FILE", &file)
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

fn write_credentials(setup: &Setup, secret: &str) {
    let mut text = format!("[default]\naws_access_key_id = {KEY}\n");
    write!(text, "aws_secret_access_key = {secret}\naws_session_token = {TOKEN}\n").unwrap();
    write_secret(&setup.file("credentials"), &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_websocket_is_let_in_and_each_connection_is_signed_anew() {
    for version in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let (mosquitto, gate) = behind_a_gate(Duration::ZERO).await;
        let setup = setup(&emulator.endpoint, &gate, version);
        write_credentials(&setup, SECRET);
        let bridge = setup.start_ready().await;
        let load = Load::start(mosquitto.port, 1_000, 10);
        // A signature has its time in seconds.
        bridge.metric_is("source_received_total{source=\"plant\"}", |v| v > 1_500.0).await;
        gate.cut();
        bridge.metric_is("source_reconnects_total{source=\"plant\"}", |v| v > 0.0).await;
        let count = usize::try_from(load.stop().await).unwrap();
        ledger.has_ids(count, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ids(&ledger.read()).len(), count, "{version}");
        assert_order(&ledger.read(), 1);
        let queries = gate.queries();
        assert!(queries.len() > 1 && queries[0] != queries[1], "{queries:?}");
        assert!(
            queries
                .iter()
                .all(|query| query.ends_with("&X-Amz-Security-Token=a%2Btoken%2Fof%3Da%3Dsession"))
        );
        let log = bridge.log();
        assert!(!log.contains(SECRET) && !log.contains(TOKEN) && !log.contains("X-Amz-"), "{log}");

        let (good, said) = setup.check().await;
        assert!(good && said.contains("1 subscription granted"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_and_the_right_one_is_taken_without_a_restart() {
    for version in VERSIONS {
        let (_mosquitto, gate) = behind_a_gate(Duration::ZERO).await;
        let setup = setup(NO_API, &gate, version);
        write_credentials(&setup, "wrong-secret-wrong-secret-wrong-secret");
        let (good, said) = setup.check().await;
        assert!(!good && said.contains("403 Forbidden"), "{said}");
        let bridge = setup.start().await;
        let words = [
            "the server answers 403 Forbidden: The request signature we calculated does not match",
        ];
        let said = hint(&bridge, &words).await;
        assert!(said.contains("AWS credentials"), "{said}");
        write_credentials(&setup, SECRET);
        until("the new secret is used", PATIENCE, async || {
            (bridge.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told_from_a_wrong_secret() {
    let (_mosquitto, gate) = behind_a_gate(Duration::from_hours(1)).await;
    let setup = setup(NO_API, &gate, VERSIONS[0]);
    write_credentials(&setup, SECRET);
    let bridge = setup.start().await;
    let words =
        ["403 Forbidden: Signature expired: ", "this machine's clock is ", "behind the server's"];
    let said = hint(&bridge, &words).await;
    assert!(said.contains("clock"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_nothing_is_asked_and_it_is_told() {
    let (_mosquitto, gate) = behind_a_gate(Duration::ZERO).await;
    let setup = setup(NO_API, &gate, VERSIONS[0]);
    let bridge = setup.start().await;
    hint(&bridge, &["no AWS credentials"]).await;
    write_credentials(&setup, SECRET);
    until("the credentials are found", PATIENCE, async || {
        (bridge.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(gate.queries().len(), 1);
}
