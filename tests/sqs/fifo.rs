//! T01, T05 and T22: FIFO queues, on `ElasticMQ`, with bridges that are killed; and receives that are lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;

use super::{Relay, all_deleted, bodies, grouped};
use crate::support::PATIENCE;
use crate::support::bridge::Bridge;
use crate::support::ledger::{Accepted, assert_first_in_order, assert_order, ids};
use crate::support::sqs::Outgoing;
use crate::support::sqs::fake::{Action, Fake, Refusal};
use crate::support::sqs::servers::ElasticMq;
use crate::support::until;

const GROUPS: u64 = 100;
const EACH: u64 = 50;

/// Steps back that are not explained by `most` bridges that ended: each may repeat a group from where it was.
fn assert_replays(accepted: &[Accepted], most: usize) {
    let mut back: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for Accepted { event, .. } in accepted {
        let number = |name: &str| event[name].as_u64().unwrap();
        let (last, steps) = back.entry(number("key")).or_default();
        if number("seq") < *last {
            *steps += 1;
        }
        *last = number("seq");
    }
    let worst = back.values().map(|(_, steps)| *steps).max().unwrap();
    assert!(worst <= most, "a group stepped back {worst} times, of {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_every_group_keeps_its_order() {
    const KILLS: usize = 5;
    let server = ElasticMq::shared().await;
    let queue = server.queue("killed.fifo", &[(VisibilityTimeout, "2")]).await;
    let relay = Relay::open(&["--latency", "20ms"]);
    let setup = relay.setup(&queue, "receivers = 4");
    let count = GROUPS * EACH;
    let kill = async {
        let mut bridge = setup.start_ready().await;
        for kill in 1..=KILLS {
            let enough = relay.ledger.len() + count as usize / 10;
            relay.ledger.reaches(enough, PATIENCE).await;
            assert!(ids(&relay.ledger.read()).len() < count as usize, "over before kill {kill}");
            bridge.kill();
            bridge = setup.start().await;
        }
        bridge
    };
    let (bridge, ()) = tokio::join!(kill, queue.send(grouped(0..count, GROUPS)));
    relay.has_all(&bridge, count).await;
    let accepted = relay.ledger.read();
    assert_first_in_order(&accepted);
    assert_replays(&accepted, KILLS);
    assert!(
        accepted.len() as u64 > count,
        "nothing was unacknowledged at a kill: it proves nothing"
    );
    empty(&queue).await;
}

/// T01 of a standard queue: it has no order, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_a_standard_queue_loses_nothing() {
    const KILLS: usize = 5;
    const COUNT: u64 = 4_000;
    let server = ElasticMq::shared().await;
    let queue = server.queue("killed", &[(VisibilityTimeout, "2")]).await;
    let relay = Relay::open(&["--latency", "20ms"]);
    let setup = relay.setup(&queue, "");
    let kill = async {
        let mut bridge = setup.start_ready().await;
        for kill in 1..=KILLS {
            relay.ledger.reaches(relay.ledger.len() + 400, PATIENCE).await;
            assert!(ids(&relay.ledger.read()).len() < COUNT as usize, "over before kill {kill}");
            bridge.kill();
            bridge = setup.start().await;
        }
        bridge
    };
    let messages = bodies(0..COUNT, 40).map(Outgoing::new);
    let (bridge, ()) = tokio::join!(kill, queue.send(messages));
    relay.has_all(&bridge, COUNT).await;
    let repeats = relay.ledger.read().len() - COUNT as usize;
    // What was in flight at a kill, a thousand at most.
    assert!((1..=KILLS * 1_000).contains(&repeats), "{repeats}");
    empty(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_replicas_one_is_killed() {
    let server = ElasticMq::shared().await;
    let queue = server.queue("replicas.fifo", &[(VisibilityTimeout, "2")]).await;
    let relay = Relay::open(&["--latency", "20ms"]);
    let setups: Vec<_> = (0..3).map(|_| relay.setup(&queue, "")).collect();
    let mut bridges: Vec<Bridge> = Vec::new();
    for setup in &setups {
        bridges.push(setup.start_ready().await);
    }
    let count = GROUPS * EACH / 2;
    let kill = async {
        relay.ledger.reaches(count as usize / 3, PATIENCE).await;
        bridges.remove(1).kill();
        assert!(ids(&relay.ledger.read()).len() < count as usize, "over before the kill");
    };
    tokio::join!(kill, queue.send(grouped(0..count, GROUPS)));
    relay.ledger.has_ids(count as usize, PATIENCE).await;
    for bridge in &bridges {
        bridge.metric_is(super::IN_FLIGHT, |v| v == 0.0).await;
        let received = bridge.metric("source_received_total{source=\"it\"}").await;
        assert!(received > 0.0, "a replica had nothing to do");
    }
    let accepted = relay.ledger.read();
    assert_first_in_order(&accepted);
    assert_replays(&accepted, 1);
    empty(&queue).await;
}

/// SQS hands out nothing of a group that it has handed out: a receive whose answer is lost is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_stops_no_group() {
    let fake = Fake::start().await;
    let queue = fake.queue("lost.fifo", &[(VisibilityTimeout, "600")]).await;
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    for round in 0..3 {
        fake.faults().requests.insert(Action::ReceiveMessage, (Refusal::Lost, 2));
        queue.send(grouped(round * 20..(round + 1) * 20, 4)).await;
        relay.has_all(&bridge, (round + 1) * 20).await;
    }
    assert_eq!(all_deleted(&fake, &queue).await, BTreeMap::from([(1, 60)]));
    assert_order(&relay.ledger.read(), 0);
}

/// SQS takes no repeat of a receive whose messages somebody gave back: that is no trouble, and nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_is_refused_is_a_new_receive_at_once() {
    let fake = Fake::start().await;
    let queue = fake.queue("outdated.fifo", &[(VisibilityTimeout, "600")]).await;
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "receivers = 1").start_ready().await;
    let asked = fake.asked(Action::ReceiveMessage);
    fake.faults().requests.insert(Action::ReceiveMessage, (Refusal::Lost, 2));
    // One that is open already is answered.
    until("one is to be lost", PATIENCE, async || {
        (fake.asked(Action::ReceiveMessage) > asked).then_some(())
    })
    .await;
    queue.send(grouped(0..5, 1)).await;
    until("they are handed out", PATIENCE, async || {
        (queue.counts().await.in_flight > 0).then_some(())
    })
    .await;
    fake.give_all_back(&queue.name);
    let since = Instant::now();
    relay.has_all(&bridge, 5).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{}", bridge.log());
    assert!(bridge.lines(&["not retryable"]).is_empty(), "{}", bridge.log());
    all_deleted(&fake, &queue).await;
    assert_order(&relay.ledger.read(), 0);
}

/// Whether an idle queue answers again is known without a long poll.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_that_answers_again_is_ready_at_once() {
    let mut fake = Fake::start().await;
    let queue = fake.queue("cut.fifo", &[]).await;
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "wait_time = \"20s\"").start_ready().await;
    until("it waits", PATIENCE, async || (fake.open_polls() == 2).then_some(())).await;
    fake.stop();
    bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await;
    fake.restart().await;
    let since = Instant::now();
    bridge.ready().await;
    assert!(since.elapsed() < Duration::from_secs(10), "{}", bridge.log());
    queue.send(grouped(0..5, 1)).await;
    relay.has_all(&bridge, 5).await;
}

async fn empty(queue: &crate::support::sqs::Queue) {
    until("the queue is empty", PATIENCE, async || {
        let counts = queue.counts().await;
        (counts.waiting + counts.in_flight == 0).then_some(())
    })
    .await;
}
