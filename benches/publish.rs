//! What publishing costs: an in-memory source, a route, the publisher, and a minimal sink in another
//! process, beside what `wrk` reaches with a ready-made body against the same sink. See
//! `benches/README.md`; `cargo bench --bench publish` prints the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub, dead_code, clippy::cast_precision_loss)]

#[path = "support/mod.rs"]
mod bench;

use bench::median;
use bench::publisher::{SPAN, WARM_UP, load, publish};
use bench::sink::{self, Sink};
use bench::wrk::Wrk;
use mimalloc::MiMalloc;
use tokio::runtime::Runtime;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Rounds a row: in each `wrk` first, then the publisher. A machine is faster in one minute than in the
/// next, so the two take turns, each round has its ratio, and the medians count.
const ROUNDS: usize = 5;

/// What an MQTT source has in flight unless told otherwise.
const FEW: usize = 1_000;

/// What a Kafka source has.
const MANY: usize = 10_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sink", certificate] => sink::run(certificate),
        ["load", words @ ..] => Runtime::new().unwrap().block_on(load(words)),
        _ => table(),
    }
}

fn table() {
    let directory = tempfile::tempdir().unwrap();
    sink::certificate(directory.path());
    let rows = [
        ("plain", "api-key", 1, FEW),
        ("plain", "api-key", 100, FEW),
        ("plain", "api-key", 100, MANY),
        ("plain", "api-key", 10_000, MANY),
        ("tls", "api-key", 100, FEW),
        ("tls", "iam", 1, FEW),
        ("tls", "iam", 100, FEW),
        ("tls", "iam", 100, MANY),
        ("tls", "iam", 10_000, MANY),
    ];
    let sinks = [None, Some(directory.path())].map(|certificate| {
        let sink = Sink::start(certificate);
        let wrk = Wrk::find(&sink.endpoint, directory.path());
        (sink, wrk.expect("no `wrk` that works on the path"))
    });
    // A machine has quick minutes and slow ones: every row gets a round of each.
    let mut seen: Vec<Vec<[f64; 6]>> = vec![Vec::new(); rows.len()];
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for ((tls, auth, channels, in_flight), seen) in rows.iter().zip(&mut seen) {
            let (ca, sink) = match *tls {
                "tls" => (directory.path().join("ca.pem").display().to_string(), &sinks[1]),
                _ => (String::new(), &sinks[0]),
            };
            let (sink, wrk) = sink;
            let rate = wrk.rate(SPAN + WARM_UP).expect("it worked before");
            let (channels, in_flight) = (channels.to_string(), in_flight.to_string());
            let [events, requests, cpu] =
                publish([&sink.endpoint, auth, &ca, &channels, &in_flight]);
            seen.push([events, requests, events / requests, cpu, requests / rate, rate]);
        }
    }
    println!(
        "| sink | auth | channels | in flight | events/s | requests/s | events a request | µs CPU an event | of wrk |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((tls, auth, channels, in_flight), seen) in rows.iter().zip(&seen) {
        let [events, requests, batch, cpu, ratio, rate] =
            [0, 1, 2, 3, 4, 5].map(|n| median(seen.iter().map(|round| round[n])));
        println!(
            "| {tls} | {auth} | {channels} | {in_flight} | {events:.0} | {requests:.0} | {batch:.2} | {cpu:.2} | {ratio:.2} of {rate:.0}/s |"
        );
    }
}
