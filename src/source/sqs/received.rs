//! A message of SQS as one of ours.
//!
//! Its message attributes are its headers, and so are the system attributes, by the names of SQS:
//! `ApproximateReceiveCount`, `SentTimestamp`, `MessageGroupId`, `SequenceNumber`, `SenderId` and their like.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::types::{Message as Given, MessageAttributeValue, MessageSystemAttributeName};
use bytes::Bytes;

use crate::message::{Coordinates, Message, OrderKey, SourceName, Topic, bytes_of_headers};

/// What came, apart from how SQS is told of it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) id: String,
    pub(super) handle: String,
    /// How often it was received by now; at least once.
    pub(super) receive_count: u32,
    /// What it takes of the room.
    pub(super) bytes: usize,
}

impl Received {
    /// Of what SQS gave; `ordered`: it is a FIFO queue. `None` without a receipt handle, which nothing can be done
    /// with.
    pub(super) fn read(
        source: &SourceName,
        topic: &Topic,
        ordered: bool,
        given: Given,
    ) -> Option<Self> {
        let Given { message_id, receipt_handle, body, attributes, message_attributes, .. } = given;
        let (id, handle) = (message_id.unwrap_or_default(), receipt_handle?);
        let (mut published, mut group, mut receive_count) = (None, None, 1);
        let mut headers: Vec<(String, Bytes)> = Vec::new();
        for (name, value) in attributes.unwrap_or_default() {
            match name {
                MessageSystemAttributeName::SentTimestamp => published = time(&value),
                MessageSystemAttributeName::ApproximateReceiveCount => {
                    receive_count = value.parse().unwrap_or(1);
                }
                MessageSystemAttributeName::MessageGroupId => {
                    group = Some(OrderKey::from(value.as_bytes()));
                }
                _ => {}
            }
            headers.push((name.as_str().to_owned(), value.into()));
        }
        for (name, value) in message_attributes.unwrap_or_default() {
            headers.push((name, bytes_of(value)));
        }
        // They come in no order.
        headers.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let payload = Bytes::from(body.unwrap_or_default());
        let bytes = payload.len() + bytes_of_headers(&headers);
        let message = Message {
            source: source.clone(),
            topic: topic.clone(),
            key: group.clone(),
            headers,
            payload,
            // A standard queue may have groups, for fairness: it keeps no order within them. All of a FIFO queue
            // that tells none is one group, lest an order be lost.
            order: ordered.then(|| group.unwrap_or_else(|| OrderKey::from(&[][..]))),
            published,
            expires: None,
            coordinates: Coordinates::Queue { message_id: id.as_str().into(), receive_count },
        };
        Some(Self { message, id, handle, receive_count, bytes })
    }
}

/// Milliseconds since 1970.
fn time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?))
}

fn bytes_of(value: MessageAttributeValue) -> Bytes {
    match (value.binary_value, value.string_value) {
        (Some(bytes), _) => bytes.into_inner().into(),
        (None, text) => text.unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HEADER_ENTRY;
    use aws_sdk_sqs::primitives::Blob;

    fn given() -> Given {
        let text = MessageAttributeValue::builder().data_type("String").string_value("acme");
        let binary = MessageAttributeValue::builder().data_type("Binary");
        let binary = binary.binary_value(Blob::new([0, 255]));
        Given::builder()
            .message_id("m-1")
            .receipt_handle("r-1")
            .body("{}")
            .attributes(MessageSystemAttributeName::SentTimestamp, "1700000000123")
            .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "3")
            .attributes(MessageSystemAttributeName::MessageGroupId, "g")
            .message_attributes("tenant", text.build().unwrap())
            .message_attributes("raw", binary.build().unwrap())
            .build()
    }

    #[test]
    fn all_that_sqs_says_is_there() {
        let read = |ordered| {
            Received::read(&"s".into(), &Topic::new("orders", '/'), ordered, given()).unwrap()
        };
        let received = read(true);
        assert_eq!((received.id.as_str(), received.handle.as_str()), ("m-1", "r-1"));
        let held = 2 + 24 + 15 + 26 + 5 + 10 + 5 * HEADER_ENTRY;
        assert_eq!((received.receive_count, received.bytes), (3, held));
        let message = received.message;
        let headers: Vec<_> =
            message.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref())).collect();
        assert_eq!(
            headers,
            [
                ("ApproximateReceiveCount", &b"3"[..]),
                ("MessageGroupId", b"g"),
                ("SentTimestamp", b"1700000000123"),
                ("raw", &[0, 255]),
                ("tenant", b"acme"),
            ]
        );
        assert_eq!(message.published, Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)));
        assert_eq!(
            (message.order.as_deref(), message.key.as_deref()),
            (Some(&b"g"[..]), Some(&b"g"[..]))
        );
        let named: Vec<_> = message.coordinates.named();
        assert_eq!(
            named,
            [("message_id".into(), "m-1".into()), ("receive_count".into(), "3".into())]
        );
        assert_eq!(read(false).message.order, None, "a standard queue has no order");
    }

    #[test]
    fn without_a_receipt_there_is_nothing_to_do() {
        let given = Given::builder().body("{}").build();
        assert!(Received::read(&"s".into(), &Topic::new("q", '/'), false, given).is_none());
        let given = Given::builder().body("{}").receipt_handle("r").build();
        let received = Received::read(&"s".into(), &Topic::new("q", '/'), true, given).unwrap();
        assert_eq!(received.message.order.as_deref(), Some(&b""[..]), "one group");
    }
}
