//! What happens to a log below its readers: compaction, and a topic that is removed and made anew.

use rdkafka::message::Message as _;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::kafka::topics::COMPACTED;
use crate::support::ledger::{assert_order, ids};
use crate::support::shop::{IN_FLIGHT, Shop, record, stop};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn gaps_of_compaction_are_no_gaps_of_ours() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "compacted", 1).await;
    kafka.configure_topic(&shop.topic, COMPACTED).await;
    // The topic's keys say what goes; the events' own key numbers what stays.
    let kept = |id: u64| {
        let event = json!({ "id": id, "key": 0, "seq": id });
        Record::new(event.to_string()).key(format!("k{id}"))
    };
    for id in 0..5 {
        let old = |n: u64| Record::new(format!("no json {n}")).key(format!("k{id}"));
        kafka.produce(&shop.topic, (0..20).map(old)).await;
        kafka.produce(&shop.topic, [kept(id)]).await;
    }
    until("compaction", PATIENCE, async || {
        // A record that comes later than a segment may last closes that segment.
        kafka.produce(&shop.topic, [Record::new("no json").key("last")]).await;
        let read = kafka.read(&shop.topic).await;
        let olds = read.iter().filter(|m| m.payload().is_some_and(|p| p.starts_with(b"no json ")));
        (olds.count() == 0).then_some(())
    })
    .await;
    let setup = shop.setup("");
    let bridge = setup.start_ready().await;
    shop.ledger.has_ids(5, PATIENCE).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    assert_order(&shop.ledger.read(), 0);
    let end = kafka.end_offsets(&shop.topic).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == end).then_some(())
    })
    .await;
    assert_eq!(bridge.metric("source_offset_gap_total{source=\"shop\"}").await, 0.0);
    println!("{} offsets, {} messages", end[&0], 5 + setup.rejects().len());
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "anew", 1).await;
    let setup = shop.setup("options = { \"topic.metadata.refresh.interval.ms\" = 500 }");
    let bridge = setup.start_ready().await;
    kafka.produce(&shop.topic, (0..20).map(|id| record(id, 1))).await;
    shop.ledger.has_ids(20, PATIENCE).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 20)].into()).then_some(())
    })
    .await;
    kafka.delete_topic(&shop.topic).await;
    until("the bridge says that the topic is gone", PATIENCE, async || {
        (bridge.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    kafka.create_topic(&shop.topic, 1, &[]).await;
    kafka.produce(&shop.topic, (20..30).map(|id| record(id, 1))).await;
    shop.ledger.has_ids(30, PATIENCE).await;
    let accepted = shop.ledger.read();
    assert_eq!(ids(&accepted), (0..30).collect());
    assert_order(&accepted, 0);
    bridge.ready().await;
    stop(bridge).await;
}

/// Without a moment in which the bridge could see that it is gone: its positions are below those of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_topic_that_is_made_anew_at_once_positions_are_committed_too() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "at-once", 1).await;
    let setup = shop.setup("");
    let bridge = setup.start_ready().await;
    kafka.produce(&shop.topic, (0..20).map(|id| record(id, 1))).await;
    shop.ledger.has_ids(20, PATIENCE).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 20)].into()).then_some(())
    })
    .await;
    kafka.delete_topic(&shop.topic).await;
    kafka.create_topic(&shop.topic, 1, &[]).await;
    kafka.produce(&shop.topic, (20..30).map(|id| record(id, 1))).await;
    shop.ledger.has_ids(30, PATIENCE).await;
    // While it runs: librdkafka itself commits positions below the last one when it leaves the group.
    until("the new positions are committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 10)].into()).then_some(())
    })
    .await;
    drop(bridge);
    let bridge = setup.start_ready().await;
    kafka.produce(&shop.topic, [record(30, 1)]).await;
    shop.ledger.has_ids(31, PATIENCE).await;
    assert_order(&shop.ledger.read(), 0);
    stop(bridge).await;
}
