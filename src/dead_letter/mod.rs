//! Where messages go that can't be published, so that nothing is lost by being wrong.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use crate::message::Message;

mod file;
#[cfg(feature = "kafka")]
mod headers;
#[cfg(feature = "kafka")]
mod kafka;
mod private_file;
pub mod record;
mod rotation;
mod writer;

pub use file::{FileTarget, OpenError};
#[cfg(feature = "kafka")]
pub use kafka::KafkaTarget;
pub use writer::{Letter, write_letters};

/// A message that can't be published, and why.
#[derive(Clone, Debug)]
pub struct Record {
    /// The message as it came.
    pub message: Arc<Message>,
    /// The route that could not take it to its end; `None` when no route took it.
    pub route: Option<Arc<str>>,
    /// The channel, if it was known.
    pub channel: Option<String>,
    /// The kind of reason, a label of metrics.
    pub reason: &'static str,
    /// The reason in words.
    pub detail: String,
    /// When it was given up.
    pub at: SystemTime,
    /// What it was a dead letter for at first, if it was one before and is so again.
    pub first: Option<First>,
}

/// Why a message became a dead letter for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// The kind of reason.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// When it was given up, to the millisecond.
    pub at: SystemTime,
}

/// A place that keeps records.
pub trait Target: Send + 'static {
    /// Where that is, for a person who looks for one.
    fn place(&self) -> String;

    /// Whether it could keep a record, as far as that can be told without one. It may be dropped before
    /// it is done.
    fn open(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send {
        async { Ok(()) }
    }

    /// Keeps `records`, in their order. It has confirmed all of them when this succeeds, and the caller
    /// may then acknowledge their messages; when it fails it says how many of the first it has
    /// confirmed, and the caller tries the others again.
    fn write(&mut self, records: &[Record]) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// Why records could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct WriteError {
    /// So many of the first are kept all the same: they must not be written again.
    pub kept: usize,
    /// What went wrong with the next.
    pub why: String,
}
