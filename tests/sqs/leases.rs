//! T21: what is ours stays ours as long as it takes, and what is done is deleted in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;

use super::{IN_FLIGHT, Relay, all_deleted, bodies, grouped};
use crate::support::emulator::Emulator;
use crate::support::ledger::ids;
use crate::support::signal;
use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_three_times_slower_than_the_lease_costs_no_second_receive() {
    let fake = Fake::start().await;
    let (queue, dead) = fake.with_redrive("slow", &[(VisibilityTimeout, "2")], 1).await;
    fake.fill(&queue.name, bodies(0..60, 6));
    let relay = Relay::open(&["--latency", "6s"]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    relay.has_all(&bridge, 60).await;
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, 60)]));
    assert!(fake.history(&dead.name).is_empty());
    assert!(bridge.metric("source_leases_extended_total{source=\"it\"}").await >= 60.0 * 3.0);
    assert_eq!(bridge.metric("source_leases_lost_total{source=\"it\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_are_held_while_nothing_is_answered() {
    const COUNT: u64 = 5_000;
    let fake = Fake::start().await;
    let queue = fake.queue("many", &[(VisibilityTimeout, "10")]).await;
    fake.fill(&queue.name, bodies(0..COUNT, 50));
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "max_in_flight = 10_000").start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    bridge.metric_is(IN_FLIGHT, |v| v > COUNT as f64 / 2.0).await;
    tokio::time::sleep(Duration::from_secs(14)).await;
    signal(relay.emulator.pid(), "CONT");
    relay.has_all(&bridge, COUNT).await;
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, COUNT as usize)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_batch_that_fail_are_deleted_in_the_end() {
    const COUNT: u64 = 2_000;
    let fake = Fake::start().await;
    let queue = fake.queue("failing", &[(VisibilityTimeout, "5")]).await;
    fake.fill(&queue.name, bodies(0..COUNT, 20));
    fake.faults().entries.insert(Action::DeleteMessageBatch, 0.3);
    fake.faults().entries.insert(Action::ChangeMessageVisibilityBatch, 0.3);
    let relay = Relay::open(&["--latency", "20ms"]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    relay.has_all(&bridge, COUNT).await;
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, COUNT as usize)]));
    assert_eq!(relay.ledger.read().len() as u64, COUNT, "nothing came twice");
    let retries = bridge.metric("source_delete_retries_total{source=\"it\"}").await;
    assert!(retries > COUNT as f64 * 0.2, "{retries}");
}

/// As long as an API does not answer nothing is received, and what is held is kept: an outage moves nothing to the
/// queue's own dead-letter queue.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_burns_no_receive_counts() {
    let long = std::env::var_os("LONG_TESTS").is_some();
    let (visibility, outage) = if long { ("5", 30) } else { ("3", 10) };
    let fake = Fake::start().await;
    let (queue, dead) = fake.with_redrive("out", &[(VisibilityTimeout, visibility)], 3).await;
    let mut relay = Relay::open(&[]);
    let address = relay.emulator.host().to_owned();
    let bridge = relay.setup(&queue, "").start_ready().await;
    fake.fill(&queue.name, bodies(0..100, 10));
    relay.has_all(&bridge, 100).await;
    signal(relay.emulator.pid(), "KILL");
    for second in 0..outage {
        fake.fill(&queue.name, bodies(100 + second * 20..120 + second * 20, 10));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(bridge.log().contains("the API does not answer"), "{}", bridge.log());
    let path = relay.ledger.path.to_str().unwrap();
    relay.emulator = Emulator::start_at(&address, &["--ledger", path]);
    let count = 100 + outage * 20;
    relay.has_all(&bridge, count).await;
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, count as usize)]));
    assert!(fake.history(&dead.name).is_empty());
}

/// While nothing can be extended a message comes again and again: it is known, published once, and deleted by the
/// newest receipt.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_it_is_held_is_published_once() {
    let fake = Fake::start().await;
    for name in ["held", "held.fifo"] {
        let queue = fake.queue(name, &[(VisibilityTimeout, "4")]).await;
        queue.send(grouped(0..5, 1).map(|o| if name == "held" { o.ungrouped() } else { o })).await;
        fake.faults()
            .requests
            .insert(Action::ChangeMessageVisibilityBatch, (Refusal::Internal, ALWAYS));
        // They are done in the middle of the second lease.
        let relay = Relay::open(&["--latency", "6s"]);
        let bridge = relay.setup(&queue, "").start_ready().await;
        relay.has_all(&bridge, 5).await;
        let receives = all_deleted(&fake, &queue).await;
        assert!(receives.keys().all(|count| *count > 1), "{name}: {receives:?}");
        assert_eq!(relay.ledger.read().len(), 5, "{name}: {receives:?}");
        assert_eq!(bridge.metric("source_received_total{source=\"it\"}").await, 5.0);
    }
}

/// A standard queue may forget that it deleted something.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_after_it_was_deleted_is_deleted_again() {
    const COUNT: u64 = 2_000;
    let fake = Fake::start().await;
    let queue = fake.queue("again", &[]).await;
    fake.fill(&queue.name, bodies(0..COUNT, 20));
    fake.faults().again = 0.01;
    let relay = Relay::open(&["--latency", "20ms"]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    relay.has_all(&bridge, COUNT).await;
    fake.faults().again = 0.0;
    let receives = all_deleted(&fake, &queue).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let again = COUNT as usize - receives[&1];
    assert!((1..100).contains(&again), "{receives:?}");
    assert_eq!(ids(&relay.ledger.read()).len() as u64, COUNT);
}

/// Without an end of its own a poll that nobody answers would hang for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_is_never_answered_ends() {
    let fake = Fake::start().await;
    let queue = fake.queue("hole", &[]).await;
    fake.faults().black_hole = true;
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "wait_time = \"0s\"").start().await;
    bridge.metric_is("source_connected{source=\"it\"}", |v| v == 1.0).await;
    bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await;
    assert!(!bridge.lines(&["sqs:ReceiveMessage", "no answer"]).is_empty(), "{}", bridge.log());
    fake.faults().black_hole = false;
    fake.fill(&queue.name, bodies(0..5, 5));
    relay.has_all(&bridge, 5).await;
    bridge.ready().await;
}
