//! A TCP stream that closes gently, and gathers what it sends and, where much comes, what it reads
//! ([`Coalescing`]).
//!
//! Closing a socket that has unread data in it makes the kernel reset the connection, and the broker
//! then loses PUBACKs it had not read yet: under load it sends hundreds of acknowledged messages
//! again. So a stream that is dropped is half-closed and read to its end, in the background, as long as
//! the broker goes on.
//!
//! The client takes up acknowledgements one by one and flushes each, which costs a system call, a packet and a
//! wake-up of the broker a message. What it writes is gathered here instead, until it reads: it does so whenever it
//! has nothing more to write, before it waits for anything.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};

use super::coalescing::Coalescing;

/// A broker that neither closes its side nor sends anything within this long is left alone.
const LINGER: Duration = Duration::from_secs(5);

/// No broker is listened to longer: it has more to send than it will ever read.
const LINGER_MOST: Duration = Duration::from_mins(2);

/// With so many bytes to send no more are gathered.
const GATHERED: usize = 16 << 10;

/// All addresses of a host together have this long to take a connection, after its name has been looked up.
const REACH: Duration = Duration::from_secs(15);

/// A name may take this long to be looked up.
const LOOK_UP: Duration = Duration::from_secs(5);

/// The stream. `closed` is held until the connection is closed for good: a receiver whose senders are
/// all gone knows that nothing lingers.
#[derive(Debug)]
pub(in super::super) struct Lingering {
    tcp: Option<TcpStream>,
    /// To be sent with the next read.
    unsent: BytesMut,
    coalescing: Coalescing,
    /// Nothing is read before it is over.
    wait: Pin<Box<Sleep>>,
    waiting: bool,
    runtime: Handle,
    closed: mpsc::Sender<()>,
}

impl Lingering {
    /// Connects to `address`, a `host:port`.
    pub(in super::super) async fn connect(
        address: String,
        closed: mpsc::Sender<()>,
    ) -> io::Result<Self> {
        let addresses = timeout(LOOK_UP, lookup_host(address)).await??.collect();
        let tcp = reach(addresses, REACH).await?;
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp: Some(tcp),
            unsent: BytesMut::new(),
            coalescing: Coalescing::new(Instant::now()),
            wait: Box::pin(sleep(Duration::ZERO)),
            waiting: false,
            runtime: Handle::current(),
            closed,
        })
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp: Some(tcp), unsent, .. } = self else { return Poll::Ready(Ok(())) };
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => unsent.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection to the first of `addresses` that takes one. Each has an equal share of what is left of the time: one that
/// swallows what is sent to it does not keep the next from being tried.
async fn reach(addresses: Vec<SocketAddr>, most: Duration) -> io::Result<TcpStream> {
    let end = Instant::now() + most;
    let mut why = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = end.saturating_duration_since(Instant::now()) / untried;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => why = error,
            Err(late) => why = late.into(),
        }
    }
    Err(why)
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut tcp) = self.tcp.take() else { return };
        let (unsent, closed) = (self.unsent.split(), self.closed.clone());
        self.runtime.spawn(async move {
            let half_close = async {
                tcp.write_all(&unsent).await?;
                tcp.shutdown().await?;
                let mut unread = vec![0; 64 << 10];
                while timeout(LINGER, tcp.read(&mut unread)).await?? > 0 {}
                io::Result::Ok(())
            };
            // However it ends, there is nothing left to do about it.
            let _ = timeout(LINGER_MOST, half_close).await;
            drop(tcp);
            drop(closed);
        });
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(sent) = self.poll_send(cx) {
            sent?;
        }
        if self.waiting {
            ready!(self.wait.as_mut().poll(cx));
            self.waiting = false;
        }
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(self.tcp()?.poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        // More may be there for another, and nothing comes behind the end.
        if read > 0 && read < room {
            let now = Instant::now();
            if let Some(wait) = self.coalescing.after(read, now) {
                self.wait.as_mut().reset((now + wait).into());
                self.waiting = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.unsent.len() >= GATHERED {
            ready!(self.poll_send(cx))?;
        }
        self.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does nothing: what is to be sent goes out with the next read.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.tcp()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// One whose queue is full, so that the kernel swallows what comes.
    async fn swallowing() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let (address, mut waiting) = (listener.local_addr().unwrap(), Vec::new());
        let soon = Duration::from_millis(300);
        while let Ok(Ok(stream)) = timeout(soon, TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        (listener, waiting)
    }

    #[tokio::test]
    async fn an_address_that_swallows_all_has_no_more_than_its_share() {
        let (swallows, _waiting) = swallowing().await;
        let silent = swallows.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // Nobody listens there any more.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let began = Instant::now();
        let most = Duration::from_secs(2);
        let made = reach(vec![silent, closed, open], most).await.unwrap();
        assert_eq!(made.peer_addr().unwrap(), open);
        assert!(began.elapsed() < most, "{:?}", began.elapsed());
        let why = reach(vec![closed, silent], Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
        let why = reach(vec![silent, closed], Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(reach(Vec::new(), most).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_is_written_goes_out_together_with_the_next_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (closed, mut all_closed) = mpsc::channel(1);
        let mut stream = Lingering::connect(address, closed).await.unwrap();
        let (mut broker, _) = listener.accept().await.unwrap();
        for acknowledgement in [b"one", b"two"] {
            stream.write_all(acknowledgement).await.unwrap();
            stream.flush().await.unwrap();
        }
        broker.write_all(b"message").await.unwrap();
        let mut read = [0; 7];
        stream.read_exact(&mut read).await.unwrap();
        let mut came = [0; 100];
        let length = broker.read(&mut came).await.unwrap();
        assert_eq!(&came[..length], b"onetwo", "in one piece");
        // More than is gathered goes out by itself, and the rest before the end.
        let much = vec![b'x'; 3 * GATHERED];
        stream.write_all(&much).await.unwrap();
        stream.write_all(b"last").await.unwrap();
        drop(stream);
        let mut rest = Vec::new();
        broker.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [much.as_slice(), b"last"].concat());
        drop(broker);
        assert_eq!(all_closed.recv().await, None);
    }
}
