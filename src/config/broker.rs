//! The kinds of broker, a row each: the constants of each kind, independent of a source's settings.
//!
//! Code that needs more than [`Settings`] matches on [`SourceKind`]; no other code depends on the kind. A
//! [`SourceKind`] without a row does not compile, and a word that is not in `ALL` is unknown: none is taken for
//! another.

use std::time::Duration;

use super::common::{Common, Own, Settings};
use super::kafka::{self, KafkaConfig};
use super::mqtt::{self, MqttConfig};
use super::nats::{self, Connection, JetStreamConfig, NatsConfig, jetstream};
use super::reader::{Setting, Table, Words, listed};
use super::sqs::{self, SqsConfig};
use crate::route::wildcard::Spelling;

/// What only a source of one kind of broker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A Kafka cluster.
    Kafka(KafkaConfig),
    /// A NATS server, without its streams.
    Nats(NatsConfig),
    /// A stream of a NATS server.
    JetStream(JetStreamConfig),
    /// An MQTT broker.
    Mqtt(MqttConfig),
    /// A queue of Amazon SQS.
    Sqs(SqsConfig),
}

/// A kind of broker.
pub struct Broker {
    /// The `type` of its sources.
    pub word: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// What traces call it: `messaging.system` of OpenTelemetry's conventions.
    pub system: &'static str,
    /// The Cargo feature that brings its client.
    pub feature: &'static str,
    /// Separator of topic levels.
    pub separator: char,
    /// The key that says what is taken, …
    pub(super) asked_by: &'static str,
    /// … and how that is written.
    pub(super) spelling: Spelling,
    /// By what it takes care of a message that is never to be done, if it does.
    pub(super) takes_rejects: Option<&'static str>,
    /// What other products call its keys.
    pub(super) words: Words,
    /// What its client may say in the log: directives of `EnvFilter`, which those of the configuration outdo.
    pub(super) quiet: &'static str,
    /// Messages in flight unless set, …
    pub(super) in_flight: u32,
    /// … and at most.
    pub(super) most_in_flight: u32,
    /// Reads the keys that only its sources have; the last is the grace of `[shutdown]`.
    pub(super) read: ReadOwn,
}

/// The keys that only one kind of source has become its settings.
pub(super) type ReadOwn =
    fn(&mut Table<'_>, &Common, Option<&Setting<Duration>>) -> Option<Own<SourceKind>>;

/// Apache Kafka.
pub static KAFKA: Broker = Broker {
    word: "kafka",
    name: "Kafka",
    system: "kafka",
    feature: "kafka",
    separator: '.',
    asked_by: "topics",
    spelling: Spelling::Regex,
    takes_rejects: None,
    words: kafka::WORDS,
    quiet: "",
    in_flight: 10_000,
    most_in_flight: 1_000_000,
    read: |table, common, grace| Some(kafka::read(table, common, grace)?.map(SourceKind::Kafka)),
};

/// Core NATS.
pub static NATS: Broker = Broker {
    word: "nats",
    name: "NATS",
    system: "nats",
    feature: "nats",
    separator: nats::SEPARATOR,
    asked_by: "subjects",
    spelling: nats::SPELLING,
    takes_rejects: None,
    words: nats::WORDS,
    // What it warns of, the source says in one line.
    quiet: "async_nats=off",
    in_flight: 10_000,
    most_in_flight: 1_000_000,
    read: |table, common, _| Some(nats::read(table, common)?.map(SourceKind::Nats)),
};

/// The streams of NATS.
pub static JETSTREAM: Broker = Broker {
    word: "jetstream",
    name: "JetStream",
    system: "nats",
    feature: "nats",
    separator: nats::SEPARATOR,
    asked_by: "subjects",
    spelling: nats::SPELLING,
    takes_rejects: None,
    words: jetstream::WORDS,
    quiet: "async_nats=off",
    in_flight: 10_000,
    most_in_flight: 1_000_000,
    read: |table, common, _| Some(jetstream::read(table, common)?.map(SourceKind::JetStream)),
};

/// MQTT.
pub static MQTT: Broker = Broker {
    word: "mqtt",
    name: "MQTT",
    system: "mqtt",
    feature: "mqtt",
    separator: mqtt::SEPARATOR,
    asked_by: "subscriptions",
    spelling: mqtt::SPELLING,
    takes_rejects: None,
    words: mqtt::WORDS,
    // It warns of what is meant: an UNSUBSCRIBE of what is not subscribed to.
    // A WebSocket's client shows its handshake, with a signature in it, and each frame, with a password.
    quiet: "rumqttc::state=error,tungstenite=info,tokio_tungstenite=info,async_tungstenite=info",
    in_flight: 1000,
    // The receive maximum of MQTT 5 has 16 bits.
    most_in_flight: 65_535,
    read: |table, common, _| Some(mqtt::read(table, common)?.map(SourceKind::Mqtt)),
};

/// Amazon SQS.
pub static SQS: Broker = Broker {
    word: "sqs",
    name: "SQS",
    system: "aws_sqs",
    feature: "sqs",
    // A queue's name is one level: nothing in it is a slash.
    separator: '/',
    asked_by: "queue",
    spelling: Spelling::Name,
    takes_rejects: Some("a redrive policy"),
    words: sqs::WORDS,
    quiet: "",
    in_flight: 1000,
    // A standard queue answers `OverLimit` at 120,000, a FIFO queue gives nothing and says nothing.
    most_in_flight: 100_000,
    read: |table, common, grace| Some(sqs::read(table, common, grace)?.map(SourceKind::Sqs)),
};

/// All that a file may name, in the order in which errors list them.
pub(super) static ALL: [&Broker; 5] = [&KAFKA, &NATS, &JETSTREAM, &MQTT, &SQS];

impl SourceKind {
    /// Its row.
    pub fn broker(&self) -> &'static Broker {
        self.both().0
    }

    /// The settings that all kinds have.
    pub fn settings(&self) -> &dyn Settings {
        self.both().1
    }

    /// The settings of a Kafka cluster, if it is one: a topic of it can be a dead letter.
    pub fn kafka(&self) -> Option<&KafkaConfig> {
        if let Self::Kafka(kafka) = self { Some(kafka) } else { None }
    }

    /// The way to a server of NATS, and the subjects that are taken there, if it is one: a subject of it can be a
    /// dead letter. None are known of a source that takes a whole stream.
    pub fn nats(&self) -> Option<(&Connection, &[String])> {
        match self {
            Self::Nats(nats) => Some((&nats.connection, &nats.subjects)),
            Self::JetStream(jetstream) => Some((&jetstream.connection, &jetstream.subjects)),
            _ => None,
        }
    }

    /// Whether both may be of one cluster that keeps dead letters for its sources.
    pub fn may_meet(&self, other: &Self) -> bool {
        match (self.kafka(), other.kafka(), self.nats(), other.nats()) {
            (Some(own), Some(other), ..) => own.may_meet(other),
            (_, _, Some((own, _)), Some((other, _))) => own.may_meet(other),
            _ => false,
        }
    }

    /// The same, to be told what only the whole file says.
    pub(super) fn settings_mut(&mut self) -> &mut dyn Settings {
        match self {
            Self::Kafka(kafka) => kafka,
            Self::Nats(nats) => nats,
            Self::JetStream(jetstream) => jetstream,
            Self::Mqtt(mqtt) => mqtt,
            Self::Sqs(sqs) => sqs,
        }
    }

    fn both(&self) -> (&'static Broker, &dyn Settings) {
        match self {
            Self::Kafka(kafka) => (&KAFKA, kafka),
            Self::Nats(nats) => (&NATS, nats),
            Self::JetStream(jetstream) => (&JETSTREAM, jetstream),
            Self::Mqtt(mqtt) => (&MQTT, mqtt),
            Self::Sqs(sqs) => (&SQS, sqs),
        }
    }
}

/// The kind that `word` stands for in this version.
pub(super) fn of_word(word: &str) -> Option<&'static Broker> {
    ALL.into_iter().find(|broker| broker.word == word)
}

/// What the clients of all kinds may say in the log.
pub fn quiet() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(|broker| broker.quiet)
}

/// The hint of a missing `type` that is one of `words`.
pub(super) fn known<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words = words.enumerate().map(|(at, word)| match at {
        0 => format!("type = \"{word}\""),
        _ => format!("\"{word}\""),
    });
    format!("this version knows {}", listed(&words.collect::<Vec<_>>(), "and"))
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_kind_is_taken_for_another() {
        let words: BTreeSet<_> = ALL.iter().map(|broker| broker.word).collect();
        assert_eq!(words.len(), ALL.len());
        for broker in ALL {
            assert!(of_word(broker.word).is_some_and(|found| std::ptr::eq(found, broker)));
            assert!((1..=broker.most_in_flight).contains(&broker.in_flight), "{broker:?}");
        }
        // An unknown word has no kind: there is no default kind.
        for word in ["", "Kafka", "amqp"] {
            assert!(of_word(word).is_none(), "{word}");
        }
    }
}
