//! The JSON of a fault: read strictly, checked once, shown again as it was written.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::event_api::{Channel, MAX_EVENTS, Segment};

/// A fault that was read and makes sense.
#[derive(Clone, Debug)]
pub struct Fault {
    /// As it was written.
    pub(super) text: Value,
    pub(super) spec: Spec,
}

/// Why a text is no fault.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Not JSON, or not of the right shape.
    #[error("{0}")]
    Unreadable(#[from] serde_json::Error),
    /// One of a list.
    #[error("fault {index} of the list: {why}")]
    Bad {
        /// Counted from 0.
        index: usize,
        /// What the reader says.
        why: serde_json::Error,
    },
}

/// What to do, and to which requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) fault: Kind,
    #[serde(default, deserialize_with = "namespace")]
    pub(super) namespace: Option<String>,
    #[serde(default, deserialize_with = "channel")]
    pub(super) channel: Option<Channel>,
    /// Requests that are let through first.
    #[serde(default)]
    pub(super) skip: u64,
    /// How often it strikes at most.
    pub(super) times: Option<u64>,
    /// How long it lasts.
    #[serde(default, rename = "for", deserialize_with = "some_time")]
    pub(super) lasts: Option<Duration>,
    #[serde(default = "always", deserialize_with = "probability")]
    pub(super) probability: f64,
    pub(super) seed: Option<u64>,
}

/// The kinds of fault; what each does stands in the page of the module above.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Kind {
    Throttle {
        #[serde(default, deserialize_with = "per_second")]
        requests_per_second: Option<u32>,
        #[serde(default, deserialize_with = "per_second")]
        events_per_second: Option<u32>,
        /// In seconds.
        retry_after: Option<u64>,
    },
    Answer {
        #[serde(deserialize_with = "status")]
        status: StatusCode,
        #[serde(default, deserialize_with = "body")]
        body: Body,
        #[serde(default, deserialize_with = "headers")]
        headers: HeaderMap,
        #[serde(default)]
        when: When,
    },
    RefuseNamespace {},
    HandlerRefuses {
        error_type: String,
        #[serde(default)]
        message: Option<String>,
    },
    FailEvents {
        #[serde(default = "internal", deserialize_with = "code")]
        code: String,
        #[serde(default)]
        message: String,
        /// Of each event.
        #[serde(default = "always", deserialize_with = "probability")]
        probability: f64,
        /// Empty: any.
        #[serde(default, deserialize_with = "indexes")]
        indexes: Vec<usize>,
    },
    WrongAnswer(Wrong),
    Hang {
        #[serde(default)]
        when: When,
    },
    Cut {
        #[serde(default)]
        when: When,
    },
    Slow {
        #[serde(deserialize_with = "time")]
        delay: Duration,
        #[serde(default, deserialize_with = "time")]
        jitter: Duration,
        #[serde(default = "after")]
        when: When,
    },
    Clock {
        #[serde(deserialize_with = "offset")]
        offset: Offset,
    },
    Headers(#[serde(deserialize_with = "headers")] HeaderMap),
}

/// On which side of the work a fault strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum When {
    /// Nothing was looked at, nothing is in the ledger.
    #[default]
    Before,
    /// The events were taken, and the ledger has them.
    After,
}

/// What is wrong with the answer to a request whose events were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wrong {
    /// The last event is in neither list.
    Missing,
    /// The first event is there twice.
    Doubled,
    /// The first event is in both lists.
    InBothLists,
    /// The last event has an index that no event of the request has.
    OutOfRange,
    /// The JSON breaks off, and the length is that of what is left.
    Truncated,
    /// No body.
    Empty,
}

/// A literal body and the type that goes with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) kind: Option<HeaderValue>,
}

/// How far a clock is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    Ahead(Duration),
    Behind(Duration),
}

impl Fault {
    /// Reads a list of faults: a JSON array of what [`FromStr`] takes one of.
    pub fn list(text: &[u8]) -> Result<Vec<Self>, FaultError> {
        let list: Vec<Value> = serde_json::from_slice(text)?;
        let read = |(index, value)| Self::read(value).map_err(|why| FaultError::Bad { index, why });
        list.into_iter().enumerate().map(read).collect()
    }

    fn read(text: Value) -> Result<Self, serde_json::Error> {
        let spec = Spec::deserialize(&text)?;
        if let Kind::Throttle { requests_per_second: None, events_per_second: None, .. } =
            spec.fault
        {
            let missing = "`throttle` needs `requests_per_second` or `events_per_second`";
            return Err(serde_json::Error::custom(missing));
        }
        Ok(Self { text, spec })
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        Ok(Self::read(serde_json::from_str(text)?)?)
    }
}

impl Offset {
    /// The time that the clock shows at `now`. Whatever `now` is, the first and the last moment that a
    /// `date` can tell are the bounds.
    pub(super) fn apply(self, now: SystemTime) -> SystemTime {
        let shown = match self {
            Self::Ahead(by) => now.checked_add(by),
            Self::Behind(by) => now.checked_sub(by),
        };
        shown.unwrap_or(now).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_DATE)
    }
}

fn always() -> f64 {
    1.0
}

fn after() -> When {
    When::After
}

fn internal() -> String {
    "InternalFailureException".to_owned()
}

/// Reads a text, and what `parse` makes of it.
fn parsed<'de, D: Deserializer<'de>, T, E: std::fmt::Display>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(|why| D::Error::custom(format!("`{text}`: {why}")))
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parsed(from, |text| match humantime::parse_duration(text) {
        Ok(time) if time <= LONGEST => Ok(time),
        Ok(_) => Err("longer than a hundred years".to_owned()),
        Err(why) => Err(why.to_string()),
    })
}

fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(from).map(Some)
}

fn offset<'de, D: Deserializer<'de>>(from: D) -> Result<Offset, D::Error> {
    let text = String::deserialize(from)?;
    let (ahead, by) = match text.strip_prefix('-') {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix('+').unwrap_or(&text)),
    };
    let by = time(by.into_deserializer())?;
    if by > FARTHEST {
        return Err(D::Error::custom(format!(
            "`{text}`: a clock can be off by 50 years, from `-50y` to `+50y`"
        )));
    }
    Ok(if ahead { Offset::Ahead(by) } else { Offset::Behind(by) })
}

fn namespace<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(from, |text| Segment::parse(text).map(|s| Some(s.as_str().to_owned())))
}

fn channel<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Channel>, D::Error> {
    parsed(from, |text| Channel::parse(text).map(Some))
}

fn probability<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let range = || D::Error::custom(format!("the probability {number} is not between 0 and 1"));
    (0.0..=1.0).contains(&number).then_some(number).ok_or_else(range)
}

fn per_second<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(D::Error::custom("nothing a second is not a rate: `hang` and `answer` stop all")),
        number => Ok(Some(number)),
    }
}

fn status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let number = u16::deserialize(from)?;
    let known = StatusCode::from_u16(number).ok().filter(|s| (200..=599).contains(&s.as_u16()));
    known.ok_or_else(|| D::Error::custom(format!("{number} is no status between 200 and 599")))
}

/// A text stands as it is, anything else is written as JSON.
fn body<'de, D: Deserializer<'de>>(from: D) -> Result<Body, D::Error> {
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    Ok(match Value::deserialize(from)? {
        Value::String(text) if text.starts_with('<') => {
            let kind = Some(HeaderValue::from_static("text/html"));
            Body { bytes: text.into(), kind }
        }
        Value::String(text) => Body { bytes: text.into(), kind: Some(json) },
        value => Body { bytes: value.to_string().into(), kind: Some(json) },
    })
}

fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in serde_json::Map::deserialize(from)? {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parsed = HeaderName::from_str(&name).ok().zip(HeaderValue::from_str(&value).ok());
        let Some((name, value)) = parsed else {
            return Err(D::Error::custom(format!("`{name}: {value}` is no header")));
        };
        // The server writes these itself, to fit the body.
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            return Err(D::Error::custom(format!("`{name}` can't be chosen")));
        }
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Seen as a text, modelled as a number by one client.
fn code<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(D::Error::custom(format!("the code {other} is neither a text nor a number"))),
    }
}

fn indexes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
    let list = Vec::<usize>::deserialize(from)?;
    match list.iter().find(|index| **index >= MAX_EVENTS) {
        Some(index) => Err(D::Error::custom(format!("no request has an event {index}"))),
        None => Ok(list),
    }
}

/// Far enough, and can be added to a clock.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// How far a clock can be off: years of 365.25 days, as they are read.
const FARTHEST: Duration = Duration::from_hours(50 * 8_766);

/// From 1970 to the end of the year 9999, which is the last that a `date` can tell.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_shown_as_written() {
        for text in [
            r#"{"fault":{"throttle":{"requests_per_second":10,"retry_after":2}},"for":"10s"}"#,
            r#"{"fault":{"throttle":{"events_per_second":50}}}"#,
            r#"{"fault":{"answer":{"status":307,"headers":{"location":"http://b/event"}}}}"#,
            r#"{"fault":{"answer":{"status":503,"body":{"errors":[]},"when":"after"}}}"#,
            r#"{"fault":{"refuse_namespace":{}},"namespace":"orders"}"#,
            r#"{"fault":{"handler_refuses":{"error_type":"Blocked"}},"channel":"/orders/7"}"#,
            r#"{"fault":{"fail_events":{"code":429,"probability":0.3}},"seed":7}"#,
            r#"{"fault":{"fail_events":{"indexes":[0,4]}},"skip":3,"times":2}"#,
            r#"{"fault":{"wrong_answer":"in_both_lists"}}"#,
            r#"{"fault":{"hang":{}},"probability":0.5}"#,
            r#"{"fault":{"cut":{"when":"after"}}}"#,
            r#"{"fault":{"slow":{"delay":"50ms","jitter":"20ms"}}}"#,
            r#"{"fault":{"clock":{"offset":"-10m"}}}"#,
            r#"{"fault":{"headers":{"age":30}}}"#,
        ] {
            let fault: Fault = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(fault.text.to_string(), text);
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, says) in [
            (r#"{"fault":{"hangs":{}}}"#, "unknown variant `hangs`"),
            (r#"{"fault":{"hang":{"often":1}}}"#, "unknown field `often`"),
            (r#"{"fault":{"hang":{}},"time":3}"#, "unknown field `time`"),
            (r#"{"fault":{"throttle":{}}}"#, "needs `requests_per_second` or"),
            (r#"{"fault":{"throttle":{"events_per_second":0}}}"#, "not a rate"),
            (r#"{"fault":{"answer":{"status":100}}}"#, "100 is no status"),
            (r#"{"fault":{"answer":{"status":200,"headers":{"a b":"c"}}}}"#, "`a b: c` is no"),
            (r#"{"fault":{"headers":{"content-length":3}}}"#, "can't be chosen"),
            (r#"{"fault":{"cut":{}},"probability":1.5}"#, "not between 0 and 1"),
            (r#"{"fault":{"slow":{"delay":"5 apples"}}}"#, "`5 apples`"),
            (r#"{"fault":{"clock":{"offset":"-9000000d"}}}"#, "hundred years"),
            (r#"{"fault":{"clock":{"offset":"-57y"}}}"#, "from `-50y` to `+50y`"),
            (r#"{"fault":{"clock":{"offset":"+50y 1d"}}}"#, "from `-50y` to `+50y`"),
            (r#"{"fault":{"fail_events":{"indexes":[5]}}}"#, "no request has an event 5"),
            (r#"{"fault":{"cut":{}},"channel":"/a b"}"#, "`/a b`"),
            (r#"{"fault":{"cut":{}},"namespace":"a/b"}"#, "`a/b`"),
            ("{", "EOF"),
        ] {
            let error = Fault::from_str(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = Fault::list(br#"[{"fault":{"cut":{}}},{}]"#).unwrap_err().to_string();
        assert_eq!(error, "fault 1 of the list: missing field `fault`");
    }

    #[test]
    fn a_clock_is_off_either_way() {
        let offset = |text: &str| {
            let text = format!(r#"{{"fault":{{"clock":{{"offset":"{text}"}}}}}}"#);
            let Kind::Clock { offset } = text.parse::<Fault>().unwrap().spec.fault else {
                panic!("no clock")
            };
            offset
        };
        let now = UNIX_EPOCH + LONGEST;
        let minute = Duration::from_mins(1);
        assert_eq!(offset("+1m").apply(now), now + minute);
        assert_eq!(offset("1m").apply(now), now + minute);
        assert_eq!(offset("-1m").apply(now), now - minute);
        // A machine whose own clock is far off shows a date all the same.
        for (now, off) in [(UNIX_EPOCH, "-50y"), (UNIX_EPOCH + LAST_DATE, "50y")] {
            assert_eq!(offset(off).apply(now), now);
            httpdate::fmt_http_date(offset(off).apply(now));
        }
    }
}
