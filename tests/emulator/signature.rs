//! Signatures made by others: `curl`, and the bridge's own signer on the ways that Amplify leaves out.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

use appsync_bridge::event_api::sign::{
    Signer, amz_date, hex, sha256_hex, signing_key, string_to_sign,
};
use serde_json::{Value, json};

use crate::support::emulator::{Answer, Emulator};
use crate::support::socket::Socket;

const BODY: &str = r#"{"channel":"/demo/a","events":["{\"n\":1}"]}"#;

fn emulator() -> Emulator {
    Emulator::start(&[
        "--access-key-id",
        "AKIDLOCAL",
        "--secret-access-key",
        "secret/+",
        "--region",
        "eu-west-1",
    ])
}

/// Publishes [`BODY`]; gives the body of the answer and the headers that were sent.
fn curl(emulator: &Emulator, region: &str, user: &str) -> (String, Vec<(String, String)>) {
    let output = Command::new("curl")
        .args(["--silent", "--verbose", "--max-time", "20"])
        .args(["--aws-sigv4", &format!("aws:amz:{region}:appsync"), "--user", user])
        .args(["-H", "content-type: application/json", "--data", BODY, &emulator.endpoint])
        .output()
        .expect("`curl` cannot be run");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    let sent = talk
        .lines()
        .filter_map(|line| line.strip_prefix("> ")?.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_end().to_owned()))
        .filter(|(name, _)| name != "content-length")
        .collect();
    (String::from_utf8(output.stdout).unwrap(), sent)
}

/// The words of AWS, as a real log of the WebSocket shows them, and the canonical request.
fn assert_mismatch(message: &str) {
    let words = "The request signature we calculated does not match the signature you provided. Check \
                 your AWS Secret Access Key and signing method. ";
    assert!(message.starts_with(words), "{message}");
    let canonical = "The Canonical String for this request should have been\n'POST\n/event\n\n";
    assert!(message.contains(canonical), "{message}");
    assert!(
        message.contains("The String-to-Sign should have been\n'AWS4-HMAC-SHA256\n"),
        "{message}"
    );
}

async fn replay(emulator: &Emulator, headers: &[(String, String)], body: &str) -> Answer {
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    emulator.post(&headers, body.to_owned()).await
}

#[tokio::test]
async fn curl_publishes_and_its_signature_covers_what_it_sent() {
    let emulator = emulator();
    let (answer, sent) = curl(&emulator, "eu-west-1", "AKIDLOCAL:secret/+");
    assert!(answer.contains(r#""successful":[{"#), "{answer}");

    // The captured headers are good for the same body, or the refusals below would prove nothing.
    assert_eq!(replay(&emulator, &sent, BODY).await.status, 200);
    let changed = replay(&emulator, &sent, &BODY.replace('1', "2")).await;
    let mismatched = |answer: &Answer| {
        let (status, kind, message) = answer.error();
        assert_eq!((status, kind.as_str()), (403, "InvalidSignatureException"));
        assert_mismatch(&message.unwrap());
    };
    mismatched(&changed);

    let mut later = sent.clone();
    let date = later.iter_mut().find(|(n, _)| n == "x-amz-date").unwrap();
    date.1 = appsync_bridge::event_api::sign::amz_date(SystemTime::now() + Duration::from_secs(2));
    mismatched(&replay(&emulator, &later, BODY).await);

    let (answer, _) = curl(&emulator, "eu-west-1", "AKIDLOCAL:another");
    assert!(answer.contains("InvalidSignatureException"), "{answer}");
    let (answer, _) = curl(&emulator, "eu-west-2", "AKIDLOCAL:secret/+");
    let scope = "Credential should be scoped to a valid region, not 'eu-west-2'";
    assert!(answer.contains(scope), "{answer}");
    let (answer, _) = curl(&emulator, "eu-west-1", "AKIDOTHER:secret/+");
    assert!(answer.contains("UnrecognizedClientException"), "{answer}");
}

#[tokio::test]
async fn a_date_more_than_five_minutes_off_is_refused() {
    let emulator = emulator();
    let signer = Signer::new("eu-west-1", emulator.host(), "AKIDLOCAL", "secret/+", None);
    let now = SystemTime::now();
    let minutes = |n: u64| Duration::from_mins(n);
    for (at, good) in [
        (now, true),
        (now - minutes(4), true),
        (now + minutes(4), true),
        (now - minutes(6), false),
        (now + minutes(6), false),
    ] {
        let signed = signer.sign(BODY.as_bytes(), at);
        let headers = [
            ("content-type", "application/json"),
            ("x-amz-date", signed.date.as_str()),
            ("authorization", signed.authorization.as_str()),
        ];
        let answer = emulator.post(&headers, BODY).await;
        if good {
            assert_eq!(answer.status, 200, "{answer:?}");
        } else {
            let (status, kind, message) = answer.error();
            assert_eq!((status, kind.as_str()), (403, "InvalidSignatureException"));
            let words =
                if at < now { "Signature expired: " } else { "Signature not yet current: " };
            assert!(message.unwrap().starts_with(words));
        }
    }
}

#[tokio::test]
async fn a_host_signed_without_its_port_is_accepted_and_another_is_not() {
    let emulator = emulator();
    for (host, status) in [("127.0.0.1", 200), ("localhost", 403)] {
        let signer = Signer::new("eu-west-1", host, "AKIDLOCAL", "secret/+", None);
        let signed = signer.sign(BODY.as_bytes(), SystemTime::now());
        let headers = [
            ("content-type", "application/json"),
            ("x-amz-date", signed.date.as_str()),
            ("authorization", signed.authorization.as_str()),
        ];
        assert_eq!(emulator.post(&headers, BODY).await.status, status, "{host}");
    }
}

/// As the client of a public suite that runs against AWS does: neither the date nor the token is signed.
fn by_hand(names: &str, payload: &str, host: &str, token: Option<&str>) -> Value {
    let date = amz_date(SystemTime::now());
    let fixed = |name: &str| match name {
        "accept" => "application/json, text/javascript".to_owned(),
        "content-encoding" => "amz-1.0".to_owned(),
        "content-type" => "application/json; charset=UTF-8".to_owned(),
        _ => host.to_owned(),
    };
    let mut canonical = "POST\n/event\n\n".to_owned();
    for name in names.split(';') {
        let _ = writeln!(canonical, "{name}:{}", fixed(name));
    }
    let _ = write!(canonical, "\n{names}\n{}", sha256_hex(payload.as_bytes()));
    let scope = format!("{}/eu-west-1/appsync/aws4_request", &date[..8]);
    let key = signing_key("secret/+", &date[..8], "eu-west-1", "appsync");
    let to_sign = string_to_sign(&date, &scope, &canonical);
    let signature = hex(aws_lc_rs::hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let mut object = json!({
        "x-amz-date": date,
        "Authorization": format!(
            "AWS4-HMAC-SHA256 Credential=AKIDLOCAL/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
    });
    for name in names.split(';') {
        object[name] = json!(fixed(name));
    }
    if let Some(token) = token {
        object["X-Amz-Security-Token"] = json!(token);
    }
    object
}

#[tokio::test]
async fn a_client_that_signs_no_date_is_accepted_over_both_ways() {
    let names = "accept;content-encoding;content-type;host";
    for token in [None, Some("a-session-token")] {
        let user = ["--access-key-id", "AKIDLOCAL", "--secret-access-key", "secret/+"];
        let session = token.map_or(vec![], |token| vec!["--session-token", token]);
        let emulator = Emulator::start(&[&user[..], &session].concat());
        let host = emulator.host();

        let object = by_hand(names, BODY, host, token);
        let headers: Vec<_> = object.as_object().unwrap().iter().collect();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap())).collect();
        let answer = emulator.post(&headers, BODY).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let other = emulator.post(&headers, BODY.replace('1', "2")).await;
        assert_mismatch(&other.error().2.unwrap());

        let mut socket = Socket::open(&emulator, &by_hand(names, "{}", host, token)).await;
        socket.init().await;
        let object = by_hand(names, r#"{"channel":"/demo/*"}"#, host, token);
        assert_eq!(socket.subscribe_as("s", "/demo/*", &object).await["type"], "subscribe_success");
        assert_eq!(socket.subscribe_as("t", "/demo/a", &object).await["type"], "subscribe_error");
    }
}

#[tokio::test]
async fn a_host_shown_without_its_port_and_signed_with_it_is_accepted() {
    let emulator = emulator();
    let host = emulator.host();
    let bare = host.split(':').next().unwrap();
    for (signed, good) in [(host, true), (bare, true), ("127.0.0.2:1", false)] {
        let mut object = by_hand("host", "{}", signed, None);
        object["host"] = json!(bare);
        let mut socket = Socket::open(&emulator, &object).await;
        socket.say(&json!({ "type": "connection_init" })).await;
        let kind = if good { "connection_ack" } else { "connection_error" };
        assert_eq!(socket.hear().await["type"], kind, "{signed}");
    }
}

#[tokio::test]
async fn a_native_client_signs_the_upgrade_itself_and_each_frame_after() {
    let emulator = emulator();
    let signer = Signer::new("eu-west-1", emulator.host(), "AKIDLOCAL", "secret/+", None);
    let upgrade = signer.sign(b"{}", SystemTime::now());
    let headers = [
        ("sec-websocket-protocol", "aws-appsync-event-ws"),
        ("content-type", "application/json"),
        ("x-amz-date", upgrade.date.as_str()),
        ("authorization", upgrade.authorization.as_str()),
    ];
    let mut socket = Socket::upgrade(&emulator.realtime, &headers).await.unwrap();
    socket.init().await;

    let object = |payload: &str| {
        let signed = signer.sign(payload.as_bytes(), SystemTime::now());
        json!({
            "host": emulator.host(), "content-type": "application/json",
            "x-amz-date": signed.date, "Authorization": signed.authorization,
        })
    };
    let good = object(r#"{"channel":"/demo/*"}"#);
    let success = json!({ "type": "subscribe_success", "id": "good" });
    assert_eq!(socket.subscribe_as("good", "/demo/*", &good).await, success);
    let mismatched = |refused: &Value| {
        assert_eq!(refused["errors"][0]["errorType"], "BadRequestException");
        assert_mismatch(refused["errors"][0]["message"].as_str().unwrap());
    };
    let refused = socket.subscribe_as("other", "/demo/a", &good).await;
    assert_eq!(refused["type"], "subscribe_error");
    mismatched(&refused);

    let authorization = object(BODY);
    let publish = |events: serde_json::Value| {
        json!({
            "type": "publish", "id": "p", "channel": "/demo/a", "events": events,
            "authorization": authorization,
        })
    };
    socket.say(&publish(json!([r#"{"n":2}"#]))).await;
    let refused = socket.hear().await;
    assert_eq!(refused["type"], "publish_error");
    mismatched(&refused);
    socket.say(&publish(json!([r#"{"n":1}"#]))).await;
    let data = json!({ "type": "data", "id": "good", "event": r#"{"n":1}"# });
    assert_eq!(socket.hear().await, data);
    assert_eq!(socket.hear().await["type"], "publish_success");
}

#[tokio::test]
async fn a_bad_signature_on_connect_is_a_bad_request() {
    let emulator = emulator();
    let signer = Signer::new("eu-west-1", emulator.host(), "AKIDLOCAL", "another", None);
    let signed = signer.sign(b"{}", SystemTime::now());
    let object = json!({
        "host": emulator.host(), "content-type": "application/json",
        "x-amz-date": signed.date, "authorization": signed.authorization,
    });
    let mut socket = Socket::open(&emulator, &object).await;
    socket.say(&json!({ "type": "connection_init" })).await;
    let error = socket.hear().await;
    assert_eq!(error["type"], "connection_error");
    assert_eq!(error["errors"][0]["errorType"], "BadRequestException");
    assert_eq!(error["errors"][0]["errorCode"], 400);
    assert_mismatch(error["errors"][0]["message"].as_str().unwrap());
}

#[tokio::test]
async fn signatures_can_be_skipped_on_request() {
    let emulator = Emulator::start(&["--dangerously-skip-signatures"]);
    let (answer, _) = curl(&emulator, "eu-west-9", "ANYONE:anything");
    assert!(answer.contains(r#""successful":[{"#), "{answer}");
}
