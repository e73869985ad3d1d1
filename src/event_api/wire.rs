//! The shapes on the wire: the body of a publish as a client writes it, its answer, and the frames of the service.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Channel, Event};

/// Bytes of a body around its events: `{"channel":"…","events":[…]}` and a comma an event.
#[must_use]
pub fn body_overhead(channel: &Channel, events: usize) -> usize {
    r#"{"channel":"","events":[]}"#.len() + channel.as_str().len() + events.saturating_sub(1)
}

/// The body of a publish request. A channel needs no escaping.
#[must_use]
pub fn publish_body<'a>(
    channel: &Channel,
    events: impl IntoIterator<Item = Event<'a>, IntoIter: ExactSizeIterator + Clone>,
) -> Bytes {
    let events = events.into_iter();
    let texts: usize = events.clone().map(|event| event.escaped_len().bytes()).sum();
    let mut body = Vec::with_capacity(body_overhead(channel, events.len()) + texts);
    body.extend_from_slice(b"{\"channel\":\"");
    body.extend_from_slice(channel.as_str().as_bytes());
    body.extend_from_slice(b"\",\"events\":[");
    for (index, event) in events.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        event.escape(&mut body);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// The answer to a publish: which events were taken and which were not, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishAnswer {
    /// Events that were refused.
    pub failed: Vec<FailedEvent>,
    /// Events that were accepted.
    pub successful: Vec<AcceptedEvent>,
}

impl PublishAnswer {
    /// Reads an answer; `None` for anything that has neither list, so that `{}` is never a success.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Lists {
            failed: Option<Vec<Item>>,
            successful: Option<Vec<AcceptedEvent>>,
        }
        // The index is what counts; whatever else stands there can't make an answer unreadable, for
        // that would send again what was accepted.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Item {
            index: usize,
            identifier: Option<Value>,
            code: Option<Value>,
            error_code: Option<Value>,
            message: Option<Value>,
        }
        let lists: Lists = serde_json::from_slice(body).ok()?;
        if lists.failed.is_none() && lists.successful.is_none() {
            return None;
        }
        let failed = lists.failed.unwrap_or_default().into_iter().map(|item| FailedEvent {
            identifier: words(item.identifier),
            index: item.index,
            code: words(item.code.filter(|c| !c.is_null()).or(item.error_code)),
            message: words(item.message),
        });
        let successful = lists.successful.unwrap_or_default();
        Some(Self { failed: failed.collect(), successful })
    }
}

/// A text as it is, nothing as nothing, anything else as JSON.
fn words(value: Option<Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

/// One accepted event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedEvent {
    /// A UUID that the service made; empty in an answer that was read, where nobody asks for it.
    #[serde(skip_deserializing)]
    pub identifier: String,
    /// The position in the request.
    pub index: usize,
}

/// One refused event, its members in the order of AWS: a public test suite compares the text.
/// `code` was seen as a string (`EventTooLargeException`), while a client of AWS models a number: both
/// are read, and kept as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailedEvent {
    /// What kind of failure.
    pub code: String,
    /// A UUID that the service made.
    pub identifier: String,
    /// The position in the request.
    pub index: usize,
    /// In words.
    pub message: String,
}

/// The body of a whole-request error: `{"errors":[{"errorType":…,"message":…}]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong, one item a cause.
    pub errors: Vec<ErrorItem>,
}

impl ErrorAnswer {
    /// Reads the body of an error; `None` for anything that names none. Whatever form an error has, it is
    /// one: to pass it over would be to take its events for accepted.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut body: Value = serde_json::from_slice(body).ok()?;
        let errors = match body.get_mut("errors")?.take() {
            Value::Null => return None,
            Value::Array(errors) => errors,
            other => vec![other],
        };
        let text = |value: Option<Value>| Some(words(value)).filter(|text| !text.is_empty());
        let item = |mut error: Value| {
            let mut take = |name| error.get_mut(name).map(Value::take);
            let (error_type, code) = (text(take("errorType")), text(take("errorCode")));
            let message = text(take("message"));
            let whole = || if error.is_object() { None } else { text(Some(error)) };
            ErrorItem {
                error_type: error_type.map(Cow::from),
                error_code: code.and_then(|code| code.parse().ok()),
                message: message.or_else(whole).map(Cow::from),
            }
        };
        let errors: Vec<ErrorItem> = errors.into_iter().map(item).collect();
        (!errors.is_empty()).then_some(Self { errors })
    }
}

/// One cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorItem {
    /// The kind, such as `UnauthorizedException`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<Cow<'static, str>>,
    /// A number, on WebSocket `connection_error` frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<u16>,
    /// In words; the service leaves it out for an unknown namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'static, str>>,
}

/// A frame that the service sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// The connection is accepted.
    #[serde(rename_all = "camelCase")]
    ConnectionAck {
        /// After this long without a frame the client should drop the link.
        connection_timeout_ms: u32,
    },
    /// The connection is refused.
    ConnectionError {
        /// Why.
        errors: Vec<ErrorItem>,
    },
    /// Keep-alive.
    Ka,
    /// The subscription is live.
    SubscribeSuccess {
        /// Of the subscription.
        id: &'a str,
    },
    /// The subscription is refused.
    SubscribeError {
        /// Of the subscription.
        id: &'a str,
        /// Why.
        errors: Vec<ErrorItem>,
    },
    /// The subscription has ended.
    UnsubscribeSuccess {
        /// Of the subscription.
        id: &'a str,
    },
    /// There was nothing to end.
    UnsubscribeError {
        /// Of the subscription.
        id: &'a str,
        /// Why.
        errors: Vec<ErrorItem>,
    },
    /// One event, as a string: the printed documentation shows an array, the wire has none.
    Data {
        /// Of the subscription.
        id: &'a str,
        /// The JSON text of the event.
        event: &'a str,
    },
    /// The publish was decided, event by event.
    PublishSuccess {
        /// Of the request.
        id: &'a str,
        /// As over HTTP.
        successful: Vec<AcceptedEvent>,
        /// As over HTTP.
        failed: Vec<FailedEvent>,
    },
    /// The publish was refused whole.
    PublishError {
        /// Of the request.
        id: &'a str,
        /// Why.
        errors: Vec<ErrorItem>,
    },
    /// A frame could not be attributed.
    Error {
        /// As the frame had it, if it had one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        /// Why.
        errors: Vec<ErrorItem>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_answers_of_the_service_are_read() {
        let success = r#"{"failed":[],"successful":[{"identifier":"53287bee-ae0d-42e7-8a90-e9d2a49e4bd7","index":0}]}"#;
        let answer = PublishAnswer::parse(success.as_bytes()).unwrap();
        assert_eq!(answer.successful[0].index, 0);
        assert!(answer.failed.is_empty());

        let failed = r#"{"failed":[{"code":"EventTooLargeException","identifier":"x","index":0,"message":"Transformed event is larger than 240KB"}],"successful":[]}"#;
        let answer = PublishAnswer::parse(failed.as_bytes()).unwrap();
        assert_eq!(answer.failed[0].code, "EventTooLargeException");

        let number = r#"{"failed":[{"code":401,"identifier":"x","index":2,"message":null}]}"#;
        let answer = PublishAnswer::parse(number.as_bytes()).unwrap();
        assert_eq!((answer.failed[0].code.as_str(), answer.failed[0].index), ("401", 2));

        let bare = br#"{"successful":[{"index":0}],"failed":[{"index":1,"identifier":null,"code":null,"errorCode":429,"message":{"a":1}}]}"#;
        let answer = PublishAnswer::parse(bare).unwrap();
        assert_eq!(answer.successful[0].index, 0);
        assert_eq!(
            (answer.failed[0].code.as_str(), answer.failed[0].message.as_str()),
            ("429", r#"{"a":1}"#)
        );

        assert_eq!(PublishAnswer::parse(b"{}"), None);
        assert_eq!(PublishAnswer::parse(b"<html>"), None);

        let errors = r#"{"errors":[{"errorType":"UnauthorizedException","message":"You are not authorized to make this call."}]}"#;
        let answer: ErrorAnswer = serde_json::from_str(errors).unwrap();
        assert_eq!(answer.errors[0].error_type.as_deref(), Some("UnauthorizedException"));
    }

    #[test]
    fn a_body_is_what_serde_would_write_and_its_length_is_known_before() {
        let channel = Channel::parse("demo/a").unwrap();
        let texts = ["{\"a\":\"\\u00fc \u{fc}\"}", "1", "\"tab\\t\""];
        let events = texts.map(|text| Event::parse(text.as_bytes()).unwrap());
        let body = publish_body(&channel, events);
        let expected = serde_json::json!({ "channel": "/demo/a", "events": texts });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
        let known: usize = events.iter().map(|event| event.escaped_len().bytes()).sum();
        assert_eq!(body.len(), body_overhead(&channel, events.len()) + known);
    }

    #[test]
    fn frames_have_the_shapes_of_the_protocol() {
        let frame = ServerFrame::Data { id: "s", event: "{\"a\":1}" };
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(text, r#"{"type":"data","id":"s","event":"{\"a\":1}"}"#);
        let ack = ServerFrame::ConnectionAck { connection_timeout_ms: 300_000 };
        let text = serde_json::to_string(&ack).unwrap();
        assert_eq!(text, r#"{"type":"connection_ack","connectionTimeoutMs":300000}"#);
        let error = ServerFrame::Error { id: None, errors: Vec::new() };
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"type":"error","errors":[]}"#);
    }
}
