//! Subscription identifiers of MQTT 5: which copy of a message counts. Pure.
//!
//! Where filters overlap, a broker may send a message once for each that takes it. MQTT 5 tells the
//! copies apart: such filters are subscribed to one by one, each under an identifier of its own, and a
//! copy bears those of the subscriptions that it was made for (MQTT-3.3.4-3 to -5). One copy counts, and
//! the others are only acknowledged.
//!
//! No message may be lost by that. So an identifier stands for a filter *and* for the subscriptions that
//! count more and were granted before it was given: whenever a copy bears it they existed, and where one
//! of them takes the topic, another copy was made for that one. It is a hash, so that it means the same
//! to the next process, for which the broker may have kept copies of today. A copy without an identifier,
//! or with one that is not of this configuration, counts: rather twice than never.
//!
//! Filters that meet no other share one identifier, which is of the configuration as a whole. So a message that bears
//! none of ours, once one has come that bears this one, is *foreign*: it comes by a subscription that another configuration
//! left in the session. The identifiers of filters that overlap tell nothing of that, since they may be the same in the
//! other configuration: where all of them overlap, only the topic tells.

use std::collections::{BTreeSet, HashMap};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Buf as _;

use crate::config::mqtt::FilterTree;

/// What identifiers mean is remembered of so many, and of those in use.
const MEANINGS: usize = 10_000;

/// An identifier has 28 bits, and is not 0.
const BITS: u32 = 0x0fff_ffff;

/// The identifiers that were given, or would be by another process of this configuration.
#[derive(Debug)]
pub(super) struct Identifiers {
    filters: Vec<String>,
    tree: FilterTree,
    meanings: HashMap<u32, Meaning>,
    /// That of the filters that meet no other.
    common: u32,
    /// Whether the topic of a message tells which filters take it: some brokers have spellings of their own, as
    /// `$exclusive/` before a filter.
    told_by_topic: bool,
    /// A message has come on this connection that bears the common one, so what waited from before is over.
    borne: bool,
}

/// A subscription, and those that count more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) filter: usize,
    pub(super) before: BTreeSet<usize>,
}

impl Identifiers {
    /// None yet, for these filters, which are called by their numbers.
    /// `spelled` is how the broker is asked for them.
    pub(super) fn new(filters: Vec<String>, spelled: &BTreeSet<String>) -> Self {
        let mut tree = FilterTree::new();
        for (number, filter) in filters.iter().enumerate() {
            tree.insert(filter, number);
        }
        let words: Vec<_> = spelled.iter().map(String::as_str).collect();
        let hash = digest(&SHA256, format!("\0{}", words.join("\0")).as_bytes());
        let told_by_topic = !filters.iter().any(|filter| filter.starts_with('$'));
        let common = (hash.as_ref().get_u32() & BITS).max(1);
        Self { filters, tree, meanings: HashMap::new(), common, told_by_topic, borne: false }
    }

    /// The identifier of filters that meet no other.
    pub(super) fn common(&self) -> u32 {
        self.common
    }

    /// A new connection.
    pub(super) fn connected(&mut self) {
        self.borne = false;
    }

    /// Whether a message came by a subscription that is not of this configuration; `identified`: whether ours have
    /// identifiers.
    pub(super) fn is_foreign(
        &mut self,
        topic: &str,
        identifiers: &[usize],
        identified: bool,
    ) -> bool {
        self.borne |= identifiers.contains(&(self.common as usize));
        if self.knows(identifiers) {
            return false;
        }
        (identified && self.borne) || !self.takes(topic)
    }

    /// Whether one of `identifiers` is of this configuration.
    fn knows(&self, identifiers: &[usize]) -> bool {
        identifiers.iter().any(|identifier| {
            u32::try_from(*identifier)
                .is_ok_and(|id| id == self.common || self.meanings.contains_key(&id))
        })
    }

    /// Whether some filter takes `topic`, as far as that can be told.
    fn takes(&self, topic: &str) -> bool {
        !self.told_by_topic || self.tree.meeting(topic).next().is_some()
    }

    /// The other filters that have topics in common with this one.
    pub(super) fn meeting(&self, number: usize) -> Vec<usize> {
        let meeting = self.tree.meeting(&self.filters[number]);
        meeting.filter(|other| *other != number).collect()
    }

    /// The identifier with this meaning. Where there are too many, those that are not in use are forgotten.
    pub(super) fn give(&mut self, meaning: &Meaning, in_use: impl Fn(&Meaning) -> bool) -> u32 {
        if self.meanings.len() >= MEANINGS {
            self.meanings.retain(|_, meaning| in_use(meaning));
        }
        let text = |number: &usize| self.filters[*number].as_str();
        // Whatever the numbers are in the next process.
        let others: BTreeSet<_> = meaning.before.iter().map(text).collect();
        let words: Vec<_> = [text(&meaning.filter)].into_iter().chain(others).collect();
        let mut hash = digest(&SHA256, words.join("\0").as_bytes());
        loop {
            let identifier = hash.as_ref().get_u32() & BITS;
            let known = self.meanings.entry(identifier).or_insert_with(|| meaning.clone());
            if identifier != 0 && known == meaning {
                return identifier;
            }
            hash = digest(&SHA256, hash.as_ref());
        }
    }

    /// Whether a copy on `topic` with these identifiers is the one that counts.
    pub(super) fn counts(&self, topic: &str, identifiers: &[usize]) -> bool {
        // Nothing to look up for what most messages are: of filters that meet no other.
        if identifiers.is_empty() || identifiers == [self.common as usize] {
            return true;
        }
        let taking: BTreeSet<_> = self.tree.meeting(topic).collect();
        identifiers.iter().any(|identifier| {
            let meaning = u32::try_from(*identifier).ok().and_then(|id| self.meanings.get(&id));
            // One of a filter that does not take the topic is not what it seems.
            let meaning = meaning.filter(|meaning| taking.contains(&meaning.filter));
            meaning.is_none_or(|meaning| meaning.before.is_disjoint(&taking))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifiers(filters: &[&str]) -> Identifiers {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let spelled = filters.iter().cloned().collect();
        Identifiers::new(filters, &spelled)
    }

    fn give(of: &mut Identifiers, filter: usize, before: &[usize]) -> usize {
        let before = before.iter().copied().collect();
        of.give(&Meaning { filter, before }, |_| true) as usize
    }

    #[test]
    fn a_copy_counts_unless_another_one_does() {
        let mut of = identifiers(&["acc/#", "acc/+", "acc/x", "b"]);
        let (all, one, x) =
            (give(&mut of, 0, &[]), give(&mut of, 1, &[0]), give(&mut of, 2, &[0, 1]));
        let alone = give(&mut of, 2, &[1]);
        assert!(of.counts("acc/x", &[all]));
        assert!(!of.counts("acc/x", &[one]) && !of.counts("acc/x", &[x]));
        assert!(!of.counts("acc/x", &[alone]));
        assert!(of.counts("acc/x", &[x, all, one]), "one copy for all");
        assert!(!of.counts("acc/x", &[one, x]));
        assert!(of.counts("acc/x", &[]), "of a subscription without an identifier");
        assert!(of.counts("acc/x", &[12_345]) && of.counts("acc/x", &[one, usize::MAX]));
        assert!(of.counts("acc/y/z", &[one]), "its filter does not take the topic");
    }

    #[test]
    fn a_meaning_has_the_same_identifier_whatever_the_order_of_the_configuration() {
        let (mut one, mut other) = (identifiers(&["a", "#", "+"]), identifiers(&["+", "#", "a"]));
        let identifier = give(&mut one, 0, &[1, 2]);
        assert_eq!(identifier, give(&mut other, 2, &[0, 1]));
        assert!((1..=268_435_455).contains(&identifier));
        assert_ne!(identifier, give(&mut one, 0, &[1]));
        assert_ne!(identifier, give(&mut one, 1, &[0, 2]));
        // 28 bits of the SHA-256 of its words.
        assert_eq!(give(&mut identifiers(&["plant/#"]), 0, &[]), 189_479_737);
    }

    #[test]
    fn a_configuration_has_an_identifier_of_its_own() {
        let (one, same, other) =
            (identifiers(&["a", "b"]), identifiers(&["b", "a"]), identifiers(&["a"]));
        assert_eq!(one.common(), same.common());
        assert_ne!(one.common(), other.common());
        let of_one = [one.common() as usize];
        assert!(one.knows(&of_one) && !other.knows(&of_one) && !one.knows(&[]));
        assert!(one.counts("a", &of_one) && other.counts("a", &of_one));
        assert!(one.takes("b") && !other.takes("b"));
        assert!(identifiers(&["$exclusive/a"]).takes("a"), "nobody can tell");
    }

    #[test]
    fn what_is_not_in_use_is_forgotten_before_there_is_too_much_of_it() {
        let filters: Vec<_> = (0..=MEANINGS).map(|n| format!("a/{n}")).collect();
        let mut of = Identifiers::new(filters, &BTreeSet::new());
        for filter in 0..=MEANINGS {
            let meaning = Meaning { filter, before: BTreeSet::new() };
            of.give(&meaning, |meaning| meaning.filter == 3);
        }
        let known: BTreeSet<_> = of.meanings.values().map(|meaning| meaning.filter).collect();
        assert_eq!(known, [3, MEANINGS].into());
    }
}
