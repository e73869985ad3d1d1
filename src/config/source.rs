//! `[source.NAME]`: a broker and what to take from it.

use std::ops::Range;
use std::time::Duration;

use serde_json::json;

use super::broker::{self, SourceKind};
use super::common::common;
use super::reader::{Field, Kind, Names, Problem, Setting, Table, listed, quoted, synonyms};
use super::{DeadLetterName, dead_letter};
use crate::message::SourceName;

/// A checked `[source.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// Its name.
    pub name: SourceName,
    /// In flight at most.
    pub limits: Limits,
    /// What becomes of a message that no route takes.
    pub unrouted: Unrouted,
    /// The kind of broker, and what only that is told.
    pub kind: SourceKind,
}

/// In-flight limits of a source, from its oldest unacknowledged to its newest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes of topic, payload and properties; events share the payload's bytes.
    pub bytes: usize,
}

/// What becomes of a message that no route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// Counted, and acknowledged.
    Ignore,
    /// Written to this dead letter.
    DeadLetter(DeadLetterName),
}

/// A source, and where in the file it says what is checked against others.
pub(super) struct Read {
    pub(super) config: SourceConfig,
    /// The table.
    pub(super) table: Range<usize>,
    /// What tells this client from others at the broker.
    pub(super) client: Range<usize>,
    /// What the broker is asked for, one each.
    pub(super) asked: Vec<Range<usize>>,
    /// `unrouted` is written: what no route takes is meant to be there.
    pub(super) unrouted_is_meant: bool,
}

/// Reads a `[source.NAME]`.
pub(super) fn read(
    name: &str,
    mut table: Table<'_>,
    dead_letters: &Names,
    grace: Option<&Setting<Duration>>,
) -> Option<Read> {
    let ledger = table.ledger;
    let types = broker::ALL.map(|broker| (broker.word, broker));
    let said = table.type_word();
    let kind = table.choice("type", &types, &[]);
    // A misspelt kind is known all the same, so that misspelt keys beside it are reported in the same run.
    let meant = matches!(kind, Field::Bad).then(|| {
        let words = types.map(|(word, _)| word);
        said.and_then(|word| synonyms::meant("source", word, &words)).and_then(broker::of_word)
    });
    if meant.is_some() {
        table.is_guessed();
    }
    let kind = table.require("type", kind, broker::known(types.iter().map(|(word, _)| *word)));
    // Without a `type`, report that; the keys tell whose they are, or nothing. They are not asked where it names another
    // broker: what is wrong for one that nobody meant is no mistake.
    let likely = || broker::ALL.into_iter().find(|broker| table.has(broker.asked_by));
    let known = kind.as_ref().map(|kind| kind.value).or(meant.flatten());
    let Some(of) = known.or_else(|| likely().filter(|_| said.is_none())) else {
        table.forget_rest();
        table.finish();
        return None;
    };
    table.knows(of.words);
    let common = common(&mut table, of.in_flight, of.most_in_flight);
    let unrouted = table.choice("unrouted", &[("ignore", false), ("dead-letter", true)], &[]);
    let unrouted = unrouted.then(|to| {
        if !to.value {
            return Some(Unrouted::Ignore);
        }
        let default =
            || dead_letters.has(dead_letter::DEFAULT).then(|| dead_letter::DEFAULT.into());
        let name = dead_letters.only().or_else(default);
        if name.is_none() {
            let names = listed(dead_letters.all(), "and");
            let message = format!("`unrouted` can't choose between {names}");
            let problem = Problem::new(Kind::MissingKey, Some(to.span), message);
            let name = quoted(dead_letter::DEFAULT);
            ledger.report(problem.help(format!("call the one for unrouted messages {name}")));
        }
        name.map(Unrouted::DeadLetter)
    });
    let unrouted = unrouted.or_word(Unrouted::Ignore, json!("ignore"));
    let unrouted_is_meant = unrouted.as_ref().is_none_or(|setting| setting.span.is_some());
    let span = table.span.clone();
    let own = (of.read)(&mut table, &common, grace);
    table.finish();
    kind?;
    let own = own?;
    let limits = Limits {
        messages: usize::try_from(common.messages?.value).ok()?,
        bytes: usize::try_from(common.bytes?.value).ok()?,
    };
    common.plaintext?;
    let (name, unrouted) = (name.into(), unrouted?.value);
    let config = SourceConfig { name, limits, unrouted, kind: own.config };
    let client = own.client.unwrap_or(span.clone());
    Some(Read { config, table: span, client, asked: own.asked, unrouted_is_meant })
}
