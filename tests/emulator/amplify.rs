//! The real Amplify client, over TLS and over plain text, with a key and with signatures.

use serde_json::{Value, json};

use crate::support::amplify::Amplify;
use crate::support::emulator::{Emulator, KEY};

const USER: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "ASIALOCAL"),
    ("AWS_SECRET_ACCESS_KEY", "secret/+"),
    ("AWS_SESSION_TOKEN", "session/+=="),
    ("AWS_REGION", "eu-west-1"),
];

/// Subscribes, publishes over both ways, and expects both to arrive as they were written.
async fn round_trip(endpoint: &str, key: &str, env: &[(&str, &str)]) {
    let (first, second) = (r#"{"n":1,"text":"ü <b>\n\u0001"}"#, r#"["two"]"#);
    let mut subscriber = Amplify::subscribe(endpoint, key, "/demo/*", 3, env).await;
    let posted = Amplify::run(&["post", endpoint, key, "demo/a", first, second], env).await;
    assert_eq!(posted, json!({ "done": null }));
    let published = Amplify::run(&["publish", endpoint, key, "/demo/a/b", first], env).await;
    assert_eq!(published, json!({ "done": null }));
    for expected in [first, second, first] {
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(subscriber.event().await, expected);
    }
    assert_eq!(subscriber.line().await, json!({ "done": 3 }));
}

/// `post` reads no `errors` of a refused request; what the service said is in the raw body.
fn assert_post_refused(result: &Value, status: u16, body: &Value) {
    assert_eq!(result["error"]["name"], "UnknownError", "{result}");
    assert_eq!(result["error"]["message"], "Unknown error");
    assert_eq!(result["error"]["status"], status);
    let said: Value = serde_json::from_str(result["error"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(&said, body);
}

#[tokio::test]
async fn amplify_runs_over_tls_with_the_generated_authority() {
    let directory = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(&["--tls", directory.path().to_str().unwrap()]);
    assert!(emulator.endpoint.starts_with("https://127.0.0.1:"));
    let trust = [("NODE_EXTRA_CA_CERTS", emulator.ca_file.as_deref().unwrap())];
    round_trip(&emulator.endpoint, KEY, &trust).await;
    // Without the trust there is no way in, or the authority would prove nothing.
    let stranger = Amplify::run(&["post", &emulator.endpoint, KEY, "/demo/a", "1"], &[]).await;
    assert!(stranger.get("error").is_some(), "{stranger}");
}

#[tokio::test]
async fn amplify_runs_over_plain_text_with_the_upper_case_scheme() {
    let emulator = Emulator::start(&[]);
    round_trip(&emulator.amplify_endpoint(), KEY, &[]).await;
}

#[tokio::test]
async fn amplify_signs_and_is_verified() {
    let emulator = Emulator::start(&[
        "--access-key-id",
        "ASIALOCAL",
        "--secret-access-key",
        "secret/+",
        "--session-token",
        "session/+==",
        "--region",
        "eu-west-1",
    ]);
    let endpoint = emulator.amplify_endpoint();
    round_trip(&endpoint, "iam", USER).await;

    let mut forger = USER.to_vec();
    forger[1].1 = "another secret";
    let posted = Amplify::run(&["post", &endpoint, "iam", "/demo/a", "1"], &forger).await;
    assert_eq!(posted["error"]["status"], 403, "{posted}");
    let said: Value = serde_json::from_str(posted["error"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(said["errors"][0]["errorType"], "InvalidSignatureException");
    let message = said["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("should have been\n'POST\n/event\n\ncontent-type:"), "{message}");
    for mode in ["publish", "subscribe"] {
        let result = Amplify::run(&[mode, &endpoint, "iam", "/demo/a", "1"], &forger).await;
        let expected = json!({ "error": { "name": "Error", "message": "BadRequestException" } });
        assert_eq!(result, expected, "{mode}");
    }
}

#[tokio::test]
async fn amplify_is_refused_with_the_words_of_the_service() {
    let emulator = Emulator::start(&["--namespace", "demo"]);
    let endpoint = &emulator.amplify_endpoint();
    let run =
        async |mode, key, channel| Amplify::run(&[mode, endpoint, key, channel, "1"], &[]).await;

    // A wrong key: over HTTP the whole request, over WebSocket the connection.
    let message = "You are not authorized to make this call.";
    let body = json!({ "errors": [{ "errorType": "UnauthorizedException", "message": message }] });
    assert_post_refused(&run("post", "da2-wrong", "/demo/a").await, 401, &body);
    for mode in ["publish", "subscribe"] {
        let expected = json!({ "error": { "name": "Error", "message": "UnauthorizedException" } });
        assert_eq!(run(mode, "da2-wrong", "/demo/a").await, expected, "{mode}");
    }

    // A namespace that does not exist: unauthorized too, without a message.
    let body = json!({ "errors": [{ "errorType": "UnauthorizedException" }] });
    assert_post_refused(&run("post", KEY, "/other/a").await, 401, &body);
    let published = run("publish", KEY, "/other/a").await;
    assert_eq!(published["error"]["message"], "Publish errors: UnauthorizedException");
    let subscribed = run("subscribe", KEY, "/other/*").await;
    assert_eq!(
        subscribed["error"]["errors"][0]["message"],
        "Connection failed: UnauthorizedException: undefined"
    );
}
