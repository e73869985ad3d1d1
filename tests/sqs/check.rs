//! `check --connect` of a queue: one line, and nothing received.

use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;

use super::{Relay, bodies, source_of};
use crate::support::sqs::Queue;
use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};

async fn said(relay: &Relay, queue: &Queue, lines: &str, rest: &str) -> (bool, Vec<String>) {
    let route = "channel = \"/it/dev-{json.key}\"\n";
    let (good, said) = relay.setup_of(&source_of("it", queue, lines), route, rest).check().await;
    (good, said.lines().filter(|l| l.contains("source it:")).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_is_one_line_and_nothing_is_received() {
    let fake = Fake::start().await;
    let (queue, _) = fake.with_redrive("checked", &[], 5).await;
    fake.fill(&queue.name, bodies(0..5, 5));
    let short = fake.queue("short", &[(VisibilityTimeout, "10")]).await;
    let relay = Relay::open(&[]);
    let (good, lines) = said(&relay, &queue, "", "").await;
    assert!(good && lines.len() == 1, "{lines:?}");
    assert!(
        lines[0].contains("a standard queue") && lines[0].contains("after 5 receives"),
        "{lines:?}"
    );

    let (good, lines) = said(&relay, &short, "", "").await;
    // `run` takes from it: leases are extended in the drain too.
    assert!(good && lines.len() == 2, "{lines:?}");
    assert!(lines[1].starts_with("warning: ") && lines[1].contains("10s"), "{lines:?}");
    assert!(lines[1].contains("shorter than the drain"), "{lines:?}");
    for (lines, rest) in
        [("visibility_timeout = \"1m\"", ""), ("", "[shutdown]\ngrace = \"10s\"\n")]
    {
        let (good, lines) = said(&relay, &short, lines, rest).await;
        assert!(good && lines.len() == 1, "{lines:?}");
    }

    let mut missing = queue.clone();
    missing.url += "-x";
    let (good, lines) = said(&relay, &missing, "", "").await;
    assert!(!good && lines.len() == 1 && lines[0].contains("there is no queue"), "{lines:?}");

    for (action, refusal, words) in [
        (Action::GetQueueAttributes, Refusal::AccessDenied, "`sqs:GetQueueAttributes` is denied"),
        (Action::DeleteMessageBatch, Refusal::AccessDenied, "`sqs:DeleteMessage` is denied"),
        (
            Action::ChangeMessageVisibilityBatch,
            Refusal::AccessDenied,
            "`sqs:ChangeMessageVisibility` is denied",
        ),
        (Action::GetQueueAttributes, Refusal::Unavailable, "`sqs:GetQueueAttributes` failed"),
        // Without an answer nothing is known of the policy.
        (Action::DeleteMessageBatch, Refusal::Unavailable, "`sqs:DeleteMessage` failed"),
        (Action::ChangeMessageVisibilityBatch, Refusal::Internal, "not known: check again"),
        (Action::DeleteMessageBatch, Refusal::Lost, "`sqs:DeleteMessage` failed"),
    ] {
        fake.faults().requests.insert(action, (refusal, ALWAYS));
        let (good, lines) = said(&relay, &queue, "", "").await;
        assert!(!good && lines.len() == 1 && lines[0].contains(words), "{words}: {lines:?}");
        fake.faults().requests.clear();
    }
    assert_eq!(fake.asked(Action::ReceiveMessage), 0);
    assert!(fake.history(&queue.name).iter().all(|m| m.receives == 0 && !m.deleted));
}
