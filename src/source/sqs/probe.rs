//! Whether a queue is there and lets us in: for `check --connect`. It receives nothing: that would count.

use std::time::Duration;

use super::NO_REDRIVE;
use super::queue::Queue;
use super::receipt::Receipt;
use crate::aws::sqs::{Call, Kind, Trouble};
use crate::config::sqs::SqsConfig;
use crate::probe::{Complaint, Found, Step};

/// What would take messages.
const UNTRIED: &str = "`sqs:GetQueueAttributes`, `sqs:DeleteMessage` and `sqs:ChangeMessageVisibility` are allowed; `sqs:ReceiveMessage` was not tried, as that would take messages";

/// Without an answer.
const UNKNOWN: &str = "whether it is allowed is not known: check again";

/// What was found, or why the source could not work: a clause, and a hint where there is one. A drain takes up to `grace`.
pub async fn probe(config: &SqsConfig, grace: Duration) -> Result<Found, Complaint> {
    let queue = Queue::open(config).await;
    let queue = queue.map_err(|error| Complaint::of_words(Step::Login, &error.to_string()))?;
    let attributes = queue.attributes().await;
    let attributes = attributes.map_err(|trouble| queue.complaint(Call::Attributes, &trouble))?;
    if config.needs_redrive && attributes.max_receive_count.is_none() {
        return Err(Complaint::of_words(Step::Exists, NO_REDRIVE));
    }
    let visibility = config.visibility_timeout.unwrap_or(attributes.visibility);
    for call in [Call::Delete, Call::Visibility] {
        if let Some(trouble) = trouble_of(&queue, call).await {
            let mut complaint = queue.complaint(call, &trouble);
            if complaint.remedy.is_empty() {
                UNKNOWN.clone_into(&mut complaint.remedy);
            }
            return Err(complaint);
        }
    }
    let kind = if queue.address().is_fifo() { "FIFO" } else { "standard" };
    let redrive = match attributes.max_receive_count {
        Some(count) => format!("a redrive policy after {count} receives"),
        None => "no redrive policy".to_owned(),
    };
    let what = format!("a {kind} queue, a visibility timeout of {visibility:?}, {redrive}");
    let warned = (visibility < grace).then(|| shorter_than_the_drain(visibility, grace));
    Ok(Found { untried: Some((Step::Allowed, UNTRIED)), warned, ..Found::from(what) })
}

/// The source works, for leases are extended in the drain too.
fn shorter_than_the_drain(visibility: Duration, grace: Duration) -> Complaint {
    let longer = grace.as_secs() + 5;
    Complaint::new(
        Step::Exists,
        format!(
            "the visibility timeout of {visibility:?} is shorter than the drain (`shutdown.grace`, {grace:?}): a lease \
             that is not extended in time ends in it, and its message comes twice"
        ),
        format!("set `visibility_timeout = \"{longer}s\"`, or one as long on the queue"),
    )
}

/// Tries a call on a receipt that there is not: SQS looks at the policy first. What it says of the receipt is of
/// no concern.
async fn trouble_of(queue: &Queue, call: Call) -> Option<Trouble> {
    let (id, handle) = ("check".into(), "check".into());
    let nobody = Receipt { order: 0, id, handle, group: None, receive_count: 1 };
    let said = match call {
        Call::Delete => queue.delete(&[&nobody]).await,
        _ => queue.set_visibility(&[&nobody], Duration::ZERO).await,
    };
    said.err().filter(|trouble| trouble.kind != Kind::Refused)
}
