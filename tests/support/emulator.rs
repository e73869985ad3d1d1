//! The emulator as a process of its own, and plain HTTP to talk to it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use super::ledger::Ledger;

/// The key that every emulator of the tests takes.
pub(crate) const KEY: &str = "da2-local";

/// A running `appsync-bridge emulate`; killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    pub(crate) endpoint: String,
    pub(crate) realtime: String,
    pub(crate) ca_file: Option<String>,
    log: NamedTempFile,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// `appsync-bridge`, as this build made it. It ends with the thread that starts it, and so with the tests
/// even if these are killed. No test starts one on a thread that ends sooner than it should.
pub(crate) fn bridge() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_appsync-bridge")]);
    command
}

/// As [`bridge`], with no more than so many file descriptors.
pub(crate) fn with_descriptors(most: u32) -> Command {
    let (mut command, bridge) = (Command::new("prlimit"), bridge());
    command
        .arg(format!("--nofile={most}:{most}"))
        .arg(bridge.get_program())
        .args(bridge.get_args());
    command
}

impl Emulator {
    /// Starts one on a free port, with `args` besides.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// Starts one that writes a ledger into `directory`, with `args` besides.
    pub(crate) fn with_ledger(directory: &TempDir, args: &[&str]) -> (Self, Ledger) {
        let path = directory.path().join("ledger.jsonl");
        let args = [&["--ledger", path.to_str().unwrap()], args].concat();
        (Self::start(&args), Ledger { path })
    }

    /// Starts one on this address, with `args` besides.
    pub(crate) fn start_at(listen: &str, args: &[&str]) -> Self {
        Self::start_by(bridge(), listen, args)
    }

    /// As [`start_at`](Self::start_at), by this command.
    pub(crate) fn start_by(mut command: Command, listen: &str, args: &[&str]) -> Self {
        let log = NamedTempFile::new().unwrap();
        let mut child = command
            .args(["emulate", "--json", "--listen", listen])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            let log = std::fs::read_to_string(log.path()).unwrap();
            panic!("the emulator said {line:?} instead of JSON: {e}\n{log}")
        });
        let text = |name: &str| said[name].as_str().map(str::to_owned);
        Self {
            child,
            endpoint: text("endpoint").unwrap(),
            realtime: text("realtime").unwrap(),
            ca_file: text("ca_file"),
            log,
        }
    }

    /// What it has logged, a value a line.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        let line = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"))
        };
        text.lines().map(line).collect()
    }

    /// The spelling that makes Amplify go without TLS.
    pub(crate) fn amplify_endpoint(&self) -> String {
        self.endpoint.replacen("http://", "HTTP://", 1)
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        let (_, rest) = self.endpoint.split_once("://").unwrap();
        rest.split_once('/').unwrap().0
    }

    /// The most memory that it has had so far, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// `POST /event` with the key.
    pub(crate) async fn publish(&self, channel: &str, events: &[&str]) -> Answer {
        let body = serde_json::json!({ "channel": channel, "events": events }).to_string();
        self.post(&[("x-api-key", KEY)], body).await
    }

    /// `POST /event` with the key, where the connection may end without an answer.
    pub(crate) async fn try_publish(&self, channel: &str, events: &[&str]) -> Option<Answer> {
        let body = serde_json::json!({ "channel": channel, "events": events }).to_string();
        try_request(Method::POST, &self.endpoint, &[("x-api-key", KEY)], body).await.ok()
    }

    /// Puts these faults in the place of all others; `[]` lifts them.
    pub(crate) async fn set_faults(&self, faults: Value) {
        let answer = self.control(Method::PUT, "faults", &faults.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// How often each fault struck.
    pub(crate) async fn strikes(&self) -> Vec<u64> {
        let list = self.control(Method::GET, "faults", "").await.json();
        list.as_array().unwrap().iter().map(|fault| fault["struck"].as_u64().unwrap()).collect()
    }

    /// A request to the emulator itself.
    pub(crate) async fn control(&self, method: Method, what: &str, body: &str) -> Answer {
        let url = self.endpoint.replace("/event", &format!("/_emulator/{what}"));
        request(method, &url, &[], body.to_owned()).await
    }

    /// `POST /event` with these headers.
    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        request(Method::POST, &self.endpoint, headers, body).await
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.log.path()).unwrap_or_default());
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{} {:?} is no JSON: {e}", self.status, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, and `errorType` and `message` of the only error.
    pub(crate) fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no errors in {body}"));
        assert_eq!(errors.len(), 1, "{body}");
        let text = |name: &str| errors[0][name].as_str().map(str::to_owned);
        (self.status.as_u16(), text("errorType").unwrap(), text("message"))
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    try_request(method, url, headers, body).await.unwrap()
}

/// One request on a connection of its own, which may end without an answer.
pub(crate) async fn try_request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let exchange = async {
        let (parts, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no answer in 20 s")
}
