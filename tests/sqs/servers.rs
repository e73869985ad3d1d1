//! The servers that stand for SQS do what SQS does: one suite for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};

use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};
use crate::support::sqs::servers::{ElasticMq, Moto};
use crate::support::sqs::{Counts, Outgoing, Server};
use crate::support::{PATIENCE, until};

#[tokio::test]
async fn elasticmq_does_what_sqs_does() {
    let server = ElasticMq::shared().await;
    standard(server).await;
    fifo(server).await;
    redrive(server).await;
}

#[tokio::test]
async fn the_fake_does_what_sqs_does() {
    let fake = Fake::start().await;
    standard(&fake).await;
    fifo(&fake).await;
    redrive(&fake).await;
}

/// What none of the others does on demand.
#[tokio::test]
async fn the_fake_does_what_it_is_told_to_do_wrong() {
    let fake = Fake::start().await;
    let queue = fake.queue("faulty", &[]).await;
    fake.fill(&queue.name, (0..300).map(|n| n.to_string()));
    fake.limit_in_flight(&queue.name, 10);
    let taken = queue.receive(0).await;
    let receive = || queue.client.receive_message().queue_url(&queue.url);
    // The SDK repeats what may pass.
    let refused = receive().send().await.unwrap_err();
    assert_eq!(refused.code(), Some("OverLimit"));
    assert!(refused.into_service_error().is_over_limit());

    fake.faults().again = 1.0;
    queue.delete(&taken).await;
    let again = queue.receive(0).await;
    assert_eq!(again.iter().map(received).collect::<Vec<_>>(), [2; 10]);
    fake.faults().again = 0.0;
    queue.delete(&again).await;
    let history = fake.history(&queue.name);
    assert!(history[..10].iter().all(|h| h.receives == 2 && h.deleted && !h.moved));
    assert!(history[10..].iter().all(|h| h.receives == 0 && !h.deleted));

    fake.faults().entries.insert(Action::SendMessageBatch, 1.0);
    let entry = aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder();
    let entry = entry.id("0").message_body("x").build().unwrap();
    let batch = queue.client.send_message_batch().queue_url(&queue.url).entries(entry);
    let answer = batch.send().await.unwrap();
    assert_eq!((answer.successful.len(), answer.failed.len()), (0, 1));
    assert_eq!(answer.failed[0].code(), "InternalError");

    let asked = fake.asked(Action::ReceiveMessage);
    for (refusal, code) in [
        (Refusal::AccessDenied, Some("AccessDenied")),
        (Refusal::KmsAccessDenied, Some("KMS.AccessDeniedException")),
        (Refusal::NoQueue, Some("AWS.SimpleQueueService.NonExistentQueue")),
        (Refusal::OverLimit, Some("OverLimit")),
        (Refusal::Throttled, Some("RequestThrottled")),
        (Refusal::Internal, Some("InternalFailure")),
        (Refusal::Unavailable, None),
        (Refusal::Lost, None),
    ] {
        fake.faults().requests.insert(Action::ReceiveMessage, (refusal, ALWAYS));
        let refused = receive().send().await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    assert!(fake.asked(Action::ReceiveMessage) >= asked + 8);
    // It was done, as often as the SDK asked.
    assert_eq!(
        queue.counts().await.in_flight,
        fake.history(&queue.name).iter().filter(|h| h.receives > 0 && !h.deleted).count() as u64
    );
    fake.faults().requests.insert(Action::ReceiveMessage, (Refusal::Internal, 1));
    assert!(receive().send().await.is_ok());

    fake.faults().black_hole = true;
    let poll = tokio::spawn(receive().send());
    until("the poll", PATIENCE, async || (fake.open_polls() == 1).then_some(())).await;
    poll.abort();
    until("its end", PATIENCE, async || (fake.open_polls() == 0).then_some(())).await;
}

/// FIFO is not among what it is good at.
#[tokio::test]
async fn moto_does_what_sqs_does() {
    let server = Moto::shared().await;
    standard(server).await;
    redrive(server).await;
}

/// Messages come with all that is known of them, are invisible until they are given back, and are gone when
/// they are deleted.
async fn standard(server: &Server) {
    let queue = server.queue("plain", &[(QueueAttributeName::VisibilityTimeout, "60")]).await;
    let timeout = queue.attribute(QueueAttributeName::VisibilityTimeout).await;
    assert_eq!(timeout.as_deref(), Some("60"));
    assert_eq!(
        queue.attribute(QueueAttributeName::FifoQueue).await.unwrap_or("false".into()),
        "false"
    );
    let messages = (0..25).map(|n| {
        Outgoing::new(format!("message {n}")).attribute("tenant", "acme").bytes("raw", &[0, 255])
    });
    queue.send(messages).await;
    assert_eq!(queue.counts().await, Counts { waiting: 25, ..Counts::default() });
    let mut taken = Vec::new();
    while taken.len() < 25 {
        let some = queue.receive(20).await;
        assert!((1..=10).contains(&some.len()), "{some:?}");
        taken.extend(some);
    }
    let bodies: BTreeMap<_, _> = taken.iter().map(|m| (m.body().unwrap(), m)).collect();
    assert_eq!(bodies.len(), 25);
    let attributes = taken[0].message_attributes().unwrap();
    assert_eq!(attributes["tenant"].string_value(), Some("acme"));
    assert_eq!(attributes["raw"].binary_value().unwrap().as_ref(), [0, 255]);
    assert_eq!(received(&taken[0]), 1);
    assert!(system(&taken[0], &MessageSystemAttributeName::SentTimestamp).len() == 13);
    assert_eq!(queue.counts().await, Counts { in_flight: 25, ..Counts::default() });
    assert!(queue.receive(0).await.is_empty());
    // One is given back, and is there at once for who waits for it.
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.receive(20).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    queue.change_visibility(&taken[0], 0).await;
    let again = waiting.await.unwrap();
    assert_eq!(again.iter().map(Message::body).collect::<Vec<_>>(), [taken[0].body()]);
    assert_eq!(received(&again[0]), 2);
    assert_eq!(again[0].message_id(), taken[0].message_id());
    queue.delete(&again).await;
    queue.delete(&taken[1..]).await;
    assert_eq!(queue.counts().await, Counts::default());
}

/// A group is in order, and held while one of it is in flight; other groups are not.
async fn fifo(server: &Server) {
    let queue = server.queue("ordered.fifo", &[]).await;
    assert_eq!(queue.attribute(QueueAttributeName::FifoQueue).await.as_deref(), Some("true"));
    let message = |group: &str, n: usize| {
        Outgoing::new(format!("{group}{n}")).group(group, format!("{group}{n}"))
    };
    queue.send((0..3).flat_map(|n| ["a", "b"].map(|group| message(group, n)))).await;
    // The same again, within five minutes: not taken.
    queue.send([message("a", 0)]).await;
    let first = receive_until(&queue, 6).await;
    for group in ["a", "b"] {
        let of: Vec<_> = first.iter().filter(|m| group_of(m) == group).collect();
        let bodies: Vec<_> = of.iter().map(|m| m.body().unwrap()).collect();
        assert_eq!(bodies, [format!("{group}0"), format!("{group}1"), format!("{group}2")]);
    }
    queue.send([message("a", 3), message("c", 0)]).await;
    // That of `a` waits for the others of it.
    let (of_a, of_b): (Vec<_>, Vec<_>) = first.into_iter().partition(|m| group_of(m) == "a");
    queue.delete(&of_b).await;
    let next = receive_until(&queue, 1).await;
    assert_eq!(next[0].body(), Some("c0"));
    queue.delete(&next).await;
    // Given back from the last to the first, they come again in their order, and the new one behind them.
    for message in of_a.iter().rev() {
        queue.change_visibility(message, 0).await;
    }
    let again = receive_until(&queue, 4).await;
    let bodies: Vec<_> = again.iter().map(|m| m.body().unwrap()).collect();
    assert_eq!(bodies, ["a0", "a1", "a2", "a3"]);
    assert_eq!(again.iter().map(received).collect::<Vec<_>>(), [2, 2, 2, 1]);
    queue.delete(&again).await;
    assert_eq!(queue.counts().await, Counts::default());
}

/// What was received too often goes to the other queue.
async fn redrive(server: &Server) {
    let (queue, dead) = server.with_redrive("poor", &[], 2).await;
    assert!(queue.attribute(QueueAttributeName::RedrivePolicy).await.is_some());
    queue.send([Outgoing::new("poison")]).await;
    for count in 1..=2 {
        let taken = receive_until(&queue, 1).await;
        assert_eq!(received(&taken[0]), count);
        queue.change_visibility(&taken[0], 0).await;
    }
    assert!(queue.receive(1).await.is_empty());
    let taken = receive_until(&dead, 1).await;
    assert_eq!(taken[0].body(), Some("poison"));
}

/// So many messages, in the order they came in, none of them deleted meanwhile.
async fn receive_until(queue: &crate::support::sqs::Queue, count: usize) -> Vec<Message> {
    let mut all = Vec::new();
    until("messages", PATIENCE, async || {
        all.extend(queue.receive(1).await);
        (all.len() >= count).then_some(())
    })
    .await;
    assert_eq!(all.len(), count);
    all
}

fn received(message: &Message) -> u32 {
    system(message, &MessageSystemAttributeName::ApproximateReceiveCount).parse().unwrap()
}

fn group_of(message: &Message) -> &str {
    system(message, &MessageSystemAttributeName::MessageGroupId)
}

fn system<'m>(message: &'m Message, name: &MessageSystemAttributeName) -> &'m str {
    &message.attributes().unwrap()[name]
}
