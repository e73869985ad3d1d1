//! MQTT over a WebSocket, with TLS and without: mosquitto takes it, and what does not is told why.

use appsync_bridge::event_api::sign::hex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::killed_under_load_nothing_is_lost;
use super::trouble::{NO_API, hint};
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::assert_order;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::produce;
use crate::support::{PATIENCE, free_port};

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_over_a_websocket_arrives_once_and_in_order() {
    for scheme in ["ws", "wss"] {
        for version in VERSIONS {
            let directory = tempfile::tempdir().unwrap();
            let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "3ms"]);
            let (mosquitto, address) = Mosquitto::start_with_websocket(scheme, "").await;
            let source = format!("{version}\n{address}");
            let setup = Setup::new(&emulator.endpoint, 0, "", &source, "");
            let bridge = setup.start_ready().await;
            produce(mosquitto.port, 1_000, 4_000, 20).await;
            ledger.has_ids(1_000, PATIENCE).await;
            bridge.nothing_in_flight().await;
            assert_eq!(ledger.len(), 1_000, "{scheme}, {version}: some came twice");
            assert_order(&ledger.read(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_killed_under_load_loses_nothing_of_a_websocket() {
    for (scheme, version) in [("ws", VERSIONS[0]), ("wss", VERSIONS[1])] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "5ms"]);
        let (mosquitto, address) = Mosquitto::start_with_websocket(scheme, "").await;
        let setup = Setup::new(&emulator.endpoint, 0, "", &format!("{version}\n{address}"), "");
        killed_under_load_nothing_is_lost(&setup, mosquitto.port, &ledger).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_goes_over_the_websocket() {
    for scheme in ["ws", "wss"] {
        let (_mosquitto, address) = Mosquitto::start_with_websocket(scheme, "").await;
        for version in VERSIONS {
            let setup = Setup::new(NO_API, 0, "", &format!("{version}\n{address}"), "");
            let (good, said) = setup.check().await;
            assert!(good && said.contains("1 subscription granted"), "{said}");
        }
    }
}

/// The library of the WebSocket shows each frame to a log that wants everything, in hexadecimal digits.
#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_the_log_of_a_websocket() {
    const PASSWORD: &str = "hunter2-of-the-sea";
    for version in VERSIONS {
        let (_mosquitto, address) = Mosquitto::start_with_websocket("ws", "").await;
        let login = format!("username = \"bridge\"\npassword = \"{PASSWORD}\"");
        let source = format!("{version}\n{address}\n{login}");
        let setup = Setup::new(NO_API, 0, "", &source, "level = \"trace\"\n");
        let log = setup.start_ready().await.log().to_lowercase();
        assert!(log.contains("\"ready\""), "{log}");
        for shown in [PASSWORD.to_owned(), hex(PASSWORD.as_bytes())] {
            assert!(!log.contains(&shown), "{version}: {shown} in\n{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_and_the_subprotocol_are_sent_and_another_answer_is_told() {
    for (version, status, hints) in [
        (VERSIONS[0], "404 Not Found", "is the path of `url` right?"),
        (VERSIONS[1], "403 Forbidden", "what the server lets this client do"),
    ] {
        let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = web.local_addr().unwrap().port();
        let url = format!("url = \"ws://127.0.0.1:{port}/a/mqtt?tenant=x%2Fy\"");
        let setup = Setup::new(NO_API, 0, "", &format!("{version}\n{url}"), "");
        let bridge = setup.start().await;
        let (mut stream, _) = web.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines().map(str::to_ascii_lowercase);
        assert_eq!(lines.next().unwrap(), "get /a/mqtt?tenant=x%2fy http/1.1");
        let headers: Vec<_> = lines.collect();
        for header in [&format!("host: 127.0.0.1:{port}"), "sec-websocket-protocol: mqtt"] {
            assert!(headers.iter().any(|line| line == header), "{header}: {headers:?}");
        }
        let body = "no such tenant";
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        let said = hint(&bridge, &[&format!("the server answers {status}"), body]).await;
        assert!(said.contains(hints), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_websocket_is_told_from_one_with_it() {
    let (plain, over_ws) = Mosquitto::start_with_websocket("ws", "").await;
    let (_secure, over_wss) = Mosquitto::start_with_websocket("wss", "").await;
    let to =
        |url: &str| url.split_once("localhost:").unwrap().1.split('/').next().unwrap().to_owned();
    let (ws, wss) = (to(&over_ws), to(&over_wss));
    let ca = over_wss.split_once('\n').unwrap().1;
    for version in VERSIONS {
        let cases = [
            (format!("url = \"ws://localhost:{}\"", plain.port), "is this the port of a WebSocket"),
            (format!("url = \"mqtt://localhost:{ws}\""), "is this a port for MQTT"),
            (format!("url = \"ws://localhost:{wss}\""), "with TLS (`wss://`)"),
            (format!("url = \"wss://localhost:{ws}\""), "write `ws://`"),
            (format!("url = \"wss://localhost:{wss}\""), "`tls = { ca_file"),
            (format!("url = \"wss://localhost:{}\"\n{ca}", free_port()), "does the broker run"),
        ];
        for (lines, word) in cases {
            let setup = Setup::new(NO_API, 0, "", &format!("{version}\n{lines}"), "");
            let bridge = setup.start().await;
            let said = hint(&bridge, &[]).await;
            assert!(said.contains(word), "{lines}: {said}");
        }
    }
}
