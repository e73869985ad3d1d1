//! The seam to an Event API: one request, and what came of it.

use std::future::Future;

use bytes::Bytes;

use super::verdict::{Answer, Fault};

/// Somebody who posts. The real one is [`Client`](super::Client); a simulation has its own.
pub trait Post: Send + Sync + 'static {
    /// Sends `body`, signed at this moment. When we are refused, what can be renewed is renewed, and it
    /// is sent once more: a refusal that comes out is one that nothing here mends.
    fn post(&self, body: Bytes) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// What to look at when the API refuses us.
    fn hint(&self) -> &str;
}

/// Why an attempt brought no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind, which tells whether the request may have been processed.
    pub fault: Fault,
    /// In words.
    pub why: String,
}
