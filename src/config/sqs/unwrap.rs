//! `unwrap`: the envelopes that other services of AWS put messages into.

use crate::config::reader::{Field, Kind, Located, Problem, Table};

/// An envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A notification of an SNS topic whose subscription has no raw message delivery.
    Sns,
    /// An event of an `EventBridge` bus.
    EventBridge,
    /// A notification of an S3 bucket, with a record for each change.
    S3,
}

/// More are in no message that was meant.
const MOST: usize = 3;

impl Envelope {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sns => "sns",
            Self::EventBridge => "eventbridge",
            Self::S3 => "s3",
        }
    }
}

/// Reads `unwrap`: a word or a list, outermost first.
pub(super) fn unwrap(table: &mut Table<'_>) -> Field<Vec<Envelope>> {
    let ledger = table.ledger;
    let envelopes = [Envelope::Sns, Envelope::EventBridge, Envelope::S3];
    let [sns, eventbridge, s3] = envelopes.map(|envelope| (envelope.word(), Some(envelope)));
    table.choices("unwrap", &[("none", None), sns, eventbridge, s3]).then(|all| {
        let refuse = |span, message: &str, hint: &str| {
            ledger.refuse(Problem::new(Kind::Impossible, Some(span), message).help(hint))
        };
        let Located { value: words, span } = all;
        if let [_, _, ..] = words[..]
            && let Some(none) = words.iter().find(|word| word.value.is_none())
        {
            let hint = "leave it away, or write `unwrap = \"none\"` alone";
            return refuse(none.span.clone(), "`none` stands beside an envelope", hint);
        }
        if words.len() > MOST {
            return refuse(
                span,
                "`unwrap` has more than three envelopes",
                "list those that are around each message, outermost first: `[\"sns\", \"s3\"]`",
            );
        }
        let inner = words.split_last().map_or(&[][..], |(_, before)| before);
        if let Some(s3) = inner.iter().find(|word| word.value == Some(Envelope::S3)) {
            let hint =
                "`s3` is the last: the list begins with the outermost, as in `[\"sns\", \"s3\"]`";
            return refuse(s3.span.clone(), "no envelope is inside an S3 notification", hint);
        }
        Some(words.into_iter().filter_map(|word| word.value).collect())
    })
}
