//! Credentials that rotate, expire, are refused, or can't be had: what is published waits, and nothing
//! is lost or comes twice.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup, write_secret};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::stub::{Accepted, Stub, reply};
use crate::support::until;

/// Everything is logged: a secret that could be shown would be.
const TRACE: &str = "level = \"trace\"\n";

/// What the log says when an API or a namespace is paused.
const PAUSED: &str = "the API refuses requests";

/// Publishes the messages with these ids, over five keys.
async fn produce(port: u16, rate: u64, range: std::ops::Range<u64>) {
    let message = |id: u64| {
        let (key, seq) = (id % 5, id / 5);
        let payload = json!({ "id": id, "key": key, "seq": seq }).to_string();
        (format!("plant/dev-{key}/data"), payload.into_bytes())
    };
    publish(port, rate, range.map(message).collect::<Vec<_>>()).await;
}

async fn settled(bridge: &Bridge, setup: &Setup, count: f64) {
    bridge.nothing_in_flight().await;
    let accepted = "publish_events_total{api=\"main\",outcome=\"accepted\"}";
    assert_eq!(bridge.metric(accepted).await, count);
    assert!(setup.rejects().is_empty(), "dead letters");
}

fn assert_hidden(bridge: &Bridge, secrets: &[&str]) {
    let log = bridge.log();
    assert!(log.contains("TRACE"), "not everything was logged");
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tokens_rotate_by_replacing_their_file() {
    for (kind, key, flag, hint) in [
        ("api-key", "key", "--api-key", "API keys expire"),
        ("token", "token", "--token", "tokens expire"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger { path: directory.path().join("ledger.jsonl") };
        let path = ledger.path.to_str().unwrap();
        let secret = directory.path().join("secret");
        write_secret(&secret, "da2-first-0123456789\n");
        let first = Emulator::start(&[flag, "da2-first-0123456789", "--ledger", path]);
        let address = first.host().to_owned();
        let mosquitto = Mosquitto::start("").await;
        let auth = format!(
            "auth = {{ type = \"{kind}\", {key} = {{ file = \"{}\" }} }}",
            secret.display()
        );
        let setup = Setup::new(&first.endpoint, mosquitto.port, &auth, "", TRACE);
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 2_000, 0..200).await;
        ledger.has_ids(200, PATIENCE).await;
        settled(&bridge, &setup, 200.0).await;

        drop(first);
        let _second =
            Emulator::start_at(&address, &[flag, "da2-second-987654321", "--ledger", path]);
        produce(mosquitto.port, 2_000, 200..300).await;
        bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
        let log = bridge.log();
        assert!(log.contains(PAUSED) && log.contains(hint), "no word that they expire: {log}");
        // What can't be used changes nothing; the next one is taken although it was paused before.
        write_secret(&secret, "");
        let warned = || bridge.log().matches("the secret's file can't be used").count();
        until("an empty file is said", PATIENCE, async || (warned() > 0).then_some(())).await;
        let probes = "publish_requests_total{api=\"main\",result=\"refused\"}";
        let before = bridge.metric(probes).await;
        bridge.metric_is(probes, |v| v > before).await;
        let next = directory.path().join("next");
        write_secret(&next, "da2-second-987654321\n");
        std::fs::rename(&next, &secret).unwrap();
        ledger.has_ids(300, PATIENCE).await;
        bridge.ready().await;
        settled(&bridge, &setup, 300.0).await;
        let accepted = ledger.read();
        assert_eq!((accepted.len(), ids(&accepted).len()), (300, 300), "nothing comes twice");
        assert_order(&accepted, 0);
        assert_eq!(warned(), 1, "an empty file is said once");
        assert_hidden(&bridge, &["da2-first", "da2-second"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_profile_are_read_again_when_they_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger { path: directory.path().join("ledger.jsonl") };
    let path = ledger.path.to_str().unwrap();
    let profile = directory.path().join("credentials");
    let keys = |id: &str, secret: &str| {
        let text =
            format!("[bridge]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        write_secret(&profile, &text);
    };
    keys("AKIDONE", "first-secret");
    let user = |id: &'static str, secret: &'static str| {
        ["--access-key-id", id, "--secret-access-key", secret, "--ledger", path]
    };
    let first = Emulator::start(&user("AKIDONE", "first-secret"));
    let address = first.host().to_owned();
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\", aws = { region = \"eu-west-1\", profile = \"bridge\" } }";
    let setup = Setup::new(&first.endpoint, mosquitto.port, auth, "", TRACE)
        .env("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap())
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 2_000, 0..50).await;
    ledger.has_ids(50, PATIENCE).await;
    drop(first);
    keys("AKIDTWO", "second-secret");
    let _second = Emulator::start_at(&address, &user("AKIDTWO", "second-secret"));
    produce(mosquitto.port, 2_000, 50..100).await;
    ledger.has_ids(100, PATIENCE).await;
    settled(&bridge, &setup, 100.0).await;
    assert_eq!(ledger.read().len(), 100, "nothing comes twice");
    assert!(!bridge.log().contains(PAUSED), "it paused");
    assert_hidden(&bridge, &["first-secret", "second-secret"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_of_the_broker_is_taken_at_the_next_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let passwords = directory.path().join("passwords");
    let set = |password: &str| {
        let path = passwords.to_str().unwrap();
        let status = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c", path, "relay", password])
            .status();
        assert!(status.expect("`mosquitto_passwd` cannot be run").success());
    };
    set("first-pass-word");
    let secret = directory.path().join("password");
    write_secret(&secret, "first-pass-word");
    let lines = format!("allow_anonymous true\npassword_file {}\n", passwords.display());
    let mut mosquitto = Mosquitto::start(&lines).await;
    let source = format!("username = \"relay\"\npassword = {{ file = \"{}\" }}", secret.display());
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", &source, TRACE);
    let bridge = setup.start_ready().await;
    mosquitto.kill();
    set("second-pass-word");
    mosquitto.restart().await;
    until("the old password is refused", PATIENCE, async || {
        bridge.get("/readyz").await.1.to_lowercase().contains("authorized").then_some(())
    })
    .await;
    write_secret(&secret, "second-pass-word");
    bridge.ready().await;
    produce(mosquitto.port, 2_000, 0..20).await;
    ledger.has_ids(20, PATIENCE).await;
    assert_hidden(&bridge, &["first-pass", "second-pass"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn oauth2_tokens_are_renewed_ahead_and_after_a_refusal() {
    const LIFE: Duration = Duration::from_secs(2);
    /// From the choice of a token to the judgement of the request, and from its issue to its arrival.
    const TRANSIT: Duration = Duration::from_secs(1);
    let issued: Arc<Mutex<Vec<Instant>>> = Arc::default();
    // The next request has its token revoked; and the last token that was.
    let (revoking, revoked) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let grants = Arc::clone(&issued);
    let issuer = Stub::start(Duration::from_millis(50), move |asked| {
        let basic = asked.header("authorization").strip_prefix("Basic ").unwrap();
        let shown = base64::engine::general_purpose::STANDARD.decode(basic).unwrap();
        assert_eq!(shown, b"bridge:client-secret-%2B42");
        assert_eq!(asked.body, "grant_type=client_credentials&scope=events%2Fpublish");
        let mut grants = grants.lock().unwrap();
        grants.push(Instant::now());
        let token = format!("bearer-number-{}", grants.len());
        reply(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 2 }))
    })
    .await;
    let accepted = Arc::new(Accepted::default());
    let (judge, grants, revoke) =
        (Arc::clone(&accepted), Arc::clone(&issued), Arc::clone(&revoking));
    let api = Stub::start(Duration::from_millis(1), move |asked| {
        let number = asked.header("authorization").strip_prefix("bearer-number-");
        let number: usize = number.unwrap().parse().unwrap();
        if revoke.swap(false, Ordering::SeqCst) {
            revoked.store(number, Ordering::SeqCst);
        }
        let alive = grants.lock().unwrap()[number - 1].elapsed() < LIFE + TRANSIT;
        let good = alive && number > revoked.load(Ordering::SeqCst);
        judge.answer(asked, (!good).then_some("UnauthorizedException"))
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    write_secret(secret.path(), "client-secret-+42");
    let auth = format!(
        "auth = {{ type = \"oauth2\", token_url = \"{}\", client_id = \"bridge\", \
         client_secret = {{ file = \"{}\" }}, scope = \"events/publish\" }}",
        issuer.url("/token"),
        secret.path().display()
    );
    let setup = Setup::new(&api.url("/event"), mosquitto.port, &auth, "", TRACE);
    let bridge = setup.start_ready().await;
    // 7 s: with 2 s of life a renewal begins every 1.3 to 1.7 s, or when one asks after that.
    let begun = Instant::now();
    produce(mosquitto.port, 100, 0..700).await;
    until("700 events", PATIENCE, async || (accepted.len() >= 700).then_some(())).await;
    assert_eq!(accepted.refused(), 0, "no token was used after its end");
    let (tokens, lives) = (issuer.count() as f64, begun.elapsed().as_secs_f64() / 2.0);
    assert!(tokens > 1.0 && tokens <= lives * 1.5 + 2.0, "{tokens} tokens in {lives} lives");
    assert_eq!(issuer.at_once.load(Ordering::SeqCst), 1);
    let end = bridge.metric("credentials_expiry_timestamp_seconds{api=\"main\"}").await;
    let left = end - std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((-LIFE.as_secs_f64() - 1.0..=LIFE.as_secs_f64()).contains(&left), "{left}");

    // Revoked: one refusal for each request that was out, one renewal, no pause.
    revoking.store(true, Ordering::SeqCst);
    produce(mosquitto.port, 100, 700..800).await;
    until("800 events", PATIENCE, async || (accepted.len() >= 800).then_some(())).await;
    assert!(accepted.refused() >= 1);
    assert!(!bridge.log().contains(PAUSED), "it paused");
    accepted.assert_each_once(800);
    settled(&bridge, &setup, 800.0).await;
    assert_hidden(&bridge, &["client-secret", "bearer-number", "Y2xpZW50LXNlY3JldC"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_is_none_or_beyond_all_times_stops_nothing() {
    for said in ["9223372036854775807", "18446744073709551615", "\"1e999\"", "-1", "0", "null"] {
        let issuer = Stub::start(Duration::ZERO, move |_| {
            let text =
                format!("{{ \"access_token\": \"bearer-number-1\", \"expires_in\": {said} }}");
            Response::builder().body(Body::from(text)).unwrap()
        })
        .await;
        let accepted = Arc::new(Accepted::default());
        let judge = Arc::clone(&accepted);
        let api = Stub::start(Duration::ZERO, move |asked| judge.answer(asked, None)).await;
        let mosquitto = Mosquitto::start("").await;
        let auth = format!(
            "auth = {{ type = \"oauth2\", token_url = \"{}\", client_id = \"bridge\", client_secret = \"client-secret-42\" }}",
            issuer.url("/token")
        );
        let setup = Setup::new(&api.url("/event"), mosquitto.port, &auth, "", "");
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 100, 0..50).await;
        until(said, PATIENCE, async || (accepted.len() >= 50).then_some(())).await;
        accepted.assert_each_once(50);
        assert_eq!(issuer.count(), 1, "{said}");
        let told = bridge.log().contains("`expires_in` of the token endpoint's answer");
        assert_eq!(told, ["-1", "0"].contains(&said), "{said}");
        assert!(!bridge.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_are_set_to_nothing_count_as_not_set() {
    let directory = tempfile::tempdir().unwrap();
    let user = [
        "--access-key-id",
        "AKIDONE",
        "--secret-access-key",
        "one-secret",
        "--region",
        "eu-west-1",
    ];
    let (emulator, ledger) = Emulator::with_ledger(&directory, &user);
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\" }";
    let mut setup = Setup::new(&emulator.endpoint, mosquitto.port, auth, "", "")
        .env("AWS_DEFAULT_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "AKIDONE")
        .env("AWS_SECRET_ACCESS_KEY", "one-secret");
    for name in [
        "AWS_REGION",
        "AWS_PROFILE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_SESSION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_ENDPOINT_URL",
        "AWS_MAX_ATTEMPTS",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "SSL_CERT_FILE",
    ] {
        setup = setup.env(name, "");
    }
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1_000, 0..5).await;
    ledger.has_ids(5, PATIENCE).await;
    assert!(!bridge.log().contains("WARN"), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_aws_take_the_same_way_and_plain_text_no_proxy_at_all() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let api = Stub::start(Duration::ZERO, |_| reply(500, &json!({}))).await;
    let role = "auth = { type = \"iam\", aws = { region = \"eu-west-1\", role_arn = \"arn:aws:iam::111122223333:role/publisher\" } }";
    for (no_proxy, taken) in [("", true), ("*", false), ("sts.invalid:443", false)] {
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&api.url("/event"), mosquitto.port, role, "", "")
            .env("AWS_ENDPOINT_URL_STS", "https://sts.invalid")
            .env("AWS_ACCESS_KEY_ID", "AKIDBASE")
            .env("AWS_SECRET_ACCESS_KEY", "base-secret-word")
            .env("HTTPS_PROXY", &url)
            .env("NO_PROXY", no_proxy);
        let bridge = setup.start_ready().await;
        if taken {
            let (stream, _) =
                tokio::time::timeout(PATIENCE, proxy.accept()).await.unwrap().unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await.unwrap();
            assert_eq!(line, "CONNECT sts.invalid:443 HTTP/1.1\r\n");
        } else {
            // Said when the name was looked up in vain, which is not done for a proxy.
            let said = || bridge.log().contains("without it nothing goes out");
            until(no_proxy, PATIENCE, async || said().then_some(())).await;
            let asked = tokio::time::timeout(Duration::ZERO, proxy.accept()).await;
            assert!(asked.is_err(), "NO_PROXY={no_proxy}");
        }
    }
    // What a container's agent gives out in plain text, and until when it is good: for ever, says this one.
    let keys = json!({
        "AccessKeyId": "AKIDONE", "SecretAccessKey": "one-secret", "Token": "one-session",
        "Expiration": "9999-12-31T23:59:59Z",
    });
    let agent = Stub::start(Duration::ZERO, move |_| reply(200, &keys)).await;
    let accepted = Arc::new(Accepted::default());
    let judge = Arc::clone(&accepted);
    let api = Stub::start(Duration::ZERO, move |asked| judge.answer(asked, None)).await;
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }";
    let mut setup = Setup::new(&api.url("/event"), mosquitto.port, auth, "", "")
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent.url("/keys"))
        .env("HOME", "/nonexistent");
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        setup = setup.env(name, &url);
    }
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1_000, 0..5).await;
    until("5 events", PATIENCE, async || (accepted.len() >= 5).then_some(())).await;
    assert!(tokio::time::timeout(Duration::ZERO, proxy.accept()).await.is_err());
    assert_eq!(agent.count(), 1);
    drop(bridge);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_asked_through_the_proxy_and_its_loss_is_shown() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"oauth2\", token_url = \"https://issuer.invalid/token\", \
                client_id = \"bridge\", client_secret = \"client-secret-42\" }";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, auth, "", TRACE)
        .env("HTTPS_PROXY", &format!("http://{}", proxy.local_addr().unwrap()))
        .env("NO_PROXY", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1_000, 0..5).await;
    let (stream, _) = tokio::time::timeout(PATIENCE, proxy.accept()).await.unwrap().unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    assert_eq!(line, "CONNECT issuer.invalid:443 HTTP/1.1\r\n");
    until("the reason is shown", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("no OAuth token").then_some(())
    })
    .await;
    assert_eq!(bridge.metric("source_in_flight{source=\"plant\"}").await, 5.0);
    assert_hidden(&bridge, &["client-secret", "Y2xpZW50LXNlY3JldC"]);
}

/// T40. `T40_LIFETIME=30` makes it as long as the plan says.
#[tokio::test(flavor = "multi_thread")]
async fn an_assumed_role_is_renewed_and_a_provider_may_be_down() {
    let lifetime = std::env::var("T40_LIFETIME").map_or(4, |text| text.parse().unwrap());
    let lifetime = Duration::from_secs(lifetime);
    let issued: Arc<Mutex<Vec<String>>> = Arc::default();
    let down = Arc::new(AtomicBool::new(false));
    let (grants, is_down) = (Arc::clone(&issued), Arc::clone(&down));
    let sts = Stub::start(Duration::from_millis(100), move |asked| {
        if is_down.load(Ordering::SeqCst) {
            return Response::builder().status(503).body(Body::empty()).unwrap();
        }
        assert!(asked.header("authorization").contains("Credential=AKIDBASE/"));
        for part in [
            "Action=AssumeRole&",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fpublisher",
            "RoleSessionName=appsync-bridge",
            "ExternalId=plant",
        ] {
            assert!(asked.body.contains(part), "{}", asked.body);
        }
        let mut grants = grants.lock().unwrap();
        // In whole seconds, as signatures are dated.
        let end = humantime::format_rfc3339_seconds(SystemTime::now() + lifetime).to_string();
        grants.push(amz_date(humantime::parse_rfc3339(&end).unwrap()));
        let number = grants.len();
        let text = format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
             <AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/publisher/b</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>AKIDROLE{number}</AccessKeyId><SecretAccessKey>role-secret-{number}</SecretAccessKey>\
             <SessionToken>role-session-{number}</SessionToken><Expiration>{end}</Expiration></Credentials>\
             </AssumeRoleResult></AssumeRoleResponse>"
        );
        Response::builder().header("content-type", "text/xml").body(Body::from(text)).unwrap()
    })
    .await;
    let accepted = Arc::new(Accepted::default());
    let (judge, grants) = (Arc::clone(&accepted), Arc::clone(&issued));
    let api = Stub::start(Duration::from_millis(1), move |asked| {
        let signed = asked.header("authorization").split("Credential=AKIDROLE").nth(1).unwrap();
        let number: usize = signed.split('/').next().unwrap().parse().unwrap();
        assert_eq!(asked.header("x-amz-security-token"), format!("role-session-{number}"));
        // By the date of the signature: what was signed in time may be long under way.
        let alive = *asked.header("x-amz-date") < *grants.lock().unwrap()[number - 1];
        let mut answer = judge.answer(asked, (!alive).then_some("ExpiredTokenException"));
        // No `date` to learn from: it would put the signatures up to a second back.
        answer.headers_mut().insert("age", "0".parse().unwrap());
        answer
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\", aws = { region = \"eu-west-1\", \
                role_arn = \"arn:aws:iam::111122223333:role/publisher\", external_id = \"plant\" } }";
    let setup = Setup::new(&api.url("/event"), mosquitto.port, auth, "", TRACE)
        .env("AWS_ENDPOINT_URL_STS", &sts.url("/"))
        .env("AWS_ACCESS_KEY_ID", "AKIDBASE")
        .env("AWS_SECRET_ACCESS_KEY", "base-secret-word")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let bridge = setup.start_ready().await;
    let phase = lifetime.as_secs() * 2;
    let (begun, rate) = (Instant::now(), 50);
    produce(mosquitto.port, rate, 0..rate * phase).await;
    until("all events", PATIENCE, async || (accepted.len() as u64 >= rate * phase).then_some(()))
        .await;
    assert_eq!(accepted.refused(), 0, "nothing was signed with what had expired");
    let shortest = lifetime.as_secs_f64() - 1.0;
    let most = begun.elapsed().as_secs_f64() / (shortest * 2.0 / 3.0) + 2.0;
    let calls = sts.count();
    println!("{calls} calls of STS in {:?}, lifetime {lifetime:?}", begun.elapsed());
    assert!(calls >= 2 && calls as f64 <= most, "{calls} calls of STS, at most {most}");
    assert_eq!(sts.at_once.load(Ordering::SeqCst), 1, "one refresh at a time");

    // Down until what is held has expired, and longer: everything waits, and the reason is shown.
    down.store(true, Ordering::SeqCst);
    produce(mosquitto.port, rate, rate * phase..rate * phase * 2).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    assert!(bridge.get("/readyz").await.1.contains("no AWS credentials"));
    let tries = sts.count() - calls;
    println!("{tries} calls of STS while it was down");
    assert!(tries as u64 <= phase * 3 + 6, "{tries} calls of an STS that is down");
    down.store(false, Ordering::SeqCst);
    let all = rate * phase * 2;
    until("all events", PATIENCE, async || (accepted.len() as u64 >= all).then_some(())).await;
    accepted.assert_each_once(all);
    settled(&bridge, &setup, all as f64).await;
    assert_eq!(sts.at_once.load(Ordering::SeqCst), 1, "one refresh at a time");
    assert_hidden(&bridge, &["base-secret", "role-secret", "role-session"]);
}

/// T39: every answer tells the service's clock; what lies about it is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_costs_one_attempt() {
    /// What the next answer says of the time, in place of the truth: `date` and `age`.
    type Lie = Option<(String, Option<&'static str>)>;
    let offset = Arc::new(AtomicI64::new(0));
    let lie: Arc<Mutex<Lie>> = Arc::default();
    let accepted = Arc::new(Accepted::default());
    let (judge, ahead, lies) = (Arc::clone(&accepted), Arc::clone(&offset), Arc::clone(&lie));
    let api = Stub::start(Duration::ZERO, move |asked| {
        let now = shifted(ahead.load(Ordering::SeqCst));
        let signed = asked.header("x-amz-date");
        let five = Duration::from_mins(5);
        let good = *signed >= *amz_date(now - five) && *signed <= *amz_date(now + five);
        let mut answer = judge.answer(asked, (!good).then_some("InvalidSignatureException"));
        if !good {
            let (limit, now) = (amz_date(now - five), amz_date(now));
            let words =
                format!("Signature expired: {signed} is now earlier than {limit} ({now} - 5 min.)");
            let error = json!({ "errorType": "InvalidSignatureException", "message": words });
            answer = reply(403, &json!({ "errors": [error] }));
        }
        let (date, age) = match lies.lock().unwrap().take() {
            Some(lie) => lie,
            None => (httpdate::fmt_http_date(now), None),
        };
        answer.headers_mut().insert("date", date.parse().unwrap());
        if let Some(age) = age {
            answer.headers_mut().insert("age", age.parse().unwrap());
        }
        answer
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let auth = "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }";
    let setup = Setup::new(&api.url("/event"), mosquitto.port, auth, "", "")
        .env("AWS_ACCESS_KEY_ID", "AKIDBASE")
        .env("AWS_SECRET_ACCESS_KEY", "base-secret-word")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let bridge = setup.start_ready().await;
    let mut sent = 0;
    let mut one = async |most: usize, what: &str| {
        let before = accepted.refused();
        produce(mosquitto.port, 1_000, sent..sent + 1).await;
        sent += 1;
        until(what, PATIENCE, async || (accepted.len() as u64 >= sent).then_some(())).await;
        let refused = accepted.refused() - before;
        assert!(refused <= most, "{what}: {refused} refused");
    };
    one(0, "clocks agree").await;
    let (minute, day) = (60, 86_400);
    for (seconds, most) in [
        (minute, 0),
        (-minute, 0),
        (299, 1),
        (-299, 1),
        (10 * minute, 1),
        (-10 * minute, 1),
        (day, 1),
        (-day, 1),
        (0, 1),
    ] {
        offset.store(seconds, Ordering::SeqCst);
        one(most, &format!("{seconds} s off")).await;
        one(0, &format!("still {seconds} s off")).await;
    }
    let years = 50 * 365 * day;
    for (date, age) in [
        (httpdate::fmt_http_date(shifted(-17_280)), Some("17280")),
        ("yesterday".to_owned(), None),
        (httpdate::fmt_http_date(shifted(years)), None),
        (httpdate::fmt_http_date(shifted(-years)), None),
    ] {
        *lie.lock().unwrap() = Some((date.clone(), age));
        one(0, &format!("told {date}")).await;
        one(0, &format!("after {date}")).await;
    }
    // Where the header can't be believed, the words of the refusal are.
    offset.store(20 * minute, Ordering::SeqCst);
    *lie.lock().unwrap() = Some(("garbage".to_owned(), None));
    let refused = accepted.refused();
    one(1, "told by words alone").await;
    assert_eq!(accepted.refused(), refused + 1, "the words were not needed");
    accepted.assert_each_once(sent);
    assert!(!bridge.log().contains(PAUSED), "it paused");
    assert!(bridge.log().contains("this machine's clock is behind the API's"));
}

fn shifted(seconds: i64) -> SystemTime {
    let away = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - away } else { SystemTime::now() + away }
}

/// `20261122T120000Z`.
fn amz_date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}
