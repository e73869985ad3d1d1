//! Servers that go away, come back, freeze or say that they will end.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::core::{Relay, publish};
use crate::support::nats::Nats;
use crate::support::{PATIENCE, signal, until};

const CONNECTED: &str = "source_connected{source=\"it\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut relay = Relay::open().await;
    relay.server.kill();
    let bridge = relay.setup("").start().await;
    until("it says what is missing", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("refused") && text.contains("next try in")).then_some(())
    })
    .await;
    assert!(!bridge.lines(&["not connected; trying again", "is the port right?"]).is_empty());
    relay.server.restart().await;
    bridge.ready().await;
    publish(&relay.server.client().await, 0..20, 0).await;
    relay.is_relayed(&bridge, 20).await;
}

/// T11, each twice, side by side. The client gives a server up that leaves its third question unanswered, after 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_froze_goes_on_or_is_connected_to_again() {
    let froze = |seconds: u64| async move {
        let relay = Relay::open().await;
        let bridge = relay.setup("").start_ready().await;
        let client = relay.server.client().await;
        publish(&client, 0..20, 0).await;
        relay.is_relayed(&bridge, 20).await;
        signal(relay.server.pid(), "STOP");
        if seconds < 10 {
            publish(&client, 20..40, 0).await;
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        if seconds > 40 {
            assert_eq!(bridge.metric(CONNECTED).await, 0.0, "nobody noticed it");
        }
        signal(relay.server.pid(), "CONT");
        if seconds < 10 {
            relay.is_relayed(&bridge, 40).await;
            assert_eq!(bridge.metric("source_reconnects_total{source=\"it\"}").await, 0.0);
            return;
        }
        // What it was sent while it hung is with whoever was connected then: nobody is owed it.
        relay.server.written().await;
        bridge.ready().await;
        bridge.metric_is(CONNECTED, |v| v == 1.0).await;
        publish(&relay.server.client().await, 20..40, 0).await;
        relay.is_relayed(&bridge, 40).await;
    };
    join_all([3, 3, 30, 30, 60, 60].map(froze)).await;
}

/// T04, each twice, side by side: what the server can keep for a client that reads nothing, it keeps, and its questions
/// of a client go unanswered for longer than this before it gives it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_froze_goes_on() {
    let froze = |seconds: u64| async move {
        let relay = Relay::open().await;
        let bridge = relay.setup("").start_ready().await;
        let client = relay.server.client().await;
        publish(&client, 0..20, 0).await;
        relay.is_relayed(&bridge, 20).await;
        bridge.signal("STOP");
        publish(&client, 20..5_000, 0).await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        bridge.signal("CONT");
        relay.is_relayed(&bridge, 5_000).await;
        assert_eq!(bridge.metric("source_dropped_total{source=\"it\"}").await, 0.0);
    };
    join_all([5, 5, 35, 35, 60, 60].map(froze)).await;
}

/// The client ends the connection when it comes, and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_can_not_be_read_is_said_to_be_lost() {
    let relay = Relay::open().await;
    let bridge = relay.setup("").start_ready().await;
    let client = relay.server.client().await;
    for (number, headers) in
        [&b"NATS/1.0\r\na b: c\r\n\r\n"[..], b"NATS/1.0\r\na: \xff\r\n\r\n"].into_iter().enumerate()
    {
        relay.server.publish_raw("in.1", headers, b"{}").await;
        let count = f64::from(u8::try_from(number + 1).unwrap());
        bridge.metric_is("source_reconnects_total{source=\"it\"}", |v| v == count).await;
        bridge.ready().await;
    }
    let said = bridge.lines(&["headers can't be read", "names are ASCII without blanks"]);
    assert_eq!(said.len(), 1, "{}", bridge.log());
    publish(&client, 0..20, 0).await;
    relay.is_relayed(&bridge, 20).await;
}

/// T10, where another takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_server_dies_the_next_is_connected_to() {
    let mut first = Nats::start("").await;
    let relay = Relay::open().await;
    let servers = format!("servers = [\"{}\", \"{}\"]", first.url(), relay.server.url());
    let bridge = relay.setup(&servers).start_ready().await;
    publish(&first.client().await, 0..20, 0).await;
    relay.is_relayed(&bridge, 20).await;
    first.kill();
    let killed = Instant::now();
    bridge.metric_is("source_reconnects_total{source=\"it\"}", |v| v == 1.0).await;
    bridge.ready().await;
    assert!(killed.elapsed() <= Duration::from_secs(15), "{:?}", killed.elapsed());
    publish(&relay.server.client().await, 20..40, 0).await;
    relay.is_relayed(&bridge, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_it_will_end_is_left() {
    let lines = "lame_duck_grace_period: \"100ms\"\nlame_duck_duration: \"30s\"\n";
    let first = Nats::start(lines).await;
    let relay = Relay::open().await;
    let servers = format!("servers = [\"{}\", \"{}\"]", first.url(), relay.server.url());
    let bridge = relay.setup(&servers).start_ready().await;
    first.lame_duck();
    bridge.metric_is("source_reconnects_total{source=\"it\"}", |v| v == 1.0).await;
    bridge.ready().await;
    assert_eq!(bridge.lines(&["the server is about to end"]).len(), 1, "{}", bridge.log());
    publish(&relay.server.client().await, 0..20, 0).await;
    relay.is_relayed(&bridge, 20).await;
}

/// What a server tells of others is what anybody may tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_named_is_not_connected_to() {
    let other = Nats::start("").await;
    let lines = format!("client_advertise: \"127.0.0.1:{}\"\n", other.port);
    let mut relay = Relay::of(Nats::start(&lines).await);
    let bridge = relay.setup("").start_ready().await;
    relay.server.kill();
    bridge.metric_is(CONNECTED, |v| v == 0.0).await;
    until("it has tried again", PATIENCE, async || {
        let said = bridge.lines(&["not connected; trying again", "refused"]);
        (said.len() >= 3).then_some(())
    })
    .await;
    assert_eq!(bridge.metric(CONNECTED).await, 0.0);
    let connections = other.monitor("/varz").await["total_connections"].clone();
    assert_eq!(connections, 0, "nobody came");
}
