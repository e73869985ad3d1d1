//! The real Amplify client, run by Node: see `tests/node/amplify.mjs`.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::PATIENCE;

/// A running client; killed when dropped.
pub(crate) struct Amplify {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Amplify {
    /// Runs `node amplify.mjs` with `args` and `env`.
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
        assert!(
            directory.join("node_modules/aws-amplify").is_dir(),
            "the Amplify client is not installed: run `npm ci` in `{}`",
            directory.display()
        );
        let mut child = Command::new("node")
            .arg("amplify.mjs")
            .args(args)
            .envs(env.iter().copied())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`node` cannot be run");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, lines }
    }

    /// Starts a subscriber of `count` events and waits until it is live.
    pub(crate) async fn subscribe(
        endpoint: &str,
        key: &str,
        channel: &str,
        count: usize,
        env: &[(&str, &str)],
    ) -> Self {
        let count = count.to_string();
        let mut client = Self::start(&["subscribe", endpoint, key, channel, &count], env);
        assert_eq!(client.line().await, serde_json::json!({ "ready": true }));
        client
    }

    /// Runs a client that says one thing.
    pub(crate) async fn run(args: &[&str], env: &[(&str, &str)]) -> Value {
        Self::start(args, env).line().await
    }

    /// The next thing it says.
    pub(crate) async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("the client says nothing").unwrap().expect("the client ended");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"))
    }

    /// The next event it received.
    pub(crate) async fn event(&mut self) -> Value {
        let line = self.line().await;
        line.get("event").cloned().unwrap_or_else(|| panic!("{line} is no event"))
    }
}
