//! A port for HTTP whose connections can't take what the rest of the process needs.
//!
//! It has so many seats, and a connection holds one for as long as its socket is open, a WebSocket that
//! it became too. A connection *waits* while nobody works on a request of it: its TLS handshake, the head
//! of a request, an answer that it has to take. Who waits too long is sent away. When every seat is
//! taken, who has waited longest gives his to the next: so thousands that connect and say little can't
//! keep out one that asks something. Only while all are being worked for is the next one sent away.
//!
//! Not here: what is served, and how much a request may bring.

mod seats;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;

pub use seats::Seat;
use seats::Seats;

/// So much of a request is read ahead, and a head is no larger: a token in it has a few thousand bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// So many may be before the door while the seats are taken, if the system has room for them.
const BEFORE_THE_DOOR: u32 = 4_096;

/// How long to let be after the system refused a connection, mostly for want of descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A port that is taken.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    seats: Arc<Seats>,
}

/// A stream and the seat of its connection.
#[derive(Debug)]
pub struct Seated<S> {
    stream: S,
    client: SocketAddr,
    seat: Arc<Seat>,
}

impl Listener {
    /// Takes the port, with so many seats; `what` names it in the log, such as `the admin port`.
    pub fn bind(address: SocketAddr, what: &'static str, seats: usize) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BEFORE_THE_DOOR)?;
        Ok(Self { listener, seats: Arc::new(Seats::new(what, seats)) })
    }

    /// The address that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection that has a seat. Survives whatever the system says of one.
    pub async fn accept(&self) -> Seated<TcpStream> {
        loop {
            let (stream, client) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.seats.refused(&error);
                    sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            if let Some(seat) = self.seats.take().await {
                // Answers are small and whole; waiting to fill a packet would only delay them.
                let _ = stream.set_nodelay(true);
                return Seated { stream, client, seat };
            }
        }
    }

    /// Serves every connection for ever.
    pub async fn serve<S, B>(self, service: S) -> Infallible
    where
        S: tower_service::Service<Request<Incoming>, Response = Response<B>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<Error>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Error>,
    {
        loop {
            let stream = self.accept().await;
            let (seat, service) = (Arc::clone(stream.seat()), service.clone());
            tokio::spawn(async move {
                let service = move |request| service.clone().call(request);
                seat.serve(stream, service, std::future::pending()).await;
            });
        }
    }
}

impl<S> Seated<S> {
    /// The other end.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The seat.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Seat {
    /// Answers the requests that come over `stream`, the last one when `drain` is over. How a connection
    /// ends is the client's business: most errors are one that went away.
    pub async fn serve<S, F, B, E>(
        self: &Arc<Self>,
        stream: S,
        service: impl Fn(Request<Incoming>) -> F,
        drain: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<Response<B>, E>>,
        B: Body + 'static,
        B::Error: Into<Error>,
        E: Into<Error>,
    {
        let service = service_fn(|request| {
            let busy = self.busy();
            let answer = service(request);
            async move {
                let answer = answer.await;
                let upgrade = |r: &Response<B>| r.status() == StatusCode::SWITCHING_PROTOCOLS;
                busy.over(answer.as_ref().is_ok_and(upgrade));
                answer
            }
        });
        let connection = http1::Builder::new()
            .header_read_timeout(None) // ours knows what else there is to wait for
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let work = async {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = drain => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        };
        self.hold(work).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream as Client;
    use tokio::sync::Semaphore;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Answers `yes`, or what a path asks for: `/held` when there is a permit, `/large` a lot.
    fn port(seats: usize) -> (SocketAddr, Arc<Semaphore>, Arc<AtomicUsize>) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), "a port", seats).unwrap();
        let address = listener.local_addr().unwrap();
        let (permits, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (held, count) = (Arc::clone(&permits), Arc::clone(&asked));
        let answer = move |request: Request<Incoming>| {
            let (held, count) = (Arc::clone(&held), Arc::clone(&count));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let text = match request.uri().path() {
                    "/held" => {
                        held.acquire().await.unwrap().forget();
                        vec![b'h']
                    }
                    "/large" => vec![b'x'; 32 << 20],
                    _ => b"yes".to_vec(),
                };
                Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from(text))))
            }
        };
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await;
                let (seat, answer) = (Arc::clone(stream.seat()), answer.clone());
                tokio::spawn(async move {
                    seat.serve(stream, answer, std::future::pending()).await;
                });
            }
        });
        (address, permits, asked)
    }

    async fn ask(address: SocketAddr) -> Client {
        let mut client = Client::connect(address).await.unwrap();
        yes(&mut client).await;
        client
    }

    async fn yes(client: &mut Client) {
        client.write_all(REQUEST).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"yes") {
            assert!(client.read_buf(&mut text).await.unwrap() > 0, "closed: {text:?}");
        }
    }

    /// Everything until the connection ends.
    async fn end(client: &mut Client) -> usize {
        let mut text = Vec::new();
        let _ = client.read_to_end(&mut text).await;
        text.len()
    }

    #[tokio::test]
    async fn who_asks_is_answered_however_many_wait_and_who_waited_longest_goes() {
        let (address, ..) = port(3);
        let mut silent = Client::connect(address).await.unwrap();
        let mut slow = Client::connect(address).await.unwrap();
        slow.write_all(&REQUEST[..10]).await.unwrap();
        let mut kept = ask(address).await;
        let _fourth = ask(address).await;
        assert_eq!(end(&mut silent).await, 0);
        yes(&mut kept).await;
        let _fifth = ask(address).await;
        assert_eq!(end(&mut slow).await, 0);
        for _ in 0..100 {
            drop(Client::connect(address).await.unwrap());
            let _ = ask(address).await;
        }
    }

    #[tokio::test]
    async fn who_takes_no_answer_goes_and_who_is_worked_for_stays() {
        let (address, permits, asked) = port(2);
        let mut held = Client::connect(address).await.unwrap();
        held.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut large = Client::connect(address).await.unwrap();
        large.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let mut third = Client::connect(address).await.unwrap();
        third.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        while asked.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        assert!(end(&mut large).await < 32 << 20, "it has no seat any more");
        // Everybody is worked for now.
        assert_eq!(end(&mut Client::connect(address).await.unwrap()).await, 0);
        permits.add_permits(2);
        for client in [&mut held, &mut third] {
            let mut text = Vec::new();
            while !text.ends_with(b"h") {
                assert!(client.read_buf(&mut text).await.unwrap() > 0, "closed: {text:?}");
            }
        }
        ask(address).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_and_an_idle_connection_have_their_time() {
        let (address, ..) = port(10);
        let began = tokio::time::Instant::now();
        let mut slow = Client::connect(address).await.unwrap();
        slow.write_all(&REQUEST[..10]).await.unwrap();
        assert_eq!(end(&mut slow).await, 0);
        assert!(began.elapsed() >= seats::FIRST_HEAD);
        let mut kept = ask(address).await;
        let answered = tokio::time::Instant::now();
        assert_eq!(end(&mut kept).await, 0);
        assert!(answered.elapsed() > seats::FIRST_HEAD);
    }
}
