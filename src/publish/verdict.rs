//! What an answer of the Event API means. Pure: an answer in, a verdict out.
//!
//! A status of 200 is not success: the body names each event by its index, as accepted or as failed.
//! The kind of an error (`errorType`) decides before the status does, because which status the
//! service sends for which mistake is only partly known.

use std::time::Duration;

use super::post::{Answer, Fault};
use super::retry_after::LONGEST_FLOOR;
use super::words;
use crate::event_api::wire::{ErrorAnswer, ErrorItem, FailedEvent, PublishAnswer};
use crate::seeded_bugs::{self, Bug};

/// What the names of errors about a used-up quota contain, [plain](plain). Handlers choose names of their own, for what is no
/// quota of the API: theirs are told apart by the status, as far as that is known.
const QUOTAS: [&str; 8] = [
    "throttl",
    "toomanyrequests",
    "limitexceeded",
    "servicequotaexceeded",
    "throughputexceeded",
    "ratelimit",
    "rateexceeded",
    "slowdown",
];

/// What the words of a handler that refuses an event do not speak of: those that do may be the service's own, to us.
const AUTHORIZATION: [&str; 11] = [
    "authori",
    "authenti",
    "credential",
    "signature",
    "token",
    "api key",
    "denied",
    "forbidden",
    "permission",
    "expired",
    "clock",
];

/// What a whole answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every event has a verdict of its own, in the order of the request.
    Decided(Vec<EventVerdict>),
    /// Nothing is known of the events, or the fault is transient: retry all of them.
    Retry {
        /// What is wrong.
        fault: Fault,
        /// Not before this long.
        after: Option<Duration>,
    },
    /// The bridge is refused, not the events: credentials, clock, policy, a namespace, a wrong endpoint.
    /// Every event is kept, and retried at a low rate.
    Refused {
        /// In the words of the service.
        why: String,
        /// The party that refuses.
        who: Refuser,
    },
    /// The request is bad, perhaps because of one of its events: each is retried in a request of its own,
    /// and counts as the fault only if the API accepts others.
    Bad {
        /// In the words of the service.
        why: String,
        /// It is certain that an event is the fault, not the bridge: it is too large.
        certain: bool,
    },
    /// The handler of the namespace refuses: each event is tried alone, and given up after a while.
    HandlerRefused {
        /// In the words of the handler.
        why: String,
    },
}

/// The party that refuses the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// The API, in every namespace: for the credentials, the clock, or because it is another API.
    Api,
    /// The API, if the words of a bad request are its own; they may be those of an event that it quotes.
    Unsure,
    /// The namespace, or a policy for it; or an unknown party.
    Namespace,
    /// A firewall before the API, which may refuse the bridge, or an event's content.
    Firewall,
    /// Somebody without a name: perhaps the handler, which refuses an event, or the service, which refuses us.
    Nameless,
}

/// The verdict on one event.
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
    /// May be accepted later; counts towards `give_up_after`.
    Retry {
        /// Code and words of the service.
        why: String,
    },
    /// Came too fast: to be accepted later, and never given up.
    Throttled {
        /// Code and words of the service.
        why: String,
    },
}

/// The reason for a retry, from an answer.
pub fn why_again(answer: &Answer) -> String {
    words::with_wait(ErrorKind::of(answer).words(answer), answer)
}

/// Judges the answer to a request with `events` events.
pub fn judge(answer: &Answer, events: usize) -> Verdict {
    let after = answer.retry_after.map(|after| after.min(LONGEST_FLOOR));
    let retry = |fault| Verdict::Retry { fault, after };
    if let Some(decided) = decided(answer, events) {
        return decided;
    }
    let error = ErrorKind::of(answer);
    let why = error.words(answer);
    if let Some(who) = error.is_about_us(answer.status) {
        return Verdict::Refused { why, who };
    }
    if error.is_throttling(answer.status) {
        return retry(Fault::Throttled);
    }
    match answer.status {
        429 => retry(Fault::Throttled),
        408 | 425 | 500 | 502..=504 | 506..=510 | 512..=599 => retry(Fault::Unavailable),
        403 if error.is_named() => Verdict::HandlerRefused { why },
        403 if error.is_nameless() => Verdict::Refused { why, who: Refuser::Nameless },
        401 | 403 => Verdict::Refused { why, who: Refuser::Namespace },
        // 3xx is never followed: credentials go to no other host. 404: a wrong endpoint.
        // 407 and 511: a proxy or network that asks for a login is no API.
        300..=399 | 404 | 407 | 511 => Verdict::Refused { why, who: Refuser::Api },
        status @ (400..=499 | 501 | 505) => Verdict::Bad { why, certain: status == 413 },
        // A success that says nothing of its events, or no status of an answer.
        _ => retry(Fault::UnknownAnswer),
    }
}

/// The error code of an answer that refuses *the bridge*; `None` for any other answer. Other credentials or
/// a corrected clock may cure it. A bad request about the signature gets the code that other services use; a
/// bare 401 or 403 an empty one.
pub fn refusal(answer: &Answer) -> Option<String> {
    // What was accepted beside it must not be sent again.
    let accepts = || PublishAnswer::parse(&answer.body).is_some_and(|it| !it.successful.is_empty());
    if accepts() {
        return None;
    }
    let error = ErrorKind::of(answer);
    if error.is_about_us(answer.status).is_some() {
        let named = error.kind.filter(|kind| kind != "BadRequestException");
        return Some(named.unwrap_or_else(|| "InvalidSignatureException".to_owned()));
    }
    let refuses = answer.status == 401 || answer.status == 403 && !error.is_named();
    refuses.then(|| error.kind.unwrap_or_default())
}

/// Reads the lists: `None` unless each index stands at most once and none is out of range. Errors beside
/// the lists are about what stands in neither. If nothing stands there, they may be about the whole
/// request: `None`, too, unless they are of the events.
///
/// Beside another status than success they count only if they name every event, and some as accepted, which must not be
/// sent again. Else the status says more: whether it is an event that fails, or the API, or us.
fn decided(answer: &Answer, events: usize) -> Option<Verdict> {
    let lists = PublishAnswer::parse(&answer.body)?;
    let mut verdicts: Vec<Option<EventVerdict>> = vec![None; events];
    let accepted = lists.successful.iter().map(|e| (e.index, EventVerdict::Accepted));
    let judge = |e: &FailedEvent| {
        if seeded_bugs::is(Bug::IgnoreFailed) { EventVerdict::Accepted } else { judge_event(e) }
    };
    let failed = lists.failed.iter().map(|e| (e.index, judge(e)));
    for (index, verdict) in accepted.chain(failed) {
        if verdicts.get_mut(index)?.replace(verdict).is_some() {
            return None;
        }
    }
    let is_whole = !verdicts.contains(&None) && verdicts.contains(&Some(EventVerdict::Accepted));
    if !is_whole && !matches!(answer.status, 200..=299) {
        return None;
    }
    let mut unnamed = EventVerdict::Unconfirmed;
    if verdicts.contains(&None) && ErrorAnswer::parse(&answer.body).is_some() {
        let error = ErrorKind::of(answer);
        if verdicts.iter().all(Option::is_none) {
            let of_events = error.is_about_us(answer.status).is_none()
                && !error.is_throttling(answer.status)
                && !error.is_of_the_service();
            return of_events.then(|| Verdict::HandlerRefused { why: error.words(answer) });
        }
        let why = error.words(answer);
        unnamed = if error.is_throttling(answer.status) {
            EventVerdict::Throttled { why }
        } else {
            EventVerdict::Retry { why }
        };
    }
    let verdicts = verdicts.into_iter().map(|v| v.unwrap_or_else(|| unnamed.clone())).collect();
    Some(Verdict::Decided(verdicts))
}

fn judge_event(event: &FailedEvent) -> EventVerdict {
    let why = match (event.code.as_str(), event.message.as_str()) {
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let why = words::said(&why);
    let code = plain(&event.code);
    let says = |words: &[&str]| words.iter().any(|w| code.contains(w));
    // Also as `429 Too Many Requests`.
    let number = event.code.split(|c: char| !c.is_ascii_digit()).next();
    let number: Option<u16> = number.and_then(|number| number.parse().ok());
    if names_a_quota(&event.code) || number == Some(429) {
        return EventVerdict::Throttled { why };
    }
    let passing = says(&["internal", "timeout", "unavailable"])
        || says(&["unauthorized", "accessdenied", "forbidden"])
        || matches!(number, Some(401 | 403 | 408 | 500..=599));
    // A name of its own for who we are is no fault of the event, as `InvalidSignatureException`.
    let about_us = says(&["signature", "token", "credential", "expired", "unrecognizedclient"]);
    let hopeless = says(&["toolarge", "invalid", "badrequest", "validation"]) && !about_us
        || matches!(number, Some(400..=499));
    if hopeless && !passing {
        return EventVerdict::Hopeless { why };
    }
    EventVerdict::Retry { why }
}

/// Whether a kind of error, or the code of an event, says that a quota is used up. Services of AWS have many names for it. A
/// limit of size is no quota.
fn names_a_quota(kind: &str) -> bool {
    let kind = plain(kind);
    QUOTAS.iter().any(|word| kind.contains(word)) && !kind.contains("size")
}

/// A name without what only sets its parts apart: `TOO_MANY_REQUESTS` and `Too Many Requests` are one.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The kind of error that an answer states.
struct ErrorKind {
    kind: Option<String>,
    message: Option<String>,
    /// A handler may have chosen it: it is in the list of an Event API or in the header, not only in the form that all
    /// services of AWS have.
    of_the_api: bool,
}

impl ErrorKind {
    fn of(answer: &Answer) -> Self {
        let body = ErrorAnswer::parse(&answer.body);
        let listed = body.and_then(|body| body.errors.into_iter().next());
        // Beside the lists of a success such members would be no error.
        let of_aws = || ErrorItem::of_aws(&answer.body).filter(|_| answer.status >= 300);
        let (first, listed) = match listed {
            Some(first) => (first, true),
            None => (of_aws().unwrap_or_default(), false),
        };
        let kind = first.error_type.map(String::from).filter(|k| !k.is_empty());
        // The header may carry a namespace and a URL around the name: `ns#Name:http://…`.
        let header = answer.error_type.as_deref().map(|h| {
            let name = h.split(':').next().unwrap_or(h);
            name.rsplit('#').next().unwrap_or(name).to_owned()
        });
        Self {
            kind: kind.or(header.filter(|h| !h.is_empty())),
            message: first.message.map(String::from),
            of_the_api: listed || answer.error_type.is_some(),
        }
    }

    /// The party that refuses *the bridge*, if the error says so, whatever the status: over WebSocket a bad
    /// signature was seen as a `BadRequestException`, so over HTTP it may be a 400.
    fn is_about_us(&self, status: u16) -> Option<Refuser> {
        if self.is_one_of(&["UnauthorizedException", "AccessDenied", "ForbiddenException"]) {
            return Some(Refuser::Namespace);
        }
        if self.is_one_of(&["WAFForbidden"]) {
            return Some(Refuser::Firewall);
        }
        let credentials = [
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
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let speaks = |words: &[&str]| words.iter().any(|word| message.contains(word));
        let signature = speaks(&["signature", "credential", "security token", "x-amz-date"]);
        let doubts = signature || speaks(&["expired", "clock"]);
        match self.kind.as_deref() {
            Some("BadRequestException") | None if status == 400 && doubts => Some(Refuser::Unsure),
            Some("BadRequestException") if status != 403 && doubts => Some(Refuser::Api),
            // It may be a handler's own, which must not stop the whole API.
            Some("BadRequestException") if signature => Some(Refuser::Namespace),
            _ => self.is_one_of(&credentials).then_some(Refuser::Api),
        }
    }

    /// Whether a 403 has a name that a handler chose.
    fn is_named(&self) -> bool {
        self.of_the_api && self.kind.is_some()
    }

    /// Whether a 403 has no name and words that a handler may have chosen.
    fn is_nameless(&self) -> bool {
        let speaks_of = |message: &str| {
            let message = message.to_ascii_lowercase();
            AUTHORIZATION.iter().any(|word| message.contains(word))
        };
        let words = || self.message.as_deref().is_some_and(|message| !speaks_of(message));
        self.of_the_api && self.kind.is_none() && words()
    }

    /// Whether it is the service's own, or nobody's.
    fn is_of_the_service(&self) -> bool {
        let names = ["InternalFailure", "InternalServer", "InternalError", "ServiceUnavailable"];
        self.kind.is_none() || self.is_one_of(&names)
    }

    fn is_throttling(&self, status: u16) -> bool {
        match status {
            // Those of a handler come with these.
            403 | 200..=299 => self.is_one_of(&["Throttl", "TooManyRequests", "LimitExceeded"]),
            _ => self.kind.as_deref().is_some_and(names_a_quota),
        }
    }

    /// Whether its kind begins with one of these names.
    fn is_one_of(&self, names: &[&str]) -> bool {
        self.kind.as_deref().is_some_and(|kind| names.iter().any(|name| kind.starts_with(name)))
    }

    /// In words.
    fn words(&self, answer: &Answer) -> String {
        let status = answer.status;
        let words = match (&self.kind, &self.message) {
            (Some(kind), Some(message)) => format!("{status} {kind}: {message}"),
            (Some(kind), None) => format!("{status} {kind}"),
            (None, Some(message)) => format!("{status}: {message}"),
            (None, None) => words::of_status(answer),
        };
        words::said(&words)
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
