//! `wrk`, the reference: what a load generator reaches on the same sink with one ready-made body.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::event;

/// How long each number of connections is tried.
const TRY: Duration = Duration::from_secs(2);

/// `wrk` with as many connections, of 1 to 64, as it is quickest with.
pub struct Wrk {
    script: PathBuf,
    endpoint: String,
    connections: u32,
}

impl Wrk {
    /// Tries them; `None` without it.
    pub fn find(endpoint: &str, directory: &Path) -> Option<Self> {
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
            Some((wrk.rate(TRY)?, wrk))
        });
        Some(tried.max_by(|(one, _), (other, _)| one.total_cmp(other))?.1)
    }

    /// Requests a second over `span`.
    pub fn rate(&self, span: Duration) -> Option<f64> {
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
