//! `type = "kafka"` of a dead letter: a topic at the brokers of a source.

use super::{KafkaConfig, topics};
use crate::config::broker::KAFKA;
use crate::config::home::Homes;
use crate::config::reader::{Kind, Located, Problem, Table};
use crate::message::SourceName;

/// A checked `type = "kafka"` of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaRejects {
    /// A source of this file, whose brokers and credentials are used.
    pub source: SourceName,
    /// No source whose rejects go here reads it.
    pub topic: String,
}

impl KafkaRejects {
    /// By which of its topics `kafka` reads what is written here; `home` is the source whose connection is used.
    pub(in crate::config) fn read_by(
        &self,
        kafka: &KafkaConfig,
        home: &KafkaConfig,
    ) -> Option<usize> {
        let taking = kafka.topics.taking(&self.topic).next()?;
        let number = kafka.topics.all().iter().position(|topic| topic == taking)?;
        kafka.may_meet(home).then_some(number)
    }

    /// Keeps the topic out of the regular expressions of `kafka`.
    pub(in crate::config) fn keep_out_of(&self, kafka: &mut KafkaConfig, home: &KafkaConfig) {
        if kafka.may_meet(home) {
            kafka.topics.keep_out(&self.topic);
        }
    }
}

/// Reads it; the place is that of the topic.
pub(in crate::config) fn read_rejects(
    mut table: Table<'_>,
    homes: &Homes<'_>,
) -> Option<Located<KafkaRejects>> {
    let source = homes.read(&mut table, &[&KAFKA], "shop");
    let ledger = table.ledger;
    let topic = table.filled("topic").then(|text| {
        if topics::is_topic(&text.value.value) {
            return Some(text.value.value);
        }
        let message = format!("{} can't be a topic", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help("a topic has letters, digits, `.`, `_` and `-`"))
    });
    let topic = table.require("topic", topic, "where they go: `topic = \"orders.rejected\"`");
    table.finish();
    let (source, Located { value: topic, span }) = (source?, topic?);
    Some(Located { value: KafkaRejects { source, topic }, span })
}
