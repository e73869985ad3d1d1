//! A nats-server of our own, with a store of its own.

pub(crate) mod operator;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use async_nats::{Client, ConnectOptions};
use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::emulator::request;
use super::{PATIENCE, ports, signal, until};

/// A running nats-server; killed when dropped. Its streams are in files, which a kill leaves as they are.
pub(crate) struct Nats {
    child: Option<Child>,
    directory: TempDir,
    pub(crate) port: u16,
    monitor: u16,
}

/// Where `tests/run` puts it.
const PROGRAM: &str = "tests/.cache/nats/nats-server";

impl Nats {
    /// Starts one on a free port, with `JetStream` and with lines of configuration besides.
    pub(crate) async fn start(lines: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), lines).await
    }

    /// As [`start`](Self::start), with files that the lines name in `directory`.
    pub(crate) async fn start_in(directory: TempDir, lines: &str) -> Self {
        let [port, monitor] = ports();
        let mut nats = Self { child: None, directory, port, monitor };
        nats.configure(lines);
        nats.restart().await;
        nats
    }

    /// Has these lines in its configuration from its next start on.
    pub(crate) fn configure(&self, lines: &str) {
        let (port, monitor, path) = (self.port, self.monitor, self.directory.path().display());
        let text = format!(
            "server_name: \"test\"\nhttp: \"127.0.0.1:{monitor}\"\nlisten: \"127.0.0.1:{port}\"\nlog_file: \"{path}/log\"\npid_file: \"{path}/pid\"\ndebug: true\n\
             jetstream: {{ store_dir: \"{path}/store\" }}\n{lines}\n"
        );
        fs::write(self.file("nats.conf"), text).unwrap();
    }

    /// Starts it again, on the same port and store.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let before = self.log().len();
        let child = Command::new(PROGRAM)
            .arg("--config")
            .arg(self.file("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`nats-server` cannot be run: `tests/run` fetches it");
        let mut child = Some(child);
        until("nats-server is ready", PATIENCE, async || {
            if let Some(status) = child.as_mut().unwrap().try_wait().unwrap() {
                panic!("nats-server ended, {status}: {}", self.log());
            }
            self.log()[before..].contains("Server is ready").then_some(())
        })
        .await;
        self.child = child;
    }

    /// Lets it end as an operator would who spares its clients: it says so, and closes their connections one by one.
    pub(crate) fn lame_duck(&self) {
        signal(self.pid(), "USR2");
    }

    /// Has it read its configuration again, as it runs.
    pub(crate) async fn reload(&self) {
        let before = self.log().len();
        signal(self.pid(), "HUP");
        until("the server has read its configuration again", PATIENCE, async || {
            self.log()[before..].contains("Reloaded server configuration").then_some(())
        })
        .await;
    }

    /// Ends it as a power cut would that spares the disk.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// For `servers`.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client that is asked for nothing, of a server that asks for nothing.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(ConnectOptions::new()).await
    }

    /// A client with these options.
    pub(crate) async fn client_of(&self, options: ConnectOptions) -> Client {
        options.connect(self.url()).await.unwrap()
    }

    /// Publishes with a header block as no client would write it, and waits until the server has it.
    pub(crate) async fn publish_raw(&self, subject: &str, headers: &[u8], payload: &[u8]) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (head, all) = (headers.len(), headers.len() + payload.len());
        let begin = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {subject} {head} {all}\r\n"
        );
        let sent = [begin.as_bytes(), headers, payload, b"\r\nPING\r\n"].concat();
        socket.write_all(&sent).await.unwrap();
        let mut said = String::new();
        while !said.contains("PONG") {
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).await.unwrap();
            said += &String::from_utf8_lossy(&buffer[..read]);
            assert!(read > 0 && !said.contains("-ERR"), "{said}");
        }
    }

    /// What its monitoring says under `path`.
    pub(crate) async fn monitor(&self, path: &str) -> Value {
        let url = format!("http://127.0.0.1:{}{path}", self.monitor);
        request(Method::GET, &url, &[], "").await.json()
    }

    /// Waits until all that it has for its clients is with their machines: what it dies with then is lost to nobody.
    pub(crate) async fn written(&self) {
        until("the server has written everything", PATIENCE, async || {
            let connections = self.monitor("/connz").await;
            let all = connections["connections"].as_array().unwrap();
            all.iter().all(|each| each["pending_bytes"] == 0).then_some(())
        })
        .await;
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
