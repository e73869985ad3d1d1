//! Topic patterns: `plant/{site}/line-{line}/*`, `orders.{event..}`.
//!
//! A level is literal text, `*` (any one level), or text with captures in it; `{name..}` at the end
//! takes one or more remaining levels. Wildcards of other spellings are refused: as text they would take
//! nothing. Matching is linear in the topic: pieces of a level are found
//! leftmost first, which finds a match whenever there is one.

use std::ops::Range;

use smallvec::SmallVec;

use super::foreign::foreign;
use super::wildcard::{self, Spelling, levels};
use super::{Capture, Fault};
use crate::message::Topic;

/// A checked topic pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    levels: Vec<Level>,
    captures: Vec<Capture>,
    rest: bool,
}

/// The values of captures, in order.
pub type Values<'t> = SmallVec<[&'t str; 4]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Any,
    /// A capture of the whole level.
    Whole,
    /// `literals[0] capture literals[1] capture … literals[n]`; no capture: one literal.
    Pieces(Vec<String>),
}

impl Pattern {
    /// `text`, of whatever syntax, as a pattern; `None` where that can't be told.
    pub fn spelled(text: &str, separator: char) -> Option<String> {
        wildcard::spelled(text, separator, Spelling::Route)
            .filter(|spelled| Self::parse(spelled, separator).is_ok())
    }

    /// Parses a pattern whose levels are parted by `separator`.
    pub fn parse(text: &str, separator: char) -> Result<Self, Fault> {
        Self::parse_for(text, separator, &[])
    }

    /// The same for templates that ask for these names: a hint has them in the place of wildcards, or what it says
    /// would be the next mistake.
    pub fn parse_for(text: &str, separator: char, asked: &[Capture]) -> Result<Self, Fault> {
        if text.is_empty() {
            return Err(Fault::new(
                0..0,
                "a topic pattern can't be empty",
                "leave `topic` out to take every topic",
            ));
        }
        let spelled = || Self::spelled(text, separator);
        if let Some(fault) = foreign(text, separator, asked, spelled) {
            return Err(fault);
        }
        let (levels, captures) = (Vec::new(), Vec::new());
        let mut pattern = Self { text: text.to_owned(), levels, captures, rest: false };
        for (start, level) in self::levels(text, separator) {
            let span = start..start + level.len();
            if pattern.rest {
                return Err(Fault::new(
                    span,
                    "nothing can follow a capture of all remaining levels",
                    "put `{name..}` last",
                ));
            }
            pattern.parse_level(level, span)?;
        }
        Ok(pattern)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The pattern in lower case; its captures lose their names.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        let lower = |level: &Level| match level {
            Level::Pieces(all) => Level::Pieces(all.iter().map(|t| t.to_lowercase()).collect()),
            other => other.clone(),
        };
        let levels = self.levels.iter().map(lower).collect();
        Self { text: self.text.to_lowercase(), levels, captures: Vec::new(), rest: self.rest }
    }

    /// The common beginning of all topics that it takes, and whether that is the whole topic.
    pub fn prefix(&self, separator: char) -> (String, bool) {
        let mut prefix = String::new();
        for (number, level) in self.levels.iter().enumerate() {
            if number > 0 {
                prefix.push(separator);
            }
            let Level::Pieces(pieces) = level else { return (prefix, false) };
            prefix.extend(pieces.first().map(String::as_str));
            if pieces.len() > 1 {
                return (prefix, false);
            }
        }
        if self.rest && !self.levels.is_empty() {
            prefix.push(separator);
        }
        (prefix, !self.rest)
    }

    /// The literal text that each level begins with, and whether that is the whole level. Without the
    /// remaining levels of a `{name..}`.
    pub(super) fn beginnings(&self) -> impl Iterator<Item = (&str, bool)> {
        self.levels.iter().map(|level| match level {
            Level::Any | Level::Whole => ("", false),
            Level::Pieces(pieces) => (pieces.first().map_or("", String::as_str), pieces.len() == 1),
        })
    }

    /// Without the remaining ones of a `{name..}`.
    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Whether it takes all levels that remain: `{name..}`.
    pub(super) fn takes_rest(&self) -> bool {
        self.rest
    }

    /// The pattern's captures, in order. None where all of it is `{topic..}`, by which templates know the topic.
    pub fn captures(&self) -> &[Capture] {
        if self.is_topic() { &[] } else { &self.captures }
    }

    fn is_topic(&self) -> bool {
        self.levels.is_empty() && self.captures.iter().any(|c| c.name == "topic")
    }

    /// The values of the captures, in order, or `None` where the pattern does not take the topic.
    pub fn matches<'t>(&self, topic: &'t Topic) -> Option<Values<'t>> {
        let mut values = Values::new();
        let mut rest = Some(topic.as_str());
        for level in &self.levels {
            let (head, tail) = first_level(rest?, topic.separator());
            if !level.matches(head, &mut values) {
                return None;
            }
            rest = tail;
        }
        match (self.rest, rest) {
            (true, Some(remaining)) if !remaining.is_empty() => {
                if !self.is_topic() {
                    values.push(remaining);
                }
                Some(values)
            }
            (false, None) => Some(values),
            _ => None,
        }
    }

    /// Whether the pattern takes the topic `name`, whose levels are parted by `separator`.
    pub fn takes(&self, name: &str, separator: char) -> bool {
        self.matches(&Topic::new(name, separator)).is_some()
    }

    fn parse_level(&mut self, level: &str, span: Range<usize>) -> Result<(), Fault> {
        if level == "*" {
            self.levels.push(Level::Any);
            return Ok(());
        }
        let mut literals = vec![String::new()];
        let mut rest = level;
        while let Some(open) = rest.find(['{', '}']) {
            let at = span.end - rest.len() + open;
            if rest.as_bytes()[open] == b'}' {
                return Err(Fault::new(
                    at..at + 1,
                    "`}` without a `{` before it",
                    "write `{name}`",
                ));
            }
            let Some(close) = rest[open..].find('}').map(|c| open + c) else {
                return Err(Fault::new(at..at + 1, "the placeholder is never closed", "add a `}`"));
            };
            let whole = at..at + close + 1 - open;
            let inner = &rest[open + 1..close];
            let (name, many) = match inner.strip_suffix("..") {
                Some(name) => (name, true),
                None => (inner, false),
            };
            Capture::check_name(name, &whole)?;
            if self.captures.iter().any(|c| c.name == name) {
                let hint = "give each capture a name of its own";
                let fault = Fault::new(whole, format!("`{name}` is captured twice"), hint);
                return Err(fault.or_plain("a name is captured twice", hint));
            }
            self.captures.push(Capture { name: name.to_owned(), many });
            if many {
                if whole != span {
                    return Err(Fault::new(
                        whole,
                        "a capture of all remaining levels stands alone in its level",
                        "put the text around it into levels of its own",
                    ));
                }
                self.rest = true;
                return Ok(());
            }
            if let Some(last) = literals.last_mut() {
                last.push_str(&rest[..open]);
                if literals.len() > 1 && literals[literals.len() - 1].is_empty() {
                    return Err(Fault::new(
                        whole,
                        "two captures side by side can be split in many ways",
                        "put some text between them",
                    ));
                }
            }
            literals.push(String::new());
            rest = &rest[close + 1..];
        }
        if let Some(last) = literals.last_mut() {
            last.push_str(rest);
        }
        let whole = literals.len() == 2 && literals.iter().all(String::is_empty);
        self.levels.push(if whole { Level::Whole } else { Level::Pieces(literals) });
        Ok(())
    }
}

impl Level {
    pub(super) fn matches<'t>(&self, text: &'t str, values: &mut Values<'t>) -> bool {
        let literals = match self {
            Self::Any => return true,
            Self::Whole => {
                values.push(text);
                return !text.is_empty();
            }
            Self::Pieces(literals) => literals,
        };
        let (Some(first), Some(last)) = (literals.first(), literals.last()) else { return false };
        if literals.len() == 1 {
            return text == first;
        }
        let Some(mut rest) =
            text.strip_prefix(first.as_str()).and_then(|t| t.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for literal in &literals[1..literals.len() - 1] {
            // A capture takes at least one character, so the search starts behind the first.
            let Some(step) = rest.chars().next().map(char::len_utf8) else { return false };
            let Some(at) = rest[step..].find(literal.as_str()).map(|at| at + step) else {
                return false;
            };
            values.push(&rest[..at]);
            rest = &rest[at + literal.len()..];
        }
        values.push(rest);
        !rest.is_empty()
    }
}

/// The first of the levels of `text`, and those behind it. By bytes, which is quicker than by
/// characters: a separator is ASCII.
pub(super) fn first_level(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| char::from(byte) == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(pattern: &str, topic: &str) -> Option<Vec<String>> {
        let pattern = Pattern::parse(pattern, '/').unwrap();
        let topic = Topic::new(topic, '/');
        pattern.matches(&topic).map(|v| v.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn what_no_pattern_can_say_has_no_spelling() {
        assert_eq!(Pattern::spelled("a/+/b", '/').as_deref(), Some("a/*/b"));
        assert_eq!(Pattern::spelled("a/{x/+", '/'), None);
    }

    #[test]
    fn levels_pieces_and_rests_are_captured() {
        for (pattern, topic, expected) in [
            ("plant/{site}/telemetry", "plant/a-1/telemetry", Some(vec!["a-1"])),
            ("plant/{site}/telemetry", "plant/a/b/telemetry", None),
            ("plant/{site}", "plant/", None),
            ("plant/*", "plant/", Some(vec![])),
            ("plant/*", "plant", None),
            ("a/b", "a/b", Some(vec![])),
            ("a/b", "a/b/c", None),
            ("{all..}", "a/b/c", Some(vec!["a/b/c"])),
            ("a/{rest..}", "a/b/c", Some(vec!["b/c"])),
            ("a/{rest..}", "a", None),
            ("a/{rest..}", "a/", None),
            ("{a}-{b}", "x-y-z", Some(vec!["x", "y-z"])),
            ("{a}-x", "b-y-x", Some(vec!["b-y"])),
            ("v{a}.{b}.json", "v1.2.json", Some(vec!["1", "2"])),
            ("v{a}.{b}.json", "v1..json", None),
            ("{a}x{b}", "xx", None),
            ("{a}x{b}", "xxx", Some(vec!["x", "x"])),
            ("a/{x}/é", "a/ü鸡/é", Some(vec!["ü鸡"])),
        ] {
            let expected = expected.map(|v: Vec<&str>| v.into_iter().map(str::to_owned).collect());
            assert_eq!(take(pattern, topic), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn faults_point_at_the_place() {
        for (pattern, span) in [
            ("a/{b", 2..3),
            ("a/b}", 3..4),
            ("a*/b", 1..2),
            ("a/{x..}/b", 8..9),
            ("a/y{x..}", 3..8),
            ("{a}/{a}", 4..7),
            ("{a}{b}", 3..6),
            ("{}", 0..2),
            ("{json}", 0..6),
            ("a/+/b", 2..3),
            ("a/#", 2..3),
        ] {
            assert_eq!(Pattern::parse(pattern, '/').unwrap_err().span, span, "{pattern}");
        }
        let fault = Pattern::parse("orders/{event}", '.').unwrap_err();
        assert_eq!((fault.span, fault.hint.as_str()), (6..7, "write `orders.{event}`"));
    }

    #[test]
    fn the_dots_of_a_capture_part_no_levels() {
        let pattern = Pattern::parse("orders.{event..}", '.').unwrap();
        let topic = Topic::new("orders.eu.created", '.');
        assert_eq!(pattern.matches(&topic).unwrap().as_slice(), ["eu.created"]);
        assert_eq!(pattern.prefix('.'), ("orders.".to_owned(), false));
    }

    /// Whether some way of cutting the text fits, found by trying all.
    fn any_split(literals: &[String], text: &str) -> bool {
        let Some(rest) = text.strip_prefix(literals[0].as_str()) else { return false };
        if literals.len() == 1 {
            return rest.is_empty();
        }
        (1..=rest.len()).any(|n| any_split(&literals[1..], &rest[n..]))
    }

    proptest! {
        /// Leftmost matching takes whatever a search through all splits would take.
        #[test]
        fn a_level_matches_whenever_some_split_does(literals in prop::collection::vec("[ab]{1,2}", 0..3), ends in ("[ab]{0,2}", "[ab]{0,2}"), text in "[ab]{0,9}") {
            let mut all = vec![ends.0];
            all.extend(literals);
            all.push(ends.1);
            let expected = any_split(&all, &text);
            prop_assert_eq!(Level::Pieces(all).matches(&text, &mut Values::new()), expected);
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = Pattern::parse(&text, '/');
        }
    }
}
