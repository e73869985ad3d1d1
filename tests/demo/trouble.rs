//! Each button of the page is pressed in a real browser, and what the page says then is held against the ledger of the
//! Event API and the processes of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::ENDING;
use crate::support::demo::Demo;
use crate::support::emulator::{bridge, request};
use crate::support::page::{Page, target};

/// What is pressed; what the sentence says; whether messages may come twice after it; how many have to wait at the
/// broker meanwhile: a fraction of the 120 that the fleet publishes a second, as a busy machine lets it publish fewer.
const BUTTONS: [(&str, &str, bool, u64); 5] = [
    ("api", "answers 503", false, 60),
    ("throttle", "answers 429", false, 5),
    ("namespace", "refuses the namespace", false, 40),
    ("bridge", "was killed (SIGKILL, process ", true, 30),
    ("line", "connection to the broker is cut", true, 40),
];

/// The page has to be amber within this.
const AMBER: Duration = Duration::from_secs(2);

/// Widths and heights of windows, and their colours.
const LOOKS: [(u32, u32, &str); 4] =
    [(1280, 900, "dark"), (1280, 900, "light"), (390, 844, "dark"), (390, 844, "light")];

/// How soon, and how many wait at least, is held to in the long run alone: it needs a machine with nothing else to do.
#[test]
fn each_button_breaks_something_and_nothing_is_lost() {
    let alone = std::env::var_os("LONG_TESTS").is_some();
    let mut page = Page::start();
    let ledger = tempfile::NamedTempFile::new().unwrap();
    let file = ledger.path().to_str().unwrap();
    let mut demo = Demo::start_with(bridge(), &["--ledger", file]);
    page.ask("open", demo.page());
    page.ask("counts", "240");
    let calm = page.ask("phase", "calm");
    assert_eq!(held_to(&calm, ledger.path()), 0, "{calm}");
    pictures(&mut page, "calm");

    for (button, sentence, may_repeat, least) in BUTTONS {
        let before = page.ask("phase", if button == "api" { "calm" } else { "recovered" });
        let amber = page.ask("break", button);
        let after = Duration::from_millis(amber["after_ms"].as_u64().unwrap());
        println!("{button}: amber after {after:?}: {}", amber["story"].as_str().unwrap());
        assert!(after < AMBER || !alone, "{button}: {after:?}");
        assert!(amber["story"].as_str().unwrap().contains(sentence), "{button}: {amber}");
        if button == "api" {
            pictures(&mut page, "outage");
        }
        let drained = page.ask("phase", "recovered");
        println!("{button}: {}", drained["story"].as_str().unwrap());
        let peak = drained["peak"].as_u64().unwrap();
        assert!(peak >= if alone { least } else { 1 }, "{button}: only {peak} waited: {drained}");
        assert!(drained["waiting"].as_u64().unwrap() < 60 || !alone, "{button}: {drained}");
        // What the page counted is what the Event API has accepted: none is missing, and those that came twice
        // were published twice.
        let twice = held_to(&drained, ledger.path());
        assert_eq!(drained["gaps"], 0, "{button}: {drained}");
        assert_eq!(drained["duplicates"], twice, "{button}: {drained}");
        let new = twice - before["duplicates"].as_u64().unwrap();
        assert!(may_repeat || new == 0, "{button}: {new} came twice");
        let says = if new > 0 { "rather twice than never" } else { "0 gaps, 0 duplicates." };
        assert!(drained["story"].as_str().unwrap().contains(says), "{button}: {drained}");
        if button == "bridge" {
            assert_ne!(before["pid"], drained["pid"]);
            let pid = before["pid"].as_u64().unwrap();
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
        }
        if button == "api" {
            pictures(&mut page, "recovery");
        }
    }

    demo.signal("-STOP");
    let stale = page.ask("phase", "stale");
    assert!(stale["story"].as_str().unwrap().contains("what you see is old"), "{stale}");
    demo.signal("-CONT");
    page.ask("phase", "recovered");

    assert_eq!(demo.interrupt(ENDING).code(), Some(0));
    let over = page.ask("phase", "ended");
    assert!(over["story"].as_str().unwrap().contains("It is over"), "{over}");
    page.ask("picture", &picture("ended-1280-dark"));
}

#[test]
fn a_message_from_the_page_shows_its_channel_or_why_it_was_rejected() {
    let mut page = Page::start();
    let demo = Demo::start();
    page.ask("open", demo.page());
    for (topic, payload, fate, says) in [
        ("hello", r#"{"text":"from the page"}"#, "arrived", "demo/hello → /demo/hello"),
        ("a/b", "[1, 2]", "arrived", "demo/a/b → /demo/a/b"),
        ("hello", "no json", "rejected", "JSON"),
        ("bad name", "{}", "rejected", "bad name"),
    ] {
        let sent = page.ask("send", &json!({ "topic": topic, "payload": payload }).to_string());
        assert_eq!(sent["fate"], fate, "{sent}");
        assert!(sent["entry"].as_str().unwrap().contains(says), "{sent}");
        println!("{}", sent["entry"].as_str().unwrap().replace('\n', " | "));
    }
    for (width, height) in [(1280, 900), (390, 844)] {
        let look = json!({ "width": width, "height": height, "scheme": "dark" });
        page.ask("look", &look.to_string());
        let frames = page.ask("frames", ".");
        let shown = ["inside", "wide", "closed"].map(|name| frames[name].as_bool().unwrap());
        assert_eq!(shown, [true, false, true], "{frames}");
        let measured = page.ask("measure", ".");
        assert_eq!(measured["wide"], measured["width"], "{measured}");
        assert_eq!(measured["unnamed"], json!([]), "{measured}");
        assert_eq!(measured["complaints"], json!([]), "{measured}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_are_for_the_page_and_on_a_network_for_who_has_the_token() {
    let press = async |demo: &Demo, headers: &[(&str, &str)]| {
        let page = demo.page().split('#').next().unwrap();
        let body = r#"{"what":"nothing"}"#;
        request(Method::POST, &format!("{page}break"), headers, body).await.status.as_u16()
    };
    let demo = Demo::start();
    // 400: it would be done, if there were such a thing.
    assert_eq!(press(&demo, &[]).await, 400);
    assert_eq!(press(&demo, &[("origin", "http://evil.example")]).await, 403);
    assert_eq!(press(&demo, &[("host", "evil.example")]).await, 403);

    let demo = Demo::start_with(bridge(), &["--listen", "0.0.0.0:0"]);
    let (page, token) = demo.page().split_once("#token=").expect("no token");
    assert_eq!(press(&demo, &[]).await, 401);
    assert_eq!(press(&demo, &[("x-demo-token", "wrong")]).await, 401);
    assert_eq!(press(&demo, &[("x-demo-token", token)]).await, 400);
    let facts = request(Method::GET, &format!("{page}demo.json"), &[], "").await.json();
    assert_eq!(facts["locked"], true);
    assert!(!facts.to_string().contains(token), "whoever looks would have the token");
}

#[test]
fn the_bridge_ends_with_a_demo_that_is_killed() {
    let demo = Demo::start();
    let pid = children(demo.pid()).into_iter().next().expect("no process of the bridge");
    drop(demo);
    for _ in 0..500 {
        if !alive(pid) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{pid} is still there");
}

/// How many events of the fleet the ledger has twice, of those that the page saw. None may be missing in it.
fn held_to(page: &Value, ledger: &Path) -> u64 {
    let mut accepted: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for line in fs::read_to_string(ledger).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let event: Value = serde_json::from_str(line["event"].as_str().unwrap()).unwrap();
        if let (Some(van), Some(seq)) = (event["id"].as_str(), event["seq"].as_u64()) {
            *accepted.entry((van.to_owned(), seq)).or_default() += 1;
        }
    }
    let mut twice = 0;
    for (van, first) in page["first"].as_object().unwrap() {
        for seq in first.as_u64().unwrap()..=page["last"][van].as_u64().unwrap() {
            let times = accepted.get(&(van.clone(), seq)).copied().unwrap_or_default();
            assert!(times > 0, "{van} {seq} is not in the ledger");
            twice += times - 1;
        }
    }
    twice
}

fn pictures(page: &mut Page, what: &str) {
    for (width, height, scheme) in LOOKS {
        let look = json!({ "width": width, "height": height, "scheme": scheme });
        page.ask("look", &look.to_string());
        page.ask("picture", &picture(&format!("{what}-{width}-{scheme}")));
    }
    page.ask("look", &json!({ "width": 1280, "height": 900, "scheme": "dark" }).to_string());
}

fn picture(name: &str) -> String {
    target().join(format!("demo-{name}.png")).display().to_string()
}

fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let direct: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    if !direct.is_empty() {
        return direct;
    }
    // A child belongs to the thread that started it.
    let tasks = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether it runs: one that waits to be reaped does not.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
