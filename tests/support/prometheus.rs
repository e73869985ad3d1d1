//! A Prometheus of our own, and its tool.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::emulator::request;
use super::{PATIENCE, free_port, until};

/// Where `tests/run` puts them.
const PROGRAMS: &str = "tests/.cache/prometheus";

/// A running server, which scrapes twice a second; killed when dropped.
pub(crate) struct Prometheus {
    child: Child,
    port: u16,
    _directory: TempDir,
}

/// The tool with these arguments.
pub(crate) fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("promtool"));
    command.args(arguments);
    command
}

fn program(name: &str) -> PathBuf {
    let cached = Path::new(PROGRAMS).join(name);
    // Tests run it from other directories.
    cached.canonicalize().unwrap_or_else(|_| PathBuf::from(name))
}

impl Prometheus {
    /// Starts one that scrapes this address and has the rules of a file.
    pub(crate) async fn start(target: &str, rules: &str) -> Self {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let rules = Path::new(rules).canonicalize().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 1s }}\nrule_files: ['{}']\n\
             scrape_configs:\n  - job_name: appsync-bridge\n    static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is not there: `tests/run` fetches it");
        let prometheus = Self { child, port, _directory: directory };
        until("Prometheus listens", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        until("Prometheus has scraped", PATIENCE, async || {
            let up = prometheus.get("query?query=up").await;
            (up["data"]["result"][0]["value"][1] == "1").then_some(())
        })
        .await;
        prometheus
    }

    /// The result of a query, now.
    pub(crate) async fn ask(&self, expression: &str) -> Vec<Value> {
        let query: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let answer = self.get(&format!("query?query={query}")).await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until so many rules were evaluated, each without an error.
    pub(crate) async fn rules_are_well(&self, count: usize) {
        until("the rules are evaluated", PATIENCE, async || {
            let answer = self.get("rules").await;
            let groups = answer["data"]["groups"].as_array().unwrap().clone();
            let rules: Vec<_> =
                groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
            assert!(rules.iter().all(|rule| rule["health"] != "err"), "{answer}");
            (rules.iter().filter(|rule| rule["health"] == "ok").count() == count).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port);
        let answer = request(Method::GET, &url, &[], "").await;
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
