//! The line from the bridge to the broker, which can be cut: a forwarder of TCP connections.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port that forwards to another one.
pub(super) struct Line {
    listener: TcpListener,
    to: SocketAddr,
    cut: watch::Sender<bool>,
}

/// Cuts a line, and mends it.
#[derive(Clone)]
pub(super) struct Cutter(watch::Sender<bool>);

impl Cutter {
    /// Ends all connections, and every new one until it is mended.
    pub(super) fn cut(&self, cut: bool) {
        self.0.send_replace(cut);
    }
}

impl Line {
    /// Takes a port at `listen`.
    pub(super) async fn bind(listen: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        Ok(Self { listener, to, cut: watch::Sender::new(false) })
    }

    /// The address to connect to.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What cuts it.
    pub(super) fn cutter(&self) -> Cutter {
        Cutter(self.cut.clone())
    }

    /// Forwards for ever.
    pub(super) async fn run(self) -> Infallible {
        loop {
            // A connection that failed before it was accepted is its client's to try again.
            let Ok((mut near, _)) = self.listener.accept().await else { continue };
            let (mut cut, to) = (self.cut.subscribe(), self.to);
            tokio::spawn(async move {
                if *cut.borrow_and_update() {
                    return;
                }
                let forwarded = async {
                    let mut far = TcpStream::connect(to).await?;
                    near.set_nodelay(true)?;
                    far.set_nodelay(true)?;
                    copy_bidirectional(&mut near, &mut far).await
                };
                tokio::select! {
                    // Each side sees for itself that the other is gone.
                    _ = forwarded => {}
                    _ = cut.wait_for(|cut| *cut) => {}
                }
            });
        }
    }
}
