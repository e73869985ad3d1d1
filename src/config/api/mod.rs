//! `[api.NAME]`: an Event API and how to speak to it.

pub(super) mod auth;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::certificates;
pub use super::endpoint::Endpoint;
use super::reader::{
    Field, Kind, Located, Problem, Reported, Setting, Table, contrast, impossible, show_duration,
};
use crate::files::certificate::Renewal;
use crate::files::regular;
use auth::AUTHS;
pub use auth::{Auth, Aws, OAuth2};

/// The name of an `[api.NAME]`.
pub type ApiName = Arc<str>;

/// A checked `[api.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Its name.
    pub name: ApiName,
    /// Where to post.
    pub endpoint: Endpoint,
    /// How to sign.
    pub auth: Auth,
    /// One publish attempt; 10 s unless set.
    pub timeout: Duration,
    /// Requests in flight at most; 64 unless set.
    pub max_concurrency: usize,
    /// Events a second at most; 10,000 unless set.
    pub max_rate: u32,
    /// HTTP/2 where the endpoint offers it; no unless set.
    pub http2: bool,
    /// Connections are renewed after about this long; 5 min unless set.
    pub connection_max_age: Duration,
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl ApiConfig {
    /// An API with everything else as it is unless set.
    pub fn new(name: &str, endpoint: Endpoint, auth: Auth) -> Self {
        Self {
            name: name.into(),
            endpoint,
            auth,
            timeout: TIMEOUT,
            max_concurrency: CONCURRENCY as usize,
            max_rate: RATE,
            http2: false,
            connection_max_age: CONNECTION_AGE,
            ca_file: None,
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const CONCURRENCY: u32 = 64;
const MOST_CONCURRENCY: u32 = 4096;
/// The quota of inbound events of an API (Service Quotas `L-D91E563A`).
const RATE: u32 = 10_000;
const MOST_RATE: u32 = 1_000_000;
const CONNECTION_AGE: Duration = Duration::from_mins(5);
const SHORTEST_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Reads an `[api.NAME]`; `grace` is how long the drain may take, `None` if that is not known.
pub(super) fn read(
    name: &str,
    mut table: Table<'_>,
    grace: Option<&Setting<Duration>>,
) -> Option<ApiConfig> {
    let ledger = table.ledger;
    let plaintext = table.boolean("dangerously_plaintext").or(false);
    let endpoint = table.filled("endpoint").then(|text| {
        let plaintext = plaintext.as_ref().is_none_or(|setting| setting.value);
        Endpoint::read(ledger, &text, plaintext)
    });
    let endpoint = table.require(
        "endpoint",
        endpoint,
        "its HTTP endpoint: `endpoint = \"https://….appsync-api.REGION.amazonaws.com/event\"`",
    );
    let auth = table.table("auth", "auth").then(|table| auth::read(table.value, endpoint.as_ref()));
    let auth = table.require("auth", auth, format!("say who publishes: `auth` is {AUTHS}"));
    let at_least = |key: &str, set: Located<Duration>, shortest: Duration, hint: &str| {
        if set.value >= shortest {
            return Some(set.value);
        }
        let message = format!("`{key}` is shorter than {}", show_duration(shortest));
        ledger.refuse(Problem::new(Kind::Impossible, Some(set.span), message).help(hint))
    };
    let timeout = table.duration("timeout").then(|set| {
        let hint = "no request is answered that fast every time: it would be sent again and again";
        at_least("timeout", set, SHORTEST_TIMEOUT, hint)
    });
    let timeout = timeout.or(TIMEOUT);
    let max_rate = table.integer("max_rate", 1..=MOST_RATE).or(RATE);
    let max_concurrency = table.integer("max_concurrency", 1..=MOST_CONCURRENCY).or(CONCURRENCY);
    let http2 = table.boolean("http2").or(false);
    let age = table.duration("connection_max_age").then(|set| {
        let hint = "every connection costs a TLS handshake: minutes are soon enough to follow DNS";
        at_least("connection_max_age", set, SHORTEST_CONNECTION_AGE, hint)
    });
    let age = age.or(CONNECTION_AGE);
    let ca_file = ca_file(&mut table, Renewal::Reload);
    if let (Some(timeout), Some(grace)) = (&timeout, grace) {
        answers_within(&table, timeout, grace);
    }
    table.finish();
    plaintext?;
    Some(ApiConfig {
        name: name.into(),
        endpoint: endpoint?.value,
        auth: auth?.value,
        timeout: timeout?.value,
        max_concurrency: usize::try_from(max_concurrency?.value).ok()?,
        max_rate: max_rate?.value,
        http2: http2?.value,
        connection_max_age: age?.value,
        ca_file: ca_file.ok()?,
    })
}

/// `ca_file`, which has to be there and to look like certificates.
pub(super) fn ca_file(
    table: &mut Table<'_>,
    renewal: Renewal,
) -> Result<Option<PathBuf>, Reported> {
    let Some(file) = pem_file(table, "ca_file", "CERTIFICATE").optional()? else { return Ok(None) };
    certificates::authorities(table.ledger, &file, renewal).ok_or(Reported)?;
    Ok(Some(file.value))
}

/// A file that has to be there and to hold a PEM block with `what` in its name.
pub(super) fn pem_file(table: &mut Table<'_>, key: &'static str, what: &str) -> Field<PathBuf> {
    let ledger = table.ledger;
    table.filled(key).then(|text| {
        let path = PathBuf::from(&text.value.value);
        let shown = text.value.shown();
        let read = regular::read(&path, certificates::MAX_BYTES);
        let mut kind = Kind::Unresolved;
        let (problem, hint) = match read.map(|content| String::from_utf8(content.bytes)) {
            Ok(Ok(content)) if content.contains("-----BEGIN") && content.contains(what) => {
                return Some(path);
            }
            Ok(Ok(_)) => {
                let hint = format!("it is PEM, with a line `-----BEGIN …{what}-----`");
                (format!("{shown} holds no {}", what.to_lowercase()), hint)
            }
            other => {
                let mut hint = format!("`{key}` is the path of a PEM file");
                let why = match other {
                    Ok(_) => "is not PEM".to_owned(),
                    Err(error) => match error.kind() {
                        Some(ErrorKind::NotFound) => "does not exist".to_owned(),
                        Some(ErrorKind::PermissionDenied) => {
                            kind = Kind::Forbidden;
                            "the bridge's user needs to read it".clone_into(&mut hint);
                            "can't be read: permission denied".to_owned()
                        }
                        _ => error.to_string(),
                    },
                };
                (format!("{shown} {why}"), hint)
            }
        };
        ledger.refuse(Problem::new(kind, Some(text.span), problem).help(hint))
    })
}

fn answers_within(table: &Table<'_>, timeout: &Setting<Duration>, grace: &Setting<Duration>) {
    if timeout.value <= grace.value {
        return;
    }
    let message = contrast([("timeout", timeout), ("grace", grace)], show_duration);
    let problem = impossible(message, timeout, grace, "the drain ends after this");
    table.ledger.report(problem.help(
        "`timeout` <= `grace`: the answer to the last request has to arrive before the drain ends",
    ));
}
