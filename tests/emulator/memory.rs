//! What clients make the emulator hold has one bound, and only who is too slow pays for it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::emulator::{Emulator, KEY};
use crate::support::socket::{Socket, publish_frame};

/// The promise, in MiB.
const MOST: u64 = 400;

fn text(size: usize) -> String {
    format!("\"{}\"", "x".repeat(size - 2))
}

async fn subscribers(emulator: &Emulator, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = Socket::connect(emulator).await;
        socket.subscribe("s", "/demo/a").await;
        sockets.push(socket);
    }
    sockets
}

/// The emulator is small, says whom it has cut, and serves everybody else.
async fn holds(emulator: &Emulator, somebody_is_cut: bool) {
    let mut quick = Socket::connect(emulator).await;
    quick.subscribe("s", "/demo/quick").await;
    let event = text(240_000);
    for _ in 0..20 {
        let events = [event.as_str(), "2"];
        assert_eq!(emulator.publish("/demo/quick", &events).await.status, 200);
        for event in events {
            assert_eq!(quick.hear().await["event"], *event);
        }
    }
    let peak = emulator.peak_mib();
    println!("peak {peak} MiB");
    assert!(peak < MOST, "{peak} MiB");
    let stats = emulator.control(http::Method::GET, "stats", "").await.json();
    let mut said = emulator.log();
    said.retain(|line| line["message"].as_str().unwrap().contains("slow"));
    assert!(said.iter().all(|line| line["client"].as_str().unwrap().starts_with("127.0.0.1:")));
    assert_eq!(stats["cut_connections"].as_u64().unwrap(), said.len() as u64);
    assert_eq!(stats["cut_connections"] != 0, somebody_is_cut, "{stats}");
}

#[tokio::test]
async fn many_subscribers_that_do_not_read_hold_an_event_once() {
    let emulator = Emulator::start(&[]);
    let _silent = subscribers(&emulator, 500).await;
    let event = text(200_000);
    for _ in 0..5 {
        assert_eq!(emulator.publish("/demo/a", &[event.as_str(); 5]).await.status, 200);
    }
    holds(&emulator, true).await;
}

#[tokio::test]
async fn subscribers_that_fall_far_behind_are_cut() {
    let emulator = Emulator::start(&[]);
    let _silent = subscribers(&emulator, 100).await;
    let event = text(230_000);
    for _ in 0..40 {
        assert_eq!(emulator.publish("/demo/a", &[event.as_str(); 5]).await.status, 200);
    }
    holds(&emulator, true).await;
}

#[tokio::test]
async fn bodies_that_never_end_are_cut() {
    let emulator = Emulator::start(&[]);
    let mut open = Vec::new();
    let head = format!(
        "POST /event HTTP/1.1\r\nhost: {}\r\nx-api-key: {KEY}\r\ncontent-length: 1190000\r\n\r\n",
        emulator.host()
    );
    let body = vec![b' '; 1_100_000];
    for _ in 0..500 {
        let mut stream = TcpStream::connect(emulator.host()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // One that is cut meanwhile can't be written to.
        let _ = stream.write_all(&body).await;
        open.push(stream);
    }
    holds(&emulator, true).await;
}

/// More than what all connections may hold at a time.
#[tokio::test]
async fn one_connection_carries_any_number_of_requests() {
    let emulator = Emulator::start(&["--log-level", "error"]);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let padding = "x".repeat(28_000);
    let event = emulator.endpoint.as_str();
    let [stats, nothing] = ["/_emulator/stats", "/none"].map(|path| event.replace("/event", path));
    for _ in 0..650 {
        for (method, url) in
            [("GET", stats.as_str()), ("GET", &nothing), ("GET", event), ("OPTIONS", event)]
        {
            let request = Request::builder().method(method).uri(url).header("x-padding", &padding);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            client.request(request).await.unwrap().into_body().collect().await.unwrap();
        }
    }
    let stats = emulator.control(http::Method::GET, "stats", "").await.json();
    assert_eq!(stats["cut_connections"], 0, "{stats}");
}

#[tokio::test]
async fn frames_that_never_end_are_cut() {
    let emulator = Emulator::start(&[]);
    let mut open = Vec::new();
    let frame = publish_frame("p", "/demo/a", &[text(230_000).as_str(); 5]).to_string();
    for _ in 0..300 {
        let mut socket = Socket::connect(&emulator).await;
        socket.begin(frame.as_bytes()).await;
        open.push(socket);
    }
    holds(&emulator, true).await;
}

#[tokio::test]
async fn a_burst_to_many_who_read_cuts_nobody() {
    let emulator = Emulator::start(&[]);
    let readers = subscribers(&emulator, 50).await;
    let tasks: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            tokio::spawn(async move {
                for n in 0..40 {
                    assert_eq!(
                        reader.hear().await["event"].as_str().unwrap().len(),
                        200_000,
                        "{n}"
                    );
                }
            })
        })
        .collect();
    let event = text(200_000);
    for _ in 0..8 {
        assert_eq!(emulator.publish("/demo/a", &[event.as_str(); 5]).await.status, 200);
    }
    for task in tasks {
        task.await.unwrap();
    }
    holds(&emulator, false).await;
    let ok = emulator.publish("/demo/a", &["1"]).await.json();
    assert_eq!(ok["failed"], json!([]));
}
