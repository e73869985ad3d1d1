//! The demo as a process, seen by a browser, a shell and the Amplify client.

mod trouble;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::Method;
use serde_json::Value;

use crate::support::amplify::Amplify;
use crate::support::demo::Demo;
use crate::support::emulator::{bridge, request};
use crate::support::page::{Page, target};

/// Events until the page has settled: every van was heard, what piled up at the start is drawn.
const WARM: u64 = 240;

/// How long the page is watched, in events.
const WINDOW: u64 = 960;

/// Who has not ended by then hangs.
const ENDING: Duration = Duration::from_secs(30);

#[test]
fn the_page_shows_what_the_fleet_publishes_and_what_the_user_says() {
    let mut page = Page::start();
    let mut demo = Demo::start();

    let opened = page.ask("open", demo.page());
    let first = Duration::from_secs_f64(opened["first_event_at"].as_f64().unwrap() / 1_000.0);
    let first = (UNIX_EPOCH + first).duration_since(demo.started).unwrap();

    let number = |counts: &Value, name: &str| counts[name].as_u64().unwrap();
    let before = page.ask("counts", &WARM.to_string());
    let after = page.ask("counts", &(number(&before, "received") + WINDOW).to_string());
    let [received, published] =
        ["received", "published"].map(|name| number(&after, name) - number(&before, name));
    println!(
        "first event after {first:.2?}; {received} received while {published} were published, {} ms behind",
        after["behind"]
    );
    // All that had been published came, which was waited for, and each number once. How soon depends on
    // what else the machine does.
    assert_eq!(after["numbered"], after["received"], "{after}");
    assert_eq!((number(&after, "gaps"), number(&after, "duplicates")), (0, 0), "{after}");
    assert_eq!(after["seen"], after["vehicles"], "{after}");
    assert_eq!(after["complaints"], serde_json::json!([]));

    let said = demo.publish_line().replace("hello\"}", "hello from a shell\"}");
    assert_ne!(said, demo.publish_line());
    shell(demo.publish_line());
    let message = page.ask("message", r#"{"text":"hello"}"#);
    let entry = message["message"].as_str().unwrap();
    assert!(entry.contains("hello\n") && entry.contains("demo/hello → /demo/hello"), "{entry}");
    shell(&said);
    page.ask("message", r#"{"text":"hello from a shell"}"#);

    let picture = target().join("demo-page.png");
    page.ask("screenshot", picture.to_str().unwrap());
    println!("the page: {}", picture.display());
    assert!(fs::metadata(&picture).unwrap().modified().unwrap() > demo.started);

    // With a browser still connected to it.
    assert!(Path::new(demo.rejects()).exists());
    let status = demo.interrupt(ENDING);
    assert_eq!(status.code(), Some(0), "{status}");
    page.ask("story", "It is over");
    for port in demo.ports() {
        assert!(TcpStream::connect(port).is_err(), "{port} is still taken");
    }
    let left: Vec<_> = fs::read_dir(demo.directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_amplify_client_receives_and_so_do_the_printed_lines() {
    let demo = Demo::start();
    let mut printed = Printed::run(demo.subscribe_lines());
    printed.wait("kind: 'position'", 1);
    let endpoint = demo.endpoint().replacen("http://", "HTTP://", 1);
    let mut client = Amplify::start(&["subscribe", &endpoint, demo.key(), "/demo/*", "1000"], &[]);
    // Its `ready` may come after the first events.
    while client.line().await["event"]["kind"] != "position" {}

    printed.wait("kind: 'position'", 50);
    shell(demo.publish_line());
    printed.wait("text: 'hello'", 1);

    let mut positions = 0;
    let mut said = false;
    while positions < 50 || !said {
        let line = client.line().await;
        match line.get("event") {
            Some(event) if event["kind"] == "position" => positions += 1,
            Some(event) => {
                assert_eq!(event, &serde_json::json!({ "text": "hello" }));
                said = true;
            }
            None => assert_eq!(line, serde_json::json!({ "ready": true })),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridges_status_page_is_where_the_demo_says() {
    let demo = Demo::start();
    let get = async |url: &str| request(Method::GET, url, &[], "").await;
    let page = get(demo.status()).await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    let status = get(&format!("{}status", demo.status())).await.json();
    assert_eq!(
        (&status["sources"][0]["name"], &status["apis"][0]["name"]),
        (&"city".into(), &"main".into())
    );
    let facts = get(&format!("{}demo.json", demo.page())).await.json();
    assert_eq!(facts["status"], demo.status());
}

#[test]
fn the_printed_configuration_is_good() {
    let demo = Demo::start();
    let file = demo.directory.path().join("bridge.toml");
    fs::write(&file, demo.config()).unwrap();
    let output = bridge().args(["check", "-c"]).arg(&file).output().unwrap();
    let [said, warned] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
    assert_eq!(output.status.code(), Some(0), "{said}{warned}");
    let expected = format!("{} is good: 1 api, 1 source, 2 routes\n", file.display());
    assert_eq!(said, expected);
    // The key stands in the file: worth a warning, and not to be repeated in it.
    assert!(warned.contains("key"), "{warned}");
    assert!(!warned.contains(demo.key()), "{warned}");
}

/// At an address of the network everybody looks, and nobody but the bridge publishes.
#[tokio::test(flavor = "multi_thread")]
async fn at_an_address_of_the_network_only_the_bridge_publishes() {
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Nothing is sent: it tells by which address this machine would.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    // A machine without a network has none.
    let Ok(own) = own else { return };
    let listen = format!("{}:0", own.ip());
    let demo = Demo::start_with(bridge(), &["--listen", &listen]);
    assert!(demo.endpoint().contains(&own.ip().to_string()), "{}", demo.endpoint());
    assert!(demo.config().contains("dangerously_plaintext = true"), "{}", demo.config());
    let (_, rest) = demo.config().split_once("token = \"").expect("no token");
    let token = rest.split('"').next().unwrap();
    let body = r#"{"channel":"/demo/hello","events":["1"]}"#;
    let publish = async |headers: &[(&str, &str)]| {
        request(Method::POST, demo.endpoint(), headers, body).await.status.as_u16()
    };
    assert_eq!(publish(&[("x-api-key", demo.key())]).await, 401, "whoever looks could publish");
    assert_eq!(publish(&[("x-api-key", "da2-demo-local-only")]).await, 401);
    assert_eq!(publish(&[("authorization", token)]).await, 200);
    let page = demo.page().split('#').next().unwrap();
    let facts = request(Method::GET, &format!("{page}demo.json"), &[], "").await.json();
    assert!(!facts.to_string().contains(token), "the page tells the bridge's token");
    assert_eq!(facts["api_key"], demo.key());

    let mut browser = Page::start();
    browser.ask("open", demo.page());
    let counts = browser.ask("counts", &WARM.to_string());
    assert_eq!((&counts["gaps"], &counts["duplicates"]), (&0.into(), &0.into()), "{counts}");
}

/// A bridge that can't be started again: its configuration is gone. It is waited for a minute, so it is a long one.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_does_not_come_back_is_given_up_and_said() {
    if std::env::var_os("LONG_TESTS").is_none() {
        return;
    }
    let demo = Demo::start();
    let own = fs::read_dir(demo.directory.path()).unwrap().next().unwrap().unwrap().path();
    fs::write(own.join("demo.toml"), "nothing = 1").unwrap();
    let press = async |what: &str| {
        let body = format!("{{\"what\":\"{what}\"}}");
        request(Method::POST, &format!("{}break", demo.page()), &[], body).await.status.as_u16()
    };
    let phase = async || {
        let live = request(Method::GET, &format!("{}live.json", demo.page()), &[], "").await;
        live.json()["trouble"]["phase"].as_str().map(str::to_owned)
    };
    assert_eq!(press("bridge").await, 200);
    assert_eq!(press("api").await, 409, "one thing at a time");
    let begun = Instant::now();
    while phase().await.as_deref() != Some("lost") {
        assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", phase().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(50), "{:?}", begun.elapsed());
    assert_eq!(press("api").await, 200, "nothing can be pressed any more");
}

/// A file of printed JavaScript, run by Node; killed when dropped.
struct Printed {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    heard: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Printed {
    /// Runs the lines as they are, beside the modules that they import.
    fn run(lines: &str) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
        let directory = tempfile::tempdir().unwrap();
        symlink(scripts.join("node_modules"), directory.path().join("node_modules")).unwrap();
        let file = directory.path().join("subscribe.mjs");
        fs::write(&file, lines).unwrap();
        let mut child = Command::new("node")
            .arg("--import")
            .arg(scripts.join("websocket.mjs"))
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`node` can't be run");
        let lines = read(child.stdout.take().unwrap());
        Self { child, lines, heard: Vec::new(), _directory: directory }
    }

    /// Until so many lines have this in them.
    fn wait(&mut self, what: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.heard.iter().filter(|line| line.contains(what)).count() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line =
                line.unwrap_or_else(|e| panic!("no {times} × `{what}`: {e}: {:?}", self.heard));
            self.heard.push(line);
        }
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a child, read by a thread so that they can be waited for.
fn read(stdout: ChildStdout) -> std::sync::mpsc::Receiver<String> {
    let (sender, lines) = channel();
    let stdout = BufReader::new(stdout);
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
    lines
}

/// What a user does with a line to paste.
fn shell(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
