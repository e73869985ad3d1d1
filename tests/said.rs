//! What is said when an API, a proxy or AWS does not do what it should: in words that lead to the cause,
//! and in no characters that others chose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use appsync_bridge::delivery::{Done, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use axum::body::Body;
use axum::response::Response;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::script::{Ends, Play, Script, entry, entry_until};
use crate::support::stub::{Accepted, Stub, reply};
use crate::support::until;

const NO_AWS: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");

async fn one_message(port: u16, topic: &str, id: u64) {
    let payload = json!({ "id": id }).to_string().into_bytes();
    publish(port, 1_000, vec![(topic.to_owned(), payload)]).await;
}

async fn says(bridge: &Bridge, words: &str) -> String {
    until(words, PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(words)).then_some(text)
    })
    .await
}

/// Answers every request with this, and gives the bridge that publishes there something to publish.
async fn publishing_to(
    answer: impl Fn() -> Response + Send + Sync + 'static,
) -> (Stub, Mosquitto, Setup, Bridge) {
    let api = Stub::start(Duration::ZERO, move |_| answer()).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&api.url("/event"), mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    one_message(mosquitto.port, "plant/a/data", 0).await;
    (api, mosquitto, setup, bridge)
}

fn text(status: u16, body: &'static str) -> Response {
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_page_in_place_of_an_api_is_named() {
    let page = || text(200, "\n<!DOCTYPE html><html><form action=login></form></html>");
    let (_api, _mosquitto, _setup, bridge) = publishing_to(page).await;
    let said = says(&bridge, "is a proxy or a login page between?").await;
    assert!(said.contains("answered with HTML") && !said.contains("does not answer"), "{said}");
    assert!(!bridge.lines(&["WARN", "answered with HTML"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_api_says_reaches_nobodys_terminal() {
    let evil = "no\u{1b}[2J\u{9b}31m\u{202e}\u{7}\r\nready";
    let answer = move || {
        reply(
            403,
            &json!({ "errors": [{ "errorType": "AccessDeniedException", "message": evil }] }),
        )
    };
    let (_api, _mosquitto, _setup, bridge) = publishing_to(answer).await;
    let said = says(&bridge, "AccessDeniedException").await;
    let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(
        !said.contains(bad) && said.contains("\\u{1b}[2J") && !said.contains("\nready"),
        "{said}"
    );
    assert!(!bridge.log().contains(bad));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_to_know_who_asks_is_named() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut client, _) = proxy.accept().await.unwrap();
            let _ = client.read(&mut [0; 4_096]).await;
            let refusal =
                b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
            let _ = client.write_all(refusal).await;
        }
    });
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new("https://api.invalid/event", mosquitto.port, "", "", "")
        .env("HTTPS_PROXY", &format!("http://me:wrong-s3cret@{address}"))
        .env("NO_PROXY", "");
    let bridge = setup.start_ready().await;
    one_message(mosquitto.port, "plant/a/data", 0).await;
    let said = says(&bridge, "407").await;
    assert!(said.contains("proxy") && said.contains("`HTTPS_PROXY`"), "{said}");
    assert!(!bridge.log().contains("wrong-s3cret"));
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_elsewhere_is_not_what_is_wrong_with_a_namespace() {
    let accepted = Arc::new(Accepted::default());
    let judge = Arc::clone(&accepted);
    let api = Stub::start(Duration::ZERO, move |asked| {
        let refused = asked.body.contains("\"channel\":\"/closed/");
        judge.answer(asked, refused.then_some("UnauthorizedException"))
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let routes = ["open", "closed"].map(|name| {
        format!("[route.{name}]\nfrom = \"plant\"\ntopic = \"plant/{name}/{{x}}\"\nchannel = \"/{name}/{{x}}\"\n")
    });
    let setup = Setup::new(&api.url("/event"), mosquitto.port, "", "", &routes.concat());
    let bridge = setup.start_ready().await;
    one_message(mosquitto.port, "plant/open/x", 0).await;
    until("it is taken", PATIENCE, async || (accepted.len() > 0).then_some(())).await;
    one_message(mosquitto.port, "plant/closed/x", 1).await;
    says(&bridge, "namespace `closed` refuses us").await;
    let lines = bridge.lines(&["the API refuses requests", "namespace `closed`"]);
    assert!(lines[0].contains("other namespaces accept the same key"), "{lines:?}");
    assert!(!lines[0].contains("expire"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_wants_to_be_left_alone_is_shown_and_asked_within_half_a_minute() {
    for status in [429, 503] {
        let asked = AtomicUsize::new(0);
        let post = Script::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Play::RetryAfter(status, 86_400),
            _ => Play::Accept,
        });
        let (metrics, health, ends) =
            (Metrics::new(), Health::default(), Arc::new(Ends::default()));
        let (refused, _given_back) = mpsc::unbounded_channel();
        let (entries, queue) = mpsc::unbounded_channel();
        let publisher = post.publisher_seen(&metrics, &health, refused);
        let run = tokio::spawn(publisher.run(queue, Shutdown::new()));
        drop(entries.send(entry("/a/b", "k", 0, &ends)));
        let paused = |metrics: &Metrics| metrics.encode().contains("api_paused{api=\"main\"} 1");
        sleep(Duration::from_secs(29)).await;
        let said = health.not_ready().pop().unwrap().1;
        assert!(
            said.starts_with("waiting until 2") && said.contains(&status.to_string()),
            "{said}"
        );
        assert!(said.contains("86400 s") && said.contains("`Retry-After`"), "{said}");
        assert!(paused(&metrics) && post.posts().len() == 1);
        sleep(Duration::from_millis(1_100)).await;
        assert!(health.not_ready().is_empty() && !paused(&metrics), "{:?}", health.not_ready());
        assert_eq!((post.posts().len(), ends.all().len()), (2, 1), "{status}");
        drop(entries);
        run.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_is_said_no_more_though_nothing_is_left_to_send() {
    let post = Script::new(|_| Play::RetryAfter(503, 20));
    let (metrics, health, ends) = (Metrics::new(), Health::default(), Arc::new(Ends::default()));
    let (refused, _given_back) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    let publisher = post.publisher_seen(&metrics, &health, refused);
    let run = tokio::spawn(publisher.run(queue, Shutdown::new()));
    let expires = Some(Instant::now() + Duration::from_secs(5));
    drop(entries.send(entry_until(expires, "/a/b", "k", 0, &ends)));
    let paused = |metrics: &Metrics| metrics.encode().contains("api_paused{api=\"main\"} 1");
    sleep(Duration::from_secs(19)).await;
    assert!(!health.not_ready().is_empty() && paused(&metrics));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(ends.all(), [(0, Outcome::Accepted(Done::Expired))]);
    assert!(health.not_ready().is_empty() && !paused(&metrics), "{:?}", health.not_ready());
    assert_eq!(post.posts().len(), 1);
    drop(entries);
    run.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_to_wait_for_is_read_by_the_services_own_clock() {
    for years in [0, 30] {
        let (accepted, first) = (Arc::new(Accepted::default()), AtomicBool::new(true));
        let times = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (judge, came) = (Arc::clone(&accepted), Arc::clone(&times));
        let api = Stub::start(Duration::ZERO, move |asked| {
            came.lock().unwrap().push(std::time::Instant::now());
            if !first.swap(false, Ordering::SeqCst) {
                return judge.answer(asked, None);
            }
            let theirs = std::time::SystemTime::now() - Duration::from_hours(years * 365 * 24);
            let date = |time| httpdate::fmt_http_date(time);
            Response::builder()
                .status(503)
                .header("date", date(theirs))
                .header("retry-after", date(theirs + Duration::from_secs(3)))
                .body(Body::empty())
                .unwrap()
        })
        .await;
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&api.url("/event"), mosquitto.port, "", "", "");
        let bridge = setup.start_ready().await;
        one_message(mosquitto.port, "plant/a/data", 0).await;
        until("it is taken", PATIENCE, async || (accepted.len() > 0).then_some(())).await;
        let times = times.lock().unwrap();
        let waited = times[1] - times[0];
        assert!(waited >= Duration::from_millis(2_900), "{years}: {waited:?}");
        drop(bridge);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_built_in_and_no_credentials_are_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let profiles = directory.path().join("config");
    let session =
        "[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp/start\n";
    let profile = "[profile corp]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = r\n";
    std::fs::write(&profiles, format!("{profile}{session}")).unwrap();
    let auth = |profile: &str| {
        format!("auth = {{ type = \"iam\", aws = {{ region = \"eu-west-1\"{profile} }} }}")
    };
    let home = directory.path().to_str().unwrap().to_owned();
    let port = crate::support::free_port();
    let setup = Setup::new("http://127.0.0.1:9/event", port, &auth(", profile = \"corp\""), "", "");
    let mut command = crate::support::emulator::bridge();
    command.args(["run", "-c"]).arg(setup.file("bridge.toml"));
    command.env("AWS_CONFIG_FILE", &profiles).env("HOME", &home).env(NO_AWS.0, NO_AWS.1);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("the profile `corp` has `sso_session`"), "{said}");
    assert!(said.contains("aws configure export-credentials --profile corp"), "{said}");

    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new("http://127.0.0.1:9/event", mosquitto.port, &auth(""), "", "")
        .env("HOME", &home)
        .env(NO_AWS.0, NO_AWS.1);
    let bridge = setup.start_ready().await;
    let tried = || bridge.lines(&["tried: Environment ("]);
    until("it is said", PATIENCE, async || (!tried().is_empty()).then_some(())).await;
    // Without a message: nobody asked for them yet. Asked for, it is not said as a renewal either.
    one_message(mosquitto.port, "plant/a/data", 0).await;
    says(&bridge, "no AWS credentials: tried: Environment (").await;
    let lines = tried();
    assert_eq!(lines.iter().filter(|line| line.contains("\"what\"")).count(), 1, "{lines:?}");
    for part in ["Profile (", "WebIdentityToken (", "EcsContainer (", "Ec2InstanceMetadata ("] {
        assert!(lines[0].contains(part), "no {part}: {}", lines[0]);
    }
    assert!(!bridge.log().contains("can't be renewed"), "{}", bridge.log());
}
