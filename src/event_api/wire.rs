//! The shapes on the wire: the body of a publish as a client writes it, its answer, and the frames of the service.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

/// One accepted event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptedEvent {
    /// A UUID that the service made; empty in an answer that was read, where nobody asks for it.
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
