//! What a user has: a real broker that was filled beforehand (core NATS, which keeps nothing, is filled meanwhile), the
//! release binary as a process of its own with an ordinary configuration, and a sink in a third process, beside what
//! `wrk` reaches on the same sink. See
//! `benches/README.md`; `cargo bench --bench relay` prints the tables, `-- "NAME"…` the rows of these
//! names. `BRIDGES=one:other` compares binaries in turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#![allow(dead_code, unused_imports)] // the other benchmarks and the tests use more of their support

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bench::consumer::source;
use bench::publisher::{credentials, load, publish};
use bench::sink::{Seen, Sink, this_program};
use bench::wrk::Wrk;
use bench::{event, median, process};
use mimalloc::MiMalloc;
use support::kafka::Kafka;
use support::kafka::records::Record;
use support::nats::Nats;
use support::until;
use tokio::runtime::Runtime;

/// As in the daemon, for the parts that run alone.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Messages in a topic, and …
const COUNT: u64 = 600_000;
const PARTITIONS: u64 = 12;

/// … sent ahead of the sink where the broker keeps none: fewer than the bridge may hold, so that none is lost.
const AHEAD: u64 = 8_000;

/// The first of a run are not measured, nor the last.
const FROM: f64 = 0.15;
const TO: f64 = 0.9;

/// Where the messages come from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Kafka,
    CoreNats,
    JetStream,
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    from: From,
    /// Of the messages.
    keys: u64,
    /// One for each key, or one for all.
    channels: u64,
    tls: bool,
    /// Of the API; `None`: the default.
    max_rate: Option<u32>,
    routes: usize,
    /// Of the messages, how many are traced; `None`: without `[otlp]`.
    sample: Option<f64>,
}

const PLAIN: Row = Row {
    name: "",
    from: From::Kafka,
    keys: 100,
    channels: 100,
    tls: false,
    max_rate: Some(1_000_000),
    routes: 1,
    sample: None,
};

const ROWS: [Row; 12] = [
    Row { name: "kafka, 100 channels", ..PLAIN },
    Row { name: "kafka, 1 channel", channels: 1, ..PLAIN },
    Row { name: "kafka, 10,000 channels", keys: 10_000, channels: 10_000, ..PLAIN },
    Row { name: "kafka, 100 channels, TLS and SigV4", tls: true, ..PLAIN },
    Row { name: "kafka, 100 channels, default rate", max_rate: None, ..PLAIN },
    Row { name: "kafka, 100 channels, 100 routes", routes: 100, ..PLAIN },
    Row { name: "kafka, 100 channels, 1,000 routes", routes: 1_000, ..PLAIN },
    Row { name: "kafka, 100 channels, 20,000 routes", routes: 20_000, ..PLAIN },
    Row { name: "kafka, 100 channels, OTLP", sample: Some(0.0), ..PLAIN },
    Row { name: "kafka, 100 channels, OTLP, all traced", sample: Some(1.0), ..PLAIN },
    Row { name: "nats, 100 channels", from: From::CoreNats, ..PLAIN },
    Row { name: "jetstream, 100 channels", from: From::JetStream, ..PLAIN },
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sink", certificate] => bench::sink::run(certificate),
        ["load", words @ ..] => Runtime::new().unwrap().block_on(load(words)),
        ["take", address, topic, count] => {
            let (address, count) = ((*address).to_owned(), count.parse().unwrap());
            let (rate, cpu) = Runtime::new().unwrap().block_on(source(address, topic, count));
            println!("{rate} {cpu}");
        }
        words => Runtime::new().unwrap().block_on(table(words)),
    }
}

/// What a run shows.
struct Figures {
    events: f64,
    requests: f64,
    cpu: f64,
    peak: f64,
    first: f64,
}

async fn table(words: &[&str]) {
    let rounds = std::env::var("ROUNDS").map_or(5, |n| n.parse().unwrap());
    let rows: Vec<Row> =
        ROWS.into_iter().filter(|row| words.is_empty() || words.contains(&row.name)).collect();
    assert!(!rows.is_empty(), "no such row");
    let bridges: Vec<PathBuf> = match std::env::var_os("BRIDGES") {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => vec![env!("CARGO_BIN_EXE_appsync-bridge").into()],
    };
    let directory = tempfile::tempdir().unwrap();
    bench::sink::certificate(directory.path());
    let (mut kafka, mut nats) = (None, None);
    let mut filled = Vec::new();
    for row in &rows {
        match row.from {
            From::Kafka if kafka.is_none() => kafka = Some(Kafka::start("").await),
            From::CoreNats | From::JetStream if nats.is_none() => {
                nats = Some(Nats::start("").await);
            }
            _ => {}
        }
        if !filled.contains(&(row.from, row.keys)) {
            filled.push((row.from, row.keys));
            match row.from {
                From::Kafka => fill(kafka.as_ref().unwrap(), row.keys).await,
                From::JetStream => fill_stream(nats.as_ref().unwrap(), row.keys).await,
                From::CoreNats => {}
            }
        }
    }
    let collector = collector().await;
    let mut plain = Sink::start(None);
    let mut tls = Sink::start(Some(directory.path()));
    let wrk = [&plain, &tls].map(|sink| {
        Wrk::find(&sink.endpoint, directory.path()).expect("no `wrk` that works on the path")
    });
    let mut seen: Vec<Vec<Vec<[f64; 7]>>> = vec![vec![Vec::new(); bridges.len()]; rows.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (row, seen) in rows.iter().zip(&mut seen) {
            let rate = wrk[usize::from(row.tls)].rate(Duration::from_secs(3)).expect("it worked");
            for (number, bridge) in bridges.iter().enumerate() {
                let sink = if row.tls { &mut tls } else { &mut plain };
                let server = match row.from {
                    From::Kafka => kafka.as_ref().unwrap().address(),
                    From::CoreNats | From::JetStream => nats.as_ref().unwrap().url(),
                };
                let config = config(row, &server, &sink.endpoint, &collector, directory.path());
                let nats = nats.as_ref().filter(|_| row.from == From::CoreNats);
                let f = run(bridge, &config, sink, row, nats).await;
                let batch = f.events / f.requests;
                seen[number].push([
                    f.events,
                    batch,
                    f.cpu,
                    f.peak,
                    f.first,
                    f.requests / rate,
                    rate,
                ]);
            }
        }
    }
    if let Some(kafka) = &kafka {
        let row = rows.iter().find(|row| row.from == From::Kafka).unwrap();
        parts(kafka, &plain, rounds, row);
    }
    println!(
        "| work | events/s | events a request | µs CPU an event | peak RSS, MiB | first event, ms | of wrk |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (row, seen) in rows.iter().zip(&seen) {
        for seen in seen {
            let [events, batch, cpu, peak, first, ratio, rate] =
                [0, 1, 2, 3, 4, 5, 6].map(|n| median(seen.iter().map(|round| round[n])));
            println!(
                "| {} | {events:.0} | {batch:.2} | {cpu:.2} | {peak:.0} | {first:.0} | {ratio:.2} of {rate:.0}/s |",
                row.name
            );
        }
        if let [one, other] = &seen[..] {
            let pairs = || one.iter().zip(other);
            let cpu: Vec<f64> = pairs().map(|(one, other)| other[2] / one[2]).collect();
            let events = median(pairs().map(|(one, other)| other[0] / one[0]));
            println!(
                "|  … the second to the first: events {events:.3}, CPU {:.3} {cpu:.3?} | | | | | | |",
                median(cpu.clone())
            );
        }
    }
}

/// What the two parts need alone, afterwards: taking without publishing, and publishing from memory.
fn parts(kafka: &Kafka, sink: &Sink, rounds: usize, row: &Row) {
    let topic = topic(row.keys);
    let seen: Vec<[f64; 2]> = (0..rounds)
        .map(|_| {
            let count = COUNT.to_string();
            let taken = this_program().args(["take", &kafka.address(), &topic, &count]).output();
            let taken = String::from_utf8(taken.unwrap().stdout).unwrap();
            let taking = taken.split_whitespace().nth(1).unwrap().parse().unwrap();
            [taking, publish([&sink.endpoint, "api-key", "", "100", "10000"])[2]]
        })
        .collect();
    let [taking, publishing] = [0, 1].map(|n| median(seen.iter().map(|round| round[n])));
    let sum = median(seen.iter().map(|round| round[0] + round[1]));
    println!(
        "the parts: {taking:.2} µs CPU an event for taking, {publishing:.2} for publishing: {sum:.2}"
    );
}

fn topic(keys: u64) -> String {
    format!("load-{keys}")
}

/// Keyed, as most topics are.
async fn fill(kafka: &Kafka, keys: u64) {
    let topic = topic(keys);
    kafka.create_topic(&topic, PARTITIONS as i32, &[]).await;
    let producer = kafka.producer(&[("linger.ms", "20"), ("batch.size", "500000")]);
    for block in 0..COUNT / 50_000 {
        let records = (0..50_000).map(|n| {
            let id = block * 50_000 + n;
            let key = id % keys;
            Record::new(event(id)).key(key.to_string()).partition((key % PARTITIONS) as i32)
        });
        producer.send(&topic, records).await;
    }
}

/// By key, as most subjects are.
async fn fill_stream(nats: &Nats, keys: u64) {
    let context = jetstream::new(nats.client().await);
    let name = topic(keys);
    let subjects = vec![format!("{name}.*")];
    let config = jetstream::stream::Config { name, subjects, ..Default::default() };
    context.create_stream(config).await.unwrap();
    let mut confirmed = Vec::new();
    for id in 0..COUNT {
        let subject = format!("{}.{}", topic(keys), id % keys);
        confirmed.push(context.publish(subject, event(id).into()).await.unwrap());
        if confirmed.len() == 1_000 {
            for each in confirmed.drain(..) {
                each.await.unwrap();
            }
        }
    }
}

/// Sends as fast as the sink takes, which has seen `seen` events, when the bridge has subscribed.
async fn feed(nats: &Nats, seen: Arc<AtomicU64>) {
    until("the bridge has subscribed", support::PATIENCE, async || {
        let connections = nats.monitor("/connz").await;
        let mut all = connections["connections"].as_array().unwrap().iter();
        all.any(|each| each["name"] == "appsync-bridge orders" && each["subscriptions"] == 1)
            .then_some(())
    })
    .await;
    let client = nats.client().await;
    let mut id = 0;
    let mut pause = tokio::time::interval(Duration::from_millis(1));
    while id < COUNT {
        while id < COUNT.min(seen.load(Ordering::Relaxed) + AHEAD) {
            let subject = format!("{}.{}", topic(PLAIN.keys), id % PLAIN.keys);
            client.publish(subject, event(id).into()).await.unwrap();
            id += 1;
        }
        pause.tick().await;
    }
    client.flush().await.unwrap();
}

/// The URL of what takes exports and throws them away, in this process, which has nothing else to do.
async fn collector() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(async |_: axum::body::Bytes| "");
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// The table of the source, and what else of the route it decides.
fn source_table(row: &Row, server: &str) -> (String, String) {
    let topic = topic(row.keys);
    let own = format!("bench-{:016x}", rand::random::<u64>());
    let one = row.channels == 1;
    match row.from {
        From::Kafka => {
            let pattern = if row.routes > 1 { ", \"^other-.*\"" } else { "" };
            let source = format!(
                "type = \"kafka\"\nbrokers = [\"{server}\"]\ntopics = [\"{topic}\"{pattern}]\n\
                 group = \"{own}\"\nstart = \"earliest\"\n"
            );
            let channel = if one { "one" } else { "{key}" };
            (source, format!("topic = \"{topic}\"\nchannel = \"/bench/{channel}\"\n"))
        }
        From::CoreNats | From::JetStream => {
            let kind = match row.from {
                From::CoreNats => format!("type = \"nats\"\nsubjects = \"{topic}.*\"\n"),
                _ => format!("type = \"jetstream\"\nstream = \"{topic}\"\ndurable = \"{own}\"\n"),
            };
            let channel = if one { "one" } else { "{k}" };
            let route = format!("topic = \"{topic}.{{k}}\"\nchannel = \"/bench/{channel}\"\n");
            (format!("{kind}servers = \"{server}\"\n"), route)
        }
    }
}

/// An ordinary configuration.
fn config(row: &Row, server: &str, endpoint: &str, collector: &str, directory: &Path) -> PathBuf {
    let (auth, ca) = if row.tls {
        let ca = directory.join("ca.pem");
        let auth = "{ type = \"iam\", aws = { region = \"eu-west-1\" } }";
        (auth, format!("ca_file = \"{}\"\n", ca.display()))
    } else {
        ("{ type = \"api-key\", key = \"k\" }", String::new())
    };
    let rate = row.max_rate.map(|rate| format!("max_rate = {rate}\n")).unwrap_or_default();
    let mut others = String::new();
    for n in 1..row.routes {
        writeln!(
            others,
            "[route.r{n}]\nfrom = \"orders\"\ntopic = \"other-{n}\"\nchannel = \"/bench/{n}\"\n\
             dead_letter = \"discard\""
        )
        .unwrap();
    }
    let otlp = row.sample.map(|sample| {
        format!("[otlp]\nendpoint = \"{collector}\"\ninterval = \"1s\"\nsample = {sample:.1}\n")
    });
    let otlp = otlp.unwrap_or_default();
    let (source, route) = source_table(row, server);
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {auth}\n{ca}{rate}\n\
         [source.orders]\n{source}\n{others}\
         [route.orders]\nfrom = \"orders\"\n{route}\
         dead_letter = \"discard\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{otlp}"
    );
    let path = directory.join("bridge.toml");
    std::fs::write(&path, text).unwrap();
    path
}

async fn run(
    bridge: &Path,
    config: &Path,
    sink: &mut Sink,
    row: &Row,
    core: Option<&Nats>,
) -> Figures {
    let before = sink.seen();
    let began = Instant::now();
    let child = Command::new(bridge)
        .args(["run", "-c"])
        .arg(config)
        .envs(credentials())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(config.with_extension("log")).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(config.with_extension("log")).unwrap();
    let pid = child.id();
    let _bridge = process::Running(child);
    let taken = Arc::new(AtomicU64::new(0));
    let done = |seen: Seen| {
        let done = seen.events - before.events;
        taken.store(done as u64, Ordering::Relaxed);
        done
    };
    let feeding = async {
        let Some(nats) = core else { return };
        feed(nats, Arc::clone(&taken)).await;
    };
    let mut measured = std::pin::pin!(measure(began, sink, row, pid, done, said));
    tokio::select! {
        figures = &mut measured => figures,
        () = feeding => measured.await,
    }
}

async fn measure(
    began: Instant,
    sink: &mut Sink,
    row: &Row,
    pid: u32,
    done: impl Fn(Seen) -> f64,
    said: impl Fn() -> String,
) -> Figures {
    let mut pause = tokio::time::interval(Duration::from_millis(2));
    while done(sink.seen()) == 0.0 {
        pause.tick().await;
        assert!(
            began.elapsed() < Duration::from_mins(1),
            "nothing comes: {}\n{}",
            row.name,
            said()
        );
    }
    let first_event = began.elapsed().as_secs_f64() * 1_000.0;
    let capped = row.max_rate.is_none();
    let (from, to) =
        if capped { (20_000.0, 80_000.0) } else { (FROM * COUNT as f64, TO * COUNT as f64) };
    let reach = async |sink: &mut Sink, count: f64| loop {
        let seen = sink.seen();
        if done(seen) >= count {
            return (seen, Instant::now(), process::cpu(pid));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < Duration::from_mins(2), "it is stuck: {}\n{}", row.name, said());
    };
    let (first, start, cpu) = reach(sink, from).await;
    let (last, end, after) = reach(sink, to).await;
    let events = last.events - first.events;
    let span = end.duration_since(start).as_secs_f64();
    Figures {
        events: events / span,
        requests: (last.requests - first.requests) / span,
        cpu: (after - cpu) * 1e6 / events,
        peak: process::kib(pid, "VmHWM") / 1024.0,
        first: first_event,
    }
}
