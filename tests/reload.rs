//! A configuration that is read again while the bridge runs, under load from real brokers: what did not change does
//! not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::{Emulator, request};
use crate::support::ledger::{Accepted, Ledger, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce, publish};
use crate::support::shop::stop;
use crate::support::until;

mod under_load;

const GENERATION: &str = "config_generation";

/// How a test asks for a reload.
#[derive(Clone, Copy)]
enum By {
    Signal,
    Port,
}

/// Puts `new` in the place of `old` in the file of a bridge; what is in its place twice is not meant.
fn edit(setup: &Setup, old: &str, new: &str) {
    let text = fs::read_to_string(setup.config()).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old} in\n{text}");
    fs::write(setup.config(), text.replace(old, new)).unwrap();
}

fn append(setup: &Setup, lines: &str) {
    let text = fs::read_to_string(setup.config()).unwrap();
    fs::write(setup.config(), format!("{text}\n{lines}")).unwrap();
}

async fn reloads(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric(&format!("config_reloads_total{{result=\"{result}\"}}")).await
}

/// Has the bridge reload, and waits for its end, which is `result`.
async fn reload(bridge: &Bridge, by: By, result: &str) {
    let before = reloads(bridge, result).await;
    match by {
        By::Port => {
            let (status, answer) = bridge.reload(&[]).await;
            let expected = if result == "refused" { 422 } else { 200 };
            assert_eq!((status, answer["result"].as_str()), (expected, Some(result)), "{answer}");
        }
        By::Signal => bridge.signal("HUP"),
    }
    let series = format!("config_reloads_total{{result=\"{result}\"}}");
    bridge.metric_is(&series, |count| count == before + 1.0).await;
}

/// Lines of a source `spare` at this broker, with a route.
fn spare(port: u16) -> String {
    format!(
        "[source.spare]\ntype = \"mqtt\"\nclient_id = \"spare\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         subscriptions = [\"spare/#\"]\n\
         [route.spare]\nfrom = \"spare\"\nchannel = \"/spare/all\"\n"
    )
}

/// How often a client has connected to this broker.
fn connections(mosquitto: &Mosquitto, client: &str) -> usize {
    mosquitto
        .log()
        .lines()
        .filter(|l| l.contains("New client") && l.contains(&format!(" as {client} ")))
        .count()
}

/// What came by one of these namespaces, each event once and those of a key in their order in each channel.
fn once_and_in_order(accepted: &[Accepted], namespaces: &[&str], count: u64) {
    let of = |a: &&Accepted| namespaces.contains(&a.channel.split('/').nth(1).unwrap());
    let mine: Vec<_> = accepted.iter().filter(of).cloned().collect();
    assert_eq!((ids(&mine).len(), mine.len()), (count as usize, count as usize), "{namespaces:?}");
    let mut last = BTreeMap::new();
    for Accepted { channel, event } in &mine {
        let (key, seq) = (event["key"].as_u64(), event["seq"].as_u64());
        let before = last.insert((channel.clone(), key), seq);
        assert!(before < Some(seq), "{channel}: {before:?} before {seq:?} of {key:?}");
    }
}

/// A bridge with a mosquitto and an emulator that has a ledger and answers after a while.
struct Scene {
    emulator: Emulator,
    mosquitto: Mosquitto,
    ledger: Ledger,
    setup: Setup,
    bridge: Bridge,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn start(latency: &str, rest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", latency]);
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", rest);
        let bridge = setup.start_ready().await;
        Self { emulator, mosquitto, ledger, setup, bridge, _directory: directory }
    }

    /// Lines of a source `spare`, with a route.
    fn spare(&self) -> String {
        spare(self.mosquitto.port)
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.bridge.get("/status").await.1).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_changes_nothing_and_says_everything() {
    let scene = Scene::start("0ms", "").await;
    let (bridge, good) = (&scene.bridge, fs::read_to_string(scene.setup.config()).unwrap());
    edit(&scene.setup, "client_id =", "clientid =");
    edit(&scene.setup, "channel = \"/plant/{device}\"", "channel = \"/plant/{devise}\"");
    let (status, answer) = bridge.reload(&[]).await;
    assert_eq!(
        (status, &answer["result"], &answer["generation"]),
        (422, &json!("refused"), &json!(1))
    );
    let problems = answer["problems"].as_array().unwrap();
    let said: Vec<_> = problems.iter().map(|p| p["message"].as_str().unwrap()).collect();
    assert!(said.len() >= 2 && said.iter().any(|s| s.contains("clientid")), "{said:?}");
    assert!(said.iter().any(|s| s.contains("devise")) && problems[0]["line"].is_u64(), "{answer}");
    assert!(!bridge.lines(&["ERROR", "clientid"]).is_empty());
    assert!(!bridge.lines(&["ERROR", "not reloaded"]).is_empty());

    // Read well, but a part of it can't be built: nothing of it is there, what could be built neither.
    fs::write(scene.setup.config(), &good).unwrap();
    edit(&scene.setup, "rejects.jsonl", "rejects.jsonl/below/it.jsonl");
    append(&scene.setup, &scene.spare());
    let (status, answer) = bridge.reload(&[]).await;
    assert_eq!((status, answer["problems"].as_array().unwrap().len()), (422, 1), "{answer}");
    assert!(answer["problems"][0]["message"].as_str().unwrap().contains("dead_letter `rejects`"));
    assert_eq!(bridge.get("/readyz").await.0, 200);
    assert_eq!(scene.status().await["sources"].as_array().unwrap().len(), 1);
    assert!(!bridge.get("/metrics").await.1.contains("\"spare\""));
    produce(scene.mosquitto.port, 5, 1_000, 1).await;
    scene.ledger.reaches(5, PATIENCE).await;
    assert_eq!(bridge.metric(GENERATION).await, 1.0);

    // The same words again are no other configuration, and what needs a restart is said.
    fs::write(scene.setup.config(), format!("# a remark\n{good}")).unwrap();
    edit(&scene.setup, "format = \"json\"", "format = \"json\"\nlevel = \"debug\"");
    for _ in 0..2 {
        let (status, answer) = bridge.reload(&[]).await;
        assert_eq!((status, &answer["result"]), (200, &json!("unchanged")), "{answer}");
        assert_eq!(answer["needs_restart"], json!(["[log]"]));
    }
    assert_eq!(bridge.lines(&["WARN", "[log]", "restart"]).len(), 2);
    assert_eq!((reloads(bridge, "refused").await, reloads(bridge, "unchanged").await), (2.0, 2.0));
    assert_eq!(connections(&scene.mosquitto, "bridge"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_another_site_may_ask_and_nobody_behind_a_proxy() {
    let scene = Scene::start("0ms", "").await;
    let url = format!("http://{}", scene.bridge.admin());
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("host", "evil.example"), ("origin", "http://evil.example")],
        // Nor whoever is behind a proxy.
        &[("x-forwarded-for", "192.0.2.1")],
    ] {
        let answer = request(Method::POST, &format!("{url}/reload"), headers, "").await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    assert_eq!(request(Method::GET, &format!("{url}/reload"), &[], "").await.status, 405);
    let all = ["applied", "unchanged", "refused"];
    for result in all {
        assert_eq!(reloads(&scene.bridge, result).await, 0.0, "{result}");
    }
    let (status, _) = scene.bridge.reload(&[("origin", url.as_str())]).await;
    assert_eq!((status, reloads(&scene.bridge, "unchanged").await), (200, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_goes_settles_what_it_has_and_leaves_no_trace() {
    let scene = Scene::start("1s", "").await;
    let bridge = &scene.bridge;
    append(&scene.setup, &scene.spare());
    reload(bridge, By::Signal, "applied").await;
    bridge.ready().await;
    assert_eq!(scene.status().await["sources"].as_array().unwrap().len(), 2);
    publish(
        scene.mosquitto.port,
        1_000,
        (0..20).map(|id| {
            (
                "spare/a".to_owned(),
                json!({ "id": id, "key": id, "seq": 0 }).to_string().into_bytes(),
            )
        }),
    )
    .await;
    bridge.metric_is("source_in_flight{source=\"spare\"}", |v| v == 20.0).await;

    let text = fs::read_to_string(scene.setup.config()).unwrap();
    fs::write(scene.setup.config(), text.replace(&scene.spare(), "")).unwrap();
    let (_, answer) = bridge.reload(&[]).await;
    assert_eq!(answer["removed"], json!(["source spare", "route spare"]), "{answer}");
    assert_eq!(answer["generation"], json!(3));
    assert_eq!(bridge.get("/readyz").await, (200, "ready\n".to_owned()));
    let status = scene.status().await;
    assert_eq!(status["sources"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["routes"].as_array().unwrap().len(), 1, "{status}");
    until("the source has ended", PATIENCE, async || {
        (!bridge.lines(&["INFO", "source spare", "has ended"]).is_empty()).then_some(())
    })
    .await;
    assert_eq!(ids(&scene.ledger.read()).len(), 20);
    assert_eq!(scene.mosquitto.log().matches("Received PUBACK from spare").count(), 20);
    assert!(scene.mosquitto.log().contains("Received DISCONNECT from spare"));
    assert!(!bridge.get("/metrics").await.1.contains("\"spare\""));
    assert_eq!(connections(&scene.mosquitto, "bridge"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_goes_on_where_it_was() {
    let scene = Scene::start("20ms", "").await;
    let load = Load::start(scene.mosquitto.port, 500, 20);
    for n in 0..4 {
        scene.ledger.reaches(scene.ledger.len() + 200, PATIENCE).await;
        let (old, new) = if n == 0 {
            ("client_id =".to_owned(), "max_in_flight = 500\nclient_id =".to_owned())
        } else {
            (format!("max_in_flight = {}", 500 + n - 1), format!("max_in_flight = {}", 500 + n))
        };
        edit(&scene.setup, &old, &new);
        reload(&scene.bridge, By::Port, "applied").await;
        // One that is changed again before it began never connects.
        until("the changed source has connected", PATIENCE, async || {
            (connections(&scene.mosquitto, "bridge") == n + 2).then_some(())
        })
        .await;
    }
    scene.ledger.reaches(scene.ledger.len() + 200, PATIENCE).await;
    let count = load.stop().await;
    scene.ledger.has_ids(count as usize, PATIENCE).await;
    scene.bridge.nothing_in_flight().await;
    once_and_in_order(&scene.ledger.read(), &["plant"], count);
    assert_eq!(connections(&scene.mosquitto, "bridge"), 5);
    assert!(!scene.mosquitto.log().contains("already connected"), "two at a time");
    stop(scene.bridge).await;
}

/// What waits for an API that refuses it is kept, and published by the settings that come.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_refuses_everything_is_mended_without_a_restart() {
    let scene = Scene::start("0ms", "").await;
    edit(&scene.setup, "da2-local", "da2-wrong");
    reload(&scene.bridge, By::Port, "applied").await;
    produce(scene.mosquitto.port, 50, 1_000, 5).await;
    scene.bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    scene.bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v >= 1.0).await;
    edit(&scene.setup, "da2-wrong", "da2-local");
    let (_, answer) = scene.bridge.reload(&[]).await;
    assert_eq!(answer["changed"], json!(["api main"]), "{answer}");
    assert!(!scene.bridge.log().contains("da2-"), "a key is in the log");
    scene.ledger.has_ids(50, PATIENCE).await;
    scene.bridge.nothing_in_flight().await;
    once_and_in_order(&scene.ledger.read(), &["plant"], 50);
    assert_eq!(connections(&scene.mosquitto, "bridge"), 1);
    assert!(scene.setup.rejects().is_empty());
}

/// A dead letter that goes is written to until the last event that may need it is settled; one that changes loses
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_outlive_the_events_that_need_them() {
    let scene = Scene::start("2s", "").await;
    let refuse = json!([{ "fault": { "fail_events": { "probability": 1.0, "code": "InvalidEventException", "message": "no" } } }]);
    scene.emulator.set_faults(refuse).await;
    produce(scene.mosquitto.port, 10, 1_000, 10).await;
    scene.bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 10.0).await;
    // Both write to one file, and one after the other.
    edit(&scene.setup, "[dead_letter.rejects]", "[dead_letter.others]\nmax_size = \"1MB\"");
    let (status, answer) = scene.bridge.reload(&[]).await;
    assert_eq!((status, &answer["removed"]), (200, &json!(["dead_letter rejects"])), "{answer}");
    produce(scene.mosquitto.port, 10, 1_000, 10).await;
    until("all are dead letters", PATIENCE, async || {
        (scene.setup.rejects().len() == 20).then_some(())
    })
    .await;
    scene.bridge.nothing_in_flight().await;
    let settled = scene.bridge.settled("plant").await;
    assert_eq!(settled, BTreeMap::from([("dead_lettered".to_owned(), 20.0)]));
    let ended = ["INFO", "dead_letter rejects", "has ended"];
    until("the first one has ended", PATIENCE, async || {
        (!scene.bridge.lines(&ended).is_empty()).then_some(())
    })
    .await;
    scene.bridge.ready().await;
    // It changes in its place.
    edit(&scene.setup, "max_size = \"1MB\"", "max_size = \"2MB\"");
    reload(&scene.bridge, By::Signal, "applied").await;
    produce(scene.mosquitto.port, 10, 1_000, 10).await;
    until("all are dead letters", PATIENCE, async || {
        (scene.setup.rejects().len() == 30).then_some(())
    })
    .await;
    assert_eq!(connections(&scene.mosquitto, "bridge"), 1);
    stop(scene.bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_parts_that_are_leaving_and_a_second_signal_does_not() {
    for abort in [false, true] {
        let mut scene = Scene::start("3s", "").await;
        append(&scene.setup, &scene.spare());
        reload(&scene.bridge, By::Port, "applied").await;
        scene.bridge.ready().await;
        let message = |id: u64| {
            let (topic, key) =
                if id.is_multiple_of(2) { ("spare/a", 0) } else { ("plant/a/data", 1) };
            (topic.to_owned(), json!({ "id": id, "key": key, "seq": id }).to_string().into_bytes())
        };
        publish(scene.mosquitto.port, 1_000, (0..10).map(message)).await;
        for source in ["plant", "spare"] {
            let series = format!("source_in_flight{{source=\"{source}\"}}");
            scene.bridge.metric_is(&series, |v| v == 5.0).await;
        }
        let text = fs::read_to_string(scene.setup.config()).unwrap();
        // One goes, and one changes.
        let text = text
            .replace(&scene.spare(), "")
            .replace("client_id =", "max_in_flight = 7\nclient_id =");
        fs::write(scene.setup.config(), text).unwrap();
        reload(&scene.bridge, By::Port, "applied").await;
        scene.bridge.signal("TERM");
        if abort {
            let said = || scene.bridge.lines(&["\"draining\""]);
            until("it drains", PATIENCE, async || (!said().is_empty()).then_some(())).await;
            scene.bridge.signal("TERM");
        }
        let code = scene.bridge.ended(Duration::from_secs(20)).await.code();
        assert_eq!(code, Some(if abort { 130 } else { 0 }), "{}", scene.bridge.log());
        if !abort {
            let found: BTreeSet<u64> = ids(&scene.ledger.read());
            assert_eq!((found.len(), scene.ledger.read().len()), (10, 10));
            assert_eq!(scene.mosquitto.log().matches("Received PUBACK from spare").count(), 5);
            assert_eq!(connections(&scene.mosquitto, "bridge"), 1, "it came again while draining");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_of_each_reload() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = || {
        loop {
            let mut text = [0; 1_024];
            let length = socket.recv(&mut text).unwrap();
            let text = String::from_utf8(text[..length].to_vec()).unwrap();
            if text != "WATCHDOG=1\n" {
                return text;
            }
        }
    };
    let (emulator, mosquitto) = (Emulator::start(&[]), Mosquitto::start("").await);
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "")
        .env("NOTIFY_SOCKET", path.to_str().unwrap());
    let bridge = setup.start_ready().await;
    assert_eq!(hears(), "READY=1\n");
    for (edited, by, words) in [
        (
            ("topic = ", "strict_order = true\ntopic = "),
            By::Signal,
            "configuration 2 is in force; changed: route data",
        ),
        (
            ("topic = ", "topik = "),
            By::Port,
            "configuration 2 is in force; a reload was refused with 2 problems",
        ),
    ] {
        edit(&setup, edited.0, edited.1);
        match by {
            By::Signal => bridge.signal("HUP"),
            By::Port => drop(bridge.reload(&[]).await),
        }
        let said = hears();
        let since =
            said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{said}"));
        let up = fs::read_to_string("/proc/uptime").unwrap();
        let up: f64 = up.split(' ').next().unwrap().parse().unwrap();
        let since = since.trim().parse::<f64>().unwrap() / 1e6;
        assert!((since - up).abs() < 60.0, "{since} and {up}");
        let said = hears();
        assert!(said.starts_with("READY=1\nSTATUS=") && said.contains(words), "{said}");
    }
    bridge.signal("TERM");
    assert_eq!(hears(), "STOPPING=1\n");
}
