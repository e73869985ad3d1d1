//! The publisher against the emulator: who is refused, what is kept, how it is signed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{produce, publish};
use crate::support::until;

const REGION: &str = "eu-west-1";
const IAM: &str = "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_pauses_and_discards_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let ledger = Ledger { path: path.clone() };
    let revoked = Emulator::start(&["--api-key", "da2-another"]);
    let address = revoked.host().to_owned();
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&revoked.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 300, 5_000, 6).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 300.0).await;
    let (status, text) = bridge.get("/readyz").await;
    assert!(status == 503 && text.contains("UnauthorizedException"), "{text}");
    assert!(setup.rejects().is_empty());
    // One probe a second, and not a storm.
    let requests = "publish_requests_total{api=\"main\",result=\"refused\"}";
    let begun = Instant::now();
    let before = bridge.metric(requests).await;
    bridge.metric_is(requests, |v| v >= before + 2.0).await;
    let probes = bridge.metric(requests).await - before;
    let took = begun.elapsed();
    assert!(probes <= took.as_secs_f64() + 1.0, "{probes} probes in {took:?}");
    assert_eq!(bridge.get("/livez").await.0, 200);

    drop(revoked);
    let _good = Emulator::start_at(&address, &["--ledger", path.to_str().unwrap()]);
    ledger.has_ids(300, PATIENCE).await;
    bridge.nothing_in_flight().await;
    bridge.ready().await;
    let accepted = ledger.read();
    assert_eq!(accepted.len(), 300, "nothing comes twice");
    assert_order(&accepted, 0);
    assert!(!bridge.log().contains("da2-"), "the key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_events_a_second_are_sent_than_the_api_may_get() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "max_rate = 200", "", "");
    let bridge = setup.start_ready().await;
    assert_eq!(bridge.metric("publish_rate_limit{api=\"main\"}").await, 200.0);
    let started = Instant::now();
    produce(mosquitto.port, 600, 5_000, 20).await;
    ledger.has_ids(600, PATIENCE).await;
    let took = started.elapsed();
    // That it takes no longer is for the tests of the gate, which have a clock of their own.
    assert!(took > Duration::from_millis(2_700), "600 events in {took:?}");
    assert_order(&ledger.read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_something_is_held_says_what_waits_and_how_to_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, _ledger) = Emulator::with_ledger(&directory, &["--namespace", "good"]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let mut bridge = setup.start_ready().await;
    let event = |n| (format!("plant/{n}/data"), b"{}".to_vec());
    publish(mosquitto.port, 1_000, [event(1), event(2)]).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 2.0).await;
    bridge.signal("TERM");
    let line = until("the drain says so", PATIENCE, async || {
        bridge.lines(&["the drain waits for what is in flight"]).pop()
    })
    .await;
    for words in
        ["\"WARN\"", "plant: 2", "api main: namespace `plant` refuses us", "at once", "25s"]
    {
        assert!(line.contains(words), "{words} in {line}");
    }
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_namespace_pauses_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--namespace", "good"]);
    let mosquitto = Mosquitto::start("").await;
    let routes = "[route.all]\nfrom = \"plant\"\ntopic = \"plant/{ns}/data\"\nchannel = [\"/good/{ns}\"]\n\
                  [route.bad]\nfrom = \"plant\"\ntopic = \"plant/bad/data\"\nchannel = \"/bad/x\"\n";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", routes);
    let bridge = setup.start_ready().await;
    let bad = ("plant/bad/data".to_owned(), json!({ "id": 0 }).to_string().into_bytes());
    publish(mosquitto.port, 1_000, [bad]).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    let good = (1..=200_u64)
        .map(|id| ("plant/ok/data".to_owned(), json!({ "id": id }).to_string().into_bytes()));
    publish(mosquitto.port, 5_000, good.collect::<Vec<_>>()).await;
    ledger.has_ids(201, PATIENCE).await;
    assert!(ledger.read().iter().all(|a| a.channel.starts_with("/good/")));
    assert!(bridge.get("/readyz").await.1.contains("namespace `bad`"));
    let accepted = "publish_events_total{api=\"main\",outcome=\"accepted\"}";
    bridge.metric_is(accepted, |v| v == 200.0 + 1.0).await;
    // Under traffic the probes go on, and when the namespace exists the event arrives.
    let traffic = (201..=3_200_u64)
        .map(|id| ("plant/ok/data".to_owned(), json!({ "id": id }).to_string().into_bytes()));
    let traffic = tokio::spawn(publish(mosquitto.port, 1_000, traffic.collect::<Vec<_>>()));
    let refused = "publish_requests_total{api=\"main\",result=\"refused\"}";
    let begun = Instant::now();
    let before = bridge.metric(refused).await;
    traffic.await.unwrap();
    bridge.metric_is(refused, |v| v > before).await;
    let probes = bridge.metric(refused).await - before;
    let took = begun.elapsed();
    assert!(probes <= took.as_secs_f64() + 1.0, "{probes} probes in {took:?}");
    let address = emulator.host().to_owned();
    drop(emulator);
    let _both = Emulator::start_at(&address, &["--ledger", ledger.path.to_str().unwrap()]);
    let arrived = async || ledger.read().iter().any(|a| a.channel == "/bad/x").then_some(());
    until("the event of the namespace that came back", PATIENCE, arrived).await;
    bridge.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_with_and_without_a_session_token_over_tls() {
    for token in [None, Some("a/session+token==")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.jsonl");
        let tls = directory.path().join("tls");
        let mut args = vec![
            "--ledger",
            path.to_str().unwrap(),
            "--tls",
            tls.to_str().unwrap(),
            "--region",
            REGION,
        ];
        args.extend(["--access-key-id", "AKIDTEST", "--secret-access-key", "top-secret"]);
        if let Some(token) = token {
            args.extend(["--session-token", token]);
        }
        let emulator = Emulator::start(&args);
        let mosquitto = Mosquitto::start("").await;
        let api = format!("{IAM}\nca_file = \"{}\"", emulator.ca_file.as_deref().unwrap());
        let ledger = Ledger { path: path.clone() };
        let with_secret = |secret: &str| {
            let setup = Setup::new(&emulator.endpoint, mosquitto.port, &api, "", "")
                .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
                .env("AWS_SECRET_ACCESS_KEY", secret)
                .env("AWS_EC2_METADATA_DISABLED", "true");
            match token {
                Some(token) => setup.env("AWS_SESSION_TOKEN", token),
                None => setup,
            }
        };
        let wrong = with_secret("another").start_ready().await;
        produce(mosquitto.port, 50, 5_000, 5).await;
        wrong.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
        assert!(wrong.get("/readyz").await.1.contains("InvalidSignatureException"));
        wrong.kill();
        let right = with_secret("top-secret").start_ready().await;
        ledger.has_ids(50, PATIENCE).await;
        assert_order(&ledger.read(), 0);
        assert!(!right.log().contains("top-secret"));
    }
}

/// T40: a signature for another region is refused and everything kept, until the API is where we sign
/// for, or we sign for where the API is.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_for_another_region_pauses_and_loses_nothing() {
    const ELSEWHERE: &str = "us-east-1";
    for mended_here in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger { path: directory.path().join("ledger.jsonl") };
        let path = ledger.path.to_str().unwrap();
        let user = ["--access-key-id", "AKIDTEST", "--secret-access-key", "top-secret"];
        let in_region =
            |region: &'static str| [&["--ledger", path, "--region", region][..], &user].concat();
        let elsewhere = Emulator::start(&in_region(ELSEWHERE));
        let (endpoint, address) = (elsewhere.endpoint.clone(), elsewhere.host().to_owned());
        let mosquitto = Mosquitto::start("").await;
        let signing_for = |region: &str| {
            let auth = "auth = { type = \"iam\" }";
            Setup::new(&endpoint, mosquitto.port, auth, "", "")
                .env("AWS_REGION", region)
                .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
                .env("AWS_SECRET_ACCESS_KEY", "top-secret")
                .env("AWS_EC2_METADATA_DISABLED", "true")
        };
        let (mut setup, right) = (signing_for(REGION), signing_for(ELSEWHERE));
        let mut bridge = setup.start_ready().await;
        produce(mosquitto.port, 50, 5_000, 5).await;
        bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
        let (status, text) = bridge.get("/readyz").await;
        assert!(status == 503 && text.contains("InvalidSignatureException"), "{text}");
        let log = bridge.log();
        assert!(
            log.contains("the API refuses requests") && log.contains("the API is in `eu-west-1`"),
            "{log}"
        );
        let refused = "publish_requests_total{api=\"main\",result=\"refused\"}";
        let before = bridge.metric(refused).await;
        bridge.metric_is(refused, |v| v >= before + 2.0).await;
        bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 50.0).await;
        assert_eq!(ledger.len(), 0);
        assert!(setup.rejects().is_empty());

        let _endpoint = if mended_here {
            bridge.kill();
            setup = right;
            bridge = setup.start_ready().await;
            elsewhere
        } else {
            drop(elsewhere);
            Emulator::start_at(&address, &in_region(REGION))
        };
        ledger.has_ids(50, PATIENCE).await;
        bridge.nothing_in_flight().await;
        bridge.ready().await;
        let accepted = ledger.read();
        assert_eq!(accepted.len(), 50, "nothing comes twice");
        assert_order(&accepted, 0);
        assert!(setup.rejects().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_everything_is_kept_and_the_reason_is_shown() {
    let emulator =
        Emulator::start(&["--access-key-id", "AKIDTEST", "--secret-access-key", "top-secret"]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, IAM, "", "")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 5, 1_000, 1).await;
    until("the reason is shown", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("no AWS credentials").then_some(())
    })
    .await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 5.0).await;
    assert!(setup.rejects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_ca_did_not_sign_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--tls", one.to_str().unwrap()]);
    let other = Emulator::start(&["--tls", two.to_str().unwrap()]);
    let mosquitto = Mosquitto::start("").await;
    let api = format!("ca_file = \"{}\"", other.ca_file.as_deref().unwrap());
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, &api, "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 5, 1_000, 1).await;
    bridge.metric_is("publish_requests_total{api=\"main\",result=\"trust\"}", |v| v >= 2.0).await;
    assert!(bridge.log().contains("certificate"), "{}", bridge.log());
    assert_eq!(ledger.len(), 0);
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 5.0).await;
}

/// T65, for the bugs that only a bridge in a process of its own shows: what holds without the bug does
/// not hold with it.
#[tokio::test(flavor = "multi_thread")]
async fn seeded_bugs_of_a_process_are_caught() {
    let mut took = Duration::ZERO;
    for bug in ["", "PauseWholeApi"] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &["--namespace", "plant"]);
        let mosquitto = Mosquitto::start("").await;
        let routes = "[route.good]\nfrom = \"plant\"\ntopic = \"plant/{device}/data\"\nchannel = \"/plant/x\"\n\
                      [route.bad]\nfrom = \"plant\"\ntopic = \"plant/bad\"\nchannel = \"/bad/x\"\n";
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", routes)
            .env("APPSYNC_BRIDGE_SEEDED_BUG", bug);
        let bridge = setup.start_ready().await;
        publish(mosquitto.port, 1_000, [("plant/bad".to_owned(), b"{\"id\":0}".to_vec())]).await;
        bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
        produce(mosquitto.port, 900, 1_000, 10).await;
        // What works flows at full rate; with the bug hardly anything does, given longer than it took
        // without.
        if bug.is_empty() {
            let produced = Instant::now();
            ledger.has_ids(900, PATIENCE).await;
            took = produced.elapsed();
        } else {
            tokio::time::sleep(took + Duration::from_millis(500)).await;
            assert!(ledger.len() < 900, "{bug}: {} of 900 in {took:?}", ledger.len());
        }
    }
    for bug in ["", "SignedOnce"] {
        let directory = tempfile::tempdir().unwrap();
        let user = ["--access-key-id", "AKIDTEST", "--secret-access-key", "top-secret"];
        let (emulator, ledger) = Emulator::with_ledger(&directory, &user);
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, IAM, "", "")
            .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .env("AWS_SECRET_ACCESS_KEY", "top-secret")
            .env("APPSYNC_BRIDGE_SEEDED_BUG", bug);
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 10, 1_000, 1).await;
        ledger.has_ids(10, PATIENCE).await;
        // Ten minutes later, by the clock of the service.
        emulator.set_faults(json!([{ "fault": { "clock": { "offset": "10m" } } }])).await;
        produce(mosquitto.port, 20, 1_000, 1).await;
        if bug.is_empty() {
            ledger.has_ids(20, PATIENCE).await;
        } else {
            bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
            assert_eq!(ledger.len(), 10, "{bug}");
        }
    }
}
