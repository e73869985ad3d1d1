//! The demo as a process of its own, and what it printed.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use super::emulator::bridge;
use crate::support::PATIENCE;

/// How the last line that it prints begins.
const END: &str = "Open in a browser";

/// A running `appsync-bridge demo`; killed when dropped.
pub(crate) struct Demo {
    child: Child,
    text: String,
    /// Its temporary directory.
    pub(crate) directory: TempDir,
    /// When the process was started.
    pub(crate) started: SystemTime,
}

impl Demo {
    /// Starts one on a free port and waits until it has said everything.
    pub(crate) fn start() -> Self {
        Self::start_by(bridge())
    }

    /// As [`start`](Self::start), by this command.
    pub(crate) fn start_by(command: Command) -> Self {
        Self::start_with(command, &[])
    }

    /// As [`start`](Self::start), with these arguments.
    pub(crate) fn start_with(mut command: Command, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let started = SystemTime::now();
        let mut child = command
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = channel();
        // Reads on after the last line, so that the demo never writes into a closed pipe.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut demo = Self { child, text: String::new(), directory, started };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = receiver
                .recv_timeout(left)
                .unwrap_or_else(|e| panic!("the demo did not come to its end: {e}\n{}", demo.text));
            demo.text.push_str(&line);
            demo.text.push('\n');
            if line.trim_start().starts_with(END) {
                return demo;
            }
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of the page.
    pub(crate) fn page(&self) -> &str {
        self.fact("Open in a browser")
    }

    /// The address of the bridge's status page.
    pub(crate) fn status(&self) -> &str {
        self.fact("The bridge's status")
    }

    /// The line to paste into a shell.
    pub(crate) fn publish_line(&self) -> &str {
        self.fact("Make an event appear")
    }

    /// The Event API's endpoint.
    pub(crate) fn endpoint(&self) -> &str {
        self.fact("The Event API")
    }

    /// The file for what can't be published.
    pub(crate) fn rejects(&self) -> &str {
        self.fact("What can't be published")
    }

    /// The configuration, from its first line to its last.
    pub(crate) fn config(&self) -> &str {
        self.section("the bridge's configuration")
    }

    /// The JavaScript.
    pub(crate) fn subscribe_lines(&self) -> &str {
        self.section("subscribe with aws-amplify")
    }

    /// The API key, as the JavaScript has it.
    pub(crate) fn key(&self) -> &str {
        let (_, rest) = self.subscribe_lines().split_once("apiKey: '").expect("no key");
        rest.split_once('\'').unwrap().0
    }

    /// Every port that it told of: the page, the Event API, the metrics, the broker.
    pub(crate) fn ports(&self) -> [SocketAddr; 4] {
        let http = |url: &str| {
            let (_, rest) = url.split_once("://").unwrap();
            rest.split_once('/').unwrap().0.parse().unwrap()
        };
        let (_, broker) = self.config().split_once("\"mqtt://").expect("no broker");
        let broker = broker.split_once('"').unwrap().0.parse().unwrap();
        [http(self.page()), http(self.endpoint()), http(self.fact("The bridge's metrics")), broker]
    }

    /// Sends it a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the end.
    pub(crate) fn interrupt(&mut self, patience: Duration) -> ExitStatus {
        self.signal("-INT");
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still there {patience:?} after SIGINT");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn fact(&self, name: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.trim_start().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no `{name}` in:\n{}", self.text)).trim()
    }

    /// The lines between the rule with this title and the next rule.
    fn section(&self, title: &str) -> &str {
        let found = self.text.split("\n---").find_map(|s| s.strip_prefix(&format!(" {title} ")));
        let section = found.unwrap_or_else(|| panic!("no `{title}` in:\n{}", self.text));
        section.split_once('\n').unwrap().1
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
