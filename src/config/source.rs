//! `[source.NAME]`: a broker and what to take from it.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::api::{ca_file, pem_file};
use super::kafka::{self, KafkaConfig};
use super::names::Names;
use super::problem::{Kind, Problem, listed, quoted};
use super::reader::{Field, Setting, Table};
use super::{DeadLetterName, Secret, certificates, dead_letter, mqtt};

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

/// `type = "mqtt"`.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port: the URL's, else 1883, or 8883 with TLS.
    pub port: u16,
    /// How to secure the connection, if at all.
    pub tls: Option<Tls>,
    /// The protocol.
    pub version: MqttVersion,
    /// Who we are to the broker; the session hangs on it. Empty, with `qos` 0 only: the broker chooses
    /// a name, and `session_expiry` is 0.
    pub client_id: String,
    /// What to take.
    pub subscriptions: Vec<Subscription>,
    /// How long the broker keeps the session without us; whole seconds.
    pub session_expiry: Duration,
    /// The longest silence on the connection.
    pub keep_alive: Duration,
    /// The largest packet taken, in bytes.
    pub max_packet_size: u32,
    /// The user's name.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// The MQTT protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1.
    V3,
    /// 5.
    V5,
}

/// One topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// With `+` and `#`.
    pub filter: String,
    /// The quality of service asked for.
    pub qos: Qos,
}

/// The quality of service of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// 0: nothing is acknowledged.
    AtMostOnce,
    /// 1: acknowledged when settled.
    AtLeastOnce,
}

/// `tls = { ca_file, cert_file, key_file }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
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

/// What every source has, as far as it could be read.
pub(super) struct Common {
    pub(super) messages: Option<Setting<u32>>,
    pub(super) bytes: Option<Setting<u64>>,
    pub(super) tls: Field<TlsChoice>,
    pub(super) plaintext: Option<Setting<bool>>,
}

/// `tls`.
pub(super) enum TlsChoice {
    /// `false`.
    Off,
    /// `true` or a table.
    On(Tls),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Kafka,
    Mqtt,
}

const TYPES: [(&str, Type); 2] = [("kafka", Type::Kafka), ("mqtt", Type::Mqtt)];
const IN_FLIGHT_BYTES: u64 = 64 << 20;
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
    let common = common(&mut table, of);
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

fn common(table: &mut Table<'_>, of: Type) -> Common {
    let ledger = table.ledger;
    let (in_flight, most) = of.in_flight();
    let bytes = table.size("max_in_flight_bytes").then(|bytes| {
        if bytes.value == 0 {
            let message = "`max_in_flight_bytes` is 0, so nothing could ever be taken";
            ledger.report(Problem::new(Kind::Impossible, Some(bytes.span), message));
            return None;
        }
        Some(bytes.value)
    });
    Common {
        messages: table.integer("max_in_flight", 1..=most).or(in_flight),
        bytes: bytes.or(IN_FLIGHT_BYTES),
        tls: tls(table),
        plaintext: table.boolean("dangerously_plaintext").or(false),
    }
}

fn tls(table: &mut Table<'_>) -> Field<TlsChoice> {
    table.field("tls", |ledger, entry| match entry.value.get_ref() {
        toml::de::DeValue::Boolean(false) => Some(TlsChoice::Off),
        toml::de::DeValue::Boolean(true) => Some(TlsChoice::On(Tls::default())),
        toml::de::DeValue::Table(table) => {
            let span = entry.value.span();
            let mut table = Table::new(ledger, "tls", "`tls`".to_owned(), span.clone(), table);
            let ca_file = ca_file(&mut table);
            let certificate = pem_file(&mut table, "cert_file", "CERTIFICATE").optional();
            let key = pem_file(&mut table, "key_file", "PRIVATE KEY").optional();
            table.finish();
            let identity = match (certificate.ok()?, key.ok()?) {
                (Some(certificate), Some(key)) => {
                    certificates::identity(ledger, &certificate, &key)?;
                    Some((certificate.value, key.value))
                }
                (None, None) => None,
                (certificate, _) => {
                    let (has, lacks) = match certificate {
                        Some(_) => ("cert_file", "key_file"),
                        None => ("key_file", "cert_file"),
                    };
                    let message = format!("`tls` has `{has}` but no `{lacks}`");
                    let problem = Problem::new(Kind::MissingKey, Some(span), message);
                    ledger.report(problem.help("a client shows a certificate and holds its key"));
                    return None;
                }
            };
            Some(TlsChoice::On(Tls { ca_file: ca_file.ok()?, identity }))
        }
        other => {
            let wanted = "`true`, `false` or a table";
            ledger.wrong_type("tls", entry.value.span(), wanted, other);
            None
        }
    })
}
