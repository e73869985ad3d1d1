//! Dead letters: the messages that can't be published are kept, so that no mistake loses one.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use crate::message::Message;
use crate::metrics::DeadLetterMetrics;
use crate::probe::Complaint;

mod file;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod headers;
#[cfg(feature = "nats")]
mod jetstream;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(any(feature = "kafka", feature = "sqs"))]
mod left;
mod private_file;
pub mod record;
mod rotation;
#[cfg(feature = "sqs")]
mod sqs;
mod writer;

pub use file::{FileTarget, OpenError};
#[cfg(feature = "nats")]
pub use jetstream::JetStreamTarget;
#[cfg(feature = "kafka")]
pub use kafka::KafkaTarget;
#[cfg(feature = "sqs")]
pub use sqs::SqsTarget;
pub use writer::{Letter, write_letters};

/// A message that can't be published, and why.
#[derive(Clone, Debug)]
pub struct Record {
    /// The message as received.
    pub message: Arc<Message>,
    /// The route that failed; `None` when no route matched.
    pub route: Option<Arc<str>>,
    /// The channel, if it was known.
    pub channel: Option<String>,
    /// The kind of reason, a label of metrics.
    pub reason: &'static str,
    /// The reason in words.
    pub detail: String,
    /// When it was rejected.
    pub at: SystemTime,
    /// The first rejection, if it was a dead letter before.
    pub first: Option<First>,
}

/// The first rejection of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// The kind of reason.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// When it was rejected, to the millisecond.
    pub at: SystemTime,
}

/// A target that stores records.
pub trait Target: Send + 'static {
    /// Its location, for people.
    fn place(&self) -> String;

    /// How its records are sent again, for people.
    fn again(&self) -> String {
        "mend the cause; what is kept there is taken again when it is published to what a source reads".to_owned()
    }

    /// Whether it could store a record, as far as can be told without storing one. The future may be dropped
    /// before it is done.
    fn open(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send {
        async { Ok(()) }
    }

    /// Has the end of the credentials in use told to `metrics`.
    fn tell_end(&self, metrics: &DeadLetterMetrics) {
        let _ = metrics;
    }

    /// Stores `records`, in their order. On success all of them are confirmed, and the caller may settle their
    /// messages; the error tells how many of the first are confirmed, and the caller retries the others.
    fn write(&mut self, records: &[Record]) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// Why records could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct WriteError {
    /// So many of the first are confirmed: they must not be written again.
    pub kept: usize,
    /// The error of the next one.
    pub why: String,
}

/// Of a look, before anything was written.
impl From<Complaint> for WriteError {
    fn from(complaint: Complaint) -> Self {
        Self { kept: 0, why: complaint.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of an event that the API refused.
    pub(super) fn record(message: Message) -> Record {
        Record {
            message: Arc::new(message),
            route: None,
            channel: None,
            reason: "refused",
            detail: String::new(),
            at: SystemTime::UNIX_EPOCH,
            first: None,
        }
    }
}
