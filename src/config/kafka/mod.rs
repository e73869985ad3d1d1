//! `type = "kafka"`: its settings, and the keys they are read from.

mod librdkafka;
mod rejects;
mod sasl;
mod topics;

use std::time::Duration;

use super::common::{Client, Common, MAX_PAYLOAD, Own, Settings, Tls, secured};
use super::endpoint::is_loopback;
use super::reader::{
    Kind, Ledger, Located, Problem, Setting, Table, Text, Words, contrast, impossible,
    show_duration,
};
pub use rejects::KafkaRejects;
pub(super) use rejects::read_rejects;
pub use sasl::{Login, Sasl, Scram};
pub use topics::{Chosen, Topics};

/// A checked `type = "kafka"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port` of the brokers that are asked first; `host` alone means port 9092.
    pub brokers: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// What is taken.
    pub topics: Topics,
    /// The name of a static member: a restart within the session's timeout moves no partition.
    pub instance: Option<String>,
    /// How the group shares its partitions out.
    pub protocol: Protocol,
    /// A member that is silent for so long is out of the group. The broker says it in the newer
    /// protocol.
    pub session_timeout: Duration,
    /// A partition that is taken away is waited for so long: for the answers that are under way.
    pub drain_timeout: Duration,
    /// Where the group begins that has committed nothing.
    pub start: Start,
    /// What becomes of a message without a payload.
    pub tombstones: Tombstones,
    /// How to secure the connection, if at all.
    pub tls: Option<Tls>,
    /// Who we are.
    pub sasl: Option<Sasl>,
    /// Properties of librdkafka, none of them one that the bridge manages.
    pub options: Vec<(String, String)>,
}

impl KafkaConfig {
    /// Whether both may be of one cluster: they ask the same broker first.
    pub fn may_meet(&self, other: &Self) -> bool {
        let place = |broker: &str| {
            let (host, port) = parts(broker);
            let port = port.map_or(Ok(DEFAULT_PORT), str::parse::<u16>).ok();
            (host.to_ascii_lowercase(), port)
        };
        let same = |broker: &String| other.brokers.iter().any(|b| place(b) == place(broker));
        self.brokers.iter().any(same)
    }
}

impl Settings for KafkaConfig {
    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn asked(&self) -> Vec<&str> {
        self.topics.all().iter().map(String::as_str).collect()
    }

    fn has_keys(&self) -> bool {
        true
    }

    fn client(&self) -> Option<Client> {
        let (at, of) = (self.brokers.clone(), self.group.clone());
        Some(Client { at, of, name: self.instance.clone()?, key: "group_instance_id" })
    }

    fn kept_by(&self) -> Option<String> {
        Some(format!("the consumer group `{}`", self.group))
    }
}

/// How a group shares its partitions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By its members, with a leader among them; every broker knows it.
    Classic,
    /// By the broker (KIP-848): Kafka 4.0 or newer.
    Consumer,
}

/// Where a group begins with a topic that is new to it. A position that the broker no longer has is followed
/// by the oldest message that there is, whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message that there is.
    Earliest,
    /// With the next one to come; what is born later begins with its first.
    Latest,
}

/// What becomes of a message without a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    /// It is acknowledged and counted.
    Skip,
    /// It goes through the routes with `null` for a payload.
    Null,
}

/// Of a broker that is named without one.
const DEFAULT_PORT: u16 = 9092;
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// A broker takes 6 s at least and 30 min at most, unless it is told otherwise
/// (`group.min.session.timeout.ms` and its like).
const SESSION_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(30));
/// Within this a member has to ask for messages, and to let go of partitions.
const MAX_POLL_INTERVAL: &str = "max.poll.interval.ms";
const BROKERS: &str = "the brokers to ask first: `brokers = [\"kafka-1:9092\"]`";

/// What other products call its keys.
pub(super) const WORDS: Words = &[&[
    ("brokers", "bootstrapservers bootstrapserver seedbrokers broker servers hosts"),
    ("group", "consumergroup groupid consumergroupid"),
    ("topics", "topic subscriptions topicpattern"),
    ("start", "autooffsetreset startfromoldest startoffset offsetreset"),
    ("options", "librdkafkaoptions properties config"),
    ("group_instance_id", "instanceid staticmember memberid groupinstance"),
    ("protocol", "groupprotocol rebalanceprotocol"),
    ("session_timeout", "sessiontimeoutms"),
    ("drain_timeout", "rebalancetimeout draintimeoutms"),
    ("tombstones", "tombstone nullvalues"),
    ("sasl", "auth authentication username user password credentials aws"),
    ("max_in_flight", "checkpointlimit prefetch maxpollrecords queuesize"),
]];

/// Reads what only Kafka sources have.
pub(super) fn read(
    table: &mut Table<'_>,
    common: &Common,
    grace: Option<&Setting<Duration>>,
) -> Option<Own<KafkaConfig>> {
    let ledger = table.ledger;
    let brokers = table.strings("brokers").then(|texts| brokers(ledger, &texts.value));
    let brokers = table.require("brokers", brokers, BROKERS);
    let group = table.filled("group");
    let hint = "replicas of one group share its partitions: `group = \"appsync-bridge\"`";
    let group = table.require("group", group, hint);
    let topics = table.strings("topics").then(|texts| topics::read(ledger, &texts.value));
    let topics = table.require("topics", topics, topics::HINT);
    let instance = table.filled("group_instance_id").optional();
    let protocols = [("classic", Protocol::Classic), ("consumer", Protocol::Consumer)];
    let protocol = table.choice_or("protocol", &protocols, &[], Protocol::Classic);
    let session = session_timeout(table, protocol.as_ref().map(|p| p.value));
    let drain = table.duration("drain_timeout").or(DRAIN_TIMEOUT);
    if let Some(drain) = &drain {
        if let Some(session) = &session
            && protocol.as_ref().is_some_and(|p| p.value == Protocol::Classic)
        {
            let why = "else the group gives a partition away while its messages are waited for";
            related(table, drain, "session_timeout", session, drain.value < session.value, why);
        }
        if let Some(grace) = grace {
            let why = "the process is gone when the grace is over";
            related(table, drain, "shutdown.grace", grace, drain.value <= grace.value, why);
        }
    }
    let starts = [("earliest", Start::Earliest), ("latest", Start::Latest)];
    let start = table.choice_or("start", &starts, &[], Start::Earliest);
    let tombstones = [("skip", Tombstones::Skip), ("null", Tombstones::Null)];
    let tombstones = table.choice_or("tombstones", &tombstones, &[], Tombstones::Skip);
    let tls = secured(ledger, &common.tls, None);
    let sasl = table.table("sasl", "sasl").then(|table| sasl::read(table.value)).optional();
    if let (Ok(Some(sasl)), Ok(tls), Some(brokers)) = (&sasl, &tls, &brokers) {
        in_plain_text(ledger, sasl, tls.as_ref(), brokers, common);
    }
    let options = librdkafka::options(table).or(Vec::new());
    if let (Some(drain), Some(options)) = (&drain, &options)
        && let Some(longest) = max_poll_interval(&options.value)
    {
        let why = "the group goes on without a member that takes longer to let go of a partition";
        related(table, drain, MAX_POLL_INTERVAL, &longest, drain.value < longest.value, why);
    }
    let topics = topics?;
    let instance = instance.ok()?;
    Some(Own {
        asked: topics.value.iter().map(|topic| topic.span.clone()).collect(),
        client: instance.as_ref().map(|id| id.span.clone()),
        config: KafkaConfig {
            brokers: brokers?.value,
            group: group?.value.value,
            topics: Topics::new(topics.value.into_iter().map(|topic| topic.value)),
            instance: instance.map(|id| id.value.value),
            protocol: protocol?.value,
            session_timeout: session?.value,
            drain_timeout: drain?.value,
            start: start?.value,
            tombstones: tombstones?.value,
            tls: tls.ok()?,
            sasl: sasl.ok()?.map(|sasl| sasl.value),
            options: options?.value.into_iter().map(|option| option.value).collect(),
        },
    })
}

fn brokers(ledger: &Ledger<'_>, texts: &[Located<Text>]) -> Option<Vec<String>> {
    let broker = |text: &Located<Text>| match check_broker(&text.value.value) {
        Ok(()) => Some(text.value.value.clone()),
        Err((problem, hint)) => {
            let message = format!("{} {problem}", text.value.shown());
            let problem = Problem::new(Kind::BadValue, Some(text.span.clone()), message);
            ledger.refuse(problem.help(hint))
        }
    };
    let all: Vec<_> = texts.iter().map(broker).collect();
    all.into_iter().collect()
}

fn check_broker(text: &str) -> Result<(), (&'static str, &'static str)> {
    let form = "a broker is `HOST:PORT`";
    if text.contains(',') {
        return Err(("is several brokers", "write a list: `[\"kafka-1:9092\", \"kafka-2:9092\"]`"));
    }
    if text.contains("://") {
        return Err(("is a URL", "a broker is `HOST:PORT`; encryption is `tls = true`"));
    }
    let (host, port) = parts(text);
    if host.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '@' || c == '/') {
        return Err(("is no broker", form));
    }
    match port.map(str::parse::<u16>) {
        None => Ok(()),
        Some(Ok(port)) if port > 0 => Ok(()),
        Some(_) => Err(("has no usable port", "a port is 1 to 65535")),
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn parts(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
}

fn session_timeout(table: &mut Table<'_>, protocol: Option<Protocol>) -> Option<Setting<Duration>> {
    let ledger = table.ledger;
    let session = table.duration("session_timeout").then(|session| {
        let (shortest, longest) = SESSION_TIMEOUTS;
        let (problem, hint) = if protocol == Some(Protocol::Consumer) {
            let hint = "remove it; at the broker it is `group.consumer.session.timeout.ms`";
            ("`session_timeout` is the broker's to say with `protocol = \"consumer\"`", hint)
        } else if !(shortest..=longest).contains(&session.value) {
            let hint = "it is `\"6s\"` to `\"30m\"`, and less only where the broker allows it";
            ("`session_timeout` is beyond what a broker takes", hint)
        } else {
            return Some(session.value);
        };
        let place = Some(session.span);
        ledger.refuse(Problem::new(Kind::Impossible, place, problem).help(hint))
    });
    session.or(SESSION_TIMEOUT)
}

/// What `options` say of it; the default of librdkafka is longer than a drain may be.
fn max_poll_interval(options: &[Located<(String, String)>]) -> Option<Setting<Duration>> {
    let option = options.iter().rfind(|option| option.value.0 == MAX_POLL_INTERVAL)?;
    let value = Duration::from_millis(option.value.1.parse().ok()?);
    Some(Setting { value, span: Some(option.span.clone()) })
}

/// Reports a `drain_timeout` that is too long for what it has to end in.
fn related(
    table: &Table<'_>,
    drain: &Setting<Duration>,
    key: &str,
    limit: &Setting<Duration>,
    holds: bool,
    why: &str,
) {
    if holds {
        return;
    }
    let message = contrast([("drain_timeout", drain), (key, limit)], show_duration);
    let sign = if key == "shutdown.grace" { "<=" } else { "<" };
    let problem = impossible(message, drain, limit, "ends after this");
    table.ledger.report(problem.help(format!("`drain_timeout` {sign} `{key}`: {why}")));
}

/// Reports a secret that would cross the network as plain text.
fn in_plain_text(
    ledger: &Ledger<'_>,
    sasl: &Located<Sasl>,
    tls: Option<&Tls>,
    brokers: &Located<Vec<String>>,
    common: &Common,
) {
    if tls.is_some() {
        return;
    }
    let place = Some(sasl.span.clone());
    if let Sasl::AwsMskIam { .. } = sasl.value {
        let message = "`aws-msk-iam` is taken over TLS only";
        let problem = Problem::new(Kind::Impossible, place, message);
        return ledger.report(problem.help("add `tls = true`; the port is 9098 as a rule"));
    }
    let plaintext = common.plaintext.as_ref().is_none_or(|setting| setting.value);
    if !plaintext && !brokers.value.iter().all(|broker| is_loopback(parts(broker).0)) {
        let message = "the password would cross the network as plain text";
        let problem = Problem::new(Kind::Unsafe, place, message)
            .also(brokers.span.clone(), "not encrypted, and not loopback")
            .help("add `tls = true`; to send it all the same, `dangerously_plaintext = true`");
        ledger.report(problem);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Everything as it is unless it is written.
    #[cfg(feature = "kafka")]
    pub(crate) fn config() -> KafkaConfig {
        KafkaConfig {
            brokers: vec!["a:1".into(), "b:2".into()],
            group: "g".into(),
            topics: Topics::new(["t".into()]),
            instance: None,
            protocol: Protocol::Classic,
            session_timeout: SESSION_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            start: Start::Earliest,
            tombstones: Tombstones::Skip,
            tls: None,
            sasl: None,
            options: Vec::new(),
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_broker_is_the_same_with_its_port_and_without() {
        let of = |broker: &str| KafkaConfig { brokers: vec![broker.to_owned()], ..config() };
        for (one, other, same) in [
            ("kafka", "KAFKA:9092", true),
            ("[::1]", "[::1]:9092", true),
            ("kafka:09092", "kafka:9092", true),
            ("kafka", "kafka:9093", false),
            ("kafka", "kafka-2", false),
        ] {
            assert_eq!(of(one).may_meet(&of(other)), same, "{one} {other}");
            assert_eq!(of(other).may_meet(&of(one)), same, "{other} {one}");
        }
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for good in ["kafka", "kafka-1:9092", "10.0.0.1:1", "[::1]:9092", "[::1]"] {
            assert_eq!(check_broker(good), Ok(()), "{good}");
        }
        for bad in ["", ":9092", "a:0", "a:70000", "a:x", "a,b", "kafka://a", "u@a:1", "a b"] {
            assert!(check_broker(bad).is_err(), "{bad}");
        }
    }
}
