//! `[source.NAME]`: a broker and what to take from it.

use std::ops::Range;
use std::time::Duration;

use super::common::common;
use super::kafka::{self, KafkaConfig};
use super::mqtt::{self, MqttConfig};
use super::reader::{Field, Kind, Names, Problem, Setting, Table, listed, quoted};
use super::{DeadLetterName, dead_letter};
use crate::message::SourceName;

/// A checked `[source.NAME]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its name.
    pub name: SourceName,
    /// In flight at most.
    pub limits: Limits,
    /// What becomes of a message that no route takes.
    pub unrouted: Unrouted,
    /// What only this kind of broker needs.
    pub kind: SourceKind,
}

/// What a source may hold between the oldest message not yet acknowledged and the newest taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes of topic, payload and properties; events share the payload's bytes.
    pub bytes: usize,
}

/// What becomes of a message that no route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// Counted, and acknowledged.
    Ignore,
    /// Written to this dead letter.
    DeadLetter(DeadLetterName),
}

/// The kinds of broker.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// An MQTT broker.
    Mqtt(MqttConfig),
    /// A Kafka cluster.
    Kafka(KafkaConfig),
}

impl SourceKind {
    /// Its `type`, and the feature that brings its client.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Mqtt(_) => "mqtt",
            Self::Kafka(_) => "kafka",
        }
    }

    /// What parts the levels of its topics.
    pub fn separator(&self) -> char {
        match self {
            Self::Mqtt(_) => '/',
            Self::Kafka(_) => '.',
        }
    }
}

/// A source, and where in the file it says what is checked against others.
pub(super) struct Read {
    pub(super) config: SourceConfig,
    /// The table.
    pub(super) table: Range<usize>,
    /// What tells this client from others at the broker.
    pub(super) client_id: Range<usize>,
    /// The subscriptions' filters or topics, one each.
    pub(super) filters: Vec<Range<usize>>,
    /// `unrouted` is written: what no route takes is meant to be there.
    pub(super) unrouted_is_meant: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Kafka,
    Mqtt,
}

const TYPES: [(&str, Type); 2] = [("kafka", Type::Kafka), ("mqtt", Type::Mqtt)];
const LATER: [&str; 3] = ["nats", "jetstream", "sqs"];
const TYPE: &str = "this version knows `type = \"kafka\"` and `\"mqtt\"`";

impl Type {
    fn word(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Mqtt => "mqtt",
        }
    }

    /// Messages in flight: unless set, and at most.
    fn in_flight(self) -> (u32, u32) {
        match self {
            Self::Kafka => (10_000, 1_000_000),
            // The receive maximum of MQTT 5 has 16 bits.
            Self::Mqtt => (1000, 65_535),
        }
    }
}

/// Reads a `[source.NAME]`.
pub(super) fn read(
    name: &str,
    mut table: Table<'_>,
    dead_letters: &Names,
    grace: Option<&Setting<Duration>>,
) -> Option<Read> {
    let ledger = table.ledger;
    let kind = table.choice("type", &TYPES, &LATER);
    if matches!(kind, Field::Bad) {
        // What its keys would be is known to nobody, or to a later version.
        table.ignore_rest();
        return None;
    }
    let kind = table.require("type", kind, TYPE);
    // Without a type that is what is missing; the keys are those of the first kind there was.
    let of = kind.as_ref().map_or(Type::Mqtt, |kind| kind.value);
    table.becomes(of.word());
    let (in_flight, most) = of.in_flight();
    let common = common(&mut table, in_flight, most);
    let unrouted = table.choice("unrouted", &[("ignore", false), ("dead-letter", true)], &[]);
    let unrouted = unrouted.then(|to| {
        if !to.value {
            return Some(Unrouted::Ignore);
        }
        let default =
            || dead_letters.has(dead_letter::DEFAULT).then(|| dead_letter::DEFAULT.into());
        let name = dead_letters.only().or_else(default);
        if name.is_none() {
            let names = listed(dead_letters.all(), "and");
            let message = format!("`unrouted` can't choose between {names}");
            let problem = Problem::new(Kind::MissingKey, Some(to.span), message);
            let name = quoted(dead_letter::DEFAULT);
            ledger.report(problem.help(format!("call the one for unrouted messages {name}")));
        }
        name.map(Unrouted::DeadLetter)
    });
    let unrouted = unrouted.or(Unrouted::Ignore);
    let unrouted_is_meant = unrouted.as_ref().is_none_or(|setting| setting.span.is_some());
    let span = table.span.clone();
    let broker = match of {
        Type::Mqtt => mqtt::read(&mut table, &common)
            .map(|read| (SourceKind::Mqtt(read.config), read.client_id, read.filters)),
        Type::Kafka => kafka::read(&mut table, &common, grace)
            .map(|read| (SourceKind::Kafka(read.config), read.instance, read.topics)),
    };
    table.finish();
    kind?;
    let (kind, client_id, filters) = broker?;
    let limits = Limits {
        messages: usize::try_from(common.messages?.value).ok()?,
        bytes: usize::try_from(common.bytes?.value).ok()?,
    };
    common.plaintext?;
    let config = SourceConfig { name: name.into(), limits, unrouted: unrouted?.value, kind };
    let client_id = client_id.unwrap_or(span.clone());
    Some(Read { config, table: span, client_id, filters, unrouted_is_meant })
}
