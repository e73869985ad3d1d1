//! Whether a topic may exist that a source asks its broker for and that a route takes.

use regex::bytes::{Regex, RegexBuilder};

use super::pattern::{Pattern, Values};
use super::wildcard::{Spelling, Wildcards};

/// What a compiled regular expression may take, in bytes.
const SIZE: usize = 1 << 20;

/// One of the things that a source asks for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As it is written.
    pub text: &'a str,
    separator: char,
    spelling: Spelling,
    /// Compiled once: there may be thousands of routes.
    regex: Option<Regex>,
}

impl<'a> Asked<'a> {
    /// `text` in this spelling, of topics whose levels are parted by `separator`.
    pub fn new(text: &'a str, separator: char, spelling: Spelling) -> Self {
        let asked = Self { text, separator, spelling, regex: None };
        let regex = asked.is_regex().then(|| compile(text).ok()).flatten();
        Self { regex, ..asked }
    }

    /// The same with another text.
    pub fn spelled<'t>(&self, text: &'t str) -> Asked<'t> {
        Asked::new(text, self.separator, self.spelling)
    }

    /// Whether it is a regular expression.
    pub fn is_regex(&self) -> bool {
        self.spelling == Spelling::Regex && is_regex(self.text)
    }

    /// Whether a topic may exist that it brings and that `topic` takes; of a regular expression in doubt.
    pub fn meets(&self, topic: &Pattern) -> bool {
        match self.spelling {
            Spelling::Levels(own) => levels_meet(self.text, self.separator, own, topic),
            Spelling::Regex if self.is_regex() => self.regex_meets(topic),
            // A name without wildcards.
            Spelling::Regex | Spelling::Route | Spelling::Name => {
                topic.takes(self.text, self.separator)
            }
        }
    }

    fn regex_meets(&self, topic: &Pattern) -> bool {
        let (takes, all) = topic.prefix(self.separator);
        if all {
            // An invalid regular expression is reported elsewhere.
            return self.regex.as_ref().is_none_or(|regex| regex.is_match(takes.as_bytes()));
        }
        let brings = literal_prefix(self.text);
        takes.starts_with(&brings) || brings.starts_with(&takes)
    }
}

/// Whether what may be a name or a regular expression is the latter.
pub fn is_regex(text: &str) -> bool {
    text.starts_with('^')
}

/// A regular expression over the bytes of a name, which are ASCII; or why it is none.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).unicode(false).size_limit(SIZE).build().map_err(|error| {
        let text = error.to_string();
        // The last line says what, those before it where.
        let last = text.lines().last().unwrap_or_default().trim();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

fn levels_meet(text: &str, separator: char, own: Wildcards, topic: &Pattern) -> bool {
    let wild = |level: &str| level == own.one || level == own.rest;
    let begins_wild = text.split(separator).next().is_some_and(wild);
    if begins_wild && own.hidden.is_some_and(|mark| topic.prefix(separator).0.starts_with(mark)) {
        return false;
    }
    let mut levels = topic.levels().iter();
    let mut asked = text.split(separator);
    loop {
        match (levels.next(), asked.next()) {
            (Some(_), Some(level)) if level == own.rest => return true,
            (None, Some(level)) if level == own.rest && own.takes_none => return true,
            (Some(level), Some(text)) => {
                if text != own.one && !level.matches(text, &mut Values::new()) {
                    return false;
                }
            }
            (None, Some(last)) => {
                return topic.takes_rest() && !(last.is_empty() && asked.next().is_none());
            }
            (Some(_), None) => return false,
            (None, None) => return !topic.takes_rest(),
        }
    }
}

/// The literal prefix of all topics that a regular expression matches.
fn literal_prefix(regex: &str) -> String {
    let mut prefix = String::new();
    if regex.contains('|') {
        return prefix;
    }
    let mut rest = regex.trim_start_matches('^').chars().peekable();
    while let Some(c) = rest.next() {
        let literal = match c {
            '\\' => rest.next().filter(|escaped| !escaped.is_ascii_alphanumeric()),
            '.' | '[' | '(' | ')' | '{' | '*' | '+' | '?' | '$' | '^' => None,
            c => Some(c),
        };
        let Some(literal) = literal else { break };
        // An optional character is no part of the prefix.
        if matches!(rest.peek(), Some('*' | '?' | '{')) {
            break;
        }
        prefix.push(literal);
    }
    prefix
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of a broker whose topics are paths, and …
    pub(in crate::route) const FILTER: Spelling =
        Spelling::Levels(Wildcards { one: "+", rest: "#", takes_none: true, hidden: Some('$') });

    /// … of one whose topics are subjects.
    pub(in crate::route) const SUBJECT: Spelling =
        Spelling::Levels(Wildcards { one: "*", rest: ">", takes_none: false, hidden: None });

    #[test]
    fn wildcards_that_no_pattern_meets_are_found() {
        for (pattern, filter, meets) in [
            ("plant/{site}/telemetry", "plant/+/telemetry", true),
            ("plant/{site}/telemetry", "plant/#", true),
            ("plant/{site}/telemetry", "#", true),
            ("plant/{site}/telemetry", "plant/+/status", false),
            ("plant/{site}", "plant/+/status", false),
            ("plant/{rest..}", "plant/+/status", true),
            ("plant/{rest..}", "plant", false),
            ("plant/{rest..}", "plant/#", true),
            ("plant", "plant/#", true),
            ("plant/line-{n}", "plant/line-7", true),
            ("plant/line-{n}", "plant/cell-7", false),
            ("plant/{rest..}", "plant/", false),
            ("$SYS/{rest..}", "#", false),
            ("$SYS/{rest..}", "+/x", false),
            ("$SYS/{rest..}", "$SYS/#", true),
            ("{all..}", "#", true),
        ] {
            let topic = Pattern::parse(pattern, '/').unwrap();
            assert_eq!(Asked::new(filter, '/', FILTER).meets(&topic), meets, "{pattern} {filter}");
        }
        for (pattern, subject, meets) in [
            ("orders.{event}", "orders.*", true),
            ("orders.{event}", "orders.>", true),
            ("orders.{event}", ">", true),
            ("orders", "orders.>", false),
            ("orders.{event}", "orders.*.eu", false),
            ("orders.{event}", "orders", false),
            ("orders.{rest..}", "orders.*.eu", true),
            ("orders.{rest..}", "orders.>", true),
            ("orders.{rest..}", "*", false),
            ("orders.line-{n}", "*.line-7", true),
            ("orders.line-{n}", "*.cell-7", false),
            ("$SYS.{rest..}", ">", true),
        ] {
            let topic = Pattern::parse(pattern, '.').unwrap();
            let found = Asked::new(subject, '.', SUBJECT).meets(&topic);
            assert_eq!(found, meets, "{pattern} {subject}");
        }
    }

    #[test]
    fn regular_expressions_meet_what_they_may_bring() {
        for (regex, topic, meets) in [
            ("^orders\\..*", "orders.{event}", true),
            ("^orders\\..*", "Orders.{event}", false),
            ("^orders\\..*", "bills.{event}", false),
            ("^orders\\..*", "orders.created", true),
            ("^orders\\..*", "orders", false),
            ("^orders\\.[a-z]+$", "orders.Created", false),
            ("^(orders|bills)\\.", "bills.{event}", true),
            ("^orders?\\.", "order.{event}", true),
            ("^orders{0,1}", "order.{event}", true),
            ("^.*", "a.{b..}", true),
            ("^(?<no", "a", true),
            ("^ord", "orders.{event}", true),
        ] {
            let pattern = Pattern::parse(topic, '.').unwrap();
            let asked = Asked::new(regex, '.', Spelling::Regex);
            assert_eq!(asked.meets(&pattern), meets, "{regex} {topic}");
        }
    }

    #[test]
    fn what_is_no_regular_expression_is_told_in_a_line() {
        assert_eq!(compile("^orders(").unwrap_err(), "unclosed group");
        assert!(compile("^(a{500}){500}{500}").unwrap_err().contains("size limit"));
        compile("^orders\\.[[:digit:]]+\\d\\w$").unwrap();
    }
}
