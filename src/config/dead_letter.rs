//! `[dead_letter.NAME]`: where events go that can't be published.

use std::path::PathBuf;
use std::sync::Arc;

use super::environment::Environment;
use super::problem::{Kind, Problem};
use super::reader::{Field, Table};

/// The name of a `[dead_letter.NAME]`.
pub type DeadLetterName = Arc<str>;

/// A checked `[dead_letter.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterConfig {
    /// JSON lines in a file.
    File {
        /// Of the file.
        path: PathBuf,
        /// When it is set aside, and how many are kept.
        rotation: Rotation,
    },
}

/// `max_size` and `max_files`: how a dead-letter file is kept from growing without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// A file that would grow beyond this many bytes is set aside; `None`: never.
    pub max_size: Option<u64>,
    /// So many files are kept, the one that is written among them, and the oldest goes; `None`: all.
    pub max_files: Option<u32>,
}

/// A smaller file would be set aside all the time.
const LEAST_SIZE: u64 = 1_000_000;

const MOST_FILES: u32 = 100_000;

/// The name of the one that exists where none is configured.
pub(super) const DEFAULT: &str = "default";

/// What a route's `dead_letter` may say beside a name, so that none can be called so.
pub(super) const RESERVED: [&str; 2] = ["discard", "source"];

/// Reads a `[dead_letter.NAME]`.
pub(super) fn read(name: &str, mut table: Table<'_>) -> Option<DeadLetterConfig> {
    let ledger = table.ledger;
    let reserved = RESERVED.contains(&name);
    if reserved {
        let message = format!("no dead letter can be called `{name}`");
        let hint = format!("`dead_letter = \"{name}\"` in a route means something else");
        let problem = Problem::new(Kind::BadValue, Some(table.span.clone()), message);
        ledger.report(problem.help(hint));
    }
    let kind = table.choice("type", &[("file", ())], &["kafka", "jetstream", "sqs"]);
    if matches!(kind, Field::Bad) {
        table.ignore_rest();
        return None;
    }
    let kind = table.require("type", kind, "this version knows `type = \"file\"`");
    let path = table.filled("path");
    let path =
        table.require("path", path, "the file: `path = \"/var/lib/appsync-bridge/rejects.jsonl\"`");
    let rotation = rotation(&mut table);
    table.finish();
    kind?;
    let path = PathBuf::from(path?.value.value);
    let rotation = rotation?;
    (!reserved).then_some(DeadLetterConfig::File { path, rotation })
}

fn rotation(table: &mut Table<'_>) -> Option<Rotation> {
    let ledger = table.ledger;
    let max_size = table.size("max_size").then(|size| {
        if size.value < LEAST_SIZE {
            let message = "`max_size` is at least 1MB".to_owned();
            let problem = Problem::new(Kind::BadValue, Some(size.span), message);
            ledger
                .report(problem.help("one rejected message alone may have hundreds of kilobytes"));
            return None;
        }
        Some(size.value)
    });
    // Of one file nothing would be left the moment it is full.
    let max_files = table.integer("max_files", 2..=MOST_FILES);
    if let (Field::Absent, Field::Good(files)) = (&max_size, &max_files) {
        let message = "`max_files` without `max_size` keeps nothing from growing";
        let problem = Problem::new(Kind::Impossible, Some(files.span.clone()), message);
        ledger.report(problem.help(
            "say when a file is full, for example `max_size = \"100MB\"`, or remove `max_files`",
        ));
        return None;
    }
    let max_size = max_size.optional().ok()?.map(|size| size.value);
    let max_files = max_files.optional().ok()?.map(|files| files.value);
    Some(Rotation { max_size, max_files })
}

/// The one that exists where none is configured: a file in the first of these directories that
/// the environment names. `None` if it names none.
pub(super) fn default(environment: &Environment) -> Option<DeadLetterConfig> {
    const OURS: &str = "appsync-bridge";
    let directory = environment
        .directory("STATE_DIRECTORY")
        .or_else(|| environment.directory("XDG_STATE_HOME").map(|state| state.join(OURS)))
        .or_else(|| {
            environment.directory("HOME").map(|home| home.join(".local/state").join(OURS))
        })?;
    let path = directory.join("dead-letters.jsonl");
    Some(DeadLetterConfig::File { path, rotation: Rotation::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_where_the_environment_says() {
        let path = |variables: &[(&str, &str)]| {
            default(&Environment::of(variables.iter().copied()))
                .map(|DeadLetterConfig::File { path, .. }| path)
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
