//! What a topic pattern captures, by the names that templates take it by.

use std::fmt;
use std::ops::Range;

use super::Fault;

/// A name that a pattern captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// As in `{name}`.
    pub name: String,
    /// Whether it takes all remaining levels: `{name..}`.
    pub many: bool,
}

impl Capture {
    /// Those that a pattern or a template, valid or not, seems to have: what is wrong beside it is told in the same run.
    pub fn seen_in(text: &str) -> Vec<Self> {
        let pieces = text.split('{').skip(1);
        let name = |piece: &str| {
            let inner = piece.split(['}', '/']).next().unwrap_or_default();
            let name = inner.trim_end_matches('.');
            Self { name: name.trim().to_owned(), many: name.len() < inner.len() }
        };
        pieces.map(name).collect()
    }

    /// A name is a word, so that it can't be mistaken for a path or a filter.
    pub(super) fn check_name(name: &str, span: &Range<usize>) -> Result<(), Fault> {
        let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if name.is_empty() || !good {
            return Err(Fault::new(
                span.clone(),
                "a capture's name has letters, digits, `_` and `-` only",
                "write `{site}`, or `{path..}` for all remaining levels",
            ));
        }
        if ["json", "key", "header"].contains(&name) {
            return Err(Fault::new(
                span.clone(),
                format!("`{name}` is a word of the templates"),
                "choose another name",
            ));
        }
        Ok(())
    }

    /// Whether a template that has it can only mean a name of its pattern. `{topic..}` is the whole topic, though a
    /// pattern may have a capture of that name.
    pub(super) fn is_of_pattern(&self) -> bool {
        self.name != "topic" && Self::check_name(&self.name, &(0..0)).is_ok()
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}{}}}", self.name, if self.many { ".." } else { "" })
    }
}
