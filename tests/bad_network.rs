//! The fault proxy itself: a test that leans on it proves nothing if it does not do what it says.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::bad_network::{Proxy, Reset, Side};
use crate::support::until;

const SOON: Duration = Duration::from_secs(30);

/// Answers every byte with itself, and begins with `name`.
async fn echo(name: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(name).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn say(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
}

async fn hear(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut text = vec![0; count];
    timeout(SOON, stream.read_exact(&mut text)).await.expect("nothing came").unwrap();
    text
}

/// Everything until the end, and how it ended.
async fn hear_all(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut text = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut text)).await.expect("it does not end");
    (text, end.err().map(|e| e.kind()))
}

#[tokio::test]
async fn a_good_wire_carries_both_ways_and_half_closes() {
    let proxy = Proxy::start(&echo(b"").await).await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await;
    stream.shutdown().await.unwrap();
    assert_eq!(hear_all(&mut stream).await, (b"hello".to_vec(), None));
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.resets, counts.stalls), (1, 0, 0));
    assert_eq!((counts.bytes_from_client, counts.bytes_from_server), (5, 5));
}

#[tokio::test]
async fn a_reset_comes_after_a_byte_of_either_side_or_at_a_chunk() {
    let proxy = Proxy::start(&echo(b"").await).await;
    for side in [Side::Client, Side::Server] {
        proxy.set(|wire| wire.reset = Some(Reset::AfterByte(side, 3)));
        let mut stream = connect(&proxy).await;
        say(&mut stream, b"hello").await;
        let (text, end) = hear_all(&mut stream).await;
        // What is on its way when a reset comes may be lost with it.
        assert!(
            b"hel".starts_with(&text) && end == Some(ErrorKind::ConnectionReset),
            "{text:?} {end:?}"
        );
    }
    let counts = proxy.counts();
    assert_eq!(counts.resets, 2);
    assert!((3..=6).contains(&counts.bytes_from_server), "{counts:?}");
    assert_eq!(counts.bytes_from_client, 3 + 5);
    proxy.set(|wire| wire.reset = Some(Reset::AtChunk(Side::Server, 1.0)));
    let before = proxy.counts();
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"hello").await;
    assert_eq!(hear_all(&mut stream).await, (Vec::new(), Some(ErrorKind::ConnectionReset)));
    let after = proxy.counts();
    assert_eq!(after.bytes_from_client - before.bytes_from_client, 5, "the request went through");
    assert_eq!((after.bytes_from_server, after.resets), (before.bytes_from_server, 3));
}

#[tokio::test]
async fn a_stall_keeps_both_ends_open_and_what_came_goes_on_after_it() {
    let proxy = Proxy::start(&echo(b"").await).await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"a").await;
    hear(&mut stream, 1).await;
    proxy.set(|wire| wire.stalled = true);
    say(&mut stream, b"b").await;
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), stream.read(&mut byte)).await.is_err());
    assert_eq!(proxy.counts().stalls, 1);
    proxy.heal();
    assert_eq!(hear(&mut stream, 1).await, b"b");
}

#[tokio::test]
async fn connections_are_refused_dropped_and_sent_elsewhere() {
    let (one, two) = (echo(b"1").await, echo(b"2").await);
    let proxy = Proxy::start(&one).await;
    let mut old = connect(&proxy).await;
    assert_eq!(hear(&mut old, 1).await, b"1");
    proxy.set(|wire| wire.refusing = true);
    until("connections are refused", SOON, async || {
        let refused = TcpStream::connect(proxy.address()).await.err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    say(&mut old, b"x").await;
    assert_eq!(hear(&mut old, 1).await, b"x", "the old one lives on");
    proxy.drop_all();
    assert_eq!(hear_all(&mut old).await, (Vec::new(), Some(ErrorKind::ConnectionReset)));
    proxy.retarget(&two);
    proxy.heal();
    let mut new = until("connections are taken", SOON, async || {
        TcpStream::connect(proxy.address()).await.ok()
    })
    .await;
    assert_eq!(hear(&mut new, 1).await, b"2");

    let nobody = crate::support::free_port();
    proxy.retarget(&format!("127.0.0.1:{nobody}"));
    let mut lost = connect(&proxy).await;
    assert_eq!(hear_all(&mut lost).await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(proxy.counts().unreachable, 1);
}

#[tokio::test]
async fn a_slow_wire_takes_its_time_and_slices_arrive_whole() {
    let proxy = Proxy::start(&echo(b"").await).await;
    let mut stream = connect(&proxy).await;
    let mut turn = async |text: &[u8]| {
        let start = Instant::now();
        say(&mut stream, text).await;
        assert_eq!(hear(&mut stream, text.len()).await, text);
        start.elapsed()
    };
    proxy.set(|wire| wire.slice = Some(1));
    turn(&[7; 5_000]).await;
    proxy.heal();
    proxy.set(|wire| {
        wire.latency = Duration::from_millis(50);
        wire.jitter = Duration::from_millis(10);
    });
    let slow = turn(b"hello").await;
    assert!(slow.as_millis() >= 100, "{slow:?}");
    proxy.heal();
    proxy.set(|wire| {
        wire.bandwidth = Some(8_000);
        wire.slice = Some(200);
    });
    let slow = turn(&[7; 2_000]).await;
    assert!(slow.as_millis() >= 200, "{slow:?}");
}
