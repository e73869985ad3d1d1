//! A delivery of a consumer as a [`Message`].

use std::sync::Arc;

use bytes::Bytes;

use super::flight::Place;
use crate::message::{Coordinates, Message, SourceName, Topic};

/// `from` as a message. Its bytes are copied: the client's buffer holds many messages, and one that
/// waits would keep all of them.
pub(super) fn message(
    source: &SourceName,
    stream: &Arc<str>,
    place: &Place,
    from: &async_nats::Message,
) -> Message {
    let headers = from.headers.as_ref().map_or_else(Vec::new, |headers| {
        let mut all = Vec::with_capacity(headers.len());
        for (name, values) in headers.iter() {
            for value in values {
                let value = Bytes::copy_from_slice(value.as_str().as_bytes());
                all.push((name.to_string(), value));
            }
        }
        all
    });
    let topic = Topic::new(from.subject.as_str(), '.');
    Message {
        source: SourceName::clone(source),
        key: None,
        headers,
        payload: Bytes::copy_from_slice(&from.payload),
        order: Some(topic.order_key()),
        topic,
        published: place.published(),
        expires: None,
        coordinates: Coordinates::Stored { stream: Arc::clone(stream), sequence: place.stream },
    }
}
