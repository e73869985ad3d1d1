//! The batches of SQS: what became of each entry, matched by its id.

use std::collections::HashMap;

use aws_sdk_sqs::types::BatchResultErrorEntry;

/// Entries of a batch, and messages of a receive (`AWS.SimpleQueueService.TooManyEntriesInBatchRequest`).
pub const BATCH: usize = 10;

/// An entry of a batch that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its place in the batch.
    pub at: usize,
    /// By the code, the receipt is good for nothing any more.
    pub stale: bool,
    /// In SQS's words.
    pub why: String,
}

/// Entries that an answer does not name as done have failed: it may name them, or forget them.
pub fn failed<'a>(
    entries: usize,
    done: impl Iterator<Item = &'a str>,
    said: &[BatchResultErrorEntry],
) -> Vec<Failed> {
    let mut open = vec![true; entries];
    for id in done {
        if let Some(open) = id.parse().ok().and_then(|at: usize| open.get_mut(at)) {
            *open = false;
        }
    }
    let said: HashMap<&str, &BatchResultErrorEntry> =
        said.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let open = open.into_iter().enumerate().filter(|(_, open)| *open);
    open.map(|(at, _)| match said.get(at.to_string().as_str()) {
        Some(entry) => {
            let message = entry.message.as_deref().unwrap_or_default();
            Failed { at, stale: is_stale(&entry.code), why: format!("{} {message}", entry.code) }
        }
        None => Failed { at, stale: false, why: "the answer does not name it".to_owned() },
    })
    .collect()
}

/// Whether a code says that the receipt is no more: the message is visible again, deleted, or another's.
fn is_stale(code: &str) -> bool {
    ["ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"]
        .iter()
        .any(|known| code.ends_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_matched_by_their_id() {
        let said = |id: &str, code: &str| {
            let entry = BatchResultErrorEntry::builder().id(id).code(code).sender_fault(true);
            entry.build().unwrap()
        };
        let said = [said("3", "ReceiptHandleIsInvalid"), said("0", "InternalError")];
        let found = failed(5, ["4", "1", "7", "x"].into_iter(), &said);
        let found: Vec<_> = found.iter().map(|failed| (failed.at, failed.stale)).collect();
        assert_eq!(found, [(0, false), (2, false), (3, true)]);
    }
}
