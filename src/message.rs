//! What arrived: the facts of one message, without any broker's type.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use smol_str::SmolStr;

/// The name of a `[source.NAME]`.
pub type SourceName = SmolStr;

/// An ordering key: events with equal keys reach a channel in the order of the source.
pub type OrderKey = Arc<[u8]>;

/// Where a message was published: a Kafka topic, a NATS subject, an MQTT topic, an SQS queue name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    text: SmolStr,
    separator: char,
}

/// What a header holds beside its name and value, in bytes. Some brokers send an empty one as two bytes: uncounted, a
/// message of nothing else would hold megabytes that no limit knows of.
pub const HEADER_ENTRY: usize = size_of::<(String, Bytes)>();

/// What headers hold, in bytes.
#[must_use]
pub fn bytes_of_headers(headers: &[(String, Bytes)]) -> usize {
    headers.iter().map(|(name, value)| HEADER_ENTRY + name.len() + value.len()).sum()
}

/// One message as the broker gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which source took it.
    pub source: SourceName,
    /// Where it was published.
    pub topic: Topic,
    /// The record key, where the broker has one.
    pub key: Option<OrderKey>,
    /// Headers or user properties, in order; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    /// The bytes, untouched.
    pub payload: Bytes,
    /// Its ordering key, unless a route says otherwise; `None`: unordered.
    pub order: Option<OrderKey>,
    /// When it was published, where the broker tells.
    pub published: Option<SystemTime>,
    /// When it is of no use any more, where its publisher says so: an event of it that has not been sent by then
    /// is dropped.
    pub expires: Option<Instant>,
    /// Where it stands at the broker.
    pub coordinates: Coordinates,
}

/// Where a message stands at the broker, for a person who looks for it. Hardly anybody does, so it is
/// put into words only then.
#[derive(Clone, Debug, Default)]
pub enum Coordinates {
    /// The broker says nothing.
    #[default]
    Unknown,
    /// A place in a partitioned log.
    Log {
        /// The number of the partition.
        partition: i32,
        /// In the partition.
        offset: i64,
    },
    /// A place in a stream of JetStream.
    Stored {
        /// The name of the stream.
        stream: SmolStr,
        /// In the stream.
        sequence: u64,
    },
    /// How a broker without a log delivered it.
    Publish {
        /// The quality of service.
        qos: u8,
        /// It was retained.
        retain: bool,
        /// It may have been delivered before.
        duplicate: bool,
    },
    /// A message of a queue.
    Queue {
        /// The same whenever it is received.
        message_id: SmolStr,
        /// How often it was received by then.
        receive_count: u32,
    },
    /// In words already, as from a dead letter.
    Named(Vec<(Cow<'static, str>, String)>),
}

impl Coordinates {
    /// Names and values: `partition`, `offset`, `qos`, ….
    pub fn named(&self) -> Vec<(Cow<'static, str>, String)> {
        match self {
            Self::Unknown => Vec::new(),
            Self::Log { partition, offset } => {
                vec![
                    ("partition".into(), partition.to_string()),
                    ("offset".into(), offset.to_string()),
                ]
            }
            Self::Stored { stream, sequence } => vec![
                ("stream".into(), stream.to_string()),
                ("sequence".into(), sequence.to_string()),
            ],
            Self::Publish { qos, retain, duplicate } => vec![
                ("qos".into(), qos.to_string()),
                ("retain".into(), retain.to_string()),
                ("duplicate".into(), duplicate.to_string()),
            ],
            Self::Queue { message_id, receive_count } => vec![
                ("message_id".into(), message_id.to_string()),
                ("receive_count".into(), receive_count.to_string()),
            ],
            Self::Named(named) => named.clone(),
        }
    }
}

impl PartialEq for Coordinates {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for Coordinates {}

impl Topic {
    /// A topic whose levels are parted by `separator`, which is ASCII: `/` for MQTT, `.` for Kafka and NATS.
    #[must_use]
    pub fn new(text: impl Into<SmolStr>, separator: char) -> Self {
        debug_assert!(separator.is_ascii(), "levels are split by bytes");
        Self { text: text.into(), separator }
    }

    /// The topic as the broker spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The topic as what orders its messages.
    #[must_use]
    pub fn order_key(&self) -> OrderKey {
        self.text.as_bytes().into()
    }

    /// What parts the levels.
    #[must_use]
    pub fn separator(&self) -> char {
        self.separator
    }

    /// The levels in order.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.text.split(self.separator)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A message with this payload, and with nothing that a broker need not give.
    pub(crate) fn message(payload: impl Into<Bytes>) -> Message {
        Message {
            source: "s".into(),
            topic: Topic::new("t", '/'),
            key: None,
            headers: Vec::new(),
            payload: payload.into(),
            order: None,
            published: None,
            expires: None,
            coordinates: Coordinates::default(),
        }
    }
}
