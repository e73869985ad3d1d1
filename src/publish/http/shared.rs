//! One connection of HTTP/2, which requests share.
//!
//! hyper-util's pool is not used: where a server leaves, it may let a request wait until its time is over; it makes a
//! connection for every request that finds none, and keeps one of them; and what it never sent it may report as an
//! error that does not say so.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
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
    BoxError, Connector, ExchangeError, IDLE, KEEP_ALIVE, Stream, UNACKNOWLEDGED, head_of, late,
};
use super::watched::{Stage, Watched};

/// An endpoint that did not offer HTTP/2 is asked again after this.
const ASK_AGAIN: Duration = Duration::from_mins(10);

/// The connection of one generation.
pub(super) struct Shared {
    connector: Connector,
    to: Uri,
    /// For a connection to be made.
    time: Duration,
    way: Mutex<Way>,
}

/// What the endpoint was found to offer.
enum Way {
    Unknown,
    /// One attempt, for all that wait for it.
    Connecting(Attempt),
    Http2 {
        link: Link,
        used: Instant,
    },
    Http1 {
        since: Instant,
    },
}

/// A connection.
#[derive(Clone)]
struct Link {
    sender: Sender,
    /// Why it ended, if not in an orderly way.
    broken: Arc<OnceLock<Why>>,
}

type Sender = SendRequest<Watched>;
type Attempt = SharedFuture<BoxFuture<'static, Result<(), Why>>>;
type Driver = Connection<Stream, Watched, TokioExecutor>;

/// An error that several requests have.
#[derive(Clone, Debug)]
struct Why(Arc<dyn Error + Send + Sync>);

impl Shared {
    /// To `to`; each attempt may take `time`. Nothing is connected yet.
    pub(super) fn new(connector: Connector, to: Uri, time: Duration) -> Self {
        Self { connector, to, time, way: Mutex::new(Way::Unknown) }
    }

    /// The next generation.
    pub(super) fn renewed(&self) -> Self {
        let next = self.anew();
        if let Way::Http1 { since } = *self.way.lock() {
            *next.way.lock() = Way::Http1 { since };
        }
        next
    }

    /// The next generation after errors: what was found need not be so any more.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.connector.clone(), self.to.clone(), self.time)
    }

    /// Whether the endpoint was found not to offer HTTP/2, and need not be asked again yet.
    pub(super) fn is_http1(&self) -> bool {
        matches!(*self.way.lock(), Way::Http1 { since } if since.elapsed() < ASK_AGAIN)
    }

    /// Sends `request`, over a new connection if there is none, and reads an answer of at most `limit` bytes, all
    /// within `time` of `now`. `None`, and nothing was sent, if the endpoint does not offer HTTP/2.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        request: Request<Full<Bytes>>,
        (now, time, limit): (Instant, Duration, usize),
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        let stage = Arc::<Stage>::default();
        let request = request.map(|body| Watched::new(body, Arc::clone(&stage)));
        let (mut taken, mut head) = (false, None);
        let exchange = self.send(request, (&stage, &mut taken, &mut head), limit);
        let ended = timeout_at(now + time, exchange).await;
        ended.unwrap_or_else(|_| {
            stage.give_up();
            if let Some(answer) = late(head, time) {
                return Ok(Some(answer));
            }
            // One that a connection had taken may have waited for its turn alone, but then the server is too slow for
            // so many at a time, which is for who reads this as a time-out.
            Err(if taken {
                ExchangeError::TimedOut
            } else {
                ExchangeError::Unsent(format!("no connection within {time:?}").into())
            })
        })
    }

    async fn send(
        self: &Arc<Self>,
        mut request: Request<Watched>,
        (stage, taken, head): (&Stage, &mut bool, &mut Option<Parts>),
        limit: usize,
    ) -> Result<Option<(Parts, Bytes)>, ExchangeError> {
        let mut tries = 0;
        loop {
            let link = self.link().await.map_err(|why| ExchangeError::Unsent(why.into()))?;
            let Some(Link { mut sender, broken }) = link else { return Ok(None) };
            tries += 1;
            *taken = true;
            let answer = sender.try_send_request(request);
            // What comes just as the connection ends stays in its channel until the last sender is dropped, and then
            // comes back: tokio drains it only once.
            drop(sender);
            let mut error = match answer.await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    *head = Some(parts.clone());
                    return Ok(Some(match Limited::new(body, limit).collect().await {
                        Ok(body) => (parts, body.to_bytes()),
                        Err(why) => head_of(parts, &*why),
                    }));
                }
                Err(error) => error,
            };
            match error.take_message() {
                // The connection was closed, and nothing was sent of this: another one, once.
                Some(untouched) if tries == 1 => (request, *taken) = (untouched, false),
                Some(_) => {
                    return Err(match broken.get() {
                        Some(why) => ExchangeError::Unsent(why.clone().into()),
                        None => ExchangeError::Left(error.into_error().into()),
                    });
                }
                None if stage.give_up() => {
                    return Err(ExchangeError::Unsent(error.into_error().into()));
                }
                None => return Err(ExchangeError::Sent(error.into_error().into())),
            }
        }
    }

    /// A connection that is open as far as is known, or that was when it was waited for; `None` without HTTP/2.
    async fn link(self: &Arc<Self>) -> Result<Option<Link>, Why> {
        let (began, mut waited, mut again) = (Instant::now(), false, false);
        loop {
            let (attempt, joined) = {
                let mut way = self.way.lock();
                let now = Instant::now();
                match &mut *way {
                    Way::Http1 { since } if waited || now < *since + ASK_AGAIN => return Ok(None),
                    Way::Http2 { link, used }
                        if waited || !link.sender.is_closed() && now < *used + IDLE =>
                    {
                        *used = now;
                        return Ok(Some(link.clone()));
                    }
                    Way::Connecting(attempt) => (attempt.clone(), true),
                    Way::Http1 { .. } | Way::Http2 { .. } | Way::Unknown => {
                        let attempt = self.attempt();
                        *way = Way::Connecting(attempt.clone());
                        (attempt, false)
                    }
                }
            };
            match attempt.await {
                // One that the server closed meanwhile gives the request back: no loop without an end is made of it.
                Ok(()) => waited = true,
                // One trouble is not that of all who waited, unless it lasts.
                Err(_) if joined && !again && began.elapsed() < self.time / 4 => again = true,
                Err(why) => return Err(why),
            }
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
            *shared.way.lock() = way;
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
        let (shared, time) = (Arc::downgrade(self), self.time);
        let broken = Arc::<OnceLock<Why>>::default();
        let link = Link { sender, broken: Arc::clone(&broken) };
        tokio::spawn(async move {
            let mut driver = driver;
            if let Err(error) = drive(&mut driver, now, &shared, time).await {
                let _ = broken.set(Why(Arc::new(error)));
            }
            // What is in its channel comes back now, and finds the reason.
            drop(driver);
            if let Some(shared) = shared.upgrade() {
                shared.forget_closed();
            }
        });
        Ok(Way::Http2 { link, used: now })
    }

    /// Leaves a connection that was idle for too long; else gives when it was last used. `None` also without one.
    fn leave_if_idle(&self) -> Option<Instant> {
        let mut way = self.way.lock();
        let Way::Http2 { used, .. } = *way else { return None };
        if used.elapsed() >= IDLE {
            *way = Way::Unknown;
            return None;
        }
        Some(used)
    }

    fn forget_closed(&self) {
        let mut way = self.way.lock();
        if matches!(&*way, Way::Http2 { link, .. } if link.sender.is_closed()) {
            *way = Way::Unknown;
        }
    }
}

/// Drives a connection to its end. Without a sender it ends when what is under way was answered, for which `time` is
/// enough.
async fn drive(
    driver: &mut Driver,
    made: Instant,
    shared: &Weak<Shared>,
    time: Duration,
) -> Result<(), hyper::Error> {
    let mut until = made + IDLE;
    loop {
        tokio::select! {
            ended = &mut *driver => return ended,
            () = sleep_until(until) => {}
        }
        match shared.upgrade().and_then(|shared| shared.leave_if_idle()) {
            Some(used) => until = used + IDLE,
            None => return timeout(time, driver).await.unwrap_or(Ok(())),
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
        let link = Link { sender, broken: Arc::default() };
        let open = || Way::Http2 { link: link.clone(), used: Instant::now() };
        *shared.way.lock() = open();
        tokio::time::advance(IDLE / 2).await;
        shared.link().await.unwrap().unwrap();
        tokio::time::advance(IDLE / 2).await;
        assert!(shared.leave_if_idle().is_some(), "it was used since");
        tokio::time::advance(IDLE / 2).await;
        assert!(shared.leave_if_idle().is_none());
        assert!(matches!(*shared.way.lock(), Way::Unknown));

        *shared.way.lock() = open();
        shared.forget_closed();
        assert!(matches!(*shared.way.lock(), Way::Http2 { .. }), "it is open");
        drop::<Connection<_, Watched, _>>(driver);
        shared.forget_closed();
        assert!(matches!(*shared.way.lock(), Way::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_offer_it_is_asked_again_after_a_while() {
        let shared = shared("https://localhost");
        *shared.way.lock() = Way::Http1 { since: Instant::now() };
        tokio::time::advance(ASK_AGAIN / 2).await;
        let next = shared.renewed();
        assert!(next.is_http1() && !next.anew().is_http1());
        tokio::time::advance(ASK_AGAIN / 2).await;
        assert!(!next.is_http1());
    }

    /// One that hangs, and one that is refused: those that wait for an attempt share its end, whoever began it.
    #[tokio::test]
    async fn an_attempt_that_fails_fails_for_all_that_wait_for_it() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let hanging = shared(&format!("https://{address}"));
        let first = timeout(TIME / 4, hanging.link());
        let second = hanging.link();
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err(), "it was given up");
        assert!(second.err().unwrap().to_string().contains("no connection within 200ms"));
        assert!(timeout(TIME, silent.accept()).await.is_ok(), "one attempt");
        assert!(timeout(TIME / 4, silent.accept()).await.is_err(), "and no second one");
        assert!(matches!(*hanging.way.lock(), Way::Unknown));
        drop(silent);
        assert!(hanging.link().await.err().unwrap().source().is_some());
    }
}
