use serde_json::json;

use super::*;
use crate::admin::facts::{ApiFacts, DeadLetterFacts, RouteFacts, SourceFacts};

fn facts() -> Facts {
    let source = |name: &str, kind| SourceFacts {
        name: name.to_owned(),
        kind,
        takes: vec!["a/#".to_owned()],
        max_in_flight: 100,
        max_in_flight_bytes: 1_000,
    };
    let route = RouteFacts {
        name: "data".to_owned(),
        from: vec!["plant".to_owned()],
        topic: None,
        channels: vec!["/plant/{device}".to_owned()],
        api: "main".to_owned(),
        dead_letter: "rejects".to_owned(),
    };
    let host = "api.example".to_owned();
    let api = ApiFacts { name: "main".to_owned(), host, max_concurrency: 64, max_rate: 10_000 };
    let place = "/rejects.jsonl".to_owned();
    let dead_letter = DeadLetterFacts { name: "rejects".to_owned(), kind: "file", place };
    Facts {
        sources: vec![source("plant", "mqtt"), source("shop", "kafka")],
        routes: vec![route],
        apis: vec![api],
        dead_letters: vec![dead_letter],
    }
}

fn value(status: &Status) -> Value {
    serde_json::from_str(&status.document().unwrap()).unwrap()
}

#[test]
fn every_part_is_shown_with_its_numbers() {
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let route = metrics.route("data", ["invalid_json", "too_deep"]);
    let api = metrics.api("main", ["ok", "throttled"], ["throttled"]);
    let letters = metrics.dead_letter("rejects", ["refused", "invalid_json"]);
    let status = Status::new(facts(), &metrics, health.clone(), shutdown.clone());
    let parts = ["source plant", "source shop", "api main", "dead_letter rejects"];
    let [plant, shop, main, _rejects] = parts.map(|part| health.register(part, "starting"));
    plant.ready();
    main.ready();
    shop.not_ready("the broker is away");
    main.pauses([("namespace `a`".to_owned(), "403".to_owned(), "may it?".to_owned())]);
    let source = metrics.source("plant");
    source.received.inc_by(7);
    source.settled[0].inc_by(4);
    source.settled[9].inc_by(2);
    source.in_flight.set(1);
    source.connected.set(1);
    let partition = metrics.kafka("shop").partition("orders", 0);
    partition.lag.set(12);
    route.matched.inc_by(7);
    route.reject("too_deep");
    api.accepted.inc_by(5);
    api.meter(12_000);
    api.expired.inc();
    api.credentials_expiry.set(86_400);
    api.request("ok");
    api.retry("throttled", 3);
    letters.wrote("refused");

    let shown = value(&status);
    assert_eq!((&shown["state"], &shown["version"]), (&json!("not_ready"), &json!("0.1.0")));
    let [plant, shop] = [&shown["sources"][0], &shown["sources"][1]];
    assert_eq!(
        (&plant["type"], &plant["state"], &plant["why"]),
        (&json!("mqtt"), &json!("ready"), &Value::Null)
    );
    assert_eq!(
        (&plant["received"], &plant["settled"]["released"], &plant["in_flight"]),
        (&json!(7), &json!(2), &json!(1))
    );
    assert_eq!(plant["settled"], json!({ "published": 4, "released": 2 }));
    assert_eq!((&plant["lag"], &shop["lag"]), (&Value::Null, &json!(12)));
    assert_eq!((&shop["state"], &shop["why"]), (&json!("not_ready"), &json!("the broker is away")));
    assert_eq!(shown["routes"][0]["rejected"], json!({ "too_deep": 1 }));
    let api = &shown["apis"][0];
    assert_eq!(
        (&api["requests"], &api["retries"]),
        (&json!({ "ok": 1 }), &json!({ "throttled": 3 }))
    );
    assert_eq!(
        (&api["metered_units"], &api["expired"], &api["credentials_end"]),
        (&json!(3), &json!(1), &json!("1970-01-02T00:00:00.000Z"))
    );
    assert_eq!(api["estimated_cost"], json!({ "amount": 3e-6, "currency": "USD" }));
    assert_eq!(plant["credentials_end"], Value::Null);
    assert_eq!(
        (&api["pauses"][0]["scope"], &api["pauses"][0]["hint"]),
        (&json!("namespace `a`"), &json!("may it?"))
    );
    assert_eq!(shown["dead_letters"][0]["written"], json!({ "refused": 1 }));

    shutdown.start_drain();
    drop((main, partition));
    let shown = value(&status);
    assert_eq!(
        (&shown["state"], &shown["apis"][0]["state"]),
        (&json!("draining"), &json!("stopped"))
    );
    assert_eq!(shown["sources"][1]["lag"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn readings_are_taken_in_steps() {
    let metrics = Metrics::new();
    let _ = metrics.api("main", [], []);
    let status = Status::new(facts(), &metrics, Health::default(), Shutdown::new());
    let source = metrics.source("plant");
    source.in_flight.set(3);
    let _ = tokio::time::timeout(STEP * 3, status.sample()).await;
    let history = &value(&status)["history"];
    assert_eq!(history["step_seconds"], 5);
    let names =
        |list: &str, names: usize| history[list].as_array().is_some_and(|l| l.len() == names);
    assert!(names("sources", 2) && names("apis", 1), "{history}");
    let in_flight = history["sources"][0]["in_flight"].as_array().unwrap();
    assert!((2..=3).contains(&in_flight.len()) && in_flight.iter().all(|n| n == 3), "{history}");
}

#[test]
fn secrets_are_masked_in_texts_and_members_keep_their_names() {
    redact::learn("in_flight_bytes");
    redact::learn("hunter2-of-a-reason");
    let (metrics, health) = (Metrics::new(), Health::default());
    let status = Status::new(facts(), &metrics, health.clone(), Shutdown::new());
    let part = health.register("source plant", "said \"hunter2-of-a-reason\" and in_flight_bytes");
    let shown = value(&status);
    assert_eq!(shown["sources"][0]["why"], "said \"…\" and …");
    assert_eq!(shown["not_ready"][0]["why"], "said \"…\" and …");
    assert_eq!(shown["sources"][0]["in_flight_bytes"], 0);
    drop(part);
}

#[test]
fn the_whole_and_its_parts_are_of_one_moment() {
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let _api = metrics.api("main", ["ok"], ["throttled"]);
    let status = Status::new(facts(), &metrics, health.clone(), shutdown);
    let main = health.register("api main", "starting");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                main.ready();
                main.not_ready("refused");
            }
        });
        let shown: Vec<_> = (0..2_000).map(|_| value(&status)).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for shown in shown {
            let not_ready = shown["apis"][0]["state"] == json!("not_ready");
            assert_eq!(shown["state"] == json!("not_ready"), not_ready, "{shown}");
        }
    });
}
