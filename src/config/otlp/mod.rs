//! `[otlp]`: where metrics and traces go, beside `/metrics`.

mod resource;

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri, header};

use super::Secret;
use super::api::ca_file;
use super::endpoint::{Purpose, SafeUrl};
use super::reader::{Entry, Form, Kind, Ledger, Located, Problem, Table, Text, show_duration};
use crate::files::certificate::Renewal;

/// A checked `[otlp]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// The URL of a collector that speaks OTLP over HTTP, without `/v1/…`: `https`, or `http` where that was allowed.
    pub endpoint: Uri,
    /// What each request carries.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Whether the numbers of `/metrics` are exported; yes unless set.
    pub metrics: bool,
    /// Whether spans are; yes unless set.
    pub traces: bool,
    /// Of the messages that bring no trace, the share that begins one: 0 to 1; 0 unless set.
    pub sample: f64,
    /// How often metrics are exported; every minute unless set.
    pub interval: Duration,
    /// One request; 10 s unless set.
    pub timeout: Duration,
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// What the environment says of this process: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`, by name.
    pub resource: Vec<(String, String)>,
}

const INTERVAL: Duration = Duration::from_mins(1);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// The port on which a collector takes OTLP by gRPC.
const GRPC: u16 = 4317;

const ENDPOINT: Purpose = Purpose {
    form: "write `\"http://127.0.0.1:4318\"`, or where your collector is",
    user_info: "write `headers = { authorization = { env = \"NAME\" } }`",
    plaintext: "write `https://`; for a collector in the same cluster, `dangerously_plaintext = true`",
};

/// Headers that the exporter writes itself.
const OWN: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::HOST,
];

/// Reads `[otlp]`; `None` inside: there is none, and nothing is exported.
#[allow(clippy::option_option)] // whether it could be read, and whether it is there
pub(super) fn read(table: Option<Table<'_>>) -> Option<Option<OtlpConfig>> {
    let Some(mut table) = table else { return Some(None) };
    let ledger = table.ledger;
    let plaintext = table.boolean("dangerously_plaintext").or(false);
    let endpoint = table.filled("endpoint").then(|text| {
        let plaintext = plaintext.as_ref().is_none_or(|setting| setting.value);
        endpoint(ledger, &text, plaintext)
    });
    let hint = "the URL of a collector, OTLP over HTTP: `endpoint = \"http://127.0.0.1:4318\"`";
    let endpoint = table.require("endpoint", endpoint, hint);
    let headers = table.table("headers", "headers").then(|table| {
        let mut table = table.value;
        // All are read before one that is bad spoils them, so that all are reported.
        let all: Vec<_> =
            table.rest(Form::Secret).iter().map(|entry| one_header(ledger, entry)).collect();
        all.into_iter().collect::<Option<Vec<_>>>()
    });
    let headers = headers.or(Vec::new());
    let metrics = table.boolean("metrics").or(true);
    let traces = table.boolean("traces").or(true);
    let sample = table.fraction("sample").or(0.0);
    let at_least = |key: &str, set: Located<Duration>, shortest: Duration| {
        if set.value >= shortest {
            return Some(set.value);
        }
        let message = format!("`{key}` is shorter than {}", show_duration(shortest));
        ledger.refuse(Problem::new(Kind::Impossible, Some(set.span), message))
    };
    let interval = table.duration("interval");
    let interval = interval.then(|set| at_least("interval", set, SHORTEST_INTERVAL)).or(INTERVAL);
    let timeout = table.duration("timeout");
    let timeout = timeout.then(|set| at_least("timeout", set, SHORTEST_TIMEOUT)).or(TIMEOUT);
    let ca_file = ca_file(&mut table, Renewal::Restart);
    let resource = resource::of(ledger, &table);
    if let (Some(metrics), Some(traces)) = (&metrics, &traces)
        && !metrics.value
        && !traces.value
    {
        let message = "neither `metrics` nor `traces` are exported";
        let problem = Problem::new(Kind::Impossible, metrics.span.clone(), message);
        ledger.report(problem.help("remove `[otlp]`: without it nothing is exported"));
    }
    table.finish();
    plaintext?;
    Some(Some(OtlpConfig {
        endpoint: endpoint?.value,
        headers: headers?.value,
        metrics: metrics?.value,
        traces: traces?.value,
        sample: sample?.value,
        interval: interval?.value,
        timeout: timeout?.value,
        ca_file: ca_file.ok()?,
        resource,
    }))
}

fn endpoint(ledger: &Ledger<'_>, text: &Located<Text>, plaintext: bool) -> Option<Uri> {
    let SafeUrl { uri, .. } = SafeUrl::read_with(ledger, "endpoint", text, plaintext, &ENDPOINT)?;
    let refuse = |problem: &str, hint: &str| {
        let message = format!("{} {problem}", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span.clone()), message);
        ledger.refuse(problem.help(hint))
    };
    if text.value.value.contains(['?', '#']) {
        return refuse("has more behind its path", "what authorizes belongs into `headers`");
    }
    if ["/v1/traces", "/v1/metrics"]
        .iter()
        .any(|end| uri.path().trim_end_matches('/').ends_with(end))
    {
        return refuse(
            "is the URL of one signal",
            "leave `/v1/…` away: it is added for metrics and for traces",
        );
    }
    if uri.port_u16() == Some(GRPC) {
        let message = format!("{} has the port of OTLP over gRPC", text.value.shown());
        let problem = Problem::new(Kind::Warning, Some(text.span.clone()), message);
        ledger.report(
            problem.help("the bridge speaks OTLP over HTTP, which is 4318 at most collectors"),
        );
    }
    Some(uri)
}

fn one_header<'a>(ledger: &'a Ledger<'a>, entry: &Entry<'a>) -> Option<(HeaderName, Secret)> {
    let key = ledger.quoted(&entry.key_span, entry.key);
    let refuse = |problem: &str, hint: &str| {
        let message = format!("{key} {problem}");
        let problem = Problem::new(Kind::BadValue, Some(entry.key_span.clone()), message);
        ledger.refuse(problem.help(hint))
    };
    let Ok(name) = entry.key.parse::<HeaderName>() else {
        return refuse("is no name of a header", "it has letters, digits and hyphens");
    };
    if OWN.contains(&name) {
        return refuse("is written by the bridge", "remove it");
    }
    let shown = ledger.visible(&entry.key_span, entry.key);
    let secret = ledger.secret(shown, entry)?;
    if http::HeaderValue::from_str(&secret.reveal()).is_err() {
        return refuse("has a value that a request can't carry", "look for a line break");
    }
    Some((name, secret))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    const REST: &str = r#"
        [api.main]
        endpoint = "http://localhost/event"
        auth = { type = "iam", aws = { region = "eu-west-1" } }
        [source.plant]
        type = "mqtt"
        url = "mqtt://localhost"
        client_id = "b"
        subscriptions = "plant"
        [route.all]
        from = "plant"
        channel = "/plant"
    "#;

    pub(super) fn read(otlp: &str, environment: &[(&str, &str)]) -> (Option<OtlpConfig>, String) {
        let environment = environment.iter().copied().chain([("HOME", "/home/b")]);
        let text = format!("{REST}\n{otlp}");
        let loaded = parse(&text, Path::new("t.toml"), &Environment::of(environment));
        let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        (loaded.config.otlp, loaded.warnings.to_string())
    }

    #[test]
    #[allow(clippy::float_cmp)] // as written
    fn without_the_table_nothing_is_exported_and_with_it_everything() {
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")];
        assert_eq!(read("", &variables).0, None);
        let (config, warnings) = read("[otlp]\nendpoint = \"http://localhost:4318\"", &[]);
        let config = config.unwrap();
        assert_eq!(config.endpoint, "http://localhost:4318");
        assert!(config.metrics && config.traces && config.sample == 0.0);
        assert_eq!((config.interval, config.timeout), (INTERVAL, TIMEOUT));
        assert!(config.headers.is_empty() && config.resource.is_empty(), "{config:?}");
        assert!(!warnings.contains("otlp"), "{warnings}");
        let (config, _) = read("[otlp]\nendpoint = \"https://c/otlp/\"\nsample = 1", &[]);
        assert_eq!(config.unwrap().sample, 1.0);
    }

    #[test]
    fn the_port_of_grpc_is_warned_of() {
        let (_, warnings) = read("[otlp]\nendpoint = \"http://localhost:4317\"", &[]);
        assert!(warnings.contains("gRPC") && warnings.contains("4318"), "{warnings}");
    }
}
