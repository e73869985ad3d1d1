//! One connection of HTTP/1.1, driven by the task that waits for an answer over it.
//!
//! A pool hands each request over to the task of a connection, and its answer back. Here the task that
//! sends is the one that reads and writes, which spares both hand-overs (`benches/README.md`).

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use tokio::time::Instant;

use super::connections::{Connections, Number};
use super::transport::{BoxError, ExchangeError, IDLE, Stream, head_of, late};
use crate::publish::deadline::Deadline;

/// A connection from one request to the next; none at first, and after an error.
#[derive(Default)]
pub struct Connection {
    /// In a box, because it is large and often moved.
    open: Option<Box<Open>>,
    deadline: Deadline,
    idle: Deadline,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// `None` when it is closed.
    driver: Option<Driver>,
    number: Number,
    /// When it was last used.
    used: Instant,
}

/// Reads and writes when it is polled.
type Driver = http1::Connection<Stream, Full<Bytes>>;

/// An answer is larger than the caller allows.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {0} bytes")]
struct TooLarge(usize);

impl Connection {
    /// Sends `request` over a connection of `number`, a new one to `to` if there is none, and reads an
    /// answer of at most `limit` bytes, all within `time` of `now`.
    pub(super) async fn exchange(
        &mut self,
        (connections, number): (&Connections, Number),
        to: &Uri,
        request: Request<Full<Bytes>>,
        (now, time, limit): (Instant, Duration, usize),
    ) -> Result<(Parts, Bytes), ExchangeError> {
        // After an error the connection is dropped; only a complete exchange puts it back.
        let kept = self.open.take();
        let kept = kept.filter(|open| open.number == number && now < open.used + IDLE);
        let connect = || Open::connect(connections, number, to);
        let (mut request, mut head) = (Some(request), None);
        let ended = {
            let exchange = pin!(exchange(kept, connect, (&mut request, &mut head), limit));
            self.deadline.before(now + time, exchange).await
        };
        let Some(ended) = ended else {
            return late(head, time).ok_or_else(|| match request {
                None => ExchangeError::TimedOut,
                Some(_) => ExchangeError::Unsent(format!("no connection within {time:?}").into()),
            });
        };
        let (mut open, answer) = ended?;
        // A server may answer before it has read the whole body: the rest is still to be written.
        if open.sender.is_ready() {
            open.used = Instant::now();
            self.open = Some(open);
        }
        Ok(answer)
    }

    /// Drops the connection when the server closes it, or when it was idle for too long. After that it waits
    /// for ever.
    pub(super) async fn idle(&mut self) -> Infallible {
        if let Some(open) = &mut self.open
            && let Some(driver) = &mut open.driver
        {
            // The reason does not matter: no request was in flight.
            let _ = self.idle.before(open.used + IDLE, driver).await;
        }
        self.open = None;
        std::future::pending().await
    }
}

/// Sends `request`, and takes it out as soon as part of it may have been sent. The head of the answer is in `head` while its
/// body is read.
async fn exchange<C: Future<Output = Result<Box<Open>, BoxError>>>(
    mut kept: Option<Box<Open>>,
    connect: impl Fn() -> C,
    (request, head): (&mut Option<Request<Full<Bytes>>>, &mut Option<Parts>),
    limit: usize,
) -> Result<(Box<Open>, (Parts, Bytes)), ExchangeError> {
    loop {
        let reused = kept.is_some();
        let mut open = match kept.take() {
            Some(open) => open,
            // In a box: it is rare, and would make every future of this function larger.
            None => Box::pin(connect()).await.map_err(ExchangeError::Unsent)?,
        };
        let Some(sent) = request.take() else {
            return Err(ExchangeError::Sent("the request was sent before".into()));
        };
        match open.send(sent, request).await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                *head = Some(parts);
                let body = open.read(body, limit).await;
                let Some(head) = head.take() else {
                    return Err(ExchangeError::Sent("the answer was read before".into()));
                };
                let answer = match body {
                    Ok(body) => (head, body),
                    Err(why) => head_of(head, &*why),
                };
                return Ok((open, answer));
            }
            Err(error) if request.is_none() => return Err(ExchangeError::Sent(error.into())),
            // It was closed while idle, and nothing was sent: use a new one.
            Err(_) if reused => {}
            Err(error) => return Err(ExchangeError::Unsent(error.into())),
        }
    }
}

impl Open {
    async fn connect(
        connections: &Connections,
        number: Number,
        to: &Uri,
    ) -> Result<Box<Self>, BoxError> {
        let stream = connections.connect(to).await?;
        let (sender, driver) = http1::handshake(stream).await?;
        Ok(Box::new(Self { sender, driver: Some(driver), number, used: Instant::now() }))
    }

    /// Sends `request`; if nothing of it was sent, it is put into `unsent`, with the error.
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        unsent: &mut Option<Request<Full<Bytes>>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, driver, .. } = self;
        // A new connection accepts a request at once; a kept one was ready.
        let sending = pin!(sender.try_send_request(request));
        drive(driver, sending).await.map_err(|mut error| {
            *unsent = error.take_message();
            error.into_error()
        })
    }

    async fn read(&mut self, mut body: Incoming, limit: usize) -> Result<Bytes, BoxError> {
        let mut whole = Vec::new();
        while !body.is_end_stream() {
            let Some(frame) = drive(&mut self.driver, body.frame()).await else { break };
            let Ok(data) = frame?.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(TooLarge(limit).into());
            }
            // Copying a small body lets the connection reuse its buffer.
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }
}

/// Drives the connection until `wanted` is ready, and gives its output.
async fn drive<T>(driver: &mut Option<Driver>, mut wanted: impl Future<Output = T> + Unpin) -> T {
    poll_fn(|context| {
        // Its error reaches `wanted` too, which knows the request.
        if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(context).is_ready()) {
            *driver = None;
        }
        Pin::new(&mut wanted).poll(context)
    })
    .await
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::http::connections::tests::connections;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const TIME: Duration = Duration::from_millis(300);

    async fn exchange(connection: &mut Connection, to: &str) -> Result<Bytes, ExchangeError> {
        let connections = connections();
        let (number, _) = connections.at(Instant::now());
        let body = Full::new(Bytes::from("x".repeat(4_000_000)));
        let request = Request::post("/event").header("host", "a").body(body).unwrap();
        let (to, limits) = (to.parse().unwrap(), (Instant::now(), TIME, 100));
        let (_, body) = connection.exchange((&connections, number), &to, request, limits).await?;
        Ok(body)
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// Reads a head, and answers without having read the body.
    async fn answer_early(stream: &mut TcpStream) {
        let mut head = [0; 100];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// A future is moved when it is awaited, and is as large as the largest thing that it may wait for.
    #[tokio::test]
    async fn an_exchange_stays_small() {
        let (mut connection, connections) = (Connection::default(), connections());
        let (number, _) = connections.at(Instant::now());
        let request = Request::new(Full::new(Bytes::new()));
        let (to, limits) = (Uri::from_static("/event"), (Instant::now(), TIME, 100));
        let exchange = connection.exchange((&connections, number), &to, request, limits);
        assert!(size_of_val(&exchange) <= 2_048, "{}", size_of_val(&exchange));
    }

    #[tokio::test]
    async fn nothing_was_sent_before_there_is_a_connection() {
        let (_silent, address) = listener().await;
        let mut connection = Connection::default();
        let ended = exchange(&mut connection, &format!("https://{address}")).await;
        assert!(matches!(ended, Err(ExchangeError::Unsent(_))), "{ended:?}");
        let ended = exchange(&mut connection, &format!("http://{address}")).await;
        assert!(matches!(ended, Err(ExchangeError::TimedOut)), "{ended:?}");
        assert!(connection.open.is_none());
    }

    #[tokio::test]
    async fn a_connection_with_something_left_to_write_is_not_used_again() {
        let (listener, address) = listener().await;
        let server = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                answer_early(&mut stream).await;
                open.push(stream);
            }
            open
        });
        let mut connection = Connection::default();
        for _ in 0..2 {
            let body = exchange(&mut connection, &format!("http://{address}")).await.unwrap();
            assert_eq!(body, "no");
            assert!(connection.open.is_none());
        }
        server.await.unwrap();
    }

    #[tokio::test]
    async fn of_an_answer_that_is_cut_the_head_counts() {
        let (listener, address) = listener().await;
        let long = "x".repeat(101);
        let answers = [
            ("429 Too Many Requests", 9, "cut"),
            ("403 Forbidden", 101, &*long),
            ("500 Internal Server Error", 9, ""),
            ("400 Bad Request\r\nx-amzn-errortype: ThrottlingException", 9, "cut"),
            ("400 Bad Request", 9, "cut"),
            ("200 OK", 9, "cut"),
            ("200 OK", 101, &*long),
        ];
        let server = async {
            for (status, length, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = vec![0; 4_100_000];
                assert!(stream.read(&mut all).await.unwrap() > 0);
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        };
        let client = async {
            let mut connection = Connection::default();
            for (status, ..) in answers {
                let ended = exchange(&mut connection, &format!("http://{address}")).await;
                assert_eq!(ended.unwrap(), "", "{status}");
                assert!(connection.open.is_none(), "{status}");
            }
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn of_an_answer_that_does_not_end_the_head_counts_unless_it_is_a_success() {
        let (listener, address) = listener().await;
        let answers = ["429 Too Many Requests", "401 Unauthorized", "400 Bad Request", "200 OK"];
        let server = async {
            let mut open = Vec::new();
            for status in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = vec![0; 4_100_000];
                assert!(stream.read(&mut all).await.unwrap() > 0);
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\ncut");
                stream.write_all(head.as_bytes()).await.unwrap();
                open.push(stream);
            }
            open
        };
        let client = async {
            let mut connection = Connection::default();
            for status in answers {
                let ended = exchange(&mut connection, &format!("http://{address}")).await;
                match status {
                    "200 OK" => assert!(matches!(ended, Err(ExchangeError::TimedOut)), "{ended:?}"),
                    _ => assert_eq!(ended.unwrap(), "", "{status}"),
                }
                assert!(connection.open.is_none(), "{status}");
            }
        };
        tokio::join!(server, client);
    }
}
