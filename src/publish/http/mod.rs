//! One request: signed, posted, and its answer read, or the reason why there is none.
//!
//! HTTP/1.1 uses a connection of each worker's own; of HTTP/2 there is one, which they share.

mod auth;
mod causes;
mod connections;
mod exchange;
mod login;
mod probe;
mod session;
mod shared;
mod skew;
mod transport;
mod watched;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::post::{Answer, Failure, Fault, Post};
use super::retry_after;
use super::verdict::refusal;
use crate::config::api::ApiConfig;
use crate::error_chain;
use crate::outbound::ProxyError;
use crate::outbound::tls::TlsError;
pub use auth::AuthError;
use auth::Authorizer;
use connections::{Connections, Number};
use exchange::Connection;
pub use probe::probe;
pub use session::Raw;
use session::Shown;
use shared::Shared;
use skew::{Clock, Timestamps};
use transport::{Cut, ExchangeError};

/// Longest answer that is read: five refused events with their messages are far shorter.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The header with the kind of an error.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Posts to one API.
#[derive(Debug)]
pub struct Client {
    connections: Connections,
    uri: Uri,
    /// The request target of HTTP/1.1, in place of the whole URI.
    path: Uri,
    host: HeaderValue,
    authorizer: Authorizer,
    clock: Clock,
    timeout: Duration,
}

/// Why a client can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Headers.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// An address that can't be put into a request.
    #[error("the endpoint's address does not fit into a request: {0}")]
    Address(#[from] http::Error),
}

/// An exchange that brought no answer.
struct Broken {
    failure: Failure,
    /// It counts against the connections: it is more than the server's orderly shutdown.
    of_connection: bool,
}

impl Client {
    /// A client for `api`. Nothing is connected yet.
    pub async fn build(api: &ApiConfig) -> Result<Self, BuildError> {
        let connections = Connections::build(api)?;
        let authorizer = Authorizer::build(api).await?;
        let uri = api.endpoint.uri.clone();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse::<Uri>().map_err(http::Error::from)?;
        let host = HeaderValue::from_str(api.endpoint.authority()).map_err(http::Error::from)?;
        let clock = Clock::default();
        Ok(Self { connections, uri, path, host, authorizer, clock, timeout: api.timeout })
    }

    async fn attempt(
        &self,
        connection: &mut Connection,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let now = Instant::now();
        // Only signatures need the service's time.
        let sent = self.authorizer.signs().then(SystemTime::now);
        let (number, shared) = self.connections.at(now);
        let shared = match shared.filter(|shared| !shared.is_http1()) {
            // In a box: it is rare, and would make every future of this function larger.
            Some(shared) => Box::pin(self.by_shared(&shared, now, &headers, &body)).await,
            None => None,
        };
        let ended = match shared {
            Some(ended) => ended,
            None => self.by_own(connection, (number, now), headers, body).await,
        };
        match &ended {
            // A way that cuts answers is no good one.
            Ok((head, _)) if head.extensions.get::<Cut>().is_some() => {
                self.connections.failed(number);
            }
            Ok(_) => self.connections.answered(number),
            Err(broken) if broken.of_connection => self.connections.failed(number),
            Err(_) => {}
        }
        let (head, body) = ended.map_err(|broken| broken.failure)?;
        Ok(self.read(&head, body, sent))
    }

    async fn by_own(
        &self,
        connection: &mut Connection,
        (number, now): (Number, Instant),
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Parts, Bytes), Broken> {
        headers.insert(header::HOST, self.host.clone());
        let request = request(&self.path, headers, body);
        let of = (&self.connections, number);
        let limits = (now, self.timeout, MAX_ANSWER_BYTES);
        let ended = connection.exchange(of, &self.uri, request, limits).await;
        ended.map_err(|error| self.broken(error))
    }

    /// `None` if the endpoint does not offer HTTP/2.
    async fn by_shared(
        &self,
        shared: &Arc<Shared>,
        now: Instant,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Option<Result<(Parts, Bytes), Broken>> {
        let limits = (now, self.timeout, MAX_ANSWER_BYTES);
        let send = || {
            let request = request(&self.uri, headers.clone(), body.clone());
            shared.exchange(request, limits).map_err(|error| self.broken(error))
        };
        let mut ended = send().await;
        // The server says that it did not process the request, which is no fault of the API: it goes again at once.
        if ended.as_ref().is_err_and(|broken| !broken.of_connection) {
            ended = send().await;
        }
        ended.transpose()
    }

    fn broken(&self, error: ExchangeError) -> Broken {
        match error {
            ExchangeError::Unsent(error) => Broken::read(&*error, Fault::Connect),
            ExchangeError::Left(error) => {
                Broken { of_connection: false, ..Broken::read(&*error, Fault::Connect) }
            }
            ExchangeError::Sent(error) => Broken::read(&*error, Fault::Ambiguous),
            ExchangeError::TimedOut => {
                let why = format!("no answer within {:?}", self.timeout);
                Broken { failure: Failure { fault: Fault::Ambiguous, why }, of_connection: true }
            }
        }
    }

    /// The API's answer to a request made at `sent`, if it could be signed.
    fn read(&self, head: &Parts, body: Bytes, sent: Option<SystemTime>) -> Answer {
        let text = |name: &HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok());
        let retry_after = text(&header::RETRY_AFTER).and_then(|after| {
            let now = self.clock.skew().apply(SystemTime::now());
            retry_after::parse(after, text(&header::DATE), now)
        });
        let error_type = text(&ERROR_TYPE).map(str::to_owned);
        let cut = head.extensions.get().map(|Cut(why)| why.clone());
        let answer = Answer { status: head.status.as_u16(), error_type, retry_after, body, cut };
        if let Some(sent) = sent {
            let (received, date) = (SystemTime::now(), text(&header::DATE));
            let age = head.headers.contains_key(header::AGE);
            let timestamps = Timestamps { sent, received, date, age, refusal: None };
            if !self.clock.learn(timestamps) && refusal(&answer).is_some() {
                self.clock.learn(Timestamps { refusal: Some(&answer.body), ..timestamps });
            }
        }
        answer
    }
}

impl Post for Client {
    type Connection = Connection;

    fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        self.authorizer.tell_end(told);
    }

    /// Sends `body`. After a refusal it renews credentials once, corrects the clock once, and sends again; a
    /// refusal in the result is one that neither cures.
    async fn post(&self, connection: &mut Connection, body: Bytes) -> Result<Answer, Failure> {
        let (mut renewed, mut corrected) = (false, !self.authorizer.signs());
        loop {
            let skew = self.clock.skew();
            let headers = self.authorizer.headers(&body, || skew.apply(SystemTime::now())).await;
            let (headers, generation) =
                headers.map_err(|e| Failure { fault: Fault::Refused, why: e.to_string() })?;
            let answer = self.attempt(connection, headers, body.clone()).await?;
            let Some(code) = refusal(&answer) else { return Ok(answer) };
            if !corrected && self.clock.skew().mends(skew, &code) {
                corrected = true;
            } else if !renewed && Box::pin(self.authorizer.renew(generation)).await {
                renewed = true;
            } else {
                return Ok(answer);
            }
        }
    }

    async fn idle(&self, connection: &mut Connection) -> Infallible {
        connection.idle().await
    }

    fn hint(&self, elsewhere: bool) -> &str {
        self.authorizer.hint(elsewhere)
    }
}

fn request(uri: &Uri, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    request
}

impl Broken {
    /// What matters is whether the request may have been processed: `fault` follows from the point of the
    /// failure, and a server of HTTP/2 may state that it was not.
    fn read(error: &(dyn StdError + 'static), mut fault: Fault) -> Self {
        let why = error_chain::in_one_line(error);
        let mut of_connection = true;
        let mut cause = Some(error);
        while let Some(error) = cause {
            if is_trust(error) {
                fault = Fault::Trust;
            } else if is_unprocessed(error) {
                (fault, of_connection) = (Fault::Connect, false);
            }
            cause = error.source();
        }
        Self { failure: Failure { fault, why }, of_connection }
    }
}

/// Whether a server of HTTP/2 states that it did not process the request (RFC 9113, section 8.7): it refused
/// the stream, or its GOAWAY names an earlier last stream. Only streams after that one fail with the GOAWAY;
/// the others fail when the connection ends.
fn is_unprocessed(cause: &(dyn StdError + 'static)) -> bool {
    let Some(error) = cause.downcast_ref::<h2::Error>() else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Whether a certificate was refused. An `io::Error` hides its payload from `source`, and several may
/// be wrapped into one another.
fn is_trust(cause: &(dyn StdError + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
        return true;
    }
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| is_trust(inner))
}
