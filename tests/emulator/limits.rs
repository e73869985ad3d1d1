//! The limits of the service, each met exactly.

use std::time::Instant;

use serde_json::json;

use crate::support::emulator::{Emulator, KEY};
use crate::support::socket::{Socket, publish_frame};

#[tokio::test]
async fn five_segments_of_fifty_characters_and_no_more() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let fifty = "a".repeat(50);
    let long = "a".repeat(51);
    for (n, (channel, good)) in [
        ("a/b/c/d/e", true),
        (fifty.as_str(), true),
        ("A-0/z", true),
        ("a/b/c/d/e/f", false),
        (long.as_str(), false),
        ("-a", false),
        ("a/b-", false),
        ("a/b_c", false),
        ("a//b", false),
        ("a/\u{fc}", false),
    ]
    .into_iter()
    .enumerate()
    {
        let status = if good { 200 } else { 400 };
        assert_eq!(emulator.publish(channel, &["1"]).await.status, status, "{channel}");
        let kind = if good { "subscribe_success" } else { "subscribe_error" };
        assert_eq!(socket.subscribe(&n.to_string(), channel).await["type"], kind, "{channel}");
        if good {
            socket.say(&json!({ "type": "unsubscribe", "id": n.to_string() })).await;
            assert_eq!(socket.hear().await["type"], "unsubscribe_success");
        }
    }
    for (n, (channel, good)) in
        [("/a/b/c/d/*", true), ("a/*", true), ("/*", false), ("a/**", false), ("a/*/b", false)]
            .into_iter()
            .enumerate()
    {
        let kind = if good { "subscribe_success" } else { "subscribe_error" };
        assert_eq!(socket.subscribe(&format!("w{n}"), channel).await["type"], kind, "{channel}");
    }
}

#[tokio::test]
async fn an_event_of_240_kb_and_a_body_of_1_2_mb() {
    let emulator = Emulator::start(&[]);
    let event = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    let answer = emulator.publish("demo/a", &[&event(240_000), &event(240_001)]).await.json();
    assert_eq!(answer["successful"][0]["index"], 0);
    assert_eq!(answer["failed"][0]["index"], 1);

    let body = |size: usize| {
        let mut body = r#"{"channel":"demo/a","events":["1"]}"#.to_owned();
        body.push_str(&" ".repeat(size - body.len()));
        body
    };
    let key = [("x-api-key", KEY)];
    assert_eq!(emulator.post(&key, body(1_200_000)).await.status, 200);
    let (status, kind, _) = emulator.post(&key, body(1_200_001)).await.error();
    assert_eq!((status, kind.as_str()), (413, "BadRequestException"));
    assert_eq!(emulator.post(&key, body(8_000_000)).await.status, 413);

    let mut socket = Socket::connect(&emulator).await;
    let refused = socket.publish("p", "demo/a", &[event(240_000).as_str(); 5]).await;
    assert_eq!(refused["type"], "publish_error");
    let answer = socket.publish("p", "demo/a", &[event(239_000).as_str(); 5]).await;
    assert_eq!(answer["type"], "publish_success");
}

#[tokio::test]
async fn twenty_five_publishes_a_second_on_one_socket() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let start = Instant::now();
    for n in 0..100 {
        socket.say(&publish_frame(&n.to_string(), "demo/a", &["1"])).await;
    }
    let mut accepted = 0;
    for _ in 0..100 {
        let answer = socket.hear().await;
        if answer["type"] == "publish_success" {
            accepted += 1;
        } else {
            assert_eq!(answer["errors"][0]["errorType"], "LimitExceededError");
        }
    }
    // A hundred frames take a moment in which the bucket refills.
    let most = 25.0 * (1.0 + start.elapsed().as_secs_f64()) + 1.0;
    assert!(accepted >= 25 && f64::from(accepted) <= most, "{accepted} accepted, at most {most}");
    let mut other = Socket::connect(&emulator).await;
    assert_eq!(other.publish("p", "demo/a", &["1"]).await["type"], "publish_success");
}

#[tokio::test]
async fn two_hundred_subscriptions_on_one_socket() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    for n in 0..200 {
        let answer = socket.subscribe(&n.to_string(), "/demo/a").await;
        assert_eq!(answer["type"], "subscribe_success", "{n}");
    }
    let refused = socket.subscribe("more", "/demo/a").await;
    assert_eq!(refused["errors"][0]["errorType"], "MaxSubscriptionsReachedError");
    socket.say(&json!({ "type": "unsubscribe", "id": "7" })).await;
    assert_eq!(socket.hear().await["type"], "unsubscribe_success");
    assert_eq!(socket.subscribe("more", "/demo/a").await["type"], "subscribe_success");
}

#[tokio::test]
async fn an_id_is_checked() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let longest = "a".repeat(128);
    for good in ["a-_+9", &longest] {
        assert_eq!(socket.subscribe(good, "/demo/a").await["type"], "subscribe_success");
    }
    for bad in ["", "a b", "\u{fc}", &format!("{longest}a")] {
        assert_eq!(socket.subscribe(bad, "/demo/a").await["type"], "subscribe_error", "{bad}");
    }
}
