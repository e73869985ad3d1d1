//! The seam to an Event API: one request and its result.

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// A client that posts. The real one is [`Client`](super::Client); a simulation has its own.
pub trait Post: Send + Sync + 'static {
    /// State kept between the requests of one worker.
    type Connection: Default + Send + 'static;

    /// Sends `body` over `connection`, signed at this moment. After a refusal it renews credentials where it
    /// can, and sends again: a refusal in the result is one that no renewal cures.
    fn post(
        &self,
        connection: &mut Self::Connection,
        body: Bytes,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Tells `told` when the credentials in use end, now and whenever they are renewed; nothing where that is not known.
    fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        drop(told);
    }

    /// Looks after `connection` while there is nothing to send over it. Never ends.
    fn idle(&self, connection: &mut Self::Connection) -> impl Future<Output = Infallible> + Send {
        let _ = connection;
        std::future::pending()
    }

    /// The remedy for a refusal; `elsewhere`: only one namespace refuses, and others accept the same
    /// credentials.
    fn hint(&self, elsewhere: bool) -> &str;
}

/// An answer as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `x-amzn-errortype` header.
    pub error_type: Option<String>,
    /// The wait that the API asks for in the `retry-after` header.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
    /// Why the body, or the rest of it, did not come. There is none then.
    pub cut: Option<String>,
}

/// Why an attempt brought no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its kind, which tells whether the request may have been processed.
    pub fault: Fault,
    /// In words.
    pub why: String,
}

/// The kinds of passing fault, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429.
    Throttled,
    /// 5xx, 408, 425.
    Unavailable,
    /// An answer without a clear meaning.
    UnknownAnswer,
    /// No connection; nothing was sent.
    Connect,
    /// The peer's certificate is not trusted; nothing was sent.
    Trust,
    /// Sent, and no answer: perhaps processed.
    Ambiguous,
    /// The bridge is refused, not an event.
    Refused,
    /// A bad request, split into single events.
    BadRequest,
    /// The event failed alone.
    Event,
}

impl Fault {
    /// Every fault, for metrics that start at zero.
    pub const ALL: [Self; 9] = [
        Self::Throttled,
        Self::Unavailable,
        Self::UnknownAnswer,
        Self::Connect,
        Self::Trust,
        Self::Ambiguous,
        Self::Refused,
        Self::BadRequest,
        Self::Event,
    ];

    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::UnknownAnswer => "unknown_answer",
            Self::Connect => "connect",
            Self::Trust => "trust",
            Self::Ambiguous => "ambiguous",
            Self::Refused => "refused",
            Self::BadRequest => "bad_request",
            Self::Event => "event",
        }
    }
}
