//! The seam to an Event API: one request, and what came of it.

use std::future::Future;

use bytes::Bytes;

use super::verdict::{Answer, Fault};

/// Somebody who posts. The real one is [`Client`](super::Client); a simulation has its own.
pub trait Post: Send + Sync + 'static {
    /// Sends `body` once, signed at this moment.
    fn post(&self, body: Bytes) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// The API refused us: what can be renewed is renewed before the next attempt.
    fn refused(&self) -> impl Future<Output = ()> + Send;
}

/// Why an attempt brought no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind, which tells whether the request may have been processed.
    pub fault: Fault,
    /// In words.
    pub why: String,
}
