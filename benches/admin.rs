//! What strangers at the admin port cost an event: a thousand idle and slow connections, heads of a megabyte and
//! methods that there are not, beside an undisturbed run, in pairs. See `benches/README.md`;
//! `cargo bench --bench admin` prints the pairs, `PAIRS=3` fewer of them, `EVENTS=10000` shorter ones.

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

use std::time::Duration;

use bench::median;
use bench::process::kib;
use bench::sink::{Sink, this_program};
use support::bridge::{Bridge, Setup};
use support::crowd::Crowd;
use support::mosquitto::Mosquitto;
use support::producer::publish;
use support::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{interval, timeout};

const STRANGERS: usize = 1_000;

/// Who is cut off comes again after this.
const PAUSE: Duration = Duration::from_secs(10);

/// Between two large heads, and between two bad methods.
const EVERY: Duration = Duration::from_millis(100);

/// Events a second.
const RATE: u64 = 5_000;

const PATIENCE: Duration = Duration::from_mins(2);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    if let [sink, certificate] = &words[..]
        && sink == "sink"
    {
        return bench::sink::run(certificate);
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    Runtime::new().unwrap().block_on(pairs());
}

fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

struct Run<'a> {
    bridge: &'a Bridge,
    sink: Sink,
    port: u16,
    events: u64,
}

impl Run<'_> {
    /// Microseconds of processor time an event, and MiB resident.
    async fn measure(&mut self) -> (f64, f64) {
        let (before, seen) = (self.bridge.cpu(), self.sink.seen().events);
        let message = |id| (format!("plant/dev-{}/data", id % 50), bench::event(id).into_bytes());
        publish(self.port, RATE, (0..self.events).map(message)).await;
        let events = self.events as f64;
        until("all are published", PATIENCE, async || {
            (self.sink.seen().events - seen >= events).then_some(())
        })
        .await;
        let cpu = (self.bridge.cpu() - before) * 1e6 / events;
        (cpu, kib(self.bridge.pid(), "VmRSS") / 1024.0)
    }
}

async fn pairs() {
    let sink = Sink::start(None);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&sink.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    let events = asked("EVENTS", 50_000);
    let mut run = Run { bridge: &bridge, sink, port: mosquitto.port, events };
    run.measure().await;
    let fresh = bridge.descriptors();
    println!(
        "| pair | alone, us of CPU an event | beside strangers | difference | resident, MiB |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let mut differences = Vec::new();
    for pair in 1..=asked("PAIRS", 7) {
        let (alone, resident) = run.measure().await;
        let crowd = Crowd::gather(bridge.admin(), STRANGERS, PAUSE).await;
        let odd = tokio::spawn(odd(bridge.admin().to_owned()));
        let (beside, most) = run.measure().await;
        odd.abort();
        drop(crowd);
        let difference = (beside / alone - 1.0) * 100.0;
        differences.push(difference);
        println!(
            "| {pair} | {alone:.1} | {beside:.1} | {difference:+.1} % | {resident:.1}, {most:.1} |"
        );
    }
    println!("| median | | | {:+.1} % | |", median(differences));
    let left = until("the descriptors are closed", PATIENCE, async || {
        let open = bridge.descriptors();
        (open <= fresh + 1).then_some(open)
    })
    .await;
    println!("{fresh} descriptors before, {left} after");
}

/// A head of a megabyte and a bad method again and again.
async fn odd(address: String) {
    let large = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20], b"\r\n\r\n".to_vec()];
    let large = large.concat();
    let bad = b"BREW / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut clock = interval(EVERY);
    loop {
        clock.tick().await;
        for text in [&large[..], bad] {
            let _ = timeout(Duration::from_secs(1), send(&address, text)).await;
        }
    }
}

async fn send(address: &str, text: &[u8]) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text).await?;
    stream.read_to_end(&mut Vec::new()).await
}
