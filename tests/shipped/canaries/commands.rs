//! The commands that speak to an API by themselves, or are one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{Cage, LEVELS};
use crate::support::bridge::write_secret;
use crate::support::emulator::try_request;
use crate::support::stub::{Stub, reply};
use crate::support::{PATIENCE, free_port, signal, until};

/// The other end refuses, and says what it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_every_slot_comes_out_of_no_other_command() {
    let echo = Stub::start(Duration::ZERO, |asked| {
        let sent = asked.headers.iter().map(|(name, value)| format!("{name}: {value:?}"));
        let message = sent.chain([asked.body.clone()]).collect::<Vec<_>>().join("\n");
        reply(
            403,
            &json!({ "error": "invalid_client", "error_description": message,
                     "errors": [{ "errorType": "UnauthorizedException", "message": message }] }),
        )
    })
    .await;
    let mut cage = Cage::new(1);
    cage.text = cage.text.replace("http://127.0.0.1:1/", &echo.url("/"));
    cage.write(&cage.text);
    let (config, endpoint) = (cage.config(), echo.url("/event"));
    let file = cage.at("a-key");
    write_secret(Path::new(&file), &cage.canaries.hatch("key-file"));
    let argument = cage.canaries.hatch("argument");

    // A record of a message that came by a route of each API.
    let record = |route: &str, source: &str| {
        json!({ "at": "2026-01-02T03:04:05Z", "reason": "refused", "source": source, "topic": "a", "route": route,
                "headers": [], "coordinates": {}, "payload": "{}" })
    };
    let records = [record("all", "kafka"), record("mqtt", "mqtt"), record("sqs", "sqs")];
    fs::write(cage.at("todo.jsonl"), records.map(|line| format!("{line}\n")).concat()).unwrap();

    for api in ["key", "token", "oauth", "iam"] {
        for more in [&[][..], &["--json"]] {
            let publish =
                ["publish", "-c", &config, "--api", api, "--retry-for", "1s", "/a/b", "1"];
            assert_ne!(cage.seek(&[&publish[..], more].concat()).0, Some(0), "{api}");
            let subscribe =
                ["subscribe", "-c", &config, "--api", api, "--timeout", "1s", "-n", "1", "/a/b"];
            assert_ne!(cage.seek(&[&subscribe[..], more].concat()).0, Some(0), "{api}");
        }
    }
    let (token_url, region) = (echo.url("/t"), "eu-west-1");
    for auth in [
        &["--api-key", &argument][..],
        &["--token", &argument],
        &["--api-key-file", &file],
        &["--token-file", &file],
        &["--iam", "--region", region],
        &["--oauth2", &token_url, "--client-id", "c"],
        &["--oauth2", &token_url, "--client-id", "c", "--client-secret-file", &file],
        &[],
    ] {
        let publish = ["publish", "--endpoint", &endpoint, "--retry-for", "1s", "/a/b", "1"];
        assert_ne!(cage.seek(&[&publish[..], auth].concat()).0, Some(0), "{auth:?}");
        let subscribe =
            ["subscribe", "--endpoint", &endpoint, "--timeout", "1s", "-n", "1", "/a/b"];
        assert_ne!(cage.seek(&[&subscribe[..], auth].concat()).0, Some(0), "{auth:?}");
    }
    assert!(echo.count() > 10, "{} were asked", echo.count());

    // It goes on while it is refused: an interrupt ends it.
    let before = echo.count();
    let (mut replay, said) = cage.start(&["replay", "-c", &config, &cage.at("todo.jsonl")]);
    until("it has sent them", PATIENCE, async || (echo.count() > before + 1).then_some(())).await;
    let told = || fs::read_to_string(said.path()).unwrap();
    until("it tells of the refusal", PATIENCE, async || told().contains("403").then_some(())).await;
    for name in ["INT", "INT"] {
        signal(replay.id(), name);
    }
    replay.wait().unwrap();
    cage.canaries.sought(&told(), "replay");
    cage.seek(&["replay", "--dry-run", "--json", "-c", &config, &cage.at("todo.jsonl")]);
    // What was written of them.
    for entry in fs::read_dir(cage.directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end != "toml") {
            cage.canaries.sought(&fs::read_to_string(&path).unwrap(), &path.display().to_string());
        }
    }
}

/// They have keys of their own, which they print so that they can be used; and they are sent others'.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_comes_out_of_no_emulator_and_no_demo() {
    let mut cage = Cage::new(1);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let [key, token, secret, session, sent] =
        ["api-key", "jwt", "secret-access-key", "session", "sent"]
            .map(|name| cage.canaries.hatch(name));
    for level in LEVELS {
        let (mut emulate, said) = cage.start(&[
            "emulate",
            "--listen",
            &address,
            "--log-level",
            level,
            "--api-key",
            &key,
            "--token",
            &token,
            "--access-key-id",
            "AKIDLOCAL",
            "--secret-access-key",
            &secret,
            "--session-token",
            &session,
        ]);
        let url = format!("http://{address}/event");
        let ask = async |headers: &[(&str, &str)]| {
            let body = json!({ "channel": "/a/b", "events": ["1"] }).to_string();
            let headers = [headers, &[("content-type", "application/json")]].concat();
            try_request(http::Method::POST, &url, &headers, body).await.ok()
        };
        let good = until("it serves", PATIENCE, async || ask(&[("x-api-key", &key)]).await).await;
        assert_eq!(good.status, 200);
        for headers in [
            &[("authorization", token.as_str())][..],
            &[("x-api-key", &sent)],
            &[("authorization", &sent)],
            &[
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=AKIDLOCAL/20260101/eu-west-1/appsync/aws4_request, SignedHeaders=host, Signature=00",
                ),
                ("x-amz-security-token", &sent),
            ],
        ] {
            let answer = ask(headers).await.unwrap();
            cage.canaries.sought(&String::from_utf8_lossy(&answer.body), "the emulator's answer");
        }
        signal(emulate.id(), "TERM");
        emulate.wait().unwrap();
        let said = fs::read_to_string(said.path()).unwrap();
        assert!(said.contains(&key), "the key is to be seen: {said}");
        cage.canaries.sought_but(&[&key], &said, &format!("the emulator at {level}"));
    }
    let (mut demo, said) = cage.start(&["demo"]);
    let told = || fs::read_to_string(said.path()).unwrap();
    until("its page is there", PATIENCE, async || {
        told().contains("http://127.0.0.1:").then_some(())
    })
    .await;
    signal(demo.id(), "INT");
    demo.wait().unwrap();
    cage.canaries.sought(&told(), "the demo");
}
