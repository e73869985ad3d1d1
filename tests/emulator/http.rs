//! `POST /event`: answers, refusals, CORS, ledger.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::emulator::{Emulator, KEY, request};
use crate::support::socket::{Socket, publish_frame};
use crate::support::{PATIENCE, until};

fn refused(status: u16, kind: &str, message: Option<&str>) -> (u16, String, Option<String>) {
    (status, kind.to_owned(), message.map(str::to_owned))
}

#[tokio::test]
async fn an_answer_has_a_uuid_and_an_index_for_every_event() {
    let emulator = Emulator::start(&[]);
    let big = format!("\"{}\"", "x".repeat(240_000));
    let answer = emulator.publish("/demo/a", &["{}", &big, "[1]", "\"s\"", "null"]).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let indices = |list: &str| -> Vec<u64> {
        let list = body[list].as_array().unwrap();
        assert!(list.iter().all(|e| Uuid::parse_str(e["identifier"].as_str().unwrap()).is_ok()));
        list.iter().map(|e| e["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indices("successful"), [0, 2, 3, 4]);
    assert_eq!(indices("failed"), [1]);
    assert_eq!(body["failed"][0]["code"], "EventTooLargeException");
    assert_eq!(body["failed"][0]["message"], "Transformed event is larger than 240KB");
    // A public suite compares the text, so the order of the members counts.
    let id = body["failed"][0]["identifier"].as_str().unwrap();
    let failed = format!(
        r#""failed":[{{"code":"EventTooLargeException","identifier":"{id}","index":1,"message":"Transformed event is larger than 240KB"}}]"#
    );
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains(&failed), "{text}");
}

#[tokio::test]
async fn every_refusal_has_its_words_its_cors_and_its_request_id() {
    let emulator = Emulator::start(&["--namespace", "demo", "--token", "a-token"]);
    let key = ("x-api-key", KEY);
    let unauthorized = Some("You are not authorized to make this call.");
    let body = |channel: &str, events: &[&str]| {
        json!({ "channel": channel, "events": events }).to_string()
    };
    let good = body("/demo/a", &["1"]);
    let mut ids = Vec::new();
    for (headers, body, status, kind, message) in [
        (&[][..], good.clone(), 401, "UnauthorizedException", unauthorized),
        (&[("x-api-key", "da2")][..], good.clone(), 401, "UnauthorizedException", unauthorized),
        (&[("authorization", "x")][..], good, 401, "UnauthorizedException", unauthorized),
        (&[key][..], body("/other/a", &["1"]), 401, "UnauthorizedException", None),
        (
            &[key][..],
            body("/demo/a", &["1"; 6]),
            400,
            "BadRequestException",
            Some("Input exceeded 5 event limit"),
        ),
    ] {
        let answer = emulator.post(headers, body).await;
        assert_eq!(answer.error(), refused(status, kind, message));
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("access-control-expose-headers").contains("x-amzn-RequestId"));
        assert_eq!(answer.header("x-amzn-errortype"), "");
        assert_eq!(answer.header("x-amzn-appsync-tokensconsumed"), "1");
        assert!(answer.header("access-control-expose-headers").contains("TokensConsumed"));
        ids.push(answer.header("x-amzn-requestid").to_owned());
    }
    for body in [
        "{",
        "{}",
        r#"{"channel":"/demo/a"}"#,
        r#"{"channel":"/demo/a","events":[]}"#,
        r#"{"channel":"/demo/a","events":[{"not":"a string"}]}"#,
        r#"{"channel":"/demo/a","events":["1","not json"]}"#,
        r#"{"channel":"/demo/*","events":["1"]}"#,
        r#"{"channel":"","events":["1"]}"#,
    ] {
        let answer = emulator.post(&[key], body).await;
        let (status, kind, _) = answer.error();
        assert_eq!((status, kind.as_str()), (400, "BadRequestException"), "{body}");
        ids.push(answer.header("x-amzn-requestid").to_owned());
    }
    let distinct: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    assert!(ids.iter().all(|id| Uuid::parse_str(id).is_ok()));

    let body = r#"{"channel":"/demo/a","events":["1"]}"#;
    for token in ["a-token", "Bearer a-token"] {
        assert_eq!(emulator.post(&[("authorization", token)], body).await.status, 200);
    }
}

#[tokio::test]
async fn a_browser_may_ask_first() {
    let emulator = Emulator::start(&[]);
    let asked = "authorization,content-type,x-amz-date,x-amz-security-token,x-amz-user-agent";
    let headers = [
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", asked),
    ];
    let answer = request(Method::OPTIONS, &emulator.endpoint, &headers, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), asked);
    assert!(Uuid::parse_str(answer.header("x-amzn-requestid")).is_ok());
}

#[tokio::test]
async fn query_unknown_fields_and_content_encoding_do_not_matter() {
    let emulator = Emulator::start(&[]);
    let headers =
        [("x-api-key", KEY), ("content-encoding", "amz-1.0"), ("content-type", "text/plain")];
    let body = r#"{"id":"x","channel":"demo/a/","events":["1"],"more":{}}"#;
    let url = format!("{}?a=1&b", emulator.endpoint);
    assert_eq!(request(Method::POST, &url, &headers, body).await.status, 200);
    let url = emulator.endpoint.replace("/event", "/events");
    assert_eq!(request(Method::POST, &url, &headers, body).await.status, 404);
    assert_eq!(request(Method::GET, &emulator.endpoint, &headers, "").await.status, 405);
}

#[tokio::test]
async fn the_ledger_is_written_before_the_answer_and_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let emulator = Emulator::start(&["--ledger", path.to_str().unwrap()]);
    let read = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let big = format!("\"{}\"", "x".repeat(240_000));
    let answer = emulator.publish("demo/a", &["{\"n\": 1}", &big]).await;
    let lines = read();
    let facts = |line: &Value| {
        let names = ["request", "transport", "channel", "index", "identifier", "outcome", "code"];
        json!(names.map(|name| line[name].clone()))
    };
    let id = answer.header("x-amzn-requestid");
    let body = answer.json();
    let (good, bad) = (&body["successful"][0]["identifier"], &body["failed"][0]["identifier"]);
    assert_eq!(lines.len(), 2);
    assert_eq!(facts(&lines[0]), json!([id, "http", "/demo/a", 0, good, "accepted", null]));
    let code = "EventTooLargeException";
    assert_eq!(facts(&lines[1]), json!([id, "http", "/demo/a", 1, bad, "failed", code]));
    assert_eq!(lines[0]["event"], "{\"n\": 1}");
    assert!(lines[0]["at"].as_u64().unwrap() > 1_700_000_000_000);

    // A refused request leaves nothing; a publish over the socket leaves its own line.
    emulator.publish("demo/a", &["1", "{"]).await;
    let mut socket = Socket::connect(&emulator).await;
    socket.say(&publish_frame("frame-1", "demo/b", &["2"])).await;
    let answer = socket.hear().await;
    let lines = read();
    assert_eq!(lines.len(), 3);
    let identifier = &answer["successful"][0]["identifier"];
    let expected = json!(["frame-1", "ws", "/demo/b", 0, identifier, "accepted", null]);
    assert_eq!(facts(&lines[2]), expected);

    emulator.publish("demo/a", &["3"]).await;
    drop(emulator);
    assert_eq!(read().len(), 4);
}

#[tokio::test]
async fn the_latency_holds_the_answer_back_and_not_the_event() {
    let emulator = Emulator::start(&["--latency", "400ms"]);
    let start = Instant::now();
    emulator.publish("/demo/a", &["1"]).await;
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());

    let emulator = Emulator::start(&["--latency", "60m"]);
    let mut socket = Socket::connect(&emulator).await;
    socket.subscribe("s", "/demo/a").await;
    tokio::select! {
        answer = emulator.try_publish("/demo/a", &["1"]) => panic!("answered: {answer:?}"),
        event = socket.hear() => assert_eq!(event["type"], "data"),
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_told_from_one_that_is_too_large() {
    let emulator = Emulator::start(&[]);
    let head =
        format!("POST /event HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-api-key: {KEY}\r\n");
    let chunks = format!("186a0\r\n{}\r\n", " ".repeat(100_000)).repeat(60);
    for (rest, status, says) in [
        ("transfer-encoding: chunked\r\n\r\nxyz\r\n", "400", "ended early or cannot be read"),
        (&format!("transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"), "413", "1.2 MB"),
    ] {
        let mut stream = TcpStream::connect(emulator.host()).await.unwrap();
        stream.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("BadRequestException") && answer.contains(says), "{answer}");
    }
    // A client that is gone gets no answer.
    let mut stream = TcpStream::connect(emulator.host()).await.unwrap();
    stream.write_all(format!("{head}content-length: 100\r\n\r\n{{}}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let why = |line: &Value| line["why"].as_str().is_some_and(|why| why.contains("ended early"));
    until("both lines", PATIENCE, async || {
        (emulator.log().iter().filter(|line| why(line)).count() == 2).then_some(())
    })
    .await;
}
