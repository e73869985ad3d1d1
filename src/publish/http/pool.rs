//! Connections to an endpoint: how they are made, and when they are replaced.
//!
//! Names are resolved only when a connection is made, so a pool that is always busy would keep an address
//! for ever. Therefore all connections are replaced after a while, and after several errors in a row:
//! requests in flight finish, and later ones use new connections.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{HttpConnector, dns::GaiResolver};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower_service::Service;

use super::BuildError;
use crate::config::api::ApiConfig;
use crate::outbound::{Proxies, Proxy, Resolver, tls};

/// A connection idle for this long is not used again: a server is likely to close it just then.
pub(super) const IDLE: Duration = Duration::from_secs(20);

/// Interval of keep-alive probes on an idle connection, or one with a silent peer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Keep-alive probes that may stay unanswered.
const KEEP_ALIVE_TRIES: u32 = 3;

/// The peer's TCP has to acknowledge data within this, or the connection is closed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Errors in a row after which connections are replaced.
const ERRORS: u32 = 3;

/// Random spread of the configured age, so that connections and replicas don't renew at the same time.
const JITTER: f64 = 0.2;

/// An established connection, before HTTP.
pub(super) type Stream = <HttpsConnector<Transport> as Service<Uri>>::Response;

/// One generation of connections that requests share.
pub(super) type Pool = Client<HttpsConnector<Transport>, Full<Bytes>>;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections, and decides which are still used.
pub(super) struct Connections {
    connector: HttpsConnector<Transport>,
    /// Requests share connections (HTTP/2).
    shared: bool,
    max_age: Duration,
    current: Mutex<Current>,
    /// Errors in a row. Changed under the lock; read without it, because there are nearly always none.
    errors: AtomicU32,
}

struct Current {
    /// With HTTP/2.
    pool: Option<Pool>,
    number: u64,
    until: Instant,
}

/// A generation of connections: those of an earlier one are not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u64);

/// The way to an endpoint, before TLS.
#[derive(Clone)]
pub(super) enum Transport {
    Direct(HttpConnector<Resolver>),
    /// A tunnel through a proxy, which may itself be reached over TLS.
    Proxy(Box<Tunnel<HttpsConnector<HttpConnector>>>),
}

impl Connections {
    /// Connections for `api`, through the proxy of the environment, if any. None is made yet.
    pub(super) fn build(api: &ApiConfig) -> Result<Self, BuildError> {
        let uri = &api.endpoint.uri;
        let secure = uri.scheme_str() == Some("https");
        let tls = if secure {
            tls::client_config(api.ca_file.as_deref(), None)?
        } else {
            tls::trusting_nobody()?
        };
        let way = transport(api.timeout, Proxies::of_process()?.toward(uri), &tls);
        let builder =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let shared = api.http2 && secure;
        let connector = if shared {
            builder.enable_http2().wrap_connector(way)
        } else {
            builder.wrap_connector(way)
        };
        Ok(Self::over(connector, shared, api.connection_max_age))
    }

    fn over(connector: HttpsConnector<Transport>, shared: bool, max_age: Duration) -> Self {
        let current = Current {
            pool: shared.then(|| pool(connector.clone())),
            number: 0,
            until: Instant::now() + jittered(max_age),
        };
        Self { connector, shared, max_age, current: Mutex::new(current), errors: AtomicU32::new(0) }
    }

    /// The generation to use at `now`, and its pool if connections are shared.
    pub(super) fn at(&self, now: Instant) -> (Number, Option<Pool>) {
        let mut current = self.current.lock();
        if now >= current.until {
            self.renew(&mut current, "their age");
        }
        (Number(current.number), current.pool.clone())
    }

    /// A new way to `to`, TLS included.
    pub(super) async fn connect(&self, to: &Uri) -> Result<Stream, BoxError> {
        let mut connector = self.connector.clone();
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(to.clone()).await
    }

    /// There was an answer over a connection of that generation.
    pub(super) fn answered(&self, number: Number) {
        if self.errors.load(Relaxed) > 0 {
            let current = self.current.lock();
            if Number(current.number) == number {
                self.errors.store(0, Relaxed);
            }
        }
    }

    /// There was no connection, or no answer over it. Errors of earlier generations don't count.
    pub(super) fn failed(&self, number: Number) {
        let mut current = self.current.lock();
        if Number(current.number) != number {
            return;
        }
        if self.errors.fetch_add(1, Relaxed) + 1 >= ERRORS {
            self.renew(&mut current, "errors");
        }
    }

    fn renew(&self, current: &mut Current, because: &str) {
        tracing::debug!(because, "connections are renewed");
        *current = Current {
            pool: self.shared.then(|| pool(self.connector.clone())),
            number: current.number + 1,
            until: Instant::now() + jittered(self.max_age),
        };
        self.errors.store(0, Relaxed);
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

/// The route to the endpoint, direct or through a proxy. `tls` is for a proxy reached over TLS.
fn transport(timeout: Duration, proxy: Option<&Proxy>, tls: &ClientConfig) -> Transport {
    let Some(proxy) = proxy.map(Proxy::intercept) else {
        return Transport::Direct(tcp(Resolver::default(), timeout));
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp(GaiResolver::new(), timeout));
    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    // The URI is without user and password.
    tracing::info!(proxy = %proxy.uri(), "the endpoint is reached through a proxy");
    Transport::Proxy(Box::new(tunnel))
}

fn tcp<R>(resolver: R, timeout: Duration) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_keepalive_retries(Some(KEEP_ALIVE_TRIES));
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    // Before the attempt itself times out, so that the reason names the connection.
    tcp.set_connect_timeout(Some(timeout / 2));
    tcp
}

/// Why a proxy refused a tunnel, in more words than the library's.
#[derive(Debug, thiserror::Error)]
#[error("{hint}")]
struct ProxyRefusal {
    hint: &'static str,
    source: BoxError,
}

fn of_proxy(error: impl Error + Send + Sync + 'static) -> BoxError {
    let words = error.to_string();
    let hint = if words.contains("authorization required") {
        "the proxy asks for a login (407): put `USER:PASSWORD@` before its host in `HTTPS_PROXY`, or correct the ones there"
    } else if words.contains("unsuccessful") {
        "the proxy refuses a tunnel to the API: does it allow the API's host and port? else name the host in `NO_PROXY`"
    } else {
        "the proxy that `HTTPS_PROXY` or `ALL_PROXY` names can't be used"
    };
    Box::new(ProxyRefusal { hint, source: error.into() })
}

fn pool(connector: HttpsConnector<Transport>) -> Pool {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(Some(KEEP_ALIVE))
        .http2_keep_alive_timeout(UNACKNOWLEDGED)
        // A connection may close before a request is written. Such a request, of which nothing was sent, is
        // retried over another connection. A request that was sent in part is never retried here: that is
        // for the publisher to decide.
        .retry_canceled_requests(true)
        .build(connector)
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
}

impl Service<Uri> for Transport {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(tcp) => tcp.poll_ready(context).map_err(Into::into),
            Self::Proxy(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        match self {
            Self::Direct(tcp) => {
                let connecting = tcp.call(to);
                Box::pin(async move { Ok(MaybeHttpsStream::Http(connecting.await?)) })
            }
            Self::Proxy(tunnel) => {
                let connecting = tunnel.call(to);
                Box::pin(async move { connecting.await.map_err(of_proxy) })
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(100);

    /// Of HTTP/1.1 that trust nobody.
    pub(in crate::publish) fn connections() -> Connections {
        let tls = tls::trusting_nobody().unwrap();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Transport::Direct(tcp(Resolver::default(), AGE)));
        Connections::over(connector, false, AGE)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_renewed_by_age_give_or_take_a_fifth() {
        let connections = connections();
        let (first, _) = connections.at(Instant::now());
        tokio::time::advance(Duration::from_secs(79)).await;
        assert_eq!(connections.at(Instant::now()).0, first);
        tokio::time::advance(Duration::from_secs(42)).await;
        let (second, _) = connections.at(Instant::now());
        assert_ne!(second, first);
        assert_eq!(connections.at(Instant::now()).0, second);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_renewed_after_three_errors_in_a_row() {
        let connections = connections();
        let (first, _) = connections.at(Instant::now());
        for _ in 0..10 {
            connections.failed(first);
            connections.failed(first);
            connections.answered(first);
        }
        assert_eq!(connections.at(Instant::now()).0, first);
        for _ in 0..64 {
            connections.failed(first);
        }
        let (second, _) = connections.at(Instant::now());
        assert_eq!(second, Number(1), "the errors of the old ones don't count for the new ones");
    }
}
