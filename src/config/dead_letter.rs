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
    },
}

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
    table.finish();
    kind?;
    let path = PathBuf::from(path?.value.value);
    (!reserved).then_some(DeadLetterConfig::File { path })
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
    Some(DeadLetterConfig::File { path: directory.join("dead-letters.jsonl") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_where_the_environment_says() {
        let path = |variables: &[(&str, &str)]| {
            default(&Environment::of(variables.iter().copied()))
                .map(|DeadLetterConfig::File { path }| path)
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
