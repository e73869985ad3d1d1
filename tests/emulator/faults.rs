//! Faults on demand: each of them through plain HTTP, the flags and the control endpoint.

use std::time::{Duration, Instant, SystemTime};

use appsync_bridge::event_api::sign::Signer;
use http::Method;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::emulator::{Answer, Emulator, KEY, bridge, request};
use crate::support::socket::Socket;
use crate::support::until;

async fn statuses(emulator: &Emulator, channel: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(emulator.publish(channel, &["1", "2"]).await.status.as_u16());
    }
    statuses
}

/// The indexes in the two lists of an answer.
fn lists(answer: &Answer) -> (Vec<u64>, Vec<u64>) {
    let body = answer.json();
    let list = |name: &str| -> Vec<u64> {
        body[name].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect()
    };
    (list("successful"), list("failed"))
}

#[tokio::test]
async fn a_throttle_answers_429_beyond_its_rate() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    for (limit, passed) in [("requests_per_second", 5), ("events_per_second", 2)] {
        let before = ledger.len();
        let throttle = json!({ "throttle": { limit: 5, "retry_after": 3 } });
        emulator.set_faults(json!([{ "fault": throttle }])).await;
        let start = Instant::now();
        let statuses = statuses(&emulator, "a/b", 30).await;
        let through = statuses.iter().filter(|s| **s == 200).count();
        // The bucket refills meanwhile.
        let most = passed as f64 + start.elapsed().as_secs_f64() * passed as f64 + 1.0;
        assert!(through >= passed && through as f64 <= most, "{limit}: {statuses:?}");
        assert!(statuses.iter().all(|s| [200, 429].contains(s)));
        assert_eq!(emulator.strikes().await, [30 - through as u64]);
        assert_eq!(ledger.len() - before, through * 2);
    }
    let refused = emulator.publish("a/b", &["1"; 5]).await;
    assert_eq!(
        (refused.header("retry-after"), refused.header("content-type")),
        ("3", "application/json; charset=UTF-8")
    );
    let (status, kind, message) = refused.error();
    assert_eq!(
        (status, kind.as_str(), message.as_deref()),
        (429, "ThrottlingException", Some("Rate exceeded"))
    );
}

#[tokio::test]
async fn a_literal_answer_is_literal() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let errors = json!({ "errors": [{ "errorType": "X", "message": "y" }] });
    for (answer, status, body, header) in [
        (json!({ "status": 503 }), 503, String::new(), ("content-type", "")),
        (
            json!({ "status": 400, "body": errors }),
            400,
            errors.to_string(),
            ("content-type", "application/json; charset=UTF-8"),
        ),
        (
            json!({ "status": 200, "body": "<html>" }),
            200,
            "<html>".to_owned(),
            ("content-type", "text/html"),
        ),
        (
            json!({ "status": 307, "headers": { "location": "http://b/event" } }),
            307,
            String::new(),
            ("location", "http://b/event"),
        ),
        (
            json!({ "status": 403, "headers": { "x-amzn-errortype": "Expired:http://x" } }),
            403,
            String::new(),
            ("x-amzn-errortype", "Expired:http://x"),
        ),
        (
            json!({ "status": 599, "body": "{\"cut\":" }),
            599,
            "{\"cut\":".to_owned(),
            ("x-none", ""),
        ),
    ] {
        emulator.set_faults(json!([{ "fault": { "answer": answer } }])).await;
        let got = emulator.publish("a/b", &["1"]).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (status, body.as_bytes()), "{answer}");
        assert_eq!(got.header(header.0), header.1, "{answer}");
        assert!(!got.header("x-amzn-requestid").is_empty());
    }
    assert_eq!(ledger.len(), 0);
    // Afterwards the events were taken all the same.
    let after = json!({ "status": 504, "when": "after" });
    emulator.set_faults(json!([{ "fault": { "answer": after } }])).await;
    assert_eq!(emulator.publish("a/b", &["1"]).await.status, 504);
    assert_eq!(ledger.read().len(), 1);
}

#[tokio::test]
async fn refusals_of_a_namespace_and_of_a_handler_speak_as_aws_does() {
    let emulator = Emulator::start(&["--namespace", "a", "b"]);
    let unknown = emulator.publish("other/x", &["1"]).await;
    emulator
        .set_faults(json!([
            { "fault": { "refuse_namespace": {} }, "namespace": "a" },
            { "fault": { "handler_refuses": { "error_type": "Blocked", "message": "not today" } }, "channel": "/b/7" },
        ]))
        .await;
    let refused = emulator.publish("a/x", &["1"]).await;
    assert_eq!((refused.status, refused.json()), (unknown.status, unknown.json()));
    let refused = emulator.publish("b/7/", &["1"]).await.error();
    assert_eq!(refused, (403, "Blocked".to_owned(), Some("not today".to_owned())));
    assert_eq!(emulator.publish("b/8", &["1"]).await.status, 200);
    assert_eq!(emulator.strikes().await, [1, 1]);
}

#[tokio::test]
async fn events_fail_by_index_or_chance_and_the_ledger_knows() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let by_index = json!({ "fail_events": { "indexes": [1, 2], "code": 429, "message": "later" } });
    emulator.set_faults(json!([{ "fault": by_index }])).await;
    let mut socket = Socket::connect(&emulator).await;
    socket.subscribe("s", "/a/b").await;
    let answer = emulator.publish("a/b", &["0", "1", "2", "3"]).await;
    assert_eq!(lists(&answer), (vec![0, 3], vec![1, 2]));
    let failed = &answer.json()["failed"][0];
    assert_eq!((&failed["code"], &failed["message"]), (&json!(429), &json!("later")));
    // What failed reaches nobody.
    assert_eq!(socket.hear().await["event"], "0");
    assert_eq!(socket.hear().await["event"], "3");
    assert_eq!((ledger.len(), ledger.read().len()), (4, 2));

    let by_chance = json!({ "fail_events": { "probability": 0.3, "code": "Bad" } });
    emulator.set_faults(json!([{ "fault": by_chance, "seed": 1 }])).await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += lists(&emulator.publish("a/b", &["1"; 5]).await).1.len();
    }
    assert!((100..200).contains(&failed), "{failed} of 500");
    let list = emulator.control(Method::GET, "faults", "").await.json();
    assert_eq!(list[0]["events"], failed);
    assert_eq!(ledger.len() - ledger.read().len(), failed + 2);
}

#[tokio::test]
async fn a_wrong_answer_comes_after_the_events_were_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let words = ["missing", "doubled", "in_both_lists", "out_of_range", "truncated", "empty"];
    for (n, word) in words.into_iter().enumerate() {
        emulator.set_faults(json!([{ "fault": { "wrong_answer": word }, "times": 1 }])).await;
        let answer = emulator.publish("a/b", &["1", "2"]).await;
        assert_eq!(answer.status, 200);
        match word {
            "missing" => assert_eq!(lists(&answer), (vec![0], vec![])),
            "doubled" => assert_eq!(lists(&answer), (vec![0, 1, 0], vec![])),
            "in_both_lists" => assert_eq!(lists(&answer), (vec![0, 1], vec![0])),
            "out_of_range" => assert_eq!(lists(&answer), (vec![0, 5], vec![])),
            "truncated" => {
                assert!(!answer.body.is_empty());
                assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
            }
            _ => assert!(answer.body.is_empty()),
        }
        assert_eq!((ledger.read().len(), emulator.strikes().await), (2 * (n + 1), vec![1]));
    }
}

#[tokio::test]
async fn who_hangs_is_let_go_when_the_fault_is_lifted_or_over() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    emulator.set_faults(json!([{ "fault": { "hang": {} }, "channel": "a/b" }])).await;
    assert_eq!(emulator.publish("a/c", &["1"]).await.status, 200);
    let mut hanging = Box::pin(emulator.publish("a/b", &["1"]));
    let struck = until("the fault has struck", PATIENCE, async || {
        (emulator.strikes().await == [1]).then_some(())
    });
    tokio::select! {
        answer = &mut hanging => panic!("answered: {answer:?}"),
        () = struck => assert_eq!(ledger.len(), 1),
    }
    let gone = emulator.control(Method::DELETE, "faults", "").await;
    assert_eq!((gone.status.as_u16(), gone.json()), (200, json!([])));
    assert_eq!(hanging.await.status, 200);
    assert_eq!(ledger.len(), 2);

    let hang = json!({ "hang": { "when": "after" } });
    let start = Instant::now();
    emulator.set_faults(json!([{ "fault": hang, "for": "400ms" }])).await;
    assert_eq!(emulator.publish("a/b", &["1"]).await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(400));

    let answer = ended_meanwhile(emulator, json!({ "hang": {} })).await;
    assert!(answer.is_none());
}

#[tokio::test]
async fn who_is_slow_is_not_waited_for_in_the_end() {
    for when in ["before", "after"] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let slow = json!({ "slow": { "delay": "1h", "when": when } });
        let answer = ended_meanwhile(emulator, slow).await;
        assert_eq!(answer.map(|answer| answer.status.as_u16()), Some(200), "{when}");
        assert_eq!(ledger.len(), 1);
    }
    let emulator = Emulator::start(&["--latency", "60m"]);
    let answer = ended_meanwhile(emulator, json!({ "slow": { "delay": "0s" } })).await;
    assert_eq!(answer.map(|answer| answer.status.as_u16()), Some(200));
}

/// The answer to a request that this fault has struck when the emulator is told to end, which it does.
async fn ended_meanwhile(emulator: Emulator, fault: Value) -> Option<Answer> {
    emulator.set_faults(json!([{ "fault": fault }])).await;
    let ended = async {
        until("the fault has struck", PATIENCE, async || {
            (emulator.strikes().await == [1]).then_some(())
        })
        .await;
        crate::support::signal(emulator.pid(), "INT");
    };
    let (answer, ()) = tokio::join!(emulator.try_publish("a/b", &["1"]), ended);
    assert!(emulator.wait().success());
    answer
}

#[tokio::test]
async fn a_cut_ends_the_connection_before_or_after_the_ledger_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    for (when, lines) in [("before", 0), ("after", 1)] {
        emulator.set_faults(json!([{ "fault": { "cut": { "when": when } } }])).await;
        assert!(emulator.try_publish("a/b", &["1"]).await.is_none(), "{when}");
        assert_eq!((ledger.read().len(), emulator.strikes().await), (lines, vec![1]), "{when}");
    }
    emulator.set_faults(json!([{ "fault": { "cut": {} }, "probability": 0.5, "seed": 3 }])).await;
    let mut cut = 0;
    for _ in 0..40 {
        cut += u64::from(emulator.try_publish("a/b", &["1"]).await.is_none());
    }
    assert!((8..32).contains(&cut), "{cut} of 40");
    assert_eq!(emulator.strikes().await, [cut]);
}

#[tokio::test]
async fn slow_answers_and_added_headers_combine_with_others() {
    let emulator = Emulator::start(&[]);
    emulator
        .set_faults(json!([
            { "fault": { "slow": { "delay": "200ms", "jitter": "100ms" } } },
            { "fault": { "answer": { "status": 503 } }, "times": 1 },
            { "fault": { "headers": { "age": 30, "date": "garbage" } }, "skip": 1 },
        ]))
        .await;
    for (status, age) in [(503, ""), (200, "30")] {
        let start = Instant::now();
        let answer = emulator.publish("a/b", &["1"]).await;
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!((answer.status.as_u16(), answer.header("age")), (status, age));
        assert_eq!(answer.header("date") == "garbage", age == "30");
    }
    assert_eq!(emulator.strikes().await, [2, 1, 1]);
}

#[tokio::test]
async fn a_clock_that_is_off_refuses_good_signatures_and_says_its_time() {
    let emulator = Emulator::start(&["--access-key-id", "AKID", "--secret-access-key", "secret"]);
    let body = r#"{"channel":"/a/b","events":["1"]}"#;
    let signer = Signer::new("eu-west-1", emulator.host(), "AKID", "secret", None);
    for (offset, ahead, good) in [
        ("10m", 600_i64, false),
        ("-10m", -600, false),
        ("+4m", 240, true),
        ("-1d", -86_400, false),
    ] {
        emulator.set_faults(json!([{ "fault": { "clock": { "offset": offset } } }])).await;
        let now = SystemTime::now();
        for (at, expected) in [(now, good), (shifted(now, ahead), true)] {
            let signed = signer.sign(body.as_bytes(), at);
            let headers = [
                ("content-type", "application/json"),
                ("x-amz-date", signed.date.as_str()),
                ("authorization", signed.authorization.as_str()),
            ];
            let answer = emulator.post(&headers, body).await;
            if expected {
                assert_eq!(answer.status, 200, "{offset}");
            } else {
                let (status, kind, message) = answer.error();
                assert_eq!((status, kind.as_str()), (403, "InvalidSignatureException"));
                let words =
                    if ahead > 0 { "Signature expired: " } else { "Signature not yet current: " };
                assert!(message.unwrap().starts_with(words));
            }
            let date = httpdate::parse_http_date(answer.header("date")).unwrap();
            let off = date.duration_since(shifted(now, ahead - 5)).unwrap();
            let most = Duration::from_secs(10) + now.elapsed().unwrap();
            assert!(off < most, "{offset}: {off:?}");
        }
        assert_eq!(emulator.strikes().await, [2]);
    }
    // As far off as it may be, and no farther.
    for offset in ["-50y", "+50y"] {
        emulator.set_faults(json!([{ "fault": { "clock": { "offset": offset } } }])).await;
        assert_eq!(emulator.publish("/a/b", &["1"]).await.status, 200, "{offset}");
    }
    for offset in ["-57y", "51y", "-99y"] {
        let faults = json!([{ "fault": { "clock": { "offset": offset } } }]).to_string();
        let (status, _, words) = emulator.control(Method::PUT, "faults", &faults).await.error();
        assert_eq!(status, 400, "{offset}");
        assert!(words.unwrap().contains("from `-50y` to `+50y`"), "{offset}");
    }
    assert_eq!(emulator.publish("/a/b", &["1"]).await.status, 200);
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

#[tokio::test]
async fn the_control_endpoint_shows_counts_and_names_mistakes() {
    let emulator = Emulator::start(&[]);
    emulator.publish("a/b", &["1", "2"]).await;
    emulator.publish("a/*", &["1"]).await;
    let stats = emulator.control(Method::GET, "stats", "").await.json();
    let expected = json!({
        "connections": 2, "requests": 2, "accepted_requests": 1, "accepted_events": 2,
        "cut_connections": 0,
    });
    assert_eq!(stats, expected);

    let fault = json!({ "fault": { "cut": {} }, "namespace": "a" });
    emulator.set_faults(json!([fault])).await;
    let bad = emulator.control(Method::PUT, "faults", r#"[{"fault":{"cuts":{}}}]"#).await;
    let (status, kind, message) = bad.error();
    assert_eq!((status, kind.as_str()), (400, "BadRequestException"));
    assert!(
        message.as_deref().unwrap().starts_with("fault 0 of the list: unknown variant `cuts`"),
        "{message:?}"
    );
    // A list that is refused leaves the one before in force.
    let shown = emulator.control(Method::GET, "faults", "").await.json();
    let expected =
        json!({ "fault": { "cut": {} }, "namespace": "a", "asked": 0, "struck": 0, "events": 0 });
    assert_eq!(shown, json!([expected]));
    assert_eq!(emulator.control(Method::POST, "faults", "[]").await.status, 405);
    assert_eq!(emulator.control(Method::GET, "other", "").await.status, 404);
    let url = emulator.endpoint.replace("/event", "/_emulator/faults");
    let page = [("origin", "http://localhost:3000")];
    assert_eq!(request(Method::PUT, &url, &page, "[]").await.status, 403);

    // A publish over the socket is not struck.
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.publish("p", "a/b", &["1"]).await["type"], "publish_success");
}

#[tokio::test]
async fn flags_and_a_file_take_the_same_faults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("faults.json");
    std::fs::write(&file, r#"[{"fault":{"answer":{"status":500}},"times":1}]"#).unwrap();
    let file = file.to_str().unwrap();
    let emulator = Emulator::start(&[
        "--faults",
        file,
        "--fault",
        r#"{"fault":{"answer":{"status":501}},"times":1}"#,
        "--fault",
        r#"{"fault":{"answer":{"status":502}},"times":1}"#,
    ]);
    assert_eq!(statuses(&emulator, "a/b", 4).await, [500, 501, 502, 200]);

    std::fs::write(file, r#"[{"fault":{"answer":{}}}]"#).unwrap();
    for (arguments, says) in [
        (["--faults", file], "fault 0 of the list: missing field `status`"),
        (["--fault", "{"], "EOF while parsing"),
        (["--faults", "/nowhere.json"], "cannot take the faults of `/nowhere.json`"),
    ] {
        let output = bridge().args(["emulate", "--listen", "127.0.0.1:0"]).args(arguments).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
}

#[tokio::test]
async fn from_other_machines_the_control_endpoint_is_there_only_on_demand() {
    for (flag, status) in [(&[][..], 404), (&["--control"][..], 200)] {
        let emulator = Emulator::start_at("0.0.0.0:0", flag);
        assert_eq!(emulator.control(Method::GET, "faults", "").await.status, status);
        assert_eq!(
            emulator
                .post(&[("x-api-key", KEY)], r#"{"channel":"a/b","events":["1"]}"#)
                .await
                .status,
            200
        );
    }
    let help = bridge().args(["emulate", "--help"]).output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("/_emulator/faults"));
}
