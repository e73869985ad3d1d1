//! `type = "sqs"` of a dead letter: a queue.

use super::queue::{FORM, Queue, endpoint};
use super::{SqsConfig, WORDS, aws};
use crate::config::api::Aws;
use crate::config::reader::{Field, Located, Table};

/// A checked `type = "sqs"` of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqsRejects {
    /// No source whose rejects go here reads it.
    pub queue: Queue,
    /// Where credentials and region come from.
    pub aws: Aws,
    /// Where requests go.
    pub endpoint: String,
}

impl SqsRejects {
    /// Whether `sqs` takes what is sent to the queue.
    pub(in crate::config) fn read_by(&self, sqs: &SqsConfig) -> bool {
        let (ours, theirs) = (&self.queue, &sqs.queue);
        // By the same way, the path is all that tells.
        let same_way = self.endpoint == sqs.endpoint
            && (&ours.account, &ours.name) == (&theirs.account, &theirs.name);
        same_way || theirs.may_be(ours)
    }
}

/// Reads it; the place is that of the queue.
pub(in crate::config) fn read_rejects(mut table: Table<'_>) -> Option<Located<SqsRejects>> {
    table.knows(WORDS);
    let ledger = table.ledger;
    let plaintext = table.boolean("dangerously_plaintext").or(false);
    let allowed = plaintext.as_ref().is_none_or(|setting| setting.value);
    let endpoint = table.filled("endpoint").then(|text| endpoint(ledger, &text, allowed));
    // Where requests go elsewhere, the queue's URL is a name.
    let is_name = !matches!(endpoint, Field::Absent(_));
    let queue = table.filled("queue");
    let queue = queue.then(|text| Queue::read(ledger, &text, allowed || is_name));
    let queue = table.require("queue", queue, format!("its URL, like {FORM}"));
    let aws = aws(&mut table, queue.as_ref());
    table.finish();
    plaintext?;
    let endpoint = endpoint.optional().ok()?.map(|endpoint| endpoint.value);
    let (Located { value: queue, span }, aws) = (queue?, aws?);
    let endpoint = endpoint.unwrap_or_else(|| queue.origin.clone());
    Some(Located { value: SqsRejects { queue, aws, endpoint }, span })
}
