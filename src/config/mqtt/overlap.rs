//! Which topic filters of MQTT have topics in common.

use std::collections::BTreeMap;

/// Numbered filters as a tree of their levels: those that meet another one are found without a look
/// at every pair.
#[derive(Debug)]
pub struct FilterTree {
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    below: BTreeMap<String, usize>,
    /// The filter that ends here.
    end: Option<usize>,
}

/// The numbers of filters that meet one, in no order.
pub struct Meeting<'a> {
    tree: &'a FilterTree,
    levels: Vec<&'a str>,
    /// No recursion: a filter may have thousands of levels.
    todo: Vec<Step>,
}

enum Step {
    /// A filter was found.
    Found(usize),
    /// At a node, with the levels from this one on to go.
    At(usize, usize),
    /// Everything at a node and below it.
    All(usize),
}

impl FilterTree {
    /// A tree without filters.
    pub fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds a filter under a number of its own.
    pub fn insert(&mut self, filter: &str, number: usize) {
        let mut at = 0;
        for level in filter.split('/') {
            let next = self.nodes.len();
            at = *self.nodes[at].below.entry(level.to_owned()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].end = Some(number);
    }

    /// The filters that take some topic which `filter` takes, too: MQTT 4.7, where `a/#` takes `a`, and
    /// a wildcard at the start takes no topic that begins with `$`. A topic is a filter that takes
    /// itself alone.
    pub fn meeting<'a>(&'a self, filter: &'a str) -> Meeting<'a> {
        Meeting { tree: self, levels: filter.split('/').collect(), todo: vec![Step::At(0, 0)] }
    }
}

impl Default for FilterTree {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Meeting<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            match self.todo.pop()? {
                Step::Found(number) => return Some(number),
                Step::At(node, depth) => self.step(node, depth),
                Step::All(node) => {
                    let node = &self.tree.nodes[node];
                    self.todo.extend(node.end.map(Step::Found));
                    self.todo.extend(node.below.values().map(|child| Step::All(*child)));
                }
            }
        }
    }
}

impl Meeting<'_> {
    fn step(&mut self, node: usize, depth: usize) {
        let node = &self.tree.nodes[node];
        let child = |level: &str| node.below.get(level).copied();
        let hidden = |level: &str| depth == 0 && level.starts_with('$');
        let rest = child("#").map(Step::All);
        match self.levels.get(depth).copied() {
            None => {
                self.todo.extend(node.end.map(Step::Found));
                self.todo.extend(rest);
            }
            Some("#") => {
                self.todo.extend(node.end.map(Step::Found));
                let seen = node.below.iter().filter(|(level, _)| !hidden(level));
                self.todo.extend(seen.map(|(_, child)| Step::All(*child)));
            }
            Some("+") => {
                let seen = node.below.iter().filter(|(level, _)| *level != "#" && !hidden(level));
                self.todo.extend(seen.map(|(_, child)| Step::At(*child, depth + 1)));
                self.todo.extend(rest);
            }
            Some(text) => {
                self.todo.extend(child(text).map(|child| Step::At(child, depth + 1)));
                if !hidden(text) {
                    self.todo.extend(child("+").map(|child| Step::At(child, depth + 1)));
                    self.todo.extend(rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meet(one: &str, other: &str) -> bool {
        let mut tree = FilterTree::new();
        tree.insert(one, 7);
        let found: Vec<_> = tree.meeting(other).collect();
        assert!(found.is_empty() || found == [7], "{one} {other}: {found:?}");
        !found.is_empty()
    }

    #[test]
    fn filters_meet_where_some_topic_fits_both() {
        for (one, other) in [
            ("a/#", "+/b"),
            ("sport/#", "sport"),
            ("#", "a"),
            ("#", "+"),
            ("+/+", "/"),
            ("/+", "/"),
            ("+/#", "a"),
            ("$SYS/#", "$SYS/+/x"),
            ("$SYS/#", "$SYS"),
            ("a/+/c", "+/b/+"),
            ("a//b", "a/+/b"),
        ] {
            assert!(meet(one, other) && meet(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("+/#", "$SYS"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a/b", "a/B"),
            ("+", "/"),
            ("+/x", "+/y"),
            ("a/#", "b/#"),
            ("sport/#", "sports"),
        ] {
            assert!(!meet(one, other) && !meet(other, one), "{one} {other}");
        }
    }

    #[test]
    fn filters_of_many_levels_do_no_harm() {
        let deep = "/".repeat(65_000);
        assert!(meet(&deep, &deep) && meet("#", &deep) && !meet("a", &deep));
    }

    /// MQTT 4.7, word by word.
    fn takes(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) | (None, None) => true,
            (Some((level, filter)), Some((name, topic))) => {
                (*level == "+" || level == name) && takes(filter, topic)
            }
            _ => false,
        }
    }

    fn may_take(filter: &str, topic: &[&str]) -> bool {
        let filter: Vec<_> = filter.split('/').collect();
        !(topic[0].starts_with('$') && ["+", "#"].contains(&filter[0])) && takes(&filter, topic)
    }

    fn topics() -> Vec<Vec<&'static str>> {
        let (mut all, mut last) = (Vec::new(), vec![Vec::new()]);
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|topic: &Vec<&str>| {
                    ["a", "b", "", "$s"].map(|level| [topic.as_slice(), &[level]].concat())
                })
                .collect();
            all.extend(last.clone());
        }
        all
    }

    proptest! {
        /// They meet if, and only if, there is a topic that both take.
        #[test]
        fn what_meets_is_what_has_a_topic_in_common(
            filters in prop::collection::vec("(a|b|\\+|\\$s|)(/(a|b|\\+|)){0,2}(/#)?|#", 1..6),
            other in "(a|b|\\+|\\$s|)(/(a|b|\\+|)){0,2}(/#)?|#",
        ) {
            let topics = topics();
            let mut filters = filters;
            filters.sort();
            filters.dedup();
            let mut tree = FilterTree::new();
            for (number, filter) in filters.iter().enumerate() {
                tree.insert(filter, number);
            }
            let mut found: Vec<_> = tree.meeting(&other).collect();
            found.sort_unstable();
            let both = |filter: &str| topics.iter().any(|t| may_take(filter, t) && may_take(&other, t));
            let expected: Vec<_> =
                (0..filters.len()).filter(|number| both(&filters[*number])).collect();
            prop_assert_eq!(found, expected, "{:?} {}", filters, other);
        }
    }
}
