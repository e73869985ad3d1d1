//! A mosquitto of our own.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::PATIENCE;
use super::certificates::certificates;
use super::{free_port, signal, until};

/// A running mosquitto; killed when dropped. What it confirmed it keeps, unless a test says otherwise.
pub(crate) struct Mosquitto {
    child: Option<Child>,
    directory: TempDir,
    pub(crate) port: u16,
}

/// Keeps what it confirmed through a kill, at the price of a write of everything at each change.
pub(crate) const SAVES_AT_ONCE: &str = "autosave_on_changes true\nautosave_interval 1\n";

impl Mosquitto {
    /// Starts one on a free port, with lines of configuration besides. The windows are wide, since a
    /// queue that overflows loses messages without a word.
    pub(crate) async fn start(lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, lines).await
    }

    /// As [`start`](Self::start), with files that the lines name in `directory`.
    pub(crate) async fn start_in(directory: TempDir, lines: &str) -> Self {
        let port = free_port();
        let access = if lines.contains("allow_anonymous") { "" } else { "allow_anonymous true\n" };
        let path = directory.path().display();
        let text = format!(
            "listener {port} 127.0.0.1\n{access}persistence true\npersistence_location {path}/\n\
             max_queued_messages 0\nmax_inflight_messages 1000\nset_tcp_nodelay true\n\
             log_type all\nlog_timestamp false\nlog_dest file {path}/log\n{lines}"
        );
        Self::configured(directory, port, &text).await
    }

    /// One with a configuration of its own, which listens on `port` and has its files in `directory`.
    pub(crate) async fn configured(directory: TempDir, port: u16, text: &str) -> Self {
        fs::write(directory.path().join("mosquitto.conf"), text).unwrap();
        let mut mosquitto = Self { child: None, directory, port };
        mosquitto.restart().await;
        mosquitto
    }

    /// One that also takes web sockets; `scheme` is `ws` or `wss`. Gives the lines of a source that takes
    /// that way.
    pub(crate) async fn start_with_websocket(scheme: &str, lines: &str) -> (Self, String) {
        let directory = tempfile::tempdir().unwrap();
        certificates(directory.path());
        let (path, port) = (directory.path().display().to_string(), free_port());
        let files = format!(
            "cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n"
        );
        let mut address = format!("url = \"{scheme}://localhost:{port}/mqtt\"");
        if scheme == "wss" {
            write!(address, "\ntls = {{ ca_file = \"{path}/ca.pem\" }}").unwrap();
        }
        let tls = if scheme == "wss" { files.as_str() } else { "" };
        let lines = format!("{lines}listener {port} 127.0.0.1\nprotocol websockets\n{tls}");
        let mosquitto = Self::start_in(directory, &lines).await;
        // Its listeners begin one after the other.
        until("mosquitto takes WebSockets", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        (mosquitto, address)
    }

    /// Starts it again, on the same port and files.
    pub(crate) async fn restart(&mut self) {
        let config = self.file("mosquitto.conf");
        let mut text = fs::read_to_string(&config).unwrap();
        // As root it would drop to a user that may not read the test's directory.
        if !text.contains("\nuser ") {
            text.push_str("\nuser root\n");
            fs::write(&config, text).unwrap();
        }
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`mosquitto` cannot be run: `tests/run` installs it");
        self.child = Some(child);
        let port = self.port;
        until("mosquitto listens", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
    }

    /// Waits until it has saved what it confirmed: it confirms first, saves now and then, and what it
    /// forgets in between is not ours to lose. A line behind that of the save tells that it is done.
    pub(crate) async fn saved(&self) {
        until("the broker has saved", PATIENCE, async || {
            let log = self.log();
            // Of QoS 2 it gives nothing on before the PUBREL.
            let of_producer = ["Received PUBLISH from producer", "Received PUBREL from producer"];
            let last = of_producer.iter().filter_map(|line| log.rfind(line)).max()?;
            let behind = &log[last..];
            let (_, behind) = behind.split_once("Saving in-memory database")?;
            (behind.lines().count() > 2).then_some(())
        })
        .await;
    }

    /// Has it read its configuration and its files again.
    pub(crate) fn reload(&self) {
        signal(self.child.as_ref().unwrap().id(), "HUP");
    }

    /// Ends it as an operator would: it saves everything.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            child.wait().unwrap();
        }
    }

    /// Has nothing but its port, its place and these lines in its configuration from its next start on.
    pub(crate) fn configure(&self, lines: &str) {
        let (port, path) = (self.port, self.directory.path().display());
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence_location {path}/\n\
             log_dest none\n{lines}"
        );
        fs::write(self.file("mosquitto.conf"), text).unwrap();
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
