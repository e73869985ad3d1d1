//! What the SQS source costs with its whole duty (receiving, tracking, settling, deleting), beside the least that
//! could be written with the same library: receive ten, delete ten. See `benches/README.md`; `cargo bench --bench sqs`
//! prints the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub, clippy::cast_lossless)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#![allow(dead_code, unused_imports)] // the tests use more of it

#[path = "support/mod.rs"]
mod bench;

/// Of the tests' support only the queue: all of it needs every broker's client.
mod support {
    pub(crate) use waiting::{PATIENCE, free_port, until};

    #[path = "../../tests/support/jvm.rs"]
    mod jvm;
    #[path = "../../tests/support/sqs/mod.rs"]
    pub(crate) mod sqs;
    #[path = "../../tests/support/waiting.rs"]
    mod waiting;
}

use bench::median;
use bench::queue::{bare, run, take, with_source};
use mimalloc::MiMalloc;
use support::sqs::Server;
use support::sqs::fake::Fake;
use tokio::runtime::Runtime;

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COUNT: u64 = 100_000;

/// Of a source: the default, and more.
const RECEIVERS: [u32; 2] = [2, 8];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["queue", count] => run(count, filled),
        ["source", url, count, receivers] => {
            let (count, receivers) = (count.parse().unwrap(), receivers.parse().unwrap());
            Runtime::new().unwrap().block_on(with_source(url, count, receivers));
        }
        ["bare", url, count, receivers] => {
            let (count, receivers) = (count.parse().unwrap(), receivers.parse().unwrap());
            let endpoint = url.split('/').take(3).collect::<Vec<_>>().join("/");
            Runtime::new().unwrap().block_on(async {
                bare(Server::at(endpoint).client, url, count, receivers).await;
            });
        }
        _ => table(),
    }
}

/// A queue with these messages.
async fn filled(messages: Vec<String>) -> (Fake, String) {
    let fake = Fake::start().await;
    let queue = fake.queue("bench", &[]).await;
    fake.fill(&queue.name, messages);
    (fake, queue.url)
}

fn table() {
    let rounds = std::env::var("ROUNDS").map_or(5, |n| n.parse().unwrap());
    println!("{COUNT} messages of 256 bytes, the medians of {rounds} rounds");
    println!(
        "| receivers | messages/s | µs CPU a message | bare: messages/s | µs CPU | rate to bare | CPU to bare |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for receivers in RECEIVERS {
        let seen: Vec<[f64; 6]> = (0..rounds)
            .map(|_| {
                let [rate, cpu] = take("source", COUNT, receivers);
                let [of_bare, cpu_of_bare] = take("bare", COUNT, receivers);
                [rate, cpu, of_bare, cpu_of_bare, rate / of_bare, cpu / cpu_of_bare]
            })
            .collect();
        let [rate, cpu, of_bare, cpu_of_bare, rates, cpus] =
            [0, 1, 2, 3, 4, 5].map(|n| median(seen.iter().map(|round| round[n])));
        println!(
            "| {receivers} | {rate:.0} | {cpu:.1} | {of_bare:.0} | {cpu_of_bare:.1} | {rates:.2} | {cpus:.2} |"
        );
    }
}
