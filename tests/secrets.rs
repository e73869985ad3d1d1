//! Secrets that others repeat: an API that quotes what it was sent, in whatever form, and programs that
//! give credentials. None is in anything that the bridge says.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup, write_secret};
use crate::support::emulator::{Emulator, KEY};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{produce, publish};
use crate::support::stub::{Asked, Stub, reply};
use crate::support::{free_port, until};

const TRACE: &str = "level = \"trace\"\n";

/// Everything that the bridge says and serves.
async fn said(bridge: &Bridge, setup: &Setup) -> String {
    let mut pages = Vec::new();
    for page in ["/readyz", "/metrics", "/status"] {
        pages.push(bridge.get(page).await.1);
    }
    let letters = setup.rejects().into_iter().map(|letter| letter.to_string());
    pages.into_iter().chain(letters).chain([bridge.log()]).collect()
}

/// The ways in which an API may write `secret` into its answer.
fn echoes(secret: &str) -> Vec<String> {
    let percent = secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let html = secret.chars().map(|c| format!("&#{};", c as u32)).collect::<Vec<_>>().concat();
    vec![
        format!("token {secret} expired"),
        format!("body: {}", json!({ "token": secret })),
        format!("url: ?t={percent}"),
        format!("page: {html}"),
        format!("header: {}", STANDARD.encode(secret)),
        format!("{}{secret}", "long ".repeat(56)),
    ]
}

/// Has an API refuse everything with a text about what it was sent, in each form in turn. `refused` gets
/// the number of the refusal and the request, and gives the secret of it.
async fn refusing(secret: impl Fn(usize, &Asked) -> String + Send + Sync + 'static) -> Stub {
    let count = Mutex::new(0);
    Stub::start(Duration::ZERO, move |asked| {
        let mut count = count.lock().unwrap();
        let secret = secret(*count, asked);
        let echoes = echoes(&secret);
        let message = &echoes[*count % echoes.len()];
        *count += 1;
        reply(
            403,
            &json!({ "errors": [{ "errorType": "ExpiredTokenException", "message": message }] }),
        )
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_the_api_repeats_is_shown_nowhere() {
    const SECRET: &str = "S3cr3t/with+odd=\"chars\"~of.nobody";
    const SESSION: &str = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQDx0r+fX";
    let header = |name: &'static str| move |_: usize, asked: &Asked| asked.header(name).to_owned();
    let secret = tempfile::NamedTempFile::new().unwrap();
    write_secret(secret.path(), SECRET);
    let file = format!("{{ file = \"{}\" }}", secret.path().display());
    for (auth, secret, stub) in [
        (
            format!("auth = {{ type = \"api-key\", key = {file} }}"),
            SECRET,
            refusing(header("x-api-key")).await,
        ),
        (
            format!("auth = {{ type = \"token\", token = {file} }}"),
            SECRET,
            refusing(header("authorization")).await,
        ),
        (
            "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }".to_owned(),
            SESSION,
            refusing(header("x-amz-security-token")).await,
        ),
    ] {
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&stub.url("/event"), mosquitto.port, &auth, "", TRACE)
            .env("AWS_ACCESS_KEY_ID", "AKIDECHO")
            .env("AWS_SECRET_ACCESS_KEY", "the-secret-key-of-the-echo")
            .env("AWS_SESSION_TOKEN", SESSION);
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 1, 100, 1).await;
        let rounds = echoes("").len() * 2;
        until("every form of it", PATIENCE, async || (stub.count() >= rounds).then_some(())).await;
        let said = said(&bridge, &setup).await;
        assert!(said.contains("ExpiredTokenException") && said.contains("token …"), "{said}");
        let status = bridge.get("/status").await.1;
        assert!(status.contains("ExpiredTokenException") && status.contains('…'), "{status}");
        let escaped = json!(secret).to_string();
        for form in
            echoes(secret).iter().map(String::as_str).chain([secret, escaped.trim_matches('"')])
        {
            let (_, form) = form.split_once(": ").unwrap_or(("", form));
            let line = said.lines().find(|line| line.contains(form));
            assert!(line.is_none(), "{line:?}");
        }
        // Half of it is too much, too.
        assert!(!said.contains(&secret[..16]) && !said.contains(&secret[secret.len() - 16..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_replaced_is_still_a_secret() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    write_secret(secret.path(), "da2-the-first-of-two");
    let first = Arc::new(Mutex::new(String::new()));
    let stub = refusing(move |_, asked| {
        let mut first = first.lock().unwrap();
        if first.is_empty() {
            asked.header("x-api-key").clone_into(&mut first);
        }
        format!("{first} {}", asked.header("x-api-key"))
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let auth = format!(
        "auth = {{ type = \"api-key\", key = {{ file = \"{}\" }} }}",
        secret.path().display()
    );
    let setup = Setup::new(&stub.url("/event"), mosquitto.port, &auth, "", TRACE);
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1, 100, 1).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    write_secret(secret.path(), "da2-the-second-of-two");
    until("the new one is used", PATIENCE, async || {
        bridge.log().contains("the new one is used").then_some(())
    })
    .await;
    let count = stub.count();
    until("both are said", PATIENCE, async || (stub.count() > count + 6).then_some(())).await;
    let said = said(&bridge, &setup).await;
    assert!(said.contains("token … … expired"), "{said}");
    assert!(!said.contains("first-of-two") && !said.contains("second-of-two"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_says_that_was_to_give_credentials_is_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let profile = directory.path().join("config");
    let program = "sh -c 'echo the token is hunter2-of-a-program >&2; exit 3'";
    write_secret(&profile, &format!("[default]\ncredential_process = {program}\n"));
    let stub = refusing(|_, _| String::new()).await;
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }";
    let setup = Setup::new(&stub.url("/event"), mosquitto.port, auth, "", "")
        .env("AWS_CONFIG_FILE", profile.to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1, 100, 1).await;
    let why = until("the reason", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("exit status: 3")).then_some(text)
    })
    .await;
    let said = said(&bridge, &setup).await;
    assert!(!said.contains("hunter2"), "{said}");
    assert!(why.contains("run it to see"), "{why}");
}

/// Who opens a FIFO waits for somebody to write to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_in_the_place_of_a_secret_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let at = |name: &str| directory.path().join(name);
    let (passwords, password, key) = (at("passwords"), at("password"), at("key"));
    let added = Command::new("mosquitto_passwd")
        .args(["-b", "-c", passwords.to_str().unwrap(), "relay", "s3cret-word"])
        .status();
    assert!(added.expect("`mosquitto_passwd` cannot be run").success());
    write_secret(&password, "s3cret-word\n");
    write_secret(&key, KEY);
    let port = free_port();
    let mut mosquitto = Mosquitto::start(&format!(
        "per_listener_settings true\nallow_anonymous true\nlistener {port} 127.0.0.1\n\
         allow_anonymous false\npassword_file {}\n",
        passwords.display()
    ))
    .await;
    let auth = format!("auth = {{ type = \"api-key\", key = {{ file = \"{}\" }} }}", key.display());
    let source = format!(
        "url = \"mqtt://127.0.0.1:{port}\"\nusername = \"relay\"\npassword = {{ file = \"{}\" }}",
        password.display()
    );
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, &auth, &source, "");
    let mut bridge = setup.start_ready().await;
    let send = async |port: u16, ids: Range<u64>| {
        let last = usize::try_from(ids.end).unwrap();
        let message = |id| ("plant/a/data".to_owned(), json!({ "id": id }).to_string().into());
        publish(port, 1_000, ids.map(message)).await;
        ledger.has_ids(last, PATIENCE).await;
    };
    let kept = |path: &Path| bridge.lines(&["WARN", "is a FIFO", &path.display().to_string()]);
    send(mosquitto.port, 0..5).await;

    turn_into_fifo(&key);
    turn_into_fifo(&password);
    let mut next = 5;
    until("the key's file was looked at, and what is published goes on", PATIENCE, async || {
        send(mosquitto.port, next..next + 1).await;
        next += 1;
        (!kept(&key).is_empty()).then_some(())
    })
    .await;
    // The broker's is looked at for the next connection.
    mosquitto.kill();
    bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
    mosquitto.restart().await;
    bridge.ready().await;
    assert_eq!((kept(&key).len(), kept(&password).len()), (1, 1), "{}", bridge.log());
    send(mosquitto.port, next..next + 20).await;
    assert_eq!(bridge.get("/livez").await.0, 200);
    bridge.nothing_in_flight().await;
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(0), "{}", bridge.log());
}

/// As a rotation does: it takes the name of what was there.
fn turn_into_fifo(path: &Path) {
    let beside = path.with_extension("fifo");
    assert!(Command::new("mkfifo").arg(&beside).status().unwrap().success());
    std::fs::rename(beside, path).unwrap();
}
