//! One connection of HTTP/2, which requests share.
//!
//! hyper-util's pool is not used: where a server leaves, it may let a request wait for a connection that nobody
//! makes, until its time is over; it makes a connection for every request that finds none, and keeps one of them;
//! and what it never sent it may report as an error that does not say so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::transport::{BoxError, Connector, ExchangeError, IDLE, KEEP_ALIVE, UNACKNOWLEDGED};

/// The connection of one generation.
pub(super) struct Shared {
    connector: Connector,
    /// Locked while it is made, so that one is made and the others wait for it.
    way: Mutex<Way>,
}

/// What the endpoint was found to offer.
#[derive(Default)]
enum Way {
    #[default]
    Unknown,
    Http2 {
        sender: Sender,
        used: Instant,
    },
    Http1,
}

type Sender = SendRequest<Full<Bytes>>;

impl Shared {
    /// None is made yet.
    pub(super) fn over(connector: Connector) -> Self {
        Self { connector, way: Mutex::default() }
    }

    /// Sends `request`, over a new connection to `to` if there is none, and reads an answer of at most `limit`
    /// bytes, all within `time` of `now`. `None`, and nothing was sent, if the endpoint does not offer HTTP/2.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        to: &Uri,
        request: Request<Full<Bytes>>,
        (now, time, limit): (Instant, Duration, usize),
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        let mut request = Some(request);
        let exchange = self.send(to, &mut request, limit);
        let ended = timeout_at(now + time, exchange).await;
        ended.unwrap_or_else(|_| {
            Err(match request {
                None => ExchangeError::TimedOut,
                Some(_) => ExchangeError::Unsent(format!("no connection within {time:?}").into()),
            })
        })
    }

    /// Takes `request` out as soon as part of it may be sent.
    async fn send(
        self: &Arc<Self>,
        to: &Uri,
        request: &mut Option<Request<Full<Bytes>>>,
        limit: usize,
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        loop {
            let found = self.sender(to).await.map_err(ExchangeError::Unsent)?;
            let Some((mut sender, is_new)) = found else { return Ok(None) };
            let Some(sent) = request.take() else {
                return Err(ExchangeError::Sent("the request was sent before".into()));
            };
            let answer = sender.try_send_request(sent);
            // A request that comes just as the connection ends stays in its channel until nobody can send there any
            // more (tokio-rs/tokio#7714), and then comes back.
            drop(sender);
            let mut error = match answer.await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = Limited::new(body, limit).collect().await;
                    let body = body.map_err(ExchangeError::Sent)?.to_bytes();
                    return Ok(Some((head, body)));
                }
                Err(error) => error,
            };
            *request = error.take_message();
            let error = error.into_error().into();
            match request {
                None => return Err(ExchangeError::Sent(error)),
                Some(_) if is_new => return Err(ExchangeError::Unsent(error)),
                // It was closed while idle, or by what others sent, and nothing was sent of this: use a new one.
                Some(_) => {}
            }
        }
    }

    /// A connection that is open as far as is known, and whether it is new; `None` without HTTP/2.
    async fn sender(self: &Arc<Self>, to: &Uri) -> Result<Option<(Sender, bool)>, BoxError> {
        let mut way = self.way.lock().await;
        let now = Instant::now();
        match &mut *way {
            Way::Http1 => return Ok(None),
            Way::Http2 { sender, used } if !sender.is_closed() && now < *used + IDLE => {
                *used = now;
                return Ok(Some((sender.clone(), false)));
            }
            Way::Http2 { .. } | Way::Unknown => {}
        }
        let stream = self.connector.connect(to).await?;
        if !stream.connected().is_negotiated_h2() {
            tracing::debug!("the endpoint does not offer HTTP/2");
            *way = Way::Http1;
            return Ok(None);
        }
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(UNACKNOWLEDGED)
            .handshake(stream)
            .await?;
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            // It ends, too, when nobody has its sender. Its error reaches the requests.
            let _ = connection.await;
            if let Some(shared) = shared.upgrade() {
                shared.forget_closed().await;
            }
        });
        *way = Way::Http2 { sender: sender.clone(), used: Instant::now() };
        Ok(Some((sender, true)))
    }

    async fn forget_closed(&self) {
        let mut way = self.way.lock().await;
        if matches!(&*way, Way::Http2 { sender, .. } if sender.is_closed()) {
            *way = Way::Unknown;
        }
    }
}
