//! T81: a secret of its own in every place that takes one, and all commands at all levels. None of it comes out, not even
//! where the other end repeats what it was sent.

mod commands;
mod daemon;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tempfile::NamedTempFile;

use crate::support::bridge::write_secret;
use crate::support::emulator::{bridge, try_request};
use crate::support::free_port;

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Of a canary, so many characters tell that it was shown.
const HALF: usize = 16;

/// Secrets in files and variables, and in the text itself.
struct Canaries(Vec<String>);

impl Canaries {
    /// A new one.
    fn hatch(&mut self, place: &str) -> String {
        let canary = format!("canary-{place}-{:016x}", rand::random::<u64>());
        self.0.push(canary.clone());
        canary
    }

    /// Looks for each in what was said: for a half of it, as it is and in Base64.
    fn sought(&self, said: &str, by: &str) {
        self.sought_but(&[], said, by);
    }

    /// As [`Canaries::sought`], but for these.
    fn sought_but(&self, shown: &[&String], said: &str, by: &str) {
        for canary in self.0.iter().filter(|canary| !shown.contains(canary)) {
            let line = shown_in(said, canary);
            assert!(line.is_none(), "{by} shows {canary}: {line:?}");
        }
    }
}

/// The line of what was said that has a half of the canary.
fn shown_in<'a>(said: &'a str, canary: &str) -> Option<&'a str> {
    let half = &canary[canary.len() - HALF..];
    let form =
        std::iter::once(half.to_owned()).chain(encoded(half)).find(|form| said.contains(form));
    said.lines().find(|line| form.as_ref().is_some_and(|form| line.contains(form)))
}

/// A text as it stands in Base64 of either alphabet, behind a multiple of three bytes, or one or two more. What its
/// neighbours have a part in is left out.
fn encoded(text: &str) -> impl Iterator<Item = String> {
    let shifted = |shift: usize| {
        let bytes = [vec![0; shift], text.as_bytes().to_vec()].concat();
        let own = (shift * 8).div_ceil(6)..bytes.len() * 8 / 6;
        [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)]
            .map(|all| all[own.clone()].to_owned())
    };
    (0..3).flat_map(shifted)
}

#[test]
fn a_canary_is_found_in_base64_behind_whatever_it_stands() {
    let mut canaries = Canaries(Vec::new());
    // Not only letters and digits: the alphabets differ.
    let canary = canaries.hatch("a") + "~~??>>~~~~??>>~~";
    for before in ["", "u", "u:", "user:"] {
        for after in ["", "1", "12"] {
            let text = format!("{before}{canary}{after}");
            for all in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                let said = format!("one\nBasic {all}\nthree");
                assert!(shown_in(&said, &canary).is_some_and(|line| line.contains(&all)), "{said}");
            }
        }
    }
    assert_eq!(shown_in(&STANDARD_NO_PAD.encode("canary"), &canary), None);
}

fn text_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// The configuration, and the variables that it needs.
#[allow(clippy::too_many_lines)] // most of them are the configuration's
fn configuration(
    directory: &Path,
    admin: u16,
    collector: u16,
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
    // Nobody listens on any of these ports, but for the collector's.
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
endpoint = "http://127.0.0.1:{collector}"
headers = {{ authorization = {otlp} }}
interval = "1s"
traces = true
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
    // What the commands take from there, whatever the configuration says.
    for name in [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "APPSYNC_API_KEY",
        "APPSYNC_TOKEN",
        "APPSYNC_CLIENT_SECRET",
        "EMULATOR_SECRET_ACCESS_KEY",
    ] {
        let _ = variable(name, canaries);
    }
    variables.push(("AWS_ACCESS_KEY_ID".to_owned(), "AKIDCANARY".to_owned()));
    (text, variables)
}

/// A directory with a configuration in it that has a canary in each slot.
struct Cage {
    directory: tempfile::TempDir,
    canaries: Canaries,
    text: String,
    variables: Vec<(String, String)>,
    admin: u16,
}

impl Cage {
    fn new(collector: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut canaries = Canaries(Vec::new());
        let admin = free_port();
        let (text, variables) = configuration(directory.path(), admin, collector, &mut canaries);
        assert!(canaries.0.len() >= 12, "{}", canaries.0.len());
        let cage = Self { directory, canaries, text, variables, admin };
        cage.write(&cage.text);
        cage
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn config(&self) -> String {
        self.at("bridge.toml")
    }

    fn write(&self, text: &str) {
        write_secret(Path::new(&self.config()), text);
    }

    /// The program with these arguments, and the variables.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = bridge();
        command.args(args).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// What a command says, in which no canary is.
    fn seek(&self, args: &[&str]) -> (Option<i32>, String) {
        self.sought(&args.join(" "), &mut self.command(args))
    }

    fn sought(&self, by: &str, command: &mut Command) -> (Option<i32>, String) {
        let output = command.output().unwrap();
        let said = text_of(&output);
        assert!(!said.is_empty(), "{by}");
        self.canaries.sought(&said, by);
        (output.status.code(), said)
    }

    /// A command that goes on, and the file with what it says.
    fn start(&self, args: &[&str]) -> (Child, NamedTempFile) {
        let said = NamedTempFile::new().unwrap();
        // Both write where the other ended.
        let out = said.reopen().unwrap();
        let err = out.try_clone().unwrap();
        let mut command = self.command(args);
        command.stdout(out).stderr(err);
        (command.spawn().unwrap(), said)
    }

    /// What the admin port answers to who has the token.
    async fn asked(&self, method: http::Method, page: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{page}", self.admin);
        let bearer = format!("Bearer {}", fs::read_to_string(self.at("admin")).unwrap());
        let headers = [("authorization", bearer.as_str())];
        let answer = try_request(method, &url, &headers, String::new()).await.ok()?;
        Some(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The configuration with a mistake in each table, with broken syntax, and the like.
    fn spoilt(&self) -> [String; 5] {
        [
            self.text.replace("channel =", "chanel ="),
            self.text.replace("type = \"", "kind = \""),
            self.text.replace("password = ", "pasword = "),
            self.text.replace(" }\n", " \n"),
            self.text.replace("\"\n", "\n"),
        ]
    }
}
