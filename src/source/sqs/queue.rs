//! A queue as the source speaks to it: each call tried once, with what became of every entry of a batch.

use std::time::{Duration, SystemTime};

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName, QueueAttributeName,
};
use tokio::time::timeout;

use super::attempt::Attempt;
use super::receipt::Receipt;
use crate::aws::AwsError;
use crate::aws::Source;
use crate::aws::sqs::{BATCH, Call, Failed, Settings, Sqs, Trouble, failed};
use crate::config::sqs::{Queue as Address, SqsConfig};
use crate::probe::Complaint;

/// A receive may take this long beyond its wait; one that waits for nothing, and any other call, this long.
const ANSWER: Duration = Duration::from_secs(10);

/// The attributes that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) visibility: Duration,
    /// After how many receives a message goes to the queue's own dead-letter queue, if it has one.
    pub(super) max_receive_count: Option<u32>,
}

/// A queue, and the client for it.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sqs: Sqs,
    address: Address,
}

impl Queue {
    /// Opens the credential chain; asks the queue nothing.
    pub(super) async fn open(config: &SqsConfig) -> Result<Self, AwsError> {
        let aws = &config.aws;
        let source = Source {
            region: aws.region.clone(),
            profile: aws.profile.clone(),
            role_arn: aws.role_arn.clone(),
            external_id: aws.external_id.clone(),
        };
        let settings = Settings {
            source,
            endpoint: config.endpoint.clone(),
            ca_file: config.tls.as_ref().and_then(|tls| tls.ca_file.clone()),
            attempt: config.wait_time + ANSWER,
        };
        let sqs = Sqs::open(settings).await?;
        Ok(Self { sqs, address: config.queue.clone() })
    }

    /// Tells `told` when the credentials in use end.
    pub(super) fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        self.sqs.tell_end(told);
    }

    /// Its URL, taken apart.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// What went wrong with a call, and the remedy.
    pub(super) fn words(&self, call: Call, trouble: &Trouble) -> String {
        trouble.with_hint(call, &self.address, self.sqs.region())
    }

    /// As what a look ends with.
    pub(super) fn complaint(&self, call: Call, trouble: &Trouble) -> Complaint {
        trouble.complaint(call, &self.address, self.sqs.region())
    }

    /// Notes that the credentials were refused. Whether there are new ones.
    pub(super) async fn refused(&self) -> bool {
        self.sqs.refused().await
    }

    /// Asks for its attributes.
    pub(super) async fn attributes(&self) -> Result<Attributes, Trouble> {
        let call = self.sqs.client().get_queue_attributes().queue_url(&self.address.url);
        let call = call
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .attribute_names(QueueAttributeName::RedrivePolicy);
        let answer = timeout(ANSWER, call.send()).await.map_err(|_| Trouble::silent())?;
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let visibility = attributes.get(&QueueAttributeName::VisibilityTimeout);
        let visibility = visibility.and_then(|seconds| seconds.parse().ok());
        let redrive = attributes.get(&QueueAttributeName::RedrivePolicy);
        Ok(Attributes {
            visibility: visibility.map_or(DEFAULT_VISIBILITY, Duration::from_secs),
            max_receive_count: redrive.and_then(|policy| max_receive_count(policy)),
        })
    }

    /// Waits for messages, which are ours for `visibility`.
    pub(super) async fn receive(
        &self,
        attempt: &Attempt,
        visibility: Duration,
    ) -> Result<Vec<Message>, Trouble> {
        let (most, wait) = (attempt.most.min(BATCH), attempt.wait);
        let call = self.sqs.client().receive_message().queue_url(&self.address.url);
        let call = call
            .max_number_of_messages(i32::try_from(most).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .set_receive_request_attempt_id(attempt.id.clone())
            .visibility_timeout(seconds(visibility))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All");
        let answer = timeout(wait + ANSWER, call.send()).await.map_err(|_| Trouble::silent())?;
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Deletes up to [`BATCH`] messages; gives those that were not.
    pub(super) async fn delete(&self, receipts: &[&Receipt]) -> Result<Vec<Failed>, Trouble> {
        let mut call = self.sqs.client().delete_message_batch().queue_url(&self.address.url);
        for (at, receipt) in receipts.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(&*receipt.handle);
            call = call.entries(entry.build().map_err(|_| Trouble::silent())?);
        }
        let answer = timeout(ANSWER, call.send()).await.map_err(|_| Trouble::silent())?;
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        Ok(failed(receipts.len(), done, &answer.failed))
    }

    /// Makes up to [`BATCH`] messages ours for `visibility` from now; gives those that are not. With zero they are
    /// anybody's at once.
    pub(super) async fn set_visibility(
        &self,
        receipts: &[&Receipt],
        visibility: Duration,
    ) -> Result<Vec<Failed>, Trouble> {
        let mut call =
            self.sqs.client().change_message_visibility_batch().queue_url(&self.address.url);
        for (at, receipt) in receipts.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(&*receipt.handle)
                .visibility_timeout(seconds(visibility));
            call = call.entries(entry.build().map_err(|_| Trouble::silent())?);
        }
        let answer = timeout(ANSWER, call.send()).await.map_err(|_| Trouble::silent())?;
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        let done = answer.successful.iter().map(|entry| entry.id.as_str());
        Ok(failed(receipts.len(), done, &answer.failed))
    }
}

/// Where a queue does not say.
const DEFAULT_VISIBILITY: Duration = Duration::from_secs(30);

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// Of a `RedrivePolicy`: its count may be a number or a text.
fn max_receive_count(policy: &str) -> Option<u32> {
    let policy: serde_json::Value = serde_json::from_str(policy).ok()?;
    policy.get("deadLetterTargetArn")?;
    let count = policy.get("maxReceiveCount")?;
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    u32::try_from(count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_policy_counts_in_both_spellings() {
        let policy = |count: &str| {
            format!("{{\"deadLetterTargetArn\":\"arn:aws:sqs:r:1:d\",\"maxReceiveCount\":{count}}}")
        };
        assert_eq!(max_receive_count(&policy("3")), Some(3));
        assert_eq!(max_receive_count(&policy("\"7\"")), Some(7));
        for none in ["", "{}", "{\"maxReceiveCount\":3}", &policy("\"x\"")] {
            assert_eq!(max_receive_count(none), None, "{none}");
        }
    }
}
