//! A TCP proxy that understands MQTT: it notes what a broker sends to a client to be acknowledged and what the
//! client acknowledges, packet by packet and connection by connection, and cuts connections where it is told.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A running one; its connections are cut when it is dropped.
pub(crate) struct Tap {
    pub(crate) port: u16,
    noted: Arc<Mutex<Noted>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Noted {
    connections: Vec<Connection>,
    /// How many bytes of which side the next connections carry.
    cuts: Vec<(Side, usize)>,
    /// Connections that were cut.
    cut: usize,
}

/// What went over one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    /// QoS and packet id of each whole PUBLISH that is to be acknowledged.
    pub(crate) sent: Vec<(u8, u16)>,
    /// The same of each PUBACK (1) and PUBREC (2).
    pub(crate) acknowledged: Vec<(u8, u16)>,
    /// PUBRELs and PUBCOMPs.
    pub(crate) released: Vec<u16>,
    pub(crate) completed: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Broker,
}

impl Tap {
    /// One before the broker at `port`.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let noted = Arc::<Mutex<Noted>>::default();
        let shared = Arc::clone(&noted);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                connections.spawn(carry(client, broker, Arc::clone(&shared)));
            }
        });
        Self { port: own, noted, task: task.abort_handle() }
    }

    /// Cuts the next connections, one each, after so many bytes of that side.
    pub(crate) fn cut(&self, cuts: Vec<(Side, usize)>) {
        self.noted.lock().unwrap().cuts = cuts;
    }

    /// How many were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.noted.lock().unwrap().cut
    }

    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.noted.lock().unwrap().connections.clone()
    }

    /// What is acknowledged on a connection is the beginning of what came on it, in its order. Gives how many
    /// came and how many were acknowledged.
    pub(crate) fn assert_in_order(&self) -> (usize, usize) {
        let (mut sent, mut acknowledged) = (0, 0);
        for (number, connection) in self.connections().into_iter().enumerate() {
            let all = connection.acknowledged.len();
            assert!(
                connection.sent.starts_with(&connection.acknowledged),
                "connection {number}: {:?} is not how {:?} begins",
                connection.acknowledged,
                &connection.sent[..all.min(connection.sent.len())]
            );
            (sent, acknowledged) = (sent + connection.sent.len(), acknowledged + all);
        }
        (sent, acknowledged)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, broker: TcpStream, noted: Arc<Mutex<Noted>>) {
    let (number, cut) = {
        let mut noted = noted.lock().unwrap();
        noted.connections.push(Connection::default());
        (noted.connections.len() - 1, noted.cuts.pop())
    };
    let after = |side| cut.filter(|(of, _)| *of == side).map_or(usize::MAX, |(_, bytes)| bytes);
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let up = pump(Side::Client, from_client, to_broker, after(Side::Client), number, &noted);
    let down = pump(Side::Broker, from_broker, to_client, after(Side::Broker), number, &noted);
    // A side that ends in a good way lets the other finish; a cut ends both at once.
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let was_cut = tokio::select! {
        cut = &mut up => cut || down.await,
        cut = &mut down => cut || up.await,
    };
    if was_cut {
        noted.lock().unwrap().cut += 1;
    }
}

/// True when it was cut.
async fn pump(
    side: Side,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut left: usize,
    number: usize,
    noted: &Mutex<Noted>,
) -> bool {
    let mut buffer = vec![0; 16 << 10];
    let mut packets = Packets::default();
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            let _ = to.shutdown().await;
            return false;
        };
        let chunk = &buffer[..count.min(left)];
        left -= chunk.len();
        packets.add(chunk);
        // Before it is passed on, or the answer could be noted first.
        while let Some((first, body)) = packets.next() {
            note(side, first, &body, &mut noted.lock().unwrap().connections[number]);
        }
        if to.write_all(chunk).await.is_err() || left == 0 {
            return left == 0;
        }
    }
}

fn note(side: Side, first: u8, body: &[u8], connection: &mut Connection) {
    let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let qos = (first >> 1) & 3;
    match (side, first >> 4) {
        (Side::Broker, 3) if qos > 0 => connection.sent.push((qos, id(2 + usize::from(id(0))))),
        (Side::Broker, 6) => connection.released.push(id(0)),
        (Side::Client, 4) => connection.acknowledged.push((1, id(0))),
        (Side::Client, 5) => connection.acknowledged.push((2, id(0))),
        (Side::Client, 7) => connection.completed.push(id(0)),
        _ => {}
    }
}

/// Bytes become packets.
#[derive(Default)]
struct Packets(Vec<u8>);

impl Packets {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The first byte and the body of the next whole one.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut length, mut at) = (0_usize, 1);
        loop {
            let byte = *self.0.get(at)?;
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if self.0.len() < at + length {
            return None;
        }
        let packet: Vec<u8> = self.0.drain(..at + length).collect();
        Some((packet[0], packet[at..].to_vec()))
    }
}
