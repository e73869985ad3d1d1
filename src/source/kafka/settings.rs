//! The configuration of a source as librdkafka's properties.

use std::time::Duration;

use rdkafka::ClientConfig;

use super::BuildError;
use crate::config::kafka::{KafkaConfig, Protocol};
use crate::kafka;

/// Prefetched messages, in kibibytes. They are not charged to the in-flight limit, and the notice of a
/// revocation queues behind them.
const PREFETCH_KIB: &str = "8192";

/// How often librdkafka gives its statistics, from which lag and group state are read.
pub(super) const STATISTICS_EVERY: Duration = Duration::from_secs(2);

/// Properties that the user may override, and below (`FIXED`) those that may not be.
const DEFAULTS: [(&str, &str); 5] = [
    ("queued.max.messages.kbytes", PREFETCH_KIB),
    // librdkafka's own second would leave a fast source idle most of the time: 8 MiB are soon taken.
    ("fetch.queue.backoff.ms", "20"),
    // A broker holds a fetch of empty partitions for so long. The first one often has but some of the
    // partitions, and the messages of the others wait behind it: for half a second at librdkafka's own value. The price is 20 requests a
    // second, in place of 2, to each broker whose partitions are idle.
    ("fetch.wait.max.ms", "50"),
    ("check.crcs", "true"),
    // New topics and partitions are seen after this.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// librdkafka's own `max.poll.interval.ms`.
const POLL_INTERVAL: u128 = 300_000;

const FIXED: [(&str, &str); 6] = [
    // Also for a position that the broker deleted: the messages behind it are never skipped. The start
    // with `start = "latest"` is not librdkafka's to choose.
    ("auto.offset.reset", "earliest"),
    // Stored positions are committed every second, and on revocation; only the bridge stores any.
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
    ("auto.commit.interval.ms", "1000"),
    ("enable.partition.eof", "false"),
    ("isolation.level", "read_committed"),
];

/// The properties for `config`; reads the files of certificates.
pub(super) fn properties(config: &KafkaConfig) -> Result<ClientConfig, BuildError> {
    let mut defaults = DEFAULTS.to_vec();
    if config.protocol == Protocol::Classic {
        defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
    }
    let mut client = kafka::connection(config, &defaults, &FIXED)?;
    client
        .set("group.id", &config.group)
        .set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string());
    if let Some(instance) = &config.instance {
        client.set("group.instance.id", instance);
    }
    match config.protocol {
        Protocol::Classic => {
            let session = config.session_timeout.as_millis();
            client.set("session.timeout.ms", session.to_string());
            // librdkafka wants it no shorter, and has five minutes.
            if session > POLL_INTERVAL && client.get("max.poll.interval.ms").is_none() {
                client.set("max.poll.interval.ms", session.to_string());
            }
        }
        Protocol::Consumer => {
            client.set("group.protocol", "consumer");
        }
    }
    Ok(client)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::kafka::tests::config;
    use crate::config::kafka::{Login, Sasl, Scram, Start};
    use crate::config::{Secret, Tls};
    use crate::kafka::check;
    use rdkafka::consumer::BaseConsumer;

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
        check::<BaseConsumer>(&properties).unwrap();
    }

    #[test]
    fn a_position_that_is_gone_is_never_followed_by_the_end() {
        let config = KafkaConfig { start: Start::Latest, ..config() };
        assert_eq!(properties(&config).unwrap().get("auto.offset.reset"), Some("earliest"));
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
            check::<BaseConsumer>(&properties).unwrap();
        }
    }

    #[test]
    fn the_newer_protocol_has_no_assignor_and_no_session_of_ours() {
        let config = KafkaConfig { protocol: Protocol::Consumer, ..config() };
        let properties = properties(&config).unwrap();
        assert_eq!(properties.get("group.protocol"), Some("consumer"));
        check::<BaseConsumer>(&properties).unwrap();
    }

    #[test]
    fn every_session_that_may_be_written_is_one_that_librdkafka_takes() {
        for minutes in [1, 5, 6, 30] {
            let session_timeout = std::time::Duration::from_mins(minutes);
            let config = KafkaConfig { session_timeout, ..config() };
            check::<BaseConsumer>(&properties(&config).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_named() {
        for (name, value) in [("no.such.thing", "1"), ("fetch.min.bytes", "many")] {
            let mut config = config();
            config.options = vec![(name.into(), value.into())];
            let error =
                check::<BaseConsumer>(&properties(&config).unwrap()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
