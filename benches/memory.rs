//! What the bridge holds in memory, seen from outside: idle, with its limits in flight used up by a stalled
//! endpoint, and over hundreds of thousands of channels. See `benches/README.md`; `cargo bench --bench memory`
//! prints the table, `BRIDGES=one:other` compares binaries.

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
use std::time::Duration;

use bench::process::{Running, kib};
use bench::sink::{Sink, this_program};
use bench::{event, median};
use support::kafka::Kafka;
use support::kafka::records::Record;
use support::mosquitto::Mosquitto;
use support::{free_port, until};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// Large messages in flight, as many as a source of Kafka may hold by default, and more behind them.
const LARGE: usize = 30_000;
const LARGE_BYTES: usize = 4_096;

/// Channels, and events of each.
const CHANNELS: u64 = 300_000;
const EACH: u64 = 3;

/// What a start has allocated and let go of is given back to the system by then.
const SETTLED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(2);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    if let [sink, certificate] = &words[..]
        && sink == "sink"
    {
        return bench::sink::run(certificate);
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    Runtime::new().unwrap().block_on(table());
}

/// What the kernel says, in MiB: resident now, of that its own, and the most there was.
#[derive(Clone, Copy)]
struct Resident([f64; 3]);

async fn table() {
    let rounds = std::env::var("ROUNDS").map_or(5, |n| n.parse().unwrap());
    let bridges: Vec<PathBuf> = match std::env::var_os("BRIDGES") {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => vec![env!("CARGO_BIN_EXE_appsync-bridge").into()],
    };
    let kafka = Kafka::start("").await;
    let mosquitto = Mosquitto::start("").await;
    kafka.create_topic("idle", 12, &[]).await;
    let payload = |id: usize| format!("{{\"id\":{id},\"x\":\"{}\"}}", "x".repeat(LARGE_BYTES - 24));
    fill(&kafka, "large", LARGE, |id| Record::new(payload(id)).key((id % 100).to_string())).await;
    let channels = |id: usize| {
        let key = id as u64 % CHANNELS;
        Record::new(event(id as u64)).key(key.to_string())
    };
    fill(&kafka, "channels", (CHANNELS * EACH) as usize, channels).await;
    let mut sink = Sink::start(None);
    let stalled = stalled().await;
    println!("| bridge | work | resident, MiB | of that its own | the most |");
    println!("| --- | --- | --- | --- | --- |");
    for (number, bridge) in bridges.iter().enumerate() {
        let mut rows: Vec<(String, Vec<Resident>)> = Vec::new();
        let mut row = |name: &str, resident| match rows.iter_mut().find(|(known, _)| known == name)
        {
            Some((_, all)) => all.push(resident),
            None => rows.push((name.to_owned(), vec![resident])),
        };
        for round in 1..=rounds {
            eprintln!("bridge {number}, round {round} of {rounds}");
            let from_kafka = |topic: &str| {
                format!(
                    "type = \"kafka\"\nbrokers = [\"{}\"]\ntopics = [\"{topic}\"]\n\
                     group = \"{:016x}\"\n",
                    kafka.address(),
                    rand::random::<u64>()
                )
            };
            let mqtt = format!(
                "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\nclient_id = \"{:016x}\"\n\
                 subscriptions = [\"load/#\"]\n",
                mosquitto.port,
                rand::random::<u64>()
            );
            let started = start(bridge, &mqtt, "mqtt", &sink.endpoint).await;
            sleep(SETTLED).await;
            row("idle, MQTT", started.resident());
            drop(started);
            let started = start(bridge, &from_kafka("idle"), "{key}", &sink.endpoint).await;
            sleep(SETTLED).await;
            row("idle, Kafka", started.resident());
            drop(started);
            let started = start(bridge, &from_kafka("large"), "{key}", &stalled).await;
            let held = started.full().await;
            row(&format!("{held} of {LARGE_BYTES} bytes in flight"), started.resident());
            drop(started);
            let before = sink.seen().events;
            let started = start(bridge, &from_kafka("channels"), "{key}", &sink.endpoint).await;
            for third in 1..=EACH {
                let count = CHANNELS * third;
                until(&format!("{count} events"), PATIENCE, async || {
                    (sink.seen().events - before >= count as f64).then_some(())
                })
                .await;
                row(&format!("after {count} events to {CHANNELS} channels"), started.resident());
            }
        }
        for (name, all) in rows {
            let [now, own, most] = [0, 1, 2].map(|n| median(all.iter().map(|r| r.0[n])));
            println!("| {number} | {name} | {now:.1} | {own:.1} | {most:.1} |");
        }
    }
}

async fn fill(kafka: &Kafka, topic: &str, count: usize, record: impl Fn(usize) -> Record) {
    kafka.create_topic(topic, 12, &[]).await;
    let producer = kafka.producer(&[("linger.ms", "20"), ("batch.size", "500000")]);
    let all: Vec<usize> = (0..count).collect();
    for block in all.chunks(20_000) {
        producer.send(topic, block.iter().map(|id| record(*id))).await;
    }
}

/// An endpoint that takes connections, and answers nothing.
async fn stalled() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    format!("http://{address}/event")
}

struct Started {
    process: Running,
    admin: u16,
    _directory: tempfile::TempDir,
}

/// An ordinary configuration; it is ready.
async fn start(bridge: &Path, source: &str, channel: &str, endpoint: &str) -> Started {
    let directory = tempfile::tempdir().unwrap();
    let admin = free_port();
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         max_rate = 1000000\n\n[source.load]\n{source}\n[route.load]\nfrom = \"load\"\n\
         channel = \"/bench/{channel}\"\ndead_letter = \"discard\"\n\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n"
    );
    let config = directory.path().join("bridge.toml");
    fs::write(&config, text).unwrap();
    let log = directory.path().join("log");
    let child = Command::new(bridge)
        .args(["run", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let process = Running(child);
    until("the bridge is ready", PATIENCE, async || {
        fs::read_to_string(&log).unwrap().contains("\"ready\"").then_some(())
    })
    .await;
    Started { process, admin, _directory: directory }
}

impl Started {
    fn resident(&self) -> Resident {
        let lines = ["VmRSS", "RssAnon", "VmHWM"];
        Resident(lines.map(|line| kib(self.process.0.id(), line) / 1024.0))
    }

    /// Waits until nothing more is taken; how many are in flight.
    async fn full(&self) -> u64 {
        let mut before = 0;
        until("the source takes nothing more", PATIENCE, async || {
            sleep(Duration::from_millis(500)).await;
            let now = self.in_flight().await;
            (std::mem::replace(&mut before, now) == now && now > 0).then_some(now)
        })
        .await
    }

    async fn in_flight(&self) -> u64 {
        let page = format!("http://127.0.0.1:{}/metrics", self.admin);
        let page = reqwest::get(page).await.unwrap().text().await.unwrap();
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with("appsync_bridge_source_in_flight{"));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }
}
