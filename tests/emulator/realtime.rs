//! The WebSocket: opening, frames, deliveries, closing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::emulator::{Emulator, KEY};
use crate::support::socket::{Socket, key_object, publish_frame, subprotocol};

#[tokio::test]
async fn credentials_come_in_either_place_or_as_headers() {
    let emulator = Emulator::start(&[]);
    let header = subprotocol(&json!({ "host": "h", "x-api-key": KEY, "x-unknown": 1 }));
    let first = format!("{header}, aws-appsync-event-ws");
    let last = format!("aws-appsync-event-ws,{header}");
    let url = format!("{}?custom=header", emulator.realtime);
    for headers in [
        &[("sec-websocket-protocol", first.as_str())][..],
        &[("sec-websocket-protocol", last.as_str())][..],
        &[("sec-websocket-protocol", "aws-appsync-event-ws"), ("x-api-key", KEY)][..],
    ] {
        Socket::upgrade(&url, headers).await.unwrap().init().await;
    }
    let Err(Error::Http(refused)) = Socket::upgrade(&url, &[("x-api-key", KEY)]).await else {
        panic!("accepted without the subprotocol")
    };
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn a_refused_connection_hears_of_it_after_connection_init_only() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::open(&emulator, &key_object("da2-wrong")).await;
    socket.send(Message::Ping("first".into())).await;
    assert_eq!(socket.message().await.unwrap().unwrap(), Message::Pong("first".into()));
    socket.say(&json!({ "type": "connection_init" })).await;
    let error = json!({ "type": "connection_error", "errors": [{
        "errorType": "UnauthorizedException", "errorCode": 401,
        "message": "You are not authorized to make this call.",
    }] });
    assert_eq!(socket.hear().await, error);
    let Some(Ok(Message::Close(Some(close)))) = socket.message().await else {
        panic!("not closed")
    };
    assert_eq!(close.code, CloseCode::Normal);
}

#[tokio::test]
async fn keep_alive_comes_every_period() {
    let emulator = Emulator::start(&["--keep-alive", "300ms"]);
    let mut socket = Socket::connect(&emulator).await;
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(socket.hear().await, json!({ "type": "ka" }));
    }
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(450), "{elapsed:?}");
}

#[tokio::test]
async fn a_batch_arrives_as_one_frame_an_event_in_order_and_as_text() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    for (id, channel) in [("exact", "demo/a/"), ("deep", "/demo/*")] {
        let success = json!({ "type": "subscribe_success", "id": id });
        assert_eq!(socket.subscribe(id, channel).await, success);
    }
    let events = ["{\"a\" : 1}", "[1,2]", "\"text\"", "4", "null"];
    emulator.publish("/demo/a", &events).await;
    for event in events {
        let mut heard = [socket.hear().await, socket.hear().await];
        heard.sort_by_key(|frame| frame["id"].to_string());
        let data = |id: &str| json!({ "type": "data", "id": id, "event": event });
        assert_eq!(heard, [data("deep"), data("exact")]);
    }
}

#[tokio::test]
async fn a_star_takes_all_below_and_others_hear_nothing() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    socket.subscribe("deep", "/demo/vans/*").await;
    socket.subscribe("end", "/demo/end").await;
    for (n, channel) in ["demo/vans", "demo/vansen/a", "demo", "Demo/vans/a"].iter().enumerate() {
        assert_eq!(emulator.publish(channel, &[&n.to_string()]).await.status, 200);
    }
    emulator.publish("demo/vans/a", &["10"]).await;
    emulator.publish("demo/vans/a/b/c", &["11"]).await;
    emulator.publish("demo/end", &["12"]).await;
    for event in ["10", "11", "12"] {
        assert_eq!(socket.hear().await["event"], event);
    }
}

#[tokio::test]
async fn an_id_lives_on_its_connection_alone() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let success = json!({ "type": "subscribe_success", "id": "one" });
    assert_eq!(socket.subscribe("one", "/demo/a").await, success);
    let again = socket.subscribe("one", "/demo/b").await;
    assert_eq!(again["type"], "subscribe_error");
    assert_eq!(again["errors"][0]["errorType"], "DuplicatedOperationError");

    let mut other = Socket::connect(&emulator).await;
    assert_eq!(other.subscribe("one", "/demo/a").await, success);
    drop(socket);
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.subscribe("one", "/demo/a").await, success);

    socket.say(&json!({ "type": "unsubscribe", "id": "one" })).await;
    assert_eq!(socket.hear().await, json!({ "type": "unsubscribe_success", "id": "one" }));
    socket.say(&json!({ "type": "unsubscribe", "id": "one" })).await;
    let unknown = socket.hear().await;
    assert_eq!(unknown["type"], "unsubscribe_error");
    assert_eq!(unknown["errors"][0]["errorType"], "UnknownOperationError");
    assert_eq!(unknown["errors"][0]["message"], "Unknown operation id one");

    emulator.publish("/demo/a", &["1"]).await;
    assert_eq!(other.hear().await["event"], "1");
    assert_eq!(socket.subscribe("one", "/demo/a").await, success);
}

#[tokio::test]
async fn a_publish_over_the_socket_is_answered_like_one_over_http() {
    let emulator = Emulator::start(&["--namespace", "demo"]);
    let mut socket = Socket::connect(&emulator).await;
    let big = format!("\"{}\"", "x".repeat(240_000));
    let answer = socket.publish("p-1", "demo/a", &["1", &big]).await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("publish_success"), &json!("p-1")));
    assert_eq!(answer["successful"][0]["index"], 0);
    assert_eq!(answer["failed"][0]["index"], 1);
    assert_eq!(answer["failed"][0]["code"], "EventTooLargeException");

    let error =
        |id: &str, error: Value| json!({ "type": "publish_error", "id": id, "errors": [error] });
    let six =
        json!({ "errorType": "InvalidInputError", "message": "input exceeded 5 event limit" });
    assert_eq!(socket.publish("p-2", "demo/a", &["1"; 6]).await, error("p-2", six));
    let unknown = json!({ "errorType": "UnauthorizedException" });
    assert_eq!(socket.publish("p-3", "other/a", &["1"]).await, error("p-3", unknown));
    for (channel, events) in [("demo/*", &["1"][..]), ("demo/a", &["{"][..]), ("demo/a", &[][..])] {
        let refused = socket.publish("p-4", channel, events).await;
        assert_eq!(refused["type"], "publish_error");
        assert_eq!(refused["errors"][0]["errorType"], "BadRequestException");
    }
}

#[tokio::test]
async fn each_operation_brings_its_own_credentials() {
    let emulator = Emulator::start(&["--token", "a-token", "--namespace", "demo"]);
    let mut socket = Socket::connect(&emulator).await;
    let message = "You are not authorized to make this call.";
    let denied = json!([{ "errorType": "UnauthorizedException", "message": message }]);
    for object in [key_object("da2-wrong"), json!({}), json!({ "Authorization": "x" })] {
        let refused = socket.subscribe_as("s", "/demo/a", &object).await;
        assert_eq!((&refused["type"], &refused["errors"]), (&json!("subscribe_error"), &denied));
        let mut publish = publish_frame("p", "/demo/a", &["1"]);
        publish["authorization"] = object;
        socket.say(&publish).await;
        let refused = socket.hear().await;
        assert_eq!((&refused["type"], &refused["errors"]), (&json!("publish_error"), &denied));
    }
    let token = json!({ "host": "h", "Authorization": "a-token" });
    assert_eq!(socket.subscribe_as("s", "/demo/a", &token).await["type"], "subscribe_success");
    let unknown = socket.subscribe("other", "/other/*").await;
    assert_eq!(unknown["errors"], json!([{ "errorType": "UnauthorizedException" }]));
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_is_answered_and_the_connection_stays() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    for (text, kind) in [
        ("{", "error"),
        (r#"{"type":"nonsense"}"#, "error"),
        (r#"{"type":"subscribe"}"#, "error"),
        (r#"{"type":"subscribe","id":"s"}"#, "subscribe_error"),
        (r#"{"type":"publish","id":"p","channel":"demo/a"}"#, "publish_error"),
    ] {
        socket.say_text(text).await;
        assert_eq!(socket.hear().await["type"], kind, "{text}");
    }
    socket.say(&json!({ "type": "nonsense", "id": "n-1" })).await;
    let error = socket.hear().await;
    assert_eq!((&error["type"], &error["id"]), (&json!("error"), &json!("n-1")));
    let without = socket.subscribe_as("s", "demo/a", &Value::Null).await;
    assert_eq!(without["errors"][0]["errorType"], "UnauthorizedException", "{without}");
    socket.send(Message::Binary(vec![1].into())).await;
    assert_eq!(socket.hear().await["type"], "error");
    assert_eq!(socket.subscribe("s", "demo/a").await["type"], "subscribe_success");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_and_nobody_waits_for_it() {
    let emulator = Emulator::start(&[]);
    let mut slow = Socket::connect(&emulator).await;
    slow.subscribe("s", "/demo/a").await;
    let event = format!("\"{}\"", "x".repeat(200_000));
    // Far more than its queue and both kernels' buffers hold.
    for _ in 0..60 {
        assert_eq!(emulator.publish("/demo/a", &[event.as_str(); 5]).await.status, 200);
    }
    let mut heard = 0;
    while let Some(Ok(Message::Text(_))) = slow.message().await {
        heard += 1;
    }
    assert!(heard < 300, "all {heard} events came");
    let mut quick = Socket::connect(&emulator).await;
    quick.subscribe("s", "/demo/a").await;
    emulator.publish("/demo/a", &["1"]).await;
    assert_eq!(quick.hear().await["event"], "1");
}

fn refusal(emulator: &Emulator, says: &str) -> Option<Value> {
    let refused = |line: &Value| line["why"].as_str().is_some_and(|why| why.contains(says));
    emulator.log().into_iter().find(refused)
}

#[tokio::test]
async fn a_socket_that_says_nothing_is_closed_and_one_that_skips_init_is_kept_alive() {
    let emulator = Emulator::start(&["--keep-alive", "500ms"]);
    let mut silent = Socket::open(&emulator, &key_object(KEY)).await;
    let mut early = Socket::open(&emulator, &key_object(KEY)).await;
    assert_eq!(early.subscribe("s", "/demo/a").await["type"], "subscribe_success");
    let start = Instant::now();
    let (closed, ()) = tokio::join!(silent.message(), async {
        while start.elapsed() < Duration::from_secs(32) {
            assert_eq!(early.hear().await, json!({ "type": "ka" }));
        }
    });
    let Some(Ok(Message::Close(Some(close)))) = closed else { panic!("{closed:?}") };
    assert_eq!(close.code, CloseCode::Normal);
    assert!(refusal(&emulator, "no frame came within 30 s").is_some());
}

#[tokio::test]
async fn what_is_no_websocket_is_said_and_closed() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let text = Frame::message(vec![b'"', 0xff], OpCode::Data(Data::Text), true);
    socket.send(Message::Frame(text)).await;
    let Some(Ok(Message::Close(Some(close)))) = socket.message().await else {
        panic!("not closed")
    };
    assert_eq!(close.code, CloseCode::Normal);
    assert!(refusal(&emulator, "UTF-8").is_some(), "{:?}", emulator.log());
    // A mouthful: it may be closed before all of it is written.
    let mut socket = Socket::connect(&emulator).await;
    socket.begin(&vec![b' '; 8 * 1024 * 1024 + 1]).await;
    while let Some(Ok(_)) = socket.message().await {}
    assert!(refusal(&emulator, "Message too long").is_some(), "{:?}", emulator.log());
}

#[tokio::test]
async fn what_is_no_upgrade_is_answered_like_other_errors() {
    let emulator = Emulator::start(&[]);
    let other = "connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 8\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, status) in [("connection: close\r\n", "400"), (other, "426")] {
        let mut stream = TcpStream::connect(emulator.host()).await.unwrap();
        let head = format!("GET /event/realtime HTTP/1.1\r\nhost: h\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(r#"{"errors":[{"errorType":"BadRequestException""#), "{answer}");
        assert_eq!(answer.contains("sec-websocket-version: 13\r\n"), status == "426", "{answer}");
    }
}
