//! The frames of the service, as a client reads them: tolerant of what is new, and of what other implementations do
//! otherwise.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::CONNECTION_TIMEOUT_MS;
use super::wire::{ErrorAnswer, ErrorItem};

/// A frame that came, as far as it matters to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceivedFrame {
    /// The connection is accepted.
    ConnectionAck {
        /// After this many milliseconds without a frame the link is dead.
        timeout_ms: u32,
    },
    /// The connection is refused.
    ConnectionError(Vec<ErrorItem>),
    /// Keep-alive.
    Ka,
    /// The subscription of this id is live.
    SubscribeSuccess(String),
    /// The subscription of this id is refused.
    SubscribeError(String, Vec<ErrorItem>),
    /// Events of the subscription of this id, each a JSON text. The service sends one; some stand-ins send a list, as
    /// the service's documentation prints it.
    Data(String, Vec<String>),
    /// An event that the service could not deliver, or a frame that it could not attribute.
    Trouble(Vec<ErrorItem>),
    /// Of no concern.
    Other,
}

/// The fields that matter; what stands there may be of any kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    connection_timeout_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
}

impl ReceivedFrame {
    /// Reads a frame; `None` for what is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // An array would be read by position.
        let text = Some(text).filter(|text| text.trim_start().starts_with('{'))?;
        let frame: Fields<'_> = serde_json::from_str(text).ok()?;
        let kind: String = value(frame.r#type)?;
        let id = value(frame.id).unwrap_or_default();
        let errors = || ErrorAnswer::parse(text.as_bytes()).unwrap_or_default().errors;
        Some(match kind.as_str() {
            "connection_ack" => {
                let timeout = value(frame.connection_timeout_ms).filter(|ms| *ms > 0);
                Self::ConnectionAck { timeout_ms: timeout.unwrap_or(CONNECTION_TIMEOUT_MS) }
            }
            "connection_error" => Self::ConnectionError(errors()),
            "ka" => Self::Ka,
            "subscribe_success" => Self::SubscribeSuccess(id),
            "subscribe_error" => Self::SubscribeError(id, errors()),
            "data" => {
                let list: Option<Vec<&RawValue>> = value(frame.event);
                let events = list.unwrap_or_else(|| frame.event.into_iter().collect());
                Self::Data(id, events.into_iter().map(event).collect())
            }
            "broadcast_error" | "error" => Self::Trouble(errors()),
            _ => Self::Other,
        })
    }
}

fn value<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// A string holds the JSON text; anything else is taken for the event itself, as it stands there.
fn event(raw: &RawValue) -> String {
    value(Some(raw)).unwrap_or_else(|| raw.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_the_service_are_read() {
        let parse = |text: &str| ReceivedFrame::parse(text).unwrap();
        assert_eq!(
            parse(r#"{"type":"connection_ack","connectionTimeoutMs":1000}"#),
            ReceivedFrame::ConnectionAck { timeout_ms: 1000 }
        );
        assert_eq!(
            parse(r#"{"type":"connection_ack"}"#),
            ReceivedFrame::ConnectionAck { timeout_ms: CONNECTION_TIMEOUT_MS }
        );
        let data = parse(r#"{"type":"data","id":"1","event":"{\"a\":1}"}"#);
        assert_eq!(data, ReceivedFrame::Data("1".to_owned(), vec![r#"{"a":1}"#.to_owned()]));
        let refused = r#"{"type":"connection_error","errors":[{"errorType":"UnauthorizedException","errorCode":401,"message":"You are not authorized to make this call."}]}"#;
        let ReceivedFrame::ConnectionError(errors) = parse(refused) else { panic!() };
        assert_eq!(errors[0].error_code, Some(401));
        assert_eq!(parse(r#"{"type":"ka"}"#), ReceivedFrame::Ka);
        assert_eq!(parse(r#"{"type":"new"}"#), ReceivedFrame::Other);
    }

    #[test]
    fn what_stand_ins_send_is_read_and_what_is_no_frame_is_none() {
        let data = |text: &str| match ReceivedFrame::parse(text) {
            Some(ReceivedFrame::Data(_, events)) => events,
            other => panic!("{other:?}"),
        };
        assert_eq!(data(r#"{"type":"data","id":"1","event":["1","\"b\""]}"#), ["1", "\"b\""]);
        assert_eq!(data(r#"{"type":"data","id":"1","event":{"a":1}}"#), [r#"{"a":1}"#]);
        let exact = r#"{"n":12345678901234567890123,"n":1.10}"#;
        assert_eq!(data(&format!(r#"{{"type":"data","event":{exact}}}"#)), [exact]);
        assert_eq!(data(r#"{"type":"data","id":"1"}"#), [""; 0]);
        for text in ["", "1", "{}", r#"{"type":1}"#, "<html>"] {
            assert_eq!(ReceivedFrame::parse(text), None, "{text}");
        }
    }
}
