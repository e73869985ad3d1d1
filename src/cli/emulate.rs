//! `emulate`: the local Event API alone.
//!
//! Standard output carries the data, standard error the talk. Scripts wait for the line `ready`, or
//! with `--json` for the one line there is.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;

use super::{A_TIME, address, complain, exit};
use crate::emulator::{
    AmplifyLines, Emulator, Fault, IamUser, Namespace, PUBLIC_KEY, Settings, Tls,
};
use crate::redact;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

const EXAMPLES: &str = "\
Examples:
  appsync-bridge emulate
  appsync-bridge emulate --namespace orders fleet --api-key da2-mine
  appsync-bridge emulate --namespace orders=publish:iam,subscribe:token fleet=api-key --any-jwt
  appsync-bridge emulate --access-key-id AKIDLOCAL --secret-access-key secret --region eu-west-1
  appsync-bridge emulate --tls /tmp/emulator      # clients trust /tmp/emulator/ca.pem
  appsync-bridge emulate --listen 127.0.0.1:0 --json --ledger accepted.jsonl
  appsync-bridge emulate --fault '{\"fault\": {\"throttle\": {\"events_per_second\": 100, \"retry_after\": 1}}}'

Faults:
  A fault is a JSON object: `fault` holds one kind, and `namespace`, `channel`, `skip`, `times`, `for`,
  `probability` and `seed` limit it. Only publishes over HTTP are struck.

  {\"fault\": {\"throttle\": {\"requests_per_second\": 10, \"events_per_second\": 50, \"retry_after\": 2}}}
  {\"fault\": {\"answer\": {\"status\": 503, \"body\": \"<html>\", \"headers\": {}, \"when\": \"before\"}}}
  {\"fault\": {\"refuse_namespace\": {}}, \"namespace\": \"orders\", \"for\": \"10s\"}
  {\"fault\": {\"handler_refuses\": {\"error_type\": \"Blocked\", \"message\": \"not today\"}}}
  {\"fault\": {\"fail_events\": {\"code\": 500, \"message\": \"\", \"probability\": 0.3, \"indexes\": [0, 2]}}}
  {\"fault\": {\"wrong_answer\": \"missing\"}}     or doubled, in_both_lists, out_of_range, truncated, empty
  {\"fault\": {\"hang\": {\"when\": \"after\"}}, \"times\": 3}
  {\"fault\": {\"cut\": {\"when\": \"after\"}}, \"probability\": 0.1, \"seed\": 7}
  {\"fault\": {\"slow\": {\"delay\": \"500ms\", \"jitter\": \"200ms\"}}, \"channel\": \"/orders/7\"}
  {\"fault\": {\"clock\": {\"offset\": \"-10m\"}}}
  {\"fault\": {\"headers\": {\"age\": \"30\"}}, \"skip\": 5}

  While it runs: the page at /, or GET, PUT (a JSON list) or DELETE /_emulator/faults, and GET
  /_emulator/stats, on the loopback only, or with --control.

Exit codes: 0 ended by a signal, 1 failed, 2 usage, 77 permissions.";

/// The variable with the secret of the user.
const SECRET: &str = "EMULATOR_SECRET_ACCESS_KEY";

/// Run a local Event API: publish over HTTP, publish and subscribe over WebSocket
#[derive(clap::Args, Clone)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools)] // switches of a command line
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787", value_parser = address)]
    listen: SocketAddr,

    /// Namespaces that exist; all others are refused. Without this, every namespace exists and takes every mode.
    /// MODES is `api-key`, `iam` or `token`, several joined by `+`; or `publish:MODES,subscribe:MODES`
    #[arg(long, value_name = "NAME[=MODES]", num_args = 1..)]
    namespace: Vec<Namespace>,

    /// API keys that are accepted
    #[arg(long, value_name = "KEY", num_args = 1.., default_value = PUBLIC_KEY,
          value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,

    /// `authorization` values that are accepted, in place of Cognito, OpenID Connect and Lambda; with or without
    /// `Bearer `, here and in what is sent
    #[arg(long, value_name = "TOKEN", num_args = 1.., value_parser = token)]
    token: Vec<String>,

    /// Accept every JSON Web Token as `authorization`, whoever made it: nothing in it is verified
    #[arg(long)]
    any_jwt: bool,

    /// A user whose signatures are accepted; with a secret
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,

    /// The secret that the user signs with; else `$EMULATOR_SECRET_ACCESS_KEY`
    #[arg(long, value_name = "SECRET", requires = "access_key_id")]
    secret_access_key: Option<String>,

    /// The session token that the user has to send
    #[arg(long, value_name = "TOKEN", requires = "access_key_id")]
    session_token: Option<String>,

    /// The region that signatures must name; without this, any
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// Take every signature that can be read, whoever made it
    #[arg(long)]
    dangerously_skip_signatures: bool,

    /// Serve TLS with a certificate made at start; its authority is written to DIR/ca.pem
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tls_cert", "tls_key"])]
    tls: Option<PathBuf>,

    /// Serve TLS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Time between two keep-alive frames
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = period, allow_hyphen_values = true)]
    keep_alive: Duration,

    /// Hold back the answer of every publish over HTTP for so long
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time, allow_hyphen_values = true)]
    latency: Duration,

    /// Append one JSON line for every event that is answered, before its answer
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,

    /// Do this wrong; see below
    #[arg(long, value_name = "JSON")]
    fault: Vec<Fault>,

    /// Do wrong what this file says: a JSON list of faults, asked before those of --fault
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,

    /// Let other machines see the page and change the faults, if they can reach the address
    #[arg(long)]
    control: bool,

    /// What the log on standard error says: `warn` has a line for each refusal, `info` one for each connection,
    /// subscription and publish, too
    #[arg(long, value_name = "LEVEL", default_value = "info",
          value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,

    /// Print one JSON line with `endpoint`, `realtime`, `api_key` and `ca_file`, and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the emulator until `shutdown`.
pub async fn run(mut args: Args, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    if let Err(why) = args.complete() {
        complain(&why);
        return Ok(ExitCode::from(exit::USAGE));
    }
    let loopback = args.listen.ip().is_loopback();
    let api_key = args.api_key.first().cloned().unwrap_or_default();
    let (json, region) = (args.json, args.region.clone());
    telemetry::start(&args.log_level, Format::Auto, std::iter::empty());
    args.secrets().for_each(|secret| redact::learn(secret));
    let mut settings = args.clone().settings();
    if let Some(path) = &args.faults {
        let named = || format!("cannot take the faults of `{}`", path.display());
        let text = std::fs::read(path).with_context(named)?;
        settings.faults.splice(..0, Fault::list(&text).with_context(named)?);
    }
    let namespace = Namespace::for_examples(&settings.namespaces).to_owned();
    let (any_jwt, page) = (settings.any_jwt, loopback || settings.control);
    let emulator = Emulator::bind(settings)?;
    if !loopback {
        let address = emulator.local_addr();
        super::caution(&format_args!(
            "{address} can be reached from other machines; the emulator is made for local use"
        ));
    }
    if any_jwt {
        let words = "--any-jwt: every token that looks like a JWT is accepted, and NOTHING in it is verified: \
                     neither who made it nor until when it is good";
        super::caution(&words);
    }
    let lines = AmplifyLines::new(
        &emulator.endpoint(),
        region.as_deref(),
        &api_key,
        &namespace,
        emulator.ca_file().map(PathBuf::as_path),
    );
    let announced = if json {
        announce_json(&emulator, &api_key)
    } else {
        announce(&emulator, &api_key, &namespace, &lines, page)
    };
    announced.context("can't write to standard output")?;
    emulator.run(shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Takes the secret of the environment, if there is a user for it; refuses what the parser can't.
    fn complete(&mut self) -> Result<(), String> {
        if self.access_key_id.is_some() && self.secret_access_key.is_none() {
            let secret = std::env::var(SECRET).ok().filter(|secret| !secret.is_empty());
            self.secret_access_key = Some(secret.ok_or_else(|| {
                format!("`--access-key-id` needs a secret; write `--secret-access-key`, or set `${SECRET}`")
            })?);
        }
        Namespace::twice(&self.namespace).map_or(Ok(()), |name| {
            let example = format!("`{name}=api-key+iam`");
            Err(format!(
                "`--namespace`: `{name}` is named twice; join its modes by `+`, as in {example}"
            ))
        })
    }

    /// What it is told to accept, which is no more for a log than what is sent elsewhere.
    fn secrets(&self) -> impl Iterator<Item = &String> {
        let keys = self.api_key.iter().filter(|key| *key != PUBLIC_KEY);
        let user = [&self.secret_access_key, &self.session_token].into_iter().flatten();
        user.chain(&self.token).chain(keys)
    }

    fn settings(self) -> Settings {
        let user = self.access_key_id.zip(self.secret_access_key);
        let user = user.map(|(access_key_id, secret_access_key)| IamUser {
            access_key_id,
            secret_access_key,
            session_token: self.session_token,
        });
        let generated = self.tls.map(|directory| Tls::Generated { directory });
        let files = self.tls_cert.zip(self.tls_key).map(|(cert, key)| Tls::Files { cert, key });
        Settings {
            region: self.region,
            namespaces: self.namespace,
            api_keys: self.api_key,
            tokens: self.token,
            any_jwt: self.any_jwt,
            users: user.into_iter().collect(),
            verify_signatures: !self.dangerously_skip_signatures,
            tls: generated.or(files),
            keep_alive: self.keep_alive,
            latency: self.latency,
            ledger: self.ledger,
            faults: self.fault,
            control: self.control,
            ..Settings::new(self.listen)
        }
    }
}

fn announce_json(emulator: &Emulator, api_key: &str) -> std::io::Result<()> {
    let line = serde_json::json!({
        "endpoint": emulator.endpoint(),
        "realtime": emulator.realtime(),
        "api_key": api_key,
        "ca_file": emulator.ca_file(),
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn announce(
    emulator: &Emulator,
    api_key: &str,
    namespace: &str,
    lines: &AmplifyLines,
    page: bool,
) -> std::io::Result<()> {
    let (endpoint, realtime) = (emulator.endpoint(), emulator.realtime());
    let ca_file = emulator.ca_file().map(|file| file.display().to_string());
    let mut out = std::io::stdout().lock();
    writeln!(out, "endpoint  {endpoint}")?;
    writeln!(out, "realtime  {realtime}")?;
    writeln!(out, "api key   {api_key}")?;
    let mut curl = String::from("curl");
    if let Some(file) = ca_file {
        writeln!(out, "trust     {file}")?;
        curl = format!("curl --cacert {file}");
    } else if let Some(rest) = endpoint.strip_prefix("http://") {
        writeln!(out, "amplify   HTTP://{rest}")?;
    }
    writeln!(
        out,
        "publish   {curl} {endpoint} -H 'x-api-key: {api_key}' -H 'content-type: application/json' \
         -d '{{\"channel\":\"/{namespace}/hello\",\"events\":[\"{{\\\"n\\\":1}}\"]}}'"
    )?;
    writeln!(out, "\n--- Amplify in a browser ---\n{}", lines.browser)?;
    writeln!(out, "\n--- Amplify in Node ---\n{}\n---\n", lines.node)?;
    if page && let Some(root) = endpoint.strip_suffix("event") {
        writeln!(out, "page      {root}")?;
    }
    writeln!(out, "ready")?;
    out.flush()
}

/// Without the word that a client may put before it.
fn token(text: &str) -> Result<String, String> {
    match text.strip_prefix("Bearer ").unwrap_or(text).trim() {
        "" => Err("a token is not empty".to_owned()),
        token => Ok(token.to_owned()),
    }
}

/// As the times of a fault, such as `250ms`, `60s` or `5m`; or a bare number of seconds.
fn time(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| A_TIME)?,
        Err(_) => super::time(text)?,
    };
    if time > LONGEST { Err("a day is the longest".to_owned()) } else { Ok(time) }
}

/// A time that is not zero.
fn period(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("the time is above zero, such as `60s`".to_owned()) } else { Ok(time) }
}

/// Nobody waits longer, and a clock can be set ahead by it.
const LONGEST: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn settings(line: &str) -> Result<Settings, clap::Error> {
        let words = std::iter::once("emulate").chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.args.settings())
    }

    #[test]
    fn the_defaults_are_local_and_plain() {
        let settings = settings("").unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8787");
        assert_eq!(settings.api_keys, ["da2-local"]);
        assert_eq!(settings.keep_alive, Duration::from_mins(1));
        assert!(settings.namespaces.is_empty() && settings.users.is_empty());
        assert!(settings.tls.is_none() && settings.verify_signatures);
    }

    #[test]
    fn what_is_given_is_secret_and_the_public_key_is_not() {
        let secrets = |line: &str| {
            let words = std::iter::once("emulate").chain(line.split_whitespace());
            Line::try_parse_from(words).unwrap().args.secrets().cloned().collect::<Vec<_>>()
        };
        assert_eq!(secrets(""), [""; 0]);
        assert_eq!(secrets("--api-key da2-local da2-mine"), ["da2-mine"]);
        let all =
            "--token t --access-key-id id --secret-access-key s --session-token n --api-key k";
        assert_eq!(secrets(all), ["s", "n", "t", "k"]);
    }

    #[test]
    fn lists_take_several_words() {
        let settings =
            settings("--namespace a b --api-key k --namespace c --latency 250ms").unwrap();
        let names: Vec<_> = settings.namespaces.iter().map(Namespace::name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(settings.api_keys, ["k"]);
        assert_eq!(settings.latency, Duration::from_millis(250));
        let settings = self::settings(
            r#"--control --fault {"fault":{"hang":{}}} --fault {"fault":{"cut":{}}}"#,
        );
        let settings = settings.unwrap();
        assert!(settings.control && settings.faults.len() == 2);
        for (time, milliseconds) in
            [("60", 60_000), ("0.5", 500), ("5m", 300_000), ("1s 5ms", 1_005)]
        {
            let words = ["emulate", "--keep-alive", time];
            let keep_alive = Line::try_parse_from(words).unwrap().args.settings().keep_alive;
            assert_eq!(keep_alive, Duration::from_millis(milliseconds), "{time}");
        }
    }

    #[test]
    fn a_token_is_the_same_with_bearer_and_without() {
        for text in ["abc", "Bearer abc"] {
            assert_eq!(token(text).as_deref(), Ok("abc"));
        }
        for text in ["", " ", "Bearer "] {
            assert!(token(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--namespace a_b",
            "--namespace a=jwt",
            "--session-token t",
            "--tls-cert c",
            "--tls d --tls-cert c --tls-key k",
            "--keep-alive 1x",
            "--keep-alive inf",
            "--keep-alive -1s",
            "--keep-alive 25h",
            "--keep-alive 0",
            "--namespace a=publish:iam,publish:token",
            "--latency 1e18",
            "--log-level loud",
            r#"--fault {"fault":"hang"}"#,
        ] {
            assert!(settings(line).is_err(), "{line}");
        }
    }
}
