//! One connection of HTTP/2, which requests share.
//!
//! hyper-util's pool is not used: where a server leaves, it may let a request wait until its time is over; it makes a
//! connection for every request that finds none, and keeps one of them; and what it never sent it may report as an
//! error that does not say so.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use http::response::Parts;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::transport::{
    BoxError, Connector, ExchangeError, IDLE, KEEP_ALIVE, Stream, UNACKNOWLEDGED,
};

/// An endpoint that did not offer HTTP/2 is asked again after this.
const ASK_AGAIN: Duration = Duration::from_mins(10);

/// The connection of one generation.
pub(super) struct Shared {
    connector: Connector,
    to: Uri,
    /// For a connection to be made.
    time: Duration,
    state: Mutex<State>,
}

struct State {
    way: Way,
    /// Why the connection before this one ended, if not in an orderly way.
    broken: Option<Why>,
}

/// What the endpoint was found to offer.
enum Way {
    Unknown,
    /// One attempt, for all that wait for it.
    Connecting(Attempt),
    Http2 {
        sender: Sender,
        used: Instant,
    },
    Http1 {
        since: Instant,
    },
}

type Sender = SendRequest<Full<Bytes>>;
type Attempt = SharedFuture<BoxFuture<'static, Result<(), Why>>>;
type Driver = Connection<Stream, Full<Bytes>, TokioExecutor>;

/// An error that several requests have.
#[derive(Clone, Debug)]
struct Why(Arc<dyn Error + Send + Sync>);

impl Shared {
    /// To `to`; each attempt may take `time`. Nothing is connected yet.
    pub(super) fn new(connector: Connector, to: Uri, time: Duration) -> Self {
        Self::having(connector, to, time, Way::Unknown)
    }

    /// The next generation.
    pub(super) fn renewed(&self) -> Self {
        let way = match self.state.lock().way {
            Way::Http1 { since } if since.elapsed() < ASK_AGAIN => Way::Http1 { since },
            _ => Way::Unknown,
        };
        Self::having(self.connector.clone(), self.to.clone(), self.time, way)
    }

    fn having(connector: Connector, to: Uri, time: Duration, way: Way) -> Self {
        Self { connector, to, time, state: Mutex::new(State { way, broken: None }) }
    }

    /// Whether the endpoint was found not to offer HTTP/2.
    pub(super) fn is_http1(&self) -> bool {
        matches!(self.state.lock().way, Way::Http1 { .. })
    }

    /// Sends `request`, over a new connection if there is none, and reads an answer of at most `limit` bytes, all
    /// within `time` of `now`. `None`, and nothing was sent, if the endpoint does not offer HTTP/2.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        request: Request<Full<Bytes>>,
        (now, time, limit): (Instant, Duration, usize),
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        let mut request = Some(request);
        let ended = timeout_at(now + time, self.send(&mut request, limit)).await;
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
        request: &mut Option<Request<Full<Bytes>>>,
        limit: usize,
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        let mut tries = 0;
        loop {
            let sender = self.sender().await.map_err(|why| ExchangeError::Unsent(why.into()))?;
            let Some(mut sender) = sender else { return Ok(None) };
            let Some(sent) = request.take() else {
                return Err(ExchangeError::Sent("the request was sent before".into()));
            };
            tries += 1;
            let answer = sender.try_send_request(sent);
            // What comes just as the connection ends stays in its channel until the last sender is dropped, and then
            // comes back: tokio drains it only once.
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
            match request {
                None => return Err(ExchangeError::Sent(error.into_error().into())),
                // The connection was closed, and nothing was sent of this: another one, once.
                Some(_) if tries == 1 => {}
                Some(_) => {
                    let broken = self.state.lock().broken.clone();
                    return Err(match broken {
                        Some(why) => ExchangeError::Unsent(why.into()),
                        None => ExchangeError::Left(error.into_error().into()),
                    });
                }
            }
        }
    }

    /// A connection that is open as far as is known; `None` without HTTP/2.
    async fn sender(self: &Arc<Self>) -> Result<Option<Sender>, Why> {
        loop {
            let attempt = {
                let mut state = self.state.lock();
                let now = Instant::now();
                match &mut state.way {
                    Way::Http1 { .. } => return Ok(None),
                    Way::Http2 { sender, used } if !sender.is_closed() => {
                        *used = now;
                        return Ok(Some(sender.clone()));
                    }
                    Way::Connecting(attempt) => attempt.clone(),
                    Way::Http2 { .. } | Way::Unknown => {
                        let attempt = self.attempt();
                        state.way = Way::Connecting(attempt.clone());
                        attempt
                    }
                }
            };
            attempt.await?;
        }
    }

    /// An attempt to connect, in a task of its own: whoever waits for it may give up.
    fn attempt(self: &Arc<Self>) -> Attempt {
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move {
            let made = timeout(shared.time, shared.connect()).await;
            let made = made
                .unwrap_or_else(|_| Err(format!("no connection within {:?}", shared.time).into()));
            let (way, made) = match made {
                Ok(way) => (way, Ok(())),
                Err(error) => (Way::Unknown, Err(Why(error.into()))),
            };
            shared.state.lock().way = way;
            made
        });
        // It is neither aborted nor does it panic.
        task.map(|ended| ended.unwrap_or_else(|error| Err(Why(Arc::new(error))))).boxed().shared()
    }

    async fn connect(self: &Arc<Self>) -> Result<Way, BoxError> {
        let stream = self.connector.connect(&self.to).await?;
        let now = Instant::now();
        if !stream.connected().is_negotiated_h2() {
            tracing::debug!("the endpoint does not offer HTTP/2");
            return Ok(Way::Http1 { since: now });
        }
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(UNACKNOWLEDGED)
            .handshake(stream)
            .await?;
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            // Its channel goes with the driver.
            let ended = drive(driver, now, &shared).await;
            if let Some(shared) = shared.upgrade() {
                shared.forget_closed(ended.err());
            }
        });
        Ok(Way::Http2 { sender, used: now })
    }

    /// Leaves a connection that was idle for too long; else gives when it was last used. `None` also without one.
    fn leave_if_idle(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let Way::Http2 { used, .. } = state.way else { return None };
        if used.elapsed() >= IDLE {
            state.way = Way::Unknown;
            return None;
        }
        Some(used)
    }

    fn forget_closed(&self, error: Option<hyper::Error>) {
        let mut state = self.state.lock();
        if matches!(&state.way, Way::Http2 { sender, .. } if sender.is_closed()) {
            state.way = Way::Unknown;
        }
        state.broken = error.map(|error| Why(Arc::new(error)));
    }
}

/// Drives a connection to its end. Without a sender it ends when what is under way was answered.
async fn drive(
    mut driver: Driver,
    made: Instant,
    shared: &Weak<Shared>,
) -> Result<(), hyper::Error> {
    let mut until = made + IDLE;
    loop {
        tokio::select! {
            ended = &mut driver => return ended,
            () = sleep_until(until) => {}
        }
        match shared.upgrade().and_then(|shared| shared.leave_if_idle()) {
            Some(used) => until = used + IDLE,
            None => return driver.await,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Why {
    /// Who looks for a cause finds the error itself.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::http::connections::tests::connector;
    use hyper_util::rt::TokioIo;

    const TIME: Duration = Duration::from_millis(200);

    fn shared(to: &str) -> Arc<Shared> {
        Arc::new(Shared::new(connector(), to.parse().unwrap(), TIME))
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_left_and_a_closed_one_forgotten() {
        let shared = shared("https://localhost");
        let (ours, _theirs) = tokio::io::duplex(1_000);
        let builder = Builder::new(TokioExecutor::new());
        let (sender, driver) = builder.handshake(TokioIo::new(ours)).await.unwrap();
        let open = || Way::Http2 { sender: sender.clone(), used: Instant::now() };
        shared.state.lock().way = open();
        tokio::time::advance(IDLE / 2).await;
        shared.sender().await.unwrap().unwrap();
        tokio::time::advance(IDLE / 2).await;
        assert!(shared.leave_if_idle().is_some(), "it was used since");
        tokio::time::advance(IDLE / 2).await;
        assert!(shared.leave_if_idle().is_none());
        assert!(matches!(shared.state.lock().way, Way::Unknown));

        shared.state.lock().way = open();
        shared.forget_closed(None);
        assert!(matches!(shared.state.lock().way, Way::Http2 { .. }), "it is open");
        drop::<hyper::client::conn::http2::Connection<_, Full<Bytes>, _>>(driver);
        shared.forget_closed(None);
        assert!(matches!(shared.state.lock().way, Way::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_offer_it_is_asked_again_after_a_while() {
        let shared = shared("https://localhost");
        shared.state.lock().way = Way::Http1 { since: Instant::now() };
        let next = shared.renewed();
        tokio::time::advance(ASK_AGAIN).await;
        assert!(next.is_http1());
        assert!(!next.renewed().is_http1());
    }

    /// One that hangs, and one that is refused: those that wait for an attempt share its end, whoever began it.
    #[tokio::test]
    async fn an_attempt_that_fails_fails_for_all_that_wait_for_it() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let hanging = shared(&format!("https://{address}"));
        let first = timeout(TIME / 4, hanging.sender());
        let second = hanging.sender();
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err(), "it was given up");
        assert!(second.unwrap_err().to_string().contains("no connection within 200ms"));
        assert!(timeout(TIME, silent.accept()).await.is_ok(), "one attempt");
        assert!(timeout(TIME / 4, silent.accept()).await.is_err(), "and no second one");
        assert!(matches!(hanging.state.lock().way, Way::Unknown));
        drop(silent);
        assert!(hanging.sender().await.unwrap_err().source().is_some());
    }
}
