//! Servers that are killed or hang, streams that vanish, a bridge that is frozen.

use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use serde_json::json;

use super::{IN_FLIGHT, Site, numbered};
use crate::support::broker::Broker as _;
use crate::support::jetstream::{DURABLE, STREAM};
use crate::support::ledger::{assert_order, ids};
use crate::support::{PATIENCE, signal, until};

/// What a publisher writes is a message, whatever the server would mean by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_looks_like_the_word_of_a_server_is_a_message() {
    let site = Site::open("").await;
    let bridge = site.setup("").start_ready().await;
    let words = ["503", "409 Consumer Deleted", "400 Bad Request", "408 Request Timeout", "100"];
    let (count, mut ids) = (words.len() as u64, 0..);
    for (word, id) in words.into_iter().zip(&mut ids) {
        let (headers, payload) = (format!("NATS/1.0 {word}\r\n\r\n"), numbered(id..id + 1, 1));
        let payload = &payload[0].payload;
        site.stream.nats.publish_raw("in.0.data", headers.as_bytes(), payload).await;
    }
    site.produce(5_000, count..count + 5, 1).await;
    assert_eq!(site.is_relayed(&bridge, count + 5).await, 0);
    assert!(bridge.lines(&["is gone"]).is_empty(), "{}", bridge.log());
    assert!(bridge.lines(&["does not deliver"]).is_empty(), "{}", bridge.log());
}

/// The client ends the connection when it comes, and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_can_not_be_read_is_said_and_can_be_removed() {
    for headers in [&b"NATS/1.0\r\na b: c\r\n\r\n"[..], b"NATS/1.0\r\na: \xff\r\n\r\n"] {
        let site = Site::open("").await;
        let bridge = site.setup("ack_wait = \"2s\"").start_ready().await;
        site.produce(5_000, 0..3, 1).await;
        assert_eq!(site.is_relayed(&bridge, 3).await, 0);
        site.stream.nats.publish_raw("in.0.data", headers, b"{}").await;
        let said = "when the message behind the sequence 3 was to come";
        until("it says so", PATIENCE, async || {
            let (status, text) = bridge.get("/readyz").await;
            (status == 503 && text.contains(said)).then_some(())
        })
        .await;
        assert_eq!(bridge.lines(&[said]).len(), 1, "{}", bridge.log());
        site.produce(5_000, 3..6, 1).await;
        let stream = site.stream.context().await.get_stream(STREAM).await.unwrap();
        stream.delete_message(4).await.unwrap();
        assert_eq!(site.is_relayed(&bridge, 6).await, 0);
        bridge.ready().await;
    }
}

/// T10: what was under way when the server was killed is delivered before what is newer, and nothing that this bridge
/// has published is published again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_is_found_again() {
    let mut site = Site::open("").await;
    let bridge = site.setup("ack_wait = \"3s\"").start_ready().await;
    for round in 0..2 {
        site.produce(100_000, round * 6_000..(round + 1) * 6_000, 30).await;
        site.ledger.reaches(round as usize * 6_000 + 1_500, PATIENCE).await;
        site.stream.kill().await;
        bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await;
        site.stream.restart().await;
        bridge.ready().await;
        site.ledger.has_ids((round as usize + 1) * 6_000, PATIENCE).await;
    }
    assert_eq!(site.is_relayed(&bridge, 12_000).await, 0, "published again though it was known");
    assert_order(&site.ledger.read(), 0);
}

/// T11; in the long tier for 3, 30 and 60 s as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_noticed_and_waited_for() {
    let hangs = |seconds: Option<u64>| async move {
        let site = Site::open("").await;
        let bridge = site.setup("ack_wait = \"2s\"").start_ready().await;
        site.produce(100_000, 0..3_000, 30).await;
        site.ledger.reaches(500, PATIENCE).await;
        signal(site.stream.nats.pid(), "STOP");
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await,
        }
        signal(site.stream.nats.pid(), "CONT");
        site.produce(100_000, 3_000..4_000, 30).await;
        assert_eq!(site.is_relayed(&bridge, 4_000).await, 0);
        bridge.ready().await;
        assert_order(&site.ledger.read(), 0);
    };
    let long = std::env::var_os("LONG_TESTS").is_some();
    let times: &[Option<u64>] = if long { &[None, Some(3), Some(30), Some(60)] } else { &[None] };
    futures_util::future::join_all(times.iter().map(|seconds| hangs(*seconds))).await;
}

/// T04: the server takes its messages for lost, and they come again while they are in flight.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_bridge_repeats_nothing_that_it_still_holds() {
    let site = Site::open("").await;
    let bridge = site.setup("ack_wait = \"2s\"\nmax_in_flight = 500").start_ready().await;
    let watch = site.watch();
    signal(site.emulator.pid(), "STOP");
    site.produce(100_000, 0..2_000, 20).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 500.0).await;
    bridge.signal("STOP");
    tokio::time::sleep(Duration::from_secs(5)).await;
    bridge.signal("CONT");
    signal(site.emulator.pid(), "CONT");
    assert_eq!(site.is_relayed(&bridge, 2_000).await, 0);
    assert_order(&site.ledger.read(), 0);
    watch.end().await;
}

/// What comes meanwhile waits to be read: the server was not silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_was_frozen_at_rest_does_not_think_that_its_server_is_gone() {
    let site = Site::open("").await;
    let bridge = site.setup("").start_ready().await;
    site.produce(100_000, 0..10, 1).await;
    site.is_relayed(&bridge, 10).await;
    bridge.signal("STOP");
    // Longer than a server may be silent.
    tokio::time::sleep(Duration::from_secs(6)).await;
    bridge.signal("CONT");
    site.produce(100_000, 10..20, 1).await;
    assert_eq!(site.is_relayed(&bridge, 20).await, 0);
    assert!(bridge.lines(&["silent"]).is_empty(), "{}", bridge.log());
    assert_eq!(bridge.metric("source_reconnects_total{source=\"it\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_and_a_stream_that_vanish_are_bound_again() {
    let site = Site::open("").await;
    let bridge = site.setup("").start_ready().await;
    site.produce(5_000, 0..10, 1).await;
    assert_eq!(site.is_relayed(&bridge, 10).await, 0);
    let context = site.stream.context().await;
    let stream = context.get_stream(STREAM).await.unwrap();
    stream.delete_consumer(DURABLE).await.unwrap();
    // Made anew, it begins with the stream.
    site.ledger.reaches(20, PATIENCE).await;
    assert!(
        !bridge.lines(&["is gone"]).is_empty() && !bridge.lines(&["another one by now"]).is_empty()
    );
    assert_eq!(bridge.lines(&["bound again"]).len(), 1, "{}", bridge.log());
    let said = ["the whole stream comes again", "\"messages\":10", "\"delivered\":10"];
    assert_eq!(bridge.lines(&said).len(), 1, "{}", bridge.log());
    context.delete_stream(STREAM).await.unwrap();
    until("it says what is missing", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("there is no stream `IT`")).then_some(())
    })
    .await;
    site.stream.create(stream::Config::default()).await;
    bridge.ready().await;
    site.produce(5_000, 10..15, 1).await;
    site.ledger.has_ids(15, PATIENCE).await;
    assert_eq!(ids(&site.ledger.read()).len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_that_is_made_anew_skips_is_said() {
    let site = Site::open("").await;
    let bridge = site.setup("deliver = \"new\"").start_ready().await;
    site.produce(5_000, 0..3, 1).await;
    assert_eq!(site.is_relayed(&bridge, 3).await, 0);
    let stream = site.stream.context().await.get_stream(STREAM).await.unwrap();
    stream.delete_consumer(DURABLE).await.unwrap();
    until("it is said", PATIENCE, async || {
        let said = bridge.lines(&["is skipped, as `deliver` says", "\"delivered\":3"]);
        (said.len() == 1).then_some(())
    })
    .await;
}

/// Each message would come without its payload from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_somebody_edits_is_found_to_differ() {
    let site = Site::open("").await;
    let bridge = site.setup("").start_ready().await;
    site.produce(5_000, 0..10, 1).await;
    assert_eq!(site.is_relayed(&bridge, 10).await, 0);
    let info = site.stream.consumer().await.unwrap();
    let stream = site.stream.context().await.get_stream(STREAM).await.unwrap();
    let edit = async |headers_only| {
        let config = consumer::Config { headers_only, ..info.config.clone() };
        stream.update_consumer(config).await.unwrap();
    };
    edit(true).await;
    until("it says what differs", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("`headers_only` is true (no payload) there")).then_some(())
    })
    .await;
    assert_eq!(bridge.lines(&["the consumer was changed"]).len(), 1, "{}", bridge.log());
    site.produce(5_000, 10..20, 1).await;
    edit(false).await;
    assert_eq!(site.is_relayed(&bridge, 20).await, 0);
}

/// A source that a reload changes while no API takes anything is ended by force. The next of its name has all the room.
#[tokio::test(flavor = "multi_thread")]
async fn changed_in_an_outage_it_goes_on_when_the_api_is_back() {
    let site = Site::open("").await;
    site.emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    let setup = site.setup_of("max_in_flight = 5\nack_wait = \"2s\"", "[shutdown]\ngrace = \"1s\"");
    let edit = |old: &str, new: &str| {
        let text = std::fs::read_to_string(setup.config()).unwrap();
        std::fs::write(setup.config(), text.replace(old, new)).unwrap();
    };
    edit("[api.main]\n", "[api.main]\ntimeout = \"1s\"\n");
    let bridge = setup.start_ready().await;
    site.produce(5_000, 0..20, 1).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 5.0).await;
    edit("max_in_flight = 5", "max_in_flight = 4");
    let (status, answer) = bridge.reload(&[]).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(["source it"])), "{answer}");
    until("it is ended by force", PATIENCE, async || {
        bridge.lines(&["a part of an earlier configuration has ended, not cleanly"]).pop()
    })
    .await;
    site.emulator.set_faults(json!([])).await;
    site.is_relayed(&bridge, 20).await;
    bridge.ready().await;
    assert_eq!(bridge.metric("source_in_flight_limit{source=\"it\"}").await, 4.0);
}
