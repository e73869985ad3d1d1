//! A notification of SNS as it comes to a queue:
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html#http-notification-json>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-sqs-as-subscriber.html>.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{Event, Headers, NoEnvelope, add, no, read};

const NAME: &str = "SNS notification";

/// SNS names no limit but that of the size; every attribute is a header of each event.
const MOST_ATTRIBUTES: usize = 64;

/// What an operator does who has none.
const RAW: &str = "where the subscription has raw message delivery, leave `sns` out of `unwrap`";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notification {
    #[serde(rename = "Type")]
    kind: String,
    message_id: String,
    topic_arn: String,
    subject: Option<String>,
    message: String,
    timestamp: Option<String>,
    #[serde(default, deserialize_with = "attributes")]
    message_attributes: Vec<(String, Attribute)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    #[serde(rename = "Type")]
    kind: String,
    value: String,
}

/// Its message; what it says beside becomes headers.
pub(super) fn open(body: &Bytes, mut headers: Headers) -> Result<Event, NoEnvelope> {
    let read: Notification = read(NAME, body).map_err(|error| {
        let why = error.why;
        no(NAME, format!("{why}; {RAW}"))
    })?;
    match &*read.kind {
        "Notification" => {}
        "SubscriptionConfirmation" => {
            return Err(no(
                NAME,
                "it asks to confirm a subscription: if that is meant, visit the `SubscribeURL` in it",
            ));
        }
        _ => return Err(no(NAME, "its `Type` is not `Notification`")),
    }
    if read.message_attributes.len() > MOST_ATTRIBUTES {
        let hint = "send what is more in the message itself";
        return Err(no(NAME, format!("it has more than {MOST_ATTRIBUTES} attributes; {hint}")));
    }
    for (name, Attribute { kind, value }) in read.message_attributes {
        let value = if kind == "Binary" {
            let bytes = STANDARD.decode(value);
            bytes.map_err(|_| no(NAME, "a binary attribute is no base64"))?.into()
        } else {
            Bytes::from(value)
        };
        headers.push((name, value));
    }
    add(&mut headers, "sns.TopicArn", Some(read.topic_arn));
    add(&mut headers, "sns.MessageId", Some(read.message_id));
    add(&mut headers, "sns.Subject", read.subject);
    add(&mut headers, "sns.Timestamp", read.timestamp);
    Ok(Event { payload: read.message.into(), headers })
}

/// Every one, also where two have one name: a route that asks for such a header refuses the message.
fn attributes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, Attribute)>, D::Error> {
    struct Attributes;

    impl<'de> Visitor<'de> for Attributes {
        type Value = Vec<(String, Attribute)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("attributes")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(attribute) = map.next_entry()? {
                all.push(attribute);
            }
            Ok(all)
        }
    }

    from.deserialize_map(Attributes)
}
