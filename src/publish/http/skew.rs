//! The difference between the bridge's clock and the service's, learned from the `date` of its answers, as
//! the AWS SDKs do; where a refusal has no credible `date`, from the time that its message quotes.
//!
//! A signature is good for about five minutes around the service's time, so a machine whose clock is
//! off is refused; signing with the corrected time cures that. Pure, but for the one number kept.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// Below this, a refused signature is not the clock's fault.
const DETECTED: Duration = Duration::from_mins(4);

/// The `date` of an answer that took longer is too inexact.
const SLOWEST: Duration = Duration::from_mins(15);

/// A `date` further off than this is taken for wrong. (A machine whose clock is so far off would find no
/// certificate valid.)
const MOST: Duration = Duration::from_hours(366 * 24);

/// Beginnings of refusals that quote the service's time.
const QUOTING: [&str; 2] = ["Signature expired: ", "Signature not yet current: "];

/// Error codes that a wrong clock may cause.
const CODES: [&str; 5] = [
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "AuthFailure",
    "RequestTimeTooSkewed",
    "AccessDeniedException",
];

/// The service's time minus the bridge's, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skew(i64);

/// What is known of the service's clock.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicI64);

/// When an answer came, and what it says of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamps<'a> {
    /// By our clock.
    pub(super) sent: SystemTime,
    /// By our clock.
    pub(super) received: SystemTime,
    /// The `date` header.
    pub(super) date: Option<&'a str>,
    /// Whether there is an `age` header: the answer comes out of a cache.
    pub(super) age: bool,
    /// The body of an answer that refuses us. Of no other answer: what a handler says may be in the
    /// words of whoever made the event, who has no business with our clock. (A handler can refuse, too,
    /// so this is looked at only without a `date`.)
    pub(super) refusal: Option<&'a [u8]>,
}

impl Clock {
    /// The correction to add to this machine's time.
    pub(super) fn skew(&self) -> Skew {
        Skew(self.0.load(Ordering::Relaxed))
    }

    /// Takes what an answer says, if it can be believed; whether it could.
    pub(super) fn learn(&self, timestamps: Timestamps<'_>) -> bool {
        let Some(skew) = timestamps.skew() else { return false };
        let before = Skew(self.0.swap(skew.0, Ordering::Relaxed));
        if skew.distance(before) > DETECTED {
            let behind = skew.0 / 1_000;
            tracing::warn!(
                seconds = behind,
                "this machine's clock is behind the API's (ahead, if negative); signatures are corrected"
            );
        }
        true
    }
}

impl Timestamps<'_> {
    /// The service's time less the middle between sending and receiving.
    fn skew(&self) -> Option<Skew> {
        let took = self.received.duration_since(self.sent).ok()?;
        if self.age || took > SLOWEST {
            return None;
        }
        let middle = self.sent + took / 2;
        let date = self.date.and_then(|date| httpdate::parse_http_date(date).ok());
        date.and_then(|date| Skew::between(date, middle))
            .or_else(|| Skew::between(quoted(self.refusal?)?, middle))
    }
}

/// The time of the service where it says by how much a signature was too early or too late:
///
/// ```text
/// Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z (20260101T001500Z - 5 min.)
/// Signature not yet current: 20260101T010000Z is still later than 20260101T002000Z (20260101T001500Z + 5 min.)
/// ```
///
/// It stands behind the bracket, as the AWS SDK for .NET reads it (`DefaultRetryPolicy`). Whatever else
/// there is in the body does not matter: services wrap their words in several ways.
fn quoted(body: &[u8]) -> Option<SystemTime> {
    let text = str::from_utf8(body).ok()?;
    let at = QUOTING.iter().find_map(|words| text.find(words))?;
    let (_, time) = text[at..].split_once('(')?;
    let (time, behind) = time.split_at_checked("20260101T001500Z".len())?;
    if !time.is_ascii() || !(behind.starts_with(" - ") || behind.starts_with(" + ")) {
        return None;
    }
    let (day, hour) = (&time[..8], &time[8..]);
    let (year, month, day) = (&day[..4], &day[4..6], &day[6..]);
    let (hour, minute, rest) = (&hour[..3], &hour[3..5], &hour[5..]);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}{hour}:{minute}:{rest}")).ok()
}

impl Skew {
    /// `None` if no clock can be that far off.
    fn between(theirs: SystemTime, ours: SystemTime) -> Option<Self> {
        let (away, sign) = match theirs.duration_since(ours) {
            Ok(ahead) => (ahead, 1),
            Err(behind) => (behind.duration(), -1),
        };
        if away > MOST {
            return None;
        }
        Some(Self(sign * i64::try_from(away.as_millis()).ok()?))
    }

    /// The service's time when this machine's is `now`.
    pub(super) fn apply(self, now: SystemTime) -> SystemTime {
        let away = Duration::from_millis(self.0.unsigned_abs());
        if self.0 < 0 { now - away } else { now + away }
    }

    /// Whether a request signed with `used`, and refused with `code`, may pass now that this is known.
    pub(super) fn mends(self, used: Self, code: &str) -> bool {
        CODES.contains(&code) && self.distance(used) > DETECTED
    }

    fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// The form of `clock-skew-test-cases.json`, which the AWS SDKs share.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Case {
        description: String,
        operations: Vec<Operation>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Operation {
        initial_client_skew: i64,
        attempts: Vec<Attempt>,
        expected_client_skew: i64,
        expected_outcome: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Attempt {
        client_time_at_send: String,
        client_time_at_receive: String,
        expected_signing_time: String,
        response: Response,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Response {
        status_code: u16,
        headers: Headers,
        error_code: Option<String>,
        /// Ours: the shared form has no words.
        error_message: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase", deny_unknown_fields)]
    struct Headers {
        date: Option<String>,
        age: Option<String>,
    }

    fn time(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    /// Runs a case as the client does, and says where it differs.
    fn run(case: &Case) {
        let clock = Clock::default();
        for operation in &case.operations {
            let name = &case.description;
            clock.0.store(operation.initial_client_skew * 1_000, Ordering::Relaxed);
            let mut outcome = "unanswered";
            let mut attempts = operation.attempts.iter().peekable();
            while let Some(attempt) = attempts.next() {
                let (sent, received) =
                    (time(&attempt.client_time_at_send), time(&attempt.client_time_at_receive));
                let used = clock.skew();
                assert_eq!(used.apply(sent), time(&attempt.expected_signing_time), "{name}");
                let headers = &attempt.response.headers;
                let date = headers.date.as_deref();
                let refusal = attempt.response.error_message.as_deref().map(str::as_bytes);
                clock.learn(Timestamps {
                    sent,
                    received,
                    date,
                    age: headers.age.is_some(),
                    refusal,
                });
                let code = attempt.response.error_code.as_deref().unwrap_or_default();
                let again = clock.skew().mends(used, code);
                assert_eq!(again, attempts.peek().is_some(), "{name}: another attempt");
                outcome = if attempt.response.status_code == 200 { "success" } else { "error" };
            }
            let skew = clock.skew().0;
            assert_eq!(
                (skew, outcome),
                (operation.expected_client_skew * 1_000, &*operation.expected_outcome),
                "{name}"
            );
        }
    }

    #[test]
    fn cases() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/fixtures/clock-skew.json")).unwrap();
        assert!(cases.len() >= 12);
        cases.iter().for_each(run);
    }

    #[test]
    fn a_time_is_quoted_or_it_is_none() {
        let quotes = |body: &str| quoted(body.as_bytes());
        let expired = "20260101T000000Z is now earlier than 20260101T001000Z";
        let theirs = Some(time("2026-01-01T00:15:00Z"));
        assert_eq!(
            quotes(&format!("Signature expired: {expired} (20260101T001500Z - 5 min.)")),
            theirs
        );
        let wrapped = r#"{"errors":[{"errorType":"InvalidSignatureException","message":"(x) Signature not yet current: 20260101T010000Z is still later than 20260101T002000Z (20260101T001500Z + 5 min.)"}]}"#;
        assert_eq!(quotes(wrapped), theirs);
        for body in [
            "",
            "Signature expired: ",
            "Signature expired: (",
            "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z",
            "Signature expired: (20260101T001500Z)",
            "Signature expired: (20260101T001500Z . 5 min.)",
            "Signature expired: (20261301T001500Z - 5 min.)",
            "Signature expired: (2026-01-01T00:15 - 5 min.)",
            "Signature expired: (20260101T00150é - 5 min.)",
            "Signature expired: (éééééééé - 5 min.)",
            "the handler says (20260101T001500Z - 5 min.)",
        ] {
            assert_eq!(quotes(body), None, "{body}");
        }
        assert_eq!(quoted(b"\xffSignature expired: (20260101T001500Z - 5 min.)"), None);
    }
}
