//! What an answer of the Event API means. Pure: an answer in, a verdict out.
//!
//! A status of 200 is not success: the body names each event by its index, as accepted or as failed.
//! The kind of an error (`errorType`) decides before the status does, because which status the
//! service sends for which mistake is only partly known.

use std::time::Duration;

use crate::event_api::wire::{ErrorAnswer, FailedEvent, PublishAnswer};
use crate::seeded::{self, Bug};

/// An answer as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `x-amzn-errortype` header.
    pub error_type: Option<String>,
    /// The `retry-after` header, in seconds.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a whole answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every event has a verdict of its own, in the order of the request.
    Decided(Vec<EventVerdict>),
    /// Nothing is known of the events, or a fault that passes: try all of them again.
    Retry {
        /// What is wrong.
        fault: Fault,
        /// Not before this long.
        after: Option<Duration>,
    },
    /// We are refused, not the events: credentials, clock, policy, a namespace, a wrong endpoint.
    /// Everything is kept, and tried again at a low rate.
    Refused {
        /// In the words of the service.
        why: String,
    },
    /// The request is bad, and with it perhaps one of its events: each is tried in a request of its
    /// own, and found guilty only if the API takes others.
    Bad {
        /// In the words of the service.
        why: String,
    },
    /// The handler of the namespace refuses: each event is tried alone, and given up after a while.
    HandlerRefused {
        /// In the words of the handler.
        why: String,
    },
}

/// What the answer says of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventVerdict {
    /// Accepted.
    Accepted,
    /// Named in neither list: accepted and perhaps dropped by a handler. Not sent again.
    Unconfirmed,
    /// Never to be accepted.
    Hopeless {
        /// Code and words of the service.
        why: String,
    },
    /// May be accepted later.
    Retry {
        /// Code and words of the service.
        why: String,
        /// Whether it is the event's own fault, which counts towards giving up.
        own_fault: bool,
    },
}

/// The kinds of passing fault, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429.
    Throttled,
    /// 5xx, 408, 425.
    Unavailable,
    /// An answer that says nothing certain.
    UnknownAnswer,
    /// No connection; nothing was sent.
    Connect,
    /// The peer's certificate is not trusted; nothing was sent.
    Trust,
    /// Sent, and no answer: perhaps processed.
    Ambiguous,
    /// We are refused.
    Refused,
    /// A bad request, split into single events.
    BadRequest,
    /// The event failed alone.
    Event,
}

impl Fault {
    /// Every fault, for metrics that start at zero.
    pub const ALL: [Self; 9] = [
        Self::Throttled,
        Self::Unavailable,
        Self::UnknownAnswer,
        Self::Connect,
        Self::Trust,
        Self::Ambiguous,
        Self::Refused,
        Self::BadRequest,
        Self::Event,
    ];

    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::UnknownAnswer => "unknown_answer",
            Self::Connect => "connect",
            Self::Trust => "trust",
            Self::Ambiguous => "ambiguous",
            Self::Refused => "refused",
            Self::BadRequest => "bad_request",
            Self::Event => "event",
        }
    }
}

/// Judges the answer to a request with `events` events.
pub fn judge(answer: &Answer, events: usize) -> Verdict {
    if let 200..=299 = answer.status {
        return decided(answer, events)
            .unwrap_or(Verdict::Retry { fault: Fault::UnknownAnswer, after: answer.retry_after });
    }
    let error = ErrorKind::of(answer);
    let retry = |fault| Verdict::Retry { fault, after: answer.retry_after };
    if error.is_about_credentials() {
        return Verdict::Refused { why: error.words(answer.status) };
    }
    if error.is_throttling() {
        return retry(Fault::Throttled);
    }
    match answer.status {
        429 => retry(Fault::Throttled),
        408 | 425 | 500 | 502 | 503 | 504 | 520..=599 => retry(Fault::Unavailable),
        403 if error.kind.is_some() => Verdict::HandlerRefused { why: error.words(403) },
        // 3xx is never followed: credentials go to no other host. 404: a wrong endpoint.
        300..=399 | 401 | 403 | 404 => Verdict::Refused { why: error.words(answer.status) },
        _ => Verdict::Bad { why: error.words(answer.status) },
    }
}

/// Reads a success: `None` unless each index stands at most once and none is out of range.
fn decided(answer: &Answer, events: usize) -> Option<Verdict> {
    let lists = PublishAnswer::parse(&answer.body)?;
    let mut verdicts: Vec<Option<EventVerdict>> = vec![None; events];
    let accepted = lists.successful.iter().map(|e| (e.index, EventVerdict::Accepted));
    let judge = |e: &FailedEvent| match seeded::is(Bug::IgnoreFailed) {
        true => EventVerdict::Accepted,
        false => judge_event(e),
    };
    let failed = lists.failed.iter().map(|e| (e.index, judge(e)));
    for (index, verdict) in accepted.chain(failed) {
        if verdicts.get_mut(index)?.replace(verdict).is_some() {
            return None;
        }
    }
    let verdicts = verdicts.into_iter().map(|v| v.unwrap_or(EventVerdict::Unconfirmed)).collect();
    Some(Verdict::Decided(verdicts))
}

fn judge_event(event: &FailedEvent) -> EventVerdict {
    let why = match (event.code.as_str(), event.message.as_str()) {
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let code = event.code.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| code.contains(w));
    let number: Option<u16> = code.parse().ok();
    if says(&["throttl", "toomanyrequests", "limitexceeded"]) || number == Some(429) {
        return EventVerdict::Retry { why, own_fault: false };
    }
    if says(&["internal", "timeout", "unavailable"]) || matches!(number, Some(408 | 500..=599)) {
        return EventVerdict::Retry { why, own_fault: true };
    }
    if says(&["unauthorized", "accessdenied", "forbidden"]) || matches!(number, Some(401 | 403)) {
        return EventVerdict::Retry { why, own_fault: true };
    }
    if says(&["toolarge", "invalid", "badrequest", "validation"])
        || matches!(number, Some(400..=499))
    {
        return EventVerdict::Hopeless { why };
    }
    EventVerdict::Retry { why, own_fault: true }
}

/// What an error answer says of itself.
struct ErrorKind {
    kind: Option<String>,
    message: Option<String>,
}

impl ErrorKind {
    fn of(answer: &Answer) -> Self {
        let body: Option<ErrorAnswer> = serde_json::from_slice(&answer.body).ok();
        let first = body.and_then(|b| b.errors.into_iter().next()).unwrap_or_default();
        let kind = first.error_type.map(String::from).filter(|k| !k.is_empty());
        // The header may carry a namespace and a URL around the name: `ns#Name:http://…`.
        let header = answer.error_type.as_deref().map(|h| {
            let name = h.split(':').next().unwrap_or(h);
            name.rsplit('#').next().unwrap_or(name).to_owned()
        });
        Self {
            kind: kind.or(header.filter(|h| !h.is_empty())),
            message: first.message.map(String::from),
        }
    }

    /// Whether the service doubts who we are or when it is, whatever the status: over WebSocket a bad
    /// signature was seen as a `BadRequestException`, so over HTTP it may be a 400.
    fn is_about_credentials(&self) -> bool {
        let Some(kind) = self.kind.as_deref() else { return false };
        let named = [
            "UnauthorizedException",
            "AccessDenied",
            "ExpiredToken",
            "UnrecognizedClient",
            "InvalidClientTokenId",
            "InvalidSignature",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "AuthFailure",
            "RequestTimeTooSkewed",
            "RequestExpired",
        ];
        if named.iter().any(|n| kind.starts_with(n)) {
            return true;
        }
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        kind == "BadRequestException"
            && ["signature", "credential", "security token", "expired", "x-amz-date", "clock"]
                .iter()
                .any(|w| message.contains(w))
    }

    fn is_throttling(&self) -> bool {
        self.kind.as_deref().is_some_and(|k| {
            k.starts_with("Throttl")
                || k.starts_with("TooManyRequests")
                || k.starts_with("LimitExceeded")
        })
    }

    fn words(&self, status: u16) -> String {
        match (&self.kind, &self.message) {
            (Some(kind), Some(message)) => format!("{status} {kind}: {message}"),
            (Some(kind), None) => format!("{status} {kind}"),
            (None, Some(message)) => format!("{status}: {message}"),
            (None, None) => format!("status {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() }
    }

    fn errors(status: u16, kind: &str, message: &str) -> Verdict {
        judge(
            &answer(
                status,
                &format!(r#"{{"errors":[{{"errorType":"{kind}","message":"{message}"}}]}}"#),
            ),
            1,
        )
    }

    fn retry(fault: Fault) -> Verdict {
        Verdict::Retry { fault, after: None }
    }

    #[test]
    fn every_index_once_is_decided() {
        let body = r#"{"failed":[{"code":"EventTooLargeException","identifier":"a","index":1,"message":"Transformed event is larger than 240KB"}],"successful":[{"identifier":"b","index":0},{"identifier":"c","index":2}]}"#;
        let why = "EventTooLargeException: Transformed event is larger than 240KB".to_owned();
        let expected =
            vec![EventVerdict::Accepted, EventVerdict::Hopeless { why }, EventVerdict::Accepted];
        assert_eq!(judge(&answer(200, body), 3), Verdict::Decided(expected));
    }

    #[test]
    fn an_index_in_neither_list_is_unconfirmed() {
        let body = r#"{"failed":[],"successful":[{"identifier":"b","index":1}]}"#;
        let expected = vec![EventVerdict::Unconfirmed, EventVerdict::Accepted];
        assert_eq!(judge(&answer(200, body), 2), Verdict::Decided(expected));
    }

    #[test]
    fn what_can_not_be_matched_is_never_a_success() {
        for body in [
            "",
            "{}",
            "<html>200</html>",
            r#"{"failed":[],"successful":[{"identifier":"b","index":0}"#,
            r#"{"failed":[],"successful":[{"identifier":"b","index":0},{"identifier":"b","index":0}]}"#,
            r#"{"failed":[],"successful":[{"identifier":"b","index":2}]}"#,
            r#"{"failed":[{"index":0,"code":"x"}],"successful":[{"identifier":"b","index":0}]}"#,
            r#"{"failed":[],"successful":[{"identifier":"b","index":-1}]}"#,
        ] {
            assert_eq!(judge(&answer(200, body), 2), retry(Fault::UnknownAnswer), "{body}");
        }
    }

    #[test]
    fn the_kind_decides_before_the_status() {
        for status in [400, 401, 403] {
            for kind in [
                "UnauthorizedException",
                "AccessDeniedException",
                "ExpiredTokenException",
                "SignatureDoesNotMatch",
                "InvalidSignatureException",
            ] {
                assert!(
                    matches!(errors(status, kind, "m"), Verdict::Refused { .. }),
                    "{status} {kind}"
                );
            }
        }
        assert!(matches!(
            errors(400, "BadRequestException", "signature mismatch"),
            Verdict::Refused { .. }
        ));
        assert!(matches!(
            errors(400, "BadRequestException", "Input exceeded 5 event limit"),
            Verdict::Bad { .. }
        ));
        assert_eq!(errors(400, "ThrottlingException", "m"), retry(Fault::Throttled));
        assert_eq!(
            errors(403, "TenantBlocked", "not today"),
            Verdict::HandlerRefused { why: "403 TenantBlocked: not today".into() }
        );
    }

    #[test]
    fn statuses_without_a_readable_body() {
        for (status, expected) in [
            (429, retry(Fault::Throttled)),
            (408, retry(Fault::Unavailable)),
            (425, retry(Fault::Unavailable)),
            (500, retry(Fault::Unavailable)),
            (502, retry(Fault::Unavailable)),
            (503, retry(Fault::Unavailable)),
            (504, retry(Fault::Unavailable)),
            (520, retry(Fault::Unavailable)),
            (400, Verdict::Bad { why: "status 400".into() }),
            (413, Verdict::Bad { why: "status 413".into() }),
            (431, Verdict::Bad { why: "status 431".into() }),
            (501, Verdict::Bad { why: "status 501".into() }),
            (505, Verdict::Bad { why: "status 505".into() }),
            (301, Verdict::Refused { why: "status 301".into() }),
            (307, Verdict::Refused { why: "status 307".into() }),
            (401, Verdict::Refused { why: "status 401".into() }),
            (403, Verdict::Refused { why: "status 403".into() }),
            (404, Verdict::Refused { why: "status 404".into() }),
        ] {
            assert_eq!(judge(&answer(status, "<html>"), 1), expected, "{status}");
        }
    }

    #[test]
    fn codes_of_single_events() {
        let one = |code: &str| {
            let body = format!(
                r#"{{"failed":[{{"index":0,"code":{code},"message":"m"}}],"successful":[]}}"#
            );
            match judge(&answer(200, &body), 1) {
                Verdict::Decided(mut verdicts) => verdicts.remove(0),
                other => panic!("{other:?}"),
            }
        };
        for hopeless in [
            "\"EventTooLargeException\"",
            "\"InvalidEvent\"",
            "\"BadRequestException\"",
            "400",
            "413",
        ] {
            assert!(matches!(one(hopeless), EventVerdict::Hopeless { .. }), "{hopeless}");
        }
        for throttled in ["\"ThrottlingException\"", "429", "\"429\""] {
            assert!(
                matches!(one(throttled), EventVerdict::Retry { own_fault: false, .. }),
                "{throttled}"
            );
        }
        for own in [
            "401",
            "403",
            "408",
            "500",
            "\"InternalFailure\"",
            "\"Unauthorized\"",
            "\"Custom\"",
            "null",
        ] {
            assert!(matches!(one(own), EventVerdict::Retry { own_fault: true, .. }), "{own}");
        }
    }

    #[test]
    fn the_header_names_the_kind_where_the_body_does_not() {
        let mut answer = answer(400, "");
        answer.error_type = Some("com.amazon#ExpiredTokenException:http://x/".into());
        assert!(matches!(judge(&answer, 1), Verdict::Refused { .. }));
    }
}
