//! A record of Kafka as a [`Message`].

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::message::{
    BorrowedHeaders, BorrowedMessage, Header, Headers, Message as _, Timestamp,
};
use tracing::warn;

use crate::message::{Coordinates, HEADER_ENTRY, Message, OrderKey, SourceName, Topic};
use crate::telemetry;

/// The payload of a tombstone, where routes are to see it.
const NULL: &[u8] = b"null";

/// `record` as a message, its bytes copied once, and their count.
pub(super) fn message(
    source: &SourceName,
    (topic, order): (&Topic, &OrderKey),
    record: &BorrowedMessage<'_>,
) -> (Message, usize) {
    let key: Option<OrderKey> = record.key().map(Into::into);
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or(NULL));
    let mut size = payload.len() + key.as_ref().map_or(0, |key| key.len());
    let headers = record.headers().map_or_else(Vec::new, |headers| {
        let header = |h: Header<'_, &[u8]>| {
            size += HEADER_ENTRY + h.key.len() + h.value.map_or(0, <[u8]>::len);
            (h.key.to_owned(), Bytes::copy_from_slice(h.value.unwrap_or_default()))
        };
        (0..headers.count()).filter_map(|n| readable(source, headers, n)).map(header).collect()
    });
    let message = Message {
        source: SourceName::clone(source),
        order: Some(OrderKey::clone(key.as_ref().unwrap_or(order))),
        topic: topic.clone(),
        key,
        headers,
        payload,
        published: match record.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(at) | Timestamp::LogAppendTime(at) => u64::try_from(at)
                .ok()
                .and_then(|at| UNIX_EPOCH.checked_add(Duration::from_millis(at))),
        },
        expires: None,
        coordinates: Coordinates::Log { partition: record.partition(), offset: record.offset() },
    };
    (message, size)
}

/// A header; `None` if its name is not UTF-8, which rdkafka panics at. Kafka's own clients write no such names.
fn readable<'r>(
    source: &SourceName,
    headers: &'r BorrowedHeaders,
    number: usize,
) -> Option<Header<'r, &'r [u8]>> {
    telemetry::unless_it_panics(|| headers.try_get(number)).unwrap_or_else(|| {
        warn!(source = %source, "a header is left out, because its name is not UTF-8");
        None
    })
}
