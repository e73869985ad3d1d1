//! T81: a secret of its own in every place that takes one, and all commands at all levels. None of it comes out.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::PATIENCE;
use crate::support::bridge::write_secret;
use crate::support::emulator::{bridge, try_request};
use crate::support::{free_port, until};

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Secrets in files and variables, and in the text itself.
struct Canaries(Vec<String>);

impl Canaries {
    /// A new one.
    fn hatch(&mut self, place: &str) -> String {
        let canary = format!("canary-{place}-{:016x}", rand::random::<u64>());
        self.0.push(canary.clone());
        canary
    }

    /// Looks for each in what was said, as it is, a half of it, and in Base64.
    fn sought(&self, said: &str, by: &str) {
        for canary in &self.0 {
            let half = &canary[canary.len() - 16..];
            let encoded = STANDARD.encode(canary);
            for form in [half, encoded.trim_end_matches('=')] {
                let line = said.lines().find(|line| line.contains(form));
                assert!(line.is_none(), "{by} shows {canary}: {line:?}");
            }
        }
    }
}

fn text_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// The configuration, and the variables that it needs.
#[allow(clippy::too_many_lines)] // most of them are the configuration's
fn configuration(
    directory: &Path,
    admin: u16,
    canaries: &mut Canaries,
) -> (String, Vec<(String, String)>) {
    let mut variables = Vec::new();
    let mut variable = |name: &str, canaries: &mut Canaries| {
        variables.push((name.to_owned(), canaries.hatch(&name.to_lowercase().replace('_', "-"))));
        format!("{{ env = \"{name}\" }}")
    };
    let file = |name: &str, canaries: &mut Canaries| {
        let path = directory.join(name);
        write_secret(&path, &canaries.hatch(name));
        format!("{{ file = \"{}\" }}", path.display())
    };
    let creds = directory.join("creds");
    let canary = canaries.hatch("creds");
    write_secret(
        &creds,
        &format!(
            "-----BEGIN NATS USER JWT-----\n{canary}\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{canary}\n------END USER NKEY SEED------\n"
        ),
    );
    // Nobody listens on any of these ports.
    let text = format!(
        r#"[api.key]
endpoint = "http://127.0.0.1:1/event"
auth = {{ type = "api-key", key = {key} }}
[api.token]
endpoint = "http://127.0.0.1:1/event"
auth = {{ type = "token", token = {token} }}
[api.oauth]
endpoint = "http://127.0.0.1:1/event"
auth = {{ type = "oauth2", token_url = "http://127.0.0.1:1/t", client_id = "c", client_secret = {client} }}
[api.iam]
endpoint = "http://127.0.0.1:1/event"
auth = {{ type = "iam", aws = {{ region = "eu-west-1" }} }}
[source.mqtt]
type = "mqtt"
url = "mqtt://127.0.0.1:1"
client_id = "c"
subscriptions = "a/#"
username = "u"
password = "{plain}"
[source.kafka]
type = "kafka"
brokers = ["127.0.0.1:1"]
group = "g"
topics = ["a"]
sasl = {{ mechanism = "plain", username = "u", password = {sasl} }}
[source.bearer]
type = "kafka"
brokers = ["127.0.0.1:1"]
group = "h"
topics = ["a"]
sasl = {{ mechanism = "oauthbearer", token_url = "http://127.0.0.1:1/t", client_id = "c", client_secret = {bearer} }}
[source.login]
type = "nats"
servers = ["127.0.0.1:1"]
subjects = ["a"]
auth = {{ user = "u", password = {nats} }}
[source.nats-token]
type = "nats"
servers = ["127.0.0.1:1"]
subjects = ["a"]
auth = {{ token = {nats_token} }}
[source.creds]
type = "nats"
servers = ["127.0.0.1:1"]
subjects = ["a"]
auth = {{ creds_file = "{creds}" }}
[source.sqs]
type = "sqs"
queue = "http://127.0.0.1:1/000000000000/jobs"
aws = {{ region = "eu-west-1" }}
[route.all]
from = ["kafka", "bearer", "login", "nats-token", "creds"]
topic = "a"
channel = "/a/b"
api = "key"
[route.mqtt]
from = "mqtt"
channel = "/a/b"
api = "token"
[route.sqs]
from = "sqs"
channel = "/a/b"
api = "iam"
[dead_letter.file]
type = "file"
path = "{rejects}"
[admin]
listen = "127.0.0.1:{admin}"
token = {admin_token}
[otlp]
endpoint = "http://127.0.0.1:1"
headers = {{ authorization = {otlp} }}
interval = "1s"
[shutdown]
grace = "25s"
"#,
        key = variable("CANARY_KEY", canaries),
        token = file("token", canaries),
        client = variable("CANARY_CLIENT", canaries),
        plain = canaries.hatch("plain"),
        sasl = variable("CANARY_SASL", canaries),
        bearer = file("bearer", canaries),
        nats = variable("CANARY_NATS", canaries),
        nats_token = file("nats-token", canaries),
        creds = creds.display(),
        rejects = directory.join("rejects.jsonl").display(),
        admin_token = file("admin", canaries),
        otlp = variable("CANARY_OTLP", canaries),
    );
    for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        let _ = variable(name, canaries);
    }
    variables.push(("AWS_ACCESS_KEY_ID".to_owned(), "AKIDCANARY".to_owned()));
    (text, variables)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_every_slot_comes_out_of_no_command_at_no_level() {
    let directory = tempfile::tempdir().unwrap();
    let mut canaries = Canaries(Vec::new());
    let admin = free_port();
    let (text, variables) = configuration(directory.path(), admin, &mut canaries);
    assert!(canaries.0.len() >= 12, "{}", canaries.0.len());
    let path = directory.path().join("bridge.toml");
    let config = path.to_str().unwrap();
    let command = |args: &[&str]| {
        let mut command = bridge();
        command.args(args).envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    };
    let seek = |args: &[&str]| {
        let output = command(args).output().unwrap();
        let said = text_of(&output);
        assert!(!said.is_empty(), "{args:?}");
        canaries.sought(&said, &args.join(" "));
        (output.status.code(), said)
    };
    // Good, with a mistake in each table, with broken syntax; and what else reads it.
    write_secret(&path, &text);
    assert_eq!(seek(&["check", "-c", config]).0, Some(0), "{}", seek(&["check", "-c", config]).1);
    assert_eq!(seek(&["check", "--connect", "-c", config]).0, Some(1));
    seek(&[
        "replay",
        "--dry-run",
        "-c",
        config,
        directory.path().join("rejects.jsonl").to_str().unwrap(),
    ]);
    for bad in [
        text.replace("channel =", "chanel ="),
        text.replace("type = \"", "kind = \""),
        text.replace("password = ", "pasword = "),
        text.replace(" }\n", " \n"),
        text.replace("\"\n", "\n"),
    ] {
        write_secret(&path, &bad);
        assert_eq!(seek(&["check", "-c", config]).0, Some(78));
        assert_eq!(seek(&["run", "-c", config]).0, Some(78));
        seek(&["health", "-c", config]);
    }
    for generated in ["schema", "man", "--help"] {
        seek(&[generated]);
    }
    let token = fs::read_to_string(directory.path().join("admin")).unwrap();
    for level in LEVELS {
        write_secret(&path, &format!("{text}[log]\nlevel = \"{level}\"\nformat = \"json\"\n"));
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut running = command(&["run", "-c", config]);
        running.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap());
        let mut running = running.spawn().unwrap();
        let asked = |page: &'static str| {
            let bearer = format!("Bearer {token}");
            async move {
                let url = format!("http://127.0.0.1:{admin}{page}");
                let headers = [("authorization", bearer.as_str())];
                let answer = try_request(http::Method::GET, &url, &headers, String::new());
                answer.await.ok().map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
            }
        };
        until("it serves", PATIENCE, async || asked("/metrics").await).await;
        // Each source has failed to connect.
        let pages = until("each source is tried", PATIENCE, async || {
            let mut pages = Vec::new();
            for page in ["/", "/metrics", "/status", "/readyz", "/livez"] {
                pages.push(asked(page).await?);
            }
            (pages.concat().matches("refused").count() >= 3).then(|| pages.concat())
        })
        .await;
        canaries.sought(&pages, &format!("the admin port at {level}"));
        seek(&["top", "--json", "-c", config]);
        seek(&["health", "--ready", "-c", config]);
        for signal in ["TERM", "INT"] {
            crate::support::signal(running.id(), signal);
        }
        running.wait().unwrap();
        let said = fs::read_to_string(log.path()).unwrap();
        assert!(level == "error" || !said.is_empty());
        canaries.sought(&said, &format!("the log at {level}"));
    }
}
