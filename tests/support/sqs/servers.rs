//! `ElasticMQ` and moto, each in a process of its own.

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{REGION, Server};
use crate::support::jvm::JVM;
use crate::support::{PATIENCE, free_port, until};

/// A running `ElasticMQ`; killed when dropped, and when the test's process ends in whatever way. What it holds
/// is in its memory.
pub(crate) struct ElasticMq {
    server: Server,
    _process: Process,
}

/// A running moto: SQS, and the SNS, `EventBridge` and S3 that feed its queues. It is slow: tens of messages.
pub(crate) struct Moto {
    server: Server,
    _process: Process,
}

/// A server, and the shell that looks after it.
struct Process {
    keeper: Child,
    /// Its end is that of the server.
    held: Option<ChildStdin>,
    directory: TempDir,
}

/// What `tests/run` fetches.
const CACHE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache");

/// Runs the server with its log in directory `$0`. The end of the input, which is also the end of the test's
/// process, is the end of both and of the directory.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null >"$0/log" 2>&1 3<&- &
server=$!
{
    cat >/dev/null
    : >"$0/over"
    kill -KILL $server
} <&3 >/dev/null 2>&1 &
keeper=$!
wait $server
code=$?
kill $keeper 2>/dev/null
if [ -e "$0/over" ]; then rm -rf "$0"; fi
exit $code
"#;

impl ElasticMq {
    /// The one that tests share, started when the first of them asks. [`Server::queue`] makes a queue with a
    /// name of its own.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<ElasticMq> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        let port = free_port();
        let text = format!(
            "node-address {{ protocol = http, host = \"127.0.0.1\", port = {port} }}\n\
             rest-sqs {{ bind-hostname = \"127.0.0.1\", bind-port = {port}, sqs-limits = strict }}\n\
             rest-stats {{ enabled = false }}\naws {{ region = \"{REGION}\" }}\n"
        );
        Self::configured(&text, port).await
    }

    /// One with this configuration, which listens on `port`.
    pub(crate) async fn configured(text: &str, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("elasticmq.conf");
        fs::write(&config, text).unwrap();
        let mut java = Command::new("java");
        java.args(JVM).arg(format!("-Dconfig.file={}", config.display())).args([
            "-cp",
            &class_path(),
            "org.elasticmq.server.Main",
        ]);
        let (server, process) = launch("ElasticMQ", &java, directory, port).await;
        Self { server, _process: process }
    }
}

impl Moto {
    /// The one that tests share.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Moto> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        let python = format!("{CACHE}/moto/bin/python");
        assert!(Path::new(&python).exists(), "{python} is missing: `tests/run` installs it");
        let port = free_port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let (server, process) = launch("moto", &command, tempfile::tempdir().unwrap(), port).await;
        Self { server, _process: process }
    }
}

/// Starts a server and waits until it listens.
async fn launch(name: &str, command: &Command, directory: TempDir, port: u16) -> (Server, Process) {
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", KEEPER])
        .arg(directory.path())
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Out of reach of what a terminal sends to the tests.
    std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
    let mut keeper = keeper.spawn().unwrap();
    let held = keeper.stdin.take();
    let mut process = Process { keeper, held, directory };
    until(&format!("{name} listens"), PATIENCE, async || {
        if let Some(status) = process.keeper.try_wait().unwrap() {
            panic!("{name} ended, {status}: {}", process.log());
        }
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    (Server::at(format!("http://127.0.0.1:{port}")), process)
}

impl Process {
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.held = None;
        let _ = self.keeper.wait();
    }
}

impl Deref for ElasticMq {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Deref for Moto {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Of `ElasticMQ`.
fn class_path() -> String {
    let names = include_str!("../../sqs/jars.txt").lines();
    let jars: Vec<_> = names
        .map(|line| format!("{CACHE}/elasticmq/{}", line.split_whitespace().nth(1).unwrap()))
        .inspect(|jar| assert!(Path::new(jar).exists(), "{jar} is missing: `tests/run` fetches it"))
        .collect();
    jars.join(":")
}
