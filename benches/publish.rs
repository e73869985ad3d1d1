//! What publishing costs: an in-memory source, a route, the publisher, and a minimal sink in another
//! process, beside what `wrk` reaches with a ready-made body against the same sink. See
//! `benches/README.md`; `cargo bench --bench publish` prints the table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]
#![allow(clippy::cast_precision_loss)] // counts of seconds' worth of events
#![allow(clippy::naive_bytecount)] // of 1,400 bytes; the compiler makes vector code of it

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Delivery, Intake};
use appsync_bridge::health::Health;
use appsync_bridge::message::{Coordinates, Message, SourceName, Topic};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::pipeline::{Pipeline, Rejects, SourcePolicy};
use appsync_bridge::publish::Publisher;
use appsync_bridge::route::RouteTable;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source::{InFlight, Room};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long each round is measured.
const SPAN: Duration = Duration::from_secs(2);

/// How long the publisher runs before.
const WARM_UP: Duration = Duration::from_secs(1);

/// Rounds a row: in each `wrk` first, then the publisher. A machine is faster in one minute than in the
/// next, so the two take turns, each round has its ratio, and the medians count.
const ROUNDS: usize = 5;

/// What an MQTT source has in flight unless told otherwise.
const FEW: usize = 1_000;

/// What a Kafka source has.
const MANY: usize = 10_000;

/// An event of 256 bytes with one `#` in it, by which the sink counts.
fn event(id: u64) -> String {
    let head = format!("{{\"id\":{id},\"mark\":\"#\",\"filler\":\"");
    let filler = "x".repeat(256 - head.len() - 2);
    format!("{head}{filler}\"}}")
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sink", tls] => on_its_cores().block_on(sink(tls)),
        ["load", endpoint, auth, ca, channels, in_flight] => {
            let (channels, in_flight) = (channels.parse().unwrap(), in_flight.parse().unwrap());
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(load(endpoint, auth, ca, channels, in_flight));
        }
        _ => table(),
    }
}

/// A process of this same program.
fn child(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(words);
    command
}

fn table() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
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
    let mut sinks: Vec<(Child, String, Wrk)> = ["", directory.path().to_str().unwrap()]
        .into_iter()
        .map(|place| {
            let (sink, endpoint) = start_sink(place);
            let wrk = Wrk::find(&endpoint, directory.path());
            (sink, endpoint, wrk.expect("no `wrk` that works on the path"))
        })
        .collect();
    // A machine has quick minutes and slow ones: every row gets a round of each.
    let mut seen: Vec<Vec<[f64; 6]>> = vec![Vec::new(); rows.len()];
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for ((tls, auth, channels, in_flight), seen) in rows.iter().zip(&mut seen) {
            let (ca, sink) = match *tls {
                "tls" => (directory.path().join("ca.pem").display().to_string(), &sinks[1]),
                _ => (String::new(), &sinks[0]),
            };
            let (_, endpoint, wrk) = sink;
            let rate = wrk.rate(SPAN + WARM_UP).expect("it worked before");
            let (channels, in_flight) = (channels.to_string(), in_flight.to_string());
            let [events, requests, cpu] =
                publish(&["load", endpoint, auth, &ca, &channels, &in_flight]);
            seen.push([events, requests, events / requests, cpu, requests / rate, rate]);
        }
    }
    for (sink, _, _) in &mut sinks {
        sink.kill().unwrap();
        sink.wait().unwrap();
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

/// Events/s, requests/s and µs CPU an event of one round.
fn publish(load: &[&str]) -> [f64; 3] {
    let output = child(load)
        .env("AWS_ACCESS_KEY_ID", "AKIDBENCH")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_SESSION_TOKEN", "t".repeat(680))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let said = || panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
    numbers.try_into().unwrap_or_else(|_| said())
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// `wrk` with as many connections, of 1 to 64, as it is quickest with.
struct Wrk {
    script: PathBuf,
    endpoint: String,
    connections: u32,
}

impl Wrk {
    /// Tries them; `None` without it.
    fn find(endpoint: &str, directory: &Path) -> Option<Self> {
        let events: Vec<String> = (0..5).map(event).collect();
        let body = serde_json::json!({ "channel": "/bench/0", "events": events }).to_string();
        let script = directory.join("post.lua");
        let quoted = body.replace('\\', "\\\\").replace('\'', "\\'");
        std::fs::write(
            &script,
            format!("wrk.method = 'POST'\nwrk.headers['x-api-key'] = 'k'\nwrk.body = '{quoted}'\n"),
        )
        .unwrap();
        let tried = [1, 4, 16, 32, 64].into_iter().filter_map(|connections| {
            let wrk = Self { script: script.clone(), endpoint: endpoint.to_owned(), connections };
            Some((wrk.rate(SPAN)?, wrk))
        });
        Some(tried.max_by(|(one, _), (other, _)| one.total_cmp(other))?.1)
    }

    /// Requests a second over `span`.
    fn rate(&self, span: Duration) -> Option<f64> {
        let span = format!("{}s", span.as_secs());
        let threads = self.connections.min(2).to_string();
        let connections = self.connections.to_string();
        let output = Command::new("wrk")
            .args(["-t", &threads, "-c", &connections, "-d", &span, "-s", self.script.to_str()?])
            .arg(&self.endpoint)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line = text.lines().find(|l| l.starts_with("Requests/sec:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

fn start_sink(tls: &str) -> (Child, String) {
    let mut sink = child(&["sink", tls]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(sink.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let scheme = if tls.is_empty() { "http" } else { "https" };
    (sink, format!("{scheme}://localhost:{}/event", line.trim()))
}

/// The workers of the sink stay on a core each. The kernel likes to wake a thread where the one runs
/// that wakes it: the sink would wait behind the publisher there, while another core has nothing to do.
fn on_its_cores() -> Runtime {
    let next = AtomicUsize::new(0);
    let stay = move || stay_on_a_core(next.fetch_add(1, Relaxed));
    Builder::new_multi_thread().enable_all().on_thread_start(stay).build().unwrap()
}

/// Keeps this thread on the core whose turn it is of those that the process may use.
#[cfg(target_os = "linux")]
fn stay_on_a_core(turn: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let all = sched_getaffinity(None).unwrap();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    let mut own = CpuSet::new();
    own.set(cores[turn % cores.len()]);
    sched_setaffinity(None, &own).unwrap();
}

/// Elsewhere the figures can't be read either.
#[cfg(not(target_os = "linux"))]
fn stay_on_a_core(_turn: usize) {}

/// Answers as the service does, and does nothing else.
async fn sink(tls: &str) {
    let acceptor = (!tls.is_empty()).then(|| {
        let directory = PathBuf::from(tls);
        let chain = vec![CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let item =
        |i| format!(r#"{{"identifier":"53287bee-ae0d-42e7-8a90-e9d2a49e4bd7","index":{i}}}"#);
    let answers: Arc<Vec<Bytes>> = Arc::new(
        (0..=5)
            .map(|n| {
                let items: Vec<String> = (0..n).map(item).collect();
                Bytes::from(format!(r#"{{"failed":[],"successful":[{}]}}"#, items.join(",")))
            })
            .collect(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answers = Arc::clone(&answers);
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    let count = body.iter().filter(|b| **b == b'#').count();
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(answers[count].clone())))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A connection that ends is the other side's business.
            let _ = match acceptor {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => return,
                },
            };
        });
    }
}

/// Publishes as fast as it goes; prints events/s, requests/s and µs CPU an event.
async fn load(endpoint: &str, auth: &str, ca: &str, channels: u64, in_flight: usize) {
    let auth = match auth {
        "iam" => "{ type = \"iam\", aws = { region = \"eu-west-1\" } }",
        _ => "{ type = \"api-key\", key = \"k\" }",
    };
    let ca = if ca.is_empty() { String::new() } else { format!("ca_file = \"{ca}\"\n") };
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {auth}\nmax_rate = 1000000\n{ca}\
         [source.memory]\ntype = \"mqtt\"\nurl = \"mqtt://localhost\"\nclient_id = \"bench\"\nsubscriptions = [\"#\"]\n\
         [route.all]\nfrom = \"memory\"\ntopic = \"bench/{{n}}\"\nchannel = \"/bench/{{n}}\"\ndead_letter = \"discard\"\n"
    );
    let environment = Environment::of([("HOME", "/tmp")]);
    let loaded = config::parse(&text, Path::new("bench.toml"), &environment);
    let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let table = Arc::new(RouteTable::new(config.routes.iter().cloned()));
    let rejects = Rejects::new(HashMap::new());
    let (refused, _refused) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    let api = &config.apis["main"];
    let publisher = Publisher::build(api, &metrics, &health, refused).await.unwrap();
    let source = metrics.source("memory");
    let policy = SourcePolicy { max_payload: 300_000, unrouted: None, metrics: source.clone() };
    let policies = HashMap::from([("memory".into(), policy)]);
    let publishers = HashMap::from([("main".into(), entries)]);
    let pipeline = Pipeline::new(table, policies, &publishers, rejects, &metrics);
    tokio::spawn(publisher.run(queue, shutdown));
    let changed = Arc::new(Notify::new());
    let limits = config::source::Limits { messages: in_flight, bytes: 64 << 20 };
    let record: Arc<InFlight<()>> = InFlight::new(Room::new(limits, source), Arc::clone(&changed));
    let intake = Intake::new(move |delivery| pipeline.route(delivery));
    let topics: Vec<Topic> = (0..channels).map(|n| Topic::new(format!("bench/{n}"), '/')).collect();
    let payloads: Vec<Bytes> = (0..1_000).map(|id| event(id).into()).collect();
    let name = SourceName::new("memory");
    tokio::spawn(async move {
        for id in 0_u64.. {
            let settlement = record.take(Some(()), 256).expect("there is room");
            let pick = |len: usize| usize::try_from(id).unwrap() % len;
            let message = Message {
                source: name.clone(),
                topic: topics[pick(topics.len())].clone(),
                key: None,
                headers: Vec::new(),
                payload: payloads[pick(payloads.len())].clone(),
                order: Some((id % 5_000).to_le_bytes()[..].into()),
                published: None,
                coordinates: Coordinates::default(),
            };
            intake.submit(Delivery::new(message, settlement));
            while record.is_full() {
                record.acknowledgeable();
                if record.is_full() {
                    changed.notified().await;
                }
            }
        }
    });
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (seen(&metrics), Instant::now());
    tokio::time::sleep(SPAN).await;
    let (after, span) = (seen(&metrics), began.elapsed().as_secs_f64());
    let events = after.0 - before.0;
    println!(
        "{} {} {}",
        events / span,
        (after.1 - before.1) / span,
        (after.2 - before.2) * 1e6 / events
    );
    // What is in flight is of no interest any more.
    std::process::exit(0);
}

/// Events accepted, requests answered, and seconds of CPU of this process, so far.
fn seen(metrics: &Metrics) -> (f64, f64, f64) {
    let text = metrics.encode();
    let of = |series: &str| -> f64 {
        let line =
            text.lines().find(|l| l.starts_with(&format!("appsync_bridge_{series} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: Vec<f64> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse().unwrap())
        .collect();
    (
        of("publish_events_total{api=\"main\",outcome=\"accepted\"}"),
        of("publish_requests_total{api=\"main\",result=\"ok\"}"),
        (ticks[0] + ticks[1]) / 100.0,
    )
}
