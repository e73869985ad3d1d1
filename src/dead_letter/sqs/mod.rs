//! Dead letters as messages of an SQS queue, each confirmed by its entry of the answer.
//!
//! A message is a [`Letter`]: a record, or a part of one that is larger than a message may be. In a FIFO queue the
//! rejects of an ordering key are a group, and what was confirmed and not heard is not there twice; in a standard
//! queue it may be.
//!
//! A failure is retried by the writer for ever. Records that were confirmed behind the first that was not are
//! remembered, and not sent again; a restart forgets them.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};
use tokio::time::timeout;

mod letter;

use super::left::Left;
use super::{Record, Target, WriteError};
use crate::aws::sqs::{Call, Failed, Kind, Settings, Sqs, Trouble, failed};
use crate::aws::{AwsError, Source};
use crate::config::sqs::Queue;
use crate::config::sqs::SqsRejects;
use crate::error_chain::printable;
use crate::metrics::{DeadLetterMetrics, ends_at};
use crate::probe::Complaint;
use letter::{Letter, TEXT, batches, letters};

/// The timeout of a call.
const ANSWER: Duration = Duration::from_secs(10);

/// What a queue takes that may not be asked: less than that is set by hand.
const ASSUMED: usize = 256 << 10;

/// The least that a queue can be set to.
const LEAST: usize = 1 << 10;

/// Of what SQS says of an entry, so much is shown.
const SHOWN: usize = 400;

/// A queue.
pub struct SqsTarget {
    sqs: Sqs,
    queue: Queue,
    /// Bytes of a message, and of a batch; `None`: not known yet.
    most: Option<usize>,
    left: Left,
}

impl SqsTarget {
    /// A target of these settings; opens the credential chain, asks the queue nothing.
    pub async fn build(rejects: SqsRejects) -> Result<Self, AwsError> {
        let source = source(&rejects);
        let SqsRejects { queue, endpoint, .. } = rejects;
        let settings = Settings { source, endpoint, ca_file: None, attempt: ANSWER };
        let sqs = Sqs::open(settings).await?;
        Ok(Self { sqs, queue, most: None, left: Left::default() })
    }

    /// Checks whether a target of these settings can be built; fetches no credentials.
    pub async fn examine(rejects: &SqsRejects) -> Result<(), AwsError> {
        source(rejects).check().await.map(drop)
    }

    /// What the queue is, or why it could not be written. Nothing is sent.
    pub async fn look(&mut self) -> Result<String, Complaint> {
        let kind = if self.queue.is_fifo() { "FIFO" } else { "standard" };
        let asked = match self.ask().await {
            Ok(most) => format!("a {kind} queue, which takes messages of {most} bytes"),
            Err(trouble) if trouble.kind == Kind::Denied => {
                format!(
                    "a {kind} queue, which takes messages of {ASSUMED} bytes, unless it is set lower"
                )
            }
            Err(trouble) => return Err(self.complaint(Call::Attributes, &trouble)),
        };
        // One without entries: the policy is looked at first, and what is said of the batch is of no concern.
        let empty = self.sqs.client().send_message_batch().queue_url(&self.queue.url);
        let said = timeout(ANSWER, empty.set_entries(Some(Vec::new())).send()).await;
        let trouble = match said {
            Err(_) => Some(Trouble::silent()),
            Ok(said) => said.err().map(|error| Trouble::of(&error)),
        };
        match trouble.filter(|trouble| trouble.kind != Kind::Refused) {
            Some(trouble) => Err(self.complaint(Call::Send, &trouble)),
            None => Ok(asked),
        }
    }

    /// The most bytes of a message.
    async fn ask(&self) -> Result<usize, Trouble> {
        let call = self.sqs.client().get_queue_attributes().queue_url(&self.queue.url);
        let call = call.attribute_names(QueueAttributeName::MaximumMessageSize);
        let answer = timeout(ANSWER, call.send()).await.map_err(|_| Trouble::silent())?;
        let answer = answer.map_err(|error| Trouble::of(&error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let most = attributes.get(&QueueAttributeName::MaximumMessageSize);
        Ok(most.and_then(|most| most.parse().ok()).unwrap_or(ASSUMED).max(LEAST))
    }

    async fn most(&mut self) -> Result<usize, String> {
        if let Some(most) = self.most {
            return Ok(most);
        }
        let most = match self.ask().await {
            Ok(most) => most,
            Err(trouble) if trouble.kind == Kind::Denied => ASSUMED,
            Err(trouble) => return Err(self.failed(Call::Attributes, &trouble).await),
        };
        self.most = Some(most);
        Ok(most)
    }

    /// Sends the records not `done` yet, and marks those that are confirmed.
    async fn deliver(&mut self, records: &[Record], done: &mut [bool]) -> Result<(), String> {
        let most = self.most().await?;
        let open: Vec<usize> = (0..records.len()).filter(|at| !done[*at]).collect();
        let letters = open.into_iter().flat_map(|at| letters(at, &records[at], most));
        let (mut broken, mut held, mut why) = (BTreeSet::new(), BTreeSet::new(), None);
        for mut batch in batches(letters, most) {
            // What is behind one of its group has to wait for it.
            broken.extend(batch.extract_if(.., |it| held.contains(&it.group)).map(|it| it.number));
            if batch.is_empty() {
                continue;
            }
            for failed in self.send(&batch).await? {
                let letter = &batch[failed.at];
                broken.insert(letter.number);
                if self.queue.is_fifo() {
                    held.insert(letter.group.clone());
                }
                why.get_or_insert(failed.why);
            }
            let last = batch.iter().filter(|letter| letter.is_last);
            for whole in last.filter(|letter| !broken.contains(&letter.number)) {
                done[whole.number] = true;
            }
        }
        let Some(why) = why else { return Ok(()) };
        Err(format!("the queue `{}` can't be written: {}", self.queue.name, printable(&why, SHOWN)))
    }

    /// Sends a batch; gives the entries that were not taken.
    async fn send(&self, batch: &[Letter]) -> Result<Vec<Failed>, String> {
        let mut call = self.sqs.client().send_message_batch().queue_url(&self.queue.url);
        for (at, letter) in batch.iter().enumerate() {
            let mut entry = SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(&letter.body);
            for (name, value) in &letter.attributes {
                let value = MessageAttributeValue::builder().data_type(TEXT).string_value(value);
                entry = entry.message_attributes(name, value.build().map_err(words)?);
            }
            if self.queue.is_fifo() {
                entry = entry.message_group_id(&letter.group);
                entry = entry.message_deduplication_id(&letter.id);
            }
            call = call.entries(entry.build().map_err(words)?);
        }
        let answer = match timeout(ANSWER, call.send()).await {
            Err(_) => Err(Trouble::silent()),
            Ok(answer) => answer.map_err(|error| Trouble::of(&error)),
        };
        match answer {
            Ok(answer) => {
                let taken = answer.successful.iter().map(|entry| entry.id.as_str());
                Ok(failed(batch.len(), taken, &answer.failed))
            }
            Err(trouble) => Err(self.failed(Call::Send, &trouble).await),
        }
    }

    async fn failed(&self, call: Call, trouble: &Trouble) -> String {
        if trouble.kind == Kind::Credentials {
            self.sqs.refused().await;
        }
        self.complaint(call, trouble).to_string()
    }

    fn complaint(&self, call: Call, trouble: &Trouble) -> Complaint {
        let complaint = trouble.complaint(call, &self.queue, self.sqs.region());
        complaint.about(&format!("the queue `{}` can't be written", self.queue.name))
    }
}

impl Target for SqsTarget {
    fn place(&self) -> String {
        format!("queue {}", self.queue.name)
    }

    fn tell_end(&self, metrics: &DeadLetterMetrics) {
        self.sqs.tell_end(ends_at(&metrics.credentials_expiry));
    }

    async fn open(&mut self) -> Result<(), WriteError> {
        self.look().await.map(drop).map_err(WriteError::from)
    }

    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut done = self.left.recall(records);
        let Err(why) = self.deliver(records, &mut done).await else { return Ok(()) };
        // The queue may take less by now, and refuse a whole batch for it.
        self.most = None;
        Err(self.left.keep(records, done, why))
    }
}

impl fmt::Debug for SqsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqsTarget({})", self.queue.name)
    }
}

fn source(rejects: &SqsRejects) -> Source {
    let aws = &rejects.aws;
    Source {
        region: aws.region.clone(),
        profile: aws.profile.clone(),
        role_arn: aws.role_arn.clone(),
        external_id: aws.external_id.clone(),
    }
}

fn words(error: impl fmt::Display) -> String {
    error.to_string()
}
