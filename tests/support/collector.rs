//! A real collector of OpenTelemetry, which gives all it takes on to the test, as JSON.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{PATIENCE, ports, until};

/// A running collector; killed when dropped.
pub(crate) struct Collector {
    child: Child,
    directory: TempDir,
    pub(crate) port: u16,
    taken: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

/// A span that came, with what it says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Span(pub(crate) Value);

/// Where `tests/run` puts it.
const PROGRAM: &str = "tests/.cache/collector/collector";

impl Collector {
    /// One without TLS.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// One that shows this certificate, with its key, both in PEM.
    pub(crate) async fn start_with_tls((certificate, key): (String, String)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] =
            [("cert.pem", certificate), ("key.pem", key)].map(|(name, pem)| {
                let path = directory.path().join(name);
                fs::write(&path, pem).unwrap();
                path.display().to_string()
            });
        let tls = format!("\n        tls: {{ cert_file: {certificate}, key_file: {key} }}");
        let mut collector = Self::start_with(&tls).await;
        collector.directory = directory;
        collector
    }

    async fn start_with(tls: &str) -> Self {
        let taken: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (listener, all) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), taken.clone());
        let behind = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(async move |body: Bytes| {
            all.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            "{}"
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let [port] = ports();
        let directory = tempfile::tempdir().unwrap();
        let (config, log) = (directory.path().join("config.yaml"), directory.path().join("log"));
        let pipeline = "{ receivers: [otlp], exporters: [otlp_http] }";
        let text = format!(
            "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: 127.0.0.1:{port}{tls}\n\
             exporters:\n  otlp_http:\n    endpoint: http://{behind}\n    encoding: json\n    compression: none\n    \
             sending_queue: {{ enabled: false }}\n    retry_on_failure: {{ enabled: false }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  pipelines:\n    traces: {pipeline}\n    metrics: {pipeline}\n"
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("the collector cannot be run: `tests/run` builds it");
        until("the collector takes connections", PATIENCE, async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the collector ended, {status}: {}", fs::read_to_string(&log).unwrap());
            }
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        Self { child, directory, port, taken, task }
    }

    /// For `endpoint`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All that came, as text.
    pub(crate) fn text(&self) -> String {
        Value::from(self.taken.lock().unwrap().clone()).to_string()
    }

    /// What came of one kind: `resourceSpans`, `resourceMetrics`.
    fn resources(&self, kind: &str) -> Vec<Value> {
        let taken = self.taken.lock().unwrap();
        let of = |request: &Value| request[kind].as_array().cloned().unwrap_or_default();
        taken.iter().flat_map(of).collect()
    }

    /// Each span that came.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let all = self.resources("resourceSpans");
        all.iter().flat_map(|r| parts(r, "scopeSpans", "spans")).map(Span).collect()
    }

    /// Each metric that came.
    pub(crate) fn metrics(&self) -> Vec<Value> {
        let all = self.resources("resourceMetrics");
        all.iter().flat_map(|r| parts(r, "scopeMetrics", "metrics")).collect()
    }

    /// What each export said of the process.
    pub(crate) fn processes(&self) -> Vec<Value> {
        let (spans, metrics) = (self.resources("resourceSpans"), self.resources("resourceMetrics"));
        spans.into_iter().chain(metrics).map(|mut each| each["resource"].take()).collect()
    }

    /// Waits for this many spans.
    pub(crate) async fn has_spans(&self, count: usize) -> Vec<Span> {
        until("the spans came", PATIENCE, async || {
            Some(self.spans()).filter(|spans| spans.len() >= count)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.task.abort();
    }
}

impl Span {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// An attribute, as text.
    pub(crate) fn attribute(&self, name: &str) -> String {
        attribute(&self.0, name)
    }
}

/// The attribute of a span, a point or a resource, as text; empty: there is none.
pub(crate) fn attribute(of: &Value, name: &str) -> String {
    let all = of["attributes"].as_array().into_iter().flatten();
    let mut found = all.filter(|each| each["key"] == name);
    let Some(value) = found.next().map(|each| &each["value"]) else { return String::new() };
    let text = value["stringValue"].as_str().or(value["intValue"].as_str());
    text.unwrap_or_else(|| panic!("{name} is {value}")).to_owned()
}

fn parts(resource: &Value, scopes: &str, what: &str) -> Vec<Value> {
    let scopes = resource[scopes].as_array().into_iter().flatten();
    scopes.flat_map(|scope| scope[what].as_array().cloned().unwrap_or_default()).collect()
}
