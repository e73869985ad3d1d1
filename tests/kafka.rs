//! The Kafka source against a real Apache Kafka: the bridge is a process of its own, the emulator's
//! ledger is the judge.

use std::time::Duration;

use crate::support::kafka::Kafka;
use crate::support::shop::{IN_FLIGHT, Shop, stop};

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
