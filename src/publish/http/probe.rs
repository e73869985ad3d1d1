//! Whether an API can be published to: for `check --connect`. Nothing is published, unless one event is asked for.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{Client, Connection, Shown};
use crate::config::ApiConfig;
use crate::error_chain;
use crate::event_api::wire::publish_body;
use crate::event_api::{Channel, Event};
use crate::files::certificate::{Certificate, day};
use crate::probe::{Complaint, Looked, Seen, State, Step};
use crate::publish::post::{Failure, Fault, Post as _};
use crate::publish::verdict::{EventVerdict, Verdict, judge, why_again};

/// A signature is refused when clocks are further apart than five minutes.
const APART: Duration = Duration::from_mins(4);

/// What is published.
const EVENT: &[u8] = br#"{"from":"appsync-bridge check"}"#;

/// Whether the permission to publish was tried, in words.
const UNTRIED: &str = "whether we may publish was not tried: `--publish CHANNEL` sends one event and reads the answer";

/// The same, where nobody has looked at the credentials either.
const UNTRIED_KEY: &str = "neither the credentials nor whether they may publish was tried: `--publish CHANNEL` sends one event and reads the answer";

/// The remedy for a fault that the bridge would retry.
const LATER: &str = "the bridge would wait and try again: see the API's health and quotas";

/// Looks at `api`: the credentials, the way to it, its certificate, its clock; and publishes one event, if a channel
/// is given.
pub async fn probe(api: &ApiConfig, channel: Option<&Channel>) -> Looked {
    let client = match Client::build(api).await {
        Ok(client) => client,
        Err(why) => {
            let complaint = Complaint::of_words(Step::Credentials, &why.to_string());
            return Looked::of(&[Step::Credentials], Err::<String, _>(complaint));
        }
    };
    let secure = api.endpoint.uri.scheme_str() == Some("https");
    let (mut steps, mut found) = (Vec::new(), Vec::new());
    let reached = client.reach(secure, &mut steps, &mut found).await;
    let mut credentials = match client.authorizer.look(&api.auth).await {
        Ok(known) => {
            found.push(known.words);
            let state = if known.tried { State::Good } else { State::Untried };
            Seen::of(Step::Credentials, state, "", "")
        }
        Err(Complaint { step, what, remedy }) => Seen::of(step, State::Failed, what, remedy),
    };
    let publish = match channel {
        None => {
            let untried = credentials.state == State::Untried;
            let what = if untried { UNTRIED_KEY } else { UNTRIED };
            Seen::of(Step::Publish, State::Untried, what, "")
        }
        Some(_) if !reached || credentials.state == State::Failed => {
            Seen::of(Step::Publish, State::Untried, "", "")
        }
        Some(channel) => client.publish_one(channel).await,
    };
    // An event that was taken is the proof.
    if matches!(publish.state, State::Good | State::Warned) {
        credentials = Seen::good(Step::Credentials);
    }
    steps.extend([credentials, publish]);
    Looked { steps, found: found.join("; ") }
}

impl Client {
    /// Connects, and asks for something that there is not. Whether there was any answer.
    async fn reach(&self, secure: bool, steps: &mut Vec<Seen>, found: &mut Vec<String>) -> bool {
        let later = [Step::Tls, Step::Clock];
        let later = later.into_iter().filter(|step| secure || *step != Step::Tls);
        let sent = SystemTime::now();
        let (head, shown) = match self.ask().await {
            Ok(answered) => answered,
            Err(Failure { fault: Fault::Trust, why }) => {
                let remedy = "is this the right host? a CA of your own is `ca_file`; if the certificate has expired, \
                              renew it; is this clock right?";
                steps.push(Seen::good(Step::Reach));
                steps.push(Seen::of(Step::Tls, State::Failed, why, remedy));
                steps.push(Seen::of(Step::Clock, State::Untried, "", ""));
                return false;
            }
            Err(Failure { why, .. }) => {
                let remedy =
                    "check the host and port of `endpoint`, the network, and `HTTPS_PROXY`";
                steps.push(Seen::of(Step::Reach, State::Failed, why, remedy));
                steps.extend(later.map(|step| Seen::of(step, State::Untried, "", "")));
                return false;
            }
        };
        let received = SystemTime::now();
        steps.push(Seen::good(Step::Reach));
        if secure {
            steps.push(Seen::good(Step::Tls));
            let certificate = shown.certificate.as_deref().and_then(Certificate::of_der);
            let until =
                certificate.map(|read| format!(", a certificate until {}", day(read.until)));
            found.push(shown.tls.unwrap_or_default() + &until.unwrap_or_default());
        }
        steps.push(clock(&head.headers, sent, received));
        true
    }

    /// `GET`, which publishes nothing: whatever is answered, somebody is there.
    async fn ask(&self) -> Result<(Parts, Shown), Failure> {
        let (raw, shown) = self.connect(&self.uri).await?;
        let failed = |error: hyper::Error| {
            let why = format!("what answers is not HTTP: {}", error_chain::in_one_line(&error));
            Failure { fault: Fault::Connect, why }
        };
        let (mut sender, driver) = http1::handshake(TokioIo::new(raw)).await.map_err(failed)?;
        let request = Request::get(self.path.clone()).header(header::HOST, self.host.clone());
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure { fault: Fault::Connect, why: error.to_string() })?;
        // Its error reaches the request, too.
        let driver = tokio::spawn(driver);
        let answer = tokio::time::timeout(self.timeout, sender.send_request(request)).await;
        driver.abort();
        let answer = answer.map_err(|_| Failure {
            fault: Fault::Connect,
            why: format!("no answer within {:?}", self.timeout),
        })?;
        Ok((answer.map_err(failed)?.into_parts().0, shown))
    }

    async fn publish_one(&self, channel: &Channel) -> Seen {
        let Ok(event) = Event::parse(EVENT) else {
            return Seen::of(Step::Publish, State::Untried, "", "");
        };
        let failed =
            |what: String, remedy: &str| Seen::of(Step::Publish, State::Failed, what, remedy);
        let answer = self.post(&mut Connection::default(), publish_body(channel, [event])).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure { why, .. }) => {
                return failed(why, "nothing is known of the event: try again");
            }
        };
        match judge(&answer, 1) {
            Verdict::Refused { why, .. } => {
                let causes = self.causes(Some(channel.namespace()), "Publish", &why);
                failed(why, &causes)
            }
            Verdict::HandlerRefused { why } => {
                failed(why, "the handler of the namespace refuses it: see its `onPublish`")
            }
            Verdict::Bad { why, .. } => failed(why, "is this the HTTP endpoint of an Event API?"),
            Verdict::Retry { .. } => failed(why_again(&answer), LATER),
            Verdict::Decided(verdicts) => match verdicts.into_iter().next() {
                Some(EventVerdict::Accepted) => {
                    let what = format!("an event was accepted on `{channel}`");
                    Seen::of(Step::Publish, State::Good, what, "")
                }
                Some(EventVerdict::Throttled { why }) => failed(why, LATER),
                Some(EventVerdict::Hopeless { why } | EventVerdict::Retry { why }) => {
                    failed(why, "the namespace refuses the event: see its handler")
                }
                Some(EventVerdict::Unconfirmed) | None => Seen::of(
                    Step::Publish,
                    State::Warned,
                    "the API took the request, and its answer does not name the event",
                    "a handler of the namespace may have dropped it: see its `onPublish`",
                ),
            },
        }
    }
}

/// What a server says of the time.
fn clock(headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Seen {
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(theirs) = theirs else {
        let what = "the answer has no `date`, so the clocks were not compared";
        return Seen::of(Step::Clock, State::Untried, what, "");
    };
    let middle = sent + received.duration_since(sent).unwrap_or_default() / 2;
    let (apart, which) = match theirs.duration_since(middle) {
        Ok(apart) => (apart, "behind"),
        Err(apart) => (apart.duration(), "ahead of"),
    };
    if apart < APART {
        return Seen::good(Step::Clock);
    }
    let apart = humantime::format_duration(Duration::from_secs(apart.as_secs()));
    let what = format!("this machine's clock is {apart} {which} the API's");
    let remedy = "set it (NTP); the bridge corrects its signatures, and nobody the dates of tokens and certificates";
    Seen::of(Step::Clock, State::Warned, what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_warned_of() {
        let now = SystemTime::now();
        let seen = |theirs: Option<SystemTime>| {
            let mut headers = HeaderMap::new();
            if let Some(theirs) = theirs {
                let date = httpdate::fmt_http_date(theirs).parse().unwrap();
                headers.insert(header::DATE, date);
            }
            clock(&headers, now, now + Duration::from_secs(2))
        };
        assert_eq!(seen(None).state, State::Untried);
        assert_eq!(seen(Some(now)).state, State::Good);
        let hour = Duration::from_hours(1);
        let (behind, ahead) = (seen(Some(now + hour)), seen(Some(now - hour)));
        assert!(behind.state == State::Warned && behind.what.contains("behind the API's"));
        assert!(ahead.what.contains("1h") && ahead.what.contains("ahead of"), "{}", ahead.what);
    }
}
