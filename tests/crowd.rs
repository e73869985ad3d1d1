//! Thousands of connections that say nothing, or very slowly, at every port that there is: who has
//! something to ask is answered, and messages arrive.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::demo::Demo;
use crate::support::emulator::{Emulator, with_descriptors};
use crate::support::ledger::Ledger;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::produce;
use crate::support::socket::Socket;
use crate::support::until;

/// Many connections to one port; gone when dropped.
struct Crowd {
    _connections: JoinSet<()>,
}

impl Crowd {
    /// Half of them say nothing, the others a byte now and then; who is cut off comes again after a
    /// while. Waits until every one has been there.
    async fn gather(address: &str, count: usize, pause: Duration) -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut connections = JoinSet::new();
        let (there, mut came) = tokio::sync::mpsc::channel(count);
        for number in 0..count {
            let (address, there) = (address.to_owned(), there.clone());
            connections.spawn(async move {
                loop {
                    if let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(&address)).await {
                        let _ = there.try_send(());
                        stay(stream, number % 2 == 0).await;
                    }
                    sleep(pause).await;
                }
            });
        }
        for _ in 0..count {
            timeout(PATIENCE, came.recv()).await.expect("they can't come");
        }
        Self { _connections: connections }
    }
}

async fn stay(stream: TcpStream, silent: bool) {
    let (mut from, mut to) = stream.into_split();
    let speak = async {
        let mut text =
            b"GET /metrics HTTP/1.1\r\nhost: a\r\nx: ".iter().chain([b'x'].iter().cycle());
        while let Some(byte) = text.next().filter(|_| !silent) {
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut nothing = [0; 64];
    tokio::select! {
        () = speak => {}
        _ = from.read(&mut nothing) => {}
    }
}

/// The page there, with its head. Who is slower than a crowd that comes again and again asks once more.
async fn page(address: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    until(path, PATIENCE, async || {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with("HTTP/1.1 200").then_some(text)
    })
    .await
}

fn descriptors(bridge: &Bridge) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", bridge.pid())).unwrap().count()
}

async fn relay(directory: &tempfile::TempDir) -> (Emulator, Ledger, Mosquitto, Bridge, Setup) {
    let (emulator, ledger) = Emulator::with_ledger(directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "").with_descriptors(1_024);
    let bridge = setup.start_ready().await;
    (emulator, ledger, mosquitto, bridge, setup)
}

/// T82.
#[tokio::test(flavor = "multi_thread")]
async fn beside_three_thousand_at_the_admin_port_every_message_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let (_emulator, ledger, mosquitto, bridge, _setup) = relay(&directory).await;
    let _crowd = Crowd::gather(bridge.admin(), 3_000, Duration::from_secs(1)).await;
    produce(mosquitto.port, 2_000, 2_000, 20).await;
    ledger.has_ids(2_000, PATIENCE).await;
    for (path, holds) in [("/livez", "alive"), ("/readyz", "ready"), ("/metrics", "# HELP")] {
        assert!(page(bridge.admin(), path).await.contains(holds), "{path}");
    }
    let open = descriptors(&bridge);
    assert!(open < 400, "{open} descriptors are open");
    assert_eq!(bridge.lines(&["every connection slot is taken", "the admin port"]).len(), 1);
    assert!(!bridge.log().contains("Too many open files"), "{}", bridge.log());
    assert_eq!(ledger.read().len(), 2_000, "nothing comes twice");
}

/// What a crowd costs: seven pairs, printed. Nothing is asserted, which would depend on the machine.
#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_of_an_event_beside_a_crowd_is_measured() {
    const EVENTS: u64 = 10_000;
    if std::env::var_os("LONG_TESTS").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_emulator, ledger, mosquitto, bridge, _setup) = relay(&directory).await;
    let mut expected = 0;
    let mut measure = async || {
        let before = bridge.cpu();
        produce(mosquitto.port, EVENTS, 1_000, 50).await;
        expected += EVENTS as usize;
        until("all are published", PATIENCE * 5, async || (ledger.len() >= expected).then_some(()))
            .await;
        bridge.nothing_in_flight().await;
        (bridge.cpu() - before) * 1e6 / EVENTS as f64
    };
    measure().await;
    for pair in 1..=7 {
        let alone = measure().await;
        let crowd = Crowd::gather(bridge.admin(), 3_000, Duration::from_hours(1)).await;
        // Who is before the door is let in first: from here on they stay.
        page(bridge.admin(), "/livez").await;
        let beside = measure().await;
        drop(crowd);
        println!(
            "pair {pair}: {alone:.1} us of CPU an event alone, {beside:.1} us beside 3,000 connections, {:+.1} %",
            (beside / alone - 1.0) * 100.0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulator_answers_beside_a_crowd_and_keeps_its_subscribers() {
    let emulator = Emulator::start_by(with_descriptors(128), "127.0.0.1:0", &[]);
    let mut socket = Socket::connect(&emulator).await;
    assert_eq!(socket.subscribe("s", "/demo/a").await["type"], "subscribe_success");
    let _crowd = Crowd::gather(emulator.host(), 300, Duration::from_millis(100)).await;
    for _ in 0..20 {
        let published = async || emulator.try_publish("/demo/a", &["1"]).await;
        assert_eq!(until("it is answered", PATIENCE, published).await.status, 200);
        assert_eq!(socket.hear().await["type"], "data");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_demo_is_there_beside_a_crowd() {
    let demo = Demo::start_by(with_descriptors(512));
    let [page, api, admin, _] = demo.ports().map(|address| address.to_string());
    let pause = Duration::from_millis(100);
    let _crowds = (
        Crowd::gather(&page, 200, pause).await,
        Crowd::gather(&api, 500, pause).await,
        Crowd::gather(&admin, 200, pause).await,
    );
    assert!(self::page(&page, "/").await.contains("<html"));
    assert!(self::page(&admin, "/livez").await.contains("alive"));
}
