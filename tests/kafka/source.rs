//! The Kafka source against a real Apache Kafka: the bridge is a process of its own, the emulator's
//! ledger is the judge.

use std::time::Duration;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::ledger::{assert_order, ids};
use crate::support::shop::{IN_FLIGHT, Shop, record, stop};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_delivered_in_order_and_committed() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "happy", 4).await;
    let bridge = shop.setup("").start_ready().await;
    let watch = shop.watch(Duration::from_millis(50));
    shop.produce(kafka, 0..3_000, 5_000, 40).await;
    assert_eq!(shop.is_relayed(3_000, 0).await, 0, "some came twice");
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    watch.end().await;
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_want_of_room_pauses_and_what_follows_resumes() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "full", 4).await;
    // Silence opens no breaker before its first timeout, so it is the room that pauses.
    shop.emulator.set_faults(json!([{ "fault": { "hang": {} } }])).await;
    let bridge = shop.setup("max_in_flight = 100").start_ready().await;
    shop.produce(kafka, 0..2_000, 10_000, 8).await;
    let paused = "source_paused_partitions{source=\"shop\"}";
    bridge.metric_is(paused, |v| v == 4.0).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 100.0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bridge.metric(IN_FLIGHT).await, 100.0);
    shop.emulator.set_faults(json!([])).await;
    assert_eq!(shop.is_relayed(2_000, 0).await, 0, "a pause repeats nothing");
    bridge.metric_is(paused, |v| v == 0.0).await;
    stop(bridge).await;
}

/// The intake gate: while the breaker is open, messages are left in the log, far below the limit. The
/// API is asked again with what there is, be it one event, and one answer is enough to take more. Each probe in vain brings one
/// batch, since it may be the event that is at fault.
#[tokio::test(flavor = "multi_thread")]
async fn while_no_api_takes_anything_messages_stay_in_the_log() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "gate", 1).await;
    shop.emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } } }])).await;
    let bridge = shop.setup("").start_ready().await;
    shop.produce(kafka, 0..1, 1_000, 1).await;
    let paused = "source_paused_partitions{source=\"shop\"}";
    bridge.metric_is(paused, |v| v == 1.0).await;
    shop.produce(kafka, 1..2_000, 10_000, 1).await;
    // The API is asked again a second apart, in which they would have been taken long ago.
    let asked = "publish_requests_total{api=\"main\",result=\"unavailable\"}";
    let before = bridge.metric(asked).await;
    bridge.metric_is(asked, |v| v >= before + 2.0).await;
    let probes = bridge.metric(asked).await;
    let in_flight = bridge.metric(IN_FLIGHT).await;
    assert!(in_flight <= 1.0 + probes * 16.0, "{in_flight} after {probes} probes");
    shop.emulator.set_faults(json!([])).await;
    assert_eq!(shop.is_relayed(2_000, 0).await, 0, "a pause repeats nothing");
    bridge.metric_is(paused, |v| v == 0.0).await;
    stop(bridge).await;
}

/// Records of other tests have no ids of their own here: `id` is the number in the topic.
fn numbered(id: u64) -> Record {
    record(id, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn oddities_of_a_log_are_passed_and_counted() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "odd", 1).await;
    // Every compression, a tombstone, a transaction that is aborted and one that is committed.
    for (id, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let producer = kafka.producer(&[("compression.type", codec)]);
        producer.send(&shop.topic, [numbered(id as u64)]).await;
    }
    kafka.produce(&shop.topic, [Record::tombstone("k0"), numbered(5)]).await;
    let producer = kafka.transactions(&shop.topic).await;
    producer.begin();
    producer.send(&shop.topic, [numbered(99)]).await;
    producer.abort().await;
    producer.begin();
    producer.send(&shop.topic, [numbered(6)]).await;
    producer.commit().await;
    // The marker of the last transaction may come behind it, and is no message to commit.
    let end = kafka.produce(&shop.topic, [numbered(7)]).await[0].1 + 1;

    let setup = shop.setup("options = { \"topic.metadata.refresh.interval.ms\" = 1000 }");
    let bridge = setup.start_ready().await;
    shop.ledger.has_ids(8, PATIENCE).await;
    let accepted = shop.ledger.read();
    assert_eq!(accepted.len(), 8, "what was aborted was relayed, or some came twice");
    assert_order(&accepted, 0);
    assert_eq!(bridge.metric("source_tombstones_total{source=\"shop\"}").await, 1.0);
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, end)].into()).then_some(())
    })
    .await;

    // What a transaction leaves at the end of the log is nothing to read.
    producer.begin();
    producer.send(&shop.topic, [numbered(99)]).await;
    producer.abort().await;
    producer.begin();
    producer.send(&shop.topic, [numbered(8)]).await;
    producer.commit().await;
    shop.ledger.has_ids(9, PATIENCE).await;
    let [committed, lag] = ["committed_offset", "lag"].map(|name| {
        format!("source_{name}{{source=\"shop\",topic=\"{}\",partition=\"0\"}}", shop.topic)
    });
    bridge.metric_is(&committed, |v| v > end as f64).await;
    bridge.metric_is(&lag, |v| v == 0.0).await;
    assert!(bridge.metric(&committed).await < kafka.end_offsets(&shop.topic).await[&0] as f64);

    // Partitions that are added later.
    kafka.add_partitions(&shop.topic, 3).await;
    let producer = kafka.producer(&[("topic.metadata.refresh.interval.ms", "500")]);
    until("the new partitions are known", PATIENCE, async || {
        producer.put(&shop.topic, &numbered(9).partition(2)).await.unwrap().ok()
    })
    .await;
    shop.ledger.has_ids(10, PATIENCE).await;
    stop(bridge).await;

    // Records that are gone before they were read: said, and never silent.
    kafka.produce(&shop.topic, (10..20).map(|id| numbered(id).partition(0))).await;
    let end = kafka.end_offsets(&shop.topic).await[&0];
    kafka.delete_records(&shop.topic, 0, end - 5).await;
    let bridge = setup.start_ready().await;
    shop.ledger.has_ids(15, PATIENCE).await;
    bridge.metric_is("source_offset_gap_total{source=\"shop\"}", |v| v >= 1.0).await;
    assert!(bridge.log().contains("does not have the position"), "{}", bridge.log());
    let ids = ids(&shop.ledger.read());
    assert!(
        (10..15).all(|id| !ids.contains(&id)) && (15..20).all(|id| ids.contains(&id)),
        "{ids:?}"
    );
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_regular_expression_with_key_headers_and_null() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "many", 1).await;
    let source = format!(
        "topics = \"^{}\\\\..*\"\ntombstones = \"null\"\n\
         options = {{ \"topic.metadata.refresh.interval.ms\" = 1000 }}",
        shop.topic
    );
    let tables = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\n{source}\n\
         [route.data]\nfrom = \"shop\"\ntopic = \"{}.{{what}}\"\n\
         channel = \"/shop/{{what}}/{{key}}/{{header.tenant}}\"\n",
        shop.broker, shop.topic, shop.topic
    );
    let setup = Setup::of(&shop.emulator.endpoint, "", &tables, "");
    kafka.create_topic(&format!("{}.early", shop.topic), 1, &[]).await;
    let bridge = setup.start_ready().await;
    kafka.create_topic(&format!("{}.late", shop.topic), 1, &[]).await;
    for what in ["early", "late"] {
        let full = Record::new("{}").key("k1").header("tenant", Some(b"acme"));
        let null = Record::tombstone("k2").header("tenant", Some(b"acme"));
        kafka.produce(&format!("{}.{what}", shop.topic), [full, null]).await;
    }
    shop.ledger.reaches(4, PATIENCE).await;
    let mut said: Vec<_> =
        shop.ledger.read().iter().map(|a| format!("{} {}", a.channel, a.event)).collect();
    said.sort();
    let expected = ["early", "late"]
        .map(|what| [format!("/shop/{what}/k1/acme {{}}"), format!("/shop/{what}/k2/acme null")]);
    assert_eq!(said, expected.concat());
    stop(bridge).await;
}
