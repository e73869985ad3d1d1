//! Connections to the endpoint: whom they trust (T38), when they are left (T37), what becomes of what
//! was under way when a server leaves (T36, and idle ones that close), and proxies.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::PATIENCE;
use crate::support::bad_network::Proxy;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{Load, produce};
use crate::support::server::{Authority, Manner, Server, Tunnels, self_signed};
use crate::support::until;

const AMBIGUOUS: &str = "ambiguous_total{api=\"main\"}";

const HTTP1: Manner = Manner::Http1 { life: None };

/// Nothing is refused, and it never leaves.
const HTTP2: Manner = Manner::Http2 { goaway_after: u64::MAX, refuse: 0.0 };

async fn all_accepted(bridge: &Bridge, count: u64) {
    let accepted = "source_settled_total{source=\"plant\",outcome=\"published\"}";
    bridge.metric_is(accepted, |v| v == count as f64).await;
    bridge.nothing_in_flight().await;
}

/// `ca_file` for the authority, written where `directory` is.
fn trusting(authority: &Authority, directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, &authority.pem).unwrap();
    format!("ca_file = \"{}\"\n", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_gets_nothing() {
    let ours = Authority::new();
    let acceptor = ours.acceptor(&["localhost"], "http/1.1", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    refused(&ours, acceptor, "certificate expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_gets_nothing() {
    let ours = Authority::new();
    let acceptor = ours.acceptor(&["other.example"], "http/1.1", |_| {});
    refused(&ours, acceptor, "certificate not valid for name \\\"localhost\\\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_signed_itself_gets_nothing() {
    refused(&Authority::new(), self_signed(&["localhost"]), "UnknownIssuer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_gets_nothing() {
    let acceptor = Authority::new().acceptor(&["localhost"], "http/1.1", |_| {});
    refused(&Authority::new(), acceptor, "UnknownIssuer").await;
}

/// T38: nothing is sent, everything is kept, and the reason is where one looks.
async fn refused(trusted: &Authority, acceptor: TlsAcceptor, why: &str) {
    for http2 in [false, true] {
        refused_over(http2, trusted, acceptor.clone(), why).await;
    }
}

async fn refused_over(http2: bool, trusted: &Authority, acceptor: TlsAcceptor, why: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Some(acceptor), HTTP1).await;
    let mosquitto = Mosquitto::start("").await;
    let api = format!("{}http2 = {http2}", trusting(trusted, &directory));
    let setup = Setup::new(&server.endpoint("https"), mosquitto.port, &api, "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 10, 1_000, 5).await;
    bridge.metric_is("api_paused{api=\"main\"}", |v| v == 1.0).await;
    let (status, text) = bridge.get("/readyz").await;
    let words = why.replace('\\', "");
    assert!(status == 503 && text.contains(&words), "{text}");
    let log = bridge.log();
    assert!(log.contains(why) && log.contains("`ca_file`"), "{log}");
    until("a second attempt", PATIENCE, async || (server.seen.connections() > 1).then_some(()))
        .await;
    assert_eq!((server.seen.handshakes(), server.seen.accepted.len()), (0, 0));
    assert_eq!(bridge.metric("source_in_flight{source=\"plant\"}").await, 10.0);
    assert_eq!(bridge.metric(AMBIGUOUS).await, 0.0);
    assert!(setup.rejects().is_empty());
}

/// T38: an endpoint whose certificate becomes one of another authority is left, and found again when
/// it has a certificate of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_its_authority_pauses_and_loses_nothing() {
    changed_authority("http/1.1", HTTP1, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_its_authority_pauses_http2_as_well() {
    changed_authority("h2", HTTP2, "http2 = true").await;
}

async fn changed_authority(protocol: &str, manner: Manner, api: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(), Authority::new());
    let acceptor = |authority: &Authority| authority.acceptor(&["localhost"], protocol, |_| {});
    let server = Server::start(Some(acceptor(&ours)), manner).await;
    let mosquitto = Mosquitto::start("").await;
    let api = format!("connection_max_age = \"1s\"\n{}{api}", trusting(&ours, &directory));
    let setup = Setup::new(&server.endpoint("https"), mosquitto.port, &api, "", "");
    let bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, 300, 10);
    until("200 events", PATIENCE, async || (server.seen.accepted.len() > 200).then_some(())).await;

    // The connections there are go on, and are too old soon.
    server.show(acceptor(&other));
    let paused = "api_paused{api=\"main\"}";
    bridge.metric_is(paused, |v| v == 1.0).await;
    let (status, text) = bridge.get("/readyz").await;
    assert!(status == 503 && text.contains("UnknownIssuer"), "{text}");
    let log = bridge.log();
    assert!(log.contains("the API refuses requests") && log.contains("`ca_file`"), "{log}");
    let refused = "publish_requests_total{api=\"main\",result=\"trust\"}";
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v > 0.0).await;
    // What was out when the pause began ends at its own time; only a probe comes after that, one a second.
    let before = until("half a second without a request", PATIENCE, async || {
        let seen = bridge.metric(refused).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (bridge.metric(refused).await == seen).then_some(seen)
    })
    .await;
    let (begun, handshakes) = (Instant::now(), server.seen.handshakes());
    let accepted = server.seen.accepted.len();
    bridge.metric_is(refused, |v| v >= before + 3.0).await;
    let after = bridge.metric(refused).await;
    let took = begun.elapsed();
    assert!(after - before <= took.as_secs_f64() + 1.0, "{} probes in {took:?}", after - before);
    assert_eq!((server.seen.handshakes(), server.seen.accepted.len()), (handshakes, accepted));

    // A new certificate of our authority, and nobody restarts the bridge.
    server.show(acceptor(&ours));
    bridge.metric_is(paused, |v| v == 0.0).await;
    bridge.ready().await;
    let count = load.stop().await;
    all_accepted(&bridge, count).await;
    server.seen.accepted.assert_each_once(count);
    assert_eq!(bridge.metric(AMBIGUOUS).await, 0.0);
    assert!(bridge.log().contains("the API accepts requests again"));
    assert!(setup.rejects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_old_tls_gets_nothing() {
    // What a server that knows TLS 1.1 at most says to any client hello.
    let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("https://localhost:{port}/event");
    let setup = Setup::new(&endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 1, 1_000, 1).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = vec![0; 16 * 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    stream.write_all(&hello).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() == 7 && rest[0] == 21, "more than an alert was sent: {rest:?}");
    until("the reason in the log", PATIENCE, async || {
        bridge.log().contains("ServerDoesNotSupportTls12Or13").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_grow_old_are_renewed_without_a_loss() {
    const COUNT: u64 = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let proxy = Proxy::start(emulator.host()).await;
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("http://{}/event", proxy.address());
    let api = "connection_max_age = \"1s\"\nmax_concurrency = 4";
    let begun = Instant::now();
    let bridge = Setup::new(&endpoint, mosquitto.port, api, "", "").start_ready().await;
    produce(mosquitto.port, COUNT, 1_000, 10).await;
    ledger.has_ids(COUNT as usize, PATIENCE).await;
    all_accepted(&bridge, COUNT).await;
    let (connections, took) = (proxy.counts().connections, begun.elapsed());
    println!("{connections} connections in {took:?}, at most 4 at a time");
    // Each lives for 0.8 s at least.
    let most = 4.0 * (took.as_secs_f64() / 0.8 + 1.0);
    assert!(
        connections >= 5 && connections as f64 <= most,
        "{connections} connections in {took:?}"
    );
    let accepted = ledger.read();
    assert_eq!(accepted.len() as u64, COUNT, "some came twice");
    assert_order(&accepted, 0);
    assert_eq!(bridge.metric(AMBIGUOUS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_moved_is_followed_while_the_old_one_says_503() {
    const COUNT: u64 = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let [old_ledger, ledger] =
        ["old", "new"].map(|name| Ledger { path: directory.path().join(name) });
    let old = Emulator::start(&["--ledger", old_ledger.path.to_str().unwrap()]);
    let new = Emulator::start(&["--ledger", ledger.path.to_str().unwrap()]);
    // The proxy stands for the name: only new connections reach the new address.
    let name = Proxy::start(old.host()).await;
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("http://{}/event", name.address());
    let api = "connection_max_age = \"3s\"";
    let bridge = Setup::new(&endpoint, mosquitto.port, api, "", "").start_ready().await;
    produce(mosquitto.port, COUNT / 2, 2_000, 10).await;
    all_accepted(&bridge, COUNT / 2).await;
    name.retarget(new.host());
    old.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    let moved = Instant::now();
    produce(mosquitto.port, COUNT / 2, 2_000, 10).await;
    ledger.has_ids((COUNT / 2) as usize, PATIENCE).await;
    println!("on the new address after {:?}", moved.elapsed());
    all_accepted(&bridge, COUNT).await;
    assert_eq!((old_ledger.read().len(), ledger.read().len()), (1_000, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_left_over_http1() {
    let server = Server::start(None, HTTP1).await;
    silent(&server, "http", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_left_over_http2() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let server = Server::start(Some(ours.acceptor(&["localhost"], "h2", |_| {})), HTTP2).await;
    silent(&server, "https", &format!("{}http2 = true", trusting(&ours, &directory))).await;
}

/// Most requests wait for their turn then.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_few_streams_are_left() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let acceptor = ours.acceptor(&["localhost"], "h2", |_| {});
    let server = Server::start(Some(acceptor), Manner::Http2Streams(2)).await;
    silent(&server, "https", &format!("{}http2 = true", trusting(&ours, &directory))).await;
}

/// T37: what was sent over connections that never answer is sent again over new ones.
async fn silent(server: &Server, scheme: &str, api: &str) {
    let mosquitto = Mosquitto::start("").await;
    let api = format!("timeout = \"1s\"\n{api}");
    let setup = Setup::new(&server.endpoint(scheme), mosquitto.port, &api, "", "");
    let bridge = setup.start_ready().await;
    let load = Load::start(mosquitto.port, 500, 10);
    until("500 events", PATIENCE, async || (server.seen.accepted.len() > 500).then_some(())).await;
    server.seen.silence();
    let silent = Instant::now();
    let before = server.seen.accepted.len();
    until("a new connection", PATIENCE, async || {
        (server.seen.accepted.len() > before + 50).then_some(())
    })
    .await;
    println!("on a new connection after {:?}", silent.elapsed());
    let count = load.stop().await;
    all_accepted(&bridge, count).await;
    assert!(bridge.metric(AMBIGUOUS).await > 0.0);
    server.seen.accepted.assert_each_once(count);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_close_as_a_request_comes_lose_nothing() {
    const COUNT: u64 = 5_000;
    let life = Some(Duration::from_millis(60));
    let server = Server::start(None, Manner::Http1 { life }).await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&server.endpoint("http"), mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, COUNT, 1_000, 10).await;
    all_accepted(&bridge, COUNT).await;
    let connections = server.seen.connections();
    let ambiguous = bridge.metric(AMBIGUOUS).await;
    let twice = server.seen.accepted.len() as u64 - COUNT;
    println!("{connections} connections, {ambiguous} ambiguous, {twice} events twice");
    assert!(connections > 50, "only {connections} connections");
    assert!(twice as f64 <= ambiguous * 5.0, "{twice} twice, {ambiguous} ambiguous");
    assert_eq!(server.seen.accepted.distinct(), (0..COUNT).collect());
}

/// T36: what a server of HTTP/2 did not process is not taken for ambiguous.
#[tokio::test(flavor = "multi_thread")]
async fn servers_of_http2_that_leave_or_refuse_lose_and_double_nothing() {
    const COUNT: u64 = 1_000;
    for (goaway_after, refuse) in [(0, 0.0), (20, 0.0), (20, 0.1)] {
        let directory = tempfile::tempdir().unwrap();
        let ours = Authority::new();
        let acceptor = ours.acceptor(&["localhost"], "h2", |_| {});
        let manner = Manner::Http2 { goaway_after, refuse };
        let server = Server::start(Some(acceptor), manner).await;
        let mosquitto = Mosquitto::start("").await;
        let api = format!("{}http2 = true", trusting(&ours, &directory));
        let setup = Setup::new(&server.endpoint("https"), mosquitto.port, &api, "", "");
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, COUNT, 500, 100).await;
        all_accepted(&bridge, COUNT).await;
        let ambiguous = bridge.metric(AMBIGUOUS).await;
        let seen = &server.seen;
        let unsent = bridge.metric("publish_requests_total{api=\"main\",result=\"connect\"}").await;
        println!(
            "{} connections, {} GOAWAY, {} refused, {unsent} not processed, {ambiguous} ambiguous",
            seen.connections(),
            seen.goaways(),
            seen.refused()
        );
        assert!(seen.goaways() >= 5 && (refuse == 0.0) == (seen.refused() == 0));
        // A server that leaves at once leaves 49 times.
        let most = if goaway_after == 0 { 55 } else { seen.goaways() + 2 };
        assert!(seen.connections() <= most, "requests don't share connections");
        assert_eq!(ambiguous, 0.0);
        // It went again at once, which counts only what was refused twice in a row.
        if goaway_after > 0 {
            assert!(unsent <= seen.refused() as f64 / 2.0, "{unsent} of {}", seen.refused());
        }
        seen.accepted.assert_each_once(COUNT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_http2_is_not_offered_the_other_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let server =
        Server::start(Some(ours.acceptor(&["localhost"], "http/1.1", |_| {})), HTTP1).await;
    let mosquitto = Mosquitto::start("").await;
    let api = format!("{}http2 = true", trusting(&ours, &directory));
    let setup = Setup::new(&server.endpoint("https"), mosquitto.port, &api, "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 100, 1_000, 10).await;
    all_accepted(&bridge, 100).await;
    server.seen.accepted.assert_each_once(100);
    assert_eq!(bridge.metric(AMBIGUOUS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_taken_and_left_as_the_environment_says() {
    for (no_proxy, host, taken) in [
        ("", "localhost", true),
        ("example.com, localhost:1", "localhost", true),
        ("localhost", "localhost", false),
        ("*", "127.0.0.1", false),
        ("[::1]:9 127.0.0.0/8", "127.0.0.1", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let ours = Authority::new();
        let acceptor = ours.acceptor(&[host], "http/1.1", |_| {});
        let server = Server::start(Some(acceptor), HTTP1).await;
        let tunnels = Tunnels::start().await;
        let mosquitto = Mosquitto::start("").await;
        let api = trusting(&ours, &directory);
        let endpoint = format!("https://{host}:{}/event", server.address.port());
        let setup = Setup::new(&endpoint, mosquitto.port, &api, "", "")
            .env("HTTPS_PROXY", &format!("http://user:s3cret@{}", tunnels.address))
            .env("NO_PROXY", no_proxy);
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, 10, 1_000, 5).await;
        all_accepted(&bridge, 10).await;
        server.seen.accepted.assert_each_once(10);
        let asked = tunnels.asked();
        assert_eq!(!asked.is_empty(), taken, "NO_PROXY={no_proxy}: {asked:?}");
        for head in &asked {
            let host = format!("CONNECT localhost:{} ", server.address.port());
            assert!(head.starts_with(&host), "{head}");
            // `user:s3cret`
            assert!(head.contains("Proxy-Authorization: Basic dXNlcjpzM2NyZXQ="), "{head}");
        }
        let log = bridge.log();
        assert!(!log.contains("s3cret") && !log.contains("dXNlcjpzM2NyZXQ"), "{log}");
        assert_eq!(log.contains("through a proxy"), taken, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_never_goes_through_a_proxy() {
    let server = Server::start(None, HTTP1).await;
    let tunnels = Tunnels::start().await;
    let mosquitto = Mosquitto::start("").await;
    let proxy = format!("http://{}", tunnels.address);
    let mut setup = Setup::new(&server.endpoint("http"), mosquitto.port, "", "", "");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        setup = setup.env(name, &proxy);
    }
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 10, 1_000, 5).await;
    all_accepted(&bridge, 10).await;
    server.seen.accepted.assert_each_once(10);
    assert!(tunnels.asked().is_empty());
}
