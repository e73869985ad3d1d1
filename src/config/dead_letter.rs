//! `[dead_letter.NAME]`: the target of events that can't be published.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::broker::{self, JETSTREAM, KAFKA, SQS, SourceKind};
use super::environment::Environment;
use super::home::Homes;
use super::kafka::{self, KafkaRejects};
use super::nats::{self, SubjectRejects};
use super::reader::{Field, Kind, Located, Problem, Table, synonyms};
use super::sqs::{self, SqsRejects};
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
    Kafka(KafkaRejects),
    /// Messages of a subject that a stream takes.
    JetStream(SubjectRejects),
    /// Messages of a queue.
    Sqs(SqsRejects),
}

/// The kinds.
#[derive(Clone, Copy)]
enum Target {
    File,
    Kafka,
    JetStream,
    Sqs,
}

/// The `type` of one that no broker has.
const FILE: &str = "file";

/// Their `type`.
static TYPES: [(&str, Target); 4] = [
    (FILE, Target::File),
    (KAFKA.word, Target::Kafka),
    (JETSTREAM.word, Target::JetStream),
    (SQS.word, Target::Sqs),
];

impl DeadLetterConfig {
    /// Its file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Whether it writes to this file.
    pub fn writes_to(&self, file: &Path) -> bool {
        self.path().is_some_and(|path| is_same_file(path, file))
    }

    /// Whether it sets its own file aside under the name of `other`.
    pub(super) fn takes_name_of(&self, other: &Path) -> bool {
        let Self::File { path, rotation: Rotation { max_size: Some(_), .. } } = self else {
            return false;
        };
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let number = |own: String, other: String| {
            let number = other.strip_prefix(&own)?.strip_prefix('.')?.parse::<u32>().ok()?;
            (1..=MOST_FILES).contains(&number).then_some(())
        };
        let aside = name(path).zip(name(other)).and_then(|(own, other)| number(own, other));
        aside.is_some() && is_same_file(&path.with_file_name("it"), &other.with_file_name("it"))
    }

    /// The source whose connection is used.
    pub fn home(&self) -> Option<&SourceName> {
        match self {
            Self::Kafka(rejects) => Some(&rejects.source),
            Self::JetStream(rejects) => Some(&rejects.source),
            Self::File { .. } | Self::Sqs(_) => None,
        }
    }

    /// By which of the things that it asks for a source reads what is written here; `home` is of the source whose
    /// connection is used.
    pub(super) fn read_by(&self, source: &SourceKind, home: Option<&SourceKind>) -> Option<usize> {
        match (self, source) {
            (Self::Kafka(rejects), SourceKind::Kafka(kafka)) => {
                rejects.read_by(kafka, home?.kafka()?)
            }
            (Self::JetStream(rejects), _) => rejects.read_by(source.nats()?, home?.nats()?.0),
            (Self::Sqs(rejects), SourceKind::Sqs(sqs)) => rejects.read_by(sqs).then_some(0),
            _ => None,
        }
    }

    /// Keeps what is written here out of what a source takes by the way, rather than by name.
    pub(super) fn keep_out_of(&self, source: &mut SourceKind, home: &SourceKind) {
        if let (Self::Kafka(rejects), SourceKind::Kafka(kafka), Some(home)) =
            (self, source, home.kafka())
        {
            rejects.keep_out_of(kafka, home);
        }
    }

    /// Its `type`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::File { .. } => FILE,
            Self::Kafka(_) => KAFKA.word,
            Self::JetStream(_) => JETSTREAM.word,
            Self::Sqs(_) => SQS.word,
        }
    }

    /// Its path, topic, subject or queue.
    pub fn place(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Kafka(rejects) => rejects.topic.clone(),
            Self::JetStream(rejects) => rejects.subject.clone(),
            Self::Sqs(rejects) => rejects.queue.name.clone(),
        }
    }
}

/// Whether both name one file, however they are written; of a directory that there is its links are followed.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    place(one) == place(other)
}

fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut parts = path.components();
    let Some(last) = parts.next_back() else { return path };
    let directory = parts.as_path();
    if directory.as_os_str().is_empty() {
        return path;
    }
    // What is not there yet is made as it is written.
    let mut place = directory.canonicalize().unwrap_or_else(|_| place(directory));
    if last == Component::ParentDir {
        place.pop();
    } else {
        place.push(last);
    }
    place
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

/// Most files of one dead letter.
pub const MOST_FILES: u32 = 100_000;

/// The name of the default dead letter, which exists where none is configured.
pub(super) const DEFAULT: &str = "default";

/// Its file.
pub const DEFAULT_FILE: &str = "dead-letters.jsonl";

/// Words of a route's `dead_letter` that are no names, so that no dead letter can be called so.
pub(super) const RESERVED: [&str; 2] = ["discard", "source"];

/// Reads a `[dead_letter.NAME]`.
pub(super) fn read(name: &str, mut table: Table<'_>, homes: &Homes<'_>) -> Option<Read> {
    let ledger = table.ledger;
    let reserved = RESERVED.contains(&name);
    if reserved {
        let message = format!("no dead letter can be called `{name}`");
        let hint = format!("`dead_letter = \"{name}\"` in a route means something else");
        let problem = Problem::new(Kind::BadValue, Some(table.span.clone()), message);
        ledger.report(problem.help(hint));
    }
    let (said, words) = (table.type_word(), TYPES.map(|(word, _)| word));
    let kind = table.choice("type", &TYPES, &[]);
    // As of a source: beside a misspelt kind misspelt keys are reported, too.
    let meant = match kind {
        Field::Bad => {
            let word = said.and_then(|word| synonyms::meant("dead_letter", word, &words));
            let Some(word) = word else {
                table.ignore_rest();
                return None;
            };
            table.is_guessed();
            TYPES.into_iter().find(|(known, _)| *known == word).map(|(_, kind)| kind)
        }
        _ => None,
    };
    let kind = table.require("type", kind, broker::known(words.into_iter()));
    let read = match kind.as_ref().map(|kind| kind.value).or(meant) {
        Some(Target::Kafka) => read_as(kafka::read_rejects(table, homes), DeadLetterConfig::Kafka),
        Some(Target::JetStream) => {
            read_as(nats::read_rejects(table, homes), DeadLetterConfig::JetStream)
        }
        Some(Target::Sqs) => read_as(sqs::read_rejects(table), DeadLetterConfig::Sqs),
        Some(Target::File) | None => file(table),
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

fn read_as<T>(
    rejects: Option<Located<T>>,
    kind: impl FnOnce(T) -> DeadLetterConfig,
) -> Option<Read> {
    rejects.map(|Located { value, span }| Read { config: kind(value), place: span })
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
    if let (Field::Absent(_), Field::Good(files)) = (&max_size, &max_files) {
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
