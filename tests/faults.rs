//! What the bridge makes of bad answers: scenarios T31 and T41, with a real
//! mosquitto, and an endpoint that does wrong what it is told to. The ledger is the judge, and every
//! test asks whether its fault did happen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::{Line, account, assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce, publish};
use crate::support::until;

/// The number in the payload of a dead letter.
fn id_of(letter: &Value) -> u64 {
    let payload: Value = serde_json::from_str(letter["payload"].as_str().unwrap()).unwrap();
    payload["id"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_fail_for_now_are_resent_alone() {
    partial_failure("ThrottlingException", false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_fail_for_now_hold_their_key_under_strict_order() {
    partial_failure("ThrottlingException", false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_fail_for_good_are_dead_letters_at_once() {
    partial_failure("InvalidEventException", true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_fail_for_good_are_dead_letters_at_once_under_strict_order() {
    partial_failure("InvalidEventException", true, true).await;
}

/// T31: each event fails with `code`, three times of ten.
async fn partial_failure(code: &str, terminal: bool, strict: bool) {
    const COUNT: u64 = 5_000;
    let directory = tempfile::tempdir().unwrap();
    // A channel gets an event every 40 ms, or 0.4 ms if it is the only one: so each request holds up
    // those that come meanwhile, and they share the next one, even where the load arrives slowly.
    let latency = if strict { "5ms" } else { "100ms" };
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", latency]);
    let fault =
        json!({ "fail_events": { "probability": 0.3, "code": code, "message": "on demand" } });
    emulator.set_faults(json!([{ "fault": fault, "seed": 31 }])).await;
    let mosquitto = Mosquitto::start("").await;
    // One key a request leaves nothing to be strict about in a channel of its own.
    let channel = if strict { "/plant/all" } else { "/plant/{device}" };
    let rest = format!(
        "[route.other]\nfrom = \"plant\"\ntopic = \"no/such\"\nchannel = \"/no/such\"\ndead_letter = \"discard\"\n\
         [route.data]\nfrom = \"plant\"\ntopic = \"plant/{{device}}/data\"\nchannel = \"{channel}\"\n\
         strict_order = {strict}"
    );
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", &rest);
    let bridge = setup.start_ready().await;
    let started = Instant::now();
    produce(mosquitto.port, COUNT, 2_500, 100).await;
    bridge.metric_is("source_received_total{source=\"plant\"}", |v| v >= COUNT as f64).await;
    bridge.nothing_in_flight().await;
    let took = started.elapsed();

    let lines = ledger.lines();
    let failed = lines.iter().filter(|line| line.code.is_some()).count();
    assert!(failed > 1_200, "only {failed} events failed");
    assert_eq!(emulator.strikes().await.len(), 1);

    // Only what failed was sent again, and nothing after it was accepted or given up.
    let mut attempts: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    for line in &lines {
        attempts.entry(line.number("id")).or_default().push(line.code.is_none());
    }
    for (id, attempts) in &attempts {
        let (last, before) = attempts.split_last().unwrap();
        let good = if terminal { before.is_empty() } else { *last && !before.contains(&true) };
        assert!(good, "event {id}: accepted or not, by attempt: {attempts:?}");
    }
    assert_eq!(attempts.len() as u64, COUNT);
    let accepted = lines.iter().filter(|line| line.code.is_none()).count();

    let rejects = setup.rejects();
    let letters: BTreeSet<u64> = rejects.iter().map(id_of).collect();
    if terminal {
        let refused: BTreeSet<u64> =
            lines.iter().filter(|l| l.code.is_some()).map(|l| l.number("id")).collect();
        assert_eq!((letters, rejects.len()), (refused, failed));
        for letter in &rejects {
            assert_eq!(letter["route"], "data", "{letter}");
            let device = letter["topic"].as_str().unwrap().split('/').nth(1).unwrap();
            assert_eq!(letter["channel"], channel.replace("{device}", device), "{letter}");
            assert_eq!(letter["reason"], "refused", "{letter}");
            assert_eq!(letter["detail"], format!("{code}: on demand"), "{letter}");
        }
    } else {
        assert_eq!((accepted as u64, rejects.len()), (COUNT, 0));
        let said = bridge.lines(&["publishing fails", "throttled", "on demand"]);
        assert!((1..=10).contains(&said.len()), "one at an interval: {said:?}");
    }

    let reordered = order(&lines, strict);
    let counted = bridge.metric("reordered_total{api=\"main\"}").await;
    if terminal || strict {
        assert_eq!((reordered, counted), (0, 0.0));
    } else {
        assert!(reordered > 0, "nothing was overtaken: it proves nothing");
        assert_eq!(reordered as f64, counted);
    }
    let requests = lines.iter().map(|line| &line.request).collect::<BTreeSet<_>>().len();
    assert!(requests < lines.len(), "every event went alone: it proves nothing");
    let most = attempts.values().map(Vec::len).max().unwrap();
    println!(
        "{code}, strict {strict}: {COUNT} events, {failed} failures, {requests} requests, \
         at most {most} attempts, {reordered} overtook, {took:.1?}"
    );
}

/// Checks the order of each key: an event may be overtaken only by later ones that shared a request
/// with it in which it failed; under `strict` a request holds one event of a key, so never. Returns how
/// many events overtook another.
fn order(lines: &[Line], strict: bool) -> usize {
    let mut requests: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    let mut keys: BTreeMap<u64, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        requests.entry(&line.request).or_default().push(line);
        keys.entry(line.number("key")).or_default().push(line);
    }
    if strict {
        for (request, lines) in &requests {
            let keys: BTreeSet<u64> = lines.iter().map(|line| line.number("key")).collect();
            assert_eq!(keys.len(), lines.len(), "request {request} holds a key twice");
        }
    }
    let mut overtook = BTreeSet::new();
    for lines in keys.values() {
        let accepted: Vec<_> = lines.iter().filter(|line| line.code.is_none()).collect();
        for (at, early) in accepted.iter().enumerate() {
            for late in &accepted[at + 1..] {
                let (early_seq, late_seq) = (early.number("seq"), late.number("seq"));
                if late_seq > early_seq {
                    continue;
                }
                let together = requests[early.request.as_str()]
                    .iter()
                    .any(|line| line.number("id") == late.number("id") && line.code.is_some());
                assert!(
                    together,
                    "{early_seq} overtook {late_seq} without sharing a request with it"
                );
                overtook.insert(early.number("id"));
            }
        }
    }
    overtook.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_the_events_were_taken_repeats_them_and_one_before_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let cut = |when: &str, seed: u64| json!({ "fault": { "cut": { "when": when } }, "probability": 0.1, "seed": seed });
    emulator.set_faults(json!([cut("before", 1), cut("after", 2)])).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, 1_000, 40);
    until("20 cuts of each kind", PATIENCE, async || {
        emulator.strikes().await.iter().all(|struck| *struck > 20).then_some(())
    })
    .await;
    let count = load.stop().await;
    let (repeats, ambiguous) = account(&bridge, &ledger, count).await;
    let list = emulator.control(http::Method::GET, "faults", "").await.json();
    let number = |at: usize, name: &str| list[at][name].as_u64().unwrap();
    let (before, after) = (number(0, "struck"), number(1, "struck"));
    assert_eq!((repeats as u64, ambiguous), (number(1, "events"), (before + after) as f64));
    assert_order(&ledger.read(), after as usize);
    println!("{count} events, {before} cut before, {after} after, {repeats} repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_no_credential_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("http://{}/event", elsewhere.local_addr().unwrap());
    let fault = json!({ "answer": { "status": 307, "headers": { "location": location } } });
    emulator.set_faults(json!([{ "fault": fault }])).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 50, 5_000, 5).await;
    until("three redirects", PATIENCE, async || (emulator.strikes().await[0] >= 3).then_some(()))
        .await;
    // Nobody knocks, so nothing can have been sent.
    let knock = timeout(Duration::from_millis(100), elsewhere.accept()).await;
    assert!(knock.is_err(), "someone followed to {location}");
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    assert!(bridge.get("/readyz").await.1.contains("307"));
    assert_eq!(ledger.len(), 0);

    emulator.set_faults(json!([])).await;
    assert_eq!(account(&bridge, &ledger, 50).await, (0, 0.0));
    assert_order(&ledger.read(), 0);
    assert!(setup.rejects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_that_can_not_be_read_is_never_a_success() {
    const COUNT: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    // None of these was processed: who takes one for a success has lost its events.
    let one = r#"{"identifier":"x","index":0}"#;
    let bodies = [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        format!("[[],[{one}]]"),
        "<html>200</html>".to_owned(),
        format!(r#"{{"failed":[],"successful":[{one}"#),
        format!(r#"{{"failed":[],"successful":[{one},{one}]}}"#),
        format!(r#"{{"failed":[{one}],"successful":[{one}]}}"#),
        r#"{"failed":[],"successful":[{"identifier":"x","index":5}]}"#.to_owned(),
        r#"{"errors":[{"errorType":"InternalFailure","message":"y"}]}"#.to_owned(),
    ];
    let unread = bodies.iter().map(|body| {
        json!({ "fault": { "answer": { "status": 200, "body": body } }, "times": 4, "probability": 0.5 })
    });
    // And these were, which nobody can tell from the answer.
    let words = ["doubled", "in_both_lists", "out_of_range", "truncated", "empty"];
    let spoilt = words
        .map(|word| json!({ "fault": { "wrong_answer": word }, "times": 2, "probability": 0.5 }));
    emulator.set_faults(unread.chain(spoilt).collect()).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, COUNT, 300, 60).await;
    ledger.has_ids(COUNT as usize, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let strikes = emulator.strikes().await;
    assert!(strikes.iter().all(|struck| *struck > 0), "{strikes:?}");
    let unknown =
        bridge.metric("publish_requests_total{api=\"main\",result=\"unknown_answer\"}").await;
    assert_eq!(unknown, strikes.iter().sum::<u64>() as f64);
    let accepted = ledger.read();
    assert_eq!(ids(&accepted).len() as u64, COUNT);
    let spoilt: u64 = strikes[bodies.len()..].iter().sum();
    let repeats = accepted.len() as u64 - COUNT;
    assert!(repeats > 0 && repeats <= spoilt * 5, "{repeats} repeats of {spoilt} requests");
    assert!(setup.rejects().is_empty());
}

/// One event that is always answered with a 500 is given up where others are taken for minutes; in the long tier also one
/// that is cut, or gets a success with an error alone that quotes half of a character.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_alone_has_no_answer_is_given_up() {
    const COUNT: u64 = 3_600;
    let error = r#"{"errors":[{"errorType":"MyCheck","message":"no \ud83d"}]}"#;
    let faults = [
        json!({ "answer": { "status": 500 } }),
        json!({ "cut": { "when": "before" } }),
        json!({ "answer": { "status": 200, "body": error } }),
    ];
    let long = std::env::var_os("LONG_TESTS").is_some();
    for fault in faults.into_iter().take(if long { 3 } else { 1 }) {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        emulator.set_faults(json!([{ "fault": fault, "channel": "/plant/dev-100" }])).await;
        let mosquitto = Mosquitto::start("").await;
        let limit = "max_in_flight = 10000\n";
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", limit, "");
        let bridge = setup.start_ready().await;
        let poison = json!({ "id": COUNT, "key": 100, "seq": 0 }).to_string().into_bytes();
        publish(mosquitto.port, 1_000, [("plant/dev-100/data".to_owned(), poison)]).await;
        produce(mosquitto.port, COUNT, 20, 20).await;
        until("it is given up", PATIENCE, async || (setup.rejects().len() == 1).then_some(()))
            .await;
        let letter = &setup.rejects()[0];
        assert_eq!((id_of(letter), &letter["reason"]), (COUNT, &json!("refused")));
        let detail = letter["detail"].as_str().unwrap();
        assert!(detail.contains("tries, while others are taken: "), "{detail}");
        ledger.has_ids(COUNT as usize, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(bridge.metric("publish_breaker_open{api=\"main\"}").await, 0.0);
    }
}

/// A handler whose data source is away for seconds refuses all.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_refuses_everything_for_a_while_costs_nothing() {
    const COUNT: u64 = 600;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let handler =
        json!({ "handler_refuses": { "error_type": "DataSourceError", "message": "away" } });
    emulator.set_faults(json!([{ "fault": handler }])).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let load = produce(mosquitto.port, COUNT, 200, 60);
    let outage = async {
        // Each of the first events has been tried more often than a route allows.
        let struck = async || (emulator.strikes().await[0] >= 60 * 6).then_some(());
        until("all are refused", PATIENCE, struck).await;
        emulator.set_faults(json!([])).await;
    };
    tokio::join!(load, outage);
    assert_eq!(account(&bridge, &ledger, COUNT).await, (0, 0.0));
    let rejects = setup.rejects();
    assert!(rejects.is_empty(), "{} are given up", rejects.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_in_neither_list_is_unconfirmed_and_not_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    emulator.set_faults(json!([{ "fault": { "wrong_answer": "missing" }, "times": 7 }])).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 200, 1_000, 10).await;
    assert_eq!(account(&bridge, &ledger, 200).await, (0, 0.0));
    assert_eq!(emulator.strikes().await, [7]);
    assert_eq!(
        bridge.metric("publish_events_total{api=\"main\",outcome=\"unconfirmed\"}").await,
        7.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_refuses_is_asked_five_times_and_its_words_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let handler =
        json!({ "handler_refuses": { "error_type": "TenantBlocked", "message": "not today" } });
    emulator.set_faults(json!([{ "fault": handler, "channel": "/plant/dev-1" }])).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let one = |id: u64, device: u64| {
        let payload = json!({ "id": id, "key": device, "seq": 0 }).to_string().into_bytes();
        (format!("plant/dev-{device}/data"), payload)
    };
    publish(mosquitto.port, 1_000, [one(0, 1), one(1, 2)]).await;
    until("it is given up", PATIENCE, async || (setup.rejects().len() == 1).then_some(())).await;
    assert_eq!(emulator.strikes().await, [5]);
    let letter = &setup.rejects()[0];
    assert_eq!((id_of(letter), &letter["reason"]), (0, &json!("refused")));
    assert_eq!(letter["detail"], "given up after 5 tries: 403 TenantBlocked: not today");
    assert_eq!(letter["channel"], "/plant/dev-1");
    ledger.has_ids(1, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert_eq!(ledger.read().len(), 1);
    assert_eq!(bridge.metric("api_paused{api=\"main\"}").await, 0.0);
    bridge.ready().await;
}
