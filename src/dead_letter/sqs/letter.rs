//! Records as messages of SQS.
//!
//! The body is the record as a file would have it: a file of such lines can be replayed. Its reason, source and
//! route are message attributes, too, for whoever filters by them.
//!
//! A queue takes messages up to its `MaximumMessageSize`, at most 1 MiB, and a record may be larger: with base64 and
//! escapes it is more than its payload. Such a one goes in parts: `appsync-bridge.part` says which (`2/3`), and
//! `appsync-bridge.record` of what. Put together in their order they are the record.
//!
//! What tells a second one is the same however often a record is sent. No two records have the same, for a queue
//! drops the second without a word: one of a message that came twice, or that is equal to another, is a record of
//! its own.

use std::iter::from_fn;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::aws::sqs::BATCH;
use crate::dead_letter::Record;
use crate::dead_letter::record::line;

/// A record, or a part of one, as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// Of the record.
    pub(super) number: usize,
    /// With it the record is whole.
    pub(super) is_last: bool,
    pub(super) body: String,
    /// Of the type [`TEXT`].
    pub(super) attributes: Vec<(String, String)>,
    /// Its order is kept within it, in a FIFO queue.
    pub(super) group: String,
    /// What tells a second one.
    pub(super) id: String,
}

/// The type of a message attribute.
pub(super) const TEXT: &str = "String";

/// All attributes of ours begin with it.
const PREFIX: &str = "appsync-bridge.";

/// For the attributes of a part.
const PART: usize = 160;

/// A part has this much at least, whatever is beside it.
const LEAST: usize = 256;

impl Letter {
    /// What SQS counts of it, in bytes.
    pub(super) fn size(&self) -> usize {
        self.body.len() + size(&self.attributes)
    }
}

/// The messages of a record, each of `most` bytes at most.
pub(super) fn letters(number: usize, record: &Record, most: usize) -> Vec<Letter> {
    let text = written(&line(record).to_string());
    let attributes = attributes(record);
    let id = id(record, &text);
    let group = match &record.message.order {
        Some(order) => hash(&[record.message.source.as_bytes(), &[0], order]),
        None => id.clone(),
    };
    let own = size(&attributes);
    if text.len() + own <= most {
        let (is_last, body) = (true, text);
        return vec![Letter { number, is_last, body, attributes, group, id }];
    }
    let parts = cut(&text, most.saturating_sub(own + PART).max(LEAST));
    let count = parts.len();
    // Cut to another size it is another whole: its parts don't go with those that were sent before.
    let whole = hash(&[id.as_bytes(), &most.to_le_bytes()]);
    let part = |(at, body): (usize, &str)| {
        let mut attributes = attributes.clone();
        attributes.push((format!("{PREFIX}record"), whole.clone()));
        attributes.push((format!("{PREFIX}part"), format!("{}/{count}", at + 1)));
        let (body, group, id) = (body.to_owned(), group.clone(), format!("{whole}-{at}"));
        Letter { number, is_last: at + 1 == count, body, attributes, group, id }
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// Batches as SQS takes them, of `most` bytes at most unless a single one has more.
pub(super) fn batches(
    letters: impl Iterator<Item = Letter>,
    most: usize,
) -> impl Iterator<Item = Vec<Letter>> {
    let mut letters = letters.peekable();
    from_fn(move || {
        let mut batch = vec![letters.next()?];
        let mut size = batch[0].size();
        while batch.len() < BATCH
            && let Some(next) = letters.next_if(|next| size + next.size() <= most)
        {
            size += next.size();
            batch.push(next);
        }
        Some(batch)
    })
}

fn attributes(record: &Record) -> Vec<(String, String)> {
    let named = [
        ("reason", Some(record.reason)),
        ("source", Some(&*record.message.source)),
        ("route", record.route.as_deref()),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    named.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned())).collect()
}

fn size(attributes: &[(String, String)]) -> usize {
    attributes.iter().map(|(name, value)| name.len() + TEXT.len() + value.len()).sum()
}

/// As SQS can have it: two characters that XML has not are no text there. They stand in strings only.
fn written(json: &str) -> String {
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// Pieces of `most` bytes at most, which is that of any character at least.
fn cut(mut text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(most));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// Of this very record: it is the same as long as the record is there, and no other has its place at its time.
fn id(record: &Record, text: &str) -> String {
    let place = Arc::as_ptr(&record.message).addr().to_le_bytes();
    let at = record.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_le_bytes();
    hash(&[&place, &at, text.as_bytes()])
}

/// 43 letters, digits, `-` and `_`.
fn hash(parts: &[&[u8]]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &parts.concat()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::dead_letter::record::parse;
    use crate::dead_letter::tests::record;
    use crate::message::Message;
    use crate::message::tests::message;

    /// The record that the bodies are together.
    fn joined(letters: &[Letter]) -> Bytes {
        let text: String = letters.iter().map(|letter| letter.body.as_str()).collect();
        parse(text.as_bytes(), |_| '/').unwrap().message.payload
    }

    fn named<'l>(letter: &'l Letter, name: &str) -> Option<&'l str> {
        let name = format!("{PREFIX}{name}");
        letter.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    #[test]
    fn a_record_is_one_message_as_long_as_it_fits() {
        let payload = "{}".repeat(400);
        let record = Record { route: Some("orders".into()), ..record(message(payload.clone())) };
        let whole = letters(7, &record, 1 << 20);
        let [letter] = &whole[..] else { panic!("{whole:?}") };
        assert_eq!((letter.number, letter.is_last), (7, true));
        assert_eq!(joined(&whole), payload);
        let of = ["reason", "source", "route", "part"].map(|name| named(letter, name));
        assert_eq!(of, [Some("refused"), Some("s"), Some("orders"), None]);
        assert_eq!(letters(7, &record, letter.size()), whole);
        let parts = letters(7, &record, letter.size() - 1);
        let others = letters(7, &record, letter.size() - 2);
        assert!(parts.iter().all(|part| others.iter().all(|other| part.id != other.id)));
        assert_ne!(named(&parts[0], "record"), named(&others[0], "record"));
        assert!(parts.len() > 1 && joined(&parts) == payload);
    }

    #[test]
    fn the_rejects_of_a_key_are_a_group_and_each_is_itself() {
        let of = |order: Option<&[u8]>| {
            let record = record(Message { order: order.map(Into::into), ..message("{}") });
            let again = letters(0, &record, 1 << 20);
            assert_eq!(letters(0, &record, 1 << 20), again, "however often it is sent");
            // Kept, so that its place is not another's.
            (again.into_iter().next().unwrap(), record)
        };
        let all = [of(Some(b"a")), of(Some(b"a")), of(Some(b"b")), of(None), of(None)];
        let group = |at: usize| &all[at].0.group;
        assert_eq!(group(0), group(1));
        assert_ne!(group(0), group(2));
        assert_ne!(group(3), group(4));
        let ids: std::collections::BTreeSet<_> = all.iter().map(|(letter, _)| &letter.id).collect();
        assert_eq!(ids.len(), all.len(), "equal messages are several");
        let later =
            Record { at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1), ..all[0].1.clone() };
        assert_ne!(letters(0, &later, 1 << 20)[0].id, all[0].0.id);
    }

    #[test]
    fn what_sqs_takes_for_no_text_is_escaped() {
        let text = "\u{0}\u{1f}\u{7f}\u{fffd}\u{fffe}\u{ffff}\u{10000}\\";
        let whole = letters(0, &record(message(text)), 1 << 20);
        assert_eq!(joined(&whole), text);
        let allowed = |c: char| matches!(c, '\u{20}'..='\u{fffd}' | '\u{10000}'..);
        assert!(whole[0].body.chars().all(allowed));
    }

    proptest! {
        #[test]
        fn nothing_is_too_large(
            payload in prop_oneof![
                "[ -~]{0,6000}".prop_map(Bytes::from),
                "\\PC{0,3000}".prop_map(Bytes::from),
                proptest::collection::vec(any::<u8>(), 0..6000).prop_map(Bytes::from),
            ],
            most in 1_024..4_096_usize,
        ) {
            let parts = letters(3, &record(message(payload.clone())), most);
            prop_assert!(parts.iter().all(|part| part.size() <= most));
            prop_assert_eq!(joined(&parts), payload);
            let last: Vec<_> = parts.iter().map(|part| part.is_last).collect();
            prop_assert_eq!(last.iter().filter(|last| **last).count(), 1);
            prop_assert_eq!(last.last(), Some(&true));
            if parts.len() > 1 {
                for (at, part) in parts.iter().enumerate() {
                    let numbered = format!("{}/{}", at + 1, parts.len());
                    prop_assert_eq!(named(part, "part"), Some(numbered.as_str()));
                    prop_assert_eq!(named(part, "record"), named(&parts[0], "record"));
                }
            }
            let ids: std::collections::BTreeSet<_> = parts.iter().map(|part| &part.id).collect();
            prop_assert_eq!(ids.len(), parts.len());
            let count = parts.len();
            let batches: Vec<_> = batches(parts.clone().into_iter(), most).collect();
            prop_assert!(batches.iter().all(|batch| (1..=BATCH).contains(&batch.len())));
            let sizes = batches.iter().map(|batch| batch.iter().map(Letter::size).sum::<usize>());
            prop_assert!(sizes.max().unwrap() <= most);
            prop_assert_eq!(batches.concat(), parts);
            prop_assert!(count > 0);
        }
    }
}
