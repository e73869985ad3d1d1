//! What else is said to the same API: a connection for another protocol, and what authorizes that there.

use std::error::Error;
use std::time::SystemTime;

use http::{HeaderMap, Uri, header};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Client;
use super::auth::AuthError;
use super::skew::Timestamps;
use super::transport::{BoxError, Stream};
use super::{Broken, Fault};
use crate::error_chain;
use crate::publish::post::Failure;

/// Bytes in both directions.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection, TLS included, through the proxy of the environment if there is one.
pub type Raw = Box<dyn Wire>;

/// What the other side showed of itself.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// `TLSv1_3`, without the letters; `None`: plain text.
    pub tls: Option<String>,
    /// Its certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    /// Connects to `to` as for a publish.
    pub async fn connect(&self, to: &Uri) -> Result<(Raw, Shown), Failure> {
        let connected = tokio::time::timeout(self.timeout, self.connections.connect(to)).await;
        let stream = connected.unwrap_or_else(|_| {
            Err(BoxError::from(format!("no connection within {:?}", self.timeout)))
        });
        let stream = stream.map_err(|error| unconnected(&*error))?;
        let shown = shown(&stream);
        Ok((Box::new(TokioIo::new(stream)), shown))
    }

    /// What authorizes `payload` at this moment, as headers, and the generation of the secret in them.
    pub async fn authorize(&self, payload: &[u8]) -> Result<(HeaderMap, u64), AuthError> {
        let skew = self.clock.skew();
        self.authorizer.headers(payload, || skew.apply(SystemTime::now())).await
    }

    /// Renews what was refused in `generation`, where that is possible. Whether a retry is worth it.
    pub async fn renew(&self, generation: u64) -> bool {
        self.authorizer.renew(generation).await
    }

    /// Learns the time of the service from the headers of an answer to what was sent at `sent`.
    pub fn learn_time(&self, headers: &HeaderMap, sent: SystemTime) {
        if self.authorizer.signs() {
            let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
            let (received, age) = (SystemTime::now(), headers.contains_key(header::AGE));
            self.clock.learn(Timestamps { sent, received, date, age, refusal: None });
        }
    }

    /// The host that signatures are for.
    pub fn host(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }
}

fn unconnected(error: &(dyn Error + 'static)) -> Failure {
    let mut failure = Broken::read(error, Fault::Connect).failure;
    // The connector's own words say no more than that it is one.
    if let Some(cause) = error.source() {
        failure.why = error_chain::in_one_line(cause);
    }
    failure
}

fn shown(stream: &Stream) -> Shown {
    let MaybeHttpsStream::Https(stream) = stream else { return Shown::default() };
    let (_, session) = stream.inner().get_ref();
    let version = session.protocol_version().map(|version| format!("{version:?}"));
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    Shown {
        tls: version.map(|version| version.replace("TLSv", "TLS ").replace('_', ".")),
        certificate: certificate.map(|certificate| certificate.to_vec()),
    }
}
