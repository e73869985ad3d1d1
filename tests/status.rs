//! The admin port's `/status`, and the page that shows it in a real browser.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::mosquitto::Mosquitto;
use crate::support::page::{Page, target};
use crate::support::producer::publish;
use crate::support::until;

/// Two routes besides, into one namespace that is refused when a test says so, and one that nobody uses.
const ROUTES: &str = "[route.data]\nfrom = \"plant\"\ntopic = \"plant/{device}/data\"\nchannel = \"/plant/{device}\"\n\
    [route.alarms]\nfrom = \"plant\"\ntopic = \"plant/{device}/alarm\"\nchannel = [\"/alarms/{device}\", \"/alarms/all\"]\n\
    [route.everything]\nfrom = [\"plant\", \"spare\"]\ntopic = \"plant/{device}/archive/{rest..}\"\nchannel = \"/archive/{device}\"\n";

/// A bridge with two sources, each of its own broker.
struct Scene {
    emulator: Emulator,
    plant: Mosquitto,
    spare: Mosquitto,
    _setup: Setup,
    bridge: Bridge,
}

impl Scene {
    async fn start() -> Self {
        let emulator = Emulator::start(&[]);
        let (plant, spare) = (Mosquitto::start("").await, Mosquitto::start("").await);
        let source = |name: &str, port: u16, filters: &str| {
            format!(
                "[source.{name}]\ntype = \"mqtt\"\nclient_id = \"{name}\"\nurl = \"mqtt://127.0.0.1:{port}\"\nsubscriptions = [{filters}]\n"
            )
        };
        let sources = source(
            "plant",
            plant.port,
            "\"plant/+/data\", \"plant/+/alarm\", \"plant/+/archive/#\", \"plant/+/noise\"",
        ) + "unrouted = \"ignore\"\n"
            + &source("spare", spare.port, "\"plant/#\"");
        let setup = Setup::of(&emulator.endpoint, "", &format!("{sources}{ROUTES}"), "");
        let bridge = setup.start_ready().await;
        Self { emulator, plant, spare, _setup: setup, bridge }
    }

    /// Publishes good messages, and some that are not JSON, or that no route takes.
    async fn traffic(&self, count: u64) {
        let message = |id: u64| {
            let (device, payload) = (id % 7, format!("{{\"id\":{id}}}"));
            match id % 10 {
                3 => (format!("plant/dev-{device}/data"), "{".to_owned()),
                5 => (format!("plant/dev-{device}/noise"), payload),
                7 => (format!("plant/dev-{device}/alarm"), payload),
                _ => (format!("plant/dev-{device}/data"), payload),
            }
        };
        let message = |id| {
            let (topic, payload) = message(id);
            (topic, payload.into_bytes())
        };
        publish(self.plant.port, 200, (0..count).map(message)).await;
    }

    /// What comes for the namespace `alarms` is refused; it is tried with one message.
    async fn refuse_alarms(&self) {
        let fault = json!([{ "fault": { "refuse_namespace": {} }, "namespace": "alarms" }]);
        self.emulator.set_faults(fault).await;
        let alarm = ("plant/dev-1/alarm".to_owned(), b"{\"id\":1}".to_vec());
        publish(self.plant.port, 100, [alarm]).await;
    }

    async fn status(&self) -> Value {
        let (code, text) = self.bridge.get("/status").await;
        assert_eq!(code, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The status once this holds.
    async fn status_when(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        until(what, PATIENCE, async || {
            let status = self.status().await;
            good(&status).then_some(status)
        })
        .await
    }
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|part| part["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_the_metrics_say() {
    let scene = Scene::start().await;
    scene.traffic(100).await;
    scene.bridge.metric_is("source_received_total{source=\"plant\"}", |n| n == 100.0).await;
    scene.bridge.nothing_in_flight().await;

    let (status, metrics) = (scene.status().await, scene.bridge.metrics().await);
    let metric = |series: &str| metrics[&format!("appsync_bridge_{series}")];
    // Of a family, by the label that is left out of `series`; those at zero are not shown.
    let family = |series: &str| -> BTreeMap<String, f64> {
        let start = format!("appsync_bridge_{series}");
        let part = |(name, n): (&String, &f64)| {
            Some((name.strip_prefix(&start)?.strip_suffix("\"}")?.to_owned(), *n))
        };
        metrics.iter().filter_map(part).filter(|(_, n)| *n > 0.0).collect()
    };
    let shown = |counts: &Value| -> BTreeMap<String, f64> {
        let counts = counts.as_object().unwrap();
        counts.iter().map(|(name, n)| (name.clone(), n.as_f64().unwrap())).collect()
    };
    assert_eq!(status["state"], "ready");
    for name in ["plant", "spare"] {
        let source = named(&status["sources"], name);
        for (member, series) in [
            ("received", "source_received_total"),
            ("in_flight", "source_in_flight"),
            ("dropped", "source_dropped_total"),
            ("unrouted", "unrouted_total"),
            ("reconnects", "source_reconnects_total"),
        ] {
            let series = format!("{series}{{source=\"{name}\"}}");
            assert_eq!(source[member].as_f64(), Some(metric(&series)), "{series}: {source}");
        }
        let settled = format!("source_settled_total{{source=\"{name}\",outcome=\"");
        assert_eq!(shown(&source["settled"]), family(&settled), "{source}");
        assert_eq!((&source["state"], &source["connected"]), (&json!("ready"), &json!(true)));
    }
    let plant = named(&status["sources"], "plant");
    assert_eq!((&plant["type"], &plant["max_in_flight"]), (&json!("mqtt"), &json!(1_000)));
    assert_eq!((&plant["unrouted"], &plant["takes"][1]), (&json!(10), &json!("plant/+/alarm")));
    for name in ["data", "alarms", "everything"] {
        let route = named(&status["routes"], name);
        let matched = metric(&format!("route_matched_total{{route=\"{name}\"}}"));
        assert_eq!(route["matched"].as_f64(), Some(matched), "{route}");
        let rejected = family(&format!("route_rejected_total{{route=\"{name}\",reason=\""));
        assert_eq!(shown(&route["rejected"]), rejected, "{route}");
    }
    let data = named(&status["routes"], "data");
    assert_eq!((&data["rejected"], &data["matched"]), (&json!({ "invalid_json": 10 }), &json!(80)));
    assert_eq!(
        (&data["topic"], &data["channels"][0], &data["dead_letter"]),
        (&json!("plant/{device}/data"), &json!("/plant/{device}"), &json!("rejects"))
    );
    let api = named(&status["apis"], "main");
    for (member, outcome) in
        ["accepted", "rejected", "unconfirmed"].map(|outcome| (outcome, outcome))
    {
        let series = format!("publish_events_total{{api=\"main\",outcome=\"{outcome}\"}}");
        assert_eq!(api[member].as_f64(), Some(metric(&series)), "{series}: {api}");
    }
    assert_eq!(shown(&api["requests"]), family("publish_requests_total{api=\"main\",result=\""));
    assert_eq!(shown(&api["retries"]), family("publish_retries_total{api=\"main\",fault=\""));
    assert_eq!(
        api["concurrency_limit"].as_f64(),
        Some(metric("publish_concurrency_limit{api=\"main\"}"))
    );
    assert_eq!((&api["host"], &api["accepted"]), (&json!(scene.emulator.host()), &json!(90)));
    let letters = named(&status["dead_letters"], "rejects");
    assert_eq!(shown(&letters["written"]), family("dead_letters_total{reason=\""));
    assert_eq!(
        (&letters["type"], &letters["written"]),
        (&json!("file"), &json!({ "invalid_json": 10 }))
    );

    // The log's lines of them, each kind once and with its count.
    let log = status["log"].as_array().unwrap();
    let line = log.iter().find(|line| line["message"] == "can't be published, and is kept");
    let line = line.unwrap_or_else(|| panic!("{log:?}"));
    assert_eq!((&line["level"], &line["count"]), (&json!("WARN"), &json!(1)), "{line}");
    assert!(line["fields"].as_array().unwrap().contains(&json!(["route", "data"])), "{line}");
    let rates = |status: &Value| -> Vec<f64> {
        let plant = named(&status["history"]["sources"], "plant");
        let rates = plant["received_per_second"].as_array().unwrap();
        rates.iter().map(|n| n.as_f64().unwrap()).collect()
    };
    let status = scene.status_when("a reading", |s| rates(s).iter().sum::<f64>() > 0.0).await;
    let history = named(&status["history"]["sources"], "plant");
    assert_eq!(history["in_flight"].as_array().unwrap().len(), rates(&status).len(), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_namespace_and_a_broker_that_is_gone_say_why() {
    let mut scene = Scene::start().await;
    scene.refuse_alarms().await;
    let status =
        scene.status_when("the pause", |s| named(&s["apis"], "main")["state"] == "not_ready").await;
    let api = named(&status["apis"], "main");
    assert_eq!((&status["state"], &api["paused"]), (&json!("not_ready"), &json!(true)));
    let why = api["why"].as_str().unwrap();
    assert!(why.contains("namespace `alarms`") && why.contains("401"), "{why}");
    let pauses = api["pauses"].as_array().unwrap();
    assert_eq!((pauses.len(), &pauses[0]["scope"]), (1, &json!("namespace `alarms`")));
    let hint = pauses[0]["hint"].as_str().unwrap();
    let logged = scene.bridge.lines(&["the API refuses requests"]);
    let logged: Value = serde_json::from_str(&logged[0]).unwrap();
    assert_eq!(logged["hint"], hint);
    assert!(pauses[0]["why"].as_str().unwrap().contains("401"), "{pauses:?}");

    scene.spare.kill();
    let status = scene
        .status_when("the outage", |s| named(&s["sources"], "spare")["state"] == "not_ready")
        .await;
    let (spare, plant) = (named(&status["sources"], "spare"), named(&status["sources"], "plant"));
    let why = spare["why"].as_str().unwrap();
    let (_, ready) = scene.bridge.get("/readyz").await;
    assert!(!why.is_empty() && ready.contains("source spare: "), "{why} {ready}");
    assert_eq!((&spare["connected"], &plant["state"]), (&json!(false), &json!("ready")));

    scene.emulator.set_faults(json!([])).await;
    scene.spare.restart().await;
    let status = scene.status_when("the end of both", |s| s["state"] == "ready").await;
    assert_eq!(named(&status["apis"], "main")["pauses"], json!([]));
}

/// The page at a size and in the colours of a scheme, as a picture that is kept; nothing is wider than the window,
/// and the browser has nothing to complain of.
fn picture(page: &mut Page, what: &str, started: SystemTime) {
    for (width, scheme) in [(1280, "dark"), (1280, "light"), (390, "dark"), (390, "light")] {
        let look = json!({ "width": width, "height": 900, "scheme": scheme });
        page.ask("look", &look.to_string());
        let shown = page.ask("measure", ".");
        assert!(shown["wide"].as_f64().unwrap() <= f64::from(width), "{what} at {width}: {shown}");
        assert_eq!(shown["unnamed"], json!([]), "{what}");
        let focus = shown["focus"].as_array().unwrap();
        assert!(focus.contains(&json!("/status")), "{what}: {focus:?}");
        let file = target().join(format!("status-{what}-{width}-{scheme}.png"));
        page.ask("picture", file.to_str().unwrap());
        assert!(fs::metadata(&file).unwrap().modified().unwrap() > started);
        println!("{what}: {}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_is_well_what_is_refused_what_is_gone_and_its_own_age() {
    let started = SystemTime::now();
    let mut page = Page::start();
    let mut scene = Scene::start().await;
    let url = format!("http://{}/", scene.bridge.admin());

    let opened = page.ask("visit", &url);
    assert_eq!(opened["state"], "ready", "{opened}");
    let policy = opened["headers"]["content-security-policy"].as_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    scene.traffic(3_000).await;
    scene.bridge.nothing_in_flight().await;
    let received = scene.bridge.metric("source_received_total{source=\"plant\"}").await;
    assert_eq!(received, 3_000.0);
    let text = page.ask("until", "3,000")["text"].as_str().unwrap().to_owned();
    for words in [
        "plant/+/alarm",
        "spare",
        "/alarms/{device}",
        "invalid json",
        "Delay, 99 %",
        "Metered units",
        "can't be published, and is kept",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains("attention"), "{text}");
    picture(&mut page, "healthy", started);
    assert_eq!(page.ask("measure", ".")["complaints"], json!([]));

    scene.refuse_alarms().await;
    page.ask("state", "not_ready");
    let text = page.ask("until", "refuses the bridge")["text"].as_str().unwrap().to_owned();
    for words in ["1 part needs attention: api main", "Namespace `alarms`", "Not ready"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let hint = named(&scene.status().await["apis"], "main")["pauses"][0]["hint"].clone();
    page.ask("until", hint.as_str().unwrap());
    scene.traffic(300).await;
    scene.bridge.metric_is("source_received_total{source=\"plant\"}", |n| n == 3_301.0).await;
    picture(&mut page, "refused", started);

    scene.emulator.set_faults(json!([])).await;
    page.ask("state", "ready");
    scene.plant.kill();
    page.ask("state", "not_ready");
    let text = page.ask("until", "1 part needs attention: source plant")["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let why = named(&scene.status().await["sources"], "plant")["why"].as_str().unwrap().to_owned();
    let why = why.split([';', ':', ',']).next().unwrap();
    assert!(text.contains(why), "{why} in {text}");
    picture(&mut page, "gone", started);
    assert_eq!(page.ask("measure", ".")["complaints"], json!([]));

    // The bridge itself is gone: the page says since when, and keeps what it said last.
    scene.bridge.kill();
    page.ask("state", "stale");
    let text =
        page.ask("until", "The bridge gives no answer since ")["text"].as_str().unwrap().to_owned();
    assert!(
        text.contains("What is shown is what it said last") && text.contains("3,301"),
        "{text}"
    );
    picture(&mut page, "stale", started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_markup_is_text() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    // No route takes it, which the log says with the topic.
    let topic = "plant/<img src=x onerror=document.body.remove()>";
    publish(mosquitto.port, 100, [(topic.to_owned(), b"{}".to_vec())]).await;
    bridge.metric_is("unrouted_total{source=\"plant\"}", |n| n == 1.0).await;
    let mut page = Page::start();
    page.ask("visit", &format!("http://{}/", bridge.admin()));
    page.ask("until", topic);
    assert_eq!(page.ask("measure", ".")["complaints"], json!([]));
}
