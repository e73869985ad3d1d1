//! An Event API that does nothing but answer: a process of its own, whose requests cost as little as may be,
//! for it shares the cores with what is measured.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
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
        writeln!(self.asks).unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let mut said = line.split_whitespace().map(|n| n.parse().unwrap());
        Seen { events: said.next().unwrap(), requests: said.next().unwrap() }
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
        let events = memchr::memchr_iter(b'#', body).count();
        counts.events.fetch_add(events as u64, Relaxed);
        counts.requests.fetch_add(1, Relaxed);
        buffer.advance(head + length);
        stream.write_all(&answers[events]).await.ok()?;
        stream.flush().await.ok()?;
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
    let digits = value.iter().skip_while(|b| **b == b' ').take_while(|b| b.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}

fn answer_questions(counts: &Counts) {
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("{} {}", counts.events.load(Relaxed), counts.requests.load(Relaxed));
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
