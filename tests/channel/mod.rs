//! `publish` and `subscribe`: events by hand, in every way to prove who one is.

mod publish;
mod subscribe;

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::bridge::write_secret;
use crate::support::emulator::{Emulator, KEY, bridge};
use crate::support::stub::{Stub, reply};

/// Flags and variables that say which API it is, and who we are there.
#[derive(Clone, Default)]
struct Who {
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Who {
    fn of(emulator: &Emulator, args: &[&str]) -> Self {
        let args = ["--endpoint", &emulator.endpoint].into_iter().chain(args.iter().copied());
        Self { args: args.map(str::to_owned).collect(), env: Vec::new() }
    }

    fn key(emulator: &Emulator) -> Self {
        Self::of(emulator, &["--api-key", KEY])
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::from(bridge());
        command.arg(name).args(args).args(&self.args).kill_on_drop(true);
        for variable in ["APPSYNC_ENDPOINT", "APPSYNC_API_KEY", "APPSYNC_TOKEN", "AWS_PROFILE"] {
            command.env_remove(variable);
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/dev/null");
        command.env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs to the end: its code, and what it says on stdout and on stderr.
    async fn run(&self, name: &str, args: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(name, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // One that is refused reads nothing.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let ended = timeout(PATIENCE, child.wait_with_output()).await.expect("it does not end");
        let Output { status, stdout, stderr } = ended.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// Publishes these to the channel.
    async fn publish(&self, channel: &str, events: &[&str]) -> (i32, String, String) {
        self.run("publish", &[&[channel], events].concat(), "").await
    }

    /// Subscribes, and waits until it is.
    async fn follow(&self, args: &[&str]) -> Follower {
        let mut command = self.command("subscribe", args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut follower = Follower { child, events, said };
        follower.says("subscribed to").await;
        follower
    }
}

/// A running `subscribe`.
struct Follower {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    /// The next line with these words on stderr.
    async fn says(&mut self, words: &str) -> String {
        let heard = async {
            let mut before = String::new();
            while let Some(line) = self.said.next_line().await.unwrap() {
                if line.contains(words) {
                    return line;
                }
                before.push_str(&line);
            }
            panic!("it ended without {words:?}: {before}");
        };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("it does not say {words:?}"))
    }

    /// The next line on stdout; `None` at its end.
    async fn event(&mut self) -> Option<String> {
        timeout(PATIENCE, self.events.next_line()).await.expect("no event comes").unwrap()
    }

    /// Its code.
    async fn ends(mut self) -> i32 {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it does not end");
        status.unwrap().code().unwrap()
    }
}

/// Everyone that an API knows, each with an emulator that knows nobody else.
async fn everybody(directory: &TempDir) -> Vec<(&'static str, Emulator, Who, Option<Stub>)> {
    let file = directory.path().join("secret");
    let path = file.to_str().unwrap().to_owned();
    let of_key = ["--api-key", "da2-of-this-test"];
    let of_token = ["--token", "token-of-this-test"];
    let user = ["--access-key-id", "AKIDOFTHISTEST", "--secret-access-key", "secret-of-this-test"];
    let session = [&user[..], &["--session-token", "session-of-this-test"]].concat();
    let mut all = Vec::new();

    let emulator = Emulator::start(&of_key);
    let mut who = Who::of(&emulator, &[]);
    who.env.push(("APPSYNC_API_KEY", "da2-of-this-test".to_owned()));
    all.push(("API key, from the environment", emulator, who, None));

    let emulator = Emulator::start(&of_key);
    write_secret(&directory.path().join("key"), "da2-of-this-test\n");
    let who = Who::of(&emulator, &["--api-key-file", &path.replace("secret", "key")]);
    all.push(("API key, from a file", emulator, who, None));

    let emulator = Emulator::start(&of_token);
    write_secret(&file, "token-of-this-test\n");
    let who = Who::of(&emulator, &["--token-file", &path]);
    all.push(("token", emulator, who, None));

    for (name, args, token) in
        [("IAM", &user[..], None), ("IAM, for a while", &session, Some("session-of-this-test"))]
    {
        let emulator = Emulator::start(args);
        let mut who = Who::of(&emulator, &["--iam", "--region", "eu-west-1"]);
        who.env.push(("AWS_ACCESS_KEY_ID", "AKIDOFTHISTEST".to_owned()));
        who.env.push(("AWS_SECRET_ACCESS_KEY", "secret-of-this-test".to_owned()));
        who.env.extend(token.map(|token| ("AWS_SESSION_TOKEN", token.to_owned())));
        all.push((name, emulator, who, None));
    }

    let emulator = Emulator::start(&of_token);
    let issuer = Stub::start(Duration::ZERO, |_| {
        reply(200, &json!({ "access_token": "token-of-this-test", "expires_in": 3600 }))
    })
    .await;
    let url = issuer.url("/token");
    let mut who = Who::of(&emulator, &["--oauth2", &url, "--client-id", "me"]);
    who.env.push(("APPSYNC_CLIENT_SECRET", "client-of-this-test".to_owned()));
    all.push(("OAuth 2.0", emulator, who, Some(issuer)));

    let emulator = Emulator::start(&of_key);
    let config = directory.path().join("bridge.toml");
    std::fs::write(&config, configuration(&emulator.endpoint)).unwrap();
    let args = ["-c", config.to_str().unwrap(), "--api", "main"].map(str::to_owned);
    all.push(("configuration", emulator, Who { args: args.to_vec(), env: Vec::new() }, None));
    all
}

/// A whole configuration, of which only an API matters.
fn configuration(endpoint: &str) -> String {
    let api = |name: &str, endpoint: &str| {
        format!(
            "[api.{name}]\nendpoint = \"{endpoint}\"\nauth = {{ type = \"api-key\", key = \"da2-of-this-test\" }}\n"
        )
    };
    format!(
        "{}{}[source.it]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
         [route.all]\nfrom = \"it\"\nchannel = \"/all/x\"\napi = \"main\"\n\
         [dead_letter.rejects]\ntype = \"file\"\npath = \"/dev/full\"\n",
        api("main", endpoint),
        api("other", "http://127.0.0.1:1/event")
    )
}

/// Of a line of the log.
fn message(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    line["message"].as_str().unwrap().to_owned()
}
