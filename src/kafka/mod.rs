//! What all clients of a Kafka cluster share: the way to it, who they are there, and librdkafka's words.
//!
//! Not here: reading (a source) and writing (a dead letter).

mod connection;
mod msk;
mod tokens;

use crate::aws::AwsError;
use crate::outbound::ClientError;
use crate::outbound::tls::TlsError;
pub use connection::{check, connection, of_code, password, plain, step, with_password, words};
pub use tokens::{TokenCache, Tokens};

/// Why there can be no client of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// AWS credentials or region.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// The client of a token endpoint.
    #[error(transparent)]
    OAuth2(#[from] ClientError),
    /// librdkafka refuses its properties.
    #[error("librdkafka refuses its settings: {0}")]
    Settings(String),
}
