//! An Event API that does nothing but answer: a process of its own, whose requests cost as little as may be,
//! for it shares the cores with what is measured.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use super::process::Running;

/// A running sink; killed when dropped.
pub struct Sink {
    _process: Running,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    /// Where events are posted.
    pub endpoint: String,
}

/// What a sink has seen since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Events.
    pub events: f64,
    /// Requests.
    pub requests: f64,
}

/// How long events were on their way, ms: the middle of all, and what one in 100 and one in 1,000 exceeds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Sink {
    /// Starts one, with TLS if `certificate` is a directory with one.
    pub fn start(certificate: Option<&Path>) -> Self {
        let mut command = this_program();
        command.arg("sink").arg(certificate.unwrap_or(Path::new("")));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let asks = child.stdin.take().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://localhost:{}/event", line.trim());
        Self { _process: Running(child), asks, says, endpoint }
    }

    /// What it has seen so far.
    pub fn seen(&mut self) -> Seen {
        let [events, requests] = self.ask("seen");
        Seen { events, requests }
    }

    /// How long the events were on their way that came since it was asked last, of those that carry their time.
    pub fn times(&mut self) -> Times {
        let [p50, p99, p999] = self.ask("times");
        Times { p50, p99, p999 }
    }

    fn ask<const N: usize>(&mut self, what: &str) -> [f64; N] {
        writeln!(self.asks, "{what}").unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let said: Vec<f64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        said.try_into().unwrap()
    }
}

/// This same program.
pub fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// A certificate for `localhost`, in a directory.
pub fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

/// What it has seen.
#[derive(Default)]
struct Counts {
    events: AtomicU64,
    requests: AtomicU64,
    /// µs on the way, of the events that carry their time.
    times: Mutex<Vec<u64>>,
}

/// µs since 1970: the clock that the processes of one machine share.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

/// Answers as the service does, and does nothing else; the main function of the sink's process.
pub fn run(certificate: &str) {
    on_its_cores().block_on(serve(certificate));
}

async fn serve(certificate: &str) {
    let acceptor = (!certificate.is_empty()).then(|| {
        let directory = PathBuf::from(certificate);
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
    let (counts, answers) = (Arc::new(Counts::default()), Arc::new(answers()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let asked = Arc::clone(&counts);
    std::thread::spawn(move || answer_questions(&asked));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            match acceptor {
                None => answer(stream, &answers, &counts).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => answer(stream, &answers, &counts).await,
                    Err(_) => None,
                },
            }
        });
    }
}

fn answers() -> Vec<Bytes> {
    let item =
        |i| format!(r#"{{"identifier":"53287bee-ae0d-42e7-8a90-e9d2a49e4bd7","index":{i}}}"#);
    let answer = |n| {
        let items: Vec<String> = (0..n).map(item).collect();
        let body = format!(r#"{{"failed":[],"successful":[{}]}}"#, items.join(","));
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    (0..=5).map(|n| Bytes::from(answer(n))).collect()
}

/// Answers the requests of one connection, until it ends, which is the other side's business.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answers: &[Bytes],
    counts: &Counts,
) -> Option<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        let head = loop {
            if let Some(at) = memmem::find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            more(&mut stream, &mut buffer).await?;
        };
        let length = content_length(&buffer[..head]);
        while buffer.len() < head + length {
            more(&mut stream, &mut buffer).await?;
        }
        let body = &buffer[head..head + length];
        let events =
            memchr::memchr_iter(b'#', body).inspect(|at| counts.time(&body[*at + 1..])).count();
        counts.events.fetch_add(events as u64, Relaxed);
        counts.requests.fetch_add(1, Relaxed);
        buffer.advance(head + length);
        stream.write_all(&answers[events]).await.ok()?;
        stream.flush().await.ok()?;
    }
}

impl Counts {
    /// Of an event whose mark is followed by the time at which it was sent.
    fn time(&self, behind: &[u8]) {
        if behind.first().is_some_and(u8::is_ascii_digit) {
            self.times.lock().push(now().saturating_sub(number(behind)));
        }
    }

    /// p50, p99 and p99.9 of the times, ms; and forgets them.
    fn take_times(&self) -> [f64; 3] {
        let mut times = std::mem::take(&mut *self.times.lock());
        times.sort_unstable();
        [500, 990, 999].map(|of_1000| {
            let at = times.len() * of_1000 / 1_000;
            times.get(at).map_or(f64::NAN, |time| *time as f64 / 1_000.0)
        })
    }
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(1..) => Some(()),
        _ => None,
    }
}

fn content_length(head: &[u8]) -> usize {
    let name = b"ontent-";
    let at = memmem::find_iter(head, name).find(|at| {
        head[at + name.len()..].get(..7).is_some_and(|l| l.eq_ignore_ascii_case(b"length:"))
    });
    let value = &head[at.expect("a request has its length") + name.len() + 7..];
    number(value.trim_ascii_start()).try_into().unwrap()
}

/// The number that these begin with.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

fn answer_questions(counts: &Counts) {
    for line in std::io::stdin().lines() {
        if line.unwrap() == "times" {
            let [p50, p99, p999] = counts.take_times();
            println!("{p50} {p99} {p999}");
        } else {
            println!("{} {}", counts.events.load(Relaxed), counts.requests.load(Relaxed));
        }
    }
}

/// The workers of the sink stay on a core each. The kernel likes to wake a thread where the one runs
/// that wakes it: the sink would wait behind the publisher there, while another core has nothing to do.
pub fn on_its_cores() -> Runtime {
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
