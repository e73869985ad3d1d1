//! What all clients of a NATS server share: the way to it, who they are there, when they try again, and words for
//! what goes wrong.
//!
//! A connection is made and kept by async-nats, which tries again for ever; what it is told here is with what, when
//! and at which server. It goes to the servers that the operator named and to no other: what a server tells of its
//! cluster is what anybody may tell who answers in its place, and the secrets are sent to those that were meant.
//!
//! Not here: taking messages (a source) and writing them (a dead letter).

mod connection;
mod credentials;
mod tries;
mod trouble;

pub use connection::{Change, Dialer, confirmed};
pub use trouble::{Kind, Trouble};

use crate::outbound::tls::TlsError;

/// Why there can be no client of a server.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address.
    #[error("`{0}` is no address of a NATS server")]
    Server(String),
}
