//! What the Kafka source costs with its whole duty (taking, tracking, settling, committing), beside
//! what Apache Kafka's own `kafka-consumer-perf-test` reaches on the same topic. See
//! `benches/README.md`; `cargo bench --bench kafka` prints the table. Needs what `tests/run` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub, clippy::cast_lossless)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(dead_code, unused_imports)] // the tests use more of it

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use bench::consumer::source;
use mimalloc::MiMalloc;
use support::kafka::Kafka;
use support::kafka::records::Record;

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
        for _ in 0..RUNS {
            let (rate, cpu) = source(kafka.address(), "load", COUNT).await;
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
