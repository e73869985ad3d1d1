//! `options` of a Kafka source: properties of librdkafka, as they are written in its own manual. Those
//! that the bridge manages are refused by name and reason.

use toml::de::DeValue;

use crate::config::reader::{Entry, Field, Form, Kind, Ledger, Located, Problem, Table};

const AT_LEAST_ONCE: &str = "the bridge commits what is settled, and nothing else: \
                             with another value messages could be lost";
const CONFIRMED: &str = "a dead letter counts when every replica in sync has it";
const VERIFIED: &str = "TLS is always verified here";

/// What the bridge manages, and why or by which key. A name that ends in `.` means all below it.
const MANAGED: [(&str, &str); 42] = [
    ("enable.auto.commit", AT_LEAST_ONCE),
    ("auto.commit.enable", AT_LEAST_ONCE),
    ("auto.commit.interval.ms", "offsets are committed every second"),
    ("enable.auto.offset.store", AT_LEAST_ONCE),
    ("offset.store.", AT_LEAST_ONCE),
    ("auto.offset.reset", "write `start = \"earliest\"` or `\"latest\"`"),
    ("enable.partition.eof", "nothing would hear of it"),
    ("isolation.level", "what a transaction did not commit is not relayed"),
    ("acks", CONFIRMED),
    ("request.required.acks", CONFIRMED),
    ("enable.idempotence", CONFIRMED),
    ("delivery.report.only.error", CONFIRMED),
    ("enable.gapless.guarantee", "a dead letter that fails is written again"),
    ("message.timeout.ms", "a dead letter is tried until it is written"),
    ("delivery.timeout.ms", "a dead letter is tried until it is written"),
    ("transactional.id", "dead letters are not written in transactions"),
    ("bootstrap.servers", "write `brokers`"),
    ("metadata.broker.list", "write `brokers`"),
    ("group.id", "write `group`"),
    ("group.instance.id", "write `group_instance_id`"),
    ("group.protocol", "write `protocol`"),
    ("session.timeout.ms", "write `session_timeout`"),
    ("security.protocol", "it follows from `tls` and `sasl`"),
    ("sasl.", "write `sasl`"),
    ("ssl.ca.", "write `tls = { ca_file = … }`"),
    ("ssl.certificate.", "write `tls = { cert_file = …, key_file = … }`"),
    ("ssl.key.", "write `tls = { cert_file = …, key_file = … }`"),
    ("ssl.keystore.", "write `tls = { cert_file = …, key_file = … }`"),
    ("ssl_", "write `tls`"),
    ("ssl.engine.", "it would load code into the bridge"),
    ("ssl.providers", "it would load code into the bridge"),
    ("ssl.endpoint.identification.algorithm", VERIFIED),
    ("enable.ssl.certificate.verification", VERIFIED),
    ("enable.sasl.oauthbearer.unsecure.jwt", "an unsigned token proves nothing"),
    ("plugin.library.paths", "it would load code into the bridge"),
    ("statistics.interval.ms", "the bridge's own metrics need it"),
    ("log_level", "write `[log]`"),
    ("debug", "it may write secrets into the log; `[log]` says how much is logged"),
    ("log.queue", "the bridge writes the log"),
    ("log.thread.name", "the bridge writes the log"),
    ("enabled_events", "the bridge needs them all"),
    ("https.", "librdkafka fetches nothing here"),
];

/// Reads `options`.
pub(super) fn options(table: &mut Table<'_>) -> Field<Vec<Located<(String, String)>>> {
    table.table("options", "options").then(|table| {
        let mut table = table.value;
        let ledger = table.ledger;
        // All are read before one that is bad spoils them, so that all are reported.
        let all: Vec<_> =
            table.rest(Form::Scalar).into_iter().map(|entry| property(ledger, entry)).collect();
        all.into_iter().collect()
    })
}

fn property<'a>(ledger: &'a Ledger<'a>, entry: Entry<'a>) -> Option<Located<(String, String)>> {
    let Entry { key, key_span, value } = entry;
    let refused = match value.get_ref() {
        // One without quotes is a table in a table to TOML.
        DeValue::Table(inner) if !inner.contains_key("env") => Some((
            Kind::WrongType,
            "is no property of librdkafka",
            "write the name in quotes: `\"client.rack\" = \"a\"`",
        )),
        _ => managed(key).map(|why| (Kind::Impossible, "is managed by the bridge", why)),
    };
    if let Some((kind, problem, hint)) = refused {
        let message = format!("{} {problem}", ledger.quoted(&key_span, key));
        return ledger.refuse(Problem::new(kind, Some(key_span), message).help(hint));
    }
    let shown = ledger.visible(&key_span, key);
    let text = match value.get_ref() {
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        DeValue::String(_) | DeValue::Table(_) => ledger.string(shown, value)?.value.value,
        other => {
            let wanted = "a string, a whole number or `true` or `false`";
            return ledger.wrong_type(shown, value.span(), wanted, other);
        }
    };
    // librdkafka has 32 bits for each, and takes what is larger for another number.
    let is_large = || text.parse::<i128>().is_ok_and(|number| i32::try_from(number).is_err());
    if matches!(value.get_ref(), DeValue::Integer(_)) && is_large() {
        let message = format!("{shown} is a number that librdkafka can't hold");
        let problem = Problem::new(Kind::BadValue, Some(value.span()), message);
        return ledger.refuse(problem.help("its numbers are at most 2147483647"));
    }
    Some(Located { value: (key.to_owned(), text), span: value.span() })
}

/// Why a property is not to be given, if it isn't.
fn managed(property: &str) -> Option<&'static str> {
    let is = |(name, _): &&(&str, &str)| {
        let below = name.ends_with(['.', '_']) && property.starts_with(name);
        *name == property || below
    };
    MANAGED.iter().find(is).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given here is not remembered as a secret, and may be shown in errors of librdkafka.
    #[test]
    fn no_secret_can_be_given() {
        // Those that librdkafka marks as sensitive, their aliases, and what else tells who we are.
        for property in [
            "sasl.username",
            "sasl.password",
            "sasl.jaas.config",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.file",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.assertion.file",
            "sasl.kerberos.kinit.cmd",
            "ssl.key.location",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.location",
            "ssl.keystore.password",
            "ssl.certificate.pem",
            "ssl.ca.pem",
            "ssl_key",
            "ssl_certificate",
            "ssl_ca",
            "ssl_engine_callback_data",
        ] {
            assert!(managed(property).is_some(), "{property}");
        }
        for property in ["client.rack", "fetch.wait.max.ms", "ssl.cipher.suites"] {
            assert_eq!(managed(property), None, "{property}");
        }
    }
}
