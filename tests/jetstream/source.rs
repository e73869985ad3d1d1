//! The consumer that the source makes or finds, and what it takes by it.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};

use super::{IN_FLIGHT, Site};
use crate::support::jetstream::{DURABLE, STREAM};
use crate::support::{PATIENCE, signal, until};

fn number(name: &str) -> String {
    format!("source_{name}{{source=\"it\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_filters_take_comes_and_the_lag_is_told() {
    let site = Site::open("").await;
    let setup = site.setup("subjects = [\"in.1.data\", \"in.2.*\"]\nack_wait = \"5s\"");
    let bridge = setup.start_ready().await;
    site.produce(5_000, 0..40, 4).await;
    site.ledger.has_ids(20, PATIENCE).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let channels: std::collections::BTreeSet<_> =
        site.ledger.read().into_iter().map(|accepted| accepted.channel).collect();
    assert_eq!(channels.into_iter().collect::<Vec<_>>(), ["/it/dev-1", "/it/dev-2"]);
    let consumer = site.stream.consumer().await.unwrap().config;
    assert_eq!(consumer.filter_subjects, ["in.1.data", "in.2.*"]);
    assert_eq!(consumer.ack_policy, AckPolicy::Explicit);
    assert_eq!((consumer.ack_wait, consumer.max_ack_pending), (Duration::from_secs(5), 10_000));
    assert_eq!(
        bridge.metric(&number("stream_gap_total")).await,
        0.0,
        "behind a filter gaps are no loss"
    );
    signal(site.emulator.pid(), "STOP");
    site.produce(5_000, 40..80, 4).await;
    bridge.metric_is(&number("ack_pending"), |v| v == 20.0).await;
    signal(site.emulator.pid(), "CONT");
    bridge.metric_is(&number("ack_pending"), |v| v == 0.0).await;
    assert_eq!(bridge.metric(&number("lag")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_where_deliver_says() {
    for (deliver, first, count) in [("new", 9, 3), ("last-per-subject", 6, 6)] {
        let site = Site::open("").await;
        site.produce(5_000, 0..9, 3).await;
        let bridge = site.setup(&format!("deliver = \"{deliver}\"")).start_ready().await;
        site.produce(5_000, 9..12, 3).await;
        site.ledger.has_ids(count, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let mut ids: Vec<_> =
            site.ledger.read().iter().map(|a| a.event["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (first..12).collect::<Vec<_>>(), "{deliver}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_differs_is_listed_and_never_changed() {
    let site = Site::open("").await;
    let made = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_wait: Duration::from_secs(7),
        max_ack_pending: 20_000,
        max_deliver: 1,
        filter_subject: "in.1.data".into(),
        ..Default::default()
    };
    let stream = site.stream.context().await.get_stream(STREAM).await.unwrap();
    stream.create_consumer(made).await.unwrap();
    let before = site.stream.consumer().await.unwrap().config;
    let bridge = site.setup("").start().await;
    let text = until("it is said", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("differs")).then_some(text)
    })
    .await;
    for difference in
        ["`ack_wait` is 7s there and 30s here", "is `in.1.data` there and every subject here"]
    {
        assert!(text.contains(difference), "{text}");
    }
    site.produce(5_000, 0..5, 1).await;
    assert_eq!(site.stream.consumer().await.unwrap().config, before);
    assert_eq!(site.stream.consumer().await.unwrap().delivered.stream_sequence, 0);
    drop(bridge);
    // What is as it should be is taken as it is, its hazards are named, and what it gives up is counted.
    let setup = site.setup("ack_wait = \"7s\"\nsubjects = \"in.1.data\"");
    let bridge = setup.start_ready().await;
    assert_eq!(bridge.lines(&["`max_deliver` is limited"]).len(), 1, "{}", bridge.log());
    assert_eq!(site.stream.consumer().await.unwrap().config, before);
    bridge.signal("TERM");
    drop(bridge);
    let bridge = setup.env("APPSYNC_BRIDGE_SEEDED_BUG", "DropsMessages").start_ready().await;
    site.produce(5_000, 0..20_000, 2).await;
    bridge.metric_is(&number("max_deliver_exceeded_total"), |v| v > 20.0).await;
    assert_eq!(bridge.metric(&number("redelivered_total")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pulled_while_no_api_takes_anything() {
    let mut site = Site::open("").await;
    let bridge = site.setup_of("", "").start_ready().await;
    let address = site.emulator.host().to_owned();
    signal(site.emulator.pid(), "KILL");
    // Each alone in its channel: for as many seconds there is one that has not asked yet.
    site.produce(5_000, 0..60, 60).await;
    bridge.metric_is("publish_breaker_open{api=\"main\"}", |v| v == 1.0).await;
    // What was asked for before has ended.
    until("no request is open", PATIENCE, async || {
        (site.stream.consumer().await.unwrap().num_waiting == 0).then_some(())
    })
    .await;
    site.produce(5_000, 60..300, 2).await;
    let taken = bridge.metric(&number("received_total")).await;
    assert!(taken <= 60.0, "{taken}");
    bridge.metric_is(&number("lag"), |v| v >= 240.0).await;
    assert_eq!(bridge.metric(&number("received_total")).await, taken);
    let path = site.ledger.path.to_str().unwrap().to_owned();
    site.emulator = crate::support::emulator::Emulator::start_at(&address, &["--ledger", &path]);
    assert_eq!(site.is_relayed(&bridge, 300).await, 0);
}

/// T16.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_longer_than_ack_wait_is_not_delivered_again() {
    let site = Site::open("").await;
    let bridge = site.setup("ack_wait = \"2s\"").start_ready().await;
    signal(site.emulator.pid(), "STOP");
    site.produce(5_000, 0..1_000, 10).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 1_000.0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let consumer = site.stream.consumer().await.unwrap();
    assert_eq!((consumer.num_redelivered, consumer.num_ack_pending), (0, 1_000));
    signal(site.emulator.pid(), "CONT");
    assert_eq!(site.is_relayed(&bridge, 1_000).await, 0);
    assert_eq!(bridge.metric(&number("redelivered_total")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_stream_is_counted() {
    let site = Site::open("").await;
    let setup = site.setup("");
    let mut bridge = setup.start_ready().await;
    site.produce(5_000, 0..10, 1).await;
    assert_eq!(site.is_relayed(&bridge, 10).await, 0);
    bridge.signal("TERM");
    bridge.ended(PATIENCE).await;
    let context = site.stream.context().await;
    let stream = context.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    let five = async_nats::jetstream::stream::Config { max_messages: 5, ..stream };
    context.update_stream(five).await.unwrap();
    site.produce(5_000, 10..30, 1).await;
    let bridge = setup.start_ready().await;
    site.ledger.has_ids(15, PATIENCE).await;
    bridge.metric_is(&number("stream_gap_total"), |v| v == 15.0).await;
    assert_eq!(bridge.lines(&["removed from the stream before they were delivered"]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_per_subject_without_subjects_is_of_all() {
    let site = Site::open("").await;
    let _bridge = site.setup("deliver = \"last-per-subject\"").start_ready().await;
    let consumer = site.stream.consumer().await.unwrap().config;
    assert_eq!(consumer.deliver_policy, DeliverPolicy::LastPerSubject);
}
