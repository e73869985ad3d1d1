//! T21: what is ours stays ours as long as it takes, and what is done is deleted in the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;
use tokio::sync::mpsc;

use super::{IN_FLIGHT, Relay, all_deleted, bodies, grouped};
use crate::support::emulator::Emulator;
use crate::support::ledger::{assert_order, ids};
use crate::support::sqs::CREDENTIALS;
use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};
use crate::support::{PATIENCE, runs_elsewhere_with, signal, until};

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

/// What could not be deleted in time comes again with what is behind it: it is known, and so nothing of
/// the group is published after a later message.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_could_not_be_deleted_in_time_is_published_once() {
    let fake = Fake::start().await;
    let queue = fake.queue("owed.fifo", &[(VisibilityTimeout, "4")]).await;
    queue.send(grouped(0..10, 1)).await;
    // Five are done before the leases end, and the others after it.
    let relay = Relay::open(&["--latency", "3s"]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    bridge.metric_is(IN_FLIGHT, |v| v == 10.0).await;
    for action in
        [Action::ReceiveMessage, Action::DeleteMessageBatch, Action::ChangeMessageVisibilityBatch]
    {
        fake.faults().requests.insert(action, (Refusal::Internal, ALWAYS));
    }
    bridge.metric_is("source_leases_lost_total{source=\"it\"}", |v| v >= 5.0).await;
    fake.faults().requests.clear();
    relay.has_all(&bridge, 10).await;
    all_deleted(&fake, &queue).await;
    let accepted = relay.ledger.read();
    assert_eq!(accepted.len(), 10, "{accepted:?}");
    assert_order(&accepted, 0);
    assert_eq!(bridge.metric("source_received_total{source=\"it\"}").await, 10.0);
}

/// SQS takes the receipt of a standard queue as long as there is no newer one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_after_its_lease_ended_is_deleted_by_its_old_receipt() {
    let fake = Fake::start().await;
    let queue = fake.queue("late", &[(VisibilityTimeout, "2")]).await;
    fake.fill(&queue.name, bodies(0..5, 1));
    let visibility = Action::ChangeMessageVisibilityBatch;
    fake.faults().requests.insert(visibility, (Refusal::Internal, ALWAYS));
    let relay = Relay::open(&["--latency", "6s"]);
    // There is no room to receive them again.
    let bridge = relay.setup(&queue, "max_in_flight = 5").start_ready().await;
    bridge.metric_is(IN_FLIGHT, |v| v == 5.0).await;
    until("the leases end", PATIENCE, async || (queue.counts().await.waiting == 5).then_some(()))
        .await;
    fake.faults().requests.clear();
    relay.has_all(&bridge, 5).await;
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, 5)]));
    assert_eq!(relay.ledger.len(), 5);
    assert_eq!(bridge.metric("source_leases_lost_total{source=\"it\"}").await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_without_an_answer_is_asked_for_again_within_the_lease() {
    let fake = Fake::start().await;
    for name in ["silent", "silent.fifo"] {
        let queue = fake.queue(name, &[(VisibilityTimeout, "4")]).await;
        queue
            .send(grouped(0..5, 1).map(|o| if name == "silent" { o.ungrouped() } else { o }))
            .await;
        fake.faults().requests.insert(Action::DeleteMessageBatch, (Refusal::Silent, 3));
        let relay = Relay::open(&[]);
        let bridge = relay.setup(&queue, "").start_ready().await;
        relay.has_all(&bridge, 5).await;
        assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, 5)]), "{name}");
        assert_eq!(relay.ledger.len(), 5, "{name}");
    }
}

/// SQS ends every lease after 12 hours.
#[tokio::test]
async fn what_waits_for_eleven_hours_is_received_again_and_is_not_two() {
    // The source runs in this process, whose clock can be set.
    if runs_elsewhere_with(&CREDENTIALS) {
        return;
    }
    let (fake, relay) = (Fake::start().await, Relay::open(&[]));
    for name in ["old", "old.fifo"] {
        let queue = fake.queue(name, &[(VisibilityTimeout, "43200")]).await;
        queue.send(grouped(0..3, 1).map(|o| if name == "old" { o.ungrouped() } else { o })).await;
        let setup = relay.setup(&queue, "wait_time = \"0s\"");
        let text = std::fs::read_to_string(setup.config()).unwrap();
        let loaded = config::parse(&text, Path::new("bridge.toml"), &Environment::of_process());
        let config = loaded.unwrap().config.sources.remove(0);
        let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
        let part = health.register("source it", "connecting");
        let (deliveries, mut taken) = mpsc::unbounded_channel();
        let intake = Intake::new(move |delivery| drop(deliveries.send(delivery)));
        let made = source::build(&config, &metrics, part, source::Begin::Start).await.unwrap();
        let run = tokio::spawn(made.run(intake, shutdown.clone()));
        let mut held = Vec::new();
        while held.len() < 3 {
            held.push(tokio::time::timeout(PATIENCE, taken.recv()).await.unwrap().unwrap());
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_hours(11)).await;
        tokio::time::resume();
        until("they come again", PATIENCE, async || {
            fake.history(&queue.name).iter().all(|message| message.receives == 2).then_some(())
        })
        .await;
        for delivery in held {
            delivery.settle(Outcome::Accepted(Done::Published));
        }
        assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(2, 3)]), "{name}");
        assert!(taken.try_recv().is_err(), "{name}: they are held already");
        shutdown.start_drain();
        run.await.unwrap().unwrap();
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
