//! The collector: one request, what its answer means, and what the log says of it.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use reqwest::{Client, Response};
use tracing::{info, warn};

use crate::config::{OtlpConfig, Secret};
use crate::error_chain::{self, printable};
use crate::outbound::{self, ClientError};
use crate::repeats::Repeats;

/// How often a lasting failure is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Characters of the collector's own words that are logged.
const MOST_WORDS: usize = 300;

/// A longer wait that a collector asks for is not waited out: the spans meanwhile would have no room.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is exported, each to its own path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
}

/// A collector that is reached by OTLP over HTTP.
#[derive(Debug)]
pub(super) struct Collector {
    client: Client,
    /// Without the signal's path, and without a slash at its end.
    endpoint: String,
    headers: Vec<(HeaderName, Secret)>,
    trouble: Mutex<Trouble>,
}

/// What the log was told.
#[derive(Debug, Default)]
struct Trouble {
    log: Repeats,
    /// Signals whose last request failed.
    failing: Vec<Signal>,
    /// Since the log's last line on it all failed no more.
    logged: bool,
}

/// Why something was not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In words.
    pub(super) why: String,
    /// What to do about it.
    pub(super) hint: &'static str,
    /// Whether it may be taken later, and after which wait at least.
    pub(super) again: Option<Duration>,
}

impl Signal {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

impl Collector {
    pub(super) fn new(config: &OtlpConfig) -> Result<Self, ClientError> {
        Ok(Self {
            client: outbound::client(&config.endpoint, config.ca_file.as_deref(), config.timeout)?,
            endpoint: config.endpoint.to_string().trim_end_matches('/').to_owned(),
            headers: config.headers.clone(),
            trouble: Mutex::default(),
        })
    }

    /// Where it is, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends `body`. A good answer is what was answered.
    pub(super) async fn post(&self, signal: Signal, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let mut request = self
            .client
            .post(format!("{}/v1/{}", self.endpoint, signal.word()))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        for (name, secret) in &self.headers {
            let Ok(mut value) = HeaderValue::from_str(&secret.current().await) else {
                return Err(Refusal {
                    why: format!(
                        "the header `{name}` holds a character that a request can't carry"
                    ),
                    hint: "look for a line break in its file",
                    again: Some(Duration::ZERO),
                });
            };
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(no_answer(error)),
        };
        let status = answer.status();
        let wait = wait_asked(&answer);
        match read(answer).await {
            Ok(body) if status.is_success() => Ok(body),
            Ok(_) => Err(refused(status, wait)),
            Err(error) => Err(no_answer(error)),
        }
    }

    /// Logs a failure, or says that there is none any more.
    pub(super) fn report(&self, signal: Signal, failure: Option<&Refusal>, now: Instant) {
        let mut trouble = self.trouble.lock();
        match failure {
            None => {
                trouble.failing.retain(|failing| *failing != signal);
                if trouble.failing.is_empty() && std::mem::take(&mut trouble.logged) {
                    info!(endpoint = self.endpoint, "the OTLP collector takes exports again");
                }
            }
            Some(Refusal { why, hint, .. }) => {
                if !trouble.failing.contains(&signal) {
                    trouble.failing.push(signal);
                }
                if let Some(count) = trouble.log.again(LOG_EVERY, now) {
                    trouble.logged = true;
                    let (endpoint, signal) = (self.endpoint.as_str(), signal.word());
                    warn!(
                        endpoint,
                        signal,
                        why,
                        hint,
                        count,
                        "can't export to the OTLP collector; messages are relayed all the same"
                    );
                }
            }
        }
    }
}

/// Nothing was answered: the collector may be back later.
fn no_answer(error: reqwest::Error) -> Refusal {
    let why = error_chain::in_one_line(&error.without_url());
    let hint = if why.contains("certificate") {
        "if its CA is your own, name it in `ca_file` of `[otlp]`"
    } else {
        "is a collector running at the `endpoint` of `[otlp]`? without that table nothing is exported"
    };
    Refusal { why, hint, again: Some(Duration::ZERO) }
}

/// The statuses that the specification calls passing are tried again, and no others.
fn refused(status: StatusCode, wait: Option<Duration>) -> Refusal {
    let passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    let hint = match status.as_u16() {
        401 | 403 => "what authorizes the bridge there belongs into `headers` of `[otlp]`",
        404 | 405 | 415 => {
            "is the `endpoint` of `[otlp]` OTLP over HTTP? `/v1/metrics` and `/v1/traces` are added to it"
        }
        429 => "it asks for less: a lower `sample`, a longer `interval`",
        _ => "the log of the collector tells why",
    };
    let again = passing.then(|| wait.unwrap_or_default().min(LONGEST_WAIT));
    Refusal { why: format!("it answers {status}"), hint, again }
}

/// Part of what was sent was not taken: it is not sent again, says the specification.
pub(super) fn partly(count: u64, words: &str) -> Refusal {
    let why = format!("it did not take {count} of what was sent: {}", printable(words, MOST_WORDS));
    Refusal { why, hint: "the log of the collector tells more", again: None }
}

/// Seconds; a date is not read.
fn wait_asked(answer: &Response) -> Option<Duration> {
    let wait = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    wait.trim().parse().ok().map(Duration::from_secs)
}

async fn read(mut answer: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            body.clear();
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_tried_again() {
        for (status, again) in [
            (400, false),
            (401, false),
            (404, false),
            (413, false),
            (429, true),
            (500, false),
            (503, true),
        ] {
            let refusal = refused(StatusCode::from_u16(status).unwrap(), None);
            assert_eq!(refusal.again.is_some(), again, "{status}");
            assert!(refusal.why.contains(&status.to_string()) && !refusal.hint.is_empty());
        }
        let long = refused(StatusCode::SERVICE_UNAVAILABLE, Some(Duration::from_hours(1)));
        assert_eq!(long.again, Some(LONGEST_WAIT));
    }
}
