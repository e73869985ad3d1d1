//! The demo's page in a real browser, driven by Node: see `tests/node/page.mjs`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than the script's own, of which a command may have two: what it can't get, it says.
const PATIENCE: Duration = Duration::from_secs(250);

/// How long a browser takes to close on a busy machine.
const CLOSING: Duration = Duration::from_secs(30);

/// A running browser with one page; closed when dropped.
pub(crate) struct Page {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Holds the browser's profile, and is the temporary directory of both processes.
    _directory: TempDir,
}

impl Page {
    /// Starts the browser and waits until it is there.
    pub(crate) fn start() -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
        assert!(
            scripts.join("node_modules/playwright-core").is_dir(),
            "the browser's driver is not installed: run `tests/run`, or `npm ci` in `{}`",
            scripts.display()
        );
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("node")
            .arg("page.mjs")
            .arg(directory.path().join("profile"))
            .current_dir(scripts)
            .env("TMPDIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`node` can't be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let page = Self { child, stdin, lines, _directory: directory };
        assert_eq!(page.answer(), serde_json::json!({ "ready": true }));
        page
    }

    /// Says one line of the script's language and returns the answer.
    pub(crate) fn ask(&mut self, command: &str, argument: &str) -> Value {
        writeln!(self.stdin.as_ref().unwrap(), "{command} {argument}").unwrap();
        let answer = self.answer();
        assert!(answer.get("error").is_none(), "`{command} {argument}`: {answer}");
        answer
    }

    fn answer(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("the browser says nothing");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // The end of its input makes the script close the browser; killed, it would leave that to
        // the browser, which notices the broken pipe in its own time.
        self.stdin = None;
        let deadline = Instant::now() + CLOSING;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo's target directory, wherever it is: for pictures.
pub(crate) fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_appsync-bridge"));
    binary.ancestors().nth(2).unwrap().to_owned()
}
