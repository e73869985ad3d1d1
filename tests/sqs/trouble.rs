//! What SQS refuses, and what it says instead of an answer.

use std::time::Duration;

use super::{IN_FLIGHT, Relay, all_deleted, bodies};
use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};
use crate::support::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_receive_is_said_and_not_repeated_at_full_speed() {
    let fake = Fake::start().await;
    let queue = fake.queue("denied", &[]).await;
    fake.fill(&queue.name, bodies(0..5, 5));
    fake.faults().requests.insert(Action::ReceiveMessage, (Refusal::AccessDenied, ALWAYS));
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "").start().await;
    let said = until("it is said", PATIENCE, async || {
        let (status, said) = bridge.get("/readyz").await;
        (status == 503 && said.contains("denied")).then_some(said)
    })
    .await;
    let name = &queue.name;
    assert!(said.contains("`sqs:ReceiveMessage`") && said.contains(&format!(":{name}`")), "{said}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    // One for each receiver.
    assert!(fake.asked(Action::ReceiveMessage) <= 2, "{}", fake.asked(Action::ReceiveMessage));
    assert_eq!(bridge.lines(&["SQS does not do"]).len(), 1, "{}", bridge.log());
    fake.faults().requests.clear();
    relay.has_all(&bridge, 5).await;
    bridge.ready().await;
    assert_eq!(all_deleted(&fake, &queue).await[&1], 5);
}

/// What can't be deleted comes again and again: nothing more is taken until it can.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_delete_nothing_more_is_received() {
    let fake = Fake::start().await;
    let queue = fake.queue("undeletable", &[]).await;
    fake.faults().requests.insert(Action::DeleteMessageBatch, (Refusal::AccessDenied, ALWAYS));
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    fake.fill(&queue.name, bodies(0..20, 5));
    relay.ledger.has_ids(20, PATIENCE).await;
    until("it is said", PATIENCE, async || {
        bridge.get("/readyz").await.1.contains("`sqs:DeleteMessage` is denied").then_some(())
    })
    .await;
    // A receive that was open may still bring something.
    until("no receive is open", PATIENCE, async || (fake.open_polls() == 0).then_some(())).await;
    fake.fill(&queue.name, bodies(20..120, 5));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.ledger.len(), 20, "{}", bridge.log());
    fake.faults().requests.clear();
    relay.has_all(&bridge, 120).await;
    assert_eq!(all_deleted(&fake, &queue).await[&1], 120);
    bridge.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_faults_of_the_service_are_waited_out() {
    let fake = Fake::start().await;
    let queue = fake.queue("throttled", &[]).await;
    let relay = Relay::open(&["--latency", "20ms"]);
    let bridge = relay.setup(&queue, "").start_ready().await;
    for refusal in [
        Refusal::Throttled,
        Refusal::OverLimit,
        Refusal::Internal,
        Refusal::Unavailable,
        Refusal::Lost,
    ] {
        for action in [
            Action::ReceiveMessage,
            Action::DeleteMessageBatch,
            Action::ChangeMessageVisibilityBatch,
        ] {
            fake.faults().requests.insert(action, (refusal, 4));
        }
        let done = fake.history(&queue.name).len() as u64;
        fake.fill(&queue.name, bodies(done..done + 60, 6));
        relay.has_all(&bridge, done + 60).await;
        all_deleted(&fake, &queue).await;
    }
    bridge.ready().await;
    assert_eq!(bridge.metric(IN_FLIGHT).await, 0.0);
    assert!(
        !bridge.lines(&["ThrottlingException"]).is_empty()
            || !bridge.lines(&["hrottle"]).is_empty(),
        "{}",
        bridge.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_there_is_waited_for_and_named() {
    let fake = Fake::start().await;
    let mut queue = fake.queue("there", &[]).await;
    queue.url += "-not";
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "").start().await;
    let said = until("it is said", PATIENCE, async || {
        let (_, said) = bridge.get("/readyz").await;
        said.contains("there is no queue").then_some(said)
    })
    .await;
    assert!(said.contains("-not") && said.contains("region `eu-west-1`"), "{said}");
    assert_eq!(fake.asked(Action::ReceiveMessage), 0);
    assert_eq!(bridge.metric("source_connected{source=\"it\"}").await, 0.0);
}
