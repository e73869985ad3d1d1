//! A TCP proxy that does to the wire what networks do: own and small, told at run time.
//!
//! It knows nothing of HTTP: a *chunk* is what one read brought, which for a small request or answer
//! on the loopback is the whole of it. Delays are not pipelined: a chunk waits for the one before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// A running proxy; its connections are cut when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What the wire is like; the default does nothing.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// Where new connections go.
    pub(crate) target: SocketAddr,
    /// Before each chunk, in each direction.
    pub(crate) latency: Duration,
    /// Up to so much more.
    pub(crate) jitter: Duration,
    /// Bytes a second, in each direction of a connection.
    pub(crate) bandwidth: Option<u64>,
    /// Largest piece that is written at once.
    pub(crate) slice: Option<usize>,
    /// Nothing is forwarded and nothing closed; what came meanwhile goes on when this ends.
    pub(crate) stalled: bool,
    /// New connections are refused by the system, as if nobody listened.
    pub(crate) refusing: bool,
    pub(crate) reset: Option<Reset>,
}

/// When a connection is reset (RST to both sides) in place of being carried on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reset {
    /// After so many bytes of that side were forwarded, counted from the connection's start.
    AfterByte(Side, u64),
    /// At a chunk of that side, with this probability; the chunk is lost.
    AtChunk(Side, f64),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    /// Connections that could not be made to the target.
    pub(crate) unreachable: u64,
    pub(crate) bytes_from_client: u64,
    pub(crate) bytes_from_server: u64,
    /// Connections that were reset, by a rule or by `drop_all`.
    pub(crate) resets: u64,
    /// Chunks that a stall held up.
    pub(crate) stalls: u64,
}

struct Shared {
    wire: watch::Sender<Wire>,
    drops: watch::Sender<u64>,
    connections: AtomicU64,
    unreachable: AtomicU64,
    bytes: [AtomicU64; 2],
    resets: AtomicU64,
    stalls: AtomicU64,
}

/// How a direction ended.
enum End {
    Closed,
    Reset,
}

impl Wire {
    fn to(target: SocketAddr) -> Self {
        Self {
            target,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            bandwidth: None,
            slice: None,
            stalled: false,
            refusing: false,
            reset: None,
        }
    }
}

impl Proxy {
    /// A proxy on a free port in front of `target`, such as `127.0.0.1:8787`.
    pub(crate) async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            wire: watch::Sender::new(Wire::to(target.parse().unwrap())),
            drops: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            resets: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, address, Arc::clone(&shared))).abort_handle();
        Self { address, shared, task }
    }

    /// Host and port to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the wire, for running connections too, but for their target.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Wire)) {
        self.shared.wire.send_modify(change);
    }

    /// Makes the wire good again.
    pub(crate) fn heal(&self) {
        self.set(|wire| *wire = Wire::to(wire.target));
    }

    /// Sends new connections elsewhere.
    pub(crate) fn retarget(&self, target: &str) {
        self.set(|wire| wire.target = target.parse().unwrap());
    }

    /// Resets every connection there is.
    pub(crate) fn drop_all(&self) {
        self.shared.drops.send_modify(|drops| *drops += 1);
    }

    pub(crate) fn counts(&self) -> Counts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        Counts {
            connections: number(&shared.connections),
            unreachable: number(&shared.unreachable),
            bytes_from_client: number(&shared.bytes[0]),
            bytes_from_server: number(&shared.bytes[1]),
            resets: number(&shared.resets),
            stalls: number(&shared.stalls),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut wire = shared.wire.subscribe();
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let refusing = wire.borrow_and_update().refusing;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            // The port is ours: connections of before may still be on it.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            listener = Some(socket.listen(1024).unwrap());
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok((client, _)) = accepted => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(client, Arc::clone(&shared)));
            }
            _ = wire.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    let mut drops = shared.drops.subscribe();
    let target = shared.wire.borrow().target;
    let Ok(mut server) = TcpStream::connect(target).await else {
        shared.unreachable.fetch_add(1, Ordering::Relaxed);
        return reset(&client);
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(Side::Client, from_client, to_server, &shared);
        let down = pump(Side::Server, from_server, to_client, &shared);
        tokio::select! {
            end = both(up, down) => end,
            _ = drops.changed() => End::Reset,
        }
    };
    if let End::Reset = end {
        shared.resets.fetch_add(1, Ordering::Relaxed);
        reset(&client);
        reset(&server);
    }
}

/// Ends when both have closed or one resets.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) -> End {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let first = tokio::select! {
        end = &mut up => (end, true),
        end = &mut down => (end, false),
    };
    match first {
        (End::Reset, _) => End::Reset,
        (End::Closed, true) => down.await,
        (End::Closed, false) => up.await,
    }
}

/// The close of a stream after this is a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn pump(side: Side, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) -> End {
    let mut changes = shared.wire.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    let mut forwarded = 0_u64;
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return End::Closed;
            }
            // One end was reset: so is the other.
            Err(_) => return End::Reset,
            Ok(count) => count,
        };
        if changes.borrow_and_update().stalled {
            shared.stalls.fetch_add(1, Ordering::Relaxed);
            let _ = changes.wait_for(|wire| !wire.stalled).await;
        }
        let wire = changes.borrow_and_update().clone();
        let mut chunk = &buffer[..count];
        let mut last = false;
        match wire.reset {
            Some(Reset::AtChunk(at, probability))
                if at == side && rand::random_bool(probability) =>
            {
                return End::Reset;
            }
            Some(Reset::AfterByte(at, byte)) if at == side => {
                let left = byte.saturating_sub(forwarded);
                if chunk.len() as u64 >= left {
                    chunk = &chunk[..left as usize];
                    last = true;
                }
            }
            _ => {}
        }
        let delay = wire.latency + wire.jitter.mul_f64(rand::random());
        if !delay.is_zero() {
            sleep(delay).await;
        }
        for piece in chunk.chunks(wire.slice.unwrap_or(count).max(1)) {
            if to.write_all(piece).await.is_err() {
                return End::Reset;
            }
            forwarded += piece.len() as u64;
            shared.bytes[usize::from(side == Side::Server)]
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(bytes) = wire.bandwidth {
                sleep(Duration::from_secs_f64(piece.len() as f64 / bytes as f64)).await;
            } else {
                // Lets the other end read this piece alone, most of the time.
                tokio::task::yield_now().await;
            }
        }
        if last {
            return End::Reset;
        }
    }
}
