//! The way to an endpoint: TCP, or a tunnel through a proxy; for how long it is trusted, and how an exchange over it
//! may fail.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::response::Parts;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{HttpConnector, dns::GaiResolver};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error_chain;
use crate::outbound::{Proxy, Resolver};

/// A connection idle for this long is not used again: a server is likely to close it just then.
pub(super) const IDLE: Duration = Duration::from_secs(20);

/// Interval of keep-alive probes on an idle connection, or one with a silent peer.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Keep-alive probes that may stay unanswered.
const KEEP_ALIVE_TRIES: u32 = 3;

/// The peer's TCP has to acknowledge data within this, or the connection is closed.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// An established connection, before HTTP.
pub(super) type Stream = <HttpsConnector<Transport> as Service<Uri>>::Response;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// Nothing was sent.
    Unsent(BoxError),
    /// Nothing was sent: the server ended the connections in an orderly way before.
    Left(BoxError),
    /// The request may have been sent.
    Sent(BoxError),
    /// Not within the time; something may have been sent.
    TimedOut,
}

/// Why the body of an answer did not come, or not all of it; an extension of its head.
#[derive(Clone, Debug)]
pub(super) struct Cut(pub(super) String);

/// An answer whose body is cut or too large: its head, which says how the request ended, though not for which events.
pub(super) fn head_of(mut head: Parts, why: &(dyn Error + 'static)) -> (Parts, Bytes) {
    head.extensions.insert(Cut(error_chain::in_one_line(why)));
    (head, Bytes::new())
}

/// The head of an answer whose body does not come within `time`. A success that takes so long is none that was heard of.
pub(super) fn late(head: Option<Parts>, time: Duration) -> Option<(Parts, Bytes)> {
    let head = head.filter(|head| !head.status.is_success())?;
    Some(head_of(head, &*BoxError::from(format!("no end of it within {time:?}"))))
}

/// Makes connections, TLS included.
#[derive(Clone)]
pub(super) struct Connector(HttpsConnector<Transport>);

/// The way to an endpoint, before TLS.
#[derive(Clone)]
pub(super) enum Transport {
    Direct(HttpConnector<Resolver>),
    /// A tunnel through a proxy, which may itself be reached over TLS.
    Proxy(Box<Tunnel<HttpsConnector<HttpConnector>>>),
}

impl Connector {
    /// Connections for HTTP/1.1, to which HTTP/2 is offered as well if `both`.
    pub(super) fn new(transport: Transport, tls: ClientConfig, both: bool) -> Self {
        let builder =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Self(if both {
            builder.enable_http2().wrap_connector(transport)
        } else {
            builder.wrap_connector(transport)
        })
    }

    /// A new connection to `to`.
    pub(super) async fn connect(&self, to: &Uri) -> Result<Stream, BoxError> {
        let mut connector = self.0.clone();
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(to.clone()).await
    }
}

/// The route to the endpoint, direct or through a proxy. `tls` is for a proxy reached over TLS.
pub(super) fn transport(timeout: Duration, proxy: Option<&Proxy>, tls: &ClientConfig) -> Transport {
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

pub(super) fn tcp<R>(resolver: R, timeout: Duration) -> HttpConnector<R> {
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
