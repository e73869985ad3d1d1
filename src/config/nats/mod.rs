//! `type = "nats"` and `type = "jetstream"`: their settings, and the keys they are read from.

mod auth;
mod connection;
pub(super) mod jetstream;
mod rejects;
mod subjects;

use super::common::{Client, Common, MAX_PAYLOAD, Own, Settings, Tls};
use super::reader::{Kind, Problem, Table, Words};
pub use auth::Auth;
pub use connection::Connection;
pub use jetstream::{Consumers, Deliver, JetStreamConfig};
pub use rejects::SubjectRejects;
pub(super) use rejects::read_rejects;
pub(super) use subjects::{SEPARATOR, SPELLING};
pub use subjects::{is_subject, meet, overlaps, takes};

/// A checked `type = "nats"`: core NATS, which keeps nothing for anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// The way to the server.
    pub connection: Connection,
    /// What is taken, with `*` and `>`.
    pub subjects: Vec<String>,
    /// Each message goes to one member of this group.
    pub queue: Option<String>,
}

impl Settings for NatsConfig {
    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    fn tls(&self) -> Option<&Tls> {
        self.connection.tls.as_ref()
    }

    fn asked(&self) -> Vec<&str> {
        self.subjects.iter().map(String::as_str).collect()
    }

    fn at_most_once(&self) -> Option<&'static str> {
        Some(
            "core NATS keeps nothing, so what comes while the bridge is away or has no room is lost; what must \
             arrive belongs in a stream (`type = \"jetstream\"`)",
        )
    }

    fn client(&self) -> Option<Client> {
        None
    }

    fn kept_by(&self) -> Option<String> {
        None
    }
}

/// What other products call its keys.
pub(super) const WORDS: Words = &[
    connection::WORDS,
    &[
        ("queue", "queuegroup group deliverygroup consumergroup"),
        ("max_in_flight", "pendinglimit pendinglimits subscriptioncapacity prefetch"),
    ],
];

/// Reads what only sources of core NATS have.
pub(super) fn read(table: &mut Table<'_>, common: &Common) -> Option<Own<NatsConfig>> {
    let ledger = table.ledger;
    let connection = connection::read(table, common);
    let subjects = table.strings("subjects").then(|texts| subjects::read(ledger, &texts.value));
    let subjects = table.require("subjects", subjects, subjects::HINT);
    let queue = table.filled("queue").then(|text| {
        if !text.value.value.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Some(text.value.value);
        }
        let message = format!("{} can't be the name of a queue group", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help("it has no blanks"))
    });
    let queue = queue.optional();
    let subjects = subjects?.value;
    if let Ok(Some(_)) = queue {
        let hint = "a `queue` group is sent each message once, by any of its subscriptions, so those of one \
                    subject would lose their order: keep one, or narrow them";
        subjects::apart(ledger, &subjects, hint)?;
    }
    Some(Own {
        asked: subjects.iter().map(|subject| subject.span.clone()).collect(),
        client: None,
        config: NatsConfig {
            connection: connection?,
            subjects: subjects.into_iter().map(|subject| subject.value).collect(),
            queue: queue.ok()?.map(|queue| queue.value),
        },
    })
}

#[cfg(all(test, feature = "nats"))]
pub(crate) mod tests {
    use super::*;

    /// Everything as it is unless it is written.
    pub(crate) fn jetstream() -> JetStreamConfig {
        let connection = Connection {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            auth: None,
            tls: None,
            tls_first: false,
        };
        JetStreamConfig {
            connection,
            stream: "S".to_owned(),
            durable: "d".to_owned(),
            subjects: Vec::new(),
            deliver: Deliver::All,
            ack_wait: std::time::Duration::from_secs(30),
            consumers: Consumers::One,
        }
    }
}
