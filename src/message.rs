//! What arrived: the facts of one message, without any broker's type.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

/// The name of a `[source.NAME]`.
pub type SourceName = Arc<str>;

/// What orders events: those with equal keys reach a channel in the order of the source.
pub type OrderKey = Bytes;

/// Where a message was published: a Kafka topic, a NATS subject, an MQTT topic, an SQS queue name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    text: Arc<str>,
    separator: char,
}

/// One message as the broker gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which source took it.
    pub source: SourceName,
    /// Where it was published.
    pub topic: Topic,
    /// The record key, where the broker has one.
    pub key: Option<Bytes>,
    /// Headers or user properties, in order; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    /// The bytes, untouched.
    pub payload: Bytes,
    /// What orders it unless a route says otherwise; `None`: nothing does.
    pub order: Option<OrderKey>,
    /// When it was published, where the broker tells.
    pub published: Option<SystemTime>,
    /// Where it stands at the broker, for a person who looks for it: `partition`, `offset`, `qos`, ….
    pub coordinates: Vec<(Cow<'static, str>, String)>,
}

impl Topic {
    /// A topic whose levels are parted by `separator`: `/` for MQTT, `.` for Kafka and NATS.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>, separator: char) -> Self {
        Self { text: text.into(), separator }
    }

    /// The topic as the broker spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
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
