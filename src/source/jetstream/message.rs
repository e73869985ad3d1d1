//! A delivery of a consumer as a [`Message`].

use bytes::Bytes;
use smol_str::SmolStr;

use super::flight::Place;
use crate::message::{Coordinates, Message, SourceName};
use crate::source::recent_topics::RecentTopics;

/// `from` as a message. Its bytes are copied: the client's buffer holds many messages, and one that
/// waits would keep all of them.
pub(super) fn message(
    source: &SourceName,
    stream: &SmolStr,
    topics: &mut RecentTopics,
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
    let (topic, order) = topics.of(&from.subject);
    Message {
        source: SourceName::clone(source),
        key: None,
        headers,
        payload: Bytes::copy_from_slice(&from.payload),
        order: Some(order),
        topic,
        published: place.published(),
        expires: None,
        coordinates: Coordinates::Stored { stream: stream.clone(), sequence: place.stream },
    }
}
