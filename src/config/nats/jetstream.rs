//! `type = "jetstream"`: its settings, and the keys they are read from.

use std::time::Duration;

use super::connection::{self, Connection, name};
use super::subjects;
use crate::config::common::{Client, Common, MAX_PAYLOAD, Own, Settings, Tls};
use crate::config::reader::{Kind, Problem, Table, Words, show_duration};

/// A checked `type = "jetstream"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JetStreamConfig {
    /// The way to the server.
    pub connection: Connection,
    /// The stream that is read.
    pub stream: String,
    /// The name of the consumer, which keeps where the bridge stands.
    pub durable: String,
    /// What is taken of the stream, none of which takes what another does; empty: everything.
    pub subjects: Vec<String>,
    /// Where a consumer begins that is made.
    pub deliver: Deliver,
    /// A message that is not acknowledged for so long, and of which nothing is heard, comes again.
    pub ack_wait: Duration,
    /// Who shares the consumer.
    pub consumers: Consumers,
}

/// Where a consumer begins that is made; one that is there goes on where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// With the oldest message of the stream.
    All,
    /// With the next one to come.
    New,
    /// With the newest of each subject.
    LastPerSubject,
}

/// Who shares the consumer: the bridge can't tell what another holds from what it held itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumers {
    /// This source alone: order is kept across a crash.
    One,
    /// Replicas: none waits for what another may hold.
    Many,
}

impl Settings for JetStreamConfig {
    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    fn tls(&self) -> Option<&Tls> {
        self.connection.tls.as_ref()
    }

    fn asked(&self) -> Vec<&str> {
        if self.subjects.is_empty() {
            return vec![">"];
        }
        self.subjects.iter().map(String::as_str).collect()
    }

    fn client(&self) -> Option<Client> {
        let (at, of) = (self.connection.servers.clone(), self.stream.clone());
        let alone = self.consumers == Consumers::One;
        alone.then(|| Client { at, of, name: self.durable.clone(), key: "durable" })
    }

    fn kept_by(&self) -> Option<String> {
        Some(format!("the durable `{}` of the stream `{}`", self.durable, self.stream))
    }
}

const ACK_WAIT: Duration = Duration::from_secs(30);

/// A third of it has to be long enough for the server to hear that a message is worked on.
const SHORTEST_ACK_WAIT: Duration = Duration::from_secs(2);

/// What other products call its keys.
pub(in crate::config) const WORDS: Words = &[
    connection::WORDS,
    &[
        ("stream", "streamname"),
        ("durable", "consumer durablename consumername name queue group consumergroup"),
        ("deliver", "deliverpolicy start startfrom autooffsetreset"),
        ("ack_wait", "ackwaitms acktimeout visibilitytimeout"),
        ("consumers", "replicas shared members"),
        ("max_in_flight", "maxackpending prefetch batch batchsize fetchsize"),
    ],
];

/// Reads what only `JetStream` sources have.
pub(in crate::config) fn read(
    table: &mut Table<'_>,
    common: &Common,
) -> Option<Own<JetStreamConfig>> {
    let ledger = table.ledger;
    let connection = connection::read(table, common);
    let stream = name(table, "stream", "a stream");
    let stream = table.require("stream", stream, "the stream to read: `stream = \"ORDERS\"`");
    let durable = name(table, "durable", "a consumer");
    let hint = "the consumer that keeps where the bridge stands: `durable = \"appsync-bridge\"`";
    let durable = table.require("durable", durable, hint);
    let subjects = table.strings("subjects").then(|texts| {
        let subjects = subjects::read(ledger, &texts.value)?;
        let hint = "the filters of a consumer have nothing in common: keep one, or narrow them";
        subjects::apart(ledger, &subjects, hint)?;
        Some(subjects)
    });
    let subjects = subjects.or(Vec::new());
    let begins = [
        ("all", Deliver::All),
        ("new", Deliver::New),
        ("last-per-subject", Deliver::LastPerSubject),
    ];
    let deliver = table.choice_or("deliver", &begins, &[], Deliver::All);
    let ack_wait = table.duration("ack_wait").then(|wait| {
        if wait.value >= SHORTEST_ACK_WAIT {
            return Some(wait.value);
        }
        let shortest = show_duration(SHORTEST_ACK_WAIT);
        let message =
            format!("`ack_wait` is {}, but {shortest} is the least", show_duration(wait.value));
        let hint =
            "the server is told of a message in work each third of it; else it sends it again";
        ledger.refuse(Problem::new(Kind::Impossible, Some(wait.span), message).help(hint))
    });
    let ack_wait = ack_wait.or(ACK_WAIT);
    let consumers = [("one", Consumers::One), ("many", Consumers::Many)];
    let consumers = table.choice_or("consumers", &consumers, &[], Consumers::One);
    let (durable, subjects) = (durable?, subjects?);
    let asked = match subjects.value.as_slice() {
        [] => vec![table.span.clone()],
        some => some.iter().map(|subject| subject.span.clone()).collect(),
    };
    Some(Own {
        asked,
        client: Some(durable.span),
        config: JetStreamConfig {
            connection: connection?,
            stream: stream?.value,
            durable: durable.value,
            subjects: subjects.value.into_iter().map(|subject| subject.value).collect(),
            deliver: deliver?.value,
            ack_wait: ack_wait?.value,
            consumers: consumers?.value,
        },
    })
}
