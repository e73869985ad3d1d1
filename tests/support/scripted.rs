//! An MQTT broker that does as a test says, byte by byte: what no real one does on demand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// With the level of the protocol: 4 is 3.1.1.
    Connect {
        level: u8,
        user: bool,
        password: bool,
        receive_maximum: Option<u16>,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<String>,
        identifier: Option<u32>,
    },
    PubAck(u16),
    PubRec(u16),
    PubComp(u16),
    Disconnect,
}

/// What the broker does then.
#[derive(Debug)]
pub(crate) enum Play {
    Say(Vec<u8>),
    Close,
}

/// A running one.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    silent: Arc<Silent>,
    /// Bytes for the newest connection.
    says: Arc<Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>>,
}

/// What it does not answer from some time on.
#[derive(Default)]
struct Silent {
    anything: AtomicBool,
    unsubscribe: AtomicBool,
    /// The end of the other side.
    end: AtomicBool,
    /// How many PINGREQs and UNSUBSCRIBEs came.
    asked: AtomicUsize,
}

type Judge = Arc<Mutex<dyn FnMut(&Heard) -> Play + Send>>;

impl Scripted {
    /// One that asks `judge` what to do; PINGREQ and UNSUBSCRIBE it answers by itself.
    pub(crate) async fn start(judge: impl FnMut(&Heard) -> Play + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let says = Arc::<Mutex<Option<mpsc::UnboundedSender<_>>>>::default();
        let judge: Judge = Arc::new(Mutex::new(judge));
        let silent = Arc::<Silent>::default();
        let (noted, newest, mute) = (Arc::clone(&heard), Arc::clone(&says), Arc::clone(&silent));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, said) = mpsc::unbounded_channel();
                *newest.lock().unwrap() = Some(sender);
                let (judge, noted, mute) =
                    (Arc::clone(&judge), Arc::clone(&noted), Arc::clone(&mute));
                tokio::spawn(serve(stream, judge, noted, mute, said));
            }
        });
        Self { port, heard, silent, says }
    }

    /// Answers nothing from now on.
    pub(crate) fn fall_silent(&self) {
        self.silent.anything.store(true, Ordering::Relaxed);
    }

    /// Answers no UNSUBSCRIBE from now on.
    pub(crate) fn ignore_unsubscribe(&self) {
        self.silent.unsubscribe.store(true, Ordering::Relaxed);
    }

    /// Leaves connections that a client has closed half open from now on.
    pub(crate) fn keep_open(&self) {
        self.silent.end.store(true, Ordering::Relaxed);
    }

    /// How many PINGREQs and UNSUBSCRIBEs came, which tell a client that it is still there.
    pub(crate) fn asked(&self) -> usize {
        self.silent.asked.load(Ordering::Relaxed)
    }

    /// All that was heard, in order.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The filters and the identifier of every SUBSCRIBE.
    pub(crate) fn subscribes(&self) -> Vec<(Vec<String>, Option<u32>)> {
        let subscribe = |heard: Heard| match heard {
            Heard::Subscribe { filters, identifier, .. } => Some((filters, identifier)),
            _ => None,
        };
        self.heard().into_iter().filter_map(subscribe).collect()
    }

    /// Says something unasked, over the newest connection.
    pub(crate) fn say(&self, bytes: Vec<u8>) {
        self.says.lock().unwrap().as_ref().unwrap().send(bytes).unwrap();
    }
}

async fn serve(
    stream: TcpStream,
    judge: Judge,
    noted: Arc<Mutex<Vec<Heard>>>,
    mute: Arc<Silent>,
    mut said: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let (mut from, mut to) = stream.into_split();
    let (packets, mut read) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(packet) = packet(&mut from).await {
            let _ = packets.send(packet);
        }
    });
    let mut level = 5;
    loop {
        let bytes = tokio::select! {
            said = said.recv() => match said {
                Some(bytes) => bytes,
                // A newer connection is the one to speak over.
                None => std::future::pending().await,
            },
            packet = read.recv() => {
                let Some((first, body)) = packet else {
                    if mute.end.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    return;
                };
                if matches!(first >> 4, 10 | 12) {
                    mute.asked.fetch_add(1, Ordering::Relaxed);
                }
                match first >> 4 {
                    12 => vec![0xd0, 0],
                    10 if mute.unsubscribe.load(Ordering::Relaxed) => continue,
                    10 => unsuback(level, &body[..2]),
                    _ => {
                        let heard = understand(first, &body, &mut level);
                        noted.lock().unwrap().push(heard.clone());
                        let play = (judge.lock().unwrap())(&heard);
                        match play {
                            Play::Say(bytes) => bytes,
                            Play::Close => return,
                        }
                    }
                }
            }
        };
        if !mute.anything.load(Ordering::Relaxed) && to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The first byte and the body of the next packet.
async fn packet(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = from.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = from.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

fn understand(first: u8, body: &[u8], level: &mut u8) -> Heard {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match first >> 4 {
        1 => {
            *level = body[6];
            Heard::Connect {
                level: *level,
                user: body[7] & 0x80 != 0,
                password: body[7] & 0x40 != 0,
                receive_maximum: (*level == 5).then(|| receive_maximum(&body[10..])).flatten(),
            }
        }
        4 => Heard::PubAck(number(0)),
        5 => Heard::PubRec(number(0)),
        7 => Heard::PubComp(number(0)),
        8 => {
            let (mut at, mut identifier) = (2, None);
            if *level == 5 {
                let end = 3 + usize::from(body[2]);
                if end > 3 {
                    assert_eq!(body[3], 0x0b, "a property that is no identifier");
                    let bytes = body[4..end].iter().rev();
                    let value = bytes.fold(0, |value, byte| (value << 7) | u32::from(byte & 0x7f));
                    identifier = Some(value);
                }
                at = end;
            }
            let mut filters = Vec::new();
            while at < body.len() {
                let length = usize::from(number(at));
                filters.push(String::from_utf8(body[at + 2..at + 2 + length].to_vec()).unwrap());
                at += 3 + length;
            }
            Heard::Subscribe { packet_id: number(0), filters, identifier }
        }
        14 => Heard::Disconnect,
        other => panic!("the client sent a packet of type {other}"),
    }
}

/// Of the properties of CONNECT, which are few enough for a length of one byte.
fn receive_maximum(properties: &[u8]) -> Option<u16> {
    let (mut at, end) = (1, 1 + usize::from(properties[0]));
    while at < end {
        let length = match properties[at] {
            0x21 => return Some(u16::from_be_bytes([properties[at + 1], properties[at + 2]])),
            0x11 | 0x27 => 4,
            0x22 => 2,
            0x17 | 0x19 => 1,
            other => panic!("property {other:#x} of CONNECT"),
        };
        at += 1 + length;
    }
    None
}

/// A packet of this first byte.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], varint(body.len() as u32), body.to_vec()].concat()
}

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        bytes.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return bytes;
        }
    }
}

/// CONNACK with no session; `properties` are of MQTT 5.
pub(crate) fn connack(level: u8, code: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, code];
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    framed(0x20, &body)
}

pub(crate) fn suback(level: u8, packet_id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    framed(0x90, &[body, codes.to_vec()].concat())
}

/// There was no such subscription.
fn unsuback(level: u8, packet_id: &[u8]) -> Vec<u8> {
    let rest: &[u8] = if level == 5 { &[0, 0x11] } else { &[] };
    framed(0xb0, &[packet_id, rest].concat())
}

/// PUBLISH of MQTT 5 with subscription identifiers; QoS 1 if it has a packet id.
pub(crate) fn publish(
    topic: &str,
    payload: &str,
    packet_id: Option<u16>,
    identifiers: &[u32],
) -> Vec<u8> {
    let mut properties = Vec::new();
    for identifier in identifiers {
        properties.push(0x0b);
        properties.extend(varint(*identifier));
    }
    let body = [
        (topic.len() as u16).to_be_bytes().to_vec(),
        topic.as_bytes().to_vec(),
        packet_id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        varint(properties.len() as u32),
        properties,
        payload.as_bytes().to_vec(),
    ];
    framed(if packet_id.is_some() { 0x32 } else { 0x30 }, &body.concat())
}
