//! The ways to show who one is: those that a namespace takes, and tokens that nobody verifies.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::support::emulator::{Emulator, KEY};
use crate::support::socket::Socket;

const NOT_AUTHORIZED: &str = "You are not authorized to make this call.";

fn body(channel: &str) -> String {
    json!({ "channel": channel, "events": ["1"] }).to_string()
}

#[tokio::test]
async fn a_namespace_takes_its_own_modes_only() {
    let emulator = Emulator::start(&[
        "--namespace",
        "orders=publish:token,subscribe:api-key",
        "alarms=token",
        "open",
        "--token",
        "a-token",
    ]);
    let [key, token] = [[("x-api-key", KEY)], [("authorization", "a-token")]];
    for (channel, credential, status) in [
        ("/orders/a", key, 401),
        ("/orders/a", token, 200),
        ("/alarms/a", key, 401),
        ("/alarms/a", token, 200),
        ("/open/a", key, 200),
        ("/open/a", token, 200),
    ] {
        let answer = emulator.post(&credential, body(channel)).await;
        assert_eq!(answer.status, status, "{channel}: {answer:?}");
        if status == 401 {
            let (_, kind, message) = answer.error();
            assert_eq!(
                (kind.as_str(), message.as_deref()),
                ("UnauthorizedException", Some(NOT_AUTHORIZED))
            );
        }
    }
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.subscribe("s", "/orders/*").await["type"], "subscribe_success");
    let refused = socket.subscribe("t", "/alarms/*").await;
    assert_eq!(refused["type"], "subscribe_error");
    assert_eq!(refused["errors"][0]["message"], NOT_AUTHORIZED, "{refused}");
    assert_eq!(socket.publish("p", "/orders/a", &["1"]).await["type"], "publish_error");
    let log = emulator.log();
    let why = "the namespace takes no api-key here (publish: token; subscribe: token)";
    assert!(log.iter().any(|line| line["why"] == why), "{log:?}");
}

#[tokio::test]
async fn any_jwt_is_said_loudly_and_only_a_jwt_is_taken() {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let jwt =
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(r#"{"sub":"me","exp":1}"#), part("x"));
    let headers = [("authorization", jwt.as_str())];
    let strict = Emulator::start(&[]);
    assert_eq!(strict.post(&headers, body("/demo/a")).await.status, 401);
    let lax = Emulator::start(&["--any-jwt"]);
    assert_eq!(lax.post(&headers, body("/demo/a")).await.status, 200);
    assert_eq!(lax.post(&[("authorization", "no.jwt.here")], body("/demo/a")).await.status, 401);
    let loud = |emulator: &Emulator| {
        let line = |line: &serde_json::Value| {
            line["level"] == "WARN"
                && line["message"].as_str().unwrap().contains("NOTHING in it is verified")
        };
        emulator.log().iter().any(line)
    };
    assert!(loud(&lax) && !loud(&strict));
    assert!(!format!("{:?}", lax.log()).contains(&jwt));
}
