//! What the comments of the examples say of each key.

use std::collections::HashMap;

const EXAMPLES: [&str; 5] = [
    include_str!("../../../config/bridge.toml"),
    include_str!("../../../config/kafka.toml"),
    include_str!("../../../config/nats.toml"),
    include_str!("../../../config/jetstream.toml"),
    include_str!("../../../config/sqs.toml"),
];

/// By section, kind and key.
#[derive(Default)]
pub(super) struct Comments(HashMap<(String, String, String), String>);

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
    pub(super) fn of(&self, section: &str, kind: Option<&str>, key: &str) -> Option<&str> {
        let of = |kind: &str| self.0.get(&(section.to_owned(), kind.to_owned(), key.to_owned()));
        kind.and_then(of).or_else(|| of("")).map(String::as_str)
    }

    /// A key, written or commented out, is described by the lines of the comment right above it.
    fn read(&mut self, text: &str) {
        let (mut section, mut kind) = (String::new(), String::new());
        let mut comment = Vec::new();
        let mut fresh = true;
        for line in text.lines() {
            let code = line.strip_prefix('#').unwrap_or(line);
            if let Some(header) = code.strip_prefix('[') {
                let end = header.find(['.', ']']).unwrap_or(header.len());
                (section, kind) = (header[..end].to_owned(), String::new());
                comment.clear();
            } else if let Some(key) = key(code) {
                if key == "type" && !line.starts_with('#') {
                    code.split('"').nth(1).unwrap_or_default().clone_into(&mut kind);
                }
                if !comment.is_empty() {
                    for kind in [kind.as_str(), ""] {
                        let place = (section.clone(), kind.to_owned(), key.to_owned());
                        self.0.entry(place).or_insert_with(|| comment.join(" "));
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

/// The key of a line `key = value`.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim_end();
    let is_bare = !key.is_empty()
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_bare.then_some(key)
}
