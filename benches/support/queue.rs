//! A queue in a process of its own, and what takes from it: the source, and the least that could be written.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Delivery, Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName};
use tokio::sync::mpsc;

use super::event;
use super::process::{Running, cpu};
use super::publisher::credentials;
use super::sink::{on_its_cores, this_program};

/// Messages a second, and µs of CPU of its process a message.
pub type Figures = [f64; 2];

/// Takes all of a fresh queue with `count` messages in a process of its own: `who` is `source` or `bare`.
pub fn take(who: &str, count: u64, receivers: u32) -> Figures {
    let mut server = this_program();
    server.args(["queue", &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut says = BufReader::new(server.stdout.take().unwrap());
    let _server = Running(server);
    let mut url = String::new();
    says.read_line(&mut url).unwrap();
    let mut taker = this_program();
    taker.args([who, url.trim(), &count.to_string(), &receivers.to_string()]);
    let output = taker.envs(credentials()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let said = || panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
    numbers.try_into().unwrap_or_else(|_| said())
}

/// The main function of the queue's process: `fill` makes one with these messages, and gives its URL and what has to
/// live as long.
pub fn run<T>(count: &str, fill: impl AsyncFnOnce(Vec<String>) -> (T, String)) {
    let messages = (0..count.parse().unwrap()).map(event).collect();
    on_its_cores().block_on(async {
        let (_server, url) = fill(messages).await;
        println!("{url}");
        std::future::pending::<()>().await;
    });
}

/// The main function of a process that takes with the source, and settles at once.
pub async fn with_source(url: &str, count: u64, receivers: u32) {
    let text = format!(
        "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         [source.bench]\ntype = \"sqs\"\nqueue = \"{url}\"\naws = {{ region = \"eu-west-1\" }}\n\
         wait_time = \"1s\"\nreceivers = {receivers}\n\
         [route.all]\nfrom = \"bench\"\nchannel = \"/bench/all\"\ndead_letter = \"discard\"\n"
    );
    let environment = Environment::of([("HOME", "/tmp")]);
    let loaded = config::parse(&text, Path::new("bench.toml"), &environment);
    let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let part = Health::default().register("source bench", "starting");
    let source =
        source::build(&config.sources[0], &metrics, part, source::Begin::Start).await.unwrap();
    let (deliveries, mut queue) = mpsc::unbounded_channel::<Delivery>();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    // What stands for the pipeline and the publisher: it settles at once, on another thread.
    let sink = tokio::spawn(async move {
        let mut batch = Vec::with_capacity(256);
        let mut first = None;
        while queue.recv_many(&mut batch, 256).await > 0 {
            first.get_or_insert_with(begin);
            counter.fetch_add(batch.len() as u64, Relaxed);
            for delivery in batch.drain(..) {
                delivery.settle(Outcome::Accepted(Done::Published));
            }
        }
        first.unwrap()
    });
    let intake = Intake::new(move |delivery| drop(deliveries.send(delivery)));
    let run = tokio::spawn(source.run(intake, shutdown.clone()));
    while taken.load(Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = Instant::now();
    // With the deletions that are left; the receive that waits for more costs time only.
    shutdown.start_drain();
    run.await.unwrap().unwrap();
    let after = cpu(std::process::id());
    report(sink.await.unwrap(), (ended, after), count);
}

/// The main function of a process that receives ten and deletes them, as often as it can be done.
pub async fn bare(client: Client, url: &str, count: u64, receivers: u32) {
    let deleted = Arc::new(AtomicU64::new(0));
    // The library's first request is not measured.
    client.get_queue_url().queue_name(url.rsplit('/').next().unwrap()).send().await.unwrap();
    let began = begin();
    let receivers = (0..receivers).map(|_| {
        let (client, url, deleted) = (client.clone(), url.to_owned(), Arc::clone(&deleted));
        tokio::spawn(async move {
            while deleted.load(Relaxed) < count {
                let receive = client.receive_message().queue_url(&url).max_number_of_messages(10);
                let receive = receive.wait_time_seconds(1).message_attribute_names("All");
                let receive =
                    receive.message_system_attribute_names(MessageSystemAttributeName::All);
                let messages = receive.send().await.unwrap().messages.unwrap_or_default();
                if messages.is_empty() {
                    continue;
                }
                let entries = messages.iter().enumerate().map(|(at, message)| {
                    let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string());
                    entry.receipt_handle(message.receipt_handle().unwrap()).build().unwrap()
                });
                let delete = client.delete_message_batch().queue_url(&url);
                let answer = delete.set_entries(Some(entries.collect())).send().await.unwrap();
                assert_eq!(answer.failed, []);
                deleted.fetch_add(messages.len() as u64, Relaxed);
            }
        })
    });
    let receivers: Vec<_> = receivers.collect();
    while deleted.load(Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    report(began, begin(), count);
    for receiver in receivers {
        receiver.abort();
    }
}

fn begin() -> (Instant, f64) {
    (Instant::now(), cpu(std::process::id()))
}

fn report(began: (Instant, f64), ended: (Instant, f64), count: u64) {
    let rate = count as f64 / ended.0.duration_since(began.0).as_secs_f64();
    println!("{rate} {}", (ended.1 - began.1) * 1e6 / count as f64);
}
