//! `[dead_letter.NAME]`: the target of events that can't be published.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api::Aws;
use super::broker::{self, Rejects};
use super::environment::Environment;
use super::kafka::topics;
use super::nats;
use super::reader::{Field, Kind, Names, Problem, Table, quoted};
use super::sqs;
use crate::message::SourceName;

/// The name of a `[dead_letter.NAME]`.
pub type DeadLetterName = Arc<str>;

/// A checked `[dead_letter.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterConfig {
    /// JSON lines in a file.
    File {
        /// Of the file.
        path: PathBuf,
        /// When it is rotated, and how many files are kept.
        rotation: Rotation,
    },
    /// Records of a topic.
    Kafka {
        /// A source of this file, whose brokers and credentials are used.
        source: SourceName,
        /// No source whose rejects go here reads it.
        topic: String,
    },
    /// Messages of a subject that a stream takes.
    JetStream {
        /// A source of this file, whose servers and credentials are used.
        source: SourceName,
        /// No source whose rejects go here reads it.
        subject: String,
    },
    /// Messages of a queue.
    Sqs(SqsRejects),
}

/// `type = "sqs"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqsRejects {
    /// No source whose rejects go here reads it.
    pub queue: sqs::Queue,
    /// Where credentials and region come from.
    pub aws: Aws,
    /// Where requests go.
    pub endpoint: String,
}

impl DeadLetterConfig {
    /// Its file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Kafka { .. } | Self::JetStream { .. } | Self::Sqs(_) => None,
        }
    }

    /// Its `type`.
    pub fn word(&self) -> &'static str {
        let kind = match self {
            Self::File { .. } => Rejects::File,
            Self::Kafka { .. } => Rejects::Kafka,
            Self::JetStream { .. } => Rejects::JetStream,
            Self::Sqs(_) => Rejects::Sqs,
        };
        let row = broker::REJECTS.iter().find(|(_, of)| *of == kind);
        row.map_or("", |(word, _)| word)
    }

    /// Its path, topic, subject or queue.
    pub fn place(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Kafka { topic, .. } => topic.clone(),
            Self::JetStream { subject, .. } => subject.clone(),
            Self::Sqs(rejects) => rejects.queue.name.clone(),
        }
    }
}

/// The settings, with the places of those that are checked against others.
pub(super) struct Read {
    pub(super) config: DeadLetterConfig,
    /// Of the topic or the queue.
    pub(super) place: Range<usize>,
}

/// `max_size` and `max_files`: the rotation of a dead-letter file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// A file that would grow beyond this many bytes is rotated; `None`: never.
    pub max_size: Option<u64>,
    /// So many files are kept, with the one being written, and older ones removed; `None`: all.
    pub max_files: Option<u32>,
}

/// A smaller file would be rotated all the time.
const LEAST_SIZE: u64 = 1_000_000;

const MOST_FILES: u32 = 100_000;

/// The name of the default dead letter, which exists where none is configured.
pub(super) const DEFAULT: &str = "default";

/// Its file.
pub const DEFAULT_FILE: &str = "dead-letters.jsonl";

/// Words of a route's `dead_letter` that are no names, so that no dead letter can be called so.
pub(super) const RESERVED: [&str; 2] = ["discard", "source"];

/// Reads a `[dead_letter.NAME]`; `type_of` is the type of a source.
pub(super) fn read<'a>(
    name: &str,
    mut table: Table<'_>,
    sources: &Names,
    type_of: impl Fn(&str) -> Option<&'a str>,
) -> Option<Read> {
    let ledger = table.ledger;
    let reserved = RESERVED.contains(&name);
    if reserved {
        let message = format!("no dead letter can be called `{name}`");
        let hint = format!("`dead_letter = \"{name}\"` in a route means something else");
        let problem = Problem::new(Kind::BadValue, Some(table.span.clone()), message);
        ledger.report(problem.help(hint));
    }
    let kind = table.choice("type", &broker::REJECTS, &[]);
    if matches!(kind, Field::Bad) {
        table.ignore_rest();
        return None;
    }
    let words = broker::REJECTS.iter().map(|(word, _)| *word);
    let kind = table.require("type", kind, broker::known(words));
    let read = match kind.as_ref().map(|kind| kind.value) {
        Some(Rejects::Kafka) => topic(table, sources, type_of),
        Some(Rejects::JetStream) => subject(table, sources, type_of),
        Some(Rejects::Sqs) => queue(table),
        Some(Rejects::File) | None => file(table),
    };
    kind?;
    read.filter(|_| !reserved)
}

fn file(mut table: Table<'_>) -> Option<Read> {
    let path = table.filled("path");
    let path =
        table.require("path", path, "the file: `path = \"/var/lib/appsync-bridge/rejects.jsonl\"`");
    let rotation = rotation(&mut table);
    table.finish();
    let path = PathBuf::from(path?.value.value);
    Some(Read { config: DeadLetterConfig::File { path, rotation: rotation? }, place: 0..0 })
}

fn topic<'a>(
    mut table: Table<'_>,
    sources: &Names,
    type_of: impl Fn(&str) -> Option<&'a str>,
) -> Option<Read> {
    let hint = "a source of type `kafka`, whose connection it uses: `source = \"shop\"`";
    let source = home(&mut table, sources, type_of, &[broker::KAFKA.word], hint);
    let ledger = table.ledger;
    let topic = table.filled("topic").then(|text| {
        if topics::is_topic(&text.value.value) {
            return Some(text.value.value);
        }
        let message = format!("{} can't be a topic", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help("a topic has letters, digits, `.`, `_` and `-`"))
    });
    let topic = table.require("topic", topic, "where they go: `topic = \"orders.rejected\"`");
    table.finish();
    let (source, topic) = (source?, topic?);
    let config = DeadLetterConfig::Kafka { source, topic: topic.value };
    Some(Read { config, place: topic.span })
}

fn queue(mut table: Table<'_>) -> Option<Read> {
    table.becomes(broker::SQS.word);
    let ledger = table.ledger;
    let plaintext = table.boolean("dangerously_plaintext").or(false);
    let allowed = plaintext.as_ref().is_none_or(|setting| setting.value);
    let endpoint = table.filled("endpoint").then(|text| sqs::endpoint(ledger, &text, allowed));
    // Where requests go elsewhere, the queue's URL is a name.
    let is_name = !matches!(endpoint, Field::Absent);
    let queue = table.filled("queue");
    let queue = queue.then(|text| sqs::Queue::read(ledger, &text, allowed || is_name));
    let queue = table.require("queue", queue, format!("its URL, like {}", sqs::FORM));
    let aws = sqs::aws(&mut table, queue.as_ref());
    table.finish();
    plaintext?;
    let endpoint = endpoint.optional().ok()?.map(|endpoint| endpoint.value);
    let (queue, aws) = (queue?, aws?);
    let endpoint = endpoint.unwrap_or_else(|| queue.value.origin.clone());
    let rejects = SqsRejects { queue: queue.value, aws, endpoint };
    Some(Read { config: DeadLetterConfig::Sqs(rejects), place: queue.span })
}

fn subject<'a>(
    mut table: Table<'_>,
    sources: &Names,
    type_of: impl Fn(&str) -> Option<&'a str>,
) -> Option<Read> {
    let hint =
        "a source of type `jetstream` or `nats`, whose connection it uses: `source = \"orders\"`";
    let types = [broker::JETSTREAM.word, broker::NATS.word];
    let source = home(&mut table, sources, type_of, &types, hint);
    let ledger = table.ledger;
    let subject = table.filled("subject").then(|text| {
        if nats::is_subject(&text.value.value) {
            return Some(text.value.value);
        }
        let message = format!("{} can't be a subject that is written to", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help(
            "a subject has levels parted by `.`, no blanks, no `*` and no `>`, and no `$` first",
        ))
    });
    let hint = "where they go: `subject = \"rejects.orders\"`, which a stream takes";
    let subject = table.require("subject", subject, hint);
    table.finish();
    let (source, subject) = (source?, subject?);
    let config = DeadLetterConfig::JetStream { source, subject: subject.value };
    Some(Read { config, place: subject.span })
}

/// The source whose connection is used: one of these types.
fn home<'a>(
    table: &mut Table<'_>,
    sources: &Names,
    type_of: impl Fn(&str) -> Option<&'a str>,
    types: &[&str],
    hint: &str,
) -> Option<SourceName> {
    let source = table.field("source", |ledger, entry| {
        let text = ledger.string("source", entry.value)?;
        let name = sources.resolve(ledger, &text)?;
        match type_of(&name) {
            Some(word) if types.contains(&word) => Some(name),
            // An error in its type is reported there.
            None => None,
            Some(other) => {
                let message = format!("{} is a source of type `{other}`", quoted(&name));
                let problem = Problem::new(Kind::BadValue, Some(text.span), message);
                let types: Vec<_> = types.iter().map(|word| format!("`{word}`")).collect();
                let types = types.join(" or ");
                ledger.refuse(
                    problem.help(format!("name one of type {types}: its connection is used")),
                )
            }
        }
    });
    Some(table.require("source", source, hint)?.value.into())
}

fn rotation(table: &mut Table<'_>) -> Option<Rotation> {
    let ledger = table.ledger;
    let max_size = table.size("max_size").then(|size| {
        if size.value < LEAST_SIZE {
            let message = "`max_size` is at least 1MB".to_owned();
            let problem = Problem::new(Kind::BadValue, Some(size.span), message);
            return ledger
                .refuse(problem.help("one rejected message alone may have hundreds of kilobytes"));
        }
        Some(size.value)
    });
    // With one file nothing would be left the moment it is full.
    let max_files = table.integer("max_files", 2..=MOST_FILES);
    if let (Field::Absent, Field::Good(files)) = (&max_size, &max_files) {
        let message = "`max_files` without `max_size` keeps nothing from growing";
        let problem = Problem::new(Kind::Impossible, Some(files.span.clone()), message);
        return ledger.refuse(problem.help(
            "say when a file is full, for example `max_size = \"100MB\"`, or remove `max_files`",
        ));
    }
    let max_size = max_size.optional().ok()?.map(|size| size.value);
    let max_files = max_files.optional().ok()?.map(|files| files.value);
    Some(Rotation { max_size, max_files })
}

/// The default dead letter: a file in the first of these directories that the environment names. `None` if
/// it names none.
pub(super) fn default(environment: &Environment) -> Option<Read> {
    const OURS: &str = "appsync-bridge";
    let directory = environment
        .directory("STATE_DIRECTORY")
        .or_else(|| environment.directory("XDG_STATE_HOME").map(|state| state.join(OURS)))
        .or_else(|| {
            environment.directory("HOME").map(|home| home.join(".local/state").join(OURS))
        })?;
    let path = directory.join(DEFAULT_FILE);
    let config = DeadLetterConfig::File { path, rotation: Rotation::default() };
    Some(Read { config, place: 0..0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_where_the_environment_says() {
        let path = |variables: &[(&str, &str)]| {
            default(&Environment::of(variables.iter().copied())).map(|read| match read.config {
                DeadLetterConfig::File { path, .. } => path,
                other => panic!("{other:?}"),
            })
        };
        let home = ("HOME", "/home/b");
        assert_eq!(
            path(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), home]),
            Some("/var/lib/a/dead-letters.jsonl".into())
        );
        assert_eq!(
            path(&[("XDG_STATE_HOME", "/state"), home]),
            Some("/state/appsync-bridge/dead-letters.jsonl".into())
        );
        assert_eq!(
            path(&[("STATE_DIRECTORY", ""), home]),
            Some("/home/b/.local/state/appsync-bridge/dead-letters.jsonl".into())
        );
        assert_eq!(path(&[]), None);
    }
}
