//! The MQTT source against a real mosquitto: what it takes, acknowledges, refuses and survives.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bridge::{Setup, write_secret};
use crate::support::certificates::certificates;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::mosquitto::{Mosquitto, SAVES_AT_ONCE};
use crate::support::producer::{produce, publish};
use crate::support::until;

/// An emulator with a ledger, in a directory that lives as long.
fn endpoint(args: &[&str]) -> (Emulator, Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, args);
    (emulator, ledger, directory)
}

fn message(topic: &str, payload: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (topic.to_owned(), payload.into())
}

/// Packet ids that mosquitto sent to the bridge, and those it got acknowledged, in order.
fn packet_ids(log: &str) -> (Vec<u32>, Vec<u32>) {
    let id = |line: &str, mark: &str, end: char| -> Option<u32> {
        line.split_once(mark)?.1.split(end).next()?.trim().parse().ok()
    };
    let sent = log.lines().filter(|l| l.starts_with("Sending PUBLISH to bridge"));
    let acknowledged = log.lines().filter(|l| l.starts_with("Received PUBACK from bridge"));
    (
        sent.filter_map(|l| id(l, ", m", ',')).collect(),
        acknowledged.filter_map(|l| id(l, "Mid: ", ',')).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_keep_the_order_of_receipt() {
    for version in ["version = 5", "version = 3"] {
        // Keys are answered out of order: each channel is a lane of its own. There is room for all of
        // them, since what is left to the broker comes again over another connection.
        let (emulator, ledger, _directory) = endpoint(&["--latency", "3ms"]);
        let mosquitto = Mosquitto::start("").await;
        let source = format!("{version}\nmax_in_flight = 5000");
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, "");
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 2_000, 4_000, 50).await;
        ledger.has_ids(2_000, PATIENCE).await;
        bridge.nothing_in_flight().await;
        let all = async || {
            let (sent, acknowledged) = packet_ids(&mosquitto.log());
            (acknowledged.len() == 2_000).then_some((sent, acknowledged))
        };
        let (sent, acknowledged) = until("2,000 PUBACKs in the broker's log", PATIENCE, all).await;
        assert_eq!(sent, acknowledged, "{version}");
        assert_order(&ledger.read(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_published_is_kept_and_its_neighbours_go_on() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let mosquitto = Mosquitto::start("").await;
        let route = "[route.tenants]\nfrom = \"plant\"\ntopic = \"plant/data\"\nchannel = \"/plant/{json.tenant}\"\n";
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, route);
        let bridge = setup.start_ready().await;
        let good = |id: u64| message("plant/data", json!({ "tenant": "a", "id": id }).to_string());
        let large = format!("{{\"tenant\":\"a\",\"x\":\"{}\"}}", "x".repeat(300_000));
        let huge = "x".repeat(5 << 20);
        let bad = [
            ("invalid_json", b"no json at all".to_vec()),
            ("too_large", large.clone().into_bytes()),
            ("bad_channel_segment", br#"{"tenant":"../x"}"#.to_vec()),
            ("invalid_utf8", b"{\"tenant\":\"\xff\"}".to_vec()),
            ("duplicate_key", br#"{"tenant":"a","tenant":"b"}"#.to_vec()),
            ("no_route_value", br#"{"tenant":null}"#.to_vec()),
            ("too_deep", [vec![b'['; 10_000], vec![b']'; 10_000]].concat()),
            ("too_large", huge.into_bytes()),
        ];
        let mut messages = vec![good(0)];
        for (id, (_, payload)) in bad.iter().enumerate() {
            messages.push(message("plant/data", payload.clone()));
            messages.push(good(id as u64 + 1));
        }
        publish(mosquitto.port, 1_000, messages).await;
        ledger.has_ids(bad.len() + 1, PATIENCE).await;
        until("every bad message is kept", PATIENCE, async || {
            (setup.rejects().len() == bad.len()).then_some(())
        })
        .await;

        let rejects = setup.rejects();
        let reasons: Vec<&str> = rejects.iter().map(|r| r["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, bad.iter().map(|(reason, _)| *reason).collect::<Vec<_>>());
        assert_eq!(rejects[0]["payload"], "no json at all");
        assert_eq!(rejects[1]["payload"], Value::String(large));
        assert_eq!(rejects[2]["topic"], "plant/data");
        assert_eq!(rejects[2]["route"], "tenants");
        assert!(
            rejects[2]["detail"].as_str().unwrap().contains("`../x`"),
            "{}",
            rejects[2]["detail"]
        );
        assert!(ledger.read().iter().all(|a| a.channel == "/plant/a"));
        bridge.nothing_in_flight().await;
        // What came is what was accepted and what was kept, and nobody reconnected over it.
        let metrics = bridge.metrics().await;
        let of = |name: &str| metrics[&format!("appsync_bridge_{name}")];
        assert_eq!(of("source_received_total{source=\"plant\"}"), 17.0);
        assert_eq!(of("publish_events_total{api=\"main\",outcome=\"accepted\"}"), 9.0);
        assert_eq!(of("dead_letters_total{reason=\"too_large\"}"), 2.0);
        let settled = bridge.settled("plant").await;
        assert_eq!((settled["published"], settled["dead_lettered"]), (9.0, 8.0), "{settled:?}");
        assert_eq!(of("source_reconnects_total{source=\"plant\"}"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_can_not_be_written_holds_its_message() {
    let (emulator, ledger, _directory) = endpoint(&[]);
    let mosquitto = Mosquitto::start("").await;
    let full = "[route.data]\nfrom = \"plant\"\nchannel = \"/plant/x\"\ndead_letter = \"full\"\n\
                [dead_letter.full]\ntype = \"file\"\npath = \"/dev/full\"\n";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", full);
    let mut bridge = setup.start_ready().await;
    publish(
        mosquitto.port,
        1_000,
        [message("plant/a", "no json"), message("plant/a", "{\"id\":1}")],
    )
    .await;
    ledger.has_ids(1, PATIENCE).await;
    until("the bridge says so", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("No space left").then_some(())
    })
    .await;
    // Neither it nor the one behind it is acknowledged.
    assert_eq!(packet_ids(&mosquitto.log()).1, Vec::<u32>::new());
    assert_eq!(bridge.metric("source_in_flight{source=\"plant\"}").await, 2.0);
    bridge.signal("KILL");
    bridge.ended(Duration::from_secs(5)).await;

    let config = fs::read_to_string(setup.file("bridge.toml")).unwrap();
    let path = setup.file("freed.jsonl");
    fs::write(setup.file("bridge.toml"), config.replace("/dev/full", path.to_str().unwrap()))
        .unwrap();
    let bridge = setup.start_ready().await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 1.0).await;
    assert!(fs::read_to_string(path).unwrap().contains("no json"));
    bridge.nothing_in_flight().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_in_flight_holds_the_broker_back() {
    let (emulator, ledger, _directory) = endpoint(&["--latency", "20ms"]);
    let address = emulator.host().to_owned();
    drop(emulator);
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("http://{address}/event");
    let setup = Setup::new(&endpoint, mosquitto.port, "", "max_in_flight = 50", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 500, 10_000, 5).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 50.0).await;
    assert_eq!(
        packet_ids(&mosquitto.log()).0.len(),
        50,
        "the broker sends no more than the receive maximum"
    );
    let _emulator = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    ledger.has_ids(500, PATIENCE).await;
    assert_order(&ledger.read(), 0);
}

/// Large messages of one key.
fn large(count: u64) -> Vec<(String, Vec<u8>)> {
    let filler = "x".repeat(50_000);
    let message = |id: u64| {
        let event = json!({ "id": id, "key": 0, "seq": id, "filler": filler });
        message("plant/dev-0/data", event.to_string())
    };
    (0..count).map(message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_limit_leaves_the_rest_to_the_broker_and_nothing_comes_twice() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let address = emulator.host().to_owned();
        drop(emulator);
        let mosquitto = Mosquitto::start("").await;
        let source = format!("{version}\nmax_in_flight_bytes = \"400KB\"");
        let endpoint = format!("http://{address}/event");
        let setup = Setup::new(&endpoint, mosquitto.port, "", &source, "");
        let bridge = setup.start_ready().await;
        publish(mosquitto.port, 10_000, large(60)).await;
        // No broker knows of the limit in bytes, so twice as much is held.
        let mut most: f64 = 0.0;
        until("the ceiling", PATIENCE, async || {
            most = bridge.metric("source_in_flight_bytes{source=\"plant\"}").await;
            (most > 700_000.0).then_some(())
        })
        .await;
        let path = ledger.path.to_str().unwrap();
        let _emulator = Emulator::start_at(&address, &["--ledger", path]);
        until("all events", PATIENCE, async || {
            most = most.max(bridge.metric("source_in_flight_bytes{source=\"plant\"}").await);
            (ledger.len() >= 60).then_some(())
        })
        .await;
        bridge.nothing_in_flight().await;
        assert!(most <= 800_000.0, "in flight were {most} bytes");
        assert_order(&ledger.read(), 0);
        assert_eq!(ledger.len(), 60, "nothing comes twice");
        assert!(bridge.metric("source_reconnects_total{source=\"plant\"}").await >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_source_stays_connected_while_the_api_is_away() {
    let (emulator, ledger, _directory) = endpoint(&[]);
    let address = emulator.host().to_owned();
    drop(emulator);
    let mosquitto = Mosquitto::start("").await;
    let source = "keep_alive = \"2s\"\nmax_in_flight_bytes = \"310KB\"";
    let setup = Setup::new(&format!("http://{address}/event"), mosquitto.port, "", source, "");
    let bridge = setup.start_ready().await;
    publish(mosquitto.port, 10_000, large(60)).await;
    // Several keep-alives pass with more in the socket than may be taken.
    until("three pings", PATIENCE, async || {
        (mosquitto.log().matches("Received PINGREQ from bridge").count() >= 3).then_some(())
    })
    .await;
    assert!(!mosquitto.log().contains("exceeded timeout"));
    assert_eq!(bridge.metric("source_reconnects_total{source=\"plant\"}").await, 0.0);
    assert!(bridge.metric("source_in_flight_bytes{source=\"plant\"}").await <= 620_000.0);
    let _emulator = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    ledger.has_ids(60, PATIENCE).await;
    assert_order(&ledger.read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_over_connections() {
    let (emulator, ledger, _directory) = endpoint(&[]);
    let address = emulator.host().to_owned();
    drop(emulator);
    let mut mosquitto = Mosquitto::start(SAVES_AT_ONCE).await;
    let endpoint = format!("http://{address}/event");
    let setup = Setup::new(&endpoint, mosquitto.port, "", "max_in_flight = 200", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 90, 10_000, 3).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 90.0).await;
    for _ in 0..3 {
        mosquitto.kill();
        bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
        mosquitto.restart().await;
        // Connected again, or waiting for room; never above the limit.
        until("it came back or waits", PATIENCE, async || {
            let connected = bridge.metric("source_connected{source=\"plant\"}").await == 1.0;
            let full = bridge.metric("source_in_flight{source=\"plant\"}").await > 100.0;
            (connected || full).then_some(())
        })
        .await;
        assert!(bridge.metric("source_in_flight{source=\"plant\"}").await <= 200.0);
    }
    let _emulator = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    ledger.has_ids(90, PATIENCE).await;
    bridge.nothing_in_flight().await;
    bridge.ready().await;
    assert_order(&ledger.read(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_beyond_the_ceiling_is_dropped_and_counted_exactly() {
    let (emulator, _ledger, _directory) = endpoint(&[]);
    let address = emulator.host().to_owned();
    drop(emulator);
    let mosquitto = Mosquitto::start("").await;
    let source = "qos = 0\nmax_in_flight = 5";
    let setup = Setup::new(&format!("http://{address}/event"), mosquitto.port, "", source, "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 500, 5_000, 5).await;
    bridge.metric_is("source_dropped_total{source=\"plant\"}", |v| v == 180.0).await;
    assert_eq!(bridge.metric("source_received_total{source=\"plant\"}").await, 320.0);
    assert_eq!(bridge.metric("source_over_limit_total{source=\"plant\"}").await, 315.0);
    until("it is said", PATIENCE, async || {
        (!bridge.lines(&["WARN", "dropped", "qos = 1"]).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_is_subscribed_to_again() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let mut mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        mosquitto.kill();
        let _ = fs::remove_file(mosquitto.file("mosquitto.db"));
        mosquitto.restart().await;
        bridge.metric_is("source_session_lost_total{source=\"plant\"}", |v| v == 1.0).await;
        bridge.ready().await;
        produce(mosquitto.port, 10, 1_000, 1).await;
        ledger.has_ids(10, PATIENCE).await;
        assert!(bridge.log().contains("forgotten the session"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_is_taken_and_the_unrouted_is_counted() {
    let (emulator, ledger, _directory) = endpoint(&[]);
    let mosquitto = Mosquitto::start("").await;
    let source = "unrouted = \"dead-letter\"\nqos = 0";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", source, "");
    let bridge = setup.start_ready().await;
    publish(
        mosquitto.port,
        1_000,
        [message("plant/else", "{\"id\":1}"), message("plant/x/data", "{\"id\":2}")],
    )
    .await;
    ledger.has_ids(1, PATIENCE).await;
    assert_eq!(ids(&ledger.read()).into_iter().collect::<Vec<_>>(), [2]);
    bridge.metric_is("dead_letters_total{reason=\"unrouted\"}", |v| v == 1.0).await;
    assert_eq!(setup.rejects()[0]["topic"], "plant/else");
    assert_eq!(bridge.metric("unrouted_total{source=\"plant\"}").await, 1.0);
    assert_eq!(setup.rejects()[0]["coordinates"]["qos"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_client_certificate_and_a_password() {
    for version in ["version = 5", "version = 3"] {
        let (emulator, ledger, _directory) = endpoint(&[]);
        let directory = tempfile::tempdir().unwrap();
        certificates(directory.path());
        let path = directory.path().display().to_string();
        let added = Command::new("mosquitto_passwd")
            .args(["-b", "-c", &format!("{path}/passwords"), "relay", "s3cret-word"])
            .status();
        assert!(added.expect("`mosquitto_passwd` cannot be run").success());
        let tls_port = crate::support::free_port();
        // The producer stays on the plain listener; the bridge has to show a certificate and a password.
        let lines = format!(
            "per_listener_settings true\nallow_anonymous true\nlistener {tls_port} 127.0.0.1\n\
             cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n\
             require_certificate true\nallow_anonymous false\npassword_file {path}/passwords\n"
        );
        let mosquitto = Mosquitto::start(&lines).await;
        let password = directory.path().join("password");
        write_secret(&password, "wrong\n");
        let source = format!(
            "{version}\nurl = \"mqtts://localhost:{tls_port}\"\nusername = \"relay\"\n\
             password = {{ file = \"{}\" }}\n\
             tls = {{ ca_file = \"{path}/ca.pem\", cert_file = \"{path}/client.pem\", key_file = \"{path}/client.key\" }}",
            password.display()
        );
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, "");
        let bridge = setup.start().await;
        until("the broker's refusal is shown", PATIENCE, async || {
            let (status, text) = bridge.get("/readyz").await;
            assert_eq!(status, 503);
            let text = text.to_lowercase();
            (text.contains("password") || text.contains("authorized")).then_some(())
        })
        .await;
        assert!(!bridge.log().contains("wrong"), "the password is in the log");
        bridge.kill();

        write_secret(&password, "s3cret-word\n");
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 20, 1_000, 2).await;
        ledger.has_ids(20, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert!(!bridge.log().contains("s3cret"), "the password is in the log");

        // A server that the CA did not sign is refused before anything is said to it.
        let other = tempfile::tempdir().unwrap();
        certificates(other.path());
        fs::copy(other.path().join("ca.pem"), directory.path().join("ca.pem")).unwrap();
        bridge.kill();
        let bridge = setup.start().await;
        until("the certificate is refused", PATIENCE, async || {
            bridge.get("/readyz").await.1.to_lowercase().contains("certificate").then_some(())
        })
        .await;
    }
}
