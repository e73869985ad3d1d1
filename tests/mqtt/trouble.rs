//! What the MQTT source says when a broker won't have it, and how soon it asks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rumqttc_v5::{AsyncClient, MqttOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::certificates::certificates;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted::{Heard, Play, Scripted, connack};
use crate::support::{free_port, until};

/// Nothing is published here.
pub(super) const NO_API: &str = "http://127.0.0.1:9/event";

/// The hint of a line that says why there is no connection; the line and `/readyz` both tell when the
/// next one is tried.
pub(super) async fn hint(bridge: &Bridge, words: &[&str]) -> String {
    let words = [&["not connected; trying again"], words].concat();
    let line =
        until(&format!("a line with {words:?}"), PATIENCE, async || bridge.lines(&words).pop())
            .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert!(line["next_try"].as_str().unwrap().starts_with("in "), "{line}");
    // One answer has it all: while a try is made the page says something else.
    until("the page says so", PATIENCE, async || {
        let (_, page) = bridge.get("/readyz").await;
        let whole =
            page.contains("next try in ") && words[1..].iter().all(|word| page.contains(word));
        whole.then_some(())
    })
    .await;
    line["hint"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_check() {
    // Version, level and code, and the word of the hint.
    let cases = [
        ("version = 5", 5, 0x86, "`username`"),
        ("version = 5", 5, 0x87, "`password`"),
        ("version = 5", 5, 0x85, "`client_id`"),
        ("version = 5", 5, 0x84, "`version = 3`"),
        // A broker of 3.1.1, which answers in its own way.
        ("version = 5", 5, 1, "`version = 3`"),
        ("version = 3", 4, 4, "`username`"),
        ("version = 3", 4, 5, "`password`"),
        ("version = 3", 4, 2, "`client_id`"),
        ("version = 3", 4, 1, "`version = 5`"),
    ];
    for (version, level, code, word) in cases {
        let broker = Scripted::start(move |_| Play::Say(connack(level, code, &[]))).await;
        let setup = Setup::new(NO_API, broker.port, "", version, "");
        let bridge = setup.start().await;
        hint(&bridge, &[word]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_is_told_from_one_with_it() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let path = directory.path().display();
    let tls_port = free_port();
    let lines = format!(
        "listener {tls_port} 127.0.0.1\ncafile {path}/ca.pem\ncertfile {path}/server.pem\n\
         keyfile {path}/server.key\nrequire_certificate true\n"
    );
    let mosquitto = Mosquitto::start(&lines).await;
    // What answers is not MQTT.
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web_port = web.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = web.accept().await {
            // What is not read would reset the connection.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    // An alert of TLS, as most servers answer what is no ClientHello.
    let alert = Scripted::start(|_| Play::Say(vec![0x15, 3, 1, 0, 2, 2, 70])).await;
    for version in ["version = 5", "version = 3"] {
        let ca = format!("tls = {{ ca_file = \"{path}/ca.pem\" }}");
        let cases = [
            (format!("url = \"mqtt://localhost:{tls_port}\""), "`mqtts://`"),
            (format!("url = \"mqtt://localhost:{web_port}\""), "is this a port for MQTT"),
            (format!("url = \"mqtt://localhost:{}\"", alert.port), "`mqtts://`"),
            (format!("url = \"mqtts://localhost:{}\"", mosquitto.port), "`mqtt://`"),
            (format!("url = \"mqtts://localhost:{web_port}\""), "`mqtt://`"),
            (format!("url = \"mqtts://localhost:{tls_port}\""), "`tls = { ca_file"),
            (format!("url = \"mqtts://localhost:{tls_port}\"\n{ca}"), "`tls = { cert_file"),
            (format!("url = \"mqtt://localhost:{}\"", free_port()), "does the broker run"),
            ("url = \"mqtt://nowhere.invalid\"".to_owned(), "check the host"),
        ];
        for (lines, word) in cases {
            let setup = Setup::new(NO_API, 0, "", &format!("{version}\n{lines}"), "");
            let bridge = setup.start().await;
            hint(&bridge, &[word]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_soon_name_their_likely_cause() {
    for (version, level) in [("version = 5", 5), ("version = 3", 4)] {
        // Before the subscriptions are granted: an access list may be the cause as well.
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } => Play::Say(connack(level, 0, &[])),
            _ => Play::Close,
        })
        .await;
        let setup = Setup::new(NO_API, broker.port, "", version, "");
        let bridge = setup.start().await;
        let said = hint(&bridge, &["another client may use the same `client_id`"]).await;
        assert!(said.contains("`subscriptions`"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_of_the_same_name_is_named() {
    for version in ["version = 5", "version = 3"] {
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(NO_API, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        // It connects again at once, whenever the bridge has taken over.
        let (stop, port) = (Arc::new(AtomicBool::new(false)), mosquitto.port);
        let stopped = Arc::clone(&stop);
        let rival = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let options = MqttOptions::new("bridge", ("127.0.0.1", port));
                let (_client, mut events) = AsyncClient::builder(options).capacity(1).build();
                while !stopped.load(Ordering::Relaxed) {
                    let event = tokio::time::timeout(Duration::from_millis(200), events.poll());
                    if matches!(event.await, Ok(Err(_))) {
                        break;
                    }
                }
            }
        });
        let said = hint(&bridge, &["the same `client_id`"]).await;
        assert!(said.contains("another client"), "{said}");
        stop.store(true, Ordering::Relaxed);
        rival.await.unwrap();
        until("the bridge is ready again", PATIENCE, async || {
            (bridge.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }
}
