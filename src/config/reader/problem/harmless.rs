//! The values that may be shown: judged by their place *and* by their form.
//!
//! A value not known to be harmless is covered. A key for a duration may hold a password by mistake, and an
//! unknown key may hold one: so a value is shown only under a key of this list, and only if its form fits
//! that key.

use super::words::{is_word, looks_issued, without_names};
use crate::config::reader::synonyms;

/// The form of a key's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A word of a few that are known: `"mqtt"`.
    Word,
    /// `true`, `10`, `"30s"`, `"64MiB"`.
    Number,
    /// `"appsync-bridge"`.
    Name,
    /// `"plant/+/telemetry"`, `"/orders/{json.id}"`, `"^orders\\..*"`.
    Pattern,
    /// `"/etc/ssl/ca.pem"`.
    Path,
    /// `"https://host:8443/event"`, `"kafka-1:9092"`.
    Address,
    /// `"arn:aws:iam::111122223333:role/NAME"`.
    Arn,
    /// `"MQTT_PASSWORD"`.
    Variable,
    /// `"mqtt-password"`.
    Credential,
    /// One of [`AUTHS`]: anything else there may be a key.
    Auth,
}

const KEYS: &[(Shape, &[&str])] = &[
    (
        Shape::Word,
        &[
            "type",
            "mechanism",
            "format",
            "level",
            "event",
            "decode",
            "protocol",
            "start",
            "tombstones",
            "unrouted",
            "after_outage",
            "retained",
            "deliver",
            "consumers",
            "unwrap",
            "unchanged",
        ],
    ),
    (
        Shape::Number,
        &[
            "version",
            "qos",
            "tls",
            "http2",
            "tls_first",
            "strict_order",
            "dangerously_plaintext",
            "max_in_flight",
            "max_in_flight_bytes",
            "timeout",
            "max_rate",
            "max_concurrency",
            "linger",
            "connection_max_age",
            "session_timeout",
            "drain_timeout",
            "session_expiry",
            "keep_alive",
            "max_packet_size",
            "grace",
            "max_size",
            "max_files",
            "give_up_after",
            "ack_wait",
            "wait_time",
            "visibility_timeout",
            "receivers",
            "max_age",
            "every",
            "per_million",
            "unit",
            "metrics",
            "traces",
            "sample",
            "interval",
        ],
    ),
    (
        Shape::Name,
        &[
            "from",
            "api",
            "source",
            "dead_letter",
            "group",
            "group_instance_id",
            "client_id",
            "username",
            "user",
            "region",
            "profile",
            "stream",
            "durable",
            "share",
            "currency",
        ],
    ),
    (
        Shape::Pattern,
        &[
            "topic",
            "topics",
            "subscriptions",
            "filter",
            "subjects",
            "subject",
            "channel",
            "order_by",
            "scope",
        ],
    ),
    (Shape::Path, &["ca_file", "cert_file", "key_file", "creds_file", "path", "file"]),
    (Shape::Address, &["endpoint", "url", "token_url", "servers", "queue", "brokers", "listen"]),
    (Shape::Arn, &["role_arn"]),
    (Shape::Variable, &["env"]),
    (Shape::Credential, &["credential"]),
    (Shape::Auth, &["auth"]),
];

/// Keys that are known and whose values are covered, or tables.
const OTHERS: &[&str] = &[
    "password",
    "key",
    "token",
    "nkey",
    "client_secret",
    "external_id",
    "default",
    "sasl",
    "aws",
    "options",
    "jq",
    "conflate",
    "payload",
    "expect",
    "schema",
    "registry",
    "headers",
];

/// The first word of every header.
const SECTIONS: &[&str] =
    &["api", "source", "route", "dead_letter", "admin", "log", "otlp", "shutdown", "cost", "test"];

const AUTHS: &[&str] =
    &["iam", "api-key", "api_key", "token", "oauth2", "cognito", "oidc", "lambda"];

/// A table whose keys are the operator's, and whose values are secrets.
const HEADERS: &str = "headers";

/// What stands where a secret is expected, and tells only where the secret is.
const REFERENCES: &[&str] = &["env", "file", "credential"];

/// Whether a key, with those of the tables it is in, may show the value that was written.
pub(crate) fn value(path: &[&str], text: &str) -> bool {
    text.is_empty() || (shape(path).is_some_and(|shape| fits(shape, text)) && !betrays(text))
}

/// Whether a key or a name may be shown, below those in `path`.
pub(crate) fn key(path: &[&str], text: &str) -> bool {
    let places: Vec<_> = REFERENCES.iter().copied().chain(["default"]).collect();
    // In the table of a secret there is nothing but these; what else is written may be the secret.
    (!secret_above(path) || synonyms::meant("secret", text, &places).is_some())
        // A property of librdkafka has no keys, but for the name of a variable.
        && (text == "env" || path.iter().skip(2).rev().skip(1).all(|above| *above != "options"))
        && text.len() <= 64
        && plain(text, " -_.")
        && !betrays(text)
}

/// Whether it is a word of a configuration.
pub(crate) fn is_known(word: &str) -> bool {
    let keys = KEYS.iter().flat_map(|(_, keys)| keys.iter());
    keys.chain(OTHERS).chain(SECTIONS).any(|known| *known == word)
}

/// Whether a header begins so.
pub(crate) fn is_section(word: &str) -> bool {
    SECTIONS.contains(&word)
}

/// Whether a key of this name holds a secret in most programs.
pub(crate) fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let path = ["file", "path", "url"].iter().any(|end| key.ends_with(end));
    let secret = ["pass", "pwd", "secret", "token", "cred", "key"];
    !path && secret.iter().any(|part| key.contains(part))
}

/// Whether a text looks like a secret wherever it stands: a known kind of key, user info, or what no person
/// would type.
pub(crate) fn betrays(text: &str) -> bool {
    looks_issued(text)
        || text.contains("-----")
        || text.contains('@')
        || runs(&without_names(text))
            .any(|run| run.len() >= 20 && !is_word(run) && !text.contains(".amazonaws.com"))
}

fn shape(path: &[&str]) -> Option<Shape> {
    let (last, above) = path.split_last()?;
    if *last == "default" {
        return shape(above);
    }
    if (secret_above(above) || above.last() == Some(&HEADERS)) && !REFERENCES.contains(last) {
        return None;
    }
    // Properties of librdkafka: any may be a secret, but for a time and a size.
    if above.contains(&"options") && *last != "env" {
        return matches!(last.rsplit('.').next(), Some("ms" | "bytes")).then_some(Shape::Number);
    }
    KEYS.iter().find(|(_, keys)| keys.contains(last)).map(|(shape, _)| *shape)
}

/// The name of a table may be anything; it is the second of a path.
fn secret_above(path: &[&str]) -> bool {
    path.iter().enumerate().any(|(at, key)| {
        let name = at == 1 && is_section(path[0]);
        !name && (looks_secret(key) || at > 0 && path[at - 1] == HEADERS)
    })
}

fn fits(shape: Shape, text: &str) -> bool {
    // What has the wrong type is mostly one of these.
    if shape != Shape::Auth && text.len() <= 5 && is_number(text) {
        return true;
    }
    match shape {
        Shape::Word => text.len() <= 16 && plain(text, "-_") && !text.contains(char::is_uppercase),
        Shape::Number => is_number(text),
        Shape::Name => text.len() <= 64 && plain(text, "-_."),
        Shape::Pattern => {
            text.len() <= 256 && plain(&without_names(text), " -_./+#*{}$^|()[]\\?,:<>")
        }
        Shape::Path => is_path(text),
        Shape::Address => text.split(',').all(|one| is_address(one.trim())),
        Shape::Arn => plain(text, if text.starts_with("arn:") { "-_./:" } else { "-_" }),
        Shape::Variable => {
            let case = text.contains('_') || !text.contains(char::is_lowercase);
            case && text.len() <= 64
                && !text.starts_with(|c: char| c.is_ascii_digit())
                && plain(text, "_")
        }
        Shape::Credential => {
            let name =
                text.contains(['-', '_', '.']) || !text.contains(|c: char| c.is_ascii_digit());
            name && text.len() <= 64 && plain(text, "-_.")
        }
        Shape::Auth => AUTHS.contains(&text),
    }
}

fn is_number(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || "+-_.".contains(c));
    let digits = text.len() - unit.len();
    let unit = unit.trim_start_matches(' ');
    let unit_like = unit.len() <= 12 && unit.chars().all(|c| c.is_ascii_alphabetic());
    ["true", "false", "yes", "no", "on", "off", "none", "auto"].contains(&text)
        || ((1..=12).contains(&digits) && unit_like)
}

fn is_path(text: &str) -> bool {
    let rooted = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
    // A name that a machine made up is short, and stands among others.
    let part =
        |part: &str| plain(part, " -_.~") || (rooted && part.len() <= 12 && marks(part, "-_."));
    text.contains(['/', '.']) && text.len() <= 256 && text.split('/').all(part)
}

/// `host`, `host:port` or a URL, with nothing in it that could be a password.
fn is_address(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").map_or((None, text), |(s, rest)| (Some(s), rest));
    if scheme
        .is_some_and(|s| s.len() > 10 || !s.chars().all(|c| c.is_ascii_alphanumeric() || c == '+'))
    {
        return false;
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port))
            if host.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.') =>
        {
            (None, port.strip_prefix(':'))
        }
        Some(_) => return false,
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), None),
        },
    };
    // What Amazon calls its hosts no person would type.
    let amazon =
        host.is_some_and(|h| h.ends_with(".amazonaws.com") || h.ends_with(".amazonaws.com.cn"));
    let host_like = host.is_none_or(|host| {
        let certain = scheme.is_some() || port.is_some() || host.contains(['.', '-']);
        let label =
            |label: &str| plain(label, "-_") || (amazon && label.len() <= 26 && marks(label, "-"));
        (certain || !host.contains(|c: char| c.is_ascii_digit())) && host.split('.').all(label)
    });
    host_like
        && port.is_none_or(|port| port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit()))
        && plain(path, "-_./~")
}

/// Whether a text is of words, parted by these characters.
fn plain(text: &str, between: &str) -> bool {
    marks(text, between) && runs(text).all(is_word)
}

fn marks(text: &str, between: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || between.contains(c))
}

fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::de::{DeTable, DeValue};

    use super::*;

    /// The readers are held to the lists here when they ask for a key; what is shown of an example, here.
    #[test]
    fn every_key_of_the_examples_is_known_and_its_value_is_shown() {
        let mut seen = BTreeSet::new();
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let mut header = "";
            for line in text.lines() {
                // `#key = value` is an example, too; `# Words` are none.
                let key = |text: &&str| text.starts_with(|c: char| c.is_ascii_lowercase());
                let written = |line: &&str| key(line) || line.starts_with('[');
                let line = line.strip_prefix('#').filter(written).unwrap_or(line);
                if line.starts_with('[') {
                    header = line;
                } else if key(&line) {
                    let text = format!("{header}\n{line}");
                    let table = DeTable::parse(&text).unwrap_or_else(|e| panic!("{line}: {e}"));
                    look(&[], &DeValue::Table(table.into_inner()), &mut seen);
                }
            }
        }
        assert!(seen.len() > 70, "{}: {seen:?}", seen.len());
    }

    fn look(path: &[&str], found: &DeValue<'_>, seen: &mut BTreeSet<String>) {
        let shown = |text: &str| {
            let covered = match path {
                [.., "options", _] => true,
                [.., key] => OTHERS.contains(key),
                [] => false,
            };
            assert!(covered || value(path, text), "{} = {text}", path.join("."));
        };
        match found {
            DeValue::Table(table) => {
                for (key, value) in table {
                    let path = [path, &[&**key.get_ref()]].concat();
                    let known = match &path[..] {
                        [section] => is_section(section),
                        [_, _] if matches!(value.get_ref(), DeValue::Table(_)) => true,
                        [.., "options" | HEADERS, _] => true,
                        [.., key] => is_known(key),
                        [] => false,
                    };
                    assert!(known, "{} is an example, and not known here", path.join("."));
                    seen.insert(path.join("."));
                    look(&path, value.get_ref(), seen);
                }
            }
            DeValue::Array(list) => list.iter().for_each(|one| look(path, one.get_ref(), seen)),
            DeValue::String(text) => shown(text),
            DeValue::Integer(number) => shown(number.as_str()),
            DeValue::Float(number) => shown(number.as_str()),
            DeValue::Boolean(yes) => shown(&yes.to_string()),
            DeValue::Datetime(_) => panic!("{path:?} is of a type that no key has"),
        }
    }

    #[test]
    fn what_is_known_and_looks_as_it_should_is_shown() {
        for (key, text) in [
            ("type", "mqt"),
            ("level", "verbose"),
            ("timeout", "10 seconds"),
            ("max_rate", "10_000"),
            ("tls", "yes"),
            ("client_id", "bridge-0"),
            ("topic", "plant/{site}/line-{line}/*"),
            ("topics", "^orders\\\\.v2\\\\..*"),
            ("channel", "/orders/{json.customer.id|default:eu}"),
            ("channel", "/cars/{json.carVIN}/{json.orderFulfillmentCenterId}"),
            ("ca_file", "/etc/ssl/certs/ca-certificates.crt"),
            ("ca_file", "/tmp/.tmpQ1xYz7/ca.pem"),
            (
                "endpoint",
                "https://abcdefghijklmnopqrstuvwx12.appsync-api.eu-west-1.amazonaws.com/event",
            ),
            ("endpoint", "http://[::1]:8080/event"),
            ("url", "mqtts://broker.example:8883"),
            ("brokers", "kafka-1:9092"),
            ("listen", "127.0.0.1:9464"),
            ("role_arn", "arn:aws:iam::111122223333:role/bridge"),
            ("auth", "iam"),
        ] {
            assert!(value(&["source", "password", key], text), "{key} = {text}");
        }
        for (key, text) in [
            ("env", "MQTT_PASSWORD"),
            ("file", "/run/secrets/mqtt"),
            ("credential", "mqtt-password"),
        ] {
            assert!(value(&["source", "x", "password", key], text), "{key} = {text}");
        }
    }

    #[test]
    fn all_else_is_covered() {
        for (key, text) in [
            ("password", "x"),
            ("paswd", "x"),
            ("auth", "hunter2"),
            ("timeout", "hunter2"),
            ("type", "Hunter2Hunter2"),
            ("url", "mqtts:u:hunter2@b"),
            ("url", "u:hunter2"),
            ("url", "hunter2"),
            ("endpoint", "https://u:pa/hunter2@h/event"),
            ("endpoint", "https://h/event?key=hunter2"),
            ("endpoint", "da2-abcdefghijklmnopqrstuvwxyz"),
            ("brokers", "u:hunter2@b:9092"),
            ("key_file", "-----BEGIN PRIVATE KEY-----"),
            ("key_file", "MC4CAQAwBQYDK2VwBCIEIK7MDENG"),
            ("key_file", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            ("client_id", "9f86d081884c7d659a2feaa0c55ad015"),
            ("username", "AKIAIOSFODNN7EXAMPLE"),
            ("topic", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
            ("topic", "plant/{wJalrXUtnFEMIbPxRfi}"),
            ("env", "hunter2"),
            ("file", "hunter2"),
            ("credential", "hunter2"),
        ] {
            assert!(!value(&["source", "x", key], text), "{key} = {text}");
        }
        assert!(!value(&["source", "x", "password", "url"], "mqtt://h"));
        assert!(!value(&["source", "x", "options", "topic"], "a"));
        let property = ["source", "x", "options", "client.rack"];
        let variable = ["source", "x", "options", "client.rack", "env"];
        assert!(key(&property, "env") && !key(&property, "hunter2"));
        assert!(value(&variable, "AZ") && !value(&variable, "hunter2"));
        assert!(
            key(&["source", "x", "password"], "evn")
                && !key(&["source", "x", "password"], "hunter2")
        );
    }
}
