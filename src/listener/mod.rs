//! A port for HTTP with a limit on its connections, so that the rest of the process keeps its file
//! descriptors.
//!
//! A port has a number of slots, and a connection has one for as long as its socket is open, also after
//! an upgrade to a WebSocket. A connection is *idle* while no request of it is being answered: during its
//! TLS handshake, the head of a request, and the transfer of an answer. It is closed after a time. When
//! all slots are taken, the connection that has been idle for the longest is closed for a new one: so
//! thousands of idle clients can't keep out an active one. Only if none is idle is the new one closed.
//!
//! Not here: the answers, and the limits of a request.

mod site;
mod slots;

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

pub use site::{hosts, is_foreign, is_loopback, led_here, strange_host};
pub use slots::Slot;
use slots::Slots;

/// The largest head of a request, and the read buffer: a token in a head has a few thousand bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Connections that the system may queue while all slots are taken; it may have a lower limit.
const BACKLOG: u32 = 4_096;

/// The pause after a failed `accept`, mostly for lack of file descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A listening port.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    slots: Arc<Slots>,
}

/// The address of the client, in the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A stream and the slot of its connection.
#[derive(Debug)]
pub struct Accepted<S> {
    stream: S,
    client: SocketAddr,
    slot: Arc<Slot>,
}

impl Listener {
    /// Takes the port, with this many slots; `what` is its name in the log, such as `the admin port`.
    pub fn bind(address: SocketAddr, what: &'static str, slots: usize) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, slots: Arc::new(Slots::new(what, slots)) })
    }

    /// The address, with the actual port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection with a slot. Errors of the system are logged, and the next one is awaited.
    pub async fn accept(&self) -> Accepted<TcpStream> {
        loop {
            let (stream, client) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.slots.refused(&error);
                    sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            if let Some(slot) = self.slots.take().await {
                // Answers are small and complete; waiting to fill a packet would only delay them.
                let _ = stream.set_nodelay(true);
                return Accepted { stream, client, slot };
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
        self.serve_through(|stream| std::future::ready(Some(stream)), service).await
    }

    /// Serves every connection for ever, each behind the handshake `open`. One that comes to nothing is closed.
    pub async fn serve_through<O, F, T, S, B>(self, open: O, service: S) -> Infallible
    where
        O: Fn(Accepted<TcpStream>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
            let (slot, open, service) = (Arc::clone(stream.slot()), open.clone(), service.clone());
            let peer = Peer(stream.client());
            tokio::spawn(async move {
                let Some(Some(stream)) = slot.hold(open(stream)).await else { return };
                let service = move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(peer);
                    service.clone().call(request)
                };
                slot.serve(stream, service, std::future::pending()).await;
            });
        }
    }
}

impl<S> Accepted<S> {
    /// The address of the client.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The slot of its connection.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Slot {
    /// Answers the requests on `stream`; after `drain`, only the current one. Errors of a connection are
    /// ignored, for most are clients that disconnect, but not what is no HTTP.
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
            .header_read_timeout(None) // `hold` has a limit for every idle time
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let work = async {
            tokio::select! {
                ended = connection.as_mut() => {
                    if ended.is_err_and(|e| e.is_parse() && !e.is_parse_too_large()) {
                        self.strange();
                    }
                    return;
                }
                () = drain => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        };
        self.hold(work).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
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

    /// Answers `yes`; `/held` once there is a permit, `/large` with 32 MiB.
    fn port(slots: usize) -> (SocketAddr, Arc<Semaphore>, Arc<AtomicUsize>) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), "a port", slots).unwrap();
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
                let (slot, answer) = (Arc::clone(stream.slot()), answer.clone());
                tokio::spawn(async move {
                    slot.serve(stream, answer, std::future::pending()).await;
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
    async fn an_active_client_is_answered_and_the_longest_idle_one_is_closed() {
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
    async fn a_client_that_reads_no_answer_is_closed_and_a_busy_one_stays() {
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
        assert!(end(&mut large).await < 32 << 20, "it has no slot any more");
        // No connection is idle now.
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
        assert!(began.elapsed() >= slots::FIRST_HEAD);
        let mut kept = ask(address).await;
        let answered = tokio::time::Instant::now();
        assert_eq!(end(&mut kept).await, 0);
        assert!(answered.elapsed() > slots::FIRST_HEAD);
    }
}
