//! A TCP stream that closes gently.
//!
//! Closing a socket that has unread data in it makes the kernel reset the connection, and the broker
//! then loses PUBACKs it had not read yet: under load it sends hundreds of acknowledged messages
//! again. So a stream that is dropped is half-closed and read to its end, in the background, as long as
//! the broker goes on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A broker that neither closes its side nor sends anything within this long is left alone.
const LINGER: Duration = Duration::from_secs(5);

/// No broker is listened to longer: it has more to send than it will ever read.
const LINGER_MOST: Duration = Duration::from_mins(2);

/// Connections may take this long to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The stream. `closed` is held until the connection is closed for good: a receiver whose senders are
/// all gone knows that nothing lingers.
#[derive(Debug)]
pub(super) struct Lingering {
    tcp: Option<TcpStream>,
    runtime: Handle,
    closed: mpsc::Sender<()>,
}

impl Lingering {
    /// Connects to `address`, a `host:port`.
    pub(super) async fn connect(address: String, closed: mpsc::Sender<()>) -> io::Result<Self> {
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp: Some(tcp), runtime: Handle::current(), closed })
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut tcp) = self.tcp.take() else { return };
        let closed = self.closed.clone();
        self.runtime.spawn(async move {
            let half_close = async {
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
        self.tcp()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(cx)
    }
}
