//! The configuration of a source as librdkafka's properties.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::{BuildError, trouble};
use crate::config::kafka::{KafkaConfig, Protocol, Start};
use crate::config::sasl::{Sasl, Scram};
use crate::tls;

/// What is fetched ahead of what is taken, in kibibytes. It is not charged to the limit in flight, and
/// a message that says a partition is taken away queues behind it.
const PREFETCH_KIB: &str = "8192";

/// How often the numbers come that lag and state are read from.
pub(super) const STATISTICS_EVERY: Duration = Duration::from_secs(2);

/// What the user may override, and below what may not be.
const DEFAULTS: [(&str, &str); 6] = [
    ("client.id", "appsync-bridge"),
    ("queued.max.messages.kbytes", PREFETCH_KIB),
    // librdkafka's own second would leave a fast source idle most of the time: 8 MiB are soon taken.
    ("fetch.queue.backoff.ms", "10"),
    ("check.crcs", "true"),
    ("reconnect.backoff.max.ms", "10000"),
    // Topics of a regular expression and partitions that are added are seen after this.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

const FIXED: [(&str, &str); 7] = [
    // What is stored is committed every second, and when partitions go; nothing is stored but by us.
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
    ("auto.commit.interval.ms", "1000"),
    ("enable.partition.eof", "false"),
    ("isolation.level", "read_committed"),
    ("enable.ssl.certificate.verification", "true"),
    ("ssl.endpoint.identification.algorithm", "https"),
];

/// The properties for `config`; reads the files of certificates.
pub(super) fn properties(config: &KafkaConfig) -> Result<ClientConfig, BuildError> {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in DEFAULTS {
        client.set(name, value);
    }
    if config.protocol == Protocol::Classic {
        client.set("partition.assignment.strategy", "cooperative-sticky");
    }
    for (name, value) in &config.options {
        client.set(name, value);
    }
    for (name, value) in FIXED {
        client.set(name, value);
    }
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("group.id", &config.group)
        .set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string())
        .set(
            "auto.offset.reset",
            match config.start {
                Start::Earliest => "earliest",
                Start::Latest => "latest",
            },
        );
    if let Some(instance) = &config.instance {
        client.set("group.instance.id", instance);
    }
    match config.protocol {
        Protocol::Classic => {
            client.set("session.timeout.ms", config.session_timeout.as_millis().to_string());
        }
        Protocol::Consumer => {
            client.set("group.protocol", "consumer");
        }
    }
    secure(config, &mut client)?;
    Ok(client)
}

fn secure(config: &KafkaConfig, client: &mut ClientConfig) -> Result<(), BuildError> {
    let protocol = match (&config.tls, &config.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(tls) = &config.tls {
        // The system's, and one more: librdkafka would trust either.
        client.set("ssl.ca.pem", tls::trusted_pem(tls.ca_file.as_deref())?);
        if let Some((certificate, key)) = &tls.identity {
            client.set("ssl.certificate.location", certificate.to_string_lossy());
            client.set("ssl.key.location", key.to_string_lossy());
        }
    }
    let mechanism = match &config.sasl {
        None => return Ok(()),
        Some(Sasl::Plain(_)) => "PLAIN",
        Some(Sasl::Scram(Scram::Sha256, _)) => "SCRAM-SHA-256",
        Some(Sasl::Scram(Scram::Sha512, _)) => "SCRAM-SHA-512",
        Some(Sasl::OAuthBearer(_) | Sasl::AwsMskIam { .. }) => "OAUTHBEARER",
    };
    client.set("sasl.mechanism", mechanism);
    if let Some(Sasl::Plain(login) | Sasl::Scram(_, login)) = &config.sasl {
        client.set("sasl.username", &login.username);
    }
    if let Some(password) = password(config) {
        client.set("sasl.password", &*password);
    }
    Ok(())
}

/// The password as it is now: a file may have a new one since the last client was made, which keeps the
/// one that it was made with.
pub(super) fn password(config: &KafkaConfig) -> Option<Arc<str>> {
    match &config.sasl {
        Some(Sasl::Plain(login) | Sasl::Scram(_, login)) => Some(login.password.reread()),
        _ => None,
    }
}

/// Lets librdkafka see what it would say of the properties; connects to nothing.
pub(super) fn check(client: &ClientConfig) -> Result<(), BuildError> {
    let mut client = client.clone();
    client.remove("bootstrap.servers");
    client.remove("group.id");
    client.remove("group.instance.id");
    client.remove("test.mock.num.brokers");
    // The log callback of the real one tells what matters.
    client.set_log_level(RDKafkaLogLevel::Emerg);
    let made = client.create::<rdkafka::consumer::BaseConsumer>();
    made.map(drop).map_err(|error| BuildError::Settings(words(&error)))
}

/// What librdkafka says, without its own names for where it was.
pub(super) fn words(error: &rdkafka::error::KafkaError) -> String {
    use rdkafka::error::KafkaError;
    let mut text = String::new();
    let _ = match error {
        KafkaError::ClientCreation(why) => write!(text, "{why}"),
        KafkaError::ClientConfig(_, why, name, _) => write!(text, "`{name}`: {why}"),
        other => match other.rdkafka_error_code() {
            Some(code) => write!(text, "{}", trouble::words(code)),
            None => write!(text, "{other}"),
        },
    };
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::config::kafka::Tombstones;
    use crate::config::sasl::Login;
    use crate::config::source::Tls;

    pub(in super::super) fn config() -> KafkaConfig {
        KafkaConfig {
            brokers: vec!["a:1".into(), "b:2".into()],
            group: "g".into(),
            topics: vec!["t".into()],
            instance: None,
            protocol: Protocol::Classic,
            session_timeout: Duration::from_secs(45),
            drain_timeout: Duration::from_secs(20),
            start: Start::Earliest,
            tombstones: Tombstones::Skip,
            tls: None,
            sasl: None,
            options: Vec::new(),
        }
    }

    #[test]
    fn at_least_once_whatever_the_options_say() {
        let mut config = config();
        config.options = vec![
            ("enable.auto.offset.store".into(), "true".into()),
            ("isolation.level".into(), "read_uncommitted".into()),
            ("check.crcs".into(), "false".into()),
        ];
        let properties = properties(&config).unwrap();
        let expected = [
            ("bootstrap.servers", "a:1,b:2"),
            ("group.id", "g"),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "45000"),
            ("security.protocol", "plaintext"),
            ("check.crcs", "false"),
        ];
        for (name, value) in expected {
            assert_eq!(properties.get(name), Some(value), "{name}");
        }
        check(&properties).unwrap();
    }

    #[test]
    fn every_way_to_secure_a_connection_is_one_that_librdkafka_takes() {
        let login = || Login { username: "u".into(), password: Secret::new("p") };
        let ways = [
            (Some(Tls::default()), None, "ssl"),
            (Some(Tls::default()), Some(Sasl::Plain(login())), "sasl_ssl"),
            (None, Some(Sasl::Scram(Scram::Sha256, login())), "sasl_plaintext"),
            (
                Some(Tls::default()),
                Some(Sasl::AwsMskIam { aws: crate::config::api::Aws::default() }),
                "sasl_ssl",
            ),
        ];
        for (tls, sasl, protocol) in ways {
            let mut config = KafkaConfig { tls, sasl, ..config() };
            config.instance = Some("bridge-0".into());
            let properties = properties(&config).unwrap();
            assert_eq!(properties.get("security.protocol"), Some(protocol));
            check(&properties).unwrap();
        }
    }

    #[test]
    fn the_newer_protocol_has_no_assignor_and_no_session_of_ours() {
        let config = KafkaConfig { protocol: Protocol::Consumer, ..config() };
        let properties = properties(&config).unwrap();
        assert_eq!(properties.get("group.protocol"), Some("consumer"));
        check(&properties).unwrap();
    }

    #[test]
    fn what_librdkafka_refuses_is_named() {
        for (name, value) in [("no.such.thing", "1"), ("fetch.min.bytes", "many")] {
            let mut config = config();
            config.options = vec![(name.into(), value.into())];
            let error = check(&properties(&config).unwrap()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
