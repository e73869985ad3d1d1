//! The topics that messages came from lately, so that those of one topic share its text and its ordering key: two
//! allocations for each message are two pieces of memory that another thread has to free.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;

use crate::message::{OrderKey, Topic};

/// How many are known. Others take the places of those known before.
const PLACES: usize = 1024;

/// A longer one is made for its message alone: what is kept here has no limit of its own.
const LONGEST: usize = 256;

/// What came lately.
pub(super) struct RecentTopics {
    separator: char,
    places: Vec<Option<(Topic, OrderKey)>>,
    hasher: DefaultHashBuilder,
}

impl RecentTopics {
    /// None yet; `separator` is what parts their levels.
    pub(super) fn new(separator: char) -> Self {
        Self { separator, places: Vec::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The topic of this name, and the key that orders its messages.
    pub(super) fn of(&mut self, name: &str) -> (Topic, OrderKey) {
        let separator = self.separator;
        let make = || {
            let topic = Topic::new(name, separator);
            let order = topic.order_key();
            (topic, order)
        };
        if name.len() > LONGEST {
            return make();
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        #[allow(clippy::cast_possible_truncation, reason = "any bits of it do")]
        let at = self.hasher.hash_one(name) as usize % PLACES;
        match &self.places[at] {
            Some(known) if known.0.as_str() == name => known.clone(),
            _ => self.places[at].insert(make()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_is_what_it_would_be_alone_however_many_there_are() {
        let mut topics = RecentTopics::new('.');
        for round in 0..3 {
            for number in 0..3 * PLACES {
                let name = format!("orders.{number}.{}", "x".repeat(number % (2 * LONGEST)));
                let (topic, order) = topics.of(&name);
                assert_eq!(topic, Topic::new(name.as_str(), '.'), "round {round}");
                assert_eq!(&*order, name.as_bytes(), "round {round}");
            }
        }
        assert_eq!(topics.places.len(), PLACES);
    }

    #[test]
    fn messages_of_one_topic_share_its_key() {
        let mut topics = RecentTopics::new('/');
        let (one, again) = (topics.of("plant/a/telemetry").1, topics.of("plant/a/telemetry").1);
        assert!(Arc::ptr_eq(&one, &again));
        let long = "x".repeat(LONGEST + 1);
        assert!(!Arc::ptr_eq(&topics.of(&long).1, &topics.of(&long).1));
    }
}
