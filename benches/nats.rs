//! What the JetStream source costs with its whole duty (pulling, tracking, settling, acknowledging), beside a bare loop
//! over async-nats that takes a message and acknowledges it, on the same stream in turn. See `benches/README.md`;
//! `cargo bench --bench nats` prints the table. Needs what `tests/run` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub, clippy::cast_precision_loss)]
#![allow(dead_code, unused_imports)] // the other benchmarks use more of their support

#[path = "support/process.rs"]
mod process;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appsync_bridge::config::SourceConfig;
use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Delivery, Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use async_nats::Client;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt as _;
use mimalloc::MiMalloc;
use process::{Running, cpu};

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COUNT: u64 = 500_000;
const SUBJECTS: u64 = 1_000;
const RUNS: usize = 3;
const PORT: u16 = 14_322;
const SERVER: &str = "tests/.cache/nats/nats-server";

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path());
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = client.connect(format!("127.0.0.1:{PORT}")).await.unwrap();
        fill(&client).await;
        println!("{COUNT} messages of 256 bytes, {SUBJECTS} subjects, a file store");
        println!("| bare loop, messages/s | µs CPU | source, messages/s | µs CPU | CPU of the loop's | rate of the loop's |");
        for _ in 0..RUNS {
            let (their_rate, their_cpu) = bare(&client).await;
            let (rate, cost) = ours().await;
            println!(
                "| {their_rate:.0} | {their_cpu:.2} | {rate:.0} | {cost:.2} | {:.2} | {:.2} |",
                cost / their_cpu,
                rate / their_rate
            );
        }
    });
}

fn start(directory: &Path) -> Running {
    let text = format!(
        "listen: \"127.0.0.1:{PORT}\"\njetstream: {{ store_dir: \"{}\" }}\n",
        directory.display()
    );
    let file = directory.join("nats.conf");
    std::fs::write(&file, text).unwrap();
    let child = Command::new(SERVER)
        .arg("--config")
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`nats-server` cannot be run: `tests/run` fetches it");
    Running(child)
}

async fn fill(client: &Client) {
    let context = jetstream::new(client.clone());
    let stream = stream::Config {
        name: "LOAD".into(),
        subjects: vec!["load.>".into()],
        ..Default::default()
    };
    while context.create_stream(stream.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The server drops what it has not stored yet beyond some thousands, unless its answers are awaited.
    let mut confirmed = Vec::new();
    for id in 0..COUNT {
        let subject = format!("load.device-{}", id % SUBJECTS);
        confirmed.push(context.publish(subject, vec![b'x'; 256].into()).await.unwrap());
        if confirmed.len() == 1_000 {
            for each in confirmed.drain(..) {
                each.await.unwrap();
            }
        }
    }
}

/// Messages a second, and µs CPU of this process a message.
async fn bare(client: &Client) -> (f64, f64) {
    let context = jetstream::new(client.clone());
    let config = pull::Config { max_ack_pending: 10_000, ..Default::default() };
    let consumer = context.create_consumer_on_stream(config, "LOAD").await.unwrap();
    let (began, before) = (Instant::now(), cpu(std::process::id()));
    let messages = consumer.stream().max_messages_per_batch(4_096).messages().await.unwrap();
    let mut messages = messages.take(usize::try_from(COUNT).unwrap());
    while let Some(message) = messages.next().await {
        message.unwrap().ack().await.unwrap();
    }
    client.flush().await.unwrap();
    figures(began, before)
}

/// The same of the source; what stands for the pipeline and the publisher settles at once.
async fn ours() -> (f64, f64) {
    let durable = format!("bench-{:08x}", rand::random::<u32>());
    let text = format!(
        "[api.main]\nendpoint = \"http://127.0.0.1:1/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         [source.it]\ntype = \"jetstream\"\nservers = \"127.0.0.1:{PORT}\"\nstream = \"LOAD\"\ndurable = \"{durable}\"\n\
         [route.it]\nfrom = \"it\"\nchannel = \"/it/x\"\n"
    );
    let loaded = config::parse(&text, Path::new("bench.toml"), &Environment::of_process());
    let config: SourceConfig = loaded.unwrap().config.sources.remove(0);
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let part = Health::default().register("source it", "starting");
    let made = source::build(&config, &metrics, part, source::Begin::Start).await.unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let intake = Intake::new(move |delivery: Delivery| {
        counter.fetch_add(1, Ordering::Relaxed);
        delivery.settle(Outcome::Accepted(Done::Published));
    });
    let (began, before) = (Instant::now(), cpu(std::process::id()));
    let run = tokio::spawn(made.run(intake, shutdown.clone()));
    let acknowledged = metrics.source("it").settled[0].clone();
    while acknowledged.get() < COUNT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let figures = figures(began, before);
    shutdown.start_drain();
    run.await.unwrap().unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), COUNT);
    figures
}

fn figures(began: Instant, before: f64) -> (f64, f64) {
    let rate = COUNT as f64 / began.elapsed().as_secs_f64();
    (rate, (cpu(std::process::id()) - before) * 1e6 / COUNT as f64)
}
