//! What the Kafka source costs with its whole duty (taking, tracking, settling, committing), beside
//! what Apache Kafka's own `kafka-consumer-perf-test` reaches on the same topic. See
//! `benches/README.md`; `cargo bench --bench kafka` prints the table. Needs what `tests/run` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, clippy::cast_lossless)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(dead_code, unused_imports)] // the tests use more of it

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appsync_bridge::config::kafka::{KafkaConfig, Protocol, Start, Tombstones};
use appsync_bridge::config::source::Limits;
use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source::kafka::KafkaSource;
use mimalloc::MiMalloc;
use support::kafka::Kafka;
use support::kafka::records::Record;
use tokio::sync::mpsc;

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COUNT: u64 = 2_000_000;
const PARTITIONS: i32 = 12;
const RUNS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let kafka = Kafka::start("").await;
        kafka.create_topic("load", PARTITIONS, &[]).await;
        fill(&kafka).await;
        println!("{COUNT} messages of 256 bytes, {PARTITIONS} partitions");
        for run in 0..RUNS {
            let (rate, cpu) = source(&kafka, run).await;
            let theirs = perf_test(&kafka).await;
            println!(
                "{rate:.0} messages/s at {cpu:.2} us of CPU each; kafka-consumer-perf-test fetches {theirs:.0}/s: {:.2} of it",
                rate / theirs
            );
        }
    });
}

/// Keyed, as most topics are.
async fn fill(kafka: &Kafka) {
    let producer = kafka.producer(&[("linger.ms", "20"), ("batch.size", "500000")]);
    for block in 0..COUNT / 50_000 {
        let records = (0..50_000).map(|n| {
            let id = block * 50_000 + n;
            Record::new(vec![b'x'; 256])
                .key(format!("key-{}", id % 1_000))
                .partition((id % PARTITIONS as u64) as i32)
        });
        producer.send("load", records).await;
    }
}

async fn source(kafka: &Kafka, run: usize) -> (f64, f64) {
    let config = KafkaConfig {
        brokers: vec![kafka.address()],
        group: format!("bench-{run}"),
        topics: vec!["load".to_owned()],
        never: Vec::new(),
        instance: None,
        protocol: Protocol::Classic,
        session_timeout: Duration::from_secs(45),
        drain_timeout: Duration::from_secs(20),
        start: Start::Earliest,
        tombstones: Tombstones::Skip,
        tls: None,
        sasl: None,
        options: Vec::new(),
    };
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let numbers = (metrics.source("bench"), metrics.kafka("bench"));
    let part = Health::default().register("source bench", "starting");
    let limits = Limits { messages: 10_000, bytes: 64 << 20 };
    let source = KafkaSource::build("bench".into(), config, limits, numbers, part).await.unwrap();
    let (deliveries, mut queue) = mpsc::unbounded_channel();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    // What stands for the pipeline and the publisher: it settles at once, on another thread.
    let sink = tokio::spawn(async move {
        let mut batch = Vec::with_capacity(256);
        let mut first = None;
        while queue.recv_many(&mut batch, 256).await > 0 {
            first.get_or_insert_with(|| (Instant::now(), cpu()));
            counter.fetch_add(batch.len() as u64, Ordering::Relaxed);
            for delivery in batch.drain(..) {
                let delivery: appsync_bridge::delivery::Delivery = delivery;
                delivery.settle(Outcome::Accepted(Done::Published));
            }
        }
        first.unwrap()
    });
    let intake = Intake::new(move |delivery| drop(deliveries.send(delivery)));
    let run = tokio::spawn(source.run(intake, shutdown.clone()));
    while taken.load(Ordering::Relaxed) < COUNT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = Instant::now();
    shutdown.start_drain();
    run.await.unwrap().unwrap();
    let after = cpu();
    let (began, before) = sink.await.unwrap();
    let rate = COUNT as f64 / ended.duration_since(began).as_secs_f64();
    (rate, (after - before) * 1e6 / COUNT as f64)
}

/// What it fetches a second, the joining of its group left out, as above.
async fn perf_test(kafka: &Kafka) -> f64 {
    let group = format!("perf-{:08x}", rand::random::<u32>());
    let arguments = [
        "--bootstrap-server",
        &kafka.address(),
        "--topic",
        "load",
        "--num-records",
        &COUNT.to_string(),
        "--group",
        &group,
        "--hide-header",
    ];
    let said = kafka.tool("org.apache.kafka.tools.ConsumerPerformance", &arguments).await;
    let figure = said.lines().rev().find_map(|line| line.rsplit_once(", ")?.1.trim().parse().ok());
    figure.unwrap_or_else(|| panic!("no figures: {said}"))
}

/// Seconds of processor time of this process and all of its threads.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
