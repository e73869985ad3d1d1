//! MQTT behind a backlog: a real mosquitto that kept messages for a session, the release binary with its defaults but
//! for the API's rate, and the sink, in turns with `mosquitto_sub` on an equal backlog. See `benches/README.md`;
//! `cargo bench --bench backlog` prints the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation
)]
#![allow(dead_code, unused_imports)] // the other benchmarks and the tests use more of their support

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench::process::Running;
use bench::sink::Sink;
use bench::{event, median, process};
use support::mosquitto::Mosquitto;
use support::producer::publish;
use support::{PATIENCE, signal, until};

/// Messages that wait.
const COUNT: u64 = 60_000;
const KEYS: u64 = 100;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match words.as_slice() {
        ["sink", certificate] => bench::sink::run(certificate),
        _ => runtime.block_on(table()),
    }
}

async fn table() {
    let rounds = std::env::var("ROUNDS").map_or(5, |n| n.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start("").await;
    let mut sink = Sink::start(None);
    let config = config(mosquitto.port, &sink.endpoint, directory.path());
    // The session is there before its messages are.
    let (mut child, log) = start(&config);
    until("the bridge has subscribed", PATIENCE, async || {
        let said = fs::read_to_string(&log).unwrap();
        assert!(child.0.try_wait().unwrap().is_none(), "it ended: {said}");
        said.contains("\"ready\"").then_some(())
    })
    .await;
    stop(child);
    let mut seen = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let theirs = bare(mosquitto.port).await;
        let [time, cpu, reconnects] = ours(mosquitto.port, &config, &mut sink).await;
        seen.push([time, theirs, theirs / time, cpu, reconnects]);
    }
    println!(
        "{COUNT} messages of 256 bytes over {KEYS} topics, QoS 1, from the start of the process to the last"
    );
    println!("| bridge, s | `mosquitto_sub`, s | of its rate | µs CPU a message | reconnects |");
    println!("| --- | --- | --- | --- | --- |");
    let [time, theirs, ratio, cpu, reconnects] =
        [0, 1, 2, 3, 4].map(|n| median(seen.iter().map(|round| round[n])));
    println!("| {time:.2} | {theirs:.2} | {ratio:.2} | {cpu:.1} | {reconnects} |");
}

/// Seconds, µs CPU a message and reconnects of the bridge.
async fn ours(port: u16, config: &Path, sink: &mut Sink) -> [f64; 3] {
    fill(port, "load").await;
    let before = sink.seen().events;
    let began = Instant::now();
    let (child, log) = start(config);
    while sink.seen().events - before < COUNT as f64 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(began.elapsed() < PATIENCE, "{}", fs::read_to_string(&log).unwrap());
    }
    let (time, cpu) = (began.elapsed().as_secs_f64(), process::cpu(child.0.id()));
    stop(child);
    assert!((sink.seen().events - before - COUNT as f64).abs() < 1.0, "none twice");
    let reconnects = fs::read_to_string(&log).unwrap().matches("not connected").count();
    [time, cpu * 1e6 / COUNT as f64, reconnects as f64]
}

/// Seconds that `mosquitto_sub` takes for the same.
async fn bare(port: u16) -> f64 {
    let port_word = port.to_string();
    let run = |words: &[&str]| {
        let mut command = Command::new("mosquitto_sub");
        let session = ["-p", &port_word, "-c", "-i", "bare", "-q", "1", "-t", "bare/#"];
        let status = command.args(session).args(words).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "mosquitto_sub {words:?}");
    };
    // Subscribes and leaves.
    run(&["-E"]);
    fill(port, "bare").await;
    let began = Instant::now();
    run(&["-C", &COUNT.to_string()]);
    let time = began.elapsed().as_secs_f64();
    // Its session would keep what comes later.
    let status = Command::new("mosquitto_sub")
        .args(["-p", &port_word, "-i", "bare", "-q", "1", "-t", "none", "-E"])
        .status();
    assert!(status.unwrap().success());
    time
}

async fn fill(port: u16, root: &str) {
    let message = |id| (format!("{root}/{}", id % KEYS), event(id).into_bytes());
    publish(port, 1_000_000, (0..COUNT).map(message)).await;
}

fn config(port: u16, endpoint: &str, directory: &Path) -> PathBuf {
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         max_rate = 1000000\n\n\
         [source.load]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"bridge\"\n\
         subscriptions = [\"load/#\"]\n\n\
         [route.load]\nfrom = \"load\"\ntopic = \"load/{{device}}\"\nchannel = \"/bench/{{device}}\"\n\
         dead_letter = \"discard\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    let path = directory.join("bridge.toml");
    fs::write(&path, text).unwrap();
    path
}

fn start(config: &Path) -> (Running, PathBuf) {
    let log = config.with_extension("log");
    let child = Command::new(env!("CARGO_BIN_EXE_appsync-bridge"))
        .args(["run", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn();
    (Running(child.unwrap()), log)
}

/// As an operator would: every message is acknowledged.
fn stop(mut bridge: Running) {
    signal(bridge.0.id(), "TERM");
    assert!(bridge.0.wait().unwrap().success());
}
