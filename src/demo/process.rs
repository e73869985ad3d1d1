//! The bridge as a process of its own: the same executable, started, watched, killed on demand and started again.
//!
//! It ends with this process, however that ends: its standard input is a pipe from here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::repeats::Repeats;
use crate::shutdown::Shutdown;

/// A process that died is started again after this long, as a service manager would.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(3);

/// That it ends by itself again and again is said this often.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The bridge is asked how it is this often.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// For an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// So many questions in a row without an answer, after one that had one: it hangs, and is killed.
const HANGS: u32 = 5;

/// For the first answer of a process that was started again: one that takes longer is killed, too.
const FIRST: Duration = Duration::from_secs(20);

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// For the first start, which nobody kills.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Last lines of its log that are kept, for the case that it ends by itself.
const LAST_LINES: usize = 20;

/// The bridge's process.
pub(super) struct Process {
    config: PathBuf,
    admin: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    kill: Arc<Notify>,
}

/// What is known of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Of the running process.
    pub(super) pid: Option<u32>,
    /// How often it was started.
    pub(super) starts: u32,
    /// How the last one ended.
    pub(super) ended: Option<String>,
    /// What it answered last, and when.
    pub(super) status: Option<(Value, Instant)>,
    /// Questions without an answer since.
    unanswered: u32,
    /// The last lines of its log.
    pub(super) log: VecDeque<String>,
}

/// Sees the process, and kills it.
#[derive(Clone)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    kill: Arc<Notify>,
}

impl Watch {
    /// What is known now.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Kills it, with the signal that no process can catch.
    pub(super) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits until it says that it is ready, or gives its last words.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let ready = async {
            while !self.seen().is_ready() {
                let seen = self.seen();
                if let Some(how) = &seen.ended {
                    let said = seen.log.iter().fold(String::new(), |all, line| all + "\n" + line);
                    anyhow::bail!("the bridge's process has ended ({how}){said}");
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(START_TIMEOUT, ready).await.context("the bridge does not become ready")?
    }
}

impl Seen {
    /// Whether it runs and has said that it is ready, not long ago.
    pub(super) fn is_ready(&self) -> bool {
        self.answer().is_some_and(|status| status["state"] == "ready")
    }

    /// The last answer of the process that runs.
    pub(super) fn answer(&self) -> Option<&Value> {
        let (status, at) = self.status.as_ref()?;
        (self.pid.is_some() && at.elapsed() < ASK_TIMEOUT).then_some(status)
    }
}

impl Process {
    /// A bridge with this configuration, which has its admin port at `admin`.
    pub(super) fn new(config: PathBuf, admin: SocketAddr) -> Self {
        Self { config, admin, seen: Arc::default(), kill: Arc::default() }
    }

    /// What sees and kills it.
    pub(super) fn watch(&self) -> Watch {
        Watch { seen: Arc::clone(&self.seen), kill: Arc::clone(&self.kill) }
    }

    /// Keeps one running until the drain, which it hands on; gives how the last one ended.
    pub(super) async fn run(self, shutdown: Shutdown) -> anyhow::Result<ExitStatus> {
        let mut by_itself = Repeats::default();
        loop {
            let (mut child, pipe) = self.start()?;
            let pid = child.id();
            {
                let seen = &mut *self.seen.lock();
                (seen.pid, seen.status, seen.unanswered) = (pid, None, 0);
                seen.starts += 1;
            }
            tokio::select! {
                ended = child.wait() => {
                    let ended = ended?;
                    self.note_end(ended);
                    if let Some(times) = by_itself.again(SAY_EVERY, Instant::now()) {
                        let last = self.seen.lock().log.back().cloned();
                        warn!(times, last, "the bridge's process ended by itself ({ended}); it is started again");
                    }
                }
                () = self.kill.notified() => {
                    child.start_kill()?;
                    self.note_end(child.wait().await?);
                }
                () = self.ask() => {
                    warn!("the bridge does not answer; its process is killed and started again");
                    child.start_kill()?;
                    self.note_end(child.wait().await?);
                }
                () = shutdown.drain() => {
                    let ended = drain(child, &shutdown).await;
                    drop(pipe);
                    return ended;
                }
            }
            tokio::select! {
                () = sleep(RESTART_AFTER) => {}
                () = shutdown.drain() => return Ok(ExitStatus::default()),
            }
        }
    }

    /// Starts one, with the pipe that it ends with.
    fn start(&self) -> anyhow::Result<(Child, Option<ChildStdin>)> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut child = Command::new(&program)
            .args(["run", "--until-stdin-ends", "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C is for this process, which drains the fleet first.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("`{}` can't be started", program.display()))?;
        if let Some(stderr) = child.stderr.take() {
            let seen = Arc::clone(&self.seen);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let log = &mut seen.lock().log;
                    if log.len() == LAST_LINES {
                        log.pop_front();
                    }
                    log.push_back(line);
                }
            });
        }
        // Waiting for the process would close it.
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }

    fn note_end(&self, ended: ExitStatus) {
        let seen = &mut *self.seen.lock();
        (seen.pid, seen.status, seen.ended) = (None, None, Some(ended.to_string()));
    }

    /// Asks it how it is, until it does not answer any more.
    async fn ask(&self) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let begun = Instant::now();
        loop {
            let answer = timeout(ASK_TIMEOUT, status(&client, self.admin)).await.ok().flatten();
            {
                let seen = &mut *self.seen.lock();
                if let Some(answer) = answer {
                    seen.status = Some((answer, Instant::now()));
                    seen.unanswered = 0;
                } else if seen.status.is_some() {
                    seen.unanswered += 1;
                }
                let silent = seen.status.is_none() && begun.elapsed() > FIRST && seen.starts > 1;
                if seen.unanswered >= HANGS || silent {
                    return;
                }
            }
            sleep(ASK_EVERY).await;
        }
    }
}

/// Tells the process to drain, and waits for it; on the abort it is killed.
async fn drain(mut child: Child, shutdown: &Shutdown) -> anyhow::Result<ExitStatus> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM)?;
    }
    tokio::select! {
        ended = child.wait() => Ok(ended?),
        () = shutdown.abort() => {
            child.start_kill()?;
            Ok(child.wait().await?)
        }
    }
}

async fn status(client: &Client<HttpConnector, Empty<Bytes>>, admin: SocketAddr) -> Option<Value> {
    let answer = client.get(format!("http://{admin}/status").parse().ok()?).await.ok()?;
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?;
    serde_json::from_slice(&body.to_bytes()).ok()
}
