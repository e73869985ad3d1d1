//! Where messages go that can't be published, so that nothing is lost by being wrong.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use crate::message::Message;

mod file;
pub mod record;
mod rotation;

pub use file::{FileTarget, OpenError};

/// A message that can't be published, and why.
#[derive(Clone, Debug)]
pub struct Record {
    /// The message as it came.
    pub message: Message,
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
}

/// A place that keeps records.
pub trait Target: Send + 'static {
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
