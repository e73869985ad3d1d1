//! The Kafka source alone, with its whole duty: taking, tracking, settling, committing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appsync_bridge::config::kafka::{KafkaConfig, Protocol, Start, Tombstones, Topics};
use appsync_bridge::config::source::Limits;
use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source::kafka::KafkaSource;
use tokio::sync::mpsc;

use super::process::cpu;

/// Messages a second, and µs CPU of this process a message, for the first `count` of `topic`.
pub async fn source(address: String, topic: &str, count: u64) -> (f64, f64) {
    let config = KafkaConfig {
        brokers: vec![address],
        group: format!("bench-{:016x}", rand::random::<u64>()),
        topics: Topics::new([topic.to_owned()]),
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
            first.get_or_insert_with(|| (Instant::now(), cpu(std::process::id())));
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
    while taken.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = Instant::now();
    shutdown.start_drain();
    run.await.unwrap().unwrap();
    let after = cpu(std::process::id());
    let (began, before) = sink.await.unwrap();
    let rate = count as f64 / ended.duration_since(began).as_secs_f64();
    (rate, (after - before) * 1e6 / count as f64)
}
