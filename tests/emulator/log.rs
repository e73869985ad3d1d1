//! One line a refusal: who, what for, why, and what would be right; and no credential in it.

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::emulator::{Emulator, KEY, request};
use crate::support::socket::{Socket, key_object, publish_frame};
use crate::support::{PATIENCE, until};

const WRONG: &str = "da2-a-wrong-one-that-is-secret";

/// The lines of the log that speak of refusals.
fn refusals(emulator: &Emulator) -> Vec<Value> {
    emulator.log().into_iter().filter(|line| line["message"] == "refused").collect()
}

fn assert_line(line: &Value, what: [&str; 4]) {
    let [transport, operation, channel, why] = what;
    assert_eq!((line["level"].as_str(), &line["transport"]), (Some("WARN"), &json!(transport)));
    assert_eq!(line["operation"], operation, "{line}");
    assert_eq!(line["channel"].as_str().unwrap_or_default(), channel, "{line}");
    assert!(line["why"].as_str().unwrap().contains(why), "{line}");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert!(!line["hint"].as_str().unwrap().is_empty(), "{line}");
}

#[tokio::test]
async fn a_refusal_is_a_line_whichever_way_it_came() {
    let emulator = Emulator::start(&["--namespace", "demo"]);
    let body = |channel: &str, events: &[&str]| {
        json!({ "channel": channel, "events": events }).to_string()
    };
    let key = [("x-api-key", KEY)];
    for (headers, body) in [
        (&[("x-api-key", WRONG)][..], body("/demo/a", &["1"])),
        (&[("authorization", WRONG)][..], body("/demo/a", &["1"])),
        (&[][..], body("/demo/a", &["1"])),
        (&key[..], body("/other/a", &["1"])),
        (&key[..], body("/demo/a\n\u{1b}[31m", &["1"])),
        (&key[..], body("/demo/a", &["1"; 6])),
        (&key[..], body("/demo/a", &["{"])),
        (&key[..], "{".to_owned()),
    ] {
        assert!(emulator.post(headers, body).await.status.is_client_error());
    }
    let elsewhere = emulator.endpoint.replace("/event", "/graphql");
    assert_eq!(request(Method::POST, &elsewhere, &key, "{}").await.status, 404);

    let mut socket = Socket::open(&emulator, &key_object(WRONG)).await;
    socket.say(&json!({ "type": "connection_init" })).await;
    assert_eq!(socket.hear().await["type"], "connection_error");
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.subscribe("s", "/other/*").await["type"], "subscribe_error");
    let mut publish = publish_frame("p", "/demo/a", &["1"]);
    publish["authorization"] = key_object(WRONG);
    socket.say(&publish).await;
    assert_eq!(socket.hear().await["type"], "publish_error");
    socket.say_text("{").await;
    assert_eq!(socket.hear().await["type"], "error");

    let lines = refusals(&emulator);
    let expected = [
        ["http", "publish", "/demo/a", "`x-api-key` is not accepted"],
        ["http", "publish", "/demo/a", "`authorization` is not an accepted token"],
        ["http", "publish", "/demo/a", "no credential"],
        ["http", "publish", "/other/a", "unknown namespace"],
        ["http", "publish", r"/demo/a \u{1b}[31m", "is no channel"],
        ["http", "publish", "/demo/a", "more than 5 events"],
        ["http", "publish", "/demo/a", "event 0 is not"],
        ["http", "publish", "", "no publish request"],
        ["http", "request", "/graphql", "nothing at this path"],
        ["ws", "connect", "", "`x-api-key` is not accepted"],
        ["ws", "subscribe", "/other/*", "unknown namespace"],
        ["ws", "publish", "/demo/a", "`x-api-key` is not accepted"],
        ["ws", "frame", "", "EOF"],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, what) in lines.iter().zip(expected) {
        assert_line(line, what);
    }
    let log = format!("{:?}", emulator.log());
    // Its own key is public, and the hint has to name it.
    assert!(!log.contains(WRONG) && log.contains("da2-local"), "{log}");
}

#[tokio::test]
async fn a_key_that_was_given_is_not_in_the_log() {
    const GIVEN: &str = "da2-given-by-the-operator";
    let emulator = Emulator::start(&["--api-key", GIVEN]);
    let body = json!({ "channel": format!("/demo/{GIVEN}/_"), "events": ["1"] }).to_string();
    assert!(emulator.post(&[("x-api-key", GIVEN)], body).await.status.is_client_error());
    let log = format!("{:?}", emulator.log());
    assert!(!log.contains(GIVEN) && log.contains("/demo/…"), "{log}");
}

#[tokio::test]
async fn what_is_accepted_is_a_line_unless_only_warnings_are_wanted() {
    for (arguments, expected) in [
        (&[][..], &["publish", "connect", "subscribe", "publish"][..]),
        (&["--log-level", "warn"][..], &[][..]),
    ] {
        let emulator = Emulator::start(arguments);
        emulator.publish("/demo/a", &["1"]).await;
        let mut socket = Socket::connect(&emulator).await;
        socket.subscribe("s", "/demo/b").await;
        socket.publish("p", "/demo/a", &["1"]).await;
        let log = emulator.log();
        let accepted = log.iter().filter(|line| line["message"] == "accepted");
        let operations: Vec<_> = accepted.map(|line| line["operation"].as_str().unwrap()).collect();
        assert_eq!(operations, expected, "{log:?}");
        let published = log.iter().find(|line| line["operation"] == "publish");
        assert!(published.is_none_or(|line| line["events"] == 1 && line["channel"] == "/demo/a"));
    }
}

#[tokio::test]
async fn a_failed_event_is_a_refusal_and_only_the_others_are_accepted() {
    let emulator = Emulator::start(&[]);
    let big = format!("\"{}\"", "x".repeat(240_000));
    emulator.publish("/demo/a", &[&big]).await;
    emulator.publish("/demo/a", &["1", &big, "2"]).await;
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.publish("p", "/demo/a", &[&big]).await["type"], "publish_success");
    let lines = refusals(&emulator);
    for (line, (transport, index)) in lines.iter().zip([("http", 0), ("http", 1), ("ws", 0)]) {
        let why = format!("event {index}: EventTooLargeException: Transformed event is larger");
        assert_line(line, [transport, "publish", "/demo/a", &why]);
    }
    let log = emulator.log();
    let accepted = log.iter().filter(|line| line["message"] == "accepted");
    let events: Vec<_> = accepted.map(|line| &line["events"]).filter(|e| !e.is_null()).collect();
    assert_eq!((lines.len(), events), (3, vec![&json!(2)]), "{log:?}");
}

#[tokio::test]
async fn a_line_is_short_and_holds_no_token_in_the_wrong_place() {
    const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl";
    let emulator = Emulator::start(&["--any-jwt"]);
    let (long, mut said) = ("a".repeat(1_000_000), String::new());
    let mut socket = Socket::connect(&emulator).await;
    for frame in [
        json!({ "type": "subscribe", "id": "s", "channel": "/demo/a", "authorization": TOKEN }),
        json!({ "type": TOKEN }),
        json!({ "type": long }),
        json!({ "type": "subscribe", "id": "s", "channel": long, "authorization": key_object(KEY) }),
    ] {
        socket.say(&frame).await;
        said.push_str(&socket.hear().await.to_string());
    }
    let body = json!({ "channel": "/demo/a", "events": TOKEN }).to_string();
    let answer = emulator.post(&[("x-api-key", KEY)], body).await;
    said.push_str(&answer.json().to_string());
    emulator.publish(&long, &["1"]).await;
    let log = emulator.log();
    assert_eq!(refusals(&emulator).len(), 6, "{log:?}");
    assert!(log.iter().all(|line| line.to_string().len() < 1_500));
    assert!(!format!("{log:?}{said}").contains(TOKEN));
    assert!(said.contains("`authorization` is not an object"));
}

#[tokio::test]
async fn a_handshake_that_breaks_off_is_told_with_its_cause() {
    for plain in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let emulator = Emulator::start(&["--tls", directory.path().to_str().unwrap()]);
        if plain {
            let mut client = TcpStream::connect(emulator.host()).await.unwrap();
            client.write_all(b"POST /event HTTP/1.1\r\n\r\n").await.unwrap();
            let _ = client.read_to_end(&mut Vec::new()).await;
        } else {
            let curl = tokio::process::Command::new("curl").arg(&emulator.endpoint).output().await;
            assert!(!curl.unwrap().status.success());
        }
        let told = |line: &Value| line["message"].as_str().unwrap().contains("TLS handshake");
        let line = until("the line", PATIENCE, async || emulator.log().into_iter().find(told));
        let line = line.await;
        let hint = line["hint"].as_str().unwrap();
        let ca = emulator.ca_file.as_deref().unwrap();
        assert_eq!((hint.contains("http://"), hint.contains(ca)), (plain, !plain), "{line}");
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

/// A client that was given `https://` shows nothing but a broken handshake itself.
#[tokio::test]
async fn a_client_that_speaks_tls_is_told_of() {
    let emulator = Emulator::start(&[]);
    // The head of a TLS record, and of a ClientHello in it.
    let hello = *b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03";
    for greeting in [&hello[..], b"POST /event HTTP/1.1\r\n"] {
        let mut client = TcpStream::connect(emulator.host()).await.unwrap();
        client.write_all(greeting).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
    }
    let told = |line: &Value| {
        line["message"].as_str().unwrap().contains("`https://` to a port without TLS")
    };
    until("the line", PATIENCE, async || emulator.log().iter().any(told).then_some(())).await;
    let lines: Vec<_> = emulator.log().into_iter().filter(told).collect();
    assert!(lines.len() == 1 && lines[0]["count"] == 1, "{lines:?}");
}

/// `check --connect` looks so whether anybody is there: that is no refusal.
#[tokio::test]
async fn a_look_whether_anybody_is_there_is_no_refusal() {
    let emulator = Emulator::start(&[]);
    assert_eq!(request(Method::GET, &emulator.endpoint, &[], "").await.status, 405);
    assert_eq!(refusals(&emulator), Vec::<Value>::new());
    let asked = |line: &Value| line["message"].as_str().unwrap().contains("whether anybody");
    assert_eq!(emulator.log().iter().filter(|line| asked(line)).count(), 1);
    assert_eq!(request(Method::PUT, &emulator.endpoint, &[], "").await.status, 405);
    assert_eq!(refusals(&emulator).len(), 1);
}

/// A text that a proxy or a person would send: the line stays one line, whatever the path is.
#[tokio::test]
async fn a_strange_path_stays_on_its_line() {
    let emulator = Emulator::start(&[]);
    let mut stream = TcpStream::connect(emulator.host()).await.unwrap();
    let path = "x".repeat(5_000);
    let head = format!("GET /{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let lines = refusals(&emulator);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].to_string().len() < 1_000, "{}", lines[0]);
}
