//! Which topics of a cluster a Kafka source takes: some by name, others by regular expression.
//!
//! A regular expression takes none of the broker's own topics and none that the source's dead letters go to:
//! each commit is a record of `__consumer_offsets`, each reject one of the dead letter, and to take those
//! would write them again, for ever.

use std::collections::BTreeSet;

use regex::bytes::Regex;

use crate::config::reader::{Kind, Ledger, Located, Problem, Text};
use crate::route::meeting::{compile, is_regex};
use crate::route::wildcard::{Spelling, foreign, spelled};

/// What to write.
pub(crate) const HINT: &str =
    "what to take: `topics = [\"orders\"]`; `^orders\\..*` is a regular expression";

/// Names of topics are no longer: they are names of directories at the broker.
const LONGEST: usize = 249;

/// The topics of one source.
#[derive(Clone, Debug)]
pub struct Topics {
    all: Vec<String>,
    names: Vec<String>,
    patterns: Vec<(String, Regex)>,
    never: Vec<String>,
}

/// What a source takes of the topics that there are, and what its regular expressions leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Sorted; those that have names, whether they are there or not.
    pub taken: Vec<String>,
    /// Topics of the broker that a regular expression would take in.
    pub internal: Vec<String>,
    /// Topics of dead letters that a regular expression would take in.
    pub dead_letters: Vec<String>,
}

impl PartialEq for Topics {
    /// Whether both are written the same, and leave out the same.
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all && self.never == other.never
    }
}

impl Eq for Topics {}

impl Topics {
    /// Those that `topics` says; one that begins with `^` is a regular expression. One that is none takes nothing:
    /// they were checked when they were read.
    pub fn new(topics: impl IntoIterator<Item = String>) -> Self {
        let all: Vec<_> = topics.into_iter().collect();
        let (patterns, names): (Vec<_>, Vec<_>) =
            all.iter().cloned().partition(|topic| is_regex(topic));
        let compiled = |text: String| compile(&text).ok().map(|pattern| (text, pattern));
        let patterns = patterns.into_iter().filter_map(compiled).collect();
        Self { all, names, patterns, never: Vec::new() }
    }

    /// No regular expression takes this one: dead letters go there.
    pub fn keep_out(&mut self, topic: &str) {
        if !self.patterns.is_empty() && !self.is_never(topic) {
            self.never.push(topic.to_owned());
        }
    }

    /// As they are written.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// Those that have a name.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The regular expressions.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|(text, _)| text.as_str())
    }

    /// By what a topic is taken: its name, or regular expressions.
    pub fn taking<'t>(&'t self, topic: &'t str) -> impl Iterator<Item = &'t str> {
        let name = self.names.iter().map(String::as_str).filter(move |name| *name == topic);
        let may = !is_internal(topic) && !self.is_never(topic);
        let patterns =
            self.patterns.iter().filter(move |(_, p)| may && p.is_match(topic.as_bytes()));
        name.chain(patterns.map(|(text, _)| text.as_str()))
    }

    /// What is taken of these, and of those that have a name.
    pub fn choose<'c>(&self, cluster: impl IntoIterator<Item = &'c str>) -> Chosen {
        let mut chosen = Chosen { taken: self.names.clone(), ..Chosen::default() };
        for topic in cluster {
            let matches = || self.patterns.iter().any(|(_, p)| p.is_match(topic.as_bytes()));
            if self.names.iter().any(|name| name == topic) || !matches() {
                continue;
            }
            let list = if is_internal(topic) {
                &mut chosen.internal
            } else if self.is_never(topic) {
                &mut chosen.dead_letters
            } else {
                &mut chosen.taken
            };
            list.push(topic.to_owned());
        }
        for list in [&mut chosen.taken, &mut chosen.internal, &mut chosen.dead_letters] {
            list.sort_unstable();
        }
        chosen
    }

    fn is_never(&self, topic: &str) -> bool {
        self.never.iter().any(|never| never == topic)
    }
}

/// Reads `topics`.
pub(crate) fn read(ledger: &Ledger<'_>, texts: &[Located<Text>]) -> Option<Vec<Located<String>>> {
    let mut seen = BTreeSet::new();
    let mut topic = |text: &Located<Text>| {
        let refuse = |problem: &str, hint: &str| {
            let message = format!("{} {problem}", text.value.shown());
            let problem = Problem::new(Kind::BadValue, Some(text.span.clone()), message);
            ledger.refuse(problem.help(hint))
        };
        let name = text.value.value.as_str();
        if !seen.insert(name.to_owned()) {
            return refuse("is subscribed to twice", "once is enough");
        }
        if name == "^" || name.is_empty() {
            return refuse("names no topic", HINT);
        }
        if !is_regex(name) {
            if !is_topic(name) {
                let hint = "a topic has letters, digits, `.`, `_` and `-`; \
                            a regular expression begins with `^`";
                let regex = spelled(name, '.', Spelling::Regex).filter(|_| is_foreign(&text.value));
                let regex = regex.map_or(String::new(), |regex| format!(": write `'{regex}'`"));
                return refuse("can't be a topic", &format!("{hint}{regex}"));
            }
        } else if let Err(why) = compile(name) {
            let hint = "it begins with `^`, so it is read as one: `^orders\\..*`";
            return refuse(&format!("is no regular expression: {why}"), hint);
        } else if is_of_internal(name) {
            let hint =
                "topics that begin with `__` are the broker's own: name those that are meant";
            return refuse("takes no topic", hint);
        }
        Some(Located { value: name.to_owned(), span: text.span.clone() })
    };
    let all: Vec<_> = texts.iter().map(&mut topic).collect();
    all.into_iter().collect()
}

/// Whether it has wildcards that are no regular expression.
fn is_foreign(text: &Text) -> bool {
    let has = |c| text.value.contains(c);
    // What a route's `topic` knows is foreign here, too.
    let wild = has('*') || (has('{') && has('}'));
    text.is_shown() && (wild || foreign(&text.value, '.', Spelling::Route).is_some())
}

/// Whether a topic can be called so.
pub(crate) fn is_topic(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=LONGEST).contains(&name.len()) && name.chars().all(good)
}

/// Whether a topic is one of the broker and its tools: `__consumer_offsets`, `__transaction_state`,
/// `__share_group_state`, `__amazon_msk_canary` and their like.
pub(crate) fn is_internal(topic: &str) -> bool {
    topic.starts_with("__")
}

/// Whether all that a regular expression takes would be internal; in doubt not.
pub(crate) fn is_of_internal(pattern: &str) -> bool {
    let pattern = pattern.strip_prefix('^').unwrap_or_default();
    // One group around all of it; of others, that they may be left out.
    let whole = pattern.strip_suffix('$').unwrap_or(pattern);
    let group = |open| whole.strip_prefix(open).and_then(|inner| inner.strip_suffix(')'));
    let group = group("(?:").or_else(|| group("(")).filter(|inner| !inner.contains(['(', ')']));
    let rest = group.unwrap_or(pattern).strip_prefix("__").filter(|_| !pattern.contains('|'));
    rest.is_some_and(|rest| !rest.starts_with(['?', '*', '{']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(topics: &[&str], never: &[&str]) -> Topics {
        let mut topics = Topics::new(topics.iter().map(|topic| (*topic).to_owned()));
        for topic in never {
            topics.keep_out(topic);
        }
        topics
    }

    const CLUSTER: [&str; 7] = [
        "orders.new",
        "__consumer_offsets",
        "rejects",
        "__transaction_state",
        "payments",
        "old.orders",
        "__share_group_state",
    ];

    #[test]
    fn a_regular_expression_takes_neither_the_brokers_topics_nor_the_dead_letters() {
        let all = topics(&["^.*", "later"], &["rejects"]).choose(CLUSTER);
        assert_eq!(all.taken, ["later", "old.orders", "orders.new", "payments"]);
        assert_eq!(all.dead_letters, ["rejects"]);
        assert_eq!(
            all.internal,
            ["__consumer_offsets", "__share_group_state", "__transaction_state"]
        );
    }

    #[test]
    fn by_name_everything_is_taken() {
        let named = topics(&["__consumer_offsets", "rejects", "^orders"], &["rejects"]);
        assert_eq!(named.choose(CLUSTER).taken, ["__consumer_offsets", "orders.new", "rejects"]);
        assert_eq!(named.choose(CLUSTER).internal, [""; 0]);
        assert_eq!(named.taking("rejects").collect::<Vec<_>>(), ["rejects"]);
    }

    #[test]
    fn a_regular_expression_begins_where_the_name_does_and_may_end_before_it() {
        let some = topics(&["^orders", "^(pay|bill)", "^[[:alpha:]]+\\.new$"], &[]);
        assert_eq!(some.choose(CLUSTER).taken, ["orders.new", "payments"]);
        let by = |topic: &'static str| some.taking(topic).collect::<Vec<_>>();
        assert_eq!(by("orders.new"), ["^orders", "^[[:alpha:]]+\\.new$"]);
        assert_eq!(by("old.orders"), [""; 0]);
    }

    #[test]
    fn a_regular_expression_of_internal_topics_is_known() {
        for (pattern, of_internal) in [
            ("^__consumer.*", true),
            ("^(?:__a)", true),
            ("^(__a.*)$", true),
            ("^__a(b)?", true),
            ("^(__)?orders", false),
            ("^(?:__a)?b", false),
            ("^((__)?orders)", false),
            ("^(__){0,1}(a)", false),
            ("^__{0,1}a", false),
            ("^__*a", false),
            ("^?__a", false),
            ("^(__a|b)", false),
            ("^__.*|^orders", false),
            ("^__?orders", false),
            ("^_a", false),
            ("^.*", false),
        ] {
            assert_eq!(is_of_internal(pattern), of_internal, "{pattern}");
        }
    }
}
