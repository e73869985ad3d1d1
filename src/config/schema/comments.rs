//! What the comments of the examples say of each key, and what is written for it there. Keys of inner tables, and those that
//! no example has, have theirs in the probe. Keys below one comment share it: a test names those that may.

use std::collections::HashMap;

const EXAMPLES: [&str; 6] = [
    include_str!("../../../config/bridge.toml"),
    include_str!("../../../config/kafka.toml"),
    include_str!("../../../config/nats.toml"),
    include_str!("../../../config/jetstream.toml"),
    include_str!("../../../config/sqs.toml"),
    super::PROBE,
];

/// Sections whose tables have names.
const NAMED: [&str; 4] = ["api", "source", "route", "dead_letter"];

/// The same wherever it is.
const EVERYWHERE: &str = "aws";

/// By place, kind and key.
#[derive(Default)]
pub(super) struct Comments(HashMap<(String, String, String), Comment>);

/// What is said of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Comment {
    /// The lines above it, as one.
    pub(super) words: String,
    /// A value, as TOML.
    pub(super) example: String,
}

/// The place of the table `key` of a section.
pub(super) fn inside(section: &str, key: &str) -> String {
    if key == EVERYWHERE { key.to_owned() } else { format!("{section}.{key}") }
}

impl Comments {
    /// Those of the files in `config`.
    pub(super) fn of_examples() -> Self {
        let mut comments = Self::default();
        for text in EXAMPLES {
            comments.read(text);
        }
        comments
    }

    /// Of a key of a table of this kind; else of the first kind that has such a key.
    pub(super) fn of(&self, place: &str, kind: Option<&str>, key: &str) -> Option<&Comment> {
        let of = |kind: &str| self.0.get(&(place.to_owned(), kind.to_owned(), key.to_owned()));
        kind.and_then(of).or_else(|| of(""))
    }

    /// A key, written or commented out, is described by the lines of the comment right above it.
    fn read(&mut self, text: &str) {
        let (mut place, mut kind) = (String::new(), String::new());
        let mut comment = Vec::new();
        let mut fresh = true;
        for line in text.lines() {
            let code = line.strip_prefix('#').unwrap_or(line);
            if code.starts_with('[') {
                (place, kind) = (of_header(code), String::new());
                comment.clear();
            } else if let Some((key, value)) = statement(code) {
                if super::KINDS.contains(&key) && !line.starts_with('#') {
                    code.split('"').nth(1).unwrap_or_default().clone_into(&mut kind);
                }
                if !comment.is_empty() {
                    for kind in [kind.as_str(), ""] {
                        let key = (place.clone(), kind.to_owned(), key.to_owned());
                        let words = comment.join(" ");
                        let example = value.to_owned();
                        self.0.entry(key).or_insert(Comment { words, example });
                    }
                }
                fresh = true;
            } else if let Some(words) = line.strip_prefix("# ") {
                if std::mem::take(&mut fresh) {
                    comment.clear();
                }
                comment.push(words.trim());
            } else {
                comment.clear();
            }
        }
    }
}

/// The place of the keys below a header.
fn of_header(line: &str) -> String {
    let header = line.trim_matches(|c: char| "[]".contains(c) || c.is_whitespace());
    let mut parts = header.split('.');
    let section = parts.next().unwrap_or_default();
    if NAMED.contains(&section) {
        parts.next();
    }
    parts.next_back().map_or_else(|| section.to_owned(), |key| inside(section, key))
}

/// Key and value of a line `key = value`.
fn statement(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim_end();
    let is_bare = !key.is_empty()
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_bare.then_some((key, value.trim()))
}
