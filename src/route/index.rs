//! Which routes may take a message: its source, and the text that the levels of its topic begin with, looked up.
//! What that costs does not grow with the number of routes whose levels begin with other text; those that differ
//! behind a capture are tried one by one.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Spec;
use super::pattern::{Pattern, first_level};
use crate::message::{Message, SourceName};

/// Numbers of routes, ascending.
pub(super) type Numbers = SmallVec<[usize; 4]>;

/// Further levels of a pattern are not looked up: how deep the nodes go is not for a configuration to say.
const MOST_LEVELS: usize = 32;

/// The routes of each source, by the levels of their patterns. It finds all that take a message, and perhaps more.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    sources: HashMap<SourceName, Node>,
}

/// What a topic may go on with, behind the levels that led here.
#[derive(Clone, Debug, Default)]
struct Node {
    /// A level of exactly this text.
    literal: HashMap<Box<str>, Node>,
    /// A level that begins with a text of so many bytes: that before its first capture, which may be none.
    prefixed: Vec<(usize, HashMap<Box<str>, Node>)>,
    /// Routes that take a topic that ends here.
    ends: Vec<usize>,
    /// Routes that take whatever levels follow.
    rests: Vec<usize>,
}

impl Index {
    /// Over `routes`, which are numbered in this order.
    pub(super) fn new<'r>(routes: impl IntoIterator<Item = &'r Spec>) -> Self {
        let mut index = Self::default();
        for (number, route) in routes.into_iter().enumerate() {
            for source in &route.from {
                index
                    .sources
                    .entry(source.clone())
                    .or_default()
                    .insert(route.topic.as_ref(), number);
            }
        }
        index
    }

    /// The routes that may take `message`; each still has to match its pattern.
    pub(super) fn candidates(&self, message: &Message) -> Numbers {
        let mut numbers = Numbers::new();
        if let Some(node) = self.sources.get(&message.source) {
            let topic = &message.topic;
            node.collect(Some(topic.as_str()), topic.separator(), &mut numbers);
            numbers.sort_unstable();
        }
        numbers
    }
}

impl Node {
    fn insert(&mut self, pattern: Option<&Pattern>, number: usize) {
        let mut node = self;
        let mut levels = pattern.into_iter().flat_map(Pattern::beginnings);
        for (text, is_whole) in levels.by_ref().take(MOST_LEVELS) {
            node = node.below(text, is_whole);
        }
        let rest = pattern.is_none_or(Pattern::takes_rest) || levels.next().is_some();
        let routes = if rest { &mut node.rests } else { &mut node.ends };
        // A route may name its source twice, and takes a message once.
        if routes.last() != Some(&number) {
            routes.push(number);
        }
    }

    fn below(&mut self, text: &str, is_whole: bool) -> &mut Self {
        let children = if is_whole {
            &mut self.literal
        } else {
            let place = self.prefixed.iter().position(|(length, _)| *length == text.len());
            let place = place.unwrap_or_else(|| {
                self.prefixed.push((text.len(), HashMap::new()));
                self.prefixed.len() - 1
            });
            &mut self.prefixed[place].1
        };
        children.entry(text.into()).or_default()
    }

    /// `rest`: the levels that are left, `None` behind the last.
    fn collect(&self, rest: Option<&str>, separator: char, numbers: &mut Numbers) {
        let Some(rest) = rest else { return numbers.extend_from_slice(&self.ends) };
        numbers.extend_from_slice(&self.rests);
        if self.literal.is_empty() && self.prefixed.is_empty() {
            return;
        }
        let (level, rest) = first_level(rest, separator);
        let prefixed = self
            .prefixed
            .iter()
            .filter_map(|(length, children)| children.get(level.get(..*length)?));
        for node in self.literal.get(level).into_iter().chain(prefixed) {
            node.collect(rest, separator, numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{message, spec};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_many_routes_those_are_looked_at_whose_literal_text_fits() {
        let mut patterns: Vec<String> =
            (0..1_000).map(|n| format!("site/{n}/temperature")).collect();
        patterns.extend((0..1_000).map(|n| format!("site/line-{n}-{{x}}")));
        patterns.extend(
            ["site/{s}/temperature", "{all..}", "*/{b}", "other/{rest..}"].map(String::from),
        );
        let specs: Vec<Spec> = patterns.iter().map(|p| spec("r", Some(p), &["/a/b"])).collect();
        let index = Index::new(&specs);
        for (topic, expected) in [
            ("site/7/temperature", &[7, 2_000, 2_001][..]),
            ("site/line-12-a", &[1_012, 2_001, 2_002]),
            ("site/x/y/z", &[2_001]),
            ("other/a/b", &[2_001, 2_003]),
            ("other", &[2_001]),
        ] {
            let numbers = index.candidates(&message("plant", topic, "{}"));
            // `line-1-` is no beginning of `line-12-a`.
            assert_eq!(numbers.as_slice(), expected, "{topic}");
        }
    }

    #[test]
    fn a_pattern_of_very_many_levels_is_found_by_its_first() {
        let levels = |n| vec!["a"; n].join("/");
        let specs = [1, 32, 33, 100_000].map(|n| spec("r", Some(&levels(n)), &["/a/b"]));
        let index = Index::new(&specs);
        let numbers = |topic: &str| index.candidates(&message("plant", topic, "{}"));
        assert_eq!(numbers(&levels(32)).as_slice(), [1]);
        assert_eq!(numbers(&levels(100_000)).as_slice(), [2, 3]);
    }

    #[test]
    fn a_source_that_stands_twice_takes_once_and_another_not_at_all() {
        let mut route = spec("one", None, &["/a/b"]);
        route.from.push("plant".into());
        let index = Index::new([&route]);
        assert_eq!(index.candidates(&message("plant", "t", "{}")).as_slice(), [0]);
        assert!(index.candidates(&message("other", "t", "{}")).is_empty());
    }

    fn patterns() -> impl Strategy<Value = Vec<String>> {
        let level = prop_oneof![
            "[ab]{1,2}",
            Just("*".to_owned()),
            "[ab]?\\{x\\}[ab]?",
            Just("é{y}".to_owned())
        ];
        let pattern =
            (prop::collection::vec(level, 0..4), any::<bool>()).prop_map(|(levels, rest)| {
                // Names have to differ.
                let named =
                    levels.iter().enumerate().map(|(n, l)| l.replace(['x', 'y'], &format!("c{n}")));
                named.chain(rest.then(|| "{rest..}".to_owned())).collect::<Vec<_>>().join("/")
            });
        prop::collection::vec(pattern, 1..12)
    }

    proptest! {
        /// Looked up or tried one by one, the same routes take a topic.
        #[test]
        fn nothing_is_missed(patterns in patterns(), topic in "[abé]{0,3}(/[abé]{0,3}){0,4}") {
            let good = patterns.iter().filter(|p| Pattern::parse(p, '/').is_ok());
            let specs: Vec<Spec> = good.map(|p| spec("r", Some(p), &["/a/b"])).collect();
            let message = message("plant", &topic, "{}");
            let takes = |n: &usize| specs[*n].topic.as_ref().unwrap().matches(&message.topic).is_some();
            let all: Vec<usize> = (0..specs.len()).filter(takes).collect();
            let found: Vec<usize> = Index::new(&specs).candidates(&message).into_iter().filter(takes).collect();
            prop_assert_eq!(found, all);
        }
    }
}
