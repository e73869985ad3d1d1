//! The JSON of a fault: unknown fields are refused, and it is shown as it was written.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

use super::fields::{
    LiteralBody, Offset, body, channel, code, headers, indexes, namespace, offset, per_second,
    probability, some_time, status, time,
};
use crate::event_api::Channel;

/// A checked fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// As it was written.
    pub(super) text: Value,
    pub(super) spec: Spec,
}

/// Why a text is not a fault.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Not JSON, or not of the right shape.
    #[error("{0}")]
    Unreadable(#[from] serde_json::Error),
    /// A fault of a list.
    #[error("fault {index} of the list: {why}")]
    Bad {
        /// Counted from 0.
        index: usize,
        /// The parser's message.
        why: serde_json::Error,
    },
}

/// The kind of a fault, and its scope.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) fault: Kind,
    #[serde(default, deserialize_with = "namespace")]
    pub(super) namespace: Option<String>,
    #[serde(default, deserialize_with = "channel")]
    pub(super) channel: Option<Channel>,
    /// Requests that pass first.
    #[serde(default)]
    pub(super) skip: u64,
    /// Requests that it strikes at most.
    pub(super) times: Option<u64>,
    /// Its duration.
    #[serde(default, rename = "for", deserialize_with = "some_time")]
    pub(super) lasts: Option<Duration>,
    #[serde(default = "always", deserialize_with = "probability")]
    pub(super) probability: f64,
    pub(super) seed: Option<u64>,
}

/// The kinds of fault; the module page above describes their effects.
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
        body: LiteralBody,
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

/// Whether a fault strikes before or after the events are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum When {
    /// Before any check; nothing is in the ledger.
    #[default]
    Before,
    /// The events are accepted, and in the ledger.
    After,
}

/// The error in the answer to a request whose events were accepted.
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
    /// The JSON ends early, and `content-length` fits the rest.
    Truncated,
    /// No body.
    Empty,
}

impl Fault {
    /// Reads a JSON array of faults; [`FromStr`] reads a single one.
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

fn always() -> f64 {
    1.0
}

fn after() -> When {
    When::After
}

fn internal() -> String {
    "InternalFailureException".to_owned()
}

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
}
