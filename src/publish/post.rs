//! The seam to an Event API: one request, and what came of it.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;

use super::verdict::{Answer, Fault};

/// Somebody who posts. The real one is [`Client`](super::Client); a simulation has its own.
pub trait Post: Send + Sync + 'static {
    /// What the sender of one request after the other keeps between them.
    type Connection: Default + Send + 'static;

    /// Sends `body` over `connection`, signed at this moment. When we are refused, what can be renewed is
    /// renewed, and it is sent again: a refusal that comes out is one that nothing here mends.
    fn post(
        &self,
        connection: &mut Self::Connection,
        body: Bytes,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Looks after `connection` while there is nothing to send over it. Never ends.
    fn idle(&self, connection: &mut Self::Connection) -> impl Future<Output = Infallible> + Send {
        let _ = connection;
        std::future::pending()
    }

    /// What to look at when the API refuses us; `elsewhere`: it does so in one namespace, and takes what is
    /// sent to others with the same credentials.
    fn hint(&self, elsewhere: bool) -> &str;
}

/// Why an attempt brought no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind, which tells whether the request may have been processed.
    pub fault: Fault,
    /// In words.
    pub why: String,
}
