//! What a client sends, as the service reads it: the body of a publish, and the frames of the WebSocket. Unknown fields
//! are ignored, as the service does.
//!
//! An error names a field and not what stands there, which may be a credential in the wrong place.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The body of a publish request.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The channel as the client wrote it.
    pub channel: String,
    /// Each one JSON text.
    pub events: Vec<String>,
}

/// A frame of the WebSocket.
#[derive(Clone, Debug)]
pub enum ClientFrame {
    /// Opens the conversation.
    ConnectionInit,
    /// Asks for the events of a channel.
    Subscribe {
        /// Unique among the subscriptions of the connection.
        id: String,
        /// May end in `/*`.
        channel: String,
        /// The auth object of this operation; empty if there is none.
        authorization: Map<String, Value>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// Of the subscription.
        id: String,
    },
    /// Publishes over the socket.
    Publish {
        /// Of this request.
        id: String,
        /// Where to.
        channel: String,
        /// Each one JSON text.
        events: Vec<String>,
        /// The auth object of this operation; empty if there is none.
        authorization: Map<String, Value>,
    },
}

/// Why a body or a frame cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// With the parser's words and the place.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// Another kind of JSON, or one with two values of a field.
    #[error("it is no object, or names a field twice")]
    NoObject,
    /// A field is missing, or null.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field is of another kind.
    #[error("`{field}` is not {kind}")]
    OtherKind {
        /// Its name.
        field: &'static str,
        /// What it has to be.
        kind: &'static str,
    },
    /// No frame of a client.
    #[error("its `type` is none that a client sends")]
    UnknownType,
}

impl PublishRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, Unreadable> {
        let fields = Fields::parse(body)?;
        Ok(Self { channel: fields.channel()?, events: fields.events()? })
    }
}

impl ClientFrame {
    /// Reads a frame.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let fields = Fields::parse(text)?;
        let kind: String = needed("type", fields.r#type, "a text")?;
        Ok(match kind.as_str() {
            "connection_init" => Self::ConnectionInit,
            "subscribe" => Self::Subscribe {
                id: fields.id()?,
                channel: fields.channel()?,
                authorization: fields.authorization()?,
            },
            "unsubscribe" => Self::Unsubscribe { id: fields.id()? },
            "publish" => Self::Publish {
                id: fields.id()?,
                channel: fields.channel()?,
                events: fields.events()?,
                authorization: fields.authorization()?,
            },
            _ => return Err(Unreadable::UnknownType),
        })
    }
}

/// The fields that are known; what is null is missing.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    events: Option<&'a RawValue>,
    #[serde(borrow)]
    authorization: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, Unreadable> {
        // An array would be read by position.
        let is_object = text.trim_ascii_start().starts_with(b"{");
        match serde_json::from_slice(text) {
            Ok(fields) if is_object => Ok(fields),
            // Its words would repeat the value.
            Err(e) if !e.is_data() => Err(Unreadable::NotJson(e.to_string())),
            _ => Err(Unreadable::NoObject),
        }
    }

    fn id(&self) -> Result<String, Unreadable> {
        needed("id", self.id, "a text")
    }

    fn channel(&self) -> Result<String, Unreadable> {
        needed("channel", self.channel, "a text")
    }

    fn events(&self) -> Result<Vec<String>, Unreadable> {
        needed("events", self.events, "a list of texts")
    }

    fn authorization(&self) -> Result<Map<String, Value>, Unreadable> {
        match self.authorization {
            None => Ok(Map::new()),
            some => needed("authorization", some, "an object"),
        }
    }
}

fn needed<T: DeserializeOwned>(
    field: &'static str,
    value: Option<&RawValue>,
    kind: &'static str,
) -> Result<T, Unreadable> {
    let value = value.ok_or(Unreadable::Missing(field))?;
    serde_json::from_str(value.get()).map_err(|_| Unreadable::OtherKind { field, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_amplify_sends_is_read_and_the_rest_of_it_ignored() {
        let text = r#"{"id":"1","channel":"/default/room","authorization":{"host":"h","x-api-key":"k"},"payload":{"channel":"/default/room","extensions":{}},"type":"subscribe"}"#;
        let ClientFrame::Subscribe { id, channel, authorization } =
            ClientFrame::parse(text.as_bytes()).unwrap()
        else {
            panic!()
        };
        assert_eq!((id.as_str(), channel.as_str()), ("1", "/default/room"));
        assert_eq!(authorization["x-api-key"], "k");
        let body = br#" {"id":"x","channel":"a/b","events":["1","\"\u00fc\""]} "#;
        let request = PublishRequest::parse(body).unwrap();
        assert_eq!(
            (request.channel.as_str(), &request.events[..]),
            ("a/b", &["1".to_owned(), "\"ü\"".to_owned()][..])
        );
    }

    #[test]
    fn no_authorization_is_none_whether_it_is_missing_or_null() {
        for text in [
            r#"{"type":"subscribe","id":"s","channel":"a/b"}"#,
            r#"{"type":"subscribe","id":"s","channel":"a/b","authorization":null}"#,
        ] {
            let frame = ClientFrame::parse(text.as_bytes());
            let Ok(ClientFrame::Subscribe { authorization, .. }) = frame else {
                panic!("{frame:?}")
            };
            assert!(authorization.is_empty());
        }
    }

    #[test]
    fn an_error_names_the_field_and_never_its_value() {
        for (text, says) in [
            (
                r#"{"type":"subscribe","id":"s","channel":"a","authorization":"SECRET"}"#,
                "`authorization` is not an object",
            ),
            (r#"{"type":"subscribe","id":"s","channel":["SECRET"]}"#, "`channel` is not a text"),
            (
                r#"{"type":"publish","id":"p","channel":"a","events":"SECRET"}"#,
                "`events` is not a list of texts",
            ),
            (
                r#"{"type":"publish","id":"p","channel":"a","events":["1",{"SECRET":1}]}"#,
                "`events` is not a list of texts",
            ),
            (r#"{"type":"publish","id":null,"channel":"a"}"#, "`id` is missing"),
            (r#"{"type":"SECRET"}"#, "its `type` is none that a client sends"),
            (r#"{"SECRET":1}"#, "`type` is missing"),
            (r#"{"id":"SECRET","id":"SECRET"}"#, "it is no object, or names a field twice"),
            (r#""SECRET""#, "it is no object, or names a field twice"),
            (r#"["connection_init"]"#, "it is no object, or names a field twice"),
            (r#"{"id":"SECRET"#, "it is not JSON: EOF while parsing a string at line 1 column 13"),
        ] {
            assert_eq!(
                ClientFrame::parse(text.as_bytes()).unwrap_err().to_string(),
                says,
                "{text}"
            );
        }
        let error = PublishRequest::parse(br#"["/demo/a",["1"]]"#).unwrap_err();
        assert_eq!(error, Unreadable::NoObject);
    }
}
